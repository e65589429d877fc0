//! Clients that begin something and do not go on with it, or hardly.

use super::siege::withstands;

#[test]
fn idle_connections() {
    withstands("idle", |_, caller| caller.hold());
}

#[test]
fn half_a_head() {
    withstands("half a head", |_, caller| {
        caller.begin(b"POST /rpc HTTP/1.1\r\nContent-Le")?;
        caller.hold()
    });
}

#[test]
fn half_a_body() {
    let long = "POST /rpc HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n".to_owned();
    let long = long + &"x".repeat(1_000_000);
    withstands("half a body", |_, caller| {
        if caller.number.is_multiple_of(2) {
            caller.begin(b"POST /rpc HTTP/1.1\r\nContent-Length: 1000\r\n\r\n<methodCall>")?;
        } else if caller.beat < 10 {
            caller.send(long.as_bytes())?;
        }
        caller.hold()
    });
}

#[test]
fn a_byte_of_a_head_a_second() {
    withstands("a byte of a head a second", |_, caller| {
        caller.begin(b"GET /filecache/buildlog HTTP/1.1\r\nX: ")?;
        caller.drip()?;
        caller.hold()
    });
}

#[test]
fn a_byte_of_a_body_a_second() {
    withstands("a byte of a body a second", |_, caller| {
        caller.begin(b"POST /rpc HTTP/1.1\r\nContent-Length: 60\r\n\r\n")?;
        caller.drip()?;
        caller.hold()
    });
}
