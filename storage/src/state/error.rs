//! What can go wrong with a state file.

use std::io;
use std::path::{Path, PathBuf};

use crate::fs;

/// Why a state file does not do what it is asked. Whatever is damaged above the log is repaired by
/// a snapshot or a replay: the file is thrown away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system refused. Nothing was changed.
    #[error(transparent)]
    Fs(#[from] fs::Error),
    /// Stored bytes are not what was written.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The file holds something else.
    #[error("{} is no state file: {what}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// Written by another version of this program.
    #[error("{} has version {found}, this program reads {expected}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version that is understood.
        expected: u32,
    },
    /// The disk is full. The file is as it was flushed last, and takes and gives nothing until it
    /// is opened again: [`super::StateFile::reopen`]. What was applied since the last flush is to
    /// be applied once more.
    #[error("no space left for {}", path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
    },
    /// An error before this one closed the file: [`Error::NoSpace`], and then it is about to be
    /// opened again, or one after which the process is to end. Who reads asks again later.
    #[error("state file {} is closed since an error", path.display())]
    Closed {
        /// The file.
        path: PathBuf,
    },
    /// Another file is being made in its place already.
    #[error("another file is being made in the place of {}", path.display())]
    Drafted {
        /// The file.
        path: PathBuf,
    },
    /// The disk failed. What is on it is unknown: the process is to end.
    #[error("state file {} cannot go on: {what}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What the database said.
        what: String,
    },
}

impl Error {
    /// Whether it may pass: who flushes keeps what he has and tries again, who reads asks again.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoSpace { .. } | Self::Closed { .. } => true,
            Self::Fs(error) => error.is_no_space(),
            _ => false,
        }
    }

    pub(super) fn of(path: &Path, error: &redb::Error) -> Self {
        let path = path.to_owned();
        match error {
            redb::Error::Io(io) => match io.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path },
                // redb says so of a file without its magic number.
                io::ErrorKind::InvalidData => Self::Foreign {
                    path,
                    what: "no redb database".to_owned(),
                },
                _ => Self::Failed {
                    path,
                    what: io.to_string(),
                },
            },
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => Self::Closed { path },
            redb::Error::Corrupted(what) => Self::Damaged {
                path,
                what: what.clone(),
            },
            redb::Error::TableDoesNotExist(_) | redb::Error::TableTypeMismatch { .. } => {
                Self::Foreign {
                    path,
                    what: error.to_string(),
                }
            }
            other => Self::Failed {
                path,
                what: other.to_string(),
            },
        }
    }
}
