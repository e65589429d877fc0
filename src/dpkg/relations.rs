//! Pure: parses, prints and evaluates package relations, for the slave and the master.
//!
//! The rules are those of apt and dpkg (docs/wire.md §3.7). A relation has two spellings, which
//! differ in a single `<` or `>` ([`Spelling`]); it is always printed with `<<` or `>>`.

use std::fmt;

use debversion::Version;

use super::arch;
use crate::protocol::BuildProfile;

/// The meaning of a single `<` or `>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// Control files: dpkg and apt read them as `<=` and `>=`, an obsolete form.
    Control,
    /// apt's messages, and the dependency line of a verdict: they are strict, `<<` and `>>`.
    Message,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Earlier,
    EarlierOrEqual,
    Equal,
    LaterOrEqual,
    Later,
}

impl Operator {
    /// Each operator as it is printed.
    const ALL: [(Self, &str); 5] = [
        (Self::Earlier, "<<"),
        (Self::EarlierOrEqual, "<="),
        (Self::Equal, "="),
        (Self::LaterOrEqual, ">="),
        (Self::Later, ">>"),
    ];

    fn parse(text: &str, spelling: Spelling) -> Option<Self> {
        match (text, spelling) {
            ("<", Spelling::Control) => Some(Self::EarlierOrEqual),
            (">", Spelling::Control) => Some(Self::LaterOrEqual),
            ("<", Spelling::Message) => Some(Self::Earlier),
            (">", Spelling::Message) => Some(Self::Later),
            _ => Self::ALL
                .iter()
                .find_map(|(operator, known)| (*known == text).then_some(*operator)),
        }
    }

    fn holds(self, version: &Version, wanted: &Version) -> bool {
        match self {
            Self::Earlier => version < wanted,
            Self::EarlierOrEqual => version <= wanted,
            Self::Equal => version == wanted,
            Self::LaterOrEqual => version >= wanted,
            Self::Later => version > wanted,
        }
    }
}

/// The architecture that a relation asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Qualifier {
    Any,
    Native,
    Arch(String),
}

impl Qualifier {
    fn parse(text: &str) -> Self {
        match text {
            "any" => Self::Any,
            "native" => Self::Native,
            arch => Self::Arch(arch.to_owned()),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Any => "any",
            Self::Native => "native",
            Self::Arch(arch) => arch,
        }
    }
}

/// A word of an `[arch]` list or a `<profile>` formula; `!` negates it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    negated: bool,
    word: String,
}

/// One alternative of a [`Group`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Relation {
    pub(crate) name: String,
    pub(crate) qualifier: Option<Qualifier>,
    pub(crate) version: Option<(Operator, Version)>,
    architectures: Vec<Term>,
    profiles: Vec<Vec<Term>>,
}

/// Alternatives, of which one is enough. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group(pub(crate) Vec<Relation>);

/// A field or line of relations: groups that must all be satisfied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Relations(pub(crate) Vec<Group>);

impl Relations {
    /// Parses groups separated by commas; empty ones are skipped, as in dpkg.
    pub(crate) fn parse(text: &str, spelling: Spelling) -> Result<Self, String> {
        let groups = text.split(',').filter(|group| !group.trim().is_empty());
        let groups = groups.map(|group| Group::parse(group, spelling));
        groups.collect::<Result<_, _>>().map(Self)
    }

    /// Returns the groups in the form of a verdict's dependency line, each once
    /// ([`Group::for_master`]).
    pub(crate) fn for_master(&self) -> String {
        let mut groups: Vec<String> = Vec::new();
        for group in self.0.iter().map(Group::for_master) {
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        groups.join(", ")
    }
}

impl Group {
    pub(crate) fn parse(text: &str, spelling: Spelling) -> Result<Self, String> {
        let relations = text.split('|').map(|text| Relation::parse(text, spelling));
        relations.collect::<Result<_, _>>().map(Self)
    }

    /// Returns the alternatives that apply on `arch` with these active build profiles; `None` if
    /// there are none.
    pub(crate) fn applying(&self, arch: &str, profiles: &[BuildProfile]) -> Option<Self> {
        let apply = self.0.iter().filter(|one| one.applies(arch, profiles));
        let alternatives: Vec<Relation> = apply.cloned().collect();
        (!alternatives.is_empty()).then_some(Self(alternatives))
    }

    /// Returns the group in the form of a verdict's dependency line: names and versions only.
    pub(crate) fn for_master(&self) -> String {
        let alternatives = self.0.iter().map(|one| one.for_master().to_string());
        alternatives.collect::<Vec<_>>().join(" | ")
    }
}

impl Relation {
    /// Parses `NAME[:QUALIFIER] [(OP VERSION)] [[ARCH…]] [<PROFILE…>…]`.
    pub(crate) fn parse(text: &str, spelling: Spelling) -> Result<Self, String> {
        let text = text.trim();
        let wrong = |problem: &str| format!("{text:?} {problem}");
        let (name, rest) = take_word(text, "+.-").ok_or_else(|| wrong("names no package"))?;
        let (qualifier, rest) = match rest.strip_prefix(':') {
            Some(rest) => take_word(rest, "-")
                .map(|(word, rest)| (Some(Qualifier::parse(word)), rest))
                .ok_or_else(|| wrong("has no architecture after the colon"))?,
            None => (None, rest),
        };
        let closed = |open, close| wrong(&format!("has `{open}` without `{close}`"));
        let (inside, rest) = enclosed(rest, '(', ')').ok_or_else(|| closed('(', ')'))?;
        let version = inside.map(|inside| constraint(inside, spelling));
        let version = version.transpose().map_err(|problem| wrong(&problem))?;
        let (inside, mut rest) = enclosed(rest, '[', ']').ok_or_else(|| closed('[', ']'))?;
        let architectures = terms(inside.unwrap_or_default())
            .ok_or_else(|| wrong("has an architecture that is no name"))?;
        let mut profiles = Vec::new();
        while let (Some(inside), after) =
            enclosed(rest, '<', '>').ok_or_else(|| closed('<', '>'))?
        {
            let formula = terms(inside).filter(|formula| !formula.is_empty());
            profiles.push(formula.ok_or_else(|| wrong("has a build profile that is no name"))?);
            rest = after;
        }
        if !rest.trim().is_empty() {
            return Err(wrong(&format!("has {:?} at its end", rest.trim())));
        }
        Ok(Self {
            name: name.to_owned(),
            qualifier,
            version,
            architectures,
            profiles,
        })
    }

    /// A relation on a version, without restrictions.
    pub(crate) fn versioned(name: &str, operator: Operator, version: Version) -> Self {
        Self {
            name: name.to_owned(),
            qualifier: None,
            version: Some((operator, version)),
            architectures: Vec::new(),
            profiles: Vec::new(),
        }
    }

    /// Returns the name with its qualifier.
    pub(crate) fn without_version(&self) -> String {
        match &self.qualifier {
            Some(qualifier) => format!("{}:{}", self.name, qualifier.as_str()),
            None => self.name.clone(),
        }
    }

    /// Returns name and version only.
    pub(crate) fn for_master(&self) -> Self {
        Self {
            qualifier: None,
            architectures: Vec::new(),
            profiles: Vec::new(),
            ..self.clone()
        }
    }

    /// True if the relation applies on `arch` with these active build profiles.
    fn applies(&self, arch: &str, profiles: &[BuildProfile]) -> bool {
        let active = |word: &str| profiles.iter().any(|profile| profile.as_str() == word);
        let holds = |term: &Term| active(&term.word) != term.negated;
        let of_profiles = |formula: &Vec<Term>| formula.iter().all(holds);
        self.applies_on(arch) && (self.profiles.is_empty() || self.profiles.iter().any(of_profiles))
    }

    /// The first word that matches decides, as in dpkg.
    fn applies_on(&self, arch: &str) -> bool {
        let decides = |term: &&Term| arch::matches(arch, &term.word);
        match self.architectures.iter().find(decides) {
            Some(term) => !term.negated,
            // A list of exceptions allows all others.
            None => {
                self.architectures.is_empty() || self.architectures.iter().any(|one| one.negated)
            }
        }
    }

    /// True if `offer` satisfies the relation on a machine of `arch`.
    pub(crate) fn is_satisfied_by(&self, offer: &Offer, arch: &str) -> bool {
        self.reaches(offer, arch) && self.allows(offer.version.as_ref())
    }

    /// True if the version constraint holds. A constraint never holds for no version.
    fn allows(&self, version: Option<&Version>) -> bool {
        let Some((operator, wanted)) = &self.version else {
            return true;
        };
        version.is_some_and(|version| operator.holds(version, wanted))
    }

    /// True if the architecture of `offer` is one that the relation asks for.
    fn reaches(&self, offer: &Offer, arch: &str) -> bool {
        let native = offer.arch == arch || offer.arch == "all";
        match (&self.qualifier, &offer.qualifier) {
            // A package is built for the machine that it is built on, so `:native` says nothing.
            (None | Some(Qualifier::Native), None) => {
                native || offer.multi_arch == MultiArch::Foreign
            }
            (Some(Qualifier::Any), None) => offer.multi_arch == MultiArch::Allowed,
            (Some(Qualifier::Arch(wanted)), None) => {
                offer.arch == *wanted || (native && wanted == arch)
            }
            (None | Some(Qualifier::Native), Some(provided)) => provided.as_str() == arch,
            (Some(wanted), Some(provided)) => wanted == provided,
        }
    }
}

impl fmt::Display for Relations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        join(f, &self.0, ", ")
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        join(f, &self.0, " | ")
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.without_version())?;
        if let Some((operator, version)) = &self.version {
            write!(f, " ({operator} {version})")?;
        }
        if !self.architectures.is_empty() {
            f.write_str(" [")?;
            join(f, &self.architectures, " ")?;
            f.write_str("]")?;
        }
        for formula in &self.profiles {
            f.write_str(" <")?;
            join(f, formula, " ")?;
            f.write_str(">")?;
        }
        Ok(())
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = Self::ALL.iter().find(|(operator, _)| operator == self);
        f.write_str(own.map_or("", |(_, text)| text))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.negated { "!" } else { "" };
        write!(f, "{mark}{}", self.word)
    }
}

fn join<T: fmt::Display>(f: &mut fmt::Formatter<'_>, all: &[T], between: &str) -> fmt::Result {
    for (index, one) in all.iter().enumerate() {
        if index > 0 {
            f.write_str(between)?;
        }
        write!(f, "{one}")?;
    }
    Ok(())
}

/// The field `Multi-Arch` of a package.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MultiArch {
    #[default]
    No,
    Same,
    Foreign,
    Allowed,
}

impl MultiArch {
    /// Each value as it is written in a control file and a database.
    const ALL: [(Self, &str); 4] = [
        (Self::No, "no"),
        (Self::Same, "same"),
        (Self::Foreign, "foreign"),
        (Self::Allowed, "allowed"),
    ];

    /// Any other text is `no`, as in apt.
    pub(crate) fn parse(text: &str) -> Self {
        let found = Self::ALL.iter().find(|(_, known)| *known == text);
        found.map_or(Self::No, |(value, _)| *value)
    }

    pub(crate) fn as_str(self) -> &'static str {
        let own = Self::ALL.iter().find(|(value, _)| *value == self);
        own.map_or("no", |(_, text)| text)
    }
}

/// One thing that can satisfy relations on a name: a package, or an entry of its `Provides`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// `None` satisfies only relations without a version.
    pub(crate) version: Option<Version>,
    /// The architecture of the package, such as `all`.
    pub(crate) arch: String,
    pub(crate) multi_arch: MultiArch,
    /// The architecture that an entry of `Provides` names.
    pub(crate) qualifier: Option<Qualifier>,
}

/// One entry of a `Provides` field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Provided {
    /// The name, perhaps with `:QUALIFIER`.
    pub(crate) name: String,
    /// The version as written; empty if there is none.
    pub(crate) version: String,
}

impl Provided {
    /// Parses a `Provides` field. Entries that apt would ignore are left out: damaged ones, and
    /// those with another operator than `=`.
    pub(crate) fn parse_all(field: &str) -> Vec<Self> {
        let entries = field.split(',').filter_map(|entry| {
            let entry = Relation::parse(entry, Spelling::Control).ok()?;
            let version = match &entry.version {
                None => String::new(),
                Some((Operator::Equal, version)) => version.to_string(),
                Some(_) => return None,
            };
            let name = entry.without_version();
            Some(Self { name, version })
        });
        let mut entries: Vec<Self> = entries.collect();
        entries.sort();
        entries.dedup();
        entries
    }

    /// Joins the parts of an entry; the qualifier and the version may be empty.
    pub(crate) fn of(name: &str, qualifier: &str, version: String) -> Self {
        let name = match qualifier {
            "" => name.to_owned(),
            qualifier => format!("{name}:{qualifier}"),
        };
        Self { name, version }
    }

    /// Returns the name without its qualifier.
    pub(crate) fn bare_name(&self) -> &str {
        self.name.split(':').next().unwrap_or_default()
    }

    /// Returns the qualifier of the name; empty if there is none.
    pub(crate) fn qualifier(&self) -> &str {
        self.name
            .split_once(':')
            .map_or("", |(_, qualifier)| qualifier)
    }

    /// Returns the offer of this entry in a package.
    pub(crate) fn offer(&self, arch: &str, multi_arch: MultiArch) -> Offer {
        let qualifier = self.qualifier();
        Offer {
            version: self.version.parse().ok(),
            arch: arch.to_owned(),
            multi_arch,
            qualifier: (!qualifier.is_empty()).then(|| Qualifier::parse(qualifier)),
        }
    }
}

/// Splits off a word of letters, digits and `more`, which begins with a letter or digit.
fn take_word<'a>(text: &'a str, more: &str) -> Option<(&'a str, &'a str)> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && !more.contains(c));
    let (word, rest) = text.split_at(end.unwrap_or(text.len()));
    let begins = word.starts_with(|c: char| c.is_ascii_alphanumeric());
    begins.then_some((word, rest))
}

/// Splits off what stands between `open` and `close` at the start of `text`; `None` inside if
/// `text` does not begin with `open`, `None` if `close` is missing.
fn enclosed(text: &str, open: char, close: char) -> Option<(Option<&str>, &str)> {
    let trimmed = text.trim_start();
    match trimmed.strip_prefix(open) {
        None => Some((None, text)),
        Some(rest) => rest
            .split_once(close)
            .map(|(inside, after)| (Some(inside.trim()), after)),
    }
}

/// Parses `OP VERSION`.
fn constraint(text: &str, spelling: Spelling) -> Result<(Operator, Version), String> {
    let end = text.find(|c| !"<=>".contains(c)).unwrap_or(text.len());
    let (operator, version) = text.split_at(end);
    let operator = Operator::parse(operator, spelling)
        .ok_or_else(|| format!("has no operator of versions: {operator:?}"))?;
    let version = version.trim();
    let version = version
        .parse()
        .map_err(|_| format!("has no valid version: {version:?}"))?;
    Ok((operator, version))
}

/// Parses words separated by blanks; `None` if one is no name.
fn terms(text: &str) -> Option<Vec<Term>> {
    let term = |text: &str| {
        let bare = text.strip_prefix('!');
        let (word, rest) = take_word(bare.unwrap_or(text), "-.+")?;
        rest.is_empty().then(|| Term {
            negated: bare.is_some(),
            word: word.to_owned(),
        })
    };
    text.split_whitespace().map(term).collect()
}

#[cfg(test)]
mod tests;
