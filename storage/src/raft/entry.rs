//! The names of groups and entries.

use std::fmt;

use bytes::Bytes;

use super::record;
use crate::journal::Batch;

/// A Raft group of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of an entry. One leader gives an index once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogId {
    /// Its index; the entries of a group have no gap.
    pub index: u64,
    /// The term of the leader that made it.
    pub term: u64,
    /// Which leader of that term made it; stored and given back, 0 where a term has one leader.
    pub leader: u64,
}

impl LogId {
    /// Bytes of a stored one.
    pub(crate) const BYTES: usize = 24;

    pub(crate) fn write(self, out: &mut Vec<u8>) {
        for word in [self.index, self.term, self.leader] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }

    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            index: record::word(bytes, 0)?,
            term: record::word(bytes, 8)?,
            leader: record::word(bytes, 16)?,
        })
    }

    pub(super) fn same_leader(self, other: Self) -> bool {
        (self.term, self.leader) == (other.term, other.leader)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.term, self.leader, self.index)
    }
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its name.
    pub id: LogId,
    /// Its bytes. The cache keeps them as they are: a slice pins what it was cut from.
    pub payload: Bytes,
}

impl LogEntry {
    /// Bytes to reserve for it; an upper bound of what it takes in the queue and, uncompressed, on
    /// disk.
    #[must_use]
    pub fn log_bytes(&self) -> usize {
        // As if each entry were a run of its own.
        self.payload.len()
            + record::ENTRY_OVERHEAD_BYTES
            + record::RUN_OVERHEAD_BYTES
            + Batch::ENTRY_OVERHEAD_BYTES
    }
}

/// Where a group's log begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogState {
    /// The last entry that was purged.
    pub last_purged: Option<LogId>,
    /// The last entry; the last purged one if there is none.
    pub last: Option<LogId>,
}
