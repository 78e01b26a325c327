//! All groups of a node.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Config, Raft, ServerState, SnapshotPolicy};
use runtime::Clock;
use storage::fs::Fs;
use storage::raft::{self as log, GroupId, RaftLog};

use super::catch_up::catch_up;
use super::driver::{self, Drive, Driven, HEARTBEAT};
use super::failure::{CloseError, Fatal, Latch, OpenError};
use super::group::{Group, RaftOf};
use super::log_store::GroupLog;
use super::network::NoNetwork;
use super::replica::{Context, Limits, Replica};
use super::state_machine::Hosting;
use crate::machine::Machine;

/// A leader whom a quorum confirmed less than this ago may answer, and who follows him does not
/// stand for election: the lease ends when a silent node is noticed.
const ELECTION_MS: (u64, u64) = (900, 1500);
/// Commands that wait for a group's Raft; who proposes more waits.
const COMMANDS_MAX: u64 = 4096;
/// How long a group may take from its election until everything committed is applied.
const START_PATIENCE: Duration = Duration::from_mins(1);

/// How the groups of a node are kept.
#[derive(Debug, Clone)]
pub struct RaftConfig {
    /// The folder: the log in `log`, the state of each group in `<name>.redb`.
    pub folder: PathBuf,
    /// The Raft id of this node, which no other has or had.
    pub node: u64,
    /// How the log is kept.
    pub log: log::Config,
    /// Bytes of pages of each state file in memory.
    pub state_cache_bytes: usize,
    /// A group is flushed once it has applied so many bytes of log since the last time: so much is
    /// applied again at a start.
    pub flush_log_bytes: u64,
    /// A group is flushed at the latest so long after a change.
    pub flush_age: Duration,
}

impl RaftConfig {
    /// The defaults, for a node.
    #[must_use]
    pub fn new(folder: PathBuf, node: u64) -> Self {
        Self {
            folder,
            node,
            log: log::Config::default(),
            state_cache_bytes: 1 << 20,
            flush_log_bytes: 32 << 20,
            flush_age: Duration::from_mins(1),
        }
    }
}

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
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    fs: Arc<dyn Fs>,
    config: RaftConfig,
    raft_config: Arc<Config>,
    log: Arc<RaftLog>,
    context: Arc<Context>,
    groups: Mutex<Groups>,
}

#[derive(Default)]
struct Groups {
    /// Those that were started or are about to be, with their names.
    names: BTreeMap<GroupId, String>,
    started: BTreeMap<GroupId, Arc<dyn Drive>>,
    is_driven: bool,
    is_closed: bool,
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
        Self::open_with(fs, clock, config, on_fatal, |fs, config, on_fatal| {
            RaftLog::open(fs, &config.folder.join("log"), &config.log, on_fatal)
        })
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
        Self::open_with(fs, clock, config, on_fatal, |fs, config, on_fatal| {
            let folder = config.folder.join("log");
            RaftLog::open_sabotaged(fs, &folder, &config.log, seed, defects, on_fatal)
        })
    }

    fn open_with(
        fs: Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
        config: RaftConfig,
        on_fatal: Arc<dyn Fn(Fatal) + Send + Sync>,
        open: impl FnOnce(
            Arc<dyn Fs>,
            &RaftConfig,
            Box<dyn FnOnce(log::Fatal) + Send>,
        ) -> Result<RaftLog, log::OpenError>,
    ) -> Result<Self, OpenError> {
        let latch = Arc::new(Latch::new(on_fatal));
        let log_failed = Arc::clone(&latch);
        let on_log_failed = Box::new(move |fatal| log_failed.raise(Fatal::Log(fatal)));
        let log = open(Arc::clone(&fs), &config, on_log_failed)?;
        let context = Context::new(clock, latch);
        Ok(Self {
            inner: Arc::new(Inner {
                fs,
                config,
                raft_config: Arc::new(raft_config()),
                log: Arc::new(log),
                context: Arc::new(context),
                groups: Mutex::default(),
            }),
        })
    }

    /// Starts a group: makes its machine of its state file, makes this node its one voter if the
    /// group is new, gets it elected, and returns when everything that is committed is applied.
    ///
    /// # Errors
    /// The group is not started, and may not be started again before the node was opened again;
    /// what is on disk stays.
    pub async fn start_group<M: Machine>(
        &self,
        id: GroupId,
        name: &str,
        config: M::Config,
    ) -> Result<Group<M>, OpenError> {
        let inner = &self.inner;
        inner.enter(id, name)?;
        let replica = inner.open_replica::<M>(id, name, config).await?;
        inner.check_log(&replica)?;
        inner.catch_up(&replica).await?;
        let raft = inner.open_raft(&replica).await?;
        let context = Arc::clone(&inner.context);
        let driven = Arc::new(Driven::new(raft, replica, context));
        let group = Group::new(Arc::clone(&driven));
        let led = inner.lead(&driven, &group).await;
        if let Err(error) = led {
            driven.stop().await;
            return Err(error);
        }
        inner.drive(id, Arc::clone(&driven)).await?;
        // A close flushes and purges nothing; nor may the last purge be on disk.
        if let Some(flushed) = driven.replica.flushed() {
            let purged = driven.purge(flushed).await;
            purged.map_err(|error| inner.not_started(id, error))?;
        }
        Ok(group)
    }

    /// Flushes every group, stops them, and closes the log. What is proposed meanwhile may be lost
    /// or not.
    ///
    /// # Errors
    /// Everything is closed all the same; nothing is lost, but the next start has more to apply.
    pub async fn close(&self) -> Result<(), CloseError> {
        let groups = self.inner.close_groups();
        let flushing = groups.clone();
        let flushed = blocking(move || flushing.iter().try_for_each(|group| group.flush())).await;
        for group in groups {
            group.stop().await;
        }
        let log = Arc::clone(&self.inner.log);
        blocking(move || log.close()).await?;
        Ok(flushed??)
    }

    /// What can be seen of the log from outside.
    #[must_use]
    pub fn log_counters(&self) -> log::Counters {
        self.inner.log.counters()
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

    /// The groups that keep old segments of the log, those that keep most first.
    #[must_use]
    pub fn log_holders(&self) -> Vec<log::Holder> {
        self.inner.log.holders()
    }
}

impl Inner {
    fn groups(&self) -> MutexGuard<'_, Groups> {
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

    fn enter(&self, id: GroupId, name: &str) -> Result<(), OpenError> {
        let mut groups = self.groups();
        if groups.is_closed {
            return Err(OpenError::Closed);
        }
        if groups.names.contains_key(&id) || groups.names.values().any(|other| other == name) {
            return Err(OpenError::Started {
                group: id,
                name: name.to_owned(),
            });
        }
        groups.names.insert(id, name.to_owned());
        Ok(())
    }

    async fn open_replica<M: Machine>(
        &self,
        id: GroupId,
        name: &str,
        config: M::Config,
    ) -> Result<Arc<Replica<M>>, OpenError>
    where
        M::Config: Send,
    {
        let path = self.config.folder.join(format!("{name}.redb"));
        let limits = Limits {
            cache_bytes: self.config.state_cache_bytes,
            flush_log_bytes: self.config.flush_log_bytes,
            flush_age: self.config.flush_age,
        };
        let (fs, context) = (Arc::clone(&self.fs), Arc::clone(&self.context));
        let open = move || Replica::open(fs, &path, id, limits, config, context);
        opening(id, open).await.map(Arc::new)
    }

    async fn catch_up<M: Machine>(&self, replica: &Arc<Replica<M>>) -> Result<(), OpenError> {
        let (replica, log) = (Arc::clone(replica), Arc::clone(&self.log));
        opening(replica.group, move || catch_up(&replica, &log)).await
    }

    /// Whether log and state file are of one time.
    fn check_log<M: Machine>(&self, replica: &Replica<M>) -> Result<(), OpenError> {
        let (group, path) = (replica.group, replica.path().to_owned());
        let flushed = replica.flushed().map(|id| id.index);
        let purged = self.log.log_state(group).last_purged.map(|id| id.index);
        if let Some(purged) = purged.filter(|purged| Some(*purged) > flushed) {
            return Err(OpenError::Gap {
                path,
                group,
                purged,
                flushed,
            });
        }
        match flushed {
            Some(flushed) if self.log.vote(group).is_none() => Err(OpenError::LogLost {
                path,
                group,
                flushed,
            }),
            _ => Ok(()),
        }
    }

    /// Starts Raft.
    async fn open_raft<M: Machine>(
        &self,
        replica: &Arc<Replica<M>>,
    ) -> Result<RaftOf<M>, OpenError> {
        let log = GroupLog::new(
            Arc::clone(&self.log),
            replica.group,
            Arc::clone(&self.context.latch),
        );
        Raft::new(
            self.config.node,
            Arc::clone(&self.raft_config),
            NoNetwork::new(),
            log,
            Hosting(Arc::clone(replica)),
        )
        .await
        .map_err(|error| self.not_started(replica.group, error))
    }

    /// Gets the group led by this node, if it is the only voter, and everything committed applied.
    async fn lead<M: Machine>(
        &self,
        driven: &Driven<M>,
        group: &Group<M>,
    ) -> Result<(), OpenError> {
        let (id, node, raft) = (group.id(), self.config.node, &driven.raft);
        let failed = |error: &dyn fmt::Display| self.not_started(id, error);
        if raft.is_initialized().await.map_err(|e| failed(&e))? {
            let members = {
                let metrics = raft.metrics();
                let metrics = metrics.borrow_watched();
                let nodes = metrics.membership_config.nodes();
                nodes.map(|(node, ())| *node).collect::<Vec<_>>()
            };
            if !members.contains(&node) {
                return Err(OpenError::ForeignNode {
                    group: id,
                    members,
                    node,
                });
            }
            raft.trigger().elect(true).await.map_err(|e| failed(&e))?;
        } else {
            let alone = BTreeMap::from([(node, ())]);
            raft.initialize(alone).await.map_err(|e| failed(&e))?;
        }
        raft.wait(Some(START_PATIENCE))
            .state(ServerState::Leader, "elected")
            .await
            .map_err(|e| failed(&e))?;
        match tokio::time::timeout(START_PATIENCE, group.read_index()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(failed(&format!("{error:?}"))),
            Err(late) => Err(failed(&late)),
        }
    }

    /// The damage that was found meanwhile, if any: it says more than Raft does.
    fn not_started(&self, group: GroupId, why: impl fmt::Display) -> OpenError {
        match self.context.latch.first() {
            Some(fatal) => OpenError::Failed(fatal),
            None => OpenError::Raft {
                group,
                why: why.to_string(),
            },
        }
    }

    /// Hands the group to the driver.
    async fn drive<M: Machine>(
        self: &Arc<Self>,
        id: GroupId,
        driven: Arc<Driven<M>>,
    ) -> Result<(), OpenError> {
        let is_closed = {
            let mut groups = self.groups();
            if !groups.is_closed {
                groups.started.insert(id, Arc::clone(&driven) as _);
            }
            if !std::mem::replace(&mut groups.is_driven, true) {
                let driver = driver::drive(Arc::downgrade(self), Arc::clone(&self.context));
                tokio::spawn(driver);
            }
            groups.is_closed
        };
        if is_closed {
            driven.stop().await;
            return Err(OpenError::Closed);
        }
        Ok(())
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

/// Groups neither tick nor compact by themselves: the driver decides.
fn raft_config() -> Config {
    let config = Config {
        cluster_name: "tidewire".to_owned(),
        enable_tick: false,
        enable_pre_vote: Some(true),
        // A restored leader would give ids that others hold to other entries.
        enable_leader_restore: Some(false),
        heartbeat_interval: HEARTBEAT.as_millis() as u64,
        election_timeout_min: ELECTION_MS.0,
        election_timeout_max: ELECTION_MS.1,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        api_channel_size: Some(COMMANDS_MAX),
        ..Config::default()
    };
    config.validate().expect("the timeouts rise")
}

/// Runs a step of a start that blocks.
async fn opening<T: Send + 'static>(
    group: GroupId,
    step: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    blocking(step).await.map_err(|error| OpenError::Raft {
        group,
        why: error.to_string(),
    })?
}

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CloseError> {
    tokio::task::spawn_blocking(f)
        .await
        .map_err(|error| CloseError::Panicked(error.to_string()))
}
