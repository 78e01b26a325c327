//! One group of the node's log, as Raft wants to see it.

use std::fmt::{self, Debug};
use std::io;
use std::marker::PhantomData;
use std::ops::{Bound, Range, RangeBounds, RangeInclusive};
use std::sync::Arc;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use storage::raft::{GroupId, LogEntry, RaftLog, Refusal, Room};
use tokio::sync::oneshot;

use super::blocking::Blocking;
use super::codec::{self, raft_id, stored_id};
use super::failure::{Fatal, Latch, stop};
use super::types::{Entry, LogId, Types, Vote};
use crate::machine::Machine;

/// Payload of one read: what goes to another node together, and is in memory for it.
const READ_BYTES_MAX: usize = 1 << 20;

/// The log of one group; clones are the same. Nothing here blocks on the disk.
pub(super) struct GroupLog<M> {
    log: Arc<RaftLog>,
    group: GroupId,
    latch: Arc<Latch>,
    blocking: Blocking,
    machine: PhantomData<fn() -> M>,
}

impl<M> GroupLog<M> {
    pub(super) fn new(
        log: Arc<RaftLog>,
        group: GroupId,
        latch: Arc<Latch>,
        blocking: Blocking,
    ) -> Self {
        Self {
            log,
            group,
            latch,
            blocking,
            machine: PhantomData,
        }
    }

    /// Waits until the queue takes so many bytes. Cancel-safe: the room is given back.
    async fn room(&self, bytes: usize) -> io::Result<Room> {
        loop {
            match self.log.reserve(bytes) {
                Ok(room) => return Ok(room),
                Err(Refusal::Closed) => return Err(stop(Refusal::Closed)),
                Err(Refusal::Full) => {
                    let (called, call) = oneshot::channel();
                    self.log.on_room(move || {
                        // Nobody waits any more if this was cancelled.
                        let _ = called.send(());
                    });
                    call.await.map_err(|_| stop(Refusal::Closed))?;
                }
            }
        }
    }

    /// Reads entries, from memory or on a thread that may block.
    async fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let group = self.group;
        let entries = match self.log.cached_entries(group, range.clone(), bytes_max) {
            Some(entries) => entries,
            None => {
                let log = Arc::clone(&self.log);
                self.blocking
                    .run(move || log.entries(group, range, bytes_max))
                    .await
                    .map_err(stop)?
                    .map_err(|error| self.unreadable(error))?
            }
        };
        entries.iter().map(|entry| self.entry(entry)).collect()
    }

    fn entry(&self, entry: &LogEntry) -> io::Result<Entry> {
        codec::raft_entry(entry)
            .map_err(|error| self.unreadable(format!("entry {}: {error}", entry.id)))
    }

    /// What was written cannot be read: Raft cannot go on, and the process not either.
    fn unreadable(&self, why: impl fmt::Display) -> io::Error {
        let why = why.to_string();
        self.latch.raise(Fatal::Read {
            group: self.group,
            why: why.clone(),
        });
        stop(why)
    }
}

impl<M> Clone for GroupLog<M> {
    fn clone(&self) -> Self {
        let (log, latch) = (Arc::clone(&self.log), Arc::clone(&self.latch));
        Self::new(log, self.group, latch, self.blocking)
    }
}

impl<M: Machine> RaftLogReader<Types<M>> for GroupLog<M> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.read(plain(&range), usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, READ_BYTES_MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        let vote = self.log.vote(self.group);
        vote.map(|vote| codec::read_vote(&vote))
            .transpose()
            .map_err(|error| self.unreadable(format!("the vote: {error}")))
    }

    /// The last entry of each leader in the range, and the end of the range.
    async fn get_key_log_ids(&mut self, range: RangeInclusive<LogId>) -> io::Result<Vec<LogId>> {
        let (start, end) = range.into_inner();
        let ends = self.log.leader_ends(self.group).into_iter();
        let mut ids: Vec<LogId> = ends
            .filter(|id| (start.index..end.index).contains(&id.index))
            .map(raft_id)
            .collect();
        ids.push(end);
        Ok(ids)
    }
}

impl<M: Machine> RaftLogStorage<Types<M>> for GroupLog<M> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types<M>>> {
        let state = self.log.log_state(self.group);
        Ok(LogState {
            last_purged_log_id: state.last_purged.map(raft_id),
            last_log_id: state.last.map(raft_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    /// Returns when the vote is durable.
    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (done, saved) = oneshot::channel();
        self.log
            .save_vote(self.group, codec::write_vote(vote), move |result| {
                // Nobody waits any more if Raft was stopped meanwhile.
                let _ = done.send(result);
            })
            .map_err(stop)?;
        saved.await.map_err(stop)?.map_err(stop)
    }

    /// Goes with the next entry: without it a start applies a little less before its election.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let committed = codec::write_committed(committed.as_ref());
        self.log.save_committed(self.group, committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let committed = self.log.committed(self.group);
        committed
            .map_or(Ok(None), |committed| codec::read_committed(&committed))
            .map_err(|error| self.unreadable(format!("the committed position: {error}")))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types<M>>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries
            .into_iter()
            .map(|entry| codec::stored_entry(&entry))
            .collect();
        let bytes = entries.iter().map(LogEntry::log_bytes).sum();
        let room = self.room(bytes).await?;
        self.log
            .append(room, self.group, &entries, |result| {
                callback.io_completed(result.map_err(stop));
            })
            .map_err(stop)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |last| last.index + 1);
        self.log.truncate(self.group, from).map_err(stop)
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.log.purge(self.group, stored_id(&upto)).map_err(stop)
    }
}

/// A range with a start and an end behind it.
fn plain(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}
