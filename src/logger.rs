//! Where the program's own words go: stderr, a line each, with the time.

use std::io::Write as _;

/// Starts logging: `info` and worse, or what `RUST_LOG` says.
pub(crate) fn start() {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
    env_logger::Builder::new()
        .parse_filters(&filter)
        .format(|out, record| {
            let time = out.timestamp_millis();
            writeln!(out, "{time} {}: {}", record.level(), record.args())
        })
        .init();
}
