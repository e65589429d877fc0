//! TEMPORARY
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

pub(crate) struct Follow(File);

impl Follow {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(File::open(path)?))
    }

    pub(crate) fn read_more(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        (&self.0).take(256 << 10).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}
