//! Puts redb on our file system, and so on the fault layer in tests.

use std::io;
use std::sync::Arc;

use redb::StorageBackend;

use crate::fs::{Error, File};

/// A database file behind [`crate::fs::Fs`].
#[derive(Debug)]
pub(crate) struct Backend(pub(crate) Arc<dyn File>);

impl StorageBackend for Backend {
    fn len(&self) -> Result<u64, io::Error> {
        self.0.len().map_err(into_io)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let read = self.0.read_at(offset, out).map_err(into_io)?;
        if read < out.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.set_len(len).map_err(into_io)
    }

    /// A full disk that shows only here is no trouble that may pass: what was written before is
    /// unknown.
    fn sync_data(&self) -> Result<(), io::Error> {
        self.0.sync_data().map_err(io::Error::other)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.0.write_at(offset, data).map_err(into_io)
    }
}

fn into_io(error: Error) -> io::Error {
    let kind = error.kind();
    io::Error::new(kind, error)
}
