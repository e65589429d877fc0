//! `probe` against a real server with scripted answers.

use std::collections::VecDeque;
use std::fs::File;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::*;
use crate::protocol::{BuildId, FileName, StatusForm, Verdicts, render_status};
use crate::server::{Access, Handler, Limits, Request, Response, Server, StopHandle};
use crate::server::{Route, route, serve_file};
use crate::xmlrpc::{Fault, parse_call, render_fault, render_response};

const SHA1: &str = "a9993e364706816aba3e25717850c26c9cd0d89d";
const NO_TIME: Duration = Duration::from_millis(1);

/// The next status of the slave, and its log at that time.
type Scene = (StatusRecord, Option<&'static [u8]>);

#[derive(Default)]
struct Script {
    /// Each `status` call moves to the next scene; the last one stays.
    scenes: VecDeque<Scene>,
    log: Option<&'static [u8]>,
    /// The only file of the cache, named [`SHA1`] regardless of its content.
    file: &'static [u8],
    seen: Vec<String>,
}

#[derive(Clone, Default)]
struct Slave(Arc<Mutex<Script>>);

impl Slave {
    fn answer(&self, request: &Request) -> Vec<u8> {
        let call = parse_call(&request.body).unwrap();
        let mut script = self.0.lock().unwrap();
        let value = match call.name.as_str() {
            "status" => {
                let scene = match script.scenes.len() {
                    1 => script.scenes[0].clone(),
                    _ => script.scenes.pop_front().unwrap(),
                };
                script.log = scene.1;
                render_status(&scene.0, StatusForm::Tuple, Verdicts::Exact, None)
            }
            "echo" => Value::Array(call.params),
            "ensurepresent" => {
                drop(script);
                let [Value::String(sha1), Value::String(url), ..] = call.params.as_slice() else {
                    panic!("{:?}", call.params)
                };
                self.download(sha1, url)
            }
            _ => {
                let string = "error: not while IDLE".to_owned();
                return render_fault(&Fault { code: 8002, string });
            }
        };
        render_response(&value).unwrap()
    }

    /// Downloads the file; refuses an empty one.
    fn download(&self, sha1: &str, url: &str) -> Value {
        let mut body = ureq::get(url).call().unwrap().into_body();
        let text = body.read_to_string().unwrap();
        let good = !text.is_empty();
        self.0.lock().unwrap().seen.push(format!("{sha1} {text}"));
        let word = if good {
            "Download"
        } else {
            "Digests did not match"
        };
        Value::Array(vec![Value::Bool(good), word.into()])
    }

    fn file(&self, request: &Request, bytes: &[u8]) -> Response {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let range = request.header("Range").unwrap_or("whole").to_owned();
        self.0.lock().unwrap().seen.push(range);
        let time = std::time::UNIX_EPOCH;
        serve_file(request, file, bytes.len() as u64, "text/plain", time)
    }
}

impl Handler for Slave {
    fn handle(&self, request: &Request) -> Response {
        let (log, file) = {
            let script = self.0.lock().unwrap();
            (script.log, script.file)
        };
        match route(&request.method, &request.path) {
            Route::Rpc => Response::bytes(200, "text/xml", self.answer(request)),
            Route::File("buildlog") if log.is_some() => self.file(request, log.unwrap()),
            Route::File(SHA1) => self.file(request, file),
            _ => Response::text(404, "not found"),
        }
    }
}

struct Running {
    slave: Slave,
    address: SocketAddr,
    client: Client,
    stop: StopHandle,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn new(script: Script) -> Self {
        Self::guarded(script, None)
    }

    fn guarded(script: Script, credentials: Option<(String, String)>) -> Self {
        let limits = Limits {
            connections: 4,
            connections_per_peer: 4,
            ..Limits::default()
        };
        let access = Access {
            credentials,
            ..Access::default()
        };
        let server = Server::bind("127.0.0.1:0", limits, access).unwrap();
        let address = server.local_addr().unwrap();
        let slave = Slave(Arc::new(Mutex::new(script)));
        let stop = server.stop_handle();
        let handler = slave.clone();
        let thread = thread::spawn(move || server.run(Arc::new(handler)).unwrap());
        Self {
            slave,
            address,
            client: Client::new(
                &SlaveUrl::parse(&address.to_string()).unwrap(),
                Timeouts::INTERACTIVE,
            ),
            stop,
            thread: Some(thread),
        }
    }

    fn seen(&self) -> Vec<String> {
        self.slave.0.lock().unwrap().seen.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn id(text: &str) -> BuildId {
    BuildId::parse(text).unwrap()
}

fn building(text: &str) -> StatusRecord {
    StatusRecord::Building {
        id: id(text),
        logtail: Vec::new(),
    }
}

fn waiting(text: &str, status: BuildStatus) -> StatusRecord {
    StatusRecord::Waiting {
        id: id(text),
        status,
        files: vec![(
            FileName::parse("a.deb").unwrap(),
            Sha1Hex::parse(SHA1).unwrap(),
        )],
        dependencies: String::new(),
    }
}

fn scenes<const N: usize>(scenes: [Scene; N]) -> Script {
    Script {
        scenes: scenes.into(),
        ..Script::default()
    }
}

fn followed(running: &Running) -> Result<String, Error> {
    let mut out = Vec::new();
    log(&running.client, true, &mut out, NO_TIME)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn an_argument_is_json_or_a_string() {
    for (word, value) in [
        ("true", Value::Bool(true)),
        ("null", Value::Nil),
        ("[1]", Value::Array(vec![Value::Int(1)])),
        ("\"x\"", Value::from("x")),
        ("\"8\"", Value::from("8")),
        ("x", Value::from("x")),
        ("8-1", Value::from("8-1")),
        ("", Value::from("")),
        ("{\"base64\":\"AA==\"}", Value::Base64(vec![0])),
    ] {
        assert_eq!(parse_word(word), Ok(value), "{word}");
    }
    let decimal = "1".repeat(40);
    assert_eq!(parse_word(&decimal), Ok(Value::from(decimal.as_str())));
    assert!(parse_word("{\"base64\":\"!\"}").is_err());
}

#[test]
fn an_answer_is_printed_as_json_and_a_fault_is_an_error() {
    let running = Running::new(Script::default());
    let mut out = Vec::new();
    let words = ["echo", "{\"a\":[1,null]}", "x"].map(OsString::from);
    call(&running.client, &words, &mut out).unwrap();
    assert_eq!(out, b"[{\"a\":[1,null]},\"x\"]\n");

    let error = call(&running.client, &["abort".into()], &mut out).unwrap_err();
    let shown = error.to_string();
    assert_eq!(shown, "abort: fault 8002: error: not while IDLE");
}

#[test]
fn credentials_in_the_url_are_sent_and_missing_ones_are_an_error() {
    let credentials = Some(("me".to_owned(), "p@ss".to_owned()));
    let running = Running::guarded(scenes([(StatusRecord::Idle, None)]), credentials);
    let url = format!("http://me:p%40ss@{}", running.address);
    let client = Client::new(&SlaveUrl::parse(&url).unwrap(), Timeouts::INTERACTIVE);
    assert!(client.call("status", &[]).is_ok());
    let refused = running.client.call("status", &[]).unwrap_err().to_string();
    assert!(refused.contains("401 Unauthorized: give "), "{refused}");
}

#[test]
fn following_requests_only_new_bytes_and_stops_with_the_build() {
    let running = Running::new(scenes([
        (building("1"), None),
        (building("1"), Some(b"one\n")),
        (building("1"), Some(b"one\n")),
        (StatusRecord::Aborting { id: id("1") }, Some(b"one\ntwo")),
        (waiting("1", BuildStatus::Aborted), Some(b"one\ntwo\nend")),
    ]));
    assert_eq!(followed(&running).unwrap(), "one\ntwo\nend");
    let ranges = ["whole", "bytes=4-", "bytes=4-", "bytes=7-"];
    assert_eq!(running.seen(), ranges);
}

#[test]
fn following_ends_when_the_build_is_cleaned() {
    let log_text: Option<&[u8]> = Some(b"first");
    for next in [StatusRecord::Idle, building("2")] {
        let running = Running::new(scenes([
            (building("1"), log_text),
            (next, Some(b"second build")),
        ]));
        assert_eq!(followed(&running).unwrap(), "first");
    }
    let idle = Running::new(scenes([(StatusRecord::Idle, None)]));
    for follow in [true, false] {
        let printed = log(&idle.client, follow, &mut Vec::new(), NO_TIME);
        assert!(matches!(printed, Err(Error::Log(LogError::None))));
    }
}

#[test]
fn a_restarting_slave_is_retried() {
    let stopped = Running::new(Script::default()).address;
    let client = Client::new(
        &SlaveUrl::parse(&stopped.to_string()).unwrap(),
        Timeouts::INTERACTIVE,
    );
    let running = Running::new(scenes([(StatusRecord::Idle, None)]));
    let mut asked = 0;
    let answer = retry_transient(NO_TIME, client::Error::is_transient, || {
        asked += 1;
        let client = if asked < 3 { &client } else { &running.client };
        client.call("status", &[])
    });
    assert!(answer.is_ok() && asked == 3);
    let refused = client.call("status", &[]).unwrap_err().to_string();
    assert!(refused.contains(&stopped.to_string()), "{refused}");
    assert!(
        refused.contains("is `buildd-slave serve` running"),
        "{refused}"
    );
}

#[test]
fn waiting_prints_the_last_status_and_fails_unless_ok() {
    for (status, good) in [(BuildStatus::Ok, true), (BuildStatus::DepFail, false)] {
        let running = Running::new(scenes([
            (building("1"), None),
            (building("1"), None),
            (waiting("1", status), None),
        ]));
        let mut out = Vec::new();
        assert_eq!(wait(&running.client, &mut out, NO_TIME).unwrap(), good);
        let out = String::from_utf8(out).unwrap();
        assert!(
            out.contains(status.wire()) && out.lines().count() == 1,
            "{out}"
        );
    }
    let idle = Running::new(scenes([(StatusRecord::Idle, None)]));
    assert!(!wait(&idle.client, &mut Vec::new(), NO_TIME).unwrap());
}

#[test]
fn a_damaged_download_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("file");
    let sha1 = Sha1Hex::parse(SHA1).unwrap();
    for (bytes, right) in [(&b"abc"[..], true), (b"abd", false), (b"", false)] {
        let running = Running::new(Script {
            file: bytes,
            ..Script::default()
        });
        let fetched = fetch::fetch(&running.client, &sha1, Some(&dest), &mut Vec::new());
        assert_eq!(fetched.is_ok(), right);
        let names = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(names, usize::from(right));
        if right {
            assert_eq!(std::fs::read(&dest).unwrap(), b"abc");
            std::fs::remove_file(&dest).unwrap();
        }
        let mut out = Vec::new();
        let piped = fetch::fetch(&running.client, &sha1, None, &mut out);
        assert_eq!((piped.is_ok(), out.as_slice()), (right, bytes));
    }
}

#[test]
fn the_error_for_an_absent_file_has_its_url() {
    let running = Running::new(Script::default());
    let sha1 = Sha1Hex::parse(&"0".repeat(40)).unwrap();
    let error = fetch::fetch(&running.client, &sha1, None, &mut Vec::new()).unwrap_err();
    let shown = error.to_string();
    assert!(
        shown.contains(sha1.as_str()) && shown.contains("404"),
        "{shown}"
    );
}

#[test]
fn sent_files_are_served_to_the_slave_and_refusals_are_reported() {
    let running = Running::new(Script::default());
    let dir = tempfile::tempdir().unwrap();
    let (good, bad) = (dir.path().join("good.dsc"), dir.path().join("bad"));
    std::fs::write(&good, "abc").unwrap();
    File::create(&bad).unwrap();
    let send = |files: &[PathBuf], out: &mut Vec<u8>| {
        send::send(&running.client, &running.address.to_string(), files, out)
    };
    let mut out = Vec::new();
    assert!(send(std::slice::from_ref(&good), &mut out).unwrap());
    assert_eq!(out, format!("{SHA1}  good.dsc  Download\n").into_bytes());
    assert!(!send(&[bad, good], &mut out).unwrap());
    assert_eq!(running.seen()[0], format!("{SHA1} abc"));
    assert_eq!(running.seen().len(), 3);

    let missing = send(&[dir.path().join("missing")], &mut out).unwrap_err();
    assert!(missing.to_string().contains("missing: No such file"));
}
