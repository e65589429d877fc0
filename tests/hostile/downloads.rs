//! Clients that ask for files and do not take them.

use super::siege::{Siege, withstands};

fn get(siege: &Siege) -> Vec<u8> {
    format!("GET {} HTTP/1.1\r\n\r\n", siege.file).into_bytes()
}

#[test]
fn downloads_not_read() {
    withstands("not read", |siege, caller| caller.begin(&get(siege)));
}

#[test]
fn downloads_read_at_600_bytes_a_second() {
    withstands("600 bytes a second", |siege, caller| {
        caller.begin(&get(siege))?;
        caller.take(30).map(drop)
    });
}

#[test]
fn resets_in_mid_answer() {
    withstands("resets", |siege, caller| {
        caller.begin(&get(siege))?;
        match caller.take(1000)? {
            0 => Ok(()),
            _ => caller.reset(),
        }
    });
}
