//! What went between this node's replicas and those of other nodes, counted in bytes as they go over
//! the link.

use super::wire::{Content, Request};
use crate::link::Counter;

/// One way, over all groups and nodes.
#[derive(Debug, Default)]
pub struct Way {
    /// Bytes of requests that carry entries of logs: all that is replicated, and what a member that was
    /// away is caught up with.
    pub entries_bytes_total: Counter,
    /// Bytes of requests that carry rows of a state that is copied whole.
    pub snapshot_bytes_total: Counter,
    /// States that were copied to their end.
    pub snapshots_total: Counter,
}

/// Both ways, since the node was opened.
#[derive(Debug, Default)]
pub struct Traffic {
    /// To other nodes; what was answered.
    pub sent: Way,
    /// From other nodes; what could be read.
    pub received: Way,
}

impl Way {
    /// Counts a request of so many bytes.
    pub(super) fn count(&self, carries: Carries, bytes: usize) {
        let counter = match carries {
            Carries::Nothing => return,
            Carries::Entries => &self.entries_bytes_total,
            Carries::State => &self.snapshot_bytes_total,
        };
        counter.add(bytes as u64);
    }
}

/// What a request carries that was to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    Nothing,
    Entries,
    State,
}

impl Carries {
    pub(super) fn of(request: &Request) -> Self {
        match request {
            Request::Append { entries, .. } if !entries.is_empty() => Self::Entries,
            Request::Snapshot(part) if matches!(part.content, Content::Rows(_)) => Self::State,
            _ => Self::Nothing,
        }
    }
}
