//! Pure: removes credentials from log lines.
//!
//! It removes `user:password@` in URLs and `,proxyauth=user:token` (docs/wire.md §3.10). The
//! userinfo of a URL ends at the first `/`, blank, quote, `<` or `>`. So a port and a later `@`, as
//! in `http://h:80/a b@c`, are not taken for a password. A password with a raw `/` makes an invalid
//! URL and stays. `http://user@host/` holds no secret and stays.

use std::borrow::Cow;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, Input};

/// The text before a URL's user and password.
const SCHEME_END: &[u8] = b"://";
/// The start of the proxy credentials that apt and snapcraft print.
const PROXY_AUTH: &[u8] = b",proxyauth=";

/// Removes credentials from the log of a private build; leaves that of a public one unchanged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scrubber {
    private: bool,
}

impl Scrubber {
    pub(crate) fn new(private: bool) -> Self {
        Self { private }
    }

    pub(crate) fn is_private(self) -> bool {
        self.private
    }

    /// Removes credentials from `text`, which must not end in the middle of a line.
    pub(crate) fn scrub(self, text: &[u8]) -> Cow<'_, [u8]> {
        if self.private {
            remove_credentials(text)
        } else {
            Cow::Borrowed(text)
        }
    }
}

/// Removes credentials from `text`, for private and public builds.
pub(crate) fn scrub_always(text: &str) -> String {
    // The removed parts begin and end at ASCII bytes, so the rest stays UTF-8.
    String::from_utf8_lossy(&remove_credentials(text.as_bytes())).into_owned()
}

/// Returns the position of credentials that the end of `text` may have cut off.
pub(super) fn unfinished(text: &[u8]) -> Option<usize> {
    let open = |start: &[u8]| {
        let at = text
            .windows(start.len())
            .rposition(|window| window == start)?
            + start.len();
        let ended = text[at..].iter().any(|&b| ends_userinfo(b));
        (!ended).then_some(at)
    };
    [SCHEME_END, PROXY_AUTH].into_iter().filter_map(open).min()
}

fn remove_credentials(text: &[u8]) -> Cow<'_, [u8]> {
    static STARTS: LazyLock<AhoCorasick> = LazyLock::new(|| {
        AhoCorasick::new([SCHEME_END, PROXY_AUTH]).expect("the patterns are few and short")
    });
    let mut kept = Vec::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(start) = STARTS.find(Input::new(text).range(at..)) {
        let is_url = start.pattern().as_usize() == 0;
        let (from, until) = if is_url {
            (
                start.end(),
                start.end() + userinfo_len(&text[start.end()..]),
            )
        } else {
            let from = start.start();
            (from, from + proxy_auth_len(&text[from..]))
        };
        at = until.max(start.end());
        if from < until {
            kept.extend_from_slice(&text[copied..from]);
            copied = until;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    kept.extend_from_slice(&text[copied..]);
    Cow::Owned(kept)
}

/// Returns the length of `user:password@` at the start of `rest`; 0 without a password.
///
/// The last `@` counts, since a password may contain one.
fn userinfo_len(rest: &[u8]) -> usize {
    let end = rest
        .iter()
        .position(|&b| ends_userinfo(b))
        .unwrap_or(rest.len());
    match rest[..end].iter().rposition(|&b| b == b'@') {
        Some(at) if rest[..at].contains(&b':') => at + 1,
        _ => 0,
    }
}

/// Returns the length of `,proxyauth=user:token` at the start of `rest`; 0 without a token.
fn proxy_auth_len(rest: &[u8]) -> usize {
    let value = &rest[PROXY_AUTH.len()..];
    let end = value
        .iter()
        .position(|&b| b == b',' || ends_userinfo(b))
        .unwrap_or(value.len());
    if value[..end].contains(&b':') {
        PROXY_AUTH.len() + end
    } else {
        0
    }
}

fn ends_userinfo(byte: u8) -> bool {
    matches!(byte, b'/' | b'"' | b'\'' | b'`' | b'<' | b'>') || byte.is_ascii_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(line: &str, expect: &str) {
        assert_eq!(scrub_always(line), expect, "{line}");
        assert_eq!(
            Scrubber::new(true).scrub(line.as_bytes()),
            expect.as_bytes()
        );
        assert_eq!(Scrubber::new(false).scrub(line.as_bytes()), line.as_bytes());
    }

    #[test]
    fn only_credentials_are_removed() {
        // The two forms of docs/wire.md §3.10, within whole lines.
        check(
            "Get:1 http://buildd:secret@ppa.example.com hardy/main foo 1.0-1 [12B]",
            "Get:1 http://ppa.example.com hardy/main foo 1.0-1 [12B]",
        );
        check(
            "see http://user:blah@host/ and more",
            "see http://host/ and more",
        );
        check("http://:macaroon@h/", "http://h/");
        check("http://u:a:b@h/", "http://h/");
        check("http://u:a@b@h:80/x", "http://h:80/x");
        check("a http://u:p@h/ b ftp://v:q@i c", "a http://h/ b ftp://i c");
        check("http://u:p\u{e9}@h/\u{e9}", "http://h/\u{e9}");
        check("http://h:80/a b@c", "http://h:80/a b@c");
        check("'http://h:80' b@c", "'http://h:80' b@c");
        check("<http://h:80> b@c", "<http://h:80> b@c");
        check("http://u@h/", "http://u@h/");
        check("http://h:80\nb@c", "http://h:80\nb@c");
        check("mail a@b: no URL", "mail a@b: no URL");
        check("x,proxyauth=me:t0k-en,y", "x,y");
        check("x,proxyauth=me y", "x,proxyauth=me y");
    }

    #[test]
    fn cut_off_credentials_are_found() {
        assert_eq!(unfinished(b"Get http://u:pass"), Some(11));
        assert_eq!(unfinished(b"x,proxyauth=u:p"), Some(12));
        assert_eq!(unfinished(b"Get http://h/ done"), None);
        assert_eq!(unfinished(b"Get http://h/path"), None);
    }

    #[test]
    fn fuzz_scrubbing() {
        let seeds: [&[u8]; 3] = [
            b"Get:1 http://buildd:secret@ppa.example.com hardy/main foo 1.0-1 [12B]\n",
            b"x,proxyauth=me:t0k-en,y <http://h:80> b@c https://u:p@[::1]:80/x 'ftp://v:q@i'\n",
            "http://u:p\u{e9}@h/\u{e9} http://:macaroon@h/\n".as_bytes(),
        ];
        crate::fuzz::fuzz("scrubbing", &seeds, |input| {
            let once = Scrubber::new(true).scrub(input).into_owned();
            assert!(once.len() <= input.len());
            if let Some(start) = unfinished(input) {
                assert!(start <= input.len());
            }
        });
    }

    proptest! {
        #[test]
        fn no_password_survives(
            user in "[a-z]{0,5}",
            password in "[!-~&&[^/\"'`<>Z]]{1,20}",
            text in ".{0,20}",
        ) {
            let line = format!("{text} http://{user}:Z{password}Z@host/ {text}");
            let clean = Scrubber::new(true).scrub(line.as_bytes()).into_owned();
            let secret = format!("Z{password}Z").into_bytes();
            prop_assert!(!clean.windows(secret.len()).any(|window| window == secret));
        }
    }
}
