//! Pure: a binary package as `Packages` lists and control files describe it, as far as relations
//! see it.

use super::control::Paragraph;
use super::relations::{MultiArch, Offer, Provided};

/// The architecture of packages for every machine, and of those that name none.
pub(crate) const ALL: &str = "all";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// As written.
    pub(crate) version: String,
    pub(crate) architecture: String,
    pub(crate) multi_arch: MultiArch,
    /// Sorted, each entry once.
    pub(crate) provides: Vec<Provided>,
}

impl Package {
    /// Reads a package; `None` if it has no name or no version.
    pub(crate) fn read(paragraph: &Paragraph<'_>) -> Option<Self> {
        let field = |name| paragraph.get(name).map(|field| field.lines.concat());
        let provides = paragraph.get("Provides");
        let provides = provides.map(|field| field.lines.join(" "));
        Some(Self {
            name: field("Package").filter(|name| !name.is_empty())?,
            version: field("Version").filter(|version| !version.is_empty())?,
            architecture: field("Architecture").unwrap_or_else(|| ALL.to_owned()),
            multi_arch: MultiArch::parse(&field("Multi-Arch").unwrap_or_default()),
            provides: Provided::parse_all(&provides.unwrap_or_default()),
        })
    }

    /// Returns what the package offers to relations on `name`: itself, and its `Provides`.
    pub(crate) fn offers(&self, name: &str) -> impl Iterator<Item = Offer> {
        let own = (self.name == name).then(|| Offer {
            version: self.version.parse().ok(),
            arch: self.architecture.clone(),
            multi_arch: self.multi_arch,
            qualifier: None,
        });
        let provides = self.provides.iter();
        let provided = provides.filter(move |entry| entry.bare_name() == name);
        own.into_iter()
            .chain(provided.map(|entry| entry.offer(&self.architecture, self.multi_arch)))
    }
}
