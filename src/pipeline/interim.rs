//! INTERIM, replaced by the gate.
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

pub(crate) fn start(listener: TcpListener) {
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || serve(client));
        }
    });
}

fn serve(client: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, url) = (words.next()?, words.next()?);
    let (host, path) = if method == "CONNECT" {
        (url.to_owned(), String::new())
    } else {
        let rest = url.strip_prefix("http://")?;
        let (host, path) = rest.split_once('/')?;
        (host.to_owned(), format!("/{path}"))
    };
    let host = if host.contains(':') {
        host
    } else {
        format!("{host}:80")
    };
    let mut headers = String::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        headers.push_str(&line);
    }
    let mut up = TcpStream::connect(host).ok()?;
    let mut back = client.try_clone().ok()?;
    if method == "CONNECT" {
        back.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
        let mut up2 = up.try_clone().ok()?;
        thread::spawn(move || std::io::copy(&mut reader, &mut up2));
    } else {
        write!(
            up,
            "{method} {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n"
        )
        .ok()?;
    }
    let mut buffer = vec![0; 65536];
    loop {
        let n = up.read(&mut buffer).ok()?;
        if n == 0 {
            let _ = back.shutdown(std::net::Shutdown::Both);
            return None;
        }
        back.write_all(&buffer[..n]).ok()?;
    }
}
