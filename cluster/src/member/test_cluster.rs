//! A cluster of whole nodes, in one process and one time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::time::Duration;

use cluster_core::{Group as GroupName, Meta, NodeId, plan};
use tokio::time::Instant;

use super::test_node::*;
use crate::link::{Faults, MemoryHub};

/// Time that a test goes through in steps, five times as fast as the machine's: whatever a thread
/// beside the runtime does (the log's, above all) takes time all the same. Time that leaps whenever
/// nothing is to be done would leap while the disk is waited for.
struct Pace {
    /// Dropped, the steps end.
    _going: mpsc::SyncSender<()>,
}

const STEP: Duration = Duration::from_millis(5);
const STEP_REAL: Duration = Duration::from_millis(1);

impl Pace {
    fn start() -> Self {
        let (going, gone) = mpsc::sync_channel::<()>(1);
        let (tick, mut ticks) = tokio::sync::mpsc::channel::<()>(1);
        // As long as it runs, time does not leap.
        tokio::task::spawn_blocking(move || {
            while gone.recv_timeout(STEP_REAL) == Err(mpsc::RecvTimeoutError::Timeout) {
                // A step that is not taken yet is enough.
                let _ = tick.try_send(());
            }
        });
        tokio::spawn(async move {
            while ticks.recv().await.is_some() {
                tokio::time::advance(STEP).await;
            }
        });
        Self { _going: going }
    }
}

pub(super) struct Cluster {
    /// None in real time.
    _pace: Option<Pace>,
    pub(super) hub: MemoryHub,
    pub(super) clock: TokioClock,
    pub(super) nodes: BTreeMap<u32, TestNode>,
}

impl Cluster {
    pub(super) async fn found(shards: u16) -> Self {
        Self::found_in(Some(Pace::start()), shards).await
    }

    /// For measurements, in a runtime whose time is not paused.
    pub(super) async fn found_in_real_time(shards: u16) -> Self {
        Self::found_in(None, shards).await
    }

    async fn found_in(pace: Option<Pace>, shards: u16) -> Self {
        let (hub, clock) = (MemoryHub::default(), TokioClock(Instant::now()));
        let first = found(&hub, &clock, shards).await;
        Self {
            _pace: pace,
            hub,
            clock,
            nodes: BTreeMap::from([(1, first)]),
        }
    }

    /// Three nodes at rest.
    pub(super) async fn of_three(shards: u16) -> Self {
        let mut cluster = Self::found(shards).await;
        cluster.join(2).await;
        cluster.join(3).await;
        cluster.settle().await;
        cluster
    }

    pub(super) async fn join(&mut self, node: u32) {
        let joined = join_through(&self.hub, &self.clock, node, 1).await;
        self.nodes.insert(node, joined);
    }

    pub(super) fn node(&self, node: u32) -> &TestNode {
        &self.nodes[&node]
    }

    pub(super) async fn kill(&mut self, node: u32) -> Kept {
        let killed = self.nodes.remove(&node).expect("it runs");
        killed.kill().await
    }

    pub(super) async fn restart(&mut self, kept: Kept) {
        let node = kept.node.0;
        let started = restart(&self.hub, &self.clock, kept).await;
        self.nodes.insert(node, started);
    }

    /// Waits until something holds.
    pub(super) async fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        if waited.await.is_err() {
            panic!("{what}: {}", self.show());
        }
    }

    /// Lets time pass, in which something has to hold all along.
    pub(super) async fn throughout(
        &self,
        ms: u64,
        what: &str,
        mut holds: impl FnMut(&Self) -> bool,
    ) {
        for _ in 0..ms / 20 {
            assert!(holds(self), "{what}: {}", self.show());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until nothing is left to move, everything is led, and every node serves.
    pub(super) async fn settle(&self) {
        self.until("at rest", |cluster| {
            cluster.nodes.values().all(|node| {
                let has_meta = node.member.meta().is_some();
                has_meta && is_at_rest(&meta_of(node)) && node.holds_lease()
            }) && cluster.unled().is_empty()
        })
        .await;
    }

    /// The groups that nobody leads, of those that any node knows.
    pub(super) fn unled(&self) -> BTreeSet<GroupName> {
        let mut unled = BTreeSet::new();
        for node in self.nodes.values() {
            let known: Vec<GroupName> = match node.member.meta() {
                Some(_) => meta_of(node).placements().map(|(group, _)| group).collect(),
                None => vec![GroupName::Meta],
            };
            let leads = |group: &GroupName| {
                let mut nodes = self.nodes.values();
                nodes.any(|node| {
                    let control = node.raft.control(super::group_id(*group));
                    control.is_some_and(|control| control.is_leading())
                })
            };
            unled.extend(known.into_iter().filter(|group| !leads(group)));
        }
        unled
    }

    /// Who leads a group, as the nodes themselves say.
    pub(super) fn leaders_of(&self, group: GroupName) -> Vec<u32> {
        let leads = |node: &TestNode| {
            let control = node.raft.control(super::group_id(group));
            control.is_some_and(|control| control.is_leading())
        };
        let nodes = self.nodes.iter().filter(|(_, node)| leads(node));
        nodes.map(|(id, _)| *id).collect()
    }

    /// Cuts or heals one direction.
    pub(super) fn set_cut(&self, from: u32, to: u32, cut: bool) {
        let faults = Faults {
            cut,
            ..Faults::default()
        };
        self.hub.set_faults(&address(from), &address(to), faults);
    }

    /// Cuts or heals both directions between a node and each of some others.
    pub(super) fn set_apart(&self, node: u32, others: &[u32], cut: bool) {
        for other in others {
            self.set_cut(node, *other, cut);
            self.set_cut(*other, node, cut);
        }
    }

    /// What went wrong, for a failed test.
    pub(super) fn show(&self) -> String {
        let mut lines = Vec::new();
        for (id, node) in &self.nodes {
            let status = node.member.status();
            let events = node.events.lock().unwrap();
            let from = events.len().saturating_sub(8);
            let last: Vec<String> = events[from..].iter().map(|e| format!("{e:?}")).collect();
            lines.push(format!(
                "\nnode {id} at {} ms: epoch {:?} entered {} lease {} meta {} routes {}\n  {:?}",
                node.now_ms(),
                status.epoch,
                status.is_entered,
                status.lease_ms,
                status.meta_applied,
                status.routes_applied,
                last
            ));
            for (node, row) in &status.members {
                lines.push(format!("  {node}: {row:?}"));
            }
            for (group, row) in &status.groups {
                lines.push(format!("  {group:?}: {row:?}"));
            }
            if node.member.meta().is_some() {
                lines.push(format!("  plan {:?}", plan(&meta_of(node))));
            }
        }
        lines.push(format!("unled {:?}", self.unled()));
        lines.join("\n")
    }

    pub(super) async fn stop(mut self) {
        while let Some((_, node)) = self.nodes.pop_last() {
            node.stop().await;
        }
    }
}

/// Whether nothing is to be moved, and nothing is being moved.
pub(super) fn is_at_rest(meta: &Meta) -> bool {
    let layout = meta.layout();
    layout.moves.is_empty() && layout.leftovers.is_empty() && plan(meta).is_empty()
}

/// Of each member its epoch.
pub(super) fn epoch_of(node: &TestNode, of: u32) -> Option<cluster_core::NodeEpoch> {
    meta_of(node).member(NodeId(of))?.epoch
}
