//! The model log: what one voter's journal keeps of its groups.

use rand::Rng;
use rand::rngs::StdRng;
use session::Command;
use tidewire_cluster_core::{
    Attempt, Body, EpochView, LogTime, MetaCommand, NodeEpoch, RoutesCommand,
};

/// An entry of a shard's log.
#[derive(Clone, Debug)]
pub(crate) struct ShardEntry {
    pub(crate) time: LogTime,
    pub(crate) what: ShardWhat,
}

/// What a shard's entry asks for.
#[derive(Clone, Debug)]
pub(crate) enum ShardWhat {
    /// An item of a numbered stream.
    Item {
        epoch: NodeEpoch,
        attempt: Attempt,
        n: u64,
        body: Body<Command>,
    },
    /// A command of the leader's own.
    Duty(Command),
    /// Which node epochs are current.
    Epochs(EpochView),
}

/// The log of one group. Entries are appended at once and durable after a sync.
#[derive(Debug)]
pub(crate) struct Log<E> {
    entries: Vec<E>,
    durable: usize,
}

impl<E> Default for Log<E> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            durable: 0,
        }
    }
}

impl<E> Log<E> {
    /// Appends; returns how long the log must be durable for the entry to be committed.
    pub(crate) fn append(&mut self, entry: E) -> usize {
        self.entries.push(entry);
        self.entries.len()
    }

    pub(crate) fn durable(&self) -> usize {
        self.durable
    }

    pub(crate) fn appended(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, at: usize) -> &E {
        &self.entries[at]
    }

    fn sync(&mut self) {
        self.durable = self.entries.len();
    }

    /// The process dies: of what is not synced, a beginning may be there all the same.
    fn crash(&mut self, rng: &mut StdRng) {
        let kept = rng.random_range(self.durable..=self.entries.len());
        self.entries.truncate(kept);
        self.durable = kept;
    }
}

/// What survives a crash.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) meta: Log<MetaCommand>,
    pub(crate) routes: Log<RoutesCommand>,
    pub(crate) shards: Vec<Log<ShardEntry>>,
    /// Starts on this folder; synced at once.
    pub(crate) starts: u64,
}

impl Disk {
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            meta: Log::default(),
            routes: Log::default(),
            shards: std::iter::repeat_with(Log::default).take(shards).collect(),
            starts: 0,
        }
    }

    /// One sync covers all groups.
    pub(crate) fn sync(&mut self) {
        self.meta.sync();
        self.routes.sync();
        self.shards.iter_mut().for_each(Log::sync);
    }

    pub(crate) fn crash(&mut self, rng: &mut StdRng) {
        self.meta.crash(rng);
        self.routes.crash(rng);
        for shard in &mut self.shards {
            shard.crash(rng);
        }
    }
}
