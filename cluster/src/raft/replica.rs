//! The machine of a group and its state file: what was applied, and how much of it is flushed.

mod flush;
mod recovery;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use runtime::Clock;
use storage::fs::Fs;
use storage::raft::GroupId;
use storage::state::{self, Applied, Draft, FlushPolicy, Rows, Snapshot, StateFile};
use tokio::sync::{Notify, watch};

use super::blocking::Blocking;
use super::codec::{self, raft_id, stored_id};
use super::copies::Copies;
use super::failure::{Fatal, Latch, OpenError, stop};
use super::traffic::Traffic;
use super::types::{Entry, LogId, Payload, SnapshotMeta, StoredMembership};
use crate::link::Links;
use crate::machine::Machine;
use flush::Flushing;

/// What an entry costs in the log beside its command, about.
const ENTRY_LOG_BYTES: u64 = 48;

/// How fast a state is copied to another node, unless the node says otherwise.
pub(super) const COPY_BYTES_PER_S: u64 = 64 << 20;

/// What the groups of a node share.
pub(super) struct Context {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) latch: Arc<Latch>,
    /// Tells the driver that a flush is due.
    pub(super) wake: Notify,
    /// Flushes that found no space.
    pub(super) flushes_refused: AtomicU64,
    /// Groups whose flush waits for space.
    pub(super) groups_without_space: AtomicU64,
    /// The way to other nodes, once there is one.
    pub(super) links: OnceLock<Links>,
    /// States that are copied to other nodes.
    pub(super) copies: Arc<Copies>,
    /// How fast one of them may go.
    pub(super) copy_bytes_per_s: u64,
    pub(super) blocking: Blocking,
    /// What went to other nodes and came from them.
    pub(super) traffic: Traffic,
}

impl Context {
    pub(super) fn new(clock: Arc<dyn Clock>, latch: Arc<Latch>) -> Self {
        Self {
            clock,
            latch,
            wake: Notify::new(),
            flushes_refused: AtomicU64::new(0),
            groups_without_space: AtomicU64::new(0),
            links: OnceLock::new(),
            copies: Arc::default(),
            copy_bytes_per_s: COPY_BYTES_PER_S,
            blocking: Blocking::default(),
            traffic: Traffic::default(),
        }
    }

    pub(super) fn now(&self) -> Duration {
        Duration::from_millis(self.clock.mono_ms())
    }
}

/// How the state of a group is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) cache_bytes: usize,
    pub(super) flush_log_bytes: u64,
    pub(super) flush_age: Duration,
}

/// The machine of a group with its state file.
pub(super) struct Replica<M: Machine> {
    pub(super) group: GroupId,
    path: PathBuf,
    config: M::Config,
    context: Arc<Context>,
    file: StateFile,
    hosted: Mutex<Hosted<M>>,
    /// The last index that was applied.
    applied: watch::Sender<u64>,
    /// Held while the file is written: one flush at a time.
    flushing: Mutex<Flushing>,
    /// Not before this time, in milliseconds of the clock, is a flush tried again that found no
    /// space; 0 if none waits for space.
    retry_at_ms: AtomicU64,
    /// Whether a flush was asked for, since its time has come or before.
    asked: AtomicBool,
    /// Bytes of log that a flush under way is making superfluous.
    in_flight_bytes: AtomicU64,
}

struct Hosted<M> {
    machine: M,
    applied: Option<LogId>,
    membership: StoredMembership,
    policy: FlushPolicy,
    /// Bytes of log applied since changes were taken last.
    unflushed_bytes: u64,
    /// Bytes of log applied since the start.
    applied_bytes: u64,
    /// See [`Replica::begin_run`].
    run: u64,
}

/// A state as Raft passes it on.
pub(super) enum View {
    /// Of a group without a flush.
    Empty,
    /// The rows of this node's state file as they were at a flush.
    Own(Box<Snapshot>),
    /// A file that was made of rows of another node, to take the place of this node's.
    Received(Box<Draft>),
}

impl View {
    /// Its rows in order of kind and key, if they are this node's.
    pub(super) fn rows(&self) -> Result<Option<Rows>, state::Error> {
        match self {
            Self::Own(snapshot) => snapshot.rows().map(Some),
            Self::Empty | Self::Received(_) => Ok(None),
        }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Own(snapshot) => f.debug_tuple("Own").field(&snapshot.applied()).finish(),
            Self::Received(_) => f.write_str("Received"),
        }
    }
}

/// How far a state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) applied: Option<u64>,
    pub(super) flushed: Option<u64>,
    pub(super) unflushed_bytes: u64,
}

impl<M: Machine> Replica<M> {
    /// Opens the state file and makes the machine of its rows. Blocks on the disk.
    pub(super) fn open(
        fs: Arc<dyn Fs>,
        path: &Path,
        group: GroupId,
        limits: Limits,
        config: M::Config,
        context: Arc<Context>,
    ) -> Result<Self, OpenError> {
        let file_config = state::Config {
            cache_bytes: limits.cache_bytes,
            ..state::Config::new(M::VERSION)
        };
        let file = StateFile::open(fs, path, file_config)?;
        let (machine, applied, membership) = restore(&file, path, group, &config)?;
        let hosted = Hosted {
            machine,
            applied,
            membership,
            policy: FlushPolicy::new(limits.flush_log_bytes, limits.flush_age),
            unflushed_bytes: 0,
            applied_bytes: 0,
            run: 0,
        };
        Ok(Self {
            group,
            path: path.to_owned(),
            config,
            context,
            file,
            applied: watch::Sender::new(index(hosted.applied)),
            hosted: Mutex::new(hosted),
            flushing: Mutex::default(),
            retry_at_ms: AtomicU64::new(0),
            asked: AtomicBool::new(false),
            in_flight_bytes: AtomicU64::new(0),
        })
    }

    /// Where what blocks on its file runs.
    pub(super) fn blocking(&self) -> Blocking {
        self.context.blocking
    }

    /// What goes to other nodes and comes from them.
    pub(super) fn traffic(&self) -> &Traffic {
        &self.context.traffic
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn hosted(&self) -> MutexGuard<'_, Hosted<M>> {
        // Whoever panics under this lock ends the process; until then nothing more is answered.
        self.hosted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `f` look at the machine, and change what is not replicated.
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut M) -> R) -> R {
        let _panics = OnPanic {
            group: self.group,
            latch: &self.context.latch,
        };
        f(&mut self.hosted().machine)
    }

    /// Reads rows of the state file as they are now.
    pub(super) fn read<T>(
        &self,
        read: impl Fn(&Snapshot) -> Result<T, state::Error>,
    ) -> Result<T, state::Error> {
        self.file.read(read)
    }

    pub(super) fn applied_state(&self) -> (Option<LogId>, StoredMembership) {
        let hosted = self.hosted();
        (hosted.applied, hosted.membership.clone())
    }

    pub(super) fn watch_applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    fn tell_applied(&self, applied: Option<LogId>) {
        let applied = index(applied);
        self.applied
            .send_if_modified(|before| std::mem::replace(before, applied) != applied);
    }

    pub(super) fn flushed(&self) -> Option<LogId> {
        self.file.flushed().map(|flushed| raft_id(flushed.id))
    }

    pub(super) fn progress(&self) -> Progress {
        let hosted = self.hosted();
        Progress {
            applied: hosted.applied.map(|id| id.index),
            flushed: self.flushed().map(|id| id.index),
            unflushed_bytes: hosted.unflushed_bytes + self.in_flight_bytes.load(Ordering::Relaxed),
        }
    }

    /// Bytes of log that were applied since the start, about.
    pub(super) fn applied_bytes(&self) -> u64 {
        self.hosted().applied_bytes
    }

    /// Applies entries under one lock; the answers of those that have one, in their order. After
    /// an error the process is to end: no other replica will have skipped the entry.
    pub(super) fn apply(&self, entries: &[Entry]) -> Result<Vec<Option<M::Answer>>, Fatal> {
        self.apply_holding(self.hosted(), entries)
    }

    fn apply_holding(
        &self,
        mut hosted: MutexGuard<'_, Hosted<M>>,
        entries: &[Entry],
    ) -> Result<Vec<Option<M::Answer>>, Fatal> {
        let panics = OnPanic {
            group: self.group,
            latch: &self.context.latch,
        };
        let mut answers = Vec::with_capacity(entries.len());
        let mut bytes = 0;
        for entry in entries {
            bytes += ENTRY_LOG_BYTES;
            answers.push(match &entry.payload {
                Payload::Blank => None,
                Payload::Normal(command) => {
                    bytes += command.0.len() as u64;
                    let answer = hosted.machine.apply(entry.log_id.index, &command.0);
                    Some(answer.map_err(|why| Fatal::Entry {
                        group: self.group,
                        index: entry.log_id.index,
                        why,
                    })?)
                }
                Payload::Membership(membership) => {
                    hosted.membership =
                        StoredMembership::new(Some(entry.log_id), membership.clone());
                    None
                }
            });
            hosted.applied = Some(entry.log_id);
        }
        let now = self.context.now();
        hosted.unflushed_bytes += bytes;
        hosted.applied_bytes += bytes;
        hosted.policy.handle_applied(bytes, now);
        let is_due = hosted.policy.is_due(now);
        let applied = hosted.applied;
        drop(hosted);
        self.tell_applied(applied);
        drop(panics);
        if is_due {
            self.ask_for_flush();
        }
        Ok(answers)
    }

    /// The process ends.
    pub(super) fn fail(&self, fatal: Fatal) -> io::Error {
        let why = stop(&fatal);
        self.context.latch.raise(fatal);
        why
    }

    pub(super) fn ask_for_flush(&self) {
        // The driver knows, or looks at its next beat.
        if !self.asked.swap(true, Ordering::AcqRel) {
            self.context.wake.notify_one();
        }
    }

    /// The state as of the last flush, after one if `fresh` and if there is space for it. Copies
    /// nothing. Blocks on the disk.
    pub(super) fn view(&self, fresh: bool) -> io::Result<(SnapshotMeta, View)> {
        // While it is held, what can be seen in the file is what is flushed.
        let mut flushing = self.flushing();
        if fresh
            && let Err(error) = self.flush_holding(&mut flushing)
            && !error.may_pass()
        {
            return Err(self.failed(error));
        }
        let snapshot = self.file.snapshot().map_err(|error| self.failed(error))?;
        let meta = match snapshot.applied() {
            None => return Ok((SnapshotMeta::default(), View::Empty)),
            Some(applied) => self.meta(applied)?,
        };
        Ok((meta, View::Own(Box::new(snapshot))))
    }

    fn meta(&self, applied: &Applied) -> io::Result<SnapshotMeta> {
        Ok(SnapshotMeta {
            last_log_id: Some(raft_id(applied.id)),
            last_membership: codec::read_stored_membership(&applied.opaque).map_err(stop)?,
        })
    }

    /// Begins the file of a state from elsewhere. Blocks on the disk.
    pub(super) fn draft(&self) -> Result<Draft, state::Error> {
        self.file.draft()
    }

    /// Puts a state from elsewhere in the place of this one; in a run that is over, an error. Blocks on
    /// the disk.
    pub(super) fn install_in(&self, run: u64, meta: &SnapshotMeta, view: View) -> io::Result<()> {
        let Some(last) = &meta.last_log_id else {
            return Ok(());
        };
        // A run ends under this lock.
        let mut flushing = self.flushing();
        if self.hosted().run != run {
            return Err(stop("the run of this Raft is over"));
        }
        let applied = Applied {
            id: stored_id(last),
            opaque: codec::write_stored_membership(&meta.last_membership),
        };
        self.adopt(view, &applied)
            .map_err(|error| self.failed(error))?;
        let restored = restore::<M>(&self.file, &self.path, self.group, &self.config);
        let (machine, applied, membership) = restored.map_err(stop)?;
        let mut hosted = self.hosted();
        hosted.machine = machine;
        hosted.applied = applied;
        hosted.membership = membership;
        hosted.unflushed_bytes = 0;
        hosted.policy.handle_flushed();
        drop(hosted);
        self.tell_applied(applied);
        self.forget_kept(&mut flushing);
        Ok(())
    }

    fn adopt(&self, view: View, applied: &Applied) -> Result<(), state::Error> {
        let draft = match view {
            View::Empty => return Ok(()),
            View::Received(draft) => *draft,
            View::Own(snapshot) => {
                let mut draft = self.file.draft()?;
                for row in snapshot.rows()? {
                    let row = row?;
                    draft.put(row.kind, &row.key, &row.value)?;
                }
                draft
            }
        };
        self.file.adopt(draft, applied)
    }

    /// The file takes nothing more: the process ends.
    pub(super) fn failed(&self, error: state::Error) -> io::Error {
        self.fail(Fatal::State {
            group: self.group,
            source: Arc::new(error),
        })
    }
}

fn index(applied: Option<LogId>) -> u64 {
    applied.map_or(0, |applied| applied.index)
}

/// The machine as the rows of its file say, with the entry and the membership they go up to.
fn restore<M: Machine>(
    file: &StateFile,
    path: &Path,
    group: GroupId,
    config: &M::Config,
) -> Result<(M, Option<LogId>, StoredMembership), OpenError> {
    let snapshot = file.snapshot()?;
    let mut rows = snapshot.rows()?;
    let machine = M::restore(config, &mut rows).map_err(|why| OpenError::Row {
        path: path.to_owned(),
        group,
        why,
    })?;
    let Some(applied) = snapshot.applied() else {
        return Ok((machine, None, StoredMembership::default()));
    };
    let membership =
        codec::read_stored_membership(&applied.opaque).map_err(|error| OpenError::Membership {
            path: path.to_owned(),
            group,
            index: applied.id.index,
            why: error.to_string(),
        })?;
    Ok((machine, Some(raft_id(applied.id)), membership))
}

/// Ends the process when something panics that holds a machine: half an entry must answer nothing.
struct OnPanic<'a> {
    group: GroupId,
    latch: &'a Latch,
}

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.latch.raise(Fatal::Broken {
                group: self.group,
                why: "a panic left the machine as it was just then".to_owned(),
            });
        }
    }
}
