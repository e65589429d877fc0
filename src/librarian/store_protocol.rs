//! Pure: parses the command and headers of the STORE protocol (docs/farm.md §4.1).
//!
//! A client sends `STORE <size> <name>`, headers, an empty line and the bytes, and may then send
//! the next file. Lines end in CRLF or LF. A line is refused as soon as it is complete, before the
//! client sends the bytes.

use super::{media, name};

use crate::protocol::Sha1Hex;

/// A file that a client is about to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Store {
    /// In bytes.
    pub(super) size: u64,
    pub(super) name: String,
    /// Ids of content and alias, if the client inserts the rows itself.
    pub(super) ids: Option<(i64, i64)>,
    pub(super) content_type: String,
    /// Milliseconds since 1970.
    pub(super) expires_at: Option<i64>,
    pub(super) sha1: Option<Sha1Hex>,
    /// A text for the server's log.
    pub(super) debug: Option<String>,
    /// Credentials, as in HTTP Basic.
    pub(super) authorization: Option<String>,
}

/// Parses the head at the start of `input`. Returns it with its length, including the empty line,
/// or `None` if it is incomplete.
///
/// # Errors
/// The text of a `400` answer.
pub(super) fn parse(input: &[u8], dbname: &str) -> Result<Option<(Store, usize)>, String> {
    let mut lines = Lines { input, at: 0 };
    let Some(command) = lines.next() else {
        return Ok(None);
    };
    let (size, name) = read_command(command)?;
    let mut headers = Headers::default();
    loop {
        match lines.next() {
            None => return Ok(None),
            Some(b"") => break,
            Some(line) => headers.read(line)?,
        }
    }
    let store = headers.complete(size, name, dbname)?;
    Ok(Some((store, lines.at)))
}

/// The complete lines of `input`, without line terminators.
struct Lines<'a> {
    input: &'a [u8],
    /// Offset of the next line.
    at: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.input.get(self.at..)?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        self.at += end + 1;
        let line = rest.get(..end)?;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

fn read_command(line: &[u8]) -> Result<(u64, String), String> {
    let line = std::str::from_utf8(line).map_err(|_| "file name is not UTF-8".to_owned())?;
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    if word != "STORE" {
        return Err(format!("unknown command: {}", shown(word)));
    }
    let rest = rest.trim_start();
    let Some((size, name)) = rest.split_once(' ') else {
        return Err("STORE wants a size and a file name".to_owned());
    };
    let size = integer(size)
        .and_then(|size| u64::try_from(size).ok())
        .ok_or_else(|| format!("size is not a whole number: {}", shown(size)))?;
    if !name::is_good(name) {
        return Err(format!("not a file name: {}", shown(name)));
    }
    Ok((size, name.to_owned()))
}

/// The headers parsed so far.
#[derive(Default)]
struct Headers {
    database: Option<String>,
    content_id: Option<i64>,
    alias_id: Option<i64>,
    content_type: Option<String>,
    expires_at: Option<i64>,
    sha1: Option<Sha1Hex>,
    debug: Option<String>,
    authorization: Option<String>,
}

impl Headers {
    fn read(&mut self, line: &[u8]) -> Result<(), String> {
        let malformed = || {
            format!(
                "malformed header: {}",
                shown(&String::from_utf8_lossy(line))
            )
        };
        let text = std::str::from_utf8(line).map_err(|_| malformed())?;
        let (key, value) = text
            .split_once(':')
            .filter(|(_, value)| !value.contains(':'))
            .ok_or_else(malformed)?;
        let value = value.trim();
        let number = || {
            let text = || format!("{key} is not a whole number: {}", shown(value));
            integer(value).ok_or_else(text)
        };
        match key.to_ascii_lowercase().replace('-', "_").as_str() {
            "database_name" => self.database = Some(value.to_owned()),
            "file_content_id" => self.content_id = Some(number()?),
            "file_alias_id" => self.alias_id = Some(number()?),
            "content_type" if !media::is_good(value) => return Err(malformed()),
            "content_type" => self.content_type = Some(value.to_owned()),
            // Seconds on the wire.
            "file_expires" => self.expires_at = Some(number()?.saturating_mul(1000)),
            "sha1_digest" => {
                let sha1 = Sha1Hex::parse(&value.to_ascii_lowercase());
                self.sha1 = Some(sha1.map_err(|error| error.to_string())?);
            }
            "authorization" => self.authorization = Some(value.to_owned()),
            "debug_id" => self.debug = Some(shown(value)),
            _ => {}
        }
        Ok(())
    }

    fn complete(self, size: u64, name: String, dbname: &str) -> Result<Store, String> {
        match self.database.as_deref() {
            None => return Err("Database-Name needed".to_owned()),
            Some(given) if given != dbname => {
                return Err(format!("not the database here: {}", shown(given)));
            }
            Some(_) => {}
        }
        let ids = match (self.content_id, self.alias_id) {
            (Some(content), Some(alias)) if content > 0 && alias > 0 => Some((content, alias)),
            (Some(_), Some(_)) => return Err("ids begin with 1".to_owned()),
            (None, None) => None,
            _ => {
                return Err("File-Content-ID and File-Alias-ID go together".to_owned());
            }
        };
        let unknown = || "unknown/unknown".to_owned();
        Ok(Store {
            size,
            name,
            ids,
            content_type: self.content_type.unwrap_or_else(unknown),
            expires_at: self.expires_at,
            sha1: self.sha1,
            debug: self.debug,
            authorization: self.authorization,
        })
    }
}

/// Parses decimal digits after an optional minus.
fn integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// Quotes the beginning of a client's text on one line.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusal(head: &str) -> String {
        parse(head.as_bytes(), "farm").unwrap_err()
    }

    #[test]
    fn a_head_with_all_headers_is_parsed() {
        let head = "STORE 1024 a name.txt\r\nDatabase-Name: farm\r\nContent-Type: text/plain\r\n\
                    file_content_id: 5\r\nFILE-ALIAS-ID: 6\r\nFile-Expires: 1234\r\n\
                    SHA1-Digest: AAF4C61DDCC5E8A2DABEDE0F3B482CD9AEA9434D\r\nDebug-ID: x\r\n\
                    Other: y\r\n\r\nSTORE";
        let (store, length) = parse(head.as_bytes(), "farm").unwrap().unwrap();
        assert_eq!(length, head.len() - 5);
        let sha1 = Sha1Hex::parse("aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d").unwrap();
        assert_eq!(
            store,
            Store {
                size: 1024,
                name: "a name.txt".to_owned(),
                ids: Some((5, 6)),
                content_type: "text/plain".to_owned(),
                expires_at: Some(1_234_000),
                sha1: Some(sha1),
                debug: Some("\"x\"".to_owned()),
                authorization: None,
            }
        );
        for end in 0..length {
            assert_eq!(
                parse(&head.as_bytes()[..end], "farm").unwrap(),
                None,
                "{end}"
            );
        }
    }

    #[test]
    fn a_head_with_only_the_required_header_is_parsed() {
        let (store, _) = parse(b"STORE 0 gr\xc3\xbcn\nDatabase-Name:farm\n\n", "farm")
            .unwrap()
            .unwrap();
        assert_eq!((store.size, store.name.as_str()), (0, "grün"));
        assert_eq!(store.content_type, "unknown/unknown");
        assert_eq!(
            (store.ids, store.expires_at, store.sha1),
            (None, None, None)
        );
    }

    #[test]
    fn every_error_is_reported_when_its_line_is_complete() {
        for (head, expect) in [
            ("\r\n", "unknown command: \"\""),
            ("GET / HTTP/1.1\r\n", "unknown command: \"GET\""),
            ("store 1 a\r\n", "unknown command: \"store\""),
            ("STORE\r\n", "STORE wants a size and a file name"),
            ("STORE 1\r\n", "STORE wants a size and a file name"),
            ("STORE 1 \r\n", "not a file name: \"\""),
            ("STORE x a\r\n", "size is not a whole number: \"x\""),
            ("STORE -1 a\r\n", "size is not a whole number: \"-1\""),
            ("STORE +1 a\r\n", "size is not a whole number: \"+1\""),
            ("STORE 1 a/b\r\n", "not a file name: \"a/b\""),
            ("STORE 1 ..\r\n", "not a file name: \"..\""),
            ("STORE 1 a\nno colon\n", "malformed header: \"no colon\""),
            ("STORE 1 a\nA: b: c\n", "malformed header: \"A: b: c\""),
            (
                "STORE 1 a\nContent-Type:\n",
                "malformed header: \"Content-Type:\"",
            ),
            (
                "STORE 1 a\nFile-Alias-ID: x\n",
                "File-Alias-ID is not a whole number: \"x\"",
            ),
            (
                "STORE 1 a\nFile-Expires: 2008-01-01\n",
                "File-Expires is not a whole number: \"2008-01-01\"",
            ),
            ("STORE 1 a\nSHA1-Digest: x\n", "invalid sha-1 \"x\""),
            ("STORE 1 a\n\n", "Database-Name needed"),
            (
                "STORE 1 a\nDatabase-Name: other\n\n",
                "not the database here: \"other\"",
            ),
            (
                "STORE 1 a\nDatabase-Name: farm\nFile-Alias-ID: 1\n\n",
                "File-Content-ID and File-Alias-ID go together",
            ),
            (
                "STORE 1 a\nDatabase-Name: farm\nFile-Alias-ID: 1\nFile-Content-ID: 0\n\n",
                "ids begin with 1",
            ),
        ] {
            assert_eq!(refusal(head), expect);
        }
        let not_utf8 = parse(b"STORE 1 \xff\r\n", "farm").unwrap_err();
        assert_eq!(not_utf8, "file name is not UTF-8");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, "farm");
            let _ = parse(&[b"STORE 1 a\n".as_slice(), &bytes].concat(), "farm");
        }
    }
}
