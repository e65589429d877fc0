//! The calls and answers of docs/wire.md §1, in both forms of `status`.
//!
//! The numbers in test names are those of docs/wire.md §8. Vectors 18 to 24 are in `http`,
//! `lifecycle`, `fetch`, `abort` and `results`.

use serde_json::{Value as Json, json};

use crate::support::{Daemon, Fault, FileServer, sha1};

const DICT: &str = "statusform = dict";
/// SHA-1 of `Hello World`.
const HELLO: &str = "0a4d55a8d778e5022fab701977c5d840bbc486d0";
/// A hash that no file has.
const ABSENT: &str = "00000000000000000000000000000000000000ff";

fn fault(daemon: &Daemon, method: &str, params: &[Json]) -> Fault {
    daemon.call(method, params).unwrap_err()
}

#[test]
fn v1_v2_echo_returns_any_values() {
    let daemon = Daemon::start("");
    assert_eq!(daemon.ok("echo", &[]), json!([]));
    let values = json!([
        "Hello World",
        "<&>\u{e9}\u{1f427} ",
        "",
        42,
        -7,
        1.5,
        true,
        false,
        null,
        [],
        [1, ["a", {}]],
        {"key": {"deep": [null]}, "other": ""},
        {"base64": "/wAB"},
    ]);
    assert_eq!(daemon.ok("echo", values.as_array().unwrap()), values);
}

#[test]
fn v3_v4_an_idle_slave_in_the_tuple_form() {
    let daemon = Daemon::start("");
    assert_eq!(daemon.ok("info", &[]), json!(["1.0", "i386", ["debian"]]));
    assert_eq!(daemon.ok("status", &[]), json!(["BuilderStatus.IDLE", ""]));
}

#[test]
fn info_names_emulated_architectures_among_the_build_types() {
    // Launchpad's masters take three items and ignore the third.
    let daemon = Daemon::start("emulate = arm64 riscv64");
    let types = json!(["debian", "emulate:arm64", "emulate:riscv64"]);
    assert_eq!(daemon.ok("info", &[]), json!(["1.0", "i386", types]));
}

#[test]
fn v3_v4_an_idle_slave_in_the_dict_form() {
    let daemon = Daemon::start(DICT);
    let info = daemon.ok("info", &[]);
    assert_eq!(info, json!(["1.0", "i386", ["binarypackage"]]));
    let status = daemon.ok("status", &[]);
    assert_eq!(status["builder_status"], "BuilderStatus.IDLE");
    let version = status["builder_version"].as_str().expect("a version");
    assert!(
        version.starts_with(|c: char| c.is_ascii_digit()),
        "{version}"
    );
    assert_eq!(status.as_object().unwrap().len(), 2);
}

#[test]
fn status_dict_is_served_in_either_form() {
    let (tuple, dict) = (Daemon::start(""), Daemon::start(DICT));
    let status = tuple.ok("status_dict", &[]);
    assert_eq!(status, dict.ok("status_dict", &[]));
    assert_eq!(status, dict.ok("status", &[]));
}

#[test]
fn v5_to_v9_ensurepresent_fetches_a_file_once() {
    let daemon = Daemon::start("");
    let files = FileServer::start(|head, stream| match head.split(' ').nth(1) {
        Some("/hello") => crate::support::send(stream, "200 OK", b"Hello World"),
        _ => crate::support::send(stream, "404 Not Found", b"no such file"),
    });
    let url = json!(files.url("hello"));
    let ensure = |sum: &str, url: &Json| {
        daemon.ok(
            "ensurepresent",
            &[json!(sum), url.clone(), json!(""), json!("")],
        )
    };
    assert_eq!(ensure(HELLO, &Json::Null), json!([false, "No URL"]));
    assert_eq!(ensure(HELLO, &url), json!([true, "Download"]));
    assert_eq!(ensure(HELLO, &url), json!([true, "Cache"]));
    assert_eq!(ensure(HELLO, &json!("")), json!([true, "Cache"]));
    assert_eq!(ensure(HELLO, &Json::Null), json!([true, "No URL"]));
    assert_eq!(files.heads().len(), 1, "a cached file is not fetched again");

    let file = daemon.get(&format!("/filecache/{HELLO}"));
    assert_eq!((file.status, file.text().as_str()), (200, "Hello World"));

    let before = daemon.names("home/filecache");
    let wrong = json!([false, "Digests did not match, removing again!"]);
    assert_eq!(ensure(ABSENT, &url), wrong);
    for url in [json!(files.url("nothing")), json!("")] {
        let answer = ensure(ABSENT, &url);
        assert_eq!(answer[0], false);
        let info = answer[1].as_str().unwrap();
        assert!(info.starts_with("Error accessing Librarian: "), "{info}");
    }
    assert_eq!(daemon.names("home/filecache"), before);
}

#[test]
fn a_file_that_is_only_asked_for_is_answered_as_by_the_reference() {
    let daemon = Daemon::start("");
    let upper = HELLO.to_uppercase();
    for sum in ["blahblah", "", "../x", "buildlog", upper.as_str(), HELLO] {
        let params = [json!(sum), Json::Null, Json::Null, Json::Null];
        let answer = daemon.ok("ensurepresent", &params);
        assert_eq!(answer, json!([false, "No URL"]), "{sum}");
    }
}

#[test]
fn build_answers_an_unknown_type_or_chroot_before_it_looks_further() {
    let daemon = Daemon::start("");
    let nil = Json::Null;
    let build = |kind: &str, chroot: Json| {
        let params = [nil.clone(), json!(kind), chroot, nil.clone(), nil.clone()];
        daemon.ok("build", &params)[0].clone()
    };
    assert_eq!(build("nosuch", json!(1)), "BuilderStatus.UNKNOWNBUILDER");
    let absent = build("debian", json!(ABSENT));
    assert_eq!(absent, "BuilderStatus.UNKNOWNSUM");
}

#[test]
fn v10_v11_unknown_builders_and_hashes_are_answered_without_a_fault() {
    for form in ["", DICT] {
        let daemon = Daemon::start(form);
        let build = |number: usize, value: Json| {
            let mut parameters = daemon.parameters("b1", json!({}));
            parameters[number] = value;
            let answer = daemon.ok("build", &parameters);
            let word = answer[0].as_str().unwrap().to_owned();
            (word, answer[1].as_str().unwrap().to_owned())
        };
        let (word, text) = build(1, json!("nosuch"));
        assert_eq!(word, "BuilderStatus.UNKNOWNBUILDER");
        assert!(text.starts_with("nosuch not in ["), "{text}");

        for (number, value, start) in [
            (2, json!(ABSENT), format!("CHROOTSUM -> {ABSENT}\n")),
            (2, json!("../x"), "CHROOTSUM -> ../x\n".to_owned()),
            (
                3,
                json!({"a.dsc": ABSENT}),
                format!("FILESUM -> {ABSENT}\n"),
            ),
        ] {
            let (word, text) = build(number, value);
            assert_eq!(word, "BuilderStatus.UNKNOWNSUM");
            assert!(text.starts_with(&start), "{text}");
            let lines: Vec<&str> = text.lines().skip(1).map(str::trim).collect();
            assert_eq!(lines, ["***** INFO *****", "No URL", "****************"]);
        }
        assert_eq!(daemon.state(), "IDLE");
        assert_eq!(daemon.called(), "");
    }
}

#[test]
fn v12_v13_v17_an_idle_builder_refuses_wrong_calls() {
    for form in ["", DICT] {
        let daemon = Daemon::start(form);
        let id = |id: Json| {
            let mut parameters = daemon.parameters("b1", json!({}));
            parameters[0] = id;
            parameters
        };
        let sum = json!(ABSENT);
        for (method, params) in [
            ("build", id(json!(""))),
            ("build", id(Json::Null)),
            ("build", id(json!(0))),
            ("build", id(json!(8))),
            ("build", vec![]),
            ("build", id(json!("b1"))[..4].to_vec()),
            ("build", [id(json!("b1")), vec![json!(1)]].concat()),
            ("abort", vec![]),
            ("clean", vec![]),
            ("clean", vec![]),
            ("proxy_info", vec![]),
            ("info", vec![json!(1)]),
            ("status", vec![json!(1)]),
            ("status_dict", vec![json!(1)]),
            ("abort", vec![json!(1)]),
            ("clean", vec![json!(1)]),
            ("ensurepresent", vec![]),
            ("ensurepresent", vec![sum.clone(), Json::Null]),
            (
                "ensurepresent",
                vec![json!(1), Json::Null, json!(""), json!("")],
            ),
            ("ensurepresent", vec![sum, json!(1), json!(""), json!("")]),
        ] {
            let reason = daemon.refused(method, &params);
            assert!(reason.starts_with("error"), "{method}{params:?}: {reason}");
            assert_eq!(daemon.state(), "IDLE", "{method}{params:?}");
        }
        assert_eq!(daemon.called(), "");
        assert_eq!(daemon.names("home"), ["filecache", "journal"]);
    }
}

#[test]
fn a_refused_call_names_the_state() {
    let daemon = Daemon::start("");
    for method in ["abort", "clean"] {
        let reason = daemon.refused(method, &[]);
        assert!(reason.contains("IDLE"), "{reason}");
    }
}

#[test]
fn v14_v15_unknown_methods_are_fault_8001() {
    let daemon = Daemon::start("");
    for (method, text) in [
        ("frob", "procedure frob not found"),
        ("", "procedure  not found"),
        ("doyouhave", "procedure doyouhave not found"),
        ("system.listMethods", "no such subHandler system"),
    ] {
        let text = text.to_owned();
        assert_eq!(fault(&daemon, method, &[]), Fault { code: 8001, text });
    }
}

#[test]
fn v16_a_body_that_is_no_call_is_fault_8002() {
    let daemon = Daemon::start("");
    let response = "<?xml version='1.0'?><methodResponse><params/></methodResponse>";
    let entity = "<?xml version='1.0'?><!DOCTYPE x [<!ENTITY e 'x'>]>\
                  <methodCall><methodName>echo</methodName></methodCall>";
    let deep = format!("<methodCall>{}", "<value>".repeat(5000));
    for body in ["<methodCall", "", "Hello", "<a/>", response, entity, &deep] {
        let answer = daemon.post("/rpc", body.as_bytes());
        assert_eq!(answer.status, 200, "{body}");
        let text = answer.text();
        assert!(text.contains("<int>8002</int>"), "{body}: {text}");
        assert!(text.contains("t deserialize input: "), "{body}: {text}");
    }
    assert_eq!(
        daemon.ok("echo", &[json!("still here")]),
        json!(["still here"])
    );
}

#[test]
fn an_answer_that_cannot_be_encoded_is_fault_8002() {
    let daemon = Daemon::start("");
    let body = "<methodCall><methodName>echo</methodName><params><param><value>\
                <i8>4294967296</i8></value></param></params></methodCall>";
    let text = daemon.post("/rpc", body.as_bytes()).text();
    assert!(text.contains("<int>8002</int>"), "{text}");
}

#[test]
fn calls_without_params_and_in_latin_1_are_read() {
    let daemon = Daemon::start("");
    let call = |body: &[u8]| {
        let answer = daemon.post("/rpc", body);
        assert_eq!(answer.status, 200);
        answer.text()
    };
    let without_params = call(b"<methodCall><methodName>info</methodName></methodCall>");
    assert!(without_params.contains("<string>i386</string>"));
    let latin1 = call(
        b"<?xml version='1.0' encoding='ISO-8859-1'?><methodCall><methodName>echo</methodName>\
          <params><param><value>gr\xfcn</value></param></params></methodCall>",
    );
    assert!(latin1.contains("<string>gr\u{fc}n</string>"), "{latin1}");
}

#[test]
fn an_answer_has_the_header_and_first_line_of_the_reference() {
    let daemon = Daemon::start("");
    let body = "<methodCall><methodName>status</methodName></methodCall>";
    let answer = daemon.post("/rpc", body.as_bytes());
    assert!(
        answer
            .header("Content-Type")
            .unwrap()
            .starts_with("text/xml")
    );
    let text = answer.text();
    assert!(text.starts_with("<?xml version='1.0'?>\n"), "{text}");
}

#[test]
fn a_file_copied_into_the_cache_is_present() {
    let daemon = Daemon::start("");
    let sum = daemon.add_file(b"by hand");
    assert_eq!(sum, sha1(b"by hand"));
    let params = [json!(sum), Json::Null, Json::Null, Json::Null];
    assert_eq!(daemon.ok("ensurepresent", &params), json!([true, "No URL"]));
}

#[test]
fn a_name_that_is_no_hash_is_never_present_nor_a_path() {
    let daemon = Daemon::start("");
    let files = FileServer::of(b"Hello World");
    let before = (daemon.names("home"), daemon.names("home/filecache"));
    let upper = HELLO.to_uppercase();
    for sum in [
        "",
        ".",
        "..",
        "../x",
        "/etc/passwd",
        "buildlog",
        "thing",
        &upper,
    ] {
        for url in [Json::Null, json!(files.url("x"))] {
            let params = [json!(sum), url, json!(""), json!("")];
            assert_eq!(daemon.ok("ensurepresent", &params)[0], false, "{sum}");
        }
    }
    let after = (daemon.names("home"), daemon.names("home/filecache"));
    assert_eq!(after, before);
    assert_eq!(files.heads().len(), 0, "nothing is fetched");
}
