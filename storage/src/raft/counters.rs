//! What can be seen of the log from outside.

use super::GroupId;
use crate::journal;

/// A group that keeps closed segments on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The group.
    pub group: GroupId,
    /// The oldest segment in which it has an entry.
    pub segment: u64,
    /// How many entries it has there.
    pub entries: u64,
    /// Bytes of the closed segments from there on.
    pub bytes: u64,
}

/// Counters since opening, and sizes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Of the journal: its entries are our records.
    pub journal: journal::Counters,
    /// Bytes of all segments now.
    pub disk_bytes: u64,
    /// Segments now, with the one being written.
    pub segments: u64,
    /// Bytes in the cache of newest entries now.
    pub cached_bytes: u64,
    /// Entries copied forward.
    pub copied_entries: u64,
    /// Bytes of them.
    pub copied_bytes: u64,
    /// How often the oldest segment could not be read for a copy.
    pub reclaim_failures: u64,
}
