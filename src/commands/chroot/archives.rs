//! Pure: finds a suite's archive among the host's apt sources.
//!
//! Reads `sources.list` and deb822 texts. Returns one-line entries of the suite and of its
//! `-updates` and `-security` pockets. Skips entries with a third party's keyring, which a build
//! chroot must not contain.

use crate::dpkg::control::{Field, Paragraph};

/// Returns the entries for `suite` in the one-line text `list`.
pub(super) fn in_list(list: &str, suite: &str) -> Vec<String> {
    list.lines()
        .filter_map(|line| one_line(line, suite))
        .collect()
}

fn one_line(line: &str, suite: &str) -> Option<String> {
    let line = line.split('#').next()?;
    let mut rest = line.trim().strip_prefix("deb")?.strip_prefix([' ', '\t'])?;
    rest = rest.trim_start();
    if let Some((options, after)) = rest.strip_prefix('[').and_then(|text| text.split_once(']')) {
        let signed_by = |option: &str| option.strip_prefix("signed-by=").map(str::to_owned);
        let keys = options.split_ascii_whitespace().find_map(signed_by);
        if !keys.is_none_or(|keys| is_own_keyring(&keys)) {
            return None;
        }
        rest = after;
    }
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    let (uri, name, components) = match &words[..] {
        [uri, name, components @ ..] => (uri, name, components),
        _ => return None,
    };
    entry(uri, name, components, suite)
}

/// Returns the entries for `suite` in the text of a `.sources` file; invalid stanzas are skipped.
pub(super) fn in_deb822(text: &str, suite: &str) -> Vec<String> {
    let mut entries = Vec::new();
    for stanza in text.split("\n\n") {
        let Ok(paragraph) = Paragraph::parse(stanza) else {
            continue;
        };
        let words = |name| paragraph.get(name).map(words).unwrap_or_default();
        let off = words("Enabled").first().is_some_and(|word| *word == "no");
        let foreign = paragraph
            .get("Signed-By")
            .is_some_and(|field| !is_own_keyring(&field.lines.concat()));
        if off || foreign || !words("Types").contains(&"deb") {
            continue;
        }
        let components = words("Components");
        for uri in words("URIs") {
            for name in words("Suites") {
                entries.extend(entry(uri, name, &components, suite));
            }
        }
    }
    entries
}

fn words<'a>(field: &Field<'a>) -> Vec<&'a str> {
    let lines = field.lines.iter();
    lines
        .flat_map(|line| line.split_ascii_whitespace())
        .collect()
}

/// Returns the entry as a line if it belongs to `suite` and has an HTTP URL.
fn entry(uri: &str, name: &str, components: &[&str], suite: &str) -> Option<String> {
    let pocket = name.strip_prefix(suite)?;
    let wanted = matches!(pocket, "" | "-updates" | "-security") && !components.is_empty();
    let remote = uri.starts_with("http://") || uri.starts_with("https://");
    (wanted && remote).then(|| format!("deb {uri} {name} {}", components.join(" ")))
}

/// Returns whether a `Signed-By` names a keyring of the distribution itself.
fn is_own_keyring(signed_by: &str) -> bool {
    let file = signed_by.rsplit('/').next().unwrap_or_default();
    file.starts_with("debian-archive-") || file.starts_with("ubuntu-archive-")
}

/// The suites of each distribution, the oldest first. All are in the same archives, until they are
/// moved away.
const DISTRIBUTIONS: [&[&str]; 2] = [
    &[
        "stretch", "buster", "bullseye", "bookworm", "trixie", "forky", "duke", "testing", "sid",
        "unstable",
    ],
    &[
        "trusty", "xenial", "bionic", "focal", "jammy", "noble", "plucky", "questing", "resolute",
    ],
];
/// Suites that have no pockets.
const WITHOUT_POCKETS: [&str; 2] = ["sid", "unstable"];
/// Suites older than the names `SUITE-security` and `non-free-firmware`.
const OLD_SECURITY: [&str; 2] = ["stretch", "buster"];
const OLD_FIRMWARE: [&str; 3] = ["stretch", "buster", "bullseye"];

/// Returns the lines for `suite` in the archives of `lines`, which are for the suite `own` of the
/// same distribution; none if the distribution is another one or unknown.
pub(super) fn for_other_suite(lines: &[String], own: &str, suite: &str) -> Vec<String> {
    let has_both = |names: &&&[&str]| names.contains(&own) && names.contains(&suite);
    if DISTRIBUTIONS.iter().find(has_both).is_none() {
        return Vec::new();
    }
    let translate = |line: &String| {
        let mut words = line.split(' ').skip(1);
        let (uri, name) = (words.next()?, words.next()?);
        let pocket = name.strip_prefix(own)?;
        if !pocket.is_empty() && WITHOUT_POCKETS.contains(&suite) {
            return None;
        }
        let name = match pocket {
            "-security" if OLD_SECURITY.contains(&suite) => format!("{suite}/updates"),
            pocket => format!("{suite}{pocket}"),
        };
        let too_new = |word: &&str| *word == "non-free-firmware" && OLD_FIRMWARE.contains(&suite);
        let components: Vec<&str> = words.filter(|word| !too_new(word)).collect();
        let some = !components.is_empty();
        some.then(|| format!("deb {uri} {name} {}", components.join(" ")))
    };
    lines.iter().filter_map(translate).collect()
}

/// Returns whether the lines include the suite itself, not only its pockets.
pub(super) fn include_suite(lines: &[String], suite: &str) -> bool {
    lines
        .iter()
        .any(|line| line.split(' ').nth(2) == Some(suite))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_line_entries_of_the_suite_are_found() {
        let list = "# deb http://h/debian bookworm main\n\
            deb http://h/debian bookworm main contrib # comment\n\
            deb-src http://h/debian bookworm main\n\
            deb\t[ arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg ] https://h/debian bookworm-updates main\n\
            deb [signed-by=/etc/apt/keyrings/docker.gpg] https://download.example/debian bookworm stable\n\
            deb https://packages.example/apt cloud-sdk-bookworm main\n\
            deb http://h/debian bookworm-backports main\n\
            deb cdrom:[Debian]/ bookworm main\n\
            deb http://h/flat ./\n";
        let lines = in_list(list, "bookworm");
        assert_eq!(
            lines,
            [
                "deb http://h/debian bookworm main contrib",
                "deb https://h/debian bookworm-updates main"
            ]
        );
        assert!(include_suite(&lines, "bookworm"));
        assert!(!include_suite(&lines[1..], "bookworm"));
    }

    #[test]
    fn another_suite_is_looked_for_in_the_same_archives() {
        let lines = [
            "deb http://h/debian bookworm main non-free-firmware",
            "deb http://h/debian bookworm-updates main",
            "deb http://h/debian-security bookworm-security main",
        ]
        .map(str::to_owned);
        let of = |suite: &str| for_other_suite(&lines, "bookworm", suite);
        assert_eq!(
            of("buster"),
            [
                "deb http://h/debian buster main",
                "deb http://h/debian buster-updates main",
                "deb http://h/debian-security buster/updates main"
            ]
        );
        assert_eq!(
            of("trixie"),
            [
                "deb http://h/debian trixie main non-free-firmware",
                "deb http://h/debian trixie-updates main",
                "deb http://h/debian-security trixie-security main"
            ]
        );
        assert_eq!(
            of("sid"),
            ["deb http://h/debian sid main non-free-firmware"]
        );
        assert!(of("noble").is_empty() && of("nosuch").is_empty());
    }

    #[test]
    fn only_deb822_entries_of_the_suite_are_found() {
        let text = "Types: deb deb-src\n# http://snapshot\nURIs: http://h/debian\n\
            Suites: bookworm bookworm-updates\nComponents: main\n\
            Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
            Types: deb\nURIs: http://h/debian-security\nSuites: bookworm-security\nComponents: main\n\n\
            Types: deb\nURIs: https://node.example/node_20.x\nSuites: nodistro\nComponents: main\n\n\
            Types: deb\nURIs: https://third.example/\nSuites: bookworm\nComponents: main\n\
            Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n x\n\n\
            Enabled: no\nTypes: deb\nURIs: http://off/\nSuites: bookworm\nComponents: main\n\n\
            no field\n";
        assert_eq!(
            in_deb822(text, "bookworm"),
            [
                "deb http://h/debian bookworm main",
                "deb http://h/debian bookworm-updates main",
                "deb http://h/debian-security bookworm-security main"
            ]
        );
        assert!(in_deb822(text, "trixie").is_empty());
    }
}
