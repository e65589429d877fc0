//! Clients that request files and do not read them.

use super::siege::{Siege, withstands};

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
