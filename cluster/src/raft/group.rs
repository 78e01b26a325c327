//! One group of this node: what its users hold.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
#[cfg(test)]
use std::time::Duration;

use bytes::Bytes;
use cluster_core::Unavailable;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::{Raft, ReadPolicy, ServerState};
use storage::raft::GroupId;
use storage::state;
use tokio::sync::watch;

use super::attempt::Attempt;
use super::control::{GroupControl, Leader};
use super::driver::Driven;
use super::replica::Replica;
use super::state_machine::Hosting;
use super::types::{Command, Types};
use crate::machine::Machine;

/// Why an answer must be there.
const ANSWERED: &str = "an entry of the machine has its answer";

pub(super) type RaftOf<M> = Raft<Types<M>, Hosting<M>>;

/// A group of this node; clones are the same group.
pub struct Group<M: Machine> {
    driven: Arc<Driven<M>>,
}

/// Why an entry, or a batch of them, was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unproposed<E = Bytes> {
    /// The group appended nothing.
    #[error("the group appended nothing: {why:?}")]
    Unavailable {
        /// What was given to be appended; empty for a read.
        entry: E,
        /// Why.
        why: Unavailable,
    },
    /// It is not known what became of it: it may be applied, in part too, here or after a start.
    #[error("it is not known what became of the entry")]
    Lost,
}

impl<E> Unproposed<E> {
    /// Says that `entry` was not appended, or that nobody knows.
    fn of(entry: E, why: Option<Unavailable>) -> Self {
        why.map_or(Self::Lost, |why| Self::Unavailable { entry, why })
    }
}

/// How far a group is. Indexes are those of log entries, `None` before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupStatus {
    /// The last entry that was applied.
    pub applied: Option<u64>,
    /// The last entry whose changes are durable in the state file.
    pub flushed: Option<u64>,
    /// The last entry that was purged from the log.
    pub purged: Option<u64>,
    /// The last entry of the log.
    pub last_log: Option<u64>,
    /// The term.
    pub term: u64,
    /// Whether this node leads the group.
    pub is_leader: bool,
    /// Bytes of log, about, that a start would apply again.
    pub unflushed_log_bytes: u64,
}

impl<M: Machine> Group<M> {
    pub(super) fn new(driven: Arc<Driven<M>>) -> Self {
        Self { driven }
    }

    /// The group's id.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.replica().group
    }

    fn replica(&self) -> &Replica<M> {
        &self.driven.replica
    }

    /// Appends an entry, and answers what the machine answered when it was committed and applied.
    /// Wakes the group if it sleeps, for up to 2 s.
    ///
    /// Proposals that are under way together are appended in any order. Dropping the future leaves
    /// open what becomes of the entry.
    ///
    /// # Errors
    /// Says whether the entry may still be applied.
    ///
    /// # Panics
    /// If the entry is longer than [`storage::journal::ENTRY_BYTES_MAX`] allows, the log does.
    pub async fn propose(&self, entry: Bytes) -> Result<M::Answer, Unproposed> {
        self.driven.touch();
        let written = self
            .driven
            .awake(|| async {
                let command = Command(entry.clone());
                match self.driven.raft.client_write(command).await {
                    Ok(written) => Attempt::Done(written.data),
                    Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                        self.driven.elsewhere(&forward)
                    }
                    Err(RaftError::APIError(_) | RaftError::Fatal(_)) => Attempt::Lost,
                }
            })
            .await;
        match written {
            Ok(answer) => Ok(answer.expect(ANSWERED)),
            Err(why) => Err(Unproposed::of(entry, why)),
        }
    }

    /// Appends entries together, in this order, all or none of them; answers as
    /// [`Group::propose`] does, when the last one is applied. Cheaper than as many proposals.
    ///
    /// # Errors
    /// Says whether some of the entries may still be applied.
    ///
    /// # Panics
    /// As [`Group::propose`].
    pub async fn propose_batch(
        &self,
        entries: Vec<Bytes>,
    ) -> Result<Vec<M::Answer>, Unproposed<Vec<Bytes>>> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        self.driven.touch();
        let written = self.driven.awake(|| self.write_batch(&entries)).await;
        written.map_err(|why| Unproposed::of(entries, why))
    }

    async fn write_batch(&self, entries: &[Bytes]) -> Attempt<Vec<M::Answer>> {
        let commands = entries.iter().cloned().map(Command);
        let Ok(mut results) = self.driven.raft.client_write_many(commands).await else {
            return Attempt::Lost;
        };
        let mut answers = Vec::with_capacity(entries.len());
        while let Some(result) = poll_fn(|cx| results.as_mut().poll_next(cx)).await {
            match result {
                Ok(Ok(written)) => answers.push(written.response.expect(ANSWERED)),
                // Raft refuses a batch as a whole.
                Ok(Err(ClientWriteError::ForwardToLeader(forward))) if answers.is_empty() => {
                    return self.driven.elsewhere(&forward);
                }
                Ok(Err(_)) | Err(_) => return Attempt::Lost,
            }
        }
        match answers.len() == entries.len() {
            true => Attempt::Done(answers),
            false => Attempt::Lost,
        }
    }

    /// An index up to which the machine has applied everything that was answered before this call,
    /// on whatever node: what [`Group::with`] shows then is no older.
    ///
    /// # Errors
    /// No quorum says so in time; nothing is lost by it.
    pub async fn read_index(&self) -> Result<u64, Unproposed> {
        self.driven.touch();
        let read = self
            .driven
            .awake(|| async {
                match self
                    .driven
                    .raft
                    .ensure_linearizable(ReadPolicy::ReadIndex)
                    .await
                {
                    Ok(read) => Attempt::Done(read.index()),
                    Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                        self.driven.elsewhere(&forward)
                    }
                    Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                        Attempt::Asleep
                    }
                    Err(RaftError::Fatal(_)) => Attempt::Lost,
                }
            })
            .await;
        read.map_err(|why| Unproposed::of(Bytes::new(), why))
    }

    /// Shows the machine as far as it has applied; what is replicated must not be changed here.
    /// `f` runs under the lock that applying takes: it is to be short, and must not call the group.
    /// A panic of it ends the node.
    pub fn with<R>(&self, f: impl FnOnce(&mut M) -> R) -> R {
        self.replica().with(f)
    }

    /// The value of a row of the state file, as of the last flush or of one under way. Blocks on
    /// the disk.
    ///
    /// # Errors
    /// When the disk does not give what was written. Where it may pass
    /// ([`state::Error::may_pass`]) a full disk has closed the file: ask again a little later.
    pub fn read_row(&self, kind: u8, key: &[u8]) -> Result<Option<Bytes>, state::Error> {
        self.replica().read(|snapshot| snapshot.get(kind, key))
    }

    /// As [`Group::read_row`], for many rows as of one moment.
    ///
    /// # Errors
    /// As [`Group::read_row`].
    pub fn read_rows(
        &self,
        rows: impl IntoIterator<Item = (u8, Vec<u8>)>,
    ) -> Result<Vec<Option<Bytes>>, state::Error> {
        let rows: Vec<(u8, Vec<u8>)> = rows.into_iter().collect();
        self.replica().read(|snapshot| {
            let rows = rows.iter();
            rows.map(|(kind, key)| snapshot.get(*kind, key)).collect()
        })
    }

    /// Asks for a flush before its time; several that wait together are one.
    pub fn flush_soon(&self) {
        self.replica().ask_for_flush();
    }

    /// The index of the last entry that was applied, on leaders and followers; 0 also before the
    /// first. What is seen there can be seen in the machine.
    #[must_use]
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.replica().watch_applied()
    }

    /// Who leads, as this replica knows; see [`GroupControl::leader`].
    #[must_use]
    pub fn watch_leader(&self) -> watch::Receiver<Option<Leader>> {
        self.driven.watch_leader()
    }

    /// Whether this node leads the group and accepts proposals.
    #[must_use]
    pub fn is_leading(&self) -> bool {
        self.driven.claim().is_some()
    }

    /// What steers the group.
    #[must_use]
    pub fn control(&self) -> Arc<dyn GroupControl> {
        Arc::clone(&self.driven) as _
    }

    /// How far the group is.
    #[must_use]
    pub fn status(&self) -> GroupStatus {
        let progress = self.replica().progress();
        let metrics = self.driven.raft.metrics();
        let metrics = metrics.borrow_watched();
        GroupStatus {
            applied: progress.applied,
            flushed: progress.flushed,
            purged: metrics.purged.map(|id| id.index),
            last_log: metrics.last_log_index,
            term: metrics.current_term,
            is_leader: metrics.state == ServerState::Leader,
            unflushed_log_bytes: progress.unflushed_bytes,
        }
    }
}

#[cfg(test)]
impl<M: Machine> Group<M> {
    pub(super) fn driven_is_active(&self) -> bool {
        super::driver::Drive::is_active(&*self.driven)
    }

    /// What becomes of an attempt that finds the group asleep so often.
    pub(super) async fn awake_behind(&self, asleep: u32) -> Result<(), Option<Unavailable>> {
        let tries = std::cell::Cell::new(0);
        self.driven
            .awake(|| async {
                tries.set(tries.get() + 1);
                match tries.get() > asleep {
                    true => Attempt::Done(()),
                    false => Attempt::Asleep,
                }
            })
            .await
    }

    /// Whether log, term or leader change within this time.
    pub(super) async fn changes_within(&self, time: Duration) -> bool {
        let before = self.status();
        let differs = |metrics: &openraft::RaftMetrics<Types<M>>| {
            let now = (metrics.last_log_index, metrics.current_term);
            now != (before.last_log, before.term) || metrics.state != ServerState::Leader
        };
        let wait = self.driven.raft.wait(Some(time));
        wait.metrics(differs, "a change").await.is_ok()
    }
}

impl<M: Machine> Clone for Group<M> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.driven))
    }
}

impl<M: Machine> fmt::Debug for Group<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("id", &self.id())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
