//! A run: three hosts, what happens to them, and what must hold in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cluster_core::{Group as GroupName, ShardId};
use runtime::Random;
use turmoil::{Builder, Sim};

use super::defect::Defect;
use super::net::address;
use super::node::{Kept, SHARDS, Seat, group_number, is_at_rest, lock, run as run_node};
use super::record::Record;
use super::schedule::{Fault, Step, draw};

const NODES: [u32; 3] = [1, 2, 3];
const TICK: Duration = Duration::from_millis(1);
/// The seed by which the cluster is founded that every run begins with.
const FOUNDING: u64 = 0xf0;
/// How long founding, and settling in the end, may take in the nodes' time.
const SETTLE_MS: u64 = 60_000;
/// Acknowledged proposals to each shard that show that it works again.
const ALIVE: usize = 3;
/// How long after the last proposal everything must be applied everywhere.
const APPLIED_MS: u64 = 10_000;

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) trace: u64,
    pub(crate) violations: Vec<String>,
    /// Milliseconds of the nodes' time, each a step of all of them.
    pub(crate) steps: u64,
    pub(crate) faults: u64,
    pub(crate) acknowledged: u64,
    pub(crate) applied: u64,
    pub(crate) delivered_bytes: u64,
}

/// Runs a seed.
pub(crate) fn run(seed: u64, defect: Defect) -> Report {
    let mut world = World::new(seed, defect, founded());
    world.run();
    world.report()
}

/// What the nodes of a cluster have on their disks that was founded and left to rest.
fn founded() -> BTreeMap<u32, Kept> {
    static FOUNDED: OnceLock<BTreeMap<u32, Kept>> = OnceLock::new();
    let founded = FOUNDED.get_or_init(|| {
        let mut world = World::new(FOUNDING, Defect::None, BTreeMap::new());
        let is_settled = world.until(SETTLE_MS, |world| world.is_settled());
        assert!(is_settled, "founded: {}", world.show());
        assert_eq!(world.record.seen().violations, [""; 0]);
        for node in NODES {
            world.stop(node, false);
        }
        let seats = world.seats.iter();
        let kept = seats.map(|(node, seat)| (*node, seat.with_kept(|kept| kept.clone())));
        kept.collect()
    });
    founded.clone()
}

struct World<'a> {
    sim: Sim<'a>,
    record: Record,
    seats: BTreeMap<u32, Arc<Seat>>,
    random: Random,
    down: BTreeSet<u32>,
    /// Machines without power: they send nothing, not even that they are gone.
    dark: BTreeSet<u32>,
    cut: BTreeSet<(u32, u32)>,
    steps: u64,
    faults: u64,
}

impl World<'_> {
    fn new(seed: u64, defect: Defect, mut founded: BTreeMap<u32, Kept>) -> Self {
        let mut sim = Builder::new()
            .rng_seed(seed)
            .tick_duration(TICK)
            .epoch(std::time::UNIX_EPOCH)
            .simulation_duration(Duration::from_hours(1))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(12))
            .build();
        let record = Record::new();
        let mut seats = BTreeMap::new();
        for node in NODES {
            let kept = founded.remove(&node).map(|kept| {
                let fs = kept.fs.copy();
                fs.reseed(seed << 8 | u64::from(node));
                Kept { fs, ..kept }
            });
            let seat = Arc::new(Seat {
                node,
                seed,
                defect,
                record: record.clone(),
                kept: kept.into(),
                live: None.into(),
                works: true.into(),
            });
            let here = Arc::clone(&seat);
            sim.host(address(node), move || run_node(Arc::clone(&here)));
            seats.insert(node, seat);
        }
        Self {
            sim,
            record,
            seats,
            random: Random::seeded(seed ^ 0x5eed),
            down: BTreeSet::new(),
            dark: BTreeSet::new(),
            cut: BTreeSet::new(),
            steps: 0,
            faults: 0,
        }
    }

    fn run(&mut self) {
        self.pass(2_000 + self.random.clone().below(3_000));
        for Step { fault, then_ms } in draw(&mut self.random, SHARDS) {
            self.strike(fault);
            self.pass(then_ms);
        }
        self.strike(Fault::Heal);
        self.strike(Fault::StartAll);
        let before = self.record.seen().acknowledged.len();
        let is_alive = self.until(SETTLE_MS, |world| {
            world.is_settled() && world.is_alive(before)
        });
        if !is_alive {
            let show = self.show();
            self.record
                .violated(format!("nothing works after healing: {show}"));
            return;
        }
        for seat in self.seats.values() {
            *lock(&seat.works) = false;
        }
        // What is under way is answered or given up.
        self.pass(1_500);
        if !self.until(APPLIED_MS, |world| world.is_applied()) {
            let show = self.show();
            self.record
                .violated(format!("not everything is applied everywhere: {show}"));
        }
        self.record.check_end(&self.ledgers());
    }

    fn report(self) -> Report {
        // The nodes end while the simulation is there.
        let Self {
            sim,
            record,
            steps,
            faults,
            ..
        } = self;
        drop(sim);
        let seen = record.seen();
        Report {
            trace: seen.trace.0,
            violations: seen.violations.clone(),
            steps,
            faults,
            acknowledged: seen.acknowledged.len() as u64,
            applied: seen.applied,
            delivered_bytes: seen.delivered_bytes,
        }
    }

    /// Lets time pass.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.step();
        }
    }

    /// Lets time pass until something holds; whether it did in time.
    fn until(&mut self, ms: u64, holds: impl Fn(&Self) -> bool) -> bool {
        for nth in 0..ms {
            if nth % 50 == 0 && holds(self) {
                return true;
            }
            self.step();
        }
        holds(self)
    }

    fn step(&mut self) {
        self.steps += 1;
        if let Err(error) = self.sim.step() {
            self.record.violated(format!("a node ended: {error}"));
        }
    }

    fn strike(&mut self, fault: Fault) {
        self.faults += 1;
        match fault {
            Fault::Kill(node) => self.stop(node, false),
            Fault::PowerLoss(node) => self.stop(node, true),
            Fault::PowerLossOfAll => {
                for node in NODES {
                    self.stop(node, true);
                }
            }
            Fault::Start(node) => self.start(node),
            Fault::StartDamaged(node, shard) => {
                let group = GroupName::Shard(ShardId(shard));
                // One that is being moved anyway is left alone: two lost replicas are too many.
                let seat = &self.seats[&node];
                if self.down.contains(&node)
                    && seat.with_kept(|kept| kept.replicas.contains_key(&group))
                {
                    seat.with_kept(|kept| kept.damaged = Some(group));
                }
                self.start(node);
            }
            Fault::StartAll => {
                for node in NODES {
                    self.start(node);
                }
            }
            Fault::Cut { from, to } => {
                self.cut.insert((from, to));
            }
            Fault::Isolate(node) => {
                for other in NODES.into_iter().filter(|other| *other != node) {
                    self.cut.extend([(node, other), (other, node)]);
                }
            }
            Fault::Slow { one, other, ms } => {
                let latency = Duration::from_millis(ms);
                self.sim
                    .set_link_max_message_latency(address(one), address(other), latency);
            }
            Fault::Heal => {
                self.cut.clear();
                for (one, other) in [(1, 2), (1, 3), (2, 3)] {
                    let latency = Duration::from_millis(12);
                    self.sim
                        .set_link_max_message_latency(address(one), address(other), latency);
                }
            }
        }
        self.wire();
    }

    /// Has the network be as it is to be.
    fn wire(&self) {
        for from in NODES {
            for to in NODES.into_iter().filter(|to| *to != from) {
                let is_dark = self.dark.contains(&from) || self.dark.contains(&to);
                let is_cut = is_dark || self.cut.contains(&(from, to));
                self.record.set_cut(from, to, is_cut);
                if is_cut {
                    self.sim.partition_oneway(address(from), address(to));
                } else {
                    self.sim.repair_oneway(address(from), address(to));
                }
            }
        }
    }

    /// Ends a node that runs.
    fn stop(&mut self, node: u32, loses_power: bool) {
        if !self.down.insert(node) {
            return;
        }
        let seat = Arc::clone(&self.seats[&node]);
        // What it would say while its tasks end is in no order: tokio ends them by numbers that it
        // counts in the whole process. So it says nothing.
        self.dark.insert(node);
        self.wire();
        if loses_power {
            // In the middle of a write, or between it and its sync.
            if self.random.below(2) == 0 {
                let operations = self.random.below(3);
                let fs = seat.with_kept(|kept| kept.fs.clone());
                fs.freeze_at(fs.operations() + operations);
                seat.with_live(|live| {
                    live.turns.take();
                });
            }
        }
        seat.with_kept(|kept| {
            kept.fs = match loses_power {
                true => kept.fs.crash(),
                false => kept.fs.kill(),
            };
        });
        self.sim.crash(address(node));
        if !loses_power {
            self.dark.remove(&node);
            self.wire();
        }
        *lock(&seat.live) = None;
    }

    fn start(&mut self, node: u32) {
        if self.down.remove(&node) {
            self.dark.remove(&node);
            self.wire();
            self.sim.bounce(address(node));
        }
    }

    /// Whether every node runs and holds its lease, each shard has one leader, and meta wants
    /// nothing else.
    fn is_settled(&self) -> bool {
        let mut leaders: BTreeMap<u32, u32> = BTreeMap::new();
        let mut is_settled = self.down.is_empty();
        for seat in self.seats.values() {
            let mut is_good = false;
            seat.with_live(|live| {
                let is_rested = live.meta.as_ref().is_some_and(is_at_rest);
                is_good = live.holds_lease && is_rested;
                for claim in live.raft.claims() {
                    *leaders.entry(claim.group.0).or_default() += 1;
                }
            });
            is_settled &= is_good;
        }
        // Meta and routes too.
        is_settled && leaders.len() == usize::from(SHARDS) + 2 && leaders.values().all(|n| *n == 1)
    }

    fn is_alive(&self, before: usize) -> bool {
        let seen = self.record.seen();
        let since = &seen.acknowledged[before..];
        (0..SHARDS).all(|shard| {
            let group = group_number(shard);
            since.iter().filter(|ack| ack.group == group).count() >= ALIVE
        })
    }

    /// Of each shard what the nodes have, by node.
    fn ledgers(&self) -> BTreeMap<u32, BTreeMap<u32, BTreeMap<u64, u64>>> {
        let mut ledgers: BTreeMap<u32, BTreeMap<u32, BTreeMap<u64, u64>>> = BTreeMap::new();
        for (node, seat) in &self.seats {
            seat.with_live(|live| {
                for (group, ledger) in &live.ledgers {
                    let values = ledger.with(|ledger| ledger.values.clone());
                    ledgers.entry(*group).or_default().insert(*node, values);
                }
            });
        }
        ledgers
    }

    /// Whether all nodes have applied the same of each shard.
    fn is_applied(&self) -> bool {
        let mut applied: BTreeMap<u32, Vec<Option<u64>>> = BTreeMap::new();
        for seat in self.seats.values() {
            seat.with_live(|live| {
                for (group, ledger) in &live.ledgers {
                    let status = ledger.status();
                    let rows = applied.entry(*group).or_default();
                    rows.extend([status.applied, status.last_log]);
                }
            });
        }
        applied.len() == usize::from(SHARDS)
            && applied
                .values()
                .all(|rows| rows.len() == 2 * NODES.len() && rows.iter().all(|row| *row == rows[0]))
    }

    /// How everything is, for a run that failed.
    fn show(&self) -> String {
        let mut lines = vec![format!("down {:?} cut {:?}", self.down, self.cut)];
        for (node, seat) in &self.seats {
            seat.with_live(|live| {
                let status = live.member.status();
                lines.push(format!(
                    "node {node}: lease {} at rest {:?} claims {:?}",
                    live.holds_lease,
                    live.meta.as_ref().map(is_at_rest),
                    live.raft.claims()
                ));
                lines.push(format!("  members {:?}", status.members));
                for (group, row) in &status.groups {
                    lines.push(format!("  {group:?}: {row:?}"));
                }
                for (group, ledger) in &live.ledgers {
                    lines.push(format!("  {group}: {:?}", ledger.status()));
                }
            });
        }
        lines.join("\n")
    }
}
