//! Pure: makes text of packages and slaves safe for a terminal.
//!
//! Colours (SGR sequences), tabs and newlines stay. Every other control character is shown as
//! visible text, as `less` shows it: `^[` for ESC, `<9B>` for a byte that is not UTF-8, `<U+202E>`
//! for a character. Nothing is hidden: the text of a title or of a link follows its `^[`. A
//! carriage return inside a line becomes a newline, so that no text overwrites other text.

use std::fmt::Write as _;

/// The longest parameters of an SGR sequence, in bytes.
const MAX_PARAMETERS: usize = 64;

/// A filter for a stream that may be cut anywhere.
#[derive(Debug)]
pub(crate) struct Filter {
    /// The start of a sequence or character whose end has not come yet.
    pending: Vec<u8>,
    at_line_start: bool,
    /// Whether a colour has passed.
    coloured: bool,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            pending: Vec::new(),
            at_line_start: true,
            coloured: false,
        }
    }
}

/// The front of the input.
enum Front<'a> {
    /// Bytes that pass unchanged.
    Plain(&'a [u8]),
    /// An SGR sequence.
    Colour(&'a [u8]),
    /// A carriage return before another one or before a newline.
    Dropped,
    /// A carriage return before other text.
    Return,
    /// Bytes that are shown as this text.
    Shown(usize, String),
    /// The input ends before the meaning is known.
    Incomplete,
}

impl Filter {
    /// Filters `bytes`, and appends the result to `out`.
    pub(crate) fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut joined = std::mem::take(&mut self.pending);
        let mut rest = bytes;
        if !joined.is_empty() {
            joined.extend_from_slice(bytes);
            rest = &joined;
        }
        while !rest.is_empty() {
            let length = match front(rest) {
                Front::Plain(text) => {
                    out.extend_from_slice(text);
                    self.at_line_start = text.ends_with(b"\n");
                    text.len()
                }
                Front::Colour(sequence) => {
                    out.extend_from_slice(sequence);
                    self.coloured = true;
                    sequence.len()
                }
                Front::Dropped => 1,
                Front::Return => {
                    self.end_line(out);
                    1
                }
                Front::Shown(length, text) => {
                    out.extend_from_slice(text.as_bytes());
                    self.at_line_start = false;
                    length
                }
                Front::Incomplete => {
                    self.pending = rest.to_vec();
                    return;
                }
            };
            rest = rest.get(length..).unwrap_or_default();
        }
    }

    /// Appends what is left at the end of the stream, and resets the colours.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        for byte in std::mem::take(&mut self.pending) {
            match byte {
                b'\r' => self.end_line(out),
                b' '..=b'~' => out.push(byte),
                _ => out.extend_from_slice(shown_byte(byte).as_bytes()),
            }
        }
        if std::mem::take(&mut self.coloured) {
            out.extend_from_slice(b"\x1b[0m");
        }
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.at_line_start, true) {
            out.push(b'\n');
        }
    }
}

/// Filters a whole text.
pub(crate) fn filtered(text: &str) -> String {
    let (mut filter, mut out) = (Filter::default(), Vec::new());
    filter.feed(text.as_bytes(), &mut out);
    filter.finish(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Escapes the characters of a JSON document that control a terminal; its meaning stays the same.
pub(crate) fn escaped_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_control(c) && c != '\n' {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// Returns whether a character controls a terminal or the direction of text. Tabs and newlines do.
pub(crate) fn is_control(c: char) -> bool {
    // Embeddings, overrides and isolates: they show text in another order than it has.
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\t' | b'\n')
}

/// Examines the front of the input, which is not empty.
fn front(rest: &[u8]) -> Front<'_> {
    let plain = rest.iter().take_while(|byte| is_plain(**byte)).count();
    match (rest.split_at(plain), rest) {
        ((text, _), _) if plain > 0 => Front::Plain(text),
        (_, [b'\r']) => Front::Incomplete,
        (_, [b'\r', b'\r' | b'\n', ..]) => Front::Dropped,
        (_, [b'\r', ..]) => Front::Return,
        (_, [0x1b, ..]) => escape(rest),
        (_, [byte @ ..0x80, ..]) => Front::Shown(1, shown_byte(*byte)),
        _ => character(rest),
    }
}

/// Examines a sequence that begins with ESC.
fn escape(rest: &[u8]) -> Front<'_> {
    let Some((introducer, parameters)) = rest.get(1..).and_then(<[u8]>::split_first) else {
        return Front::Incomplete;
    };
    if *introducer == b'[' {
        let of_sgr = |byte: &&u8| matches!(byte, b'0'..=b'9' | b';' | b':');
        let count = parameters.iter().take_while(of_sgr).count();
        match parameters.get(count) {
            _ if count > MAX_PARAMETERS => {}
            None => return Front::Incomplete,
            Some(b'm') => return Front::Colour(rest.get(..count + 3).unwrap_or_default()),
            Some(_) => {}
        }
    }
    Front::Shown(1, shown_byte(0x1b))
}

/// Examines a character that is not ASCII.
fn character(rest: &[u8]) -> Front<'_> {
    let first = rest.get(..rest.len().min(4)).unwrap_or_default();
    let valid = match std::str::from_utf8(first) {
        Ok(text) => text,
        Err(error) if error.valid_up_to() == 0 && error.error_len().is_none() => {
            return Front::Incomplete;
        }
        Err(error) => {
            let valid = first.get(..error.valid_up_to()).unwrap_or_default();
            std::str::from_utf8(valid).unwrap_or_default()
        }
    };
    match (valid.chars().next(), first) {
        (Some(c), _) if is_control(c) => {
            let mut shown = String::new();
            let _ = write!(shown, "<U+{:04X}>", u32::from(c));
            Front::Shown(c.len_utf8(), shown)
        }
        (Some(c), _) => Front::Plain(rest.get(..c.len_utf8()).unwrap_or_default()),
        (None, bytes) => Front::Shown(1, bytes.iter().take(1).map(|b| shown_byte(*b)).collect()),
    }
}

/// Shows a control character of ASCII as `^X`, and a byte that is not UTF-8 as `<9B>`.
fn shown_byte(byte: u8) -> String {
    match byte {
        ..0x80 => format!("^{}", char::from(byte ^ 0x40)),
        _ => format!("<{byte:02X}>"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(chunks: &[&[u8]]) -> String {
        let (mut filter, mut out) = (Filter::default(), Vec::new());
        for chunk in chunks {
            filter.feed(chunk, &mut out);
        }
        filter.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_tabs_newlines_and_colours_stay() {
        for text in ["a\tb\nc", "gr\u{fc}\u{df}e \u{4e2d} \u{1f980}", "\n\n", ""] {
            assert_eq!(shown(&[text.as_bytes()]), text);
        }
        for colour in ["\x1b[31mred", "\x1b[mx", "\x1b[1;38:2::1:2:3mx"] {
            assert_eq!(shown(&[colour.as_bytes()]), format!("{colour}\x1b[0m"));
        }
    }

    #[test]
    fn other_sequences_are_visible_text() {
        for (text, expect) in [
            (&b"\x1b]0;title\x07x"[..], "^[]0;title^Gx"),
            (b"\x1b[2J\x1b[Hx", "^[[2J^[[Hx"),
            (b"\x1bPq\x1b\\", "^[Pq^[\\"),
            (b"\x1b[>4;2m\x1b[?1m", "^[[>4;2m^[[?1m"),
            (b"a\x08b\x00\x7f\x0e\x05", "a^Hb^@^?^N^E"),
            (b"\x9b31m\x90\xff", "<9B>31m<90><FF>"),
            (b"\xc2\x9b2J", "<U+009B>2J"),
            ("a\u{202e}b\u{2066}".as_bytes(), "a<U+202E>b<U+2066>"),
            (b"\x1b\x1b[31mx", "^[\x1b[31mx\x1b[0m"),
            (b"\x1b[3\x1b[1", "^[[3^[[1"),
            (b"x\xe4\xb8", "x<E4><B8>"),
        ] {
            assert_eq!(shown(&[text]), expect);
        }
        let long = format!("\x1b[{}m", "1;".repeat(64));
        assert_eq!(shown(&[long.as_bytes()]), long.replace('\x1b', "^["));
    }

    #[test]
    fn a_carriage_return_overwrites_nothing() {
        for (text, expect) in [
            ("a\r\nb\r\r\n", "a\nb\n"),
            ("10%\r20%\r\r30%\n", "10%\n20%\n30%\n"),
            ("good\rbad", "good\nbad"),
            ("\rx\n\ry\r", "x\ny\n"),
        ] {
            assert_eq!(shown(&[text.as_bytes()]), expect);
        }
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = serde_json::json!({"log": "a\u{9b}\u{202e}\n\x1b\u{7f}\u{e9}"});
        let text = escaped_json(&format!("{value:#}"));
        assert!(!text.chars().any(|c| is_control(c) && c != '\n'), "{text}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            value
        );
    }

    /// Text in which sequences are likely.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"\x1b[".to_vec()),
            Just(b"\x1b[31m".to_vec()),
            Just(b"\r\n".to_vec()),
            Just("\u{9b}\u{202e}\u{e9}".as_bytes().to_vec()),
            any::<char>().prop_map(|c| c.to_string().into_bytes()),
            any::<u8>().prop_map(|byte| vec![byte]),
            "[0-9;:m\\[]{0,3}".prop_map(String::into_bytes),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    /// Removes the colours from filtered text.
    fn without_colours(text: &str) -> String {
        let mut parts = text.split("\x1b[");
        let mut plain = parts.next().unwrap().to_owned();
        for part in parts {
            let (parameters, rest) = part.split_once('m').expect("an SGR sequence ends in m");
            let allowed = |c: char| c.is_ascii_digit() || c == ';' || c == ':';
            assert!(parameters.chars().all(allowed), "{text:?}");
            plain.push_str(rest);
        }
        plain
    }

    proptest! {
        #[test]
        fn no_output_has_another_control(text in hostile()) {
            let out = shown(&[&text]);
            let plain = without_colours(&out);
            prop_assert!(!plain.chars().any(|c| is_control(c) && c != '\t' && c != '\n'), "{out:?}");
            prop_assert!(!out.contains("\x1b[") || out.ends_with("\x1b[0m"));
        }

        #[test]
        fn chunks_do_not_matter(text in hostile(), cuts in prop::collection::vec(0_usize..80, 0..4)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(shown(&chunks), shown(&[&text]));
        }

        #[test]
        fn plain_text_is_unchanged(text in "[ -~\t\n\u{a0}-\u{ff}]*") {
            prop_assert_eq!(filtered(&text), text);
        }
    }
}
