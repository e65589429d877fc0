//! Pure: maps an HTTP method and a path to a resource of the daemon (docs/wire.md §1.1).
//!
//! The file cache has no listing: a client must know a file's name (docs/wire.md §1.7).

use tiny_http::Method;

/// The resource that a request names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// An XML-RPC call in the body.
    Rpc,
    /// The file of that name in the cache, for GET and HEAD. The name has no `/`; nothing else is
    /// checked.
    File(&'a str),
    /// The log of the build of that name, for GET and HEAD. The name has no `/`.
    Log(&'a str),
    /// The process's metrics.
    Metrics,
    /// The health check.
    Health,
    /// No such resource: 404.
    NotFound,
    /// The resource does not support this method: 405.
    MethodNotAllowed {
        /// The value of the `Allow` header.
        allow: &'static str,
    },
    /// No resource supports this method: 501.
    NotImplemented,
}

/// Finds the resource for `method` and a decoded `path`. Every path below `/rpc` is `/rpc` itself.
pub(crate) fn route<'a>(method: &Method, path: &'a str) -> Route<'a> {
    let reads = match method {
        Method::Get | Method::Head => true,
        Method::Post => false,
        _ => return Route::NotImplemented,
    };
    if path == "/rpc" || path.starts_with("/rpc/") {
        return if reads {
            Route::MethodNotAllowed { allow: "POST" }
        } else {
            Route::Rpc
        };
    }
    let name = |folder| path.strip_prefix(folder).filter(|name| is_plain(name));
    let found = match path {
        "/metrics" => Route::Metrics,
        "/healthz" => Route::Health,
        _ => match (name("/filecache/"), name("/log/")) {
            (Some(name), _) => Route::File(name),
            (None, Some(id)) => Route::Log(id),
            (None, None) => return Route::NotFound,
        },
    };
    if reads {
        found
    } else {
        Route::MethodNotAllowed { allow: "GET, HEAD" }
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_and_paths_map_to_resources() {
        const GET: Method = Method::Get;
        const POST: Method = Method::Post;
        let only_post = || Route::MethodNotAllowed { allow: "POST" };
        for (method, path, expect) in [
            (POST, "/rpc", Route::Rpc),
            (POST, "/rpc/", Route::Rpc),
            (POST, "/rpc/x/y", Route::Rpc),
            (GET, "/rpc", only_post()),
            (Method::Head, "/rpc/x", only_post()),
            (POST, "/rpcx", Route::NotFound),
            (GET, "/filecache/buildlog", Route::File("buildlog")),
            (Method::Head, "/filecache/a b", Route::File("a b")),
            (
                POST,
                "/filecache/a",
                Route::MethodNotAllowed { allow: "GET, HEAD" },
            ),
            (GET, "/filecache", Route::NotFound),
            (GET, "/filecache/", Route::NotFound),
            (GET, "/filecache/a/b", Route::NotFound),
            (GET, "/filecache//a", Route::NotFound),
            (GET, "//filecache/a", Route::NotFound),
            (GET, "/", Route::NotFound),
            (POST, "/", Route::NotFound),
            (GET, "/log/8-1", Route::Log("8-1")),
            (GET, "/log/", Route::NotFound),
            (GET, "/log/8-1/x", Route::NotFound),
            (GET, "/metrics", Route::Metrics),
            (GET, "/metrics/", Route::NotFound),
            (Method::Head, "/healthz", Route::Health),
            (
                POST,
                "/healthz",
                Route::MethodNotAllowed { allow: "GET, HEAD" },
            ),
            (Method::Put, "/rpc", Route::NotImplemented),
            (Method::Options, "/nowhere", Route::NotImplemented),
            ("BREW".parse().unwrap(), "/rpc", Route::NotImplemented),
        ] {
            assert_eq!(route(&method, path), expect, "{method} {path}");
        }
    }
}
