//! Tests documents written by Python's `xmlrpc.client`, in both directions, and malformed ones.

use proptest::prelude::*;

use super::{
    Error, Fault, MAX_DEPTH, MAX_DOCUMENT_BYTES, MethodCall, Value, parse_call, parse_response,
    render_call, render_fault, render_response,
};

const EVERY_TYPE: &[u8] = include_bytes!("../../tests/fixtures/xmlrpc/every_type.call.xml");
const NO_PARAMS: &[u8] = include_bytes!("../../tests/fixtures/xmlrpc/no_params.call.xml");
const DOUBLES: &[u8] = include_bytes!("../../tests/fixtures/xmlrpc/doubles.call.xml");
const LATIN1: &[u8] = include_bytes!("../../tests/fixtures/xmlrpc/latin1.call.xml");
const RESPONSE: &[u8] = include_bytes!("../../tests/fixtures/xmlrpc/status.response.xml");
const FAULT: &[u8] = include_bytes!("../../tests/fixtures/xmlrpc/state.fault.xml");

fn every_type() -> Vec<Value> {
    let sha1 = "0a4d55a8d778e5022fab701977c5d840bbc486d0";
    let archives = Value::Array(vec!["deb http://h/ s main".into()]);
    vec![
        Value::Nil,
        Value::Int(7),
        Value::Int(i32::MIN.into()),
        Value::Int(i32::MAX.into()),
        Value::Bool(true),
        Value::Bool(false),
        Value::Double(1.5),
        "a <b> & \"c\" \u{e9}\u{20ac}\n ".into(),
        "".into(),
        Value::Base64((0..100).collect()),
        Value::DateTime("20080604T12:34:56".into()),
        Value::Array(vec![]),
        Value::Array(vec!["x".into(), Value::Array(vec!["y".into()])]),
        Value::Struct(vec![]),
        Value::Struct(vec![
            ("hello_1.dsc".into(), sha1.into()),
            (
                "n".into(),
                Value::Struct(vec![("archives".into(), archives)]),
            ),
        ]),
    ]
}

fn text(document: &[u8]) -> &str {
    std::str::from_utf8(document).unwrap()
}

fn params(document: &[u8]) -> Vec<Value> {
    parse_call(document).unwrap().params
}

/// Parses a call with this one parameter.
fn param(value: &str) -> Result<Value, Error> {
    let call = format!(
        "<methodCall><methodName>echo</methodName><params><param>{value}</param></params>\
         </methodCall>"
    );
    parse_call(call.as_bytes()).map(|mut call| call.params.remove(0))
}

#[test]
fn calls_are_read_and_written_as_python_does() {
    let call = parse_call(EVERY_TYPE).unwrap();
    assert_eq!((call.name.as_str(), call.params), ("echo", every_type()));
    assert_eq!(text(&render_call("echo", &every_type())), text(EVERY_TYPE));

    let call = parse_call(NO_PARAMS).unwrap();
    assert_eq!((call.name.as_str(), call.params), ("info", vec![]));
    assert_eq!(text(&render_call("info", &[])), text(NO_PARAMS));
}

#[test]
fn answers_are_read_and_written_as_python_does() {
    let answer = parse_response(RESPONSE).unwrap().unwrap();
    let Value::Struct(members) = &answer else {
        panic!("{answer:?}")
    };
    assert_eq!(
        members[2],
        ("logtail".into(), Value::Base64(b"dpkg \xff\n".repeat(12)))
    );
    assert_eq!(text(&render_response(&answer).unwrap()), text(RESPONSE));

    let fault = Fault {
        code: 8002,
        string: "error: clean: builder is IDLE, not WAITING".to_owned(),
    };
    assert_eq!(parse_response(FAULT), Ok(Err(fault.clone())));
    assert_eq!(text(&render_fault(&fault)), text(FAULT));
}

#[test]
fn doubles_of_python_are_read() {
    let read = params(DOUBLES);
    let expected = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        1e300,
        -0.0,
        1e16,
    ];
    assert_eq!(
        format!("{read:?}"),
        format!("{:?}", expected.map(Value::Double))
    );
}

#[test]
fn a_declared_latin1_encoding_is_used() {
    assert!(
        LATIN1.contains(&0xe9),
        "é is one byte, so the document is not UTF-8"
    );
    assert_eq!(params(LATIN1), ["caf\u{e9}".into()]);
}

#[test]
fn every_spelling_of_a_value_is_read() {
    let int = |n| Value::Int(n);
    for (spelling, value) in [
        ("<value>  bare\ttext </value>", "  bare\ttext ".into()),
        ("<value/>", "".into()),
        ("<value> </value>", " ".into()),
        ("<value><string> kept </string></value>", " kept ".into()),
        ("<value>a<!-- b -->c<![CDATA[<d>]]></value>", "ac<d>".into()),
        ("<value>&#233;&amp;&lt;</value>", "\u{e9}&<".into()),
        ("<value>\n <int> +5 </int>\n</value>", int(5)),
        ("<value><i1>-1</i1></value>", int(-1)),
        ("<value><i2>2</i2></value>", int(2)),
        ("<value><i4>4</i4></value>", int(4)),
        ("<value><i8>9223372036854775807</i8></value>", int(i64::MAX)),
        (
            "<value><biginteger>12345678901</biginteger></value>",
            int(12_345_678_901),
        ),
        ("<value><base64/></value>", Value::Base64(vec![])),
        ("<value xmlns:ex='urn:e'><ex:nil/></value>", Value::Nil),
        (
            "<value><struct><member><name>a</name><value>1</value></member>\
             <member><name>b</name><value>2</value></member>\
             <member><name>a</name><value>3</value></member></struct></value>",
            Value::Struct(vec![("a".into(), "3".into()), ("b".into(), "2".into())]),
        ),
    ] {
        assert_eq!(param(spelling), Ok(value), "{spelling}");
    }
}

#[test]
fn params_may_be_absent() {
    let call = parse_call(b"<methodCall>\n<methodName> info </methodName></methodCall>").unwrap();
    assert_eq!((call.name.as_str(), call.params), ("info", vec![]));
}

#[test]
fn malformed_values_are_refused() {
    for bad in [
        "<value><int>1.5</int></value>",
        "<value><int></int></value>",
        "<value><i8>9223372036854775808</i8></value>",
        "<value><boolean>true</boolean></value>",
        "<value><double>x</double></value>",
        "<value><base64>A</base64></value>",
        "<value><dateTime.iso8601/></value>",
        "<value><frob>1</frob></value>",
        "<value>text<int>1</int></value>",
        "<value><int>1</int>text</value>",
        "<value><int>1</int><int>2</int></value>",
        "<value><nil>1</nil></value>",
        "<value><array><value>1</value></array></value>",
        "<value><struct><member><value>1</value></member></struct></value>",
        "<value>1</value><value>2</value>",
        "",
        "text",
    ] {
        assert!(param(bad).is_err(), "{bad}");
    }
}

#[test]
fn documents_that_are_not_a_call_are_refused() {
    for bad in ["", "hello", "<methodCall", "<a/>", "<methodCall/>"] {
        assert!(parse_call(bad.as_bytes()).is_err(), "{bad}");
    }
    assert_eq!(
        parse_call(RESPONSE).unwrap_err().to_string(),
        "expected <methodCall>, found <methodResponse>"
    );
    assert!(parse_response(EVERY_TYPE).is_err());
    assert!(parse_response(b"<methodResponse/>").is_err());
    let twice = [NO_PARAMS, b"<methodCall/>"].concat();
    assert!(parse_call(&twice).is_err());
}

#[test]
fn every_truncation_is_an_error() {
    for whole in [EVERY_TYPE, LATIN1] {
        let whole = whole.trim_ascii_end();
        assert!(parse_call(whole).is_ok());
        for length in 0..whole.len() {
            assert!(parse_call(&whole[..length]).is_err(), "{length}");
        }
    }
    for length in 0..RESPONSE.trim_ascii_end().len() {
        assert!(parse_response(&RESPONSE[..length]).is_err(), "{length}");
    }
}

#[test]
fn nesting_and_size_are_limited() {
    let nested = |levels: usize| {
        let open = "<value><array><data>".repeat(levels);
        param(&format!(
            "{open}{}",
            "</data></array></value>".repeat(levels)
        ))
    };
    assert!(nested((MAX_DEPTH - 3) / 3).is_ok());
    assert_eq!(nested(MAX_DEPTH / 3), Err(Error::TooDeep));
    assert_eq!(nested(20_000), Err(Error::TooDeep));

    let large = vec![b' '; MAX_DOCUMENT_BYTES + 1];
    assert_eq!(
        parse_call(&large).unwrap_err(),
        Error::TooLarge(large.len())
    );
}

#[test]
fn document_types_are_refused() {
    let call = String::from_utf8(NO_PARAMS.to_vec()).unwrap();
    for doctype in ["<!DOCTYPE a>", "<!DOCTYPE a [<!ENTITY b \"bbbb\">]>"] {
        let call = call.replace("<methodCall>", &format!("{doctype}<methodCall>"));
        assert_eq!(parse_call(call.as_bytes()).unwrap_err(), Error::Doctype);
    }
    assert!(param("<value>&unknown;</value>").is_err());
}

#[test]
fn a_call_shown_for_debugging_hides_its_parameters() {
    let call = MethodCall {
        name: "ensurepresent".into(),
        params: vec!["secret".into()],
    };
    assert_eq!(
        format!("{call:?}"),
        "MethodCall(\"ensurepresent\", 1 params)"
    );
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<i32>().prop_map(|n| Value::Int(n.into())),
        any::<bool>().prop_map(Value::Bool),
        any::<f64>()
            .prop_filter("NaN", |n| !n.is_nan())
            .prop_map(Value::Double),
        "[\\PC\t\r\n <&]{0,20}".prop_map(Value::String),
        "[0-9]{8}T[0-9:]{8}".prop_map(Value::DateTime),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(Value::Base64),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map("[\\PC ]{0,8}", inner, 0..4)
                .prop_map(|members| Value::Struct(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn values_round_trip(value in values()) {
        let response = render_response(&value).unwrap();
        prop_assert_eq!(parse_response(&response), Ok(Ok(value.clone())));
        let call = parse_call(&render_call("echo", std::slice::from_ref(&value))).unwrap();
        prop_assert_eq!(call.params, vec![value]);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(parse_call(&bytes).is_err());
        prop_assert!(parse_response(&bytes).is_err());
    }

    #[test]
    fn damaged_calls_never_panic(at in 0..EVERY_TYPE.len(), byte in any::<u8>()) {
        let mut document = EVERY_TYPE.to_vec();
        document[at] = byte;
        let _ = parse_call(&document);
        let _ = parse_response(&document);
    }
}
