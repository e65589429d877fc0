//! Pure: makes the notification about a build that did not succeed.
//!
//! A notification is one JSON document with the contents of the mails of 2008 (docs/farm.md §7).
//! The site's command delivers it.

use serde_json::json;

use crate::master::model::{BuildName, BuildState};

/// The contents of a notification.
pub(crate) struct Notification<'a> {
    pub(crate) build: i64,
    pub(crate) name: &'a BuildName,
    pub(crate) state: BuildState,
    pub(crate) builder: &'a str,
    /// Milliseconds from dispatch to now.
    pub(crate) took_ms: i64,
    pub(crate) log_url: Option<&'a str>,
    /// The reason for the state; `None` if the state is enough.
    pub(crate) reason: Option<&'a str>,
}

impl Notification<'_> {
    /// Returns the document on one line.
    pub(crate) fn document(&self) -> String {
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
