//! What lies outside the process: disk, clocks, chance, and the eyes of the checkers.

use std::collections::BTreeMap;

use mqtt::ClientId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use session::ConnectionId;
use tidewire_cluster_core::{BootMs, ClockReading, WallMs};

use super::defect::Defect;
use super::disk::{Disk, ShardWhat};
use super::trace::Trace;

/// Wall time at which every run begins.
const WALL_MS: i64 = 1_700_000_000_000;

const STALE_MAX: usize = 12;

pub(crate) struct Ctx {
    pub(crate) rng: StdRng,
    pub(crate) defect: Defect,
    pub(crate) disk: Disk,
    /// Whether an `Open` replaces only what was there when its connection was accepted.
    pub(crate) looks_back: bool,
    boot_ms: u64,
    wall_apart_ms: i64,
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
            disk: Disk::new(shards),
            looks_back: false,
            boot_ms: 1_000,
            wall_apart_ms: 0,
            is_synchronised,
            is_set_later: seed % 4 == 1,
            set_at_ms: 0,
            faults: true,
            trace: Trace::new(),
            stale: Vec::new(),
            opened: BTreeMap::new(),
            closed: BTreeMap::new(),
            violations: Vec::new(),
            crashes: 0,
        }
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
            self.wall_apart_ms = 0;
        }
    }

    /// Until when a connection that a client loses now has lasted.
    pub(crate) fn lasted_ms(&self, id: Option<ConnectionId>) -> u64 {
        let closed = id.and_then(|id| self.closed.get(&id));
        closed.copied().unwrap_or(self.boot_ms)
    }

    pub(crate) fn step_clock(&mut self, ms: i64) {
        self.wall_apart_ms += ms;
    }

    /// A process starts: by then a clock that something synchronises is right again, or says that
    /// it is not. One that was wrong then, and called right, could be told by nobody.
    pub(crate) fn start(&mut self) {
        if self.is_set_later {
            self.is_synchronised = false;
            self.boot_ms += self.rng.random_range(0..6_000);
            self.wall_apart_ms = -self.rng.random_range(0..4_000);
            self.set_at_ms = self.boot_ms + self.rng.random_range(0..6_000);
        } else if self.is_synchronised {
            self.wall_apart_ms = 0;
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
            apart_ms: None,
        }
    }

    /// Whether this goes wrong, once in `times`.
    pub(crate) fn fails(&mut self, times: u32) -> bool {
        self.faults && self.rng.random_ratio(1, times)
    }

    fn wall_ms(&self) -> u64 {
        (WALL_MS + self.wall_apart_ms + self.boot_ms as i64).unsigned_abs()
    }
}
