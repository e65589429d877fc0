//! Checks that results belong to the build that was dispatched (docs/wire.md §3.6).
//!
//! The package wrote its results, so their names prove nothing. The .changes, each .buildinfo and
//! the control file of each package must name source, version and architecture of the build. Slave
//! and master call this code, so that neither relies on the other.

use std::io::{Read, Seek, SeekFrom};

use super::Error;
use super::changes::{Entry, MAX_BYTES};
use super::control::Paragraph;
use super::deb::{self, Effort};

/// The architecture of packages for all machines.
const ALL: &str = "all";
/// The word in `Architecture` of a .changes that includes the source.
const SOURCE: &str = "source";

/// The build that was dispatched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) source: String,
    /// With its epoch.
    pub(crate) version: String,
    pub(crate) arch: String,
    /// True if architecture-independent packages were requested.
    pub(crate) arch_indep: bool,
    /// The names of the files of the source.
    pub(crate) inputs: Vec<String>,
}

/// The source that a control file names; the version may be absent.
#[derive(Debug, PartialEq, Eq)]
struct SourceField<'a> {
    name: &'a str,
    version: Option<&'a str>,
}

impl Expected {
    /// Reads source and version from the .dsc.
    pub(crate) fn of_dsc(dsc: &[u8], arch: &str, arch_indep: bool) -> Result<Self, Error> {
        let text = String::from_utf8_lossy(dsc);
        let paragraph = Paragraph::parse(&text)?;
        let field = |name| value(&paragraph, name).ok_or(Error::NoField(name));
        Ok(Self {
            source: field("Source")?,
            version: field("Version")?,
            arch: arch.to_owned(),
            arch_indep,
            inputs: Vec::new(),
        })
    }

    /// Checks the fields of a .changes, and the names of the files it lists.
    pub(crate) fn check_changes(&self, text: &[u8], entries: &[Entry]) -> Result<(), String> {
        self.check_list(text, entries)?;
        entries.iter().try_for_each(|entry| self.check_name(entry))
    }

    /// Checks the name of a listed file.
    fn check_name(&self, entry: &Entry) -> Result<(), String> {
        let name = entry.name.as_str();
        if !is_result_name(name) {
            return Err(format!("{name:?} is not a valid file name for a result"));
        }
        if name.ends_with(".dsc") || self.inputs.iter().any(|input| input == name) {
            return Err(format!("lists {name}, but {self}, without the source"));
        }
        if name.ends_with(".changes") {
            return Err(format!("lists {name}, another .changes"));
        }
        Ok(())
    }

    /// Checks one of the listed `entries` by its content. Leaves the file at its start.
    pub(crate) fn check_file<F: Read + Seek>(
        &self,
        name: &str,
        file: &mut F,
        entries: &[Entry],
        effort: &mut Effort,
    ) -> Result<(), String> {
        if is_package(name) {
            let text = deb::control(file, effort).map_err(|error| error.to_string())?;
            self.check_package(name, &text)?;
        } else if name.ends_with(".buildinfo") {
            let mut text = Vec::new();
            let read = file.take(MAX_BYTES + 1).read_to_end(&mut text);
            read.map_err(|error| error.to_string())?;
            if text.len() as u64 > MAX_BYTES {
                return Err(Error::TooLarge(MAX_BYTES).to_string());
            }
            self.check_list(&text, entries)?;
        }
        file.seek(SeekFrom::Start(0))
            .map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Checks the fields that .changes and .buildinfo share; `entries` are those of the .changes.
    fn check_list(&self, text: &[u8], entries: &[Entry]) -> Result<(), String> {
        let text = String::from_utf8_lossy(text);
        let paragraph = Paragraph::parse(&text).map_err(|error| error.to_string())?;
        let field = |name| value(&paragraph, name).ok_or_else(|| Error::NoField(name).to_string());
        let (source, version) = (field("Source")?, field("Version")?);
        let named = parse_source(&source).ok_or_else(|| self.differs("Source", &source))?;
        if named.name != self.source {
            return Err(self.differs("Source", &source));
        }
        match named.version {
            // A binary-only rebuild has a version of its own, and names that of the source.
            Some(of_source) if of_source != self.version => {
                return Err(self.differs("Source", &source));
            }
            Some(_) if !is_rebuild(&version, &self.version) => {
                return Err(self.differs("Version", &version));
            }
            None if version != self.version => return Err(self.differs("Version", &version)),
            _ => {}
        }
        let architecture = field("Architecture")?;
        let mut words = architecture.split_ascii_whitespace();
        let good = |word: &str| {
            word != SOURCE && (self.is_requested(word) || is_word_of_a_file(word, entries))
        };
        match words.all(good) {
            true => Ok(()),
            false => Err(self.differs("Architecture", &architecture)),
        }
    }

    /// Checks the control file of the package `name`.
    fn check_package(&self, name: &str, control: &str) -> Result<(), String> {
        let paragraph = Paragraph::parse(control).map_err(|error| error.to_string())?;
        let field = |name| value(&paragraph, name).ok_or_else(|| Error::NoField(name).to_string());
        let (package, version) = (field("Package")?, field("Version")?);
        let architecture = field("Architecture")?;
        let source = value(&paragraph, "Source").unwrap_or_else(|| package.clone());
        let named = parse_source(&source).ok_or_else(|| self.differs("Source", &source))?;
        if named.name != self.source {
            return Err(self.differs("Source", &source));
        }
        if named.version.unwrap_or(&version) != self.version {
            let got = named.version.map_or("Version", |_| "Source");
            let value = if got == "Source" { &source } else { &version };
            return Err(self.differs(got, value));
        }
        if !self.is_requested(&architecture) {
            return Err(self.differs("Architecture", &architecture));
        }
        let stem = format!("{package}_{}_{architecture}.", without_epoch(&version));
        match name.strip_prefix(&*stem) {
            Some(extension) if !extension.contains('.') => Ok(()),
            _ => Err(format!(
                "its control file is of {package} {version} for {architecture}, which belongs in \
                 {stem}deb"
            )),
        }
    }

    fn is_requested(&self, arch: &str) -> bool {
        arch == self.arch || (self.arch_indep && arch == ALL)
    }

    fn differs(&self, field: &str, got: &str) -> String {
        let shown: String = got.chars().take(100).collect();
        format!("its {field} is {shown:?}, but {self}")
    }
}

/// Shows `this build is of hello 1 for i386`.
impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = if self.arch_indep { " and all" } else { "" };
        let (source, version, arch) = (&self.source, &self.version, &self.arch);
        write!(f, "this build is of {source} {version} for {arch}{all}")
    }
}

/// Returns the first line of a field; `None` if it has more lines or no text.
fn value(paragraph: &Paragraph<'_>, name: &str) -> Option<String> {
    let field = paragraph.get(name)?;
    match &field.lines[..] {
        [line] if !line.is_empty() => Some((*line).to_owned()),
        _ => None,
    }
}

/// Parses `NAME` or `NAME (VERSION)`.
fn parse_source(text: &str) -> Option<SourceField<'_>> {
    let end = text.find([' ', '(']).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let version = match rest.trim() {
        "" => None,
        rest => Some(rest.strip_prefix('(')?.strip_suffix(')')?.trim()),
    };
    Some(SourceField { name, version })
}

/// True if `version` is that of the source, or has a suffix as `+b1` or `~bpo12`.
fn is_rebuild(version: &str, source: &str) -> bool {
    let suffix = version.strip_prefix(source);
    suffix.is_some_and(|suffix| suffix.is_empty() || suffix.starts_with(['+', '~']))
}

/// True for the files whose control file is checked.
fn is_package(name: &str) -> bool {
    [".deb", ".udeb", ".ddeb"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// True if dpkg-genchanges takes `word` for the architecture of a listed file that is no package,
/// as `amd64_translations` of `hello_1_amd64_translations.tar.gz`.
fn is_word_of_a_file(word: &str, entries: &[Entry]) -> bool {
    let names = entries.iter().map(|entry| entry.name.as_str());
    let mut others = names.filter(|name| !is_package(name));
    word != ALL
        && others.any(|name| {
            let arch = name.splitn(3, '_').nth(2);
            arch.and_then(|arch| arch.split('.').next()) == Some(word)
        })
}

/// True for the names that dpkg accepts in `debian/files`, other than hidden ones and options.
pub(crate) fn is_result_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".+~_:,-".contains(&b))
}

/// Returns the version as file names have it.
fn without_epoch(version: &str) -> &str {
    version.split_once(':').map_or(version, |(_, rest)| rest)
}

#[cfg(test)]
mod tests;
