//! Three members in disorder, drawn from a seed: nodes die with and without what they did not sync,
//! the network is cut, slow or garbles, logs are purged, leaders come and go. What was answered is
//! there in the end, once and in order, on every member.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use runtime::Random;
use storage::fs::FaultFs;

use super::Group;
use super::hold::HoldLimits;
use super::test_machine::TestMachine;
use super::test_members::{GROUP, Members, replica, within};
use super::test_node::{Setup, entry};
use crate::link::Faults;

const STEPS: u32 = 14;

/// Whom the client may ask.
type Groups = Arc<Mutex<BTreeMap<u32, Group<TestMachine>>>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_answered_is_lost_in_disorder() {
    for seed in 0..2 {
        Disorder::run(seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes"]
async fn nothing_answered_is_lost_in_much_disorder() {
    for seed in 100..140 {
        Disorder::run(seed).await;
    }
}

struct Disorder {
    members: Members,
    groups: Groups,
    random: Random,
    /// Proposals that were answered.
    answered: Arc<AtomicU64>,
    /// Nodes that are down, with what their disks hold.
    down: BTreeMap<u32, FaultFs>,
}

impl Disorder {
    async fn run(seed: u64) {
        let setup = Setup {
            hold: HoldLimits {
                bytes: 4_000,
                age: Duration::from_mins(1),
            },
            ..Setup::default()
        };
        let mut disorder = Self {
            members: Members::three(seed, setup).await,
            groups: Groups::default(),
            random: Random::seeded(seed),
            answered: Arc::default(),
            down: BTreeMap::new(),
        };
        disorder.show_groups();
        let is_over = Arc::new(AtomicBool::new(false));
        let client = tokio::spawn(client(
            Arc::clone(&disorder.groups),
            Arc::clone(&disorder.answered),
            Arc::clone(&is_over),
        ));
        for _ in 0..STEPS {
            disorder.step().await;
        }
        is_over.store(true, Ordering::Release);
        disorder.heal().await;
        let leader = disorder.settle().await;
        let answered = within("the client ends", client).await.unwrap();
        let all = disorder.members.agree(GROUP, &[leader, 1, 2, 3]).await;
        check(seed, &answered, &all);
        assert_eq!(disorder.members.fatals(), 0, "seed {seed}");
        for node in 1..=3 {
            disorder.members.kill(node).await;
        }
    }

    /// Waits for a leader that stays: the last transfer may be under way.
    async fn settle(&self) -> u32 {
        let settled = async {
            loop {
                let leader = self.members.elect_one(GROUP, &[1, 2, 3]).await;
                tokio::time::sleep(Duration::from_secs(3)).await;
                let group = self.members.group(GROUP, leader);
                if group.read_index().await.is_ok() {
                    return leader;
                }
            }
        };
        within("a leader stays", settled).await
    }

    fn show_groups(&self) {
        let groups = self.members.running.iter();
        let groups = groups.map(|(node, member)| (*node, member.groups[&GROUP].clone()));
        *self.groups.lock().unwrap() = groups.collect();
    }

    fn below(&mut self, bound: u64) -> u32 {
        u32::try_from(self.random.below(bound)).unwrap()
    }

    async fn step(&mut self) {
        let node = 1 + self.below(3);
        let pause = Duration::from_millis(u64::from(50 + self.below(300)));
        let is_up = self.members.running.contains_key(&node);
        match self.below(9) {
            // Two of three stay.
            0 if is_up && self.down.is_empty() => {
                let fs = self.members.kill(node).await;
                self.down.insert(node, fs);
            }
            1 if is_up && self.down.is_empty() => {
                let fs = self.members.crash(node).await;
                self.down.insert(node, fs);
            }
            2 if is_up => self.members.cut(node),
            3 if is_up => {
                let garbled_every = Some(5_000);
                let delay = Duration::from_millis(5);
                let faults = Faults {
                    garbled_every,
                    delay,
                    cut: false,
                };
                self.members.set_faults(node, faults);
            }
            4 if is_up => self.members.heal(node),
            5 if is_up => self.members.control(GROUP, node).elect().await,
            6 if is_up => {
                let group = self.members.group(GROUP, node);
                group.flush_soon();
            }
            7 if is_up => {
                let control = self.members.control(GROUP, node);
                // In its own time.
                tokio::spawn(async move { control.transfer(replica(1 + node % 3)).await });
            }
            _ => self.start_all().await,
        }
        self.show_groups();
        tokio::time::sleep(pause).await;
        // Mostly there is a leader before the next step.
        let before = self.answered.load(Ordering::Relaxed);
        for _ in 0..25 {
            let candidate = 1 + self.below(3);
            if self.answered.load(Ordering::Relaxed) > before + 2 {
                break;
            }
            if self.members.running.contains_key(&candidate) {
                self.members.control(GROUP, candidate).elect().await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn start_all(&mut self) {
        for (node, fs) in std::mem::take(&mut self.down) {
            self.members.start(node, &fs).await;
            self.members.start_replica(GROUP, node).await;
        }
    }

    async fn heal(&mut self) {
        self.start_all().await;
        for node in 1..=3 {
            self.members.heal(node);
        }
        self.show_groups();
    }
}

/// Proposes to whoever leads, one at a time; gives the numbers that were answered.
async fn client(groups: Groups, count: Arc<AtomicU64>, is_over: Arc<AtomicBool>) -> Vec<u64> {
    let mut answered = Vec::new();
    for number in 0.. {
        if is_over.load(Ordering::Acquire) {
            break;
        }
        let leading = {
            let groups = groups.lock().unwrap();
            groups.values().find(|group| group.is_leading()).cloned()
        };
        let Some(group) = leading else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        // Who asks a leader without a quorum may wait for long.
        let patience = Duration::from_millis(500);
        let outcome = tokio::time::timeout(patience, group.propose(entry(number))).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        if let Ok(Ok(_)) = outcome {
            answered.push(number);
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
    answered
}

fn check(seed: u64, answered: &[u64], all: &[Bytes]) {
    println!(
        "seed {seed}: {} answered, {} there",
        answered.len(),
        all.len()
    );
    let mut place = 0;
    for number in answered {
        let entry = entry(*number);
        let there = all[place..].iter().position(|other| *other == entry);
        let there = there.unwrap_or_else(|| panic!("seed {seed}: entry {number} is lost"));
        place += there + 1;
    }
    let mut once = all.to_vec();
    once.sort();
    once.dedup();
    assert_eq!(
        once.len(),
        all.len(),
        "seed {seed}: something is there twice"
    );
    assert!(
        answered.len() > 20,
        "seed {seed}: {} answered",
        answered.len()
    );
}
