//! A node on a disk in memory, for tests.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cluster_core::{NodeId, RaftId};
use runtime::ManualClock;
use storage::fs::FaultFs;
use storage::raft::{Config, Defects, GroupId};

use super::test_machine::{Journal, TestMachine};
use super::{Fatal, Group, HoldLimits, OpenError, RaftConfig, RaftNode, Unproposed};

/// How long a test waits for what must come.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

pub(super) struct TestNode {
    pub(super) fs: FaultFs,
    pub(super) clock: ManualClock,
    pub(super) node: RaftNode,
    fatals: Arc<Mutex<Vec<Fatal>>>,
}

/// What a test may want otherwise.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) node: NodeId,
    pub(super) seed: u64,
    pub(super) defects: Defects,
    pub(super) flush_log_bytes: u64,
    pub(super) segment_bytes: u32,
    pub(super) hold: HoldLimits,
    pub(super) copy_bytes_per_s: u64,
    pub(super) restores_leader: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            node: NodeId(1),
            seed: 0,
            defects: Defects::default(),
            flush_log_bytes: 32 << 20,
            segment_bytes: 16 << 10,
            hold: HoldLimits::default(),
            copy_bytes_per_s: 64 << 20,
            restores_leader: false,
        }
    }
}

impl TestNode {
    pub(super) fn open(fs: &FaultFs) -> Self {
        Self::open_as(fs, &Setup::default()).unwrap()
    }

    pub(super) fn open_as(fs: &FaultFs, setup: &Setup) -> Result<Self, OpenError> {
        let config = RaftConfig {
            log: Config {
                segment_bytes: setup.segment_bytes,
                cache_bytes_limit: 4 << 10,
                ..Config::default()
            },
            flush_log_bytes: setup.flush_log_bytes,
            hold: setup.hold,
            copy_bytes_per_s: setup.copy_bytes_per_s,
            restores_leader: setup.restores_leader,
            ..RaftConfig::new(PathBuf::from("/data"), setup.node)
        };
        let clock = ManualClock::at(1_000_000);
        let fatals = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&fatals);
        let node = RaftNode::open_sabotaged(
            Arc::new(fs.clone()),
            Arc::new(clock.clone()),
            config,
            setup.seed,
            setup.defects,
            Arc::new(move |fatal| seen.lock().unwrap().push(fatal)),
        )?;
        Ok(Self {
            fs: fs.clone(),
            clock,
            node,
            fatals,
        })
    }

    pub(super) async fn try_start(&self, id: u32) -> Result<Group<TestMachine>, OpenError> {
        let name = format!("group-{id}");
        self.node
            .start_group(GroupId(id), &name, Journal::default())
            .await
    }

    pub(super) async fn try_start_replica(
        &self,
        id: u32,
        replica: u64,
    ) -> Result<Group<TestMachine>, OpenError> {
        let name = format!("group-{id}");
        let config = Journal::default();
        self.node
            .start_replica(GroupId(id), &name, RaftId(replica), config)
            .await
    }

    pub(super) async fn start(&self, id: u32) -> Group<TestMachine> {
        self.try_start(id).await.unwrap()
    }

    pub(super) fn fatals(&self) -> Vec<Fatal> {
        self.fatals.lock().unwrap().clone()
    }

    /// The process dies; the machine lives.
    pub(super) async fn kill(self) -> FaultFs {
        let fs = self.fs.kill();
        // Nothing it does reaches the disk any more.
        let _ = self.node.close().await;
        fs
    }
}

pub(super) fn entry(number: u64) -> Bytes {
    Bytes::from(format!("entry {number}"))
}

/// Proposes these one behind the other; all must be answered.
pub(super) async fn propose(group: &Group<TestMachine>, numbers: std::ops::Range<u64>) {
    for number in numbers {
        group.propose(entry(number)).await.unwrap();
    }
}

pub(super) fn entries(group: &Group<TestMachine>) -> Vec<Bytes> {
    group.with(|machine| {
        let entries = machine.entries.values();
        entries.map(|entry| Bytes::copy_from_slice(entry)).collect()
    })
}

/// Waits for something that must come to be.
pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

/// The outcome of a proposal, which must come.
pub(super) async fn outcome(group: &Group<TestMachine>, entry: Bytes) -> Result<u64, Unproposed> {
    let outcome = tokio::time::timeout(PATIENCE, group.propose(entry));
    outcome.await.expect("a proposal has an outcome")
}
