//! Pure: what are people told of a build that did not work?
//!
//! One JSON document, with what the mails of 2008 had (docs/farm.md §7). Whom to tell and how is
//! the site's command's business.

use serde_json::json;

use super::model::{BuildName, BuildState};

/// What a document is made of.
pub(super) struct Notice<'a> {
    pub(super) build: i64,
    pub(super) name: &'a BuildName,
    pub(super) state: BuildState,
    pub(super) builder: &'a str,
    /// Milliseconds from dispatch to now.
    pub(super) took_ms: i64,
    pub(super) log_url: Option<&'a str>,
    /// Why, where there is more to say than the state does.
    pub(super) reason: Option<&'a str>,
}

impl Notice<'_> {
    /// Returns the document, in one line.
    pub(super) fn document(&self) -> String {
        json!({
            "subject": format!("[Build #{}] {}", self.build, self.name),
            "build": self.build,
            "state": self.state.word(),
            "source": self.name.source,
            "version": self.name.version,
            "architecture": self.name.arch_tag,
            "distribution": self.name.distribution,
            "suite": self.name.suite(),
            "builder": self.builder,
            "duration_seconds": self.took_ms / 1000,
            "log_url": self.log_url,
            "reason": self.reason,
        })
        .to_string()
    }
}
