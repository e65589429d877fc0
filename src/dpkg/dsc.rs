//! Pure: parses a .dsc, the description of a source package.
//!
//! It takes what `dpkg-source -x` takes: `Source`, `Version` and `Files` are mandatory, the
//! `Checksums-…` fields are not. The signature is not verified: the submitter is responsible for
//! the file. `source` looks for the files on disk.

use super::Error;
use super::control::{Field, Paragraph};
use crate::protocol::{FileName, Sha1Hex};

/// The largest .dsc accepted, in bytes.
pub(crate) const MAX_BYTES: u64 = 8 << 20;

/// A source package.
#[derive(Debug)]
pub(crate) struct Dsc {
    pub(crate) source: String,
    pub(crate) version: String,
    /// The architectures of `Architecture`, separated by one blank; `any` without that field. Older
    /// dpkg wrote `any` alone for packages of both kinds. If `Package-List` does not tell, `any`
    /// becomes `any all`.
    pub(crate) architecture: String,
    /// `Build-Indep-Architecture`: where to build the architecture-independent packages.
    pub(crate) indep_architecture: Option<String>,
    /// The names of its binary packages.
    pub(crate) binaries: Vec<String>,
    /// The section of its first binary package, such as `contrib/utils`.
    pub(crate) section: Option<String>,
    pub(crate) maintainer: Option<String>,
    pub(crate) files: Vec<SourceFile>,
}

/// A file of a source package, other than the .dsc. Hashes are lower-case hexadecimal; each file
/// has at least one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SourceFile {
    pub(crate) name: FileName,
    /// In bytes.
    pub(crate) size: u64,
    pub(crate) md5: Option<String>,
    pub(crate) sha1: Option<Sha1Hex>,
    pub(crate) sha256: Option<String>,
}

/// A list of files in a .dsc.
#[derive(Clone, Copy)]
enum List {
    Files,
    Sha1,
    Sha256,
}

impl List {
    const ALL: [Self; 3] = [Self::Files, Self::Sha1, Self::Sha256];

    const fn field(self) -> &'static str {
        match self {
            Self::Files => "Files",
            Self::Sha1 => "Checksums-Sha1",
            Self::Sha256 => "Checksums-Sha256",
        }
    }

    /// The number of hexadecimal digits of its hashes.
    const fn digits(self) -> usize {
        match self {
            Self::Files => 32,
            Self::Sha1 => 40,
            Self::Sha256 => 64,
        }
    }
}

impl Dsc {
    /// Parses the bytes of a file. Bytes that are not UTF-8 are harmless: the fields that matter
    /// are ASCII.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(Error::TooLarge(MAX_BYTES));
        }
        let text = String::from_utf8_lossy(bytes);
        let paragraph = Paragraph::parse(&text)?;
        let field = |name| paragraph.get(name).ok_or(Error::NoField(name));
        let (source, version) = (field("Source")?, field("Version")?);
        field("Files")?;
        let mut files = Vec::new();
        for list in List::ALL {
            if let Some(field) = paragraph.get(list.field()) {
                add_files(&mut files, list, field)?;
            }
        }
        let joined = |name| paragraph.get(name).map(|field| field.lines.join(" "));
        let packages = paragraph.get("Package-List");
        let section = packages.and_then(|field| {
            let first = field.lines.iter().find(|line| !line.is_empty())?;
            first.split_ascii_whitespace().nth(2).map(str::to_owned)
        });
        let architecture = joined("Architecture").unwrap_or_else(|| "any".to_owned());
        let mut architecture = words(&architecture).join(" ");
        let lists_archs = packages.is_some_and(|field| {
            let mut lines = field.lines.iter();
            lines.any(|line| line.contains(" arch="))
        });
        if architecture == "any" && !lists_archs {
            architecture.push_str(" all");
        }
        Ok(Self {
            source: checked("Source", source, is_source_name)?,
            version: checked("Version", version, is_version)?,
            architecture,
            indep_architecture: joined("Build-Indep-Architecture"),
            binaries: words(&joined("Binary").unwrap_or_default())
                .into_iter()
                .map(str::to_owned)
                .collect(),
            section,
            maintainer: joined("Maintainer"),
            files,
        })
    }

    /// True if all its binary packages are architecture-independent.
    pub(crate) fn is_only_arch_all(&self) -> bool {
        self.architecture == "all"
    }

    /// The name of the .dsc that sbuild expects, `SOURCE_VERSION.dsc` without an epoch. The file
    /// itself may have any name.
    ///
    /// # Errors
    /// The name is longer than a file name may be.
    pub(crate) fn file_name(&self) -> Result<FileName, Error> {
        let (source, version) = (&self.source, &self.version);
        let bare = version.split_once(':').map_or(&**version, |(_, rest)| rest);
        FileName::parse(&format!("{source}_{bare}.dsc"))
            .map_err(|error| Error::Name(error.to_string()))
    }
}

/// Returns the value of a field that must satisfy `is_valid`.
fn checked(
    name: &'static str,
    field: &Field<'_>,
    is_valid: fn(&str) -> bool,
) -> Result<String, Error> {
    let value = field.lines.concat();
    match is_valid(&value) {
        true => Ok(value),
        false => Err(Error::Field {
            field: name,
            line: field.line,
            problem: format!("{value:?} is not valid"),
        }),
    }
}

/// Returns whether dpkg's changelog parser accepts the name; sbuild makes paths of it.
fn is_source_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-+.".contains(&b))
}

/// Returns whether the text is a version by dpkg's rules: `[EPOCH:]UPSTREAM[-REVISION]`.
fn is_version(text: &str) -> bool {
    let (epoch, rest) = text.split_once(':').unwrap_or(("0", text));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, "0"));
    !epoch.is_empty()
        && epoch.bytes().all(|b| b.is_ascii_digit())
        && upstream.starts_with(|c: char| c.is_ascii_digit())
        && !revision.is_empty()
        && rest
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-+:.~".contains(&b))
}

/// Splits a list at commas and blanks.
fn words(text: &str) -> Vec<&str> {
    let is_separator = |c: char| c == ',' || c.is_ascii_whitespace();
    text.split(is_separator)
        .filter(|word| !word.is_empty())
        .collect()
}

/// Adds the hashes of one list to `files`, and the files that other lists lack.
fn add_files(files: &mut Vec<SourceFile>, list: List, field: &Field<'_>) -> Result<(), Error> {
    for (offset, line) in field.lines.iter().enumerate() {
        if line.is_empty() {
            continue;
        }
        let wrong = |problem: String| Error::Field {
            field: list.field(),
            line: field.line + offset,
            problem,
        };
        let (hash, size, name) = parse_line(list, line).map_err(wrong)?;
        let known = files.iter().position(|file| file.name == name);
        let index = known.unwrap_or_else(|| {
            files.push(SourceFile {
                name,
                size,
                md5: None,
                sha1: None,
                sha256: None,
            });
            files.len() - 1
        });
        let file = files.get_mut(index).expect("the index is of this list");
        if file.size != size {
            let problem = format!("{}: {size} bytes, but {} before", file.name, file.size);
            return Err(wrong(problem));
        }
        if add_hash(file, list, hash).map_err(wrong)? {
            return Err(wrong(format!("{} has two different hashes", file.name)));
        }
    }
    Ok(())
}

/// Sets the hash of a list. Returns whether the list has given another one before.
fn add_hash(file: &mut SourceFile, list: List, hash: &str) -> Result<bool, String> {
    let text = hash.to_owned();
    Ok(match list {
        List::Files => file.md5.replace(text).is_some_and(|old| old != hash),
        List::Sha256 => file.sha256.replace(text).is_some_and(|old| old != hash),
        List::Sha1 => {
            let sha1 = Sha1Hex::parse(hash).map_err(|error| error.to_string())?;
            let old = file.sha1.replace(sha1);
            old.is_some_and(|old| old.as_str() != hash)
        }
    })
}

/// Parses a line of a list: hash, size and name, with dpkg's rules for each.
fn parse_line(list: List, line: &str) -> Result<(&str, u64, FileName), String> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let &[hash, size, name] = &words[..] else {
        return Err("expected checksum, size and name".to_owned());
    };
    let is_hash =
        hash.len() == list.digits() && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !is_hash {
        let digits = list.digits();
        return Err(format!("{hash:?} is not a checksum of {digits} digits"));
    }
    let size = match size.bytes().all(|b| b.is_ascii_digit()) {
        true => size.parse().ok(),
        false => None,
    }
    .ok_or_else(|| format!("{size:?} is not a size"))?;
    let is_name = name.len() > 1
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-+:.,=_~".contains(&b));
    if !is_name {
        return Err(format!("invalid file name {name:?}"));
    }
    let name = FileName::parse(name).map_err(|error| error.to_string())?;
    if name.as_str().ends_with(".dsc") {
        return Err(format!("{name} is a .dsc, which cannot be part of another"));
    }
    Ok((hash, size, name))
}

#[cfg(test)]
mod tests;
