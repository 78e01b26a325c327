//! What can go wrong in the hot store.

use std::path::PathBuf;

use crate::fs;

/// Says why an operation of the hot store failed.
///
/// An error while writing ends the store: what is on disk is unknown, and the process is to end.
/// An error while reading changes nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system refused.
    #[error(transparent)]
    Fs(#[from] fs::Error),
    /// The folder cannot be taken.
    #[error(transparent)]
    Lock(#[from] fs::LockError),
    /// Stored bytes are not what was written.
    #[error("{} is damaged at offset {offset}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// Written by another version of this program.
    #[error("{} has format version {found}, this program reads {expected}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u16,
        /// The version that is understood.
        expected: u16,
    },
    /// The folder or file belongs to something else.
    #[error("{} is not of this store: {what}", path.display())]
    Foreign {
        /// The folder or file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The folder was created with another number of buckets.
    #[error(
        "the hot store in {} has {found} buckets, not {asked}: the number is fixed when the folder is created",
        path.display()
    )]
    Buckets {
        /// The folder.
        path: PathBuf,
        /// Buckets on disk.
        found: u16,
        /// Buckets asked for.
        asked: u16,
    },
    /// The store was closed; nothing was changed.
    #[error("the hot store in {} is closed", path.display())]
    Closed {
        /// The folder.
        path: PathBuf,
    },
    /// The manifest's database failed.
    #[error("manifest {}: {what}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What the database said.
        what: String,
    },
}
