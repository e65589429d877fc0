//! Answers a request for an open file with the whole file or one range of it.
//!
//! The caller opens the file and passes its current length; bytes added later are not sent
//! (docs/wire.md §1.7). `connection` copies the bytes.

use super::message::{Body, Request, Response};
use chrono::DateTime;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::time::{SystemTime, UNIX_EPOCH};
use tiny_http::Method;

/// Answers a GET or HEAD with the first `len` bytes of `file`.
pub(crate) fn serve_file(
    request: &Request,
    mut file: File,
    len: u64,
    content_type: &str,
    last_modified: SystemTime,
) -> Response {
    let last_modified = http_date(last_modified);
    let part = match requested_range(request, &last_modified) {
        Some(range) => find_part(range, len),
        None => Part::Whole,
    };
    let (status, start, end, content_range) = match part {
        Part::Whole => (200, 0, len, None),
        Part::From(start, end) => (
            206,
            start,
            end,
            Some(format!("bytes {start}-{}/{len}", end - 1)),
        ),
        Part::Outside => {
            return Response::text(416, "range outside the file")
                .with_header("Content-Range", &format!("bytes */{len}"));
        }
    };
    if let Err(error) = file.seek(SeekFrom::Start(start)) {
        log::warn!("{}: cannot seek to {start}: {error}", request.path);
        return Response::text(500, "cannot read the file");
    }
    let body = Body::File {
        file,
        len: end - start,
    };
    let response = Response {
        status,
        headers: Vec::new(),
        body,
    }
    .with_header("Content-Type", content_type)
    .with_header("Accept-Ranges", "bytes")
    .with_header("Last-Modified", &last_modified);
    match content_range {
        Some(range) => response.with_header("Content-Range", &range),
        None => response,
    }
}

/// Returns the range to send, if any. Only GET has ranges, and `If-Range` must equal the file's
/// `Last-Modified`.
fn requested_range<'a>(request: &'a Request, last_modified: &str) -> Option<&'a str> {
    let current = request
        .header("If-Range")
        .is_none_or(|state| state == last_modified);
    let range = request.header("Range")?;
    (request.method == Method::Get && current).then_some(range)
}

/// The bytes of a file to send.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Whole,
    /// From the first position up to, excluding, the second; never empty.
    From(u64, u64),
    /// The range lies outside the file.
    Outside,
}

/// Finds the part of a file of `len` bytes that a `Range` header names. Several ranges, other units
/// and malformed ranges select the whole file, as RFC 9110 §14.2 allows.
fn find_part(range: &str, len: u64) -> Part {
    let Some((first, last)) = range
        .split_once('=')
        .filter(|(unit, _)| unit.eq_ignore_ascii_case("bytes"))
        .and_then(|(_, range)| range.trim().split_once('-'))
    else {
        return Part::Whole;
    };
    let (start, end) = match (position(first), position(last)) {
        (Some(first), Some(last)) if first <= last => (first, len.min(last.saturating_add(1))),
        (Some(first), None) if last.is_empty() => (first, len),
        (None, Some(count)) if first.is_empty() => (len.saturating_sub(count), len),
        _ => return Part::Whole,
    };
    if start < end {
        Part::From(start, end)
    } else {
        Part::Outside
    }
}

/// Parses digits; a number that does not fit becomes `u64::MAX`, which is past any file.
fn position(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// Formats a time for HTTP, `Sun, 06 Nov 1994 08:49:37 GMT`. A time before the epoch or beyond the
/// calendar becomes the epoch.
fn http_date(time: SystemTime) -> String {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or_default();
    let date = DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    date.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_range_selects_its_part_or_the_whole_file() {
        for (range, len, expect) in [
            ("bytes=0-0", 10, Part::From(0, 1)),
            ("bytes=2-5", 10, Part::From(2, 6)),
            ("Bytes=2-", 10, Part::From(2, 10)),
            ("bytes=-3", 10, Part::From(7, 10)),
            ("bytes=-30", 10, Part::From(0, 10)),
            ("bytes=5-99", 10, Part::From(5, 10)),
            ("bytes=5-99999999999999999999999", 10, Part::From(5, 10)),
            ("bytes=10-", 10, Part::Outside),
            ("bytes=99999999999999999999999-", 10, Part::Outside),
            ("bytes=10-12", 10, Part::Outside),
            ("bytes=-0", 10, Part::Outside),
            ("bytes=0-", 0, Part::Outside),
            ("bytes=-1", 0, Part::Outside),
            ("bytes=5-2", 10, Part::Whole),
            ("bytes=0-1,4-5", 10, Part::Whole),
            ("bytes=-", 10, Part::Whole),
            ("bytes=a-b", 10, Part::Whole),
            ("bytes=+1-2", 10, Part::Whole),
            ("bytes=--1", 10, Part::Whole),
            ("lines=1-2", 10, Part::Whole),
            ("", 10, Part::Whole),
        ] {
            assert_eq!(find_part(range, len), expect, "{range:?} of {len}");
        }
    }

    #[test]
    fn times_are_formatted_for_http() {
        let date = |seconds| http_date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(UNIX_EPOCH - Duration::from_secs(1)), date(0));
    }
}
