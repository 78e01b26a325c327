//! Several nodes in one process, on disks and a network in memory, in real time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster_core::{FeatureLevel, FolderId, NodeId, RaftId, StartCount};
use runtime::{Random, SystemClock};
use storage::fs::FaultFs;
use storage::raft::GroupId;
use tokio::task::JoinHandle;

use super::control::GroupControl;
use super::test_machine::TestMachine;
use super::test_node::{PATIENCE, Setup, TestNode, entries};
use super::{Group, RaftNode};
use crate::link::{
    Broken, ClusterId, Event, Faults, Incoming, Lane, LinkConfig, LinkParts, Links, MemoryHub,
    NodeIdentity, Service,
};

/// The group of most tests.
pub(super) const GROUP: u32 = 3;

/// Takes what comes to the node of Raft.
struct Serve(RaftNode);

impl Service for Serve {
    fn handle_request(&self, request: Incoming) {
        self.0.handle_request(request);
    }

    fn handle_event(&self, event: Event) {
        if let Event::Up {
            node,
            lane: Lane::Requests,
            dialed: true,
            ..
        } = event
        {
            self.0.handle_up(node);
        }
    }
}

/// A node that runs.
pub(super) struct Member {
    pub(super) node: TestNode,
    pub(super) groups: BTreeMap<u32, Group<TestMachine>>,
    links: Links,
    serving: JoinHandle<Result<(), Broken>>,
}

/// The nodes that run, by number.
pub(super) struct Members {
    pub(super) hub: MemoryHub,
    pub(super) setup: Setup,
    pub(super) running: BTreeMap<u32, Member>,
    /// How often each was started.
    starts: BTreeMap<u32, u64>,
    /// Of the disks.
    seed: u64,
}

pub(super) fn address(node: u32) -> String {
    format!("node-{node}")
}

/// The replica of a node in groups that node 1 founds.
pub(super) fn replica(node: u32) -> RaftId {
    RaftId(match node {
        1 => 1,
        _ => 1 << 32 | u64::from(node),
    })
}

/// Gives a node links that know nobody yet.
pub(super) async fn link(
    hub: &MemoryHub,
    raft: &RaftNode,
    node: u32,
    start: u64,
) -> (Links, JoinHandle<Result<(), Broken>>) {
    let parts = LinkParts {
        config: LinkConfig::default(),
        identity: NodeIdentity {
            cluster: ClusterId(0xc1),
            node: NodeId(node),
            folder: FolderId(0xf00 + u128::from(node)),
            start: StartCount(start),
            level: FeatureLevel(1),
            understood: FeatureLevel(1),
        },
        clock: Arc::new(SystemClock::default()),
        random: Random::seeded(u64::from(node)),
        service: Arc::new(Serve(raft.clone())),
    };
    let own = address(node);
    let (links, service) = Links::bind(hub.at(&own), &own, parts).await.unwrap();
    let serving = tokio::spawn(service.run(std::future::pending()));
    raft.connect(links.clone());
    (links, serving)
}

impl Members {
    /// Nobody runs yet.
    pub(super) fn new(seed: u64, setup: Setup) -> Self {
        Self {
            hub: MemoryHub::default(),
            setup,
            running: BTreeMap::new(),
            starts: BTreeMap::new(),
            seed,
        }
    }

    /// Three nodes with a group of three voters, led by node 1.
    pub(super) async fn three(seed: u64, setup: Setup) -> Self {
        let mut members = Self::new(seed, setup);
        for node in 1..=3 {
            members.start_new(node).await;
        }
        members.found(GROUP, &[1, 2, 3]).await;
        members
    }

    pub(super) async fn start_new(&mut self, node: u32) {
        let fs = FaultFs::new(self.seed << 8 | u64::from(node));
        self.start(node, &fs).await;
    }

    /// Starts a node on its disk, without groups.
    pub(super) async fn start(&mut self, node: u32, fs: &FaultFs) {
        let setup = Setup {
            node: NodeId(node),
            ..self.setup.clone()
        };
        let test_node = TestNode::open_as(fs, &setup).unwrap();
        let start = self.starts.entry(node).or_default();
        *start += 1;
        let (links, serving) = link(&self.hub, &test_node.node, node, *start).await;
        for (other, member) in &self.running {
            links.set_peer(NodeId(*other), &address(*other));
            member.links.set_peer(NodeId(node), &address(node));
        }
        let member = Member {
            node: test_node,
            groups: BTreeMap::new(),
            links,
            serving,
        };
        self.running.insert(node, member);
    }

    /// Starts a replica with its usual id.
    pub(super) async fn start_replica(&mut self, group: u32, node: u32) -> Group<TestMachine> {
        let member = self.running.get_mut(&node).unwrap();
        let started = member.node.try_start_replica(group, replica(node).0);
        let started = started.await.unwrap();
        member.groups.insert(group, started.clone());
        started
    }

    /// Founds a group on node 1, and makes these nodes its voters.
    pub(super) async fn found(&mut self, group: u32, nodes: &[u32]) {
        let founded = self.running[&1].node.start(group).await;
        let founder = self.running.get_mut(&1).unwrap();
        founder.groups.insert(group, founded.clone());
        let control = founded.control();
        for node in nodes.iter().copied().filter(|node| *node != 1) {
            self.start_replica(group, node).await;
            let added = control.add_learner(replica(node), NodeId(node));
            added.await.unwrap();
        }
        let voters = nodes.iter().map(|node| replica(*node)).collect();
        control.change_voters(voters).await.unwrap();
    }

    pub(super) fn group(&self, group: u32, node: u32) -> &Group<TestMachine> {
        &self.running[&node].groups[&group]
    }

    pub(super) fn control(&self, group: u32, node: u32) -> Arc<dyn GroupControl> {
        let control = self.running[&node].node.node.control(GroupId(group));
        control.expect("it was started")
    }

    /// Gets a node elected that may be, since it has what a quorum has: asks it until it is.
    pub(super) async fn elect(&self, group: u32, node: u32) {
        let control = self.control(group, node);
        within("it is elected", async {
            while !control.is_leading() {
                control.elect().await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }

    /// Gets one of these nodes elected: not each may have what a quorum has.
    pub(super) async fn elect_one(&self, group: u32, nodes: &[u32]) -> u32 {
        let elected = async {
            loop {
                for node in nodes {
                    let control = self.control(group, *node);
                    control.elect().await;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    if control.is_leading() {
                        return *node;
                    }
                }
            }
        };
        within("one of them is elected", elected).await
    }

    /// The process dies; the machine lives.
    pub(super) async fn kill(&mut self, node: u32) -> FaultFs {
        let member = self.running.remove(&node).unwrap();
        let fs = member.node.fs.kill();
        member.end().await;
        fs
    }

    /// Power is lost.
    pub(super) async fn crash(&mut self, node: u32) -> FaultFs {
        let member = self.running.remove(&node).unwrap();
        let fs = member.node.fs.crash();
        member.end().await;
        fs
    }

    /// Sets what is wrong between a node and all others that run, both ways.
    pub(super) fn set_faults(&self, node: u32, faults: Faults) {
        for other in self.running.keys().filter(|other| **other != node) {
            let (one, two) = (address(node), address(*other));
            self.hub.set_faults(&one, &two, faults);
            self.hub.set_faults(&two, &one, faults);
        }
    }

    pub(super) fn cut(&self, node: u32) {
        let cut = true;
        self.set_faults(
            node,
            Faults {
                cut,
                ..Faults::default()
            },
        );
    }

    pub(super) fn heal(&self, node: u32) {
        self.set_faults(node, Faults::default());
    }

    /// Waits until these nodes have all applied what the first one has, and have the same.
    pub(super) async fn agree(&self, group: u32, nodes: &[u32]) -> Vec<Bytes> {
        let first = self.group(group, nodes[0]);
        let index = first.read_index().await.unwrap();
        let expected = entries(first);
        for node in nodes {
            let other = self.group(group, *node);
            let mut applied = other.watch_applied();
            let caught_up = applied.wait_for(|applied| *applied >= index);
            within("it catches up", caught_up).await.unwrap();
            assert!(entries(other) == expected, "node {node} has other entries");
        }
        expected
    }

    pub(super) fn fatals(&self) -> usize {
        let members = self.running.values();
        members.map(|member| member.node.fatals().len()).sum()
    }
}

impl Member {
    /// Nothing it does reaches the disk any more.
    async fn end(self) {
        self.serving.abort();
        let _ = self.serving.await;
        let _ = self.node.node.close().await;
    }
}

/// What must come, within a bound.
pub(super) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(PATIENCE, future).await;
    outcome.unwrap_or_else(|_| panic!("not in time: {what}"))
}
