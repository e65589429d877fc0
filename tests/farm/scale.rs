//! Load test of one master: it prints times and asserts counts.
//!
//! Larger: `BUILDD_SCALE_BUILDERS=1000 BUILDD_SCALE_INTERVAL=15 BUILDD_SCALE_SECONDS=90 cargo test
//! --release --test suites farm::scale -- --nocapture`.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use super::support::{Does, Engine, Fake, Farm, Work, from_env};

#[test]
fn one_master_scans_every_builder_in_time() {
    let builders: usize = from_env("BUILDD_SCALE_BUILDERS", 60);
    let interval = Duration::from_secs(from_env("BUILDD_SCALE_INTERVAL", 2));
    let period = Duration::from_secs(from_env("BUILDD_SCALE_SECONDS", 8));

    let farm = Farm::new(
        Engine::Sqlite,
        &format!("scan_interval = {}\nrpc_timeout = 10\n", interval.as_secs()),
    );
    farm.furnish();
    let librarian = farm.librarian();
    let fakes: Vec<Fake> = (0..builders)
        .map(|number| {
            let fake = Fake::start("i386");
            fake.works(Work::goes_on());
            farm.add_builder(&format!("builder{number}"), &fake);
            fake
        })
        .collect();
    let master = farm.master("master");
    for fake in &fakes {
        fake.wait_for("status", 1, interval * 4 + Duration::from_secs(20));
    }
    let figures = |what: &str, fakes: &[Fake]| {
        let mut measured = Measure::begin(&farm, fakes, master.child.id());
        while measured.at.elapsed() < period {
            // The interval at which commits are counted.
            std::thread::sleep(Duration::from_millis(200));
            measured.commits.look();
        }
        measured.end(what, fakes, interval)
    };
    let idle = figures("all idle", &fakes);

    // Every builder has a job that does not end.
    let jobs = i64::try_from(builders).unwrap();
    farm.add_builds(1, jobs, |_| 10);
    let begun = Instant::now();
    farm.wait_row_within(
        Duration::from_secs(120),
        "SELECT COUNT(*) FROM build WHERE state = 6",
        &json!([builders]),
    );
    eprintln!("{builders} jobs dispatched in {:?}", begun.elapsed());
    farm.wait_row_within(
        Duration::from_secs(120),
        "SELECT COUNT(*) FROM event WHERE kind = 'dispatched'",
        &json!([builders]),
    );
    let busy = figures("all building", &fakes);

    // A fifth of the builders is slow, stalls, is unreachable or answers 500.
    let healthy = builders * 8 / 10;
    for (number, fake) in fakes.iter().enumerate() {
        match number {
            _ if number < healthy => fake.delay(Duration::from_millis(number as u64 % 50)),
            _ if number % 4 == 0 => fake.on("*", Does::Stall),
            _ if number % 4 == 1 => fake.vanish(),
            _ if number % 4 == 2 => fake.on("*", Does::Http("500 Internal Server Error")),
            _ => fake.delay(Duration::from_secs(3)),
        }
    }
    let sick = figures("a fifth sick", &fakes[..healthy]);
    // The master still scans the healthy builders.
    for fake in &fakes[..healthy] {
        let looks = fake.called("status").len();
        fake.wait_for("status", looks + 1, interval * 4 + Duration::from_secs(60));
    }
    // A scan alone writes nothing, so there are far more scans than commits.
    for Figures { looks, commits } in [idle, busy, sick] {
        assert!(commits * 4 < looks, "{commits} commits, {looks} looks");
    }
    master.stop();
    librarian.stop();
}

struct Measure {
    at: Instant,
    calls: Vec<usize>,
    commits: Commits,
    process: u32,
    processor_time: f64,
}

struct Figures {
    looks: usize,
    commits: usize,
}

impl Measure {
    fn begin(farm: &Farm, fakes: &[Fake], process: u32) -> Self {
        Self {
            at: Instant::now(),
            calls: fakes.iter().map(|fake| fake.calls().len()).collect(),
            commits: Commits::new(farm.path("home/farm.db-wal")),
            process,
            processor_time: processor_time(process),
        }
    }

    fn end(self, what: &str, fakes: &[Fake], interval: Duration) -> Figures {
        let took = self.at.elapsed();
        let commits = self.commits.sum as f64 / took.as_secs_f64();
        let processor = (processor_time(self.process) - self.processor_time) / took.as_secs_f64();
        let (mut late, mut looks) = (Vec::new(), 0);
        for (fake, before) in fakes.iter().zip(self.calls) {
            let calls = fake.calls();
            // The last scan before the measurement starts the first interval.
            let calls = &calls[before.saturating_sub(1)..];
            let times: Vec<Instant> = calls
                .iter()
                .filter(|call| call.method == "status")
                .map(|call| call.at)
                .collect();
            looks += times.len().saturating_sub(1);
            late.extend(
                times
                    .windows(2)
                    .map(|two| (two[1] - two[0]).saturating_sub(interval)),
            );
            // An interval that has not ended may be late already.
            late.extend(
                times
                    .last()
                    .map(|last| last.elapsed().saturating_sub(interval)),
            );
        }
        late.sort_unstable();
        let at = |percent: usize| late[(late.len() * percent / 100).min(late.len() - 1)];
        eprintln!(
            "{what}: {looks} looks in {took:.1?}, late by {:.0?} (median), {:.0?} (99 %), {:.0?} \
             (at most); {commits:.1} commits/s; {processor:.2} processors",
            at(50),
            at(99),
            at(100)
        );
        Figures {
            looks,
            commits: self.commits.sum,
        }
    }
}

/// The processor time that a process has used, in seconds.
fn processor_time(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / 100.0
}

/// Counts the commits in SQLite's write-ahead log, which are the frames with a database size.
/// SQLite restarts the log from time to time, so [`Commits::look`] must be called often.
struct Commits {
    path: PathBuf,
    generation: [u8; 8],
    seen: usize,
    sum: usize,
}

impl Commits {
    fn new(path: PathBuf) -> Self {
        let mut commits = Self {
            path,
            generation: [0; 8],
            seen: 0,
            sum: 0,
        };
        commits.look();
        commits.sum = 0;
        commits
    }

    fn look(&mut self) {
        let bytes = fs::read(&self.path).unwrap_or_default();
        let Some(header) = bytes.get(..32) else {
            return;
        };
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().unwrap());
        let page = usize::try_from(number(&header[8..])).unwrap();
        let generation: [u8; 8] = header[16..24].try_into().unwrap();
        let frames = bytes[32..].chunks_exact(24 + page);
        let current = frames.take_while(|frame| frame[8..16] == generation);
        let count = current.filter(|frame| number(&frame[4..]) != 0).count();
        let before = if generation == self.generation {
            self.seen
        } else {
            0
        };
        self.sum += count - before;
        (self.generation, self.seen) = (generation, count);
    }
}
