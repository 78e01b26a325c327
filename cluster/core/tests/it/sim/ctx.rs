//! What lies outside the process: disk, clocks, chance, and the eyes of the checkers.

use std::collections::{BTreeMap, BTreeSet};

use mqtt::{ClientId, Templates};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use session::ConnectionId;
use tidewire_cluster_core::{BootMs, ClockReading, NodeEpoch, WallMs};

use super::client::Label;
use super::defect::Defect;
use super::disk::{Disk, ShardWhat};
use super::trace::Trace;

/// Wall time at which every run begins.
const WALL_MS: i64 = 1_700_000_000_000;

const STALE_MAX: usize = 12;

pub(crate) struct Ctx {
    pub(crate) rng: StdRng,
    pub(crate) defect: Defect,
    /// Those that the cluster was founded with.
    pub(crate) templates: Templates,
    pub(crate) disk: Disk,
    /// Whether an `Open` replaces only what was there when its connection was accepted.
    pub(crate) looks_back: bool,
    boot_ms: u64,
    /// How far the wall clock of each node is apart.
    wall_apart_ms: Vec<i64>,
    /// The node that works.
    at: usize,
    is_synchronised: bool,
    /// Whether no clock runs while the process does not: something sets it right later.
    is_set_later: bool,
    /// When that is.
    set_at_ms: u64,
    /// Whether anything may go wrong.
    pub(crate) faults: bool,
    pub(crate) trace: Trace,
    /// Items on links that a crash left behind, or that a link repeats.
    pub(crate) stale: Vec<(usize, ShardWhat)>,
    /// The newest connection that opened each client's session.
    pub(crate) opened: BTreeMap<ClientId, ConnectionId>,
    /// When the server closed a connection: a client that has not read it yet is not alive.
    pub(crate) closed: BTreeMap<ConnectionId, u64>,
    /// Node epochs that meta's log has ended, and when: their connections lasted no longer.
    pub(crate) ended: BTreeMap<NodeEpoch, u64>,
    /// The epoch of each connection.
    pub(crate) epochs: BTreeMap<ConnectionId, NodeEpoch>,
    /// Messages that a node sent again as themselves after the connection had ended that published
    /// them.
    pub(crate) sent_again: BTreeSet<Label>,
    pub(crate) violations: Vec<String>,
    pub(crate) crashes: u64,
}

impl Ctx {
    pub(crate) fn new(seed: u64, defect: Defect, shards: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let is_synchronised = rng.random_bool(0.5);
        Self {
            rng,
            defect,
            templates: Templates::default(),
            disk: Disk::new(shards),
            looks_back: false,
            boot_ms: 1_000,
            wall_apart_ms: vec![0],
            at: 0,
            is_synchronised,
            is_set_later: seed % 4 == 1,
            set_at_ms: 0,
            faults: true,
            trace: Trace::new(),
            stale: Vec::new(),
            opened: BTreeMap::new(),
            closed: BTreeMap::new(),
            ended: BTreeMap::new(),
            epochs: BTreeMap::new(),
            sent_again: BTreeSet::new(),
            violations: Vec::new(),
            crashes: 0,
        }
    }

    /// Several nodes, each with a wall clock that the others compare theirs with.
    pub(crate) fn begin_cluster(&mut self, nodes: usize) {
        self.is_set_later = false;
        self.looks_back = self.defect != Defect::LateConnectTaken;
        self.wall_apart_ms = vec![0; nodes];
    }

    /// From now on this node works.
    pub(crate) fn turn_to(&mut self, at: usize) {
        self.at = at;
    }

    /// All clocks are right.
    pub(crate) fn set_clocks(&mut self) {
        self.wall_apart_ms.fill(0);
    }

    /// How far the clock is from the median of the others, if there are others.
    fn apart_ms(&self) -> Option<u64> {
        let others = self.wall_apart_ms.iter().enumerate();
        let others = others.filter(|(at, _)| *at != self.at);
        let mut others: Vec<i64> = others.map(|(_, ms)| *ms).collect();
        others.sort_unstable();
        let median = others.get(others.len() / 2)?;
        Some(self.wall_apart_ms[self.at].abs_diff(*median))
    }

    /// A link keeps an item, to bring it later; only of the last ones something can still come.
    pub(crate) fn keep(&mut self, shard: usize, what: ShardWhat) {
        if self.stale.len() >= STALE_MAX {
            self.stale.remove(0);
        }
        self.stale.push((shard, what));
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        self.boot_ms += ms;
        if self.is_set_later && !self.is_synchronised && self.boot_ms >= self.set_at_ms {
            self.is_synchronised = true;
            self.wall_apart_ms[0] = 0;
        }
    }

    /// Until when a connection that a client loses now has lasted.
    pub(crate) fn lasted_ms(&self, id: Option<ConnectionId>) -> u64 {
        let closed = id.and_then(|id| self.closed.get(&id));
        let epoch = id.and_then(|id| self.epochs.get(&id));
        let ended = epoch.and_then(|epoch| self.ended.get(epoch));
        let all = [closed, ended].into_iter().flatten();
        all.min().copied().unwrap_or(self.boot_ms)
    }

    pub(crate) fn step_clock(&mut self, ms: i64) {
        self.wall_apart_ms[self.at] += ms;
    }

    /// A process starts: by then a clock that something synchronises is right again, or says that
    /// it is not. One that was wrong then, and called right, could be told by nobody.
    pub(crate) fn start(&mut self) {
        if self.is_set_later {
            self.is_synchronised = false;
            self.boot_ms += self.rng.random_range(0..6_000);
            self.wall_apart_ms[0] = -self.rng.random_range(0..4_000);
            self.set_at_ms = self.boot_ms + self.rng.random_range(0..6_000);
        } else if self.is_synchronised {
            self.wall_apart_ms[0] = 0;
        }
    }

    pub(crate) fn boot(&self) -> BootMs {
        BootMs(self.boot_ms)
    }

    pub(crate) fn now(&self) -> session::Now {
        session::Now {
            mono: session::MonoMs(self.boot_ms),
            wall: session::WallMs(self.wall_ms()),
        }
    }

    pub(crate) fn reading(&self) -> ClockReading {
        ClockReading {
            boot: self.boot(),
            wall: WallMs(self.wall_ms()),
            is_synchronised: self.is_synchronised,
            apart_ms: self.apart_ms(),
        }
    }

    /// Whether this goes wrong, once in `times`.
    pub(crate) fn fails(&mut self, times: u32) -> bool {
        self.faults && self.rng.random_ratio(1, times)
    }

    fn wall_ms(&self) -> u64 {
        (WALL_MS + self.wall_apart_ms[self.at] + self.boot_ms as i64).unsigned_abs()
    }
}
