//! Stores an upload: first the blob, then its rows.
//!
//! The bytes are written to disk as they arrive. When length and hash are verified, the blob is
//! renamed, and then the rows are committed. If the database fails, `gc` later removes the blob.

use std::io::{self, Read};

use super::Error;
use super::blobs::{Blobs, Content, Incoming};
use super::rows::{self, NewAlias};

use crate::db::Db;
use crate::protocol::Sha1Hex;
use crate::sys::clock;

/// Bytes copied at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Database and blobs, shared by all ports of a librarian.
pub(super) struct Library {
    pub(super) db: Db,
    pub(super) blobs: Blobs,
    /// Largest file, in bytes.
    pub(super) max_size: u64,
}

/// The rows of a stored upload.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) content_id: i64,
    pub(super) alias_id: i64,
    pub(super) content: Content,
}

impl Library {
    /// Stores the `len` bytes of `body`. On return the file can be downloaded.
    pub(super) fn store(
        &self,
        alias: &NewAlias,
        expected: Option<&Sha1Hex>,
        body: &mut dyn Read,
        len: u64,
    ) -> Result<Stored, Error> {
        let (incoming, content) = self.receive(expected, body, len)?;
        incoming.place(&content)?;
        let now = clock::now_ms();
        let (content_id, alias_id) = self.db.write(|tx| rows::insert(tx, &content, alias, now))?;
        Ok(Stored {
            content_id,
            alias_id,
            content,
        })
    }

    /// Stores a blob whose rows the client inserts. The content id must be unused.
    pub(super) fn store_blob(
        &self,
        content_id: i64,
        expected: Option<&Sha1Hex>,
        body: &mut dyn Read,
        len: u64,
    ) -> Result<Content, Error> {
        if self.db.read(|tx| rows::has_content(tx, content_id))? {
            return Err(Error::ContentExists(content_id));
        }
        let (incoming, content) = self.receive(expected, body, len)?;
        incoming.place(&content)?;
        Ok(content)
    }

    fn receive(
        &self,
        expected: Option<&Sha1Hex>,
        body: &mut dyn Read,
        len: u64,
    ) -> Result<(Incoming<'_>, Content), Error> {
        if len > self.max_size {
            return Err(Error::TooLarge {
                size: len,
                limit: self.max_size,
            });
        }
        let mut incoming = self.blobs.receive(len)?;
        let chunk = usize::try_from(len).map_or(CHUNK_BYTES, |len| len.min(CHUNK_BYTES));
        let mut buffer = vec![0; chunk.max(1)];
        loop {
            match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => incoming.write(buffer.get(..count).unwrap_or_default())?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Incomplete(error)),
            }
        }
        let content = incoming.content();
        if content.size != len {
            return Err(Error::Incomplete(io::ErrorKind::UnexpectedEof.into()));
        }
        match expected {
            Some(expected) if expected.as_str() != content.sha1 => Err(Error::Mismatch {
                expected: expected.clone(),
                actual: content.sha1,
            }),
            _ => Ok((incoming, content)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::db::tests::{Scratch, scratch};

    const HELLO: &str = "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d";

    /// An empty library, removed with the database's folder.
    pub(in crate::librarian) fn library() -> (Scratch, Library) {
        let scratch = scratch();
        let library = Library {
            db: scratch.db.clone(),
            blobs: Blobs::open(&scratch.dir.path().join("library"), 0).unwrap(),
            max_size: 1000,
        };
        (scratch, library)
    }

    pub(in crate::librarian) fn alias(name: &str) -> NewAlias {
        NewAlias {
            name: name.to_owned(),
            content_type: "text/plain".to_owned(),
            restricted: false,
            expires_at: None,
        }
    }

    fn count_aliases(library: &Library) -> i64 {
        let count = "SELECT COUNT(*) FROM library_alias";
        library
            .db
            .read(|tx| tx.query_one(count, &[])?.get(0))
            .unwrap()
    }

    #[test]
    fn equal_bytes_are_two_aliases_of_one_content() {
        let (_scratch, library) = library();
        let sha1 = Sha1Hex::parse(HELLO).unwrap();
        let store = |name| library.store(&alias(name), Some(&sha1), &mut &b"hello"[..], 5);
        let (one, two) = (store("one").unwrap(), store("two").unwrap());
        assert_eq!(one.content_id, two.content_id);
        assert_ne!(one.alias_id, two.alias_id);
        assert_eq!((one.content.sha1.as_str(), one.content.size), (HELLO, 5));
    }

    #[test]
    fn an_upload_of_the_wrong_length_or_hash_is_not_stored() {
        let (scratch, library) = library();
        let wrong = Sha1Hex::parse(&"0".repeat(40)).unwrap();
        let store = |sha1, mut bytes: &'static [u8], len| {
            let stored = library.store(&alias("a"), sha1, &mut bytes, len);
            stored.err().unwrap().to_string()
        };
        for (error, expect) in [
            (
                store(Some(&wrong), b"hello", 5),
                format!("expected SHA-1 {wrong}, got {HELLO}"),
            ),
            (store(None, b"hell", 5), "upload ended early: ".to_owned()),
            (store(None, b"hello", 4), "upload ended early: ".to_owned()),
            (
                store(None, b"", 1001),
                "file too large: 1001 bytes".to_owned(),
            ),
        ] {
            assert!(error.starts_with(&expect), "{error}");
        }
        assert_eq!(count_aliases(&library), 0);
        let root = scratch.dir.path().join("library");
        assert_eq!(root.join("incoming").read_dir().unwrap().count(), 0);
        assert_eq!(root.read_dir().unwrap().count(), 1, "no blob");
    }

    #[test]
    fn a_blob_is_stored_without_rows_unless_its_content_exists() {
        let (_scratch, library) = library();
        let content = library.store_blob(17, None, &mut &b"hello"[..], 5).unwrap();
        assert!(library.blobs.find(&content.sha256).unwrap().is_some());
        assert_eq!(count_aliases(&library), 0);
        let stored = library.store(&alias("a"), None, &mut &b"x"[..], 1).unwrap();
        let refused = library.store_blob(stored.content_id, None, &mut &b"hello"[..], 5);
        assert!(matches!(refused, Err(Error::ContentExists(id)) if id == stored.content_id));
    }
}
