//! What all actors of a workload share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use mqtt::{Filter, Topic};
use tokio::sync::watch;

use super::config::Config;
use crate::client::Nodes;
use crate::history::Budget;

/// Says how far a workload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Everybody does what the plan says.
    Running,
    /// Nothing new is published, nobody goes away; what is under way ends.
    Draining,
    /// Nothing is under way to the nodes any more: retained messages are read for the last time.
    Settled,
    /// Everybody disconnects and ends.
    Over,
}

/// Counts what a workload has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages of QoS 1 and 2 sent, each counted once.
    pub published: u64,
    /// Of these, those with a PUBACK or PUBREC.
    pub acked: u64,
    /// Messages that came to clients, whatever their QoS, repeats included.
    pub received: u64,
    /// CONNACKs with success.
    pub connects: u64,
    /// CONNACKs with another reason, and nodes that could not be reached.
    pub refused: u64,
    /// Connections that ended although the client wanted them to last.
    pub lost: u64,
    /// Clients that are connected now.
    pub connected: u64,
}

#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) published: AtomicU64,
    pub(super) acked: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) connects: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) connected: AtomicU64,
}

impl Stats {
    pub(super) fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            published: of(&self.published),
            acked: of(&self.acked),
            received: of(&self.received),
            connects: of(&self.connects),
            refused: of(&self.refused),
            lost: of(&self.lost),
            connected: of(&self.connected),
        }
    }

    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Is what all actors share.
#[derive(Debug)]
pub(super) struct World {
    pub(super) config: Config,
    pub(super) seed: u64,
    pub(super) topics: Vec<Topic>,
    pub(super) filters: Vec<Filter>,
    pub(super) budget: Arc<Budget>,
    pub(super) stats: Stats,
    pub(super) phase: watch::Receiver<Phase>,
    /// Counts the cuts of all connections.
    pub(super) cuts: watch::Receiver<u64>,
    pub(super) nodes: watch::Receiver<Arc<Nodes>>,
    /// Subscriptions that have never been there; publishers wait for them.
    pub(super) awaited: AtomicUsize,
    /// Publishers with something under way; counts from the drain on.
    pub(super) busy: AtomicUsize,
    /// Readers that have not read for the last time.
    pub(super) reading: AtomicUsize,
}

impl World {
    pub(super) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Whether publishers were ever to publish.
    pub(super) fn has_begun(&self) -> bool {
        self.awaited.load(Ordering::Relaxed) == 0 || self.phase() > Phase::Running
    }

    /// Whether publishers may publish.
    pub(super) fn is_flowing(&self) -> bool {
        self.awaited.load(Ordering::Relaxed) == 0
            && self.phase() == Phase::Running
            && !self.budget.is_scarce()
    }
}
