//! openraft's own tests of a store, through the adapters, with a real log and a real state file.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::storage::RaftLogStorage;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{RaftLogReader, StorageError};
use runtime::ManualClock;
use storage::fs::FaultFs;
use storage::raft::{Config, GroupId, RaftLog};
use storage::state;

use super::blocking::Blocking;
use super::failure::Latch;
use super::log_store::GroupLog;
use super::replica::{Context, Limits, Replica, View};
use super::state_machine::Hosting;
use super::test_machine::{Journal, TestMachine};
use super::types::{Command, Entry, LeaderId, LogId, Payload, SnapshotMeta, Types, Vote};

struct Builder {
    stores: AtomicU32,
}

impl StoreBuilder<Types<TestMachine>, GroupLog<TestMachine>, Hosting<TestMachine>, ()> for Builder {
    async fn build(
        &self,
    ) -> Result<((), GroupLog<TestMachine>, Hosting<TestMachine>), StorageError<Types<TestMachine>>>
    {
        let store = self.stores.fetch_add(1, Ordering::Relaxed);
        let fs = FaultFs::new(u64::from(store));
        let latch = Arc::new(Latch::new(Arc::new(|fatal| panic!("{fatal}"))));
        // The first look at an entry that left the cache must go to the disk.
        let config = Config {
            cache_bytes_limit: if store.is_multiple_of(2) { 0 } else { 1 << 20 },
            ..Config::default()
        };
        let path = Path::new("/data/log");
        let log = RaftLog::open(Arc::new(fs.clone()), path, &config, |_| {});
        let group = GroupId(store);
        let replica = replica(&fs, group, &latch);
        let log = GroupLog::new(Arc::new(log.unwrap()), group, latch, Blocking::Threads);
        Ok(((), log, Hosting::new(Arc::new(replica))))
    }
}

fn replica(fs: &FaultFs, group: GroupId, latch: &Arc<Latch>) -> Replica<TestMachine> {
    let context = Context::new(Arc::new(ManualClock::default()), Arc::clone(latch));
    let limits = Limits {
        cache_bytes: 1 << 20,
        flush_log_bytes: 1 << 20,
        flush_age: Duration::from_mins(1),
    };
    Replica::open(
        Arc::new(fs.clone()),
        Path::new("/data/group.redb"),
        group,
        limits,
        Journal::default(),
        Arc::new(context),
    )
    .unwrap()
}

/// Entries of one leader, from this index on.
fn commands(from: u64, commands: &[&'static str]) -> Vec<Entry> {
    let leader_id = LeaderId {
        term: 1,
        node_id: 1,
    };
    let entries = (from..).zip(commands).map(|(index, command)| Entry {
        log_id: LogId { leader_id, index },
        payload: Payload::Normal(Command(Bytes::from_static(command.as_bytes()))),
    });
    entries.collect()
}

#[tokio::test]
async fn an_installed_state_takes_the_place_of_machine_and_file_and_outlives_a_crash() {
    let latch = Arc::new(Latch::new(Arc::new(|fatal| panic!("{fatal}"))));
    let (here, there) = (FaultFs::new(1), FaultFs::new(2));
    let (old, new) = (
        replica(&here, GroupId(1), &latch),
        replica(&there, GroupId(1), &latch),
    );
    old.apply(&commands(0, &["x", "y", "z"])).unwrap();
    old.flush().unwrap();
    new.apply(&commands(0, &["a", "b", "c", "d"])).unwrap();
    let (meta, view) = new.view(true).unwrap();
    // What is applied later is not in the view.
    new.apply(&commands(4, &["e"])).unwrap();
    new.flush().unwrap();

    old.install_in(0, &meta, view).unwrap();

    let entries = |replica: &Replica<TestMachine>| {
        replica.with(|machine| machine.entries.values().cloned().collect::<Vec<_>>())
    };
    let installed: Vec<Vec<u8>> = ["a", "b", "c", "d"].map(Into::into).to_vec();
    assert_eq!(entries(&old), installed);
    assert_eq!(old.applied_state().0.map(|id| id.index), Some(3));
    let again = replica(&here.crash(), GroupId(1), &latch);
    assert_eq!(entries(&again), installed);
    assert_eq!(again.applied_state(), old.applied_state());
    again.apply(&commands(4, &["f"])).unwrap();
    assert_eq!(again.flush().unwrap().map(|id| id.index), Some(4));
}

#[tokio::test]
async fn a_file_has_one_draft_which_changes_nothing_until_it_is_adopted() {
    let latch = Arc::new(Latch::new(Arc::new(|fatal| panic!("{fatal}"))));
    let fs = FaultFs::new(1);
    let replica_of = |fs: &FaultFs| replica(fs, GroupId(1), &latch);
    let old = replica_of(&fs);
    old.apply(&commands(0, &["x"])).unwrap();
    old.flush().unwrap();

    let mut draft = old.draft().unwrap();
    draft
        .put(1, &7_u64.to_be_bytes(), b"never adopted")
        .unwrap();
    let second = old.draft().map(drop);
    assert!(matches!(second, Err(state::Error::Drafted { .. })));
    drop(draft);
    let mut draft = old.draft().unwrap();
    draft.put(1, &0_u64.to_be_bytes(), b"a").unwrap();

    let entries = |replica: &Replica<TestMachine>| {
        replica.with(|machine| machine.entries.values().cloned().collect::<Vec<_>>())
    };
    let broken_off = replica_of(&fs.copy());
    assert_eq!(entries(&broken_off), [b"x".to_vec()]);
    let meta = SnapshotMeta {
        last_log_id: Some(commands(4, &["y"])[0].log_id),
        ..SnapshotMeta::default()
    };
    old.install_in(0, &meta, View::Received(Box::new(draft)))
        .unwrap();
    assert_eq!(entries(&old), [b"a".to_vec()]);
    assert_eq!(*old.watch_applied().borrow(), 4);
    assert_eq!(entries(&replica_of(&fs.crash())), [b"a".to_vec()]);
}

#[tokio::test]
async fn a_vote_outlives_a_crash_from_the_moment_it_is_saved() {
    let path = Path::new("/data/log");
    for seed in 0..20 {
        let fs = FaultFs::new(seed);
        let latch = Arc::new(Latch::new(Arc::new(|_| {})));
        let log = RaftLog::open(Arc::new(fs.clone()), path, &Config::default(), |_| {});
        let mut log: GroupLog<TestMachine> = GroupLog::new(
            Arc::new(log.unwrap()),
            GroupId(1),
            latch.clone(),
            Blocking::Threads,
        );
        let vote = Vote::new(seed + 1, 7);

        log.save_vote(&vote).await.unwrap();

        let log = RaftLog::open(Arc::new(fs.crash()), path, &Config::default(), |_| {});
        let mut log: GroupLog<TestMachine> =
            GroupLog::new(Arc::new(log.unwrap()), GroupId(1), latch, Blocking::Threads);
        assert_eq!(log.read_vote().await.unwrap(), Some(vote), "seed {seed}");
    }
}

#[tokio::test]
async fn openrafts_own_suite_passes() {
    let builder = Builder {
        stores: AtomicU32::new(0),
    };

    let passed = Suite::test_all(builder).await;

    passed.unwrap();
}
