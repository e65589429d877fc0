//! Clients that begin a request and continue it slowly or never.

use super::siege::withstands;

#[test]
fn idle_connections_do_not_delay_others() {
    withstands("idle", |_, caller| caller.hold());
}

#[test]
fn half_a_head_does_not_delay_others() {
    withstands("half a head", |_, caller| {
        caller.begin(b"POST /rpc HTTP/1.1\r\nContent-Le")?;
        caller.hold()
    });
}

#[test]
fn half_a_body_does_not_delay_others() {
    let long = "POST /rpc HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n".to_owned();
    let long = long + &"x".repeat(1_000_000);
    withstands("half a body", |_, caller| {
        if caller.number % 2 == 0 {
            caller.begin(b"POST /rpc HTTP/1.1\r\nContent-Length: 1000\r\n\r\n<methodCall>")?;
        } else if caller.beat < 10 {
            caller.send(long.as_bytes())?;
        }
        caller.hold()
    });
}

#[test]
fn slowly_sent_heads_do_not_delay_others() {
    withstands("a byte of a head a second", |_, caller| {
        caller.begin(b"GET /filecache/buildlog HTTP/1.1\r\nX: ")?;
        caller.drip()?;
        caller.hold()
    });
}

#[test]
fn slowly_sent_bodies_do_not_delay_others() {
    withstands("a byte of a body a second", |_, caller| {
        caller.begin(b"POST /rpc HTTP/1.1\r\nContent-Length: 60\r\n\r\n")?;
        caller.drip()?;
        caller.hold()
    });
}
