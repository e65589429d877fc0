//! What has this process done so far? The numbers that `GET /metrics` shows, in Prometheus' text
//! format.
//!
//! One set of counters for the process, which starts at zero with it. Whoever does a thing counts
//! it here; nobody decides by a number from here. Labels take words of our own only, never a
//! client's: each new value of a label takes memory for good.

use std::sync::LazyLock;

use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Upper bounds, in seconds, of the buckets for stages of a build.
const STAGE_BUCKETS: [f64; 12] = [
    0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 10_800.0, 28_800.0, 86_400.0,
];
/// The same for what should be over in a moment.
const SHORT_BUCKETS: [f64; 10] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 10.0, 60.0, 180.0];

/// The content type of [`render`]'s text.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Every number there is.
pub(crate) struct Metrics {
    registry: Registry,
    /// 1 for the state the builder is in, 0 for the others. Label `state`.
    pub(crate) state: IntGaugeVec,
    /// Builds that came to their end. Label `verdict`.
    pub(crate) builds: IntCounterVec,
    /// How long stages took. Label `stage`.
    pub(crate) stage_seconds: HistogramVec,
    /// Aborts asked for and carried out.
    pub(crate) aborts: IntCounter,
    /// From the request to the build's being gone.
    pub(crate) abort_seconds: Histogram,
    /// Calls answered. Labels `method` (a known one, or `unknown`) and `outcome` (`ok`, `fault`).
    pub(crate) calls: IntCounterVec,
    /// Downloads into the cache. Label `result`: `ok`, `mismatch`, `no_space`, `failed`.
    pub(crate) downloads: IntCounterVec,
    /// Bytes of them, also of those that failed.
    pub(crate) download_bytes: IntCounter,
    /// `ensurepresent` found the file in the cache.
    pub(crate) cache_hits: IntCounter,
    /// `ensurepresent` did not.
    pub(crate) cache_misses: IntCounter,
    /// Bytes kept. Label `store`: `filecache`, `chroots`.
    pub(crate) stored_bytes: IntGaugeVec,
    /// Entries kept. Label `store`.
    pub(crate) stored_entries: IntGaugeVec,
    /// Entries removed to make room. Label `store`.
    pub(crate) evictions: IntCounterVec,
    /// Entries found damaged and removed. Label `store`.
    pub(crate) damaged: IntCounterVec,
    /// Connections open now.
    pub(crate) connections: IntGauge,
    /// Requests and connections turned down. Label `status`, as in HTTP: 503 is shed load.
    pub(crate) refused: IntCounterVec,
    /// Files sent, whole or in part.
    pub(crate) sent_files: IntCounter,
    /// Bytes of them.
    pub(crate) sent_bytes: IntCounter,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// Returns the numbers of this process.
pub(crate) fn metrics() -> &'static Metrics {
    &METRICS
}

/// Returns all numbers in Prometheus' text format.
pub(crate) fn render() -> Vec<u8> {
    let mut text = Vec::new();
    // Writing to memory; the names were checked when they were registered.
    let _ = TextEncoder::new().encode(&METRICS.registry.gather(), &mut text);
    text
}

impl Metrics {
    fn new() -> Self {
        let registry = Registry::new();
        let all = Maker(&registry);
        let metrics = Self {
            state: all.gauges("state", "1 for the state the builder is in", &["state"]),
            builds: all.counters("builds_total", "Builds that have ended", &["verdict"]),
            stage_seconds: all.histograms("stage_seconds", "Seconds of a build's stages", "stage"),
            aborts: all.counter("aborts_total", "Aborts asked for"),
            abort_seconds: all
                .histogram("abort_seconds", "Seconds until an aborted build was gone"),
            calls: all.counters(
                "calls_total",
                "XML-RPC calls answered",
                &["method", "outcome"],
            ),
            downloads: all.counters("downloads_total", "Downloads into the cache", &["result"]),
            download_bytes: all.counter("download_bytes_total", "Bytes of downloads"),
            cache_hits: all.counter("cache_hits_total", "Files asked for that were there"),
            cache_misses: all.counter("cache_misses_total", "Files asked for that were not there"),
            stored_bytes: all.gauges("stored_bytes", "Bytes kept", &["store"]),
            stored_entries: all.gauges("stored_entries", "Entries kept", &["store"]),
            evictions: all.counters("evictions_total", "Entries removed for room", &["store"]),
            damaged: all.counters(
                "damaged_total",
                "Entries found damaged, removed",
                &["store"],
            ),
            connections: all.gauge("connections", "Connections open"),
            refused: all.counters(
                "refused_total",
                "Requests and connections turned down, by HTTP status; 503 is shed load",
                &["status"],
            ),
            sent_files: all.counter("sent_files_total", "Files sent"),
            sent_bytes: all.counter("sent_bytes_total", "Bytes of files sent"),
            registry: registry.clone(),
        };
        all.gauges("info", "Always 1; the version runs", &["version"])
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        metrics
    }
}

/// Makes numbers and enters them. A name that is wrong or taken fails at the first use of any,
/// which is in every test.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn enter<M: prometheus::core::Collector + Clone + 'static>(
        &self,
        made: prometheus::Result<M>,
    ) -> M {
        let made = made.expect("names of numbers are well-formed");
        self.0
            .register(Box::new(made.clone()))
            .expect("names of numbers are given once");
        made
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.enter(IntCounter::with_opts(opts(name, help)))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.enter(IntCounterVec::new(opts(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.enter(IntGauge::with_opts(opts(name, help)))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.enter(IntGaugeVec::new(opts(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str) -> Histogram {
        let opts = HistogramOpts::from(opts(name, help)).buckets(SHORT_BUCKETS.into());
        self.enter(Histogram::with_opts(opts))
    }

    fn histograms(&self, name: &str, help: &str, label: &str) -> HistogramVec {
        let opts = HistogramOpts::from(opts(name, help)).buckets(STAGE_BUCKETS.into());
        self.enter(HistogramVec::new(opts, &[label]))
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("buildd_slave")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_in_prometheus_text() {
        metrics().evictions.with_label_values(&["chroots"]).inc();
        metrics().abort_seconds.observe(0.2);
        let text = String::from_utf8(render()).unwrap();
        let info = format!(
            "buildd_slave_info{{version=\"{}\"}} 1\n",
            env!("CARGO_PKG_VERSION")
        );
        for line in [
            info.as_str(),
            "# TYPE buildd_slave_evictions_total counter\n",
            "buildd_slave_evictions_total{store=\"chroots\"} ",
            "buildd_slave_abort_seconds_bucket{le=\"0.25\"} ",
            "buildd_slave_cache_hits_total ",
        ] {
            assert!(text.contains(line), "no {line:?} in:\n{text}");
        }
    }
}
