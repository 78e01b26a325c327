//! Why the log does not do what it is asked.

use std::path::PathBuf;

use super::{GroupId, LogId};
use crate::journal;

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The journal cannot.
    #[error(transparent)]
    Journal(#[from] journal::OpenError),
    /// The log of a group says that it has an entry that is nowhere.
    #[error("entry {index} of group {group} is in no segment of {}", folder.display())]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// The group.
        group: GroupId,
        /// The index of the first lost entry.
        index: u64,
    },
    /// The system gives no thread.
    #[error("cannot start the thread that gives segments back: {0}")]
    Thread(std::io::Error),
}

/// Why a change contradicts the log. The log is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// An entry would not stand directly behind the last one.
    #[error("entry {index} does not go on at {expected}, where the log ends")]
    Hole {
        /// Its index.
        index: u64,
        /// The index that comes next.
        expected: u64,
    },
    /// What is to be truncated was purged: it was committed.
    #[error("entry {index} cannot be truncated, the log is purged up to {purged}")]
    Purged {
        /// The index from which on to truncate.
        index: u64,
        /// The last purged entry.
        purged: LogId,
    },
}

/// Why a change was not taken. The log is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It contradicts the log.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The log was closed or its disk failed.
    #[error("the log is closed")]
    Closed,
}
