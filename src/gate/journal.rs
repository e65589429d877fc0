//! Pure: what went through the gate and what it refused, within bounds.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::refusal::Refusal;

/// The most memory that the record's URLs may take, in bytes.
const MAX_RECORD_BYTES: usize = 16 << 20;
/// The most sentences of each kind; a session can cause any number.
const MAX_SENTENCES: usize = 100;

/// One transfer through the gate, for the build's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fetched {
    File {
        /// Without user, password and query.
        url: String,
        bytes: u64,
        /// In lower-case hexadecimal.
        sha256: String,
        /// Only a part of the file was asked for; the hash is that of the part.
        partial: bool,
        from_cache: bool,
    },
    /// An https connection: the gate sees neither its files nor their hashes.
    Tunnel {
        /// `HOST:PORT`.
        authority: String,
        bytes_sent: u64,
        bytes_received: u64,
    },
}

/// The record and the sentences of one gate.
#[derive(Debug, Default)]
pub(super) struct Journal {
    fetched: Vec<Fetched>,
    bytes: usize,
    refused: Sentences,
    failed: Sentences,
}

#[derive(Debug, Default)]
struct Sentences {
    seen: HashSet<String>,
    list: Vec<String>,
    left_out: bool,
}

impl Journal {
    pub(super) fn add(&mut self, fetched: Fetched) {
        let name = match &fetched {
            Fetched::File { url, .. } => url,
            Fetched::Tunnel { authority, .. } => authority,
        };
        let bytes = name.len() + size_of::<Fetched>() + 64;
        if self.bytes + bytes > MAX_RECORD_BYTES {
            self.failed.add(
                "The gate's record is full: later files of this build are missing in it.".into(),
            );
            return;
        }
        self.bytes += bytes;
        self.fetched.push(fetched);
    }

    /// Remembers the sentence of a refusal or a failure.
    pub(super) fn note(&mut self, refusal: &Refusal) {
        let sentence = refusal.sentence.clone();
        if refusal.is_policy() {
            self.refused.add(sentence);
        } else {
            self.failed.add(sentence);
        }
    }

    /// Remembers a sentence about something that the gate does not do.
    pub(super) fn note_refused(&mut self, sentence: String) {
        self.refused.add(sentence);
    }

    pub(super) fn fetched(&self) -> Vec<Fetched> {
        self.fetched.clone()
    }

    pub(super) fn refused(&self) -> Vec<String> {
        self.refused.list.clone()
    }

    pub(super) fn failed(&self) -> Vec<String> {
        self.failed.list.clone()
    }
}

impl Sentences {
    fn add(&mut self, sentence: String) {
        if self.seen.contains(&sentence) || self.left_out {
            return;
        }
        if self.list.len() >= MAX_SENTENCES {
            self.left_out = true;
            self.list
                .push("Further sentences of the gate are left out.".into());
            return;
        }
        self.seen.insert(sentence.clone());
        self.list.push(sentence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_kept_once_and_bounded() {
        let mut journal = Journal::default();
        for number in (0..300).chain(0..300) {
            let sentence = format!("Refused {number}.");
            journal.note(&Refusal::forbidden("x", sentence));
        }
        journal.note(&Refusal::new(502, "x", "Failed.".into()));
        let refused = journal.refused();
        assert_eq!(refused.len(), MAX_SENTENCES + 1);
        assert_eq!(refused[1], "Refused 1.");
        assert!(refused.last().unwrap().ends_with("left out."));
        assert_eq!(journal.failed(), ["Failed."]);
    }

    #[test]
    fn the_record_is_bounded() {
        let mut journal = Journal::default();
        for number in 0..3000 {
            journal.add(Fetched::File {
                url: format!("http://a/{number}{}", "x".repeat(16 << 10)),
                bytes: 1,
                sha256: "0".repeat(64),
                partial: false,
                from_cache: false,
            });
        }
        let bytes: usize = 16 << 10;
        assert!(journal.fetched().len() <= MAX_RECORD_BYTES / bytes);
        assert!(journal.failed()[0].starts_with("The gate's record is full"));
    }
}
