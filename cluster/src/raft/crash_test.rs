//! Crashes at any operation, with what was not synced lost or torn: what was answered is there,
//! in order and once, in every group.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use storage::fs::FaultFs;
use storage::raft::Defects;

use super::Group;
use super::test_machine::TestMachine;
use super::test_node::{Setup, TestNode, entries, entry};

const SEEDS: u64 = 40;
const CRASHES: u64 = 4;
const GROUPS: u32 = 3;
const PROPOSERS: u64 = 9;
const PROPOSALS: u64 = 30;

#[tokio::test]
async fn crashes_lose_nothing_that_was_answered() {
    crash_with_seeds(0..SEEDS).await;
}

/// `cargo test -p tidewire-cluster --lib crashes_of_many_seeds -- --ignored`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn crashes_of_many_seeds_lose_nothing_that_was_answered() {
    crash_with_seeds(SEEDS..SEEDS + 1_000).await;
}

#[tokio::test]
async fn a_log_that_acknowledges_before_its_fsync_is_found() {
    let defects = Defects {
        acknowledge_before_fsync: true,
        ..Defects::default()
    };
    for seed in 0..SEEDS {
        if Run::new(seed, defects).go().await.is_err() {
            return;
        }
    }
    panic!("no seed finds it");
}

async fn crash_with_seeds(seeds: std::ops::Range<u64>) {
    let often = seeds.end - seeds.start;
    let mut all = Seen::default();
    for seed in seeds {
        let found = Run::new(seed, Defects::default()).go().await;
        let seen = found.unwrap_or_else(|lost| panic!("seed {seed}: {lost}"));
        all.answered += seen.answered;
        all.restored += seen.restored;
        all.replayed += seen.replayed;
        all.cut_short += seen.cut_short;
    }
    println!("{often} seeds: {all:?}");
    // Else the runs would show nothing.
    assert!(all.answered > 50 * often, "{all:?}");
    assert!(all.restored > 20 * often, "{all:?}");
    assert!(all.replayed > 20 * often, "{all:?}");
    assert!(all.cut_short > often / 10, "{all:?}");
}

/// What a run went through.
#[derive(Debug, Default)]
struct Seen {
    answered: u64,
    /// Entries that starts took from the state files.
    restored: u64,
    /// Entries that starts took from the log.
    replayed: u64,
    /// Starts that a crash cut short.
    cut_short: u64,
}

/// What proposers know of a group: where each answered entry stands.
type Answered = BTreeMap<u64, Bytes>;

/// Proposals and crashes, again and again.
struct Run {
    random: SmallRng,
    fs: FaultFs,
    defects: Defects,
    answered: BTreeMap<u32, Answered>,
    seen: Seen,
}

impl Run {
    fn new(seed: u64, defects: Defects) -> Self {
        Self {
            random: SmallRng::seed_from_u64(seed),
            fs: FaultFs::new(seed),
            defects,
            answered: BTreeMap::new(),
            seen: Seen::default(),
        }
    }

    /// Says what was lost.
    async fn go(mut self) -> Result<Seen, String> {
        for crash in 0..CRASHES {
            if self.random.random_ratio(1, 4) {
                self.fs.freeze_at(self.random.random_range(0..200));
            }
            let node = self.start(crash).await?;
            if let Some((_, groups)) = &node {
                self.fs
                    .freeze_at(self.fs.operations() + self.random.random_range(0..400));
                self.propose(crash, groups).await;
            }
            let next = self.fs.crash();
            if let Some((node, _)) = node {
                // Nothing it does reaches the disk any more.
                let _ = node.node.close().await;
            }
            self.fs = next;
        }
        self.start(CRASHES).await?;
        let answered = self.answered.values().map(|group| group.len() as u64);
        self.seen.answered = answered.sum();
        Ok(self.seen)
    }

    /// Starts and checks all groups; `None` if the machine stops meanwhile.
    async fn start(
        &mut self,
        crash: u64,
    ) -> Result<Option<(TestNode, Vec<Group<TestMachine>>)>, String> {
        let setup = Setup {
            seed: self.random.random(),
            defects: self.defects,
            flush_log_bytes: self.random.random_range(500..8_000),
            ..Setup::default()
        };
        let mut cut_short = |error: String| match self.fs.is_frozen() {
            true => {
                self.seen.cut_short += 1;
                Ok(None)
            }
            false => Err(format!("crash {crash}: {error}")),
        };
        let node = match TestNode::open_as(&self.fs, &setup) {
            Ok(node) => node,
            Err(error) => return cut_short(error.to_string()),
        };
        let mut groups = Vec::new();
        for id in 0..GROUPS {
            match node.try_start(id).await {
                Ok(group) => groups.push(group),
                Err(error) => {
                    let cut_short = cut_short(error.to_string());
                    let _ = node.node.close().await;
                    return cut_short;
                }
            }
        }
        for (id, group) in (0..).zip(&groups) {
            check(&entries(group), self.answered.entry(id).or_default())?;
            group.with(|machine| {
                self.seen.restored += machine.restored;
                self.seen.replayed += machine.applied;
            });
        }
        Ok(Some((node, groups)))
    }

    async fn propose(&mut self, crash: u64, groups: &[Group<TestMachine>]) {
        let mut tasks = Vec::new();
        for proposer in 0..PROPOSERS {
            let id = u32::try_from(proposer).unwrap() % GROUPS;
            let first = (crash * PROPOSERS + proposer) * PROPOSALS;
            let flushes = self.random.random_ratio(1, 8);
            let group = groups[id as usize].clone();
            tasks.push((id, tokio::spawn(propose(group, first, flushes))));
        }
        for (id, task) in tasks {
            let answered = tokio::time::timeout(Duration::from_secs(20), task).await;
            let answered = answered.expect("every proposal has an outcome").unwrap();
            self.answered.entry(id).or_default().extend(answered);
        }
    }
}

/// Proposes one entry behind the other's answer, until one has none.
async fn propose(group: Group<TestMachine>, first: u64, flushes: bool) -> Answered {
    let mut answered = Answered::new();
    for number in first..first + PROPOSALS {
        let entry = entry(number);
        let Ok(place) = group.propose(entry.clone()).await else {
            break;
        };
        answered.insert(place, entry);
        if flushes && number % 8 == 0 {
            group.flush_soon();
        }
    }
    answered
}

fn check(entries: &[Bytes], answered: &Answered) -> Result<(), String> {
    for (place, entry) in answered {
        let at = usize::try_from(*place).expect("few entries");
        if entries.get(at) != Some(entry) {
            return Err(format!(
                "{entry:?} was answered at {place}, and is not there"
            ));
        }
    }
    let once: BTreeSet<&Bytes> = entries.iter().collect();
    match once.len() == entries.len() {
        true => Ok(()),
        false => Err("an entry is there twice".to_owned()),
    }
}
