//! Crashes at any operation, with what was not synced lost or torn: what was answered is there,
//! in order and once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use storage::fs::FaultFs;
use storage::raft::Defects;

use super::test_node::{Setup, TestNode, entries, entry};

const SEEDS: u64 = 60;
const CRASHES: u64 = 4;
const PROPOSERS: u64 = 8;
const PROPOSALS: u64 = 30;

/// What proposers know: where each answered entry stands.
type Answered = BTreeMap<u64, Bytes>;

#[tokio::test]
async fn crashes_lose_nothing_that_was_answered() {
    let mut all = Seen::default();
    for seed in 0..SEEDS {
        let found = run(seed, Defects::default()).await;
        let seen = found.unwrap_or_else(|lost| panic!("seed {seed}: {lost}"));
        all.answered += seen.answered;
        all.restored += seen.restored;
        all.replayed += seen.replayed;
        all.unled += seen.unled;
    }
    // Else the runs would show nothing.
    let often = SEEDS as usize;
    assert!(all.answered > 50 * often, "{all:?}");
    assert!(all.restored > 20 * often, "{all:?}");
    assert!(all.replayed > 20 * often, "{all:?}");
    assert!(all.unled > often / 10, "{all:?}");
}

/// What a run went through.
#[derive(Debug, Default)]
struct Seen {
    answered: usize,
    /// Entries that starts took from the state file.
    restored: usize,
    /// Entries that starts took from the log.
    replayed: usize,
    /// Starts that a crash cut short.
    unled: usize,
}

#[tokio::test]
async fn a_log_that_acknowledges_before_its_fsync_is_found() {
    let defects = Defects {
        acknowledge_before_fsync: true,
        ..Defects::default()
    };
    for seed in 0..SEEDS {
        if run(seed, defects).await.is_err() {
            return;
        }
    }
    panic!("no seed finds it");
}

/// Proposes and crashes, again and again; says what was lost.
async fn run(seed: u64, defects: Defects) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let mut random = SmallRng::seed_from_u64(seed);
    let mut fs = FaultFs::new(seed);
    let mut answered = Answered::new();
    for crash in 0..=CRASHES {
        let setup = Setup {
            seed: random.random(),
            defects,
            flush_log_bytes: random.random_range(500..8_000),
            ..Setup::default()
        };
        // A crash may come while the node starts.
        if crash < CRASHES && random.random_ratio(1, 4) {
            fs.freeze_at(random.random_range(0..120));
        }
        if let Ok(node) = TestNode::open_as(&fs, &setup) {
            if let Ok(group) = node.try_start(1).await {
                check(&entries(&group), &answered)?;
                let counts = group.with(|machine| (machine.restored, machine.applied));
                seen.restored += counts.0 as usize;
                seen.replayed += counts.1 as usize;
                if crash < CRASHES {
                    fs.freeze_at(fs.operations() + random.random_range(0..400));
                }
                let base = crash * PROPOSERS * PROPOSALS;
                let mut tasks = Vec::new();
                for proposer in 0..PROPOSERS {
                    let group = group.clone();
                    let flushes = random.random_ratio(1, 8);
                    tasks.push(tokio::spawn(async move {
                        let mut answered = Answered::new();
                        for nth in 0..PROPOSALS {
                            let entry = entry(base + proposer * PROPOSALS + nth);
                            let Ok(place) = group.propose(entry.clone()).await else {
                                break;
                            };
                            answered.insert(place, entry);
                            if flushes && nth % 8 == 0 {
                                group.flush_soon();
                            }
                        }
                        answered
                    }));
                }
                for task in tasks {
                    let task = tokio::time::timeout(Duration::from_secs(20), task);
                    let new = task.await.expect("every proposal has an outcome").unwrap();
                    answered.extend(new);
                }
            } else if !fs.is_frozen() {
                return Err(format!("crash {crash}: the group does not start"));
            } else {
                seen.unled += 1;
            }
            let next = fs.crash();
            let _ = node.node.close().await;
            fs = next;
        } else if fs.is_frozen() {
            seen.unled += 1;
            fs = fs.crash();
        } else {
            return Err(format!("crash {crash}: the log does not open"));
        }
    }
    seen.answered = answered.len();
    Ok(seen)
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
