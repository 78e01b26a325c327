//! One group: its log as callers see it, and as it is durable.

use std::collections::VecDeque;

use super::index::{Index, Place, Stretch};
use super::record::Record;
use super::state::GroupState;
use super::{Conflict, LogEntry, LogId};

/// What an entry in the cache costs beside its payload.
const CACHED_BYTES: usize = 96;

/// One group.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// What callers see: everything that was queued.
    pub(super) head: GroupState,
    /// The newest entries, up to the last.
    cache: VecDeque<Cached>,
    /// Counts appended runs, in the order in which they were queued.
    ticket: u64,
    /// Counts what made a planned read worthless.
    pub(super) changes: u64,
    /// Whether `head.committed` was not queued yet: it goes with the next record.
    pub(super) committed_waits: bool,
    /// What a crash now would leave.
    pub(super) durable: GroupState,
    pub(super) index: Index,
    /// The ticket up to which runs are durable: they may leave the cache.
    durable_ticket: u64,
    /// Copied runs that are queued and not durable yet.
    pub(super) copying: u32,
}

#[derive(Debug)]
struct Cached {
    entry: LogEntry,
    ticket: u64,
}

impl Cached {
    fn bytes(&self) -> usize {
        self.entry.payload.len() + CACHED_BYTES
    }
}

/// Bytes that came into the cache or left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct CacheChange {
    pub(super) added: usize,
    pub(super) removed: usize,
}

impl Group {
    /// Shows a run of entries to readers; the ticket with which it can leave the cache, and bytes.
    pub(super) fn append(&mut self, run: &[LogEntry]) -> Result<(u64, usize), Conflict> {
        let first = run.first().expect("runs have an entry").id;
        let count = u32::try_from(run.len()).expect("runs are cut in bytes");
        self.head.append(first, count)?;
        self.ticket += 1;
        let mut added = 0;
        for entry in run {
            let cached = Cached {
                entry: entry.clone(),
                ticket: self.ticket,
            };
            added += cached.bytes();
            self.cache.push_back(cached);
        }
        Ok((self.ticket, added))
    }

    /// Takes the entries from this index on out of sight; `None` if there are none.
    pub(super) fn truncate(&mut self, from: u64) -> Result<Option<CacheChange>, Conflict> {
        if !self.head.truncate(from)? {
            return Ok(None);
        }
        self.changes += 1;
        Ok(Some(self.trim_cache()))
    }

    /// Takes the entries up to this one out of sight; `None` if they were already.
    pub(super) fn purge(&mut self, upto: LogId) -> Option<CacheChange> {
        self.head.purge(upto).then(|| self.trim_cache())
    }

    /// Forgets everything, as callers see it.
    pub(super) fn remove(&mut self) -> CacheChange {
        self.head = GroupState::default();
        self.committed_waits = false;
        self.changes += 1;
        self.trim_cache()
    }

    /// Lets the cache hold nothing that the log does not.
    fn trim_cache(&mut self) -> CacheChange {
        let mut removed = 0;
        let (first, next) = (self.head.first, self.head.next);
        while let Some(cached) = self
            .cache
            .pop_back_if(|cached| cached.entry.id.index >= next)
        {
            removed += cached.bytes();
        }
        while let Some(cached) = self
            .cache
            .pop_front_if(|cached| cached.entry.id.index < first)
        {
            removed += cached.bytes();
        }
        CacheChange { added: 0, removed }
    }

    /// Lets durable entries up to this ticket leave the cache; the bytes that left.
    pub(super) fn evict(&mut self, ticket: u64) -> usize {
        let ticket = ticket.min(self.durable_ticket);
        let mut removed = 0;
        while let Some(cached) = self.cache.pop_front_if(|cached| cached.ticket <= ticket) {
            removed += cached.bytes();
        }
        removed
    }

    /// Whether everything up to this ticket is durable.
    pub(super) fn is_durable(&self, ticket: u64) -> bool {
        ticket <= self.durable_ticket
    }

    /// The index from which on the cache holds every entry.
    pub(super) fn cached_from(&self) -> u64 {
        self.head.next - self.cache.len() as u64
    }

    /// The cached entries from this index on.
    pub(super) fn cached(&self, from: u64) -> impl Iterator<Item = &LogEntry> {
        let skip = usize::try_from(from - self.cached_from()).expect("within the cache");
        self.cache.iter().skip(skip).map(|cached| &cached.entry)
    }

    /// Takes over what recovery has found.
    pub(super) fn recovered(&mut self) {
        self.head = self.durable.clone();
        self.ticket = self.durable_ticket;
    }

    /// A record is durable; whether something on disk may be worthless now.
    ///
    /// # Errors
    /// Says what contradicts the records before.
    pub(super) fn fold(&mut self, record: &Record, place: Place) -> Result<bool, String> {
        match record {
            Record::Append(run) => {
                self.durable
                    .append(run.first, run.count)
                    .map_err(|conflict| conflict.to_string())?;
                self.durable_ticket += 1;
                self.put(run.first.index, run.count, place);
                Ok(false)
            }
            Record::Truncate(from) => {
                self.durable
                    .truncate(*from)
                    .map_err(|conflict| conflict.to_string())?;
                self.index.remove(*from..u64::MAX);
                Ok(true)
            }
            Record::Purge(upto) => {
                self.durable.purge(*upto);
                self.index.remove(0..self.durable.first);
                Ok(true)
            }
            Record::Vote(vote) => {
                self.durable.vote = Some(vote.clone());
                Ok(false)
            }
            Record::Committed(committed) => {
                self.durable.committed = Some(committed.clone());
                Ok(false)
            }
            Record::Copy(run) => {
                let last = run.end() - 1;
                let known = [run.first.index, last].map(|index| self.durable.id_at(index));
                let copied = [run.first.index, last].map(|index| LogId { index, ..run.first });
                if known != copied.map(Some) {
                    return Err(format!(
                        "entries {} to {last} were copied, but are not there",
                        run.first.index
                    ));
                }
                self.put(run.first.index, run.count, place);
                self.changes += 1;
                self.copying = self.copying.saturating_sub(1);
                Ok(true)
            }
            Record::Remove => {
                self.durable = GroupState::default();
                self.index.remove(0..u64::MAX);
                Ok(true)
            }
        }
    }

    fn put(&mut self, first: u64, count: u32, place: Place) {
        self.index.put(Stretch {
            first,
            count,
            place,
        });
    }
}
