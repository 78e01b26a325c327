//! Who may connect, and when: rules as values, before anything that costs.
//!
//! In the order in which a socket meets them: the listener asks the [`Gate`] (rates of the node and
//! of a source), an io thread its [`Handshakes`] (sockets that are not connected yet) and, once the
//! CONNECT is read, its [`Opens`] (what a shard's log is asked for at a time). Whoever is connected
//! meets none of them.

mod bucket;
mod gate;
mod handshakes;
mod opens;
mod refusals;
mod sources;

use std::num::NonZeroU32;

pub(crate) use gate::{Decision, Gate};
pub(crate) use handshakes::{Handshakes, Room};
pub(crate) use opens::Opens;
pub(crate) use refusals::{Refusal, Refusals};

/// What an io thread may have of those that connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Handshakes in progress.
    pub(crate) handshakes: usize,
    /// `Open`s under way to one shard.
    pub(crate) opens_of_shard: u32,
    /// How long an `Open` may wait to be under way.
    pub(crate) open_wait_ms: u64,
}

impl Shares {
    pub(crate) fn opens(&self, shards: u16) -> Opens {
        Opens::new(usize::from(shards), self.opens_of_shard, self.open_wait_ms)
    }
}

/// The rules of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rates {
    /// Sockets a second of the listener; none: no limit.
    pub(crate) node_per_s: Option<NonZeroU32>,
    /// Sockets a second of one source address; none: no limit.
    pub(crate) source_per_s: Option<NonZeroU32>,
    /// Sources of loopback count as well.
    pub(crate) counts_loopback: bool,
}
