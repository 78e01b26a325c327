//! openraft's own tests of a store, through the adapters, with a real log and a real state file.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use openraft::storage::RaftLogStorage;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{RaftLogReader, StorageError};
use runtime::ManualClock;
use storage::fs::FaultFs;
use storage::raft::{Config, GroupId, RaftLog};
use tokio::sync::Notify;

use super::failure::Latch;
use super::log_store::GroupLog;
use super::replica::{Context, Limits, Replica};
use super::state_machine::Hosting;
use super::test_machine::{Journal, TestMachine};
use super::types::{Types, Vote};

struct Builder {
    stores: AtomicU32,
}

impl StoreBuilder<Types<TestMachine>, GroupLog<TestMachine>, Hosting<TestMachine>, ()> for Builder {
    async fn build(
        &self,
    ) -> Result<((), GroupLog<TestMachine>, Hosting<TestMachine>), StorageError<Types<TestMachine>>>
    {
        let store = self.stores.fetch_add(1, Ordering::Relaxed);
        let fs = Arc::new(FaultFs::new(u64::from(store)));
        let latch = Arc::new(Latch::new(Arc::new(|fatal| panic!("{fatal}"))));
        // The first look at an entry that left the cache must go to the disk.
        let config = Config {
            cache_bytes_limit: if store.is_multiple_of(2) { 0 } else { 1 << 20 },
            ..Config::default()
        };
        let log = RaftLog::open(fs.clone(), Path::new("/data/log"), &config, |fatal| {
            panic!("{fatal}")
        });
        let group = GroupId(store);
        let context = Context {
            clock: Arc::new(ManualClock::default()),
            latch: latch.clone(),
            wake: Notify::new(),
        };
        let limits = Limits {
            cache_bytes: 1 << 20,
            flush_log_bytes: 1 << 20,
            flush_age: Duration::from_mins(1),
        };
        let replica = Replica::open(
            fs,
            Path::new("/data/group.redb"),
            group,
            limits,
            Journal::default(),
            Arc::new(context),
        );
        let log = GroupLog::new(Arc::new(log.unwrap()), group, latch);
        Ok(((), log, Hosting(Arc::new(replica.unwrap()))))
    }
}

#[tokio::test]
async fn a_vote_outlives_a_crash_from_the_moment_it_is_saved() {
    let path = Path::new("/data/log");
    for seed in 0..20 {
        let fs = FaultFs::new(seed);
        let latch = Arc::new(Latch::new(Arc::new(|_| {})));
        let log = RaftLog::open(Arc::new(fs.clone()), path, &Config::default(), |_| {});
        let mut log: GroupLog<TestMachine> =
            GroupLog::new(Arc::new(log.unwrap()), GroupId(1), latch.clone());
        let vote = Vote::new(seed + 1, 7);

        log.save_vote(&vote).await.unwrap();

        let log = RaftLog::open(Arc::new(fs.crash()), path, &Config::default(), |_| {});
        let mut log: GroupLog<TestMachine> =
            GroupLog::new(Arc::new(log.unwrap()), GroupId(1), latch);
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
