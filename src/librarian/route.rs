//! Pure: maps a request's method, path and query to a resource of the librarian.
//!
//! `/ID/NAME` is a file, as is the older form `/N/ID/NAME`. `/NAME` is for uploads by PUT
//! (docs/farm.md §4.3).

use super::name;

use crate::server::Method;

/// The resource of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// GET or HEAD of a file.
    File {
        id: i64,
        name: &'a str,
    },
    /// PUT of a new file; the name is not validated.
    Put(&'a str),
    /// Aliases by the SHA-1 of their content, which is not validated; `None` if absent.
    Search(Option<String>),
    Robots,
    /// The page for browsers.
    Page,
    NotFound,
    /// 405: the resource does not support this method.
    MethodNotAllowed {
        /// The value of the `Allow` header.
        allow: &'static str,
    },
    /// 501: no resource supports this method.
    NotImplemented,
}

/// Returns the resource. `path` is decoded, `query` is not.
pub(super) fn route<'a>(method: &Method, path: &'a str, query: &str) -> Route<'a> {
    let rest = path.strip_prefix('/').unwrap_or(path);
    let segments: Vec<&str> = rest.split('/').collect();
    match (method, segments.as_slice()) {
        (Method::Get | Method::Head, segments) => read(segments, query),
        (Method::Put, [name]) if !name.is_empty() => Route::Put(name),
        (Method::Post, [name]) if !name.is_empty() => Route::MethodNotAllowed {
            allow: "GET, HEAD, PUT",
        },
        (Method::Put | Method::Post | Method::Delete | Method::Patch, _) => {
            Route::MethodNotAllowed { allow: "GET, HEAD" }
        }
        _ => Route::NotImplemented,
    }
}

fn read<'a>(segments: &[&'a str], query: &str) -> Route<'a> {
    match segments {
        [""] => Route::Page,
        ["robots.txt"] => Route::Robots,
        ["search"] => Route::Search(parameter(query, "digest")),
        [id] if number(id).is_some() => Route::Page,
        [id, name] | [_, id, name] if !name.is_empty() => match number(id) {
            Some(id)
                if segments
                    .iter()
                    .rev()
                    .skip(1)
                    .all(|part| number(part).is_some()) =>
            {
                Route::File { id, name }
            }
            _ => Route::NotFound,
        },
        _ => Route::NotFound,
    }
}

fn number(text: &str) -> Option<i64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// Returns the decoded value of the first parameter named `wanted`; `None` if empty.
pub(super) fn parameter(query: &str, wanted: &str) -> Option<String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == wanted)
        .and_then(|(_, value)| name::unquote(value))
        .filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_and_path_has_its_route() {
        const GET: Method = Method::Get;
        const PUT: Method = Method::Put;
        let file = |id, name| Route::File { id, name };
        let reads = || Route::MethodNotAllowed { allow: "GET, HEAD" };
        for (method, target, expect) in [
            (GET, "/7/a b", file(7, "a b")),
            (Method::Head, "/7/a", file(7, "a")),
            (GET, "/99/7/a", file(7, "a")),
            (GET, "/7/7", file(7, "7")),
            (GET, "/x/7/a", Route::NotFound),
            (GET, "/7/x/a", Route::NotFound),
            (GET, "/x/a", Route::NotFound),
            (GET, "/-7/a", Route::NotFound),
            (GET, "/+7/a", Route::NotFound),
            (GET, "/99999999999999999999/a", Route::NotFound),
            (GET, "/1/2/3/a", Route::NotFound),
            (GET, "/7/", Route::NotFound),
            (GET, "/name", Route::NotFound),
            (GET, "//a", Route::NotFound),
            (GET, "/", Route::Page),
            (GET, "/7", Route::Page),
            (GET, "/robots.txt", Route::Robots),
            (GET, "/search", Route::Search(None)),
            (GET, "/search?digest=", Route::Search(None)),
            (
                GET,
                "/search?x=1&digest=%61b",
                Route::Search(Some("ab".into())),
            ),
            (PUT, "/hello_1.dsc", Route::Put("hello_1.dsc")),
            (PUT, "/7", Route::Put("7")),
            (PUT, "/", reads()),
            (PUT, "/7/a", reads()),
            (Method::Post, "/7/a", reads()),
            (Method::Delete, "/7/a", reads()),
            (
                Method::Post,
                "/a",
                Route::MethodNotAllowed {
                    allow: "GET, HEAD, PUT",
                },
            ),
            (Method::Options, "/7/a", Route::NotImplemented),
            ("BREW".parse().unwrap(), "/", Route::NotImplemented),
        ] {
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            assert_eq!(route(&method, path, query), expect, "{method} {target}");
        }
    }

    #[test]
    fn the_first_parameter_of_a_name_is_decoded() {
        assert_eq!(parameter("token=a&token=b", "token").as_deref(), Some("a"));
        for query in ["", "token", "tokens=a", "token=", "token=%zz"] {
            assert_eq!(parameter(query, "token"), None, "{query}");
        }
    }
}
