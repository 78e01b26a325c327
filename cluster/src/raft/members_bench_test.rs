//! What groups of three members cost: three nodes in one process, on a real disk, linked in memory
//! (neither TLS nor kernel). Run by hand:
//! `cargo test --release -p tidewire-cluster --lib members_bench -- --ignored --nocapture
//! --test-threads 1`; a folder on the disk in question is named by `TMPDIR`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster_core::NodeId;
use runtime::SystemClock;
use storage::fs::RealFs;
use storage::raft::GroupId;
use tempfile::TempDir;

use super::bench_test::cpu_ticks;
use super::test_machine::{Journal, TestMachine};
use super::test_members::{address, link, replica};
use super::{Group, RaftConfig, RaftNode};
use crate::link::{Links, MemoryHub};

const ENTRY_BYTES: usize = 300;
const MEASURED: Duration = Duration::from_secs(3);

struct Three {
    nodes: Vec<(RaftNode, Links, TempDir)>,
    /// As their leader, node 1, has them.
    groups: Vec<Group<TestMachine>>,
}

impl Three {
    async fn start(groups: u32) -> Self {
        let hub = MemoryHub::default();
        let mut nodes: Vec<(RaftNode, Links, TempDir)> = Vec::new();
        for node in 1..=3 {
            let folder = tempfile::tempdir().unwrap();
            let config = RaftConfig::new(folder.path().to_owned(), NodeId(node));
            let clock = Arc::new(SystemClock::default());
            let on_fatal = Arc::new(|fatal| panic!("{fatal}"));
            let raft = RaftNode::open(Arc::new(RealFs), clock, config, on_fatal).unwrap();
            let (links, _) = link(&hub, &raft, node, 1).await;
            for (other, (_, there, _)) in (1..).zip(&nodes) {
                links.set_peer(NodeId(other), &address(other));
                there.set_peer(NodeId(node), &address(node));
            }
            nodes.push((raft, links, folder));
        }
        let mut three = Self {
            nodes,
            groups: Vec::new(),
        };
        for group in 0..groups {
            let led = three.found(group).await;
            three.groups.push(led);
        }
        three
    }

    async fn found(&self, group: u32) -> Group<TestMachine> {
        let (id, name) = (GroupId(group), format!("group-{group}"));
        let start = |node: u32| &self.nodes[node as usize - 1].0;
        let led: Group<TestMachine> = start(1)
            .start_group(id, &name, Journal::default())
            .await
            .unwrap();
        for node in [2, 3] {
            let started = start(node).start_replica::<TestMachine>(
                id,
                &name,
                replica(node),
                Journal::default(),
            );
            started.await.unwrap();
            let control = led.control();
            let added = control.add_learner(replica(node), NodeId(node));
            added.await.unwrap();
        }
        let voters = [1, 2, 3].map(replica).into();
        led.control().change_voters(voters).await.unwrap();
        led
    }

    async fn close(self) {
        for (node, ..) in &self.nodes {
            node.close().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn members_bench_proposals_by_groups_and_proposers() {
    for groups in [1, 32] {
        for proposers in [1, 64, 1000] {
            let three = Three::start(groups).await;
            let (begin, used) = (Instant::now(), cpu_ticks());
            let tasks: Vec<_> = (0..proposers)
                .map(|nth| {
                    let group = three.groups[nth % three.groups.len()].clone();
                    tokio::spawn(async move {
                        let entry = Bytes::from(vec![7; ENTRY_BYTES]);
                        let mut answered = 0_u64;
                        while begin.elapsed() < MEASURED {
                            group.propose(entry.clone()).await.unwrap();
                            answered += 1;
                        }
                        answered
                    })
                })
                .collect();
            let mut answered = 0;
            for task in tasks {
                answered += task.await.unwrap();
            }
            let seconds = begin.elapsed().as_secs_f64();
            let ticks = (cpu_ticks() - used) as f64;
            println!(
                "{groups:2} groups, {proposers:4} proposers: {:7.0} proposals/s, {:3.0} % of a core, \
                 {:5.1} us of it each",
                answered as f64 / seconds,
                ticks / seconds,
                ticks * 10_000.0 / answered as f64,
            );
            three.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn members_bench_idle_groups() {
    let three = Three::start(32).await;
    let mut used = cpu_ticks();
    for what in ["in use", "asleep"] {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let percent = (cpu_ticks() - used) as f64 / 5.0;
        println!("32 groups on three nodes, {what}: {percent:.2} % of a core");
        // Until nobody has used them for 10 s.
        tokio::time::sleep(Duration::from_secs(6)).await;
        used = cpu_ticks();
    }
    assert!(three.groups.iter().all(|group| !group.driven_is_active()));
    three.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn members_bench_waking() {
    let three = Three::start(1).await;
    let group = &three.groups[0];
    for what in ["awake", "asleep"] {
        let mut took = Vec::new();
        for _ in 0..2 {
            group.propose(Bytes::from_static(b"x")).await.unwrap();
            if what != "awake" {
                let mut quiet = tokio::time::interval(Duration::from_millis(500));
                // No heartbeat is due behind the 10 s in which it counts as used.
                for _ in 0..25 {
                    quiet.tick().await;
                }
            }
            let begin = Instant::now();
            group.propose(Bytes::from_static(b"x")).await.unwrap();
            took.push(begin.elapsed());
        }
        took.sort();
        println!("a proposal to a group that is {what}: {took:?}");
    }
    three.close().await;
}
