//! Clients that request files and do not read them.

use std::io::Read;
use std::time::Instant;

use serde_json::{Value as Json, json};

use super::siege::{Siege, attack_time, attacked, post, withstands};
use crate::support::rpc::{parse_answer, render_call};
use crate::support::{FileServer, send, sha1};

fn get(siege: &Siege) -> Vec<u8> {
    format!("GET {} HTTP/1.1\r\n\r\n", siege.file).into_bytes()
}

#[test]
fn unread_downloads_do_not_delay_others() {
    withstands("not read", |siege, caller| caller.begin(&get(siege)));
}

#[test]
fn slowly_read_downloads_do_not_delay_others() {
    withstands("600 bytes a second", |siege, caller| {
        caller.begin(&get(siege))?;
        caller.take(30).map(drop)
    });
}

#[test]
fn resets_during_an_answer_do_not_delay_others() {
    withstands("resets", |siege, caller| {
        caller.begin(&get(siege))?;
        match caller.take(1000)? {
            0 => Ok(()),
            _ => caller.reset(),
        }
    });
}

fn ensure(sum: &str, url: &str) -> Vec<u8> {
    let params = [json!(sum), json!(url), json!(""), json!("")];
    post(render_call("ensurepresent", &params).as_bytes())
}

#[test]
fn a_crowd_of_one_address_delays_no_download_or_long_call_of_another() {
    let siege = Siege::start("");
    let never = FileServer::start(|_, stream| drop(stream.read(&mut [0])));
    let files = FileServer::start(|head, stream| {
        send(stream, "200 OK", head.split(' ').nth(1).unwrap().as_bytes());
    });
    let (get, from) = (get(&siege), vec![siege.attacker(); 2000]);
    let ending = Instant::now() + attack_time();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            attacked(&siege, &from, |caller| {
                match caller.number % 2 {
                    0 => caller.begin(&get)?,
                    _ => caller
                        .begin(&ensure(&format!("{:040x}", caller.number), &never.url("x")))?,
                }
                // A client that reads little keeps its turn.
                caller.take(1).map(drop)
            });
        });
        let mut number = 0;
        while Instant::now() < ending {
            let range = format!("GET {} HTTP/1.0\r\nRange: bytes=0-9\r\n\r\n", siege.file);
            let answer = siege.ask(siege.other_client(), range.as_bytes()).unwrap();
            assert_eq!(answer.status, 206, "{}", answer.text());
            number += 1;
            let sum = sha1(format!("/{number}").as_bytes());
            let request = ensure(&sum, &files.url(&number.to_string()));
            let answer = siege.ask(siege.other_client(), &request).unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
            let answer: Json = parse_answer(&answer.body).unwrap();
            assert_eq!(answer, json!([true, "Download"]));
        }
        assert!(number > 10, "only {number} calls in the whole attack");
    });
    siege.check_service();
    siege.show("downloads and long calls, 2000 clients");
}
