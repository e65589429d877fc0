//! Tells the service manager (systemd) that this process is ready, reloading, stopping or alive.
//!
//! Nothing is sent unless the service manager has asked for it: the unit has `Type=notify`, or
//! `WatchdogSec=` for signs of life. A loop proves that it runs by [`Pulse::beat`]. The watchdog is
//! fed only while all loops prove it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use sd_notify::NotifyState;

use super::bounded_command::{self, Input};

/// The environment variables by which the service manager asks for messages. No child needs them.
pub(crate) const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];
/// How often the watchdog is fed in the time that it allows.
const FEEDS: u32 = 4;
/// Timeout of a question to the service manager.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Reports that this process answers.
pub(crate) fn ready() {
    send(&[NotifyState::Ready]);
}

/// Reports that this process stops.
pub(crate) fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Reports that this process reads its configuration again, until [`ready`] is called.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => log::debug!("cannot read the clock: {error}"),
    }
}

/// Reports what this process does, for `systemctl status`: one line.
pub(crate) fn status(text: &str) {
    let line: String = text.chars().filter(|c| !c.is_control()).collect();
    send(&[NotifyState::Status(&line)]);
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::debug!("cannot reach the service manager: {error}");
    }
}

/// The start of this process's clock for pulses.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The proof that a loop runs.
#[derive(Debug, Clone)]
pub(crate) struct Pulse {
    name: &'static str,
    /// The last beat, in milliseconds since [`START`].
    last: Arc<AtomicU64>,
    /// The longest time between two beats.
    limit: Duration,
}

impl Pulse {
    /// Creates the pulse of the loop `name`, which must beat again within `limit`.
    pub(crate) fn new(name: &'static str, limit: Duration) -> Self {
        let pulse = Self {
            name,
            last: Arc::default(),
            limit,
        };
        pulse.beat();
        pulse
    }

    /// Proves that the loop runs.
    pub(crate) fn beat(&self) {
        self.last.store(now(), Ordering::Relaxed);
    }

    /// Returns how often the loop should beat.
    pub(crate) fn interval(&self) -> Duration {
        self.limit / FEEDS
    }

    /// Returns how long the loop has not run, if that is too long.
    fn overdue(&self) -> Option<Duration> {
        let last = self.last.load(Ordering::Relaxed);
        let since = Duration::from_millis(now().saturating_sub(last));
        (since > self.limit).then_some(since)
    }
}

fn now() -> u64 {
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Returns the time within which the service manager wants a sign of life; `None` if it wants none.
pub(crate) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|time| !time.is_zero())
}

/// Starts the thread that feeds the watchdog, if there is one, while all `pulses` beat.
pub(crate) fn feed_watchdog(pulses: Vec<Pulse>) -> std::io::Result<()> {
    let Some(time) = watchdog() else {
        return Ok(());
    };
    let feed = move || {
        loop {
            match stalled(&pulses) {
                None => send(&[NotifyState::Watchdog]),
                Some(why) => log::error!("{why}; the service manager will restart this process"),
            }
            thread::sleep(time / FEEDS);
        }
    };
    thread::Builder::new()
        .name("watchdog".into())
        .spawn(feed)
        .map(drop)
}

/// Returns which loop does not run, if any, and for how long.
fn stalled(pulses: &[Pulse]) -> Option<String> {
    pulses.iter().find_map(|pulse| {
        let since = pulse.overdue()?.as_secs();
        Some(format!("the {} has not run for {since} s", pulse.name))
    })
}

/// Returns whether the whole host or container stops, and not this process alone.
pub(crate) fn host_is_stopping() -> bool {
    // The first process of a container stops with it.
    if Pid::this().as_raw() == 1 {
        return true;
    }
    let question = ["systemctl", "is-system-running"].map(str::to_owned);
    match bounded_command::run(&question, Input::Text(""), ANSWER_TIMEOUT) {
        // Every state but `running` has an exit code other than 0.
        Err(bounded_command::Error::Failed { output, .. }) => says_stopping(&output),
        Ok(()) => false,
        // A host without systemd.
        Err(bounded_command::Error::Start { .. }) => false,
        Err(error) => {
            log::warn!("cannot find out whether the host is shutting down: {error}");
            false
        }
    }
}

fn says_stopping(output: &str) -> bool {
    output.lines().any(|line| line.trim() == "stopping")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stalled_loop_of_several_starves_the_watchdog_until_it_beats_again() {
        let slow = Pulse::new("main loop", Duration::from_secs(3600));
        let pulse = Pulse::new("accept loop", Duration::from_millis(50));
        let pulses = [slow, pulse.clone()];
        assert_eq!(stalled(&pulses), None);
        thread::sleep(Duration::from_millis(100));
        let why = stalled(&pulses).unwrap();
        assert!(why.starts_with("the accept loop has not run"), "{why}");
        pulse.beat();
        assert_eq!(stalled(&pulses), None);
    }

    #[test]
    fn only_the_state_stopping_is_a_shutdown() {
        for (output, expected) in [
            ("stopping\n", true),
            ("degraded\n", false),
            ("offline\n", false),
            (
                "Failed to connect to bus: No such file or directory\n",
                false,
            ),
        ] {
            assert_eq!(says_stopping(output), expected, "{output}");
        }
    }
}
