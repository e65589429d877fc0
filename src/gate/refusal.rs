//! Pure: an error answer of the gate, with a phrase for apt and a sentence for the operator.

/// The longest reason or sentence in bytes: a URL in it may be long.
const MAX_BYTES: usize = 400;

/// An answer that refuses a request or reports that it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    /// The reason phrase of the status line, which apt prints.
    pub(super) reason: String,
    /// Names the refused or failed thing, and the mend.
    pub(super) sentence: String,
}

impl Refusal {
    pub(super) fn new(status: u16, reason: &str, sentence: String) -> Self {
        Self {
            status,
            reason: cut(reason.to_owned()),
            sentence: cut(sentence),
        }
    }

    /// Creates a refusal of something that the rules forbid.
    pub(super) fn forbidden(reason: &str, sentence: String) -> Self {
        Self::new(403, reason, sentence)
    }

    /// Creates the answer to a request that is not one of a proxy's.
    pub(super) fn bad_request(status: u16, reason: &str) -> Self {
        let sentence = format!("The gate refused a malformed request: {reason}.");
        Self::new(status, reason, sentence)
    }

    /// Returns whether the rules forbid the request. Other answers report failures.
    pub(super) fn is_policy(&self) -> bool {
        self.status < 500
    }
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_BYTES {
        let end = (0..=MAX_BYTES)
            .rev()
            .find(|&end| text.is_char_boundary(end));
        text.truncate(end.unwrap_or(0));
        text.push_str("...");
    }
    text
}
