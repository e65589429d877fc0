//! Reads the control file of a .deb, .udeb or .ddeb that nobody vouches for.
//!
//! Two tools must never read two different control files from one package. So every structure that
//! dpkg and apt could read differently is refused: a second `control`, a link, an unusual member.
//! Memory, output and time are limited by [`Effort`].

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use tar::{Archive, Entry, EntryType};
use zstd::Decoder;

/// The largest `control.tar` accepted, compressed and not, in bytes.
const MAX_PACKED_BYTES: u64 = 16 << 20;
const MAX_TAR_BYTES: u64 = 64 << 20;
/// The largest control file accepted, in bytes.
const MAX_CONTROL_BYTES: u64 = 1 << 20;
/// The most memory that xz may use, in KiB: `xz -9` needs 65 MiB.
const MAX_XZ_KIB: u32 = 72 << 10;
/// The base 2 logarithm of the largest window of zstd, in bytes: 64 MiB.
const MAX_ZSTD_WINDOW_LOG: u32 = 26;
/// The limits on reading all packages of one build.
const TOTAL_BYTES: u64 = 1 << 30;
const TOTAL_TIME: Duration = Duration::from_secs(60);
/// The most members of a package; real ones have three.
const MAX_MEMBERS: usize = 64;

const MAGIC: &[u8] = b"!<arch>\n";
const HEADER_BYTES: usize = 60;

/// Why the control file of a package cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("is not a Debian package: {0}")]
    Malformed(String),
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
}

fn malformed<T>(problem: impl Into<String>) -> Result<T, Error> {
    Err(Error::Malformed(problem.into()))
}

/// The rest of the limits on the packages of one build.
#[derive(Debug)]
pub(crate) struct Effort {
    /// Decompressed bytes.
    bytes: u64,
    until: Instant,
}

impl Effort {
    pub(crate) fn new() -> Self {
        Self {
            bytes: TOTAL_BYTES,
            until: Instant::now() + TOTAL_TIME,
        }
    }

    fn check_time(&self) -> io::Result<()> {
        match Instant::now() < self.until {
            true => Ok(()),
            false => Err(io::Error::other(format!(
                "the control files of the packages take more than {} s",
                TOTAL_TIME.as_secs()
            ))),
        }
    }

    fn spend(&mut self, bytes: usize) -> io::Result<()> {
        let left = self.bytes.checked_sub(bytes as u64);
        self.bytes = left.ok_or_else(|| {
            io::Error::other(format!(
                "the control.tar of all packages have more than {} MiB",
                TOTAL_BYTES >> 20
            ))
        })?;
        self.check_time()
    }
}

/// A reader that fails once the time is over. A decompressor may read much and write nothing.
struct Timed<'a, R> {
    inner: R,
    effort: &'a RefCell<&'a mut Effort>,
}

impl<R: Read> Read for Timed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.effort.borrow().check_time()?;
        self.inner.read(buffer)
    }
}

/// A reader that fails after [`MAX_TAR_BYTES`], or when all effort is spent.
struct Output<'a> {
    inner: Box<dyn Read + 'a>,
    left: u64,
    effort: &'a RefCell<&'a mut Effort>,
}

impl Read for Output<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.effort.borrow_mut().spend(count)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::other(format!(
                "its control.tar has more than {} MiB",
                MAX_TAR_BYTES >> 20
            ))
        })?;
        Ok(count)
    }
}

/// Returns the text of the control file. Leaves the file at any position.
pub(crate) fn control<F: Read + Seek>(file: &mut F, effort: &mut Effort) -> Result<String, Error> {
    let member = find_control(file)?;
    if member.size > MAX_PACKED_BYTES {
        return malformed(format!(
            "its {} has more than {} MiB",
            member.name,
            MAX_PACKED_BYTES >> 20
        ));
    }
    file.seek(SeekFrom::Start(member.start))?;
    let effort = RefCell::new(effort);
    let packed = Timed {
        inner: file.take(member.size),
        effort: &effort,
    };
    let inner = decompressor(&member.name, BufReader::new(packed))?;
    let output = Output {
        inner,
        left: MAX_TAR_BYTES,
        effort: &effort,
    };
    control_of_tar(output)
}

/// A member of the outer archive.
struct Member {
    name: String,
    /// The position of its first byte.
    start: u64,
    size: u64,
}

/// Finds `control.tar…`. The order of the members is that of `deb(5)`.
fn find_control<F: Read + Seek>(file: &mut F) -> Result<Member, Error> {
    let len = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    let mut magic = [0; MAGIC.len()];
    if read_full(file, &mut magic)? != MAGIC.len() || magic != MAGIC {
        return malformed("it does not begin like one");
    }
    let mut members = Vec::new();
    let mut at = MAGIC.len() as u64;
    while at < len {
        let Some(member) = read_header(file, at, len)? else {
            break;
        };
        at = member.start + member.size + member.size % 2;
        // dpkg ignores these members.
        if !member.name.starts_with('_') {
            members.push(member);
        }
        if members.len() > MAX_MEMBERS {
            return malformed(format!("it has more than {MAX_MEMBERS} members"));
        }
    }
    let is = |index: usize, prefix: &str| {
        let name = members.get(index).map(|member: &Member| &*member.name);
        name.is_some_and(|name| name.starts_with(prefix))
    };
    let count = |prefix: &str| {
        let named = members.iter().filter(|one| one.name.starts_with(prefix));
        named.count()
    };
    let prefixes = ["debian-binary", "control.tar", "data.tar"];
    let in_order = prefixes
        .iter()
        .enumerate()
        .all(|(index, name)| is(index, name));
    if !in_order || prefixes.iter().any(|prefix| count(prefix) != 1) {
        return malformed("its members are not debian-binary, control.tar and data.tar, once each");
    }
    Ok(members.swap_remove(1))
}

/// Reads the header of the member at `at`; `None` if only padding is left.
fn read_header<F: Read + Seek>(file: &mut F, at: u64, len: u64) -> Result<Option<Member>, Error> {
    file.seek(SeekFrom::Start(at))?;
    let mut header = [0; HEADER_BYTES];
    let got = read_full(file, &mut header)?;
    if got <= 1 {
        return Ok(None);
    }
    let text = match std::str::from_utf8(&header) {
        Ok(text) if got == HEADER_BYTES && text.is_ascii() && text.ends_with("`\n") => text,
        _ => return malformed(format!("no valid member at byte {at}")),
    };
    let name = text[..16].trim_end_matches(' ');
    let name = name.strip_suffix('/').unwrap_or(name);
    // Other characters begin the long names that apt reads and dpkg does not.
    let is_usual = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if name.is_empty() || !name.bytes().all(is_usual) {
        return malformed(format!("it has a member {name:?}"));
    }
    let start = at + HEADER_BYTES as u64;
    let digits = text[48..58].trim_end_matches(' ');
    let size = match digits.bytes().all(|b| b.is_ascii_digit()) {
        true => digits.parse::<u64>().ok(),
        false => None,
    };
    match size {
        Some(size) if start + size <= len => Ok(Some(Member {
            name: name.to_owned(),
            start,
            size,
        })),
        _ => malformed(format!("the member {name:?} has no valid size")),
    }
}

fn read_full(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read(&mut buffer[got..])? {
            0 => break,
            count => got += count,
        }
    }
    Ok(got)
}

/// Returns a reader of the decompressed tar, chosen by the member's name as dpkg does.
fn decompressor<'a>(name: &str, packed: impl BufRead + 'a) -> Result<Box<dyn Read + 'a>, Error> {
    Ok(match name.strip_prefix("control.tar") {
        Some("") => Box::new(packed),
        Some(".gz") => Box::new(MultiGzDecoder::new(packed)),
        Some(".xz") => Box::new(XzReader::new_mem_limit(packed, true, MAX_XZ_KIB)),
        Some(".zst") => {
            let mut decoder = Decoder::with_buffer(packed)?.single_frame();
            decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
            Box::new(OneFrame(decoder))
        }
        _ => return malformed(format!("{name} is compressed in an unknown way")),
    })
}

/// A reader of zstd that fails at a second frame, which dpkg would read on.
struct OneFrame<R: BufRead>(Decoder<'static, R>);

impl<R: BufRead> Read for OneFrame<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        if count == 0 && !buffer.is_empty() && !self.0.get_mut().fill_buf()?.is_empty() {
            return Err(io::Error::other("control.tar.zst has more than one frame"));
        }
        Ok(count)
    }
}

/// Returns the only `control` of the tar.
fn control_of_tar(tar: impl Read) -> Result<String, Error> {
    let mut archive = Archive::new(tar);
    let mut found = None;
    for entry in archive.entries()? {
        let mut entry = entry?;
        if !is_plain(&mut entry)? {
            return malformed("its control.tar has an entry that tools read differently");
        }
        if !is_control(&entry.path_bytes()) {
            continue;
        }
        if found.is_some() || entry.header().entry_type() != EntryType::Regular {
            return malformed("its control.tar does not have control as one regular file");
        }
        let mut bytes = Vec::new();
        entry.take(MAX_CONTROL_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_CONTROL_BYTES {
            return malformed(format!(
                "control has more than {} MiB",
                MAX_CONTROL_BYTES >> 20
            ));
        }
        found = Some(String::from_utf8_lossy(&bytes).into_owned());
    }
    let text =
        found.ok_or_else(|| Error::Malformed("its control.tar has no control".to_owned()))?;
    check_lines(&text)?;
    Ok(text)
}

/// True if no extension of the tar format can give the entry another name in another tool.
fn is_plain(entry: &mut Entry<'_, impl Read>) -> Result<bool, Error> {
    let kind = entry.header().entry_type();
    let usual = kind.is_file() || kind.is_dir() || kind.is_symlink() || kind.is_hard_link();
    let mut extensions = match entry.pax_extensions()? {
        Some(extensions) => extensions,
        None => return Ok(usual),
    };
    let sparse = extensions.any(|one| one.is_ok_and(|one| one.key_bytes().starts_with(b"GNU.")));
    Ok(usual && !sparse)
}

/// True for `control`, `./control`, `/control` and the like.
fn is_control(path: &[u8]) -> bool {
    let parts = path.split(|byte| *byte == b'/');
    let mut parts = parts.filter(|part| !part.is_empty() && *part != b".");
    parts.next() == Some(b"control") && parts.next().is_none()
}

/// Refuses a second paragraph and comments: dpkg and apt disagree about them.
fn check_lines(text: &str) -> Result<(), Error> {
    let is_odd = |line: &str| line.trim().is_empty() || line.starts_with(['#', '-']);
    match text.trim_end().lines().any(is_odd) {
        true => malformed("its control has more than one paragraph, or a comment"),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
