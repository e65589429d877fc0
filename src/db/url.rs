//! Pure: parses the URL or path of a database.

use std::path::PathBuf;

use super::Error;

/// Where a database is, by engine.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Location {
    Sqlite(PathBuf),
    /// The connection string, which may contain a password.
    Postgres(String),
}

impl Location {
    /// Parses `postgresql://…`, `postgres://…`, `sqlite:PATH` or a path.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        if text.starts_with("postgresql://") || text.starts_with("postgres://") {
            return Ok(Self::Postgres(text.to_owned()));
        }
        let path = text.strip_prefix("sqlite:").unwrap_or(text);
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() || path.contains("://") {
            // The text before the colon contains no password.
            let scheme = text.split("://").next().unwrap_or_default();
            return Err(Error::Url(scheme.to_owned()));
        }
        Ok(Self::Sqlite(PathBuf::from(path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_database_url_is_parsed() {
        for (text, path) in [
            ("/a/b.db", "/a/b.db"),
            ("b.db", "b.db"),
            ("sqlite:/a/b.db", "/a/b.db"),
            ("sqlite:///a/b.db", "/a/b.db"),
        ] {
            assert_eq!(
                Location::parse(text).unwrap(),
                Location::Sqlite(path.into()),
                "{text}"
            );
        }
        for url in ["postgresql://u:p@h/d", "postgres:///d?host=/run"] {
            assert_eq!(
                Location::parse(url).unwrap(),
                Location::Postgres(url.to_owned())
            );
        }
        let error = Location::parse("mysql://u:secret@h/d").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(Location::parse("").is_err());
    }
}
