//! The process's metrics, which `GET /metrics` returns in Prometheus' text format.
//!
//! Counters start at zero with the process. No decision depends on a metric. Label values never
//! come from a client, because each new value takes memory until the process ends.

use std::sync::LazyLock;

use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Upper limits, in seconds, of the histogram buckets for stages of a build.
const STAGE_BUCKETS: [f64; 12] = [
    0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 10_800.0, 28_800.0, 86_400.0,
];
/// Upper limits, in seconds, of the histogram buckets for short operations.
const SHORT_BUCKETS: [f64; 10] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 10.0, 60.0, 180.0];

/// The content type of [`render`]'s text.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of the process.
pub(crate) struct Metrics {
    registry: Registry,
    /// 1 for the state the builder is in, 0 for the others. Label `state`.
    pub(crate) state: IntGaugeVec,
    /// Builds that have ended. Label `verdict`.
    pub(crate) builds: IntCounterVec,
    /// Duration of a build's stages. Label `stage`.
    pub(crate) stage_seconds: HistogramVec,
    /// Aborts requested.
    pub(crate) aborts: IntCounter,
    /// Seconds from an abort request to the end of the build.
    pub(crate) abort_seconds: Histogram,
    /// Calls answered. Labels `method` (a known one, or `unknown`) and `outcome` (`ok`, `fault`).
    pub(crate) calls: IntCounterVec,
    /// Downloads into the cache. Label `result`: `ok`, `mismatch`, `no_space`, `failed`.
    pub(crate) downloads: IntCounterVec,
    /// Bytes downloaded, including failed downloads.
    pub(crate) download_bytes: IntCounter,
    /// `ensurepresent` calls that found the file in the cache.
    pub(crate) cache_hits: IntCounter,
    /// `ensurepresent` calls that did not.
    pub(crate) cache_misses: IntCounter,
    /// Bytes stored. Label `store`: `filecache`, `chroots`.
    pub(crate) stored_bytes: IntGaugeVec,
    /// Entries stored. Label `store`.
    pub(crate) stored_entries: IntGaugeVec,
    /// Entries evicted. Label `store`.
    pub(crate) evictions: IntCounterVec,
    /// Damaged entries removed. Label `store`.
    pub(crate) damaged: IntCounterVec,
    /// 1 for what enforces a limit of builds, 0 for the others. Labels `resource` (`memory`,
    /// `processes`) and `by`.
    pub(crate) build_limits: IntGaugeVec,
    /// Open connections.
    pub(crate) connections: IntGauge,
    /// Requests and connections refused. Label `status`, the HTTP status; 503 means overload.
    pub(crate) refused: IntCounterVec,
    /// Files sent, whole or in part.
    pub(crate) sent_files: IntCounter,
    /// Bytes of files sent.
    pub(crate) sent_bytes: IntCounter,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// Returns the metrics of this process.
pub(crate) fn metrics() -> &'static Metrics {
    &METRICS
}

/// Renders all metrics in Prometheus' text format.
pub(crate) fn render() -> Vec<u8> {
    let mut text = Vec::new();
    // Writing to memory cannot fail, and registration has checked the names.
    let _ = TextEncoder::new().encode(&METRICS.registry.gather(), &mut text);
    text
}

impl Metrics {
    fn new() -> Self {
        let registry = Registry::new();
        let all = Registrar(&registry);
        let metrics = Self {
            state: all.gauges(
                "state",
                "1 for the state that the builder is in, else 0",
                &["state"],
            ),
            builds: all.counters("builds_total", "Builds that have ended", &["verdict"]),
            stage_seconds: all.histograms("stage_seconds", "Seconds per stage of a build", "stage"),
            aborts: all.counter("aborts_total", "Aborts requested"),
            abort_seconds: all
                .histogram("abort_seconds", "Seconds until an aborted build has ended"),
            calls: all.counters(
                "calls_total",
                "XML-RPC calls answered",
                &["method", "outcome"],
            ),
            downloads: all.counters("downloads_total", "Downloads into the cache", &["result"]),
            download_bytes: all.counter("download_bytes_total", "Bytes of downloads"),
            cache_hits: all.counter("cache_hits_total", "Requested files found in the cache"),
            cache_misses: all.counter("cache_misses_total", "Requested files not in the cache"),
            stored_bytes: all.gauges("stored_bytes", "Bytes stored", &["store"]),
            stored_entries: all.gauges("stored_entries", "Entries stored", &["store"]),
            evictions: all.counters("evictions_total", "Entries evicted", &["store"]),
            damaged: all.counters("damaged_total", "Damaged entries removed", &["store"]),
            build_limits: all.gauges(
                "build_limits",
                "1 for what enforces the limit of builds on a resource, else 0",
                &["resource", "by"],
            ),
            connections: all.gauge("connections", "Open connections"),
            refused: all.counters(
                "refused_total",
                "Requests and connections refused, by HTTP status; 503 means overload",
                &["status"],
            ),
            sent_files: all.counter("sent_files_total", "Files sent"),
            sent_bytes: all.counter("sent_bytes_total", "Bytes of files sent"),
            registry: registry.clone(),
        };
        all.gauges(
            "info",
            "Always 1; the label is the running version",
            &["version"],
        )
        .with_label_values(&[env!("CARGO_PKG_VERSION")])
        .set(1);
        metrics
    }
}

/// Creates metrics and registers them. A malformed or duplicate name panics at the first use of any
/// metric, so every test would fail.
struct Registrar<'a>(&'a Registry);

impl Registrar<'_> {
    fn register<M: prometheus::core::Collector + Clone + 'static>(
        &self,
        created: prometheus::Result<M>,
    ) -> M {
        let metric = created.expect("metric names are well-formed");
        self.0
            .register(Box::new(metric.clone()))
            .expect("metric names are unique");
        metric
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::with_opts(opts(name, help)))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(opts(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::with_opts(opts(name, help)))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(opts(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str) -> Histogram {
        let opts = HistogramOpts::from(opts(name, help)).buckets(SHORT_BUCKETS.into());
        self.register(Histogram::with_opts(opts))
    }

    fn histograms(&self, name: &str, help: &str, label: &str) -> HistogramVec {
        let opts = HistogramOpts::from(opts(name, help)).buckets(STAGE_BUCKETS.into());
        self.register(HistogramVec::new(opts, &[label]))
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("buildd_slave")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_rendered_in_prometheus_text() {
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
