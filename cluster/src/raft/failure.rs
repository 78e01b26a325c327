//! What ends a node, and why a group does not start.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cluster_core::RaftId;
use storage::raft::{self as log, GroupId};
use storage::state;

use crate::machine::Damaged;

/// Why the process is to end: nothing more can be acknowledged. What was acknowledged is on disk.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fatal {
    /// The disk under the log failed.
    #[error(transparent)]
    Log(#[from] log::Fatal),
    /// The log gives an entry back otherwise than it was written, or not at all.
    #[error("the log of group {group} cannot be read: {why}")]
    Read {
        /// The group.
        group: GroupId,
        /// What was found, with file and place where they are known.
        why: String,
    },
    /// The state file of a group takes nothing more.
    #[error("the state of group {group} cannot be kept: {source}")]
    State {
        /// The group.
        group: GroupId,
        /// What became of the file.
        source: Arc<state::Error>,
    },
    /// The machine cannot read an entry that is committed.
    #[error("entry {index} of group {group} cannot be applied: {why}")]
    Entry {
        /// The group.
        group: GroupId,
        /// The index of the entry.
        index: u64,
        /// What the machine says.
        why: Damaged,
    },
    /// A machine, or what drives it, panicked.
    #[error("group {group} cannot go on: {why}")]
    Broken {
        /// The group.
        group: GroupId,
        /// What happened.
        why: String,
    },
}

/// Why the groups of a node cannot be opened, or one of them cannot start. Nothing is lost by it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] log::OpenError),
    /// The state file cannot be opened or read; the error names it.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The machine cannot read a row of its state file.
    #[error("{} of group {group} is damaged: {why}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The group.
        group: GroupId,
        /// Which row, and what is wrong with it.
        why: Damaged,
    },
    /// What stands beside the rows of a state file cannot be read.
    #[error("{} of group {group} is damaged: the membership of entry {index}: {why}", path.display())]
    Membership {
        /// The file.
        path: PathBuf,
        /// The group.
        group: GroupId,
        /// The entry up to which the file goes.
        index: u64,
        /// What is wrong.
        why: String,
    },
    /// The log does not go back to where the state file ends: one of them is from another time.
    #[error(
        "the log of group {group} begins behind entry {purged}, but {} ends at {}",
        path.display(),
        flushed.map_or_else(|| "none".to_owned(), |index| format!("entry {index}"))
    )]
    Gap {
        /// The file.
        path: PathBuf,
        /// The group.
        group: GroupId,
        /// The last entry that was purged from the log.
        purged: u64,
        /// The last entry that the file holds.
        flushed: Option<u64>,
    },
    /// There is a state, but the log knows nothing of the group: the log was lost, and with it the
    /// vote. Who votes again under the same id may contradict himself.
    #[error("{} holds entries up to {flushed} of group {group}, but the log knows nothing of it", path.display())]
    LogLost {
        /// The file.
        path: PathBuf,
        /// The group.
        group: GroupId,
        /// The last entry that the file holds.
        flushed: u64,
    },
    /// There was a log, and now there is none: with it went the votes of every group, also of those whose
    /// state was never flushed.
    #[error(
        "the log of the Raft groups in {} is gone: this node has promised what it does not know any more; have the \
         others forget it (ctl cluster drain, forget), and start it as a new one on an empty folder", folder.display()
    )]
    AllLogsLost {
        /// The folder that should have it.
        folder: PathBuf,
    },
    /// The file system does not say whether there was a log.
    #[error(transparent)]
    Marker(#[from] storage::fs::Error),
    /// The group has other voters than this node alone: it is no group to be founded here.
    #[error("group {group} has the voters {voters:?}, and not replica {replica} alone")]
    ForeignNode {
        /// The group.
        group: GroupId,
        /// The voters it has.
        voters: Vec<RaftId>,
        /// The replica that was to be the only one.
        replica: RaftId,
    },
    /// What is on disk is another replica's, of this node, but under another Raft id: it may have
    /// voted. It is to be removed first.
    #[error("what is on disk of group {group} is not of replica {replica}, but of {there:?}")]
    ForeignReplica {
        /// The group.
        group: GroupId,
        /// The replica that was to be started.
        replica: RaftId,
        /// Those of this node among the members.
        there: Vec<RaftId>,
    },
    /// A group of this id or name was started before.
    #[error("group {group} (`{name}`) was started before, under this id or name")]
    Started {
        /// The group.
        group: GroupId,
        /// The name.
        name: String,
    },
    /// The node was closed.
    #[error("the node is closed")]
    Closed,
    /// An entry behind the state file cannot be applied, or the disk failed meanwhile.
    #[error(transparent)]
    Failed(Fatal),
    /// Raft did not get so far.
    #[error("group {group} does not start: {why}")]
    Raft {
        /// The group.
        group: GroupId,
        /// What Raft says.
        why: String,
    },
}

/// Why a node was not closed in order. The log is whole: the next start applies what is missing.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// A state was not flushed.
    #[error(transparent)]
    State(#[from] state::Error),
    /// A task panicked.
    #[error("a task panicked: {0}")]
    Panicked(String),
}

impl From<tokio::task::JoinError> for CloseError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Panicked(error.to_string())
    }
}

/// Tells the owner once that the process is to end, and remembers why.
pub(super) struct Latch {
    raised: AtomicBool,
    first: Mutex<Option<Fatal>>,
    on_fatal: Arc<dyn Fn(Fatal) + Send + Sync>,
}

impl Latch {
    pub(super) fn new(on_fatal: Arc<dyn Fn(Fatal) + Send + Sync>) -> Self {
        Self {
            raised: AtomicBool::new(false),
            first: Mutex::default(),
            on_fatal,
        }
    }

    /// Tells the owner, unless he was told.
    pub(super) fn raise(&self, fatal: Fatal) {
        if self.raised.swap(true, Ordering::AcqRel) {
            return;
        }
        self.put(fatal.clone());
        (self.on_fatal)(fatal);
    }

    pub(super) fn first(&self) -> Option<Fatal> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.clone()
    }

    fn put(&self, fatal: Fatal) {
        *self.first.lock().unwrap_or_else(PoisonError::into_inner) = Some(fatal);
    }
}

/// An error for Raft, which stops at the first.
pub(super) fn stop(why: impl std::fmt::Display) -> io::Error {
    io::Error::other(why.to_string())
}
