//! All groups of a node.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use openraft::Config;
use runtime::Clock;
use storage::Turns;
use storage::fs::Fs;
use storage::raft::{self as log, GroupId, RaftLog};
use tokio::sync::Semaphore;

use super::blocking::Blocking;
use super::config::{RaftConfig, raft_config};
use super::driver::Drive;
use super::failure::{CloseError, Fatal, Latch, OpenError};
use super::marker::Marker;
use super::replica::{Context, Replica};
use super::serving::SERVED_MAX;
use super::traffic::Traffic;
use crate::machine::Machine;

/// What can be seen of the state files of all groups from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateCounters {
    /// Flushes that found no space, since opening. They are tried again.
    pub flushes_refused: u64,
    /// Groups whose flush waits for space now.
    pub groups_without_space: u64,
}

/// The Raft groups of this node; clones are the same. Close it with [`RaftNode::close`]: when it
/// is merely dropped, the next start has more to apply.
#[derive(Clone)]
pub struct RaftNode {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) fs: Arc<dyn Fs>,
    pub(super) config: RaftConfig,
    pub(super) raft_config: Arc<Config>,
    pub(super) log: Arc<RaftLog>,
    pub(super) context: Arc<Context>,
    groups: Mutex<Groups>,
    /// Requests of other members that may be served at once.
    pub(super) served: Arc<Semaphore>,
    /// The replicas that were opened, whose state files are open as long as anybody holds one.
    opened: Mutex<Vec<Weak<dyn Any + Send + Sync>>>,
    /// Held by each step of a start that is under way.
    pub(super) step: Arc<()>,
}

#[derive(Default)]
pub(super) struct Groups {
    /// Those that were started or are about to be, with their names.
    pub(super) names: BTreeMap<GroupId, String>,
    pub(super) started: BTreeMap<GroupId, Arc<dyn Drive>>,
    pub(super) is_driven: bool,
    pub(super) is_closed: bool,
}

impl RaftNode {
    /// Opens the log of the groups in `config.folder`, creating it if there is none. `on_fatal` is
    /// called at most once, from any thread, when nothing more can be acknowledged: the process is
    /// to end.
    ///
    /// Blocks while every record of the log is checked.
    ///
    /// # Errors
    /// Nothing was changed on disk, except that a torn tail may have been cut.
    pub fn open(
        fs: Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
        config: RaftConfig,
        on_fatal: Arc<dyn Fn(Fatal) + Send + Sync>,
    ) -> Result<Self, OpenError> {
        let open = |fs, config: &RaftConfig, on_fatal: Box<dyn FnOnce(log::Fatal) + Send>| {
            RaftLog::open(fs, &config.folder.join("log"), &config.log, on_fatal)
        };
        Self::open_with(fs, clock, config, on_fatal, Blocking::Threads, open)
    }

    /// For crash tests: [`open`](Self::open) with randomness from a seed, and with mistakes of the
    /// log that a checker must find.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_sabotaged(
        fs: Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
        config: RaftConfig,
        seed: u64,
        defects: log::Defects,
        on_fatal: Arc<dyn Fn(Fatal) + Send + Sync>,
    ) -> Result<Self, OpenError> {
        let open = |fs, config: &RaftConfig, on_fatal: Box<dyn FnOnce(log::Fatal) + Send>| {
            let folder = config.folder.join("log");
            RaftLog::open_sabotaged(fs, &folder, &config.log, seed, defects, on_fatal)
        };
        Self::open_with(fs, clock, config, on_fatal, Blocking::Threads, open)
    }

    /// For simulations: [`open_sabotaged`](Self::open_sabotaged) without a thread. The log does
    /// nothing but by the turns, and what else blocks on the disk is done where it is asked for: so
    /// one thread decides what comes when.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_in_turns(
        fs: Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
        config: RaftConfig,
        seed: u64,
        defects: log::Defects,
        on_fatal: Arc<dyn Fn(Fatal) + Send + Sync>,
    ) -> Result<(Self, Turns), OpenError> {
        let mut turns = Turns::default();
        let open = |fs, config: &RaftConfig, on_fatal: Box<dyn FnOnce(log::Fatal) + Send>| {
            let folder = config.folder.join("log");
            let opened = RaftLog::open_in_turns(fs, &folder, &config.log, seed, defects, on_fatal)?;
            turns = opened.1;
            Ok(opened.0)
        };
        let node = Self::open_with(fs, clock, config, on_fatal, Blocking::InPlace, open)?;
        Ok((node, turns))
    }

    fn open_with(
        fs: Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
        config: RaftConfig,
        on_fatal: Arc<dyn Fn(Fatal) + Send + Sync>,
        blocking: Blocking,
        open: impl FnOnce(
            Arc<dyn Fs>,
            &RaftConfig,
            Box<dyn FnOnce(log::Fatal) + Send>,
        ) -> Result<RaftLog, log::OpenError>,
    ) -> Result<Self, OpenError> {
        let latch = Arc::new(Latch::new(on_fatal));
        let log_failed = Arc::clone(&latch);
        let on_log_failed = Box::new(move |fatal| log_failed.raise(Fatal::Log(fatal)));
        let marker = Marker::of(&fs, &config)?;
        let log = open(Arc::clone(&fs), &config, on_log_failed)?;
        marker.set(&fs)?;
        let context = Context {
            copy_bytes_per_s: config.copy_bytes_per_s,
            blocking,
            ..Context::new(clock, latch)
        };
        Ok(Self {
            inner: Arc::new(Inner {
                fs,
                raft_config: Arc::new(raft_config(&config)),
                config,
                log: Arc::new(log),
                context: Arc::new(context),
                groups: Mutex::default(),
                served: Arc::new(Semaphore::new(SERVED_MAX)),
                opened: Mutex::default(),
                step: Arc::default(),
            }),
        })
    }

    /// Flushes every group, stops them, and closes the log. What is proposed meanwhile may be lost
    /// or not.
    ///
    /// # Errors
    /// Everything is closed all the same; nothing is lost, but the next start has more to apply.
    pub async fn close(&self) -> Result<(), CloseError> {
        let groups = self.inner.close_groups();
        let flushing = groups.clone();
        let blocking = self.inner.context.blocking;
        let flushed = blocking
            .run(move || flushing.iter().try_for_each(|group| group.flush()))
            .await;
        for group in groups {
            group.stop().await;
        }
        let log = Arc::clone(&self.inner.log);
        blocking.run(move || log.close()).await?;
        Ok(flushed??)
    }

    /// Waits until nobody holds a replica of a node that is closed, and no start of one is under way, but
    /// for `patience` at most; whether that is so. Until then their state files are open, and are written
    /// to at the latest when they are dropped: who opens the same folder again in this process, as a node
    /// does that begins another epoch, has to wait for it, or two write one file.
    pub async fn released(&self, patience: Duration) -> bool {
        let released = async {
            while self.inner.is_held() {
                tokio::time::sleep(RELEASE_LOOK).await;
            }
        };
        tokio::time::timeout(patience, released).await.is_ok()
    }

    /// What can be seen of the log from outside.
    #[must_use]
    pub fn log_counters(&self) -> log::Counters {
        self.inner.log.counters()
    }

    /// Whether the log knows a group: it was started here before.
    #[must_use]
    pub fn has_log(&self, id: GroupId) -> bool {
        self.inner.log.vote(id).is_some()
    }

    /// Term and index of the last entry that the log has of a group, fsynced or not; none of a group
    /// that it does not know.
    #[must_use]
    pub fn last_entry(&self, id: GroupId) -> Option<(u64, u64)> {
        let last = self.inner.log.log_state(id).last?;
        Some((last.term, last.index))
    }

    /// What can be seen of the state files from outside.
    #[must_use]
    pub fn state_counters(&self) -> StateCounters {
        let context = &self.inner.context;
        StateCounters {
            flushes_refused: context.flushes_refused.load(Ordering::Relaxed),
            groups_without_space: context.groups_without_space.load(Ordering::Relaxed),
        }
    }

    /// What went between this node's replicas and those of other nodes.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.inner.context.traffic
    }

    /// The groups that keep old segments of the log, those that keep most first.
    #[must_use]
    pub fn log_holders(&self) -> Vec<log::Holder> {
        self.inner.log.holders()
    }
}

/// Pause between two looks whether replicas are released.
const RELEASE_LOOK: Duration = Duration::from_millis(10);

impl Inner {
    fn opened(&self) -> MutexGuard<'_, Vec<Weak<dyn Any + Send + Sync>>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A replica was opened.
    pub(super) fn note_opened<M: Machine>(&self, replica: &Arc<Replica<M>>) {
        let replica: Arc<dyn Any + Send + Sync> = Arc::clone(replica) as _;
        let mut opened = self.opened();
        opened.retain(|one| one.strong_count() > 0);
        opened.push(Arc::downgrade(&replica));
    }

    fn is_held(&self) -> bool {
        Arc::strong_count(&self.step) > 1 || self.opened().iter().any(|one| one.strong_count() > 0)
    }

    pub(super) fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The groups, unless the node is closed.
    pub(super) fn open_groups(&self) -> Option<Vec<Arc<dyn Drive>>> {
        let groups = self.groups();
        (!groups.is_closed).then(|| groups.started.values().cloned().collect())
    }

    fn close_groups(&self) -> Vec<Arc<dyn Drive>> {
        let mut groups = self.groups();
        groups.is_closed = true;
        let started = std::mem::take(&mut groups.started);
        drop(groups);
        // The driver looks, and ends.
        self.context.wake.notify_one();
        started.into_values().collect()
    }
}

impl fmt::Debug for RaftNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftNode")
            .field("config", &self.inner.config)
            .field("log", &self.inner.log)
            .finish_non_exhaustive()
    }
}
