//! Serves files over HTTP and accepts uploads by PUT (docs/farm.md §4.3, §4.4).
//!
//! The public port serves public files, and restricted files to clients with a token. The
//! restricted port serves all files. An absent file and a forbidden one give the same answer.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::json;

use super::intake::Library;
use super::route::{self, Route, route};
use super::rows::{self, NewAlias, StoredFile};
use super::{Error, media, name};

use crate::db;
use crate::protocol::Sha1Hex;
use crate::server::{self, Access, Handler, Request, Response};
use crate::sys::clock;

/// The page for browsers.
const PAGE: &str = "<!DOCTYPE html>\n<title>Librarian</title>\n<h1>Librarian</h1>\n\
                    <p>The files of a build farm, each at <code>/NUMBER/NAME</code>.</p>\n";

/// One listening port.
pub(super) struct Port {
    pub(super) library: Arc<Library>,
    /// Whether this port serves all files and makes uploads restricted.
    pub(super) restricted: bool,
    /// URL of the public port for clients; ends in `/`.
    pub(super) base: String,
    /// The clients that may upload.
    pub(super) uploads: Access,
}

impl Handler for Port {
    fn handle(&self, request: &Request) -> Response {
        match route(&request.method, &request.path, &request.query) {
            Route::File { id, name } => self.file(request, id, name),
            Route::Put(name) => self.put(request, name, &mut io::empty(), 0),
            Route::Search(digest) => self.search(digest),
            Route::Robots => Response::text(200, "User-agent: *\nDisallow: /"),
            Route::Page => Response::bytes(200, "text/html; charset=utf-8", PAGE.into()),
            Route::NotFound => not_found(),
            Route::NotImplemented => Response::text(501, "not implemented"),
            Route::MethodNotAllowed { allow } => {
                Response::text(405, "not allowed").with_header("Allow", allow)
            }
        }
    }

    fn takes_stream(&self, request: &Request) -> bool {
        let found = route(&request.method, &request.path, &request.query);
        matches!(found, Route::Put(_))
    }

    fn receive(&self, request: &Request, body: &mut dyn Read, len: u64) -> Response {
        match route(&request.method, &request.path, &request.query) {
            Route::Put(name) => self.put(request, name, body, len),
            _ => self.handle(request),
        }
    }
}

impl Port {
    fn file(&self, request: &Request, id: i64, name: &str) -> Response {
        let found = match self.look_up(request, id) {
            Ok(Some(found)) if found.name == name => found,
            Ok(_) => return not_found(),
            Err(error) => return error_response(&request.path, &error.into()),
        };
        let blob = match self.library.blobs.find(&found.sha256) {
            Ok(blob) => blob,
            Err(error) => return error_response(&request.path, &error),
        };
        let Some((file, len)) = blob else {
            log::error!(
                "{}: its bytes are not on disk: SHA-256 {}",
                request.path,
                found.sha256
            );
            return not_found();
        };
        if u64::try_from(found.size) != Ok(len) {
            log::error!(
                "{}: the file on disk has {len} bytes, not {}",
                request.path,
                found.size
            );
            return Response::text(500, "damaged file");
        }
        let (kind, encoding) = media::as_sent(name, &found.content_type);
        let created = Duration::from_millis(u64::try_from(found.created_at).unwrap_or(0));
        let mut response = server::serve_file(request, file, len, kind, UNIX_EPOCH + created);
        if response.status == 200 && is_unmodified(request, &response) {
            response.status = 304;
        }
        if let Some(encoding) = encoding {
            response = response.with_header("Content-Encoding", encoding);
        }
        let caching = match found.restricted {
            true => "max-age=0, private",
            false => "max-age=31536000, public",
        };
        response.with_header("Cache-Control", caching)
    }

    /// Returns the file if the client may read it.
    fn look_up(&self, request: &Request, id: i64) -> Result<Option<StoredFile>, db::Error> {
        let token = token(request);
        let now = clock::now_ms();
        self.library.db.read(|tx| {
            let Some(found) = rows::find(tx, id)? else {
                return Ok(None);
            };
            let may_read = self.restricted
                || !found.restricted
                || match &token {
                    Some(token) => rows::is_valid_token(tx, id, token, now)?,
                    None => false,
                };
            Ok(may_read.then_some(found))
        })
    }

    fn search(&self, digest: Option<String>) -> Response {
        let Some(digest) = digest else {
            return Response::text(400, "Bad search");
        };
        let digest = digest.to_ascii_lowercase();
        let found = self
            .library
            .db
            .read(|tx| rows::search(tx, &digest, self.restricted));
        match found {
            Ok(aliases) => {
                let mut lines = vec![aliases.len().to_string()];
                lines.extend(
                    aliases
                        .iter()
                        .map(|(id, file)| format!("{id}/{}", name::quote(file))),
                );
                Response::text(200, &lines.join("\n"))
            }
            Err(error) => error_response("/search", &error.into()),
        }
    }

    fn put(&self, request: &Request, name: &str, body: &mut dyn Read, len: u64) -> Response {
        if !self.uploads.allows(request.peer) {
            return Response::text(
                403,
                "your address may not upload here ([librarian] upload_allow)",
            );
        }
        if !self.uploads.authorizes(&request.headers) {
            let reason = "uploads need credentials ([librarian] username, password)";
            return Response::text(401, reason)
                .with_header("WWW-Authenticate", "Basic realm=\"librarian\"");
        }
        let (alias, sha1) = match self.parse_headers(request, name) {
            Ok(parsed) => parsed,
            Err(problem) => return Response::text(400, &problem),
        };
        let stored = match self.library.store(&alias, sha1.as_ref(), body, len) {
            Ok(stored) => stored,
            Err(error) => return error_response(&request.path, &error),
        };
        let (id, content) = (stored.alias_id, &stored.content);
        let url = name::alias_url(&self.base, id, name);
        log::info!("{id}/{name}: {len} bytes from {}", request.peer);
        let answer = json!({
            "id": id,
            "url": url,
            "sha1": content.sha1,
            "sha256": content.sha256,
            "md5": content.md5,
            "size": content.size,
        });
        Response::bytes(201, "application/json", format!("{answer}\n").into())
            .with_header("Location", &name::alias_url("/", id, name))
    }

    /// Parses the headers of an upload: the alias and the expected SHA-1.
    fn parse_headers(
        &self,
        request: &Request,
        name: &str,
    ) -> Result<(NewAlias, Option<Sha1Hex>), String> {
        if !name::is_good(name) {
            return Err("not a file name".to_owned());
        }
        let content_type = request
            .header("Content-Type")
            .unwrap_or_else(|| media::by_name(name));
        if !media::is_good(content_type) {
            return Err("bad Content-Type".to_owned());
        }
        let expires = request.header("X-Expires").map(|text| {
            let seconds: Option<i64> = text.parse().ok();
            seconds.ok_or("X-Expires is not in seconds since 1970")
        });
        let sha1 = request
            .header("X-SHA1")
            .map(|text| Sha1Hex::parse(&text.to_ascii_lowercase()));
        let restricted = match request.header("X-Restricted") {
            None | Some("no") => false,
            Some("yes") => true,
            Some(_) => return Err("X-Restricted is yes or no".to_owned()),
        };
        let alias = NewAlias {
            name: name.to_owned(),
            content_type: content_type.to_owned(),
            restricted: self.restricted || restricted,
            expires_at: expires
                .transpose()?
                .map(|seconds| seconds.saturating_mul(1000)),
        };
        Ok((alias, sha1.transpose().map_err(|error| error.to_string())?))
    }
}

/// Returns the client's token, from the query or from the password of HTTP Basic without a user.
fn token(request: &Request) -> Option<String> {
    let basic = || {
        let (scheme, given) = request.header("Authorization")?.split_once(' ')?;
        let pair = BASE64_STANDARD.decode(given.trim()).ok()?;
        let token = String::from_utf8(pair).ok()?.strip_prefix(':')?.to_owned();
        scheme.eq_ignore_ascii_case("Basic").then_some(token)
    };
    route::parameter(&request.query, "token").or_else(basic)
}

/// Returns whether the client has the file already. The client sends the date that it received
/// with the file.
fn is_unmodified(request: &Request, response: &Response) -> bool {
    let Some(since) = request.header("If-Modified-Since") else {
        return false;
    };
    let mut headers = response.headers.iter();
    headers.any(|header| header.field.equiv("Last-Modified") && header.value == since)
}

fn not_found() -> Response {
    Response::text(404, "not found")
}

/// Returns the answer for an error and logs it. The client does not see paths and SQL.
fn error_response(path: &str, error: &Error) -> Response {
    let status = match error {
        Error::TooLarge { .. } => 413,
        Error::Mismatch { .. } => 409,
        Error::Incomplete(source) if source.kind() == io::ErrorKind::TimedOut => 408,
        Error::Incomplete(_) => 400,
        Error::NoSpace { .. } => 507,
        Error::Disk(error) if error.source.kind() == io::ErrorKind::StorageFull => 507,
        Error::Database(
            db::Error::Lost { .. } | db::Error::Busy(_) | db::Error::CommitUnknown(_),
        ) => 503,
        _ => 500,
    };
    if status >= 500 {
        log::error!("{path}: {error}");
    } else {
        log::info!("{path}: {error}");
    }
    match status {
        500 => Response::text(500, "internal error"),
        503 => Response::text(503, "the database is not available; try again in 5 s")
            .with_header("Retry-After", "5"),
        507 => Response::text(507, "no space left"),
        _ => Response::text(status, &error.to_string()),
    }
}
