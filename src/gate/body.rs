//! Pure: finds the end of a body, and decodes chunks.

use super::response::Framing;

/// The longest line between chunks, in bytes.
const MAX_LINE_BYTES: usize = 1 << 10;
/// The most bytes of headers behind the last chunk; they are dropped.
const MAX_TRAILER_BYTES: usize = 16 << 10;

/// A body's chunks are malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// A step of reading a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The next so many bytes, or fewer, belong to the file.
    Data(u64),
    /// The first so many bytes of the input are no part of the file: drop them.
    Skip(usize),
    /// The input must have more bytes first.
    Starved,
    End,
}

/// The state of a body that is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyState {
    Length(u64),
    UntilClose,
    /// Before a chunk's size.
    Size,
    /// Inside a chunk.
    Chunk(u64),
    /// Before the line break that ends a chunk.
    ChunkEnd,
    /// Behind the last chunk; holds the bytes of headers so far.
    Trailer(usize),
    End,
}

impl BodyState {
    pub(super) fn new(framing: Framing) -> Self {
        match framing {
            Framing::NoBody | Framing::Length(0) => Self::End,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Size,
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Returns the next step; `input` are the bytes that have arrived.
    pub(super) fn step(&mut self, input: &[u8]) -> Result<Step, Malformed> {
        match *self {
            Self::End => Ok(Step::End),
            Self::UntilClose => Ok(Step::Data(u64::MAX)),
            Self::Length(left) | Self::Chunk(left) => Ok(Step::Data(left)),
            Self::Size => self.line(input, |line| {
                let size = chunk_size(line)?;
                Ok(match size {
                    0 => Self::Trailer(0),
                    size => Self::Chunk(size),
                })
            }),
            Self::ChunkEnd => self.line(input, |line| match line {
                b"" => Ok(Self::Size),
                _ => Err(Malformed),
            }),
            Self::Trailer(before) => self.line(input, |line| {
                let bytes = before + line.len();
                match line {
                    b"" => Ok(Self::End),
                    _ if bytes > MAX_TRAILER_BYTES => Err(Malformed),
                    _ => Ok(Self::Trailer(bytes + 2)),
                }
            }),
        }
    }

    /// Counts `bytes` of the file as read; at most as many as [`Step::Data`] said.
    pub(super) fn advance(&mut self, bytes: u64) {
        *self = match *self {
            Self::Length(left) if left == bytes => Self::End,
            Self::Length(left) => Self::Length(left - bytes),
            Self::Chunk(left) if left == bytes => Self::ChunkEnd,
            Self::Chunk(left) => Self::Chunk(left - bytes),
            other => other,
        };
    }

    fn line(
        &mut self,
        input: &[u8],
        next: impl FnOnce(&[u8]) -> Result<Self, Malformed>,
    ) -> Result<Step, Malformed> {
        match input.iter().position(|byte| *byte == b'\n') {
            Some(end) if end < MAX_LINE_BYTES => {
                // A bare line feed is not a line break of HTTP.
                let line = input[..end].strip_suffix(b"\r").ok_or(Malformed)?;
                *self = next(line)?;
                Ok(Step::Skip(end + 1))
            }
            None if input.len() < MAX_LINE_BYTES => Ok(Step::Starved),
            _ => Err(Malformed),
        }
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let end = line.iter().position(|byte| *byte == b';');
    let digits = &line[..end.unwrap_or(line.len())];
    let digits = std::str::from_utf8(digits).map_err(|_| Malformed)?;
    let digits = digits.trim_end_matches([' ', '\t']);
    let hex = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let size = u64::from_str_radix(digits, 16).ok();
    size.filter(|_| hex).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a chunked body that arrives in pieces of `piece` bytes; returns it and the rest.
    fn decode(wire: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<u8>), Malformed> {
        let mut state = BodyState::new(Framing::Chunked);
        let (mut input, mut body) = (Vec::new(), Vec::new());
        let mut pieces = wire.chunks(piece);
        loop {
            match state.step(&input)? {
                Step::End => {
                    let rest = pieces.flatten();
                    input.extend(rest);
                    return Ok((body, input));
                }
                Step::Skip(count) => drop(input.drain(..count)),
                Step::Data(most) if !input.is_empty() => {
                    let count = input.len().min(usize::try_from(most).unwrap());
                    body.extend(input.drain(..count));
                    state.advance(count as u64);
                }
                Step::Data(_) | Step::Starved => {
                    input.extend(pieces.next().ok_or(Malformed)?);
                }
            }
        }
    }

    #[test]
    fn chunks_are_decoded_however_they_arrive() {
        let wire = b"5\r\nHello\r\n06 ;x=\"y\"\r\n World\r\n0\r\nTrailer: x\r\n\r\nHTTP/1.1";
        for piece in 1..wire.len() {
            let (body, rest) = decode(wire, piece).unwrap();
            assert_eq!(body, b"Hello World", "{piece}");
            assert_eq!(rest, b"HTTP/1.1");
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for wire in [
            &b"5\nHello\r\n0\r\n\r\n"[..],
            b"5\r\nHelloX\r\n0\r\n\r\n",
            b"5\r\nHello\n0\r\n\r\n",
            b"+5\r\nHello\r\n0\r\n\r\n",
            b"0x5\r\nHello\r\n0\r\n\r\n",
            b" 5\r\nHello\r\n0\r\n\r\n",
            b"\r\n0\r\n\r\n",
            b"g\r\n",
            b"10000000000000000\r\n",
            b"5\r\nHello\r\n",
            b"5\r\nHello\r\n0\r\n",
        ] {
            assert!(
                decode(wire, 3).is_err(),
                "{:?}",
                String::from_utf8_lossy(wire)
            );
        }
        assert!(decode(&[b'0'; 2000], 100).is_err());
        let endless = [&b"0\r\n"[..], &b"A: b\r\n".repeat(4000)].concat();
        assert!(decode(&endless, 1000).is_err());
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_file(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            piece in 1..50_usize,
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend(format!("{:x}\r\n", chunk.len()).bytes());
                wire.extend(chunk);
                wire.extend(b"\r\n");
            }
            wire.extend(b"0\r\n\r\nnext");
            let (body, rest) = decode(&wire, piece).unwrap();
            prop_assert_eq!(body, chunks.concat());
            prop_assert_eq!(rest, b"next");
        }
    }
}
