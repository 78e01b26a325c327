//! The Raft log of all groups of a node, on one journal: one queue, one fsync for all.
//!
//! Entries, votes and committed positions are bytes here; what Raft makes of them is the caller's.
//! An appended entry can be read at once, its callback comes when it is fsynced.
//! `docs/formats/raft-log.md` describes the bytes and the recovery.

mod config;
mod counters;
mod entry;
mod error;
mod group;
mod index;
mod layout;
mod reader;
mod reclaim;
mod record;
mod shared;
mod state;

pub use crate::journal::{AppendError, Done, Fatal, Refusal, Room};
pub use config::{Config, Defects};
pub use counters::{Counters, Holder};
pub use entry::{GroupId, LogEntry, LogId, LogState};
pub use error::{Conflict, OpenError, Refused};
pub use reader::ReadError;
pub use record::OPAQUE_BYTES_MAX;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use bytes::Bytes;

use crate::fs::Fs;
use crate::journal::{self, Batch, Journal, WhenFull};
use crate::turns::Turns;
use group::Group;
use index::Stretch;
use layout::RaftLayout;
use reader::Reader;
use reclaim::{Counts, Reclaimer, ReclaimerTurn};
use shared::{Shared, Signal};

/// Says in every segment whose journal it is.
const OWNER: [u8; 4] = *b"RAFT";
/// Segments below this would hold little but their own headers.
const SEGMENT_BYTES_MIN: u32 = 4096;
/// How often a read begins again because the log was changed under it.
const READ_RESTARTS_MAX: u32 = 32;

/// The Raft log of one node. Share it in an `Arc`; dropping it closes it.
pub struct RaftLog {
    shared: Arc<Shared>,
    journal: Arc<Journal>,
    reader: Arc<Reader>,
    counts: Arc<Counts>,
    folder: PathBuf,
    defects: Defects,
    reclaimer: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for RaftLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftLog")
            .field("folder", &self.folder)
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

impl RaftLog {
    /// Opens the log in `folder`, creating it if the folder is empty or absent; recovers what a
    /// crash left. `on_fatal` is called at most once, from the writer thread, when the disk has
    /// failed and nothing more can be acknowledged: the process is to end.
    ///
    /// Blocks while every record on disk is checked.
    ///
    /// # Errors
    /// Nothing was changed on disk, except that a torn tail may have been cut.
    pub fn open(
        fs: Arc<dyn Fs>,
        folder: &Path,
        config: &Config,
        on_fatal: impl FnOnce(Fatal) + Send + 'static,
    ) -> Result<Self, OpenError> {
        Self::open_with(fs, folder, config, None, Defects::default(), None, on_fatal)
    }

    /// For crash tests: [`open`](Self::open) with randomness from a seed, and with mistakes that a
    /// checker must find.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_sabotaged(
        fs: Arc<dyn Fs>,
        folder: &Path,
        config: &Config,
        seed: u64,
        defects: Defects,
        on_fatal: impl FnOnce(Fatal) + Send + 'static,
    ) -> Result<Self, OpenError> {
        Self::open_with(fs, folder, config, Some(seed), defects, None, on_fatal)
    }

    /// For simulations: [`open_sabotaged`](Self::open_sabotaged) without a thread. Nothing is
    /// written, removed or copied but by the turns.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_in_turns(
        fs: Arc<dyn Fs>,
        folder: &Path,
        config: &Config,
        seed: u64,
        defects: Defects,
        on_fatal: impl FnOnce(Fatal) + Send + 'static,
    ) -> Result<(Self, Turns), OpenError> {
        let turns = Turns::default();
        let log = Self::open_with(
            fs,
            folder,
            config,
            Some(seed),
            defects,
            Some(&turns),
            on_fatal,
        )?;
        Ok((log, turns))
    }

    fn open_with(
        fs: Arc<dyn Fs>,
        folder: &Path,
        config: &Config,
        seed: Option<u64>,
        defects: Defects,
        turns: Option<&Turns>,
        on_fatal: impl FnOnce(Fatal) + Send + 'static,
    ) -> Result<Self, OpenError> {
        if config.segment_bytes < SEGMENT_BYTES_MIN {
            let what = format!(
                "segment_bytes must be at least {SEGMENT_BYTES_MIN}, not {}",
                config.segment_bytes
            );
            return Err(journal::OpenError::Config(what).into());
        }
        let journal_config = journal::Config {
            segment_bytes: config.segment_bytes,
            queue_bytes_limit: config.queue_bytes_limit,
            // An entry means something only behind the one before it.
            when_full: WhenFull::Wait,
            seed,
            defects: journal::Defects {
                acknowledge_before_fsync: defects.acknowledge_before_fsync,
                ..journal::Defects::default()
            },
            ..journal::Config::new(OWNER, "raft-log")
        };
        let (signal, woken) = Signal::new();
        let shared = Arc::new(Shared::new(config.cache_bytes_limit, signal));
        let layout = RaftLayout::new(Arc::clone(&shared), defects);
        let journal = Journal::open_with(
            Arc::clone(&fs),
            folder,
            &journal_config,
            layout,
            on_fatal,
            turns,
        )?;
        // A log with a hole is not closed in order: it stays as it was found.
        for (id, group) in shared.groups().iter() {
            let mut group = Shared::lock(group);
            if let Some(index) = layout::hole(&group) {
                return Err(OpenError::Missing {
                    folder: folder.to_owned(),
                    group: *id,
                    index,
                });
            }
            group.recovered();
        }
        let log = Self {
            reader: Arc::new(Reader::new(
                fs,
                folder,
                &journal_config,
                config.read_cache_bytes_limit,
            )),
            shared,
            journal: Arc::new(journal),
            counts: Arc::default(),
            folder: folder.to_owned(),
            defects,
            reclaimer: Mutex::default(),
        };
        let reclaimer = Reclaimer {
            shared: Arc::clone(&log.shared),
            journal: Arc::clone(&log.journal),
            reader: Arc::clone(&log.reader),
            counts: Arc::clone(&log.counts),
            copy_entries_max: config.copy_entries_max,
            copy_bytes_max: u64::from(config.segment_bytes),
            defects,
        };
        match turns {
            Some(turns) => turns.add(ReclaimerTurn { reclaimer, woken }),
            None => {
                let thread = thread::Builder::new()
                    .name("raft-log-reclaimer".to_owned())
                    .spawn(move || reclaimer.run(&woken))
                    .map_err(OpenError::Thread)?;
                *Shared::lock(&log.reclaimer) = Some(thread);
            }
        }
        log.shared.reclaimer.wake();
        Ok(log)
    }

    /// The groups of which anything is known, ascending.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        let groups = self.shared.groups();
        let known = groups
            .iter()
            .filter(|(_, group)| !Shared::lock(group).head.is_absent());
        known.map(|(id, _)| *id).collect()
    }

    /// Where the group's log begins and ends, with what is not fsynced yet.
    #[must_use]
    pub fn log_state(&self, group: GroupId) -> LogState {
        self.with(group, |group| group.head.log_state())
    }

    /// The last entry of each leader among the entries that are there, ascending.
    #[must_use]
    pub fn leader_ends(&self, group: GroupId) -> Vec<LogId> {
        self.with(group, |group| group.head.leader_ends())
    }

    /// The vote saved last, even if it is not fsynced yet.
    #[must_use]
    pub fn vote(&self, group: GroupId) -> Option<Bytes> {
        self.with(group, |group| group.head.vote.clone())
    }

    /// The committed position saved last. After a start it may be an older one: it has no fsync of
    /// its own.
    #[must_use]
    pub fn committed(&self, group: GroupId) -> Option<Bytes> {
        self.with(group, |group| group.head.committed.clone())
    }

    fn with<T>(&self, group: GroupId, read: impl FnOnce(&Group) -> T) -> T {
        match self.shared.groups().get(&group) {
            Some(group) => read(&Shared::lock(group)),
            None => read(&Group::default()),
        }
    }

    /// Makes room for entries of together so many [`LogEntry::log_bytes`]; never blocks.
    ///
    /// # Errors
    /// [`Refusal::Full`]: try again when [`RaftLog::on_room`] calls.
    pub fn reserve(&self, bytes: usize) -> Result<Room, Refusal> {
        // A committed position may go with them.
        self.journal.reserve(bytes + OPAQUE_BYTES_MAX)
    }

    /// Calls `waiter` once when something has left the queue, so that a refused
    /// [`RaftLog::reserve`] is worth another try. It is called at once if nothing waits in the queue,
    /// else on the writer thread: it must not block, and must not call the log.
    pub fn on_room(&self, waiter: impl FnOnce() + Send + 'static) {
        self.shared.wait(Box::new(waiter));
        if self.journal.queued_bytes() == 0 {
            self.shared.wake_waiters();
        }
    }

    /// Appends entries behind the last one of the group; never blocks. They can be read when it
    /// returns. `done` is called once, when they and everything queued before are fsynced, or never
    /// will be: usually on the writer thread; it must not block, and must not call the log. While
    /// the disk is full it is not called: the writer keeps the order and tries again.
    ///
    /// # Errors
    /// The log is unchanged, and `done` is dropped.
    ///
    /// # Panics
    /// If an entry is longer than [`journal::ENTRY_BYTES_MAX`] allows.
    pub fn append(
        &self,
        room: Room,
        group: GroupId,
        entries: &[LogEntry],
        done: impl FnOnce(Result<(), AppendError>) + Send + 'static,
    ) -> Result<(), Refused> {
        let shared = self.shared.group(group);
        let mut state = Shared::lock(&shared);
        // All or nothing: the shape is checked before the first run is taken.
        if let Err(conflict) = state.head.check_append(entries) {
            drop((state, room));
            self.shared.wake_waiters();
            return Err(conflict.into());
        }
        let bytes = entries.iter().map(LogEntry::log_bytes).sum();
        let mut batch = Batch::with_capacity(0, bytes);
        for run in record::runs(entries) {
            batch.push(group.0, |out| record::write_append(out, run));
            let (ticket, added) = state.append(run).expect("its shape was checked");
            self.shared.cached(group, ticket, added);
        }
        self.submit(group, &mut state, room, batch, Box::new(done));
        Ok(())
    }

    /// Takes the entries from this index on away; readers miss them at once. It is durable before
    /// anything that is queued later.
    ///
    /// # Errors
    /// The log is unchanged.
    pub fn truncate(&self, group: GroupId, from: u64) -> Result<(), Refused> {
        self.change(
            group,
            |state| state.truncate(from),
            |batch| {
                if !self.defects.truncation_not_recorded {
                    batch.push(group.0, |out| record::write_truncate(out, from));
                }
            },
        )
    }

    /// Takes the entries up to and with this one away, whether they are there or not; readers miss
    /// them at once. It never goes back. The caller has made what they did durable elsewhere.
    ///
    /// # Errors
    /// The log is unchanged.
    ///
    /// # Panics
    /// If the index is the greatest there is.
    pub fn purge(&self, group: GroupId, upto: LogId) -> Result<(), Refused> {
        assert!(upto.index < u64::MAX, "no entry has this index");
        self.change(
            group,
            |state| Ok(state.purge(upto)),
            |batch| batch.push(group.0, |out| record::write_purge(out, upto)),
        )
    }

    /// Forgets the group with its vote: the node is no member any more.
    ///
    /// # Errors
    /// The log is unchanged.
    pub fn remove(&self, group: GroupId) -> Result<(), Refused> {
        self.change(
            group,
            |state| Ok(Some(state.remove())),
            |batch| batch.push(group.0, record::write_remove),
        )
    }

    /// Saves a vote; `done` as for [`RaftLog::append`].
    ///
    /// # Errors
    /// Nothing was saved, and `done` is dropped.
    ///
    /// # Panics
    /// If the vote is longer than [`OPAQUE_BYTES_MAX`].
    pub fn save_vote(
        &self,
        group: GroupId,
        vote: Bytes,
        done: impl FnOnce(Result<(), AppendError>) + Send + 'static,
    ) -> Result<(), Refused> {
        assert!(vote.len() <= OPAQUE_BYTES_MAX, "a vote is short");
        let shared = self.shared.group(group);
        let mut state = Shared::lock(&shared);
        let room = self.small_room()?;
        let mut batch = Batch::default();
        batch.push(group.0, |out| record::write_vote(out, &vote));
        state.head.vote = Some(vote);
        self.submit(group, &mut state, room, batch, Box::new(done));
        Ok(())
    }

    /// Saves how far the group is known to be committed; it becomes durable with what is queued
    /// next for the group, or at a close.
    ///
    /// # Panics
    /// If it is longer than [`OPAQUE_BYTES_MAX`].
    pub fn save_committed(&self, group: GroupId, committed: Bytes) {
        assert!(committed.len() <= OPAQUE_BYTES_MAX, "a position is short");
        let shared = self.shared.group(group);
        let mut state = Shared::lock(&shared);
        state.head.committed = Some(committed);
        state.committed_waits = true;
    }

    /// Calls `done` as [`RaftLog::append`] does, when everything queued before is fsynced.
    ///
    /// # Errors
    /// `done` is dropped.
    pub fn flush(
        &self,
        done: impl FnOnce(Result<(), AppendError>) + Send + 'static,
    ) -> Result<(), Refused> {
        let room = self.small_room()?;
        self.journal
            .append(room, Batch::default(), self.completion(Box::new(done)));
        Ok(())
    }

    /// A small change without a callback; nothing is queued if `apply` says `None`.
    fn change(
        &self,
        group: GroupId,
        apply: impl FnOnce(&mut Group) -> Result<Option<group::CacheChange>, Conflict>,
        write: impl FnOnce(&mut Batch),
    ) -> Result<(), Refused> {
        let shared = self.shared.group(group);
        let mut state = Shared::lock(&shared);
        let room = self.small_room()?;
        let Some(change) = apply(&mut state)? else {
            return Ok(());
        };
        self.shared.uncached(change);
        let mut batch = Batch::default();
        write(&mut batch);
        // If it fails, the journal has ended and its owner was told.
        self.submit(group, &mut state, room, batch, Box::new(|_| {}));
        Ok(())
    }

    /// Room for a record that must not be refused: the Raft core makes few of them, and waits.
    fn small_room(&self) -> Result<Room, Refused> {
        self.journal
            .reserve_beyond_limit(2 * OPAQUE_BYTES_MAX)
            .map_err(|_| Refused::Closed)
    }

    /// Queues what was changed in `state`, in the order of the changes: its lock is held.
    fn submit(
        &self,
        group: GroupId,
        state: &mut MutexGuard<'_, Group>,
        room: Room,
        mut batch: Batch,
        done: Done,
    ) {
        if std::mem::take(&mut state.committed_waits)
            && let Some(committed) = &state.head.committed
        {
            batch.push(group.0, |out| record::write_committed(out, committed));
        }
        self.journal.append(room, batch, self.completion(done));
    }

    fn completion(&self, done: Done) -> Done {
        let shared = Arc::clone(&self.shared);
        Box::new(move |result| {
            done(result);
            shared.wake_waiters();
        })
    }

    /// The entries of this range that are there, from the cache alone; `None` if the disk is needed.
    /// Stops when they have more than `bytes_max` of payload, but not before the first.
    #[must_use]
    pub fn cached_entries(
        &self,
        group: GroupId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Option<Vec<LogEntry>> {
        self.with(group, |group| {
            let first = range.start.max(group.head.first);
            let end = range.end.min(group.head.next);
            if first >= end {
                return Some(Vec::new());
            }
            (first >= group.cached_from()).then(|| {
                let mut out = Collected::new(bytes_max);
                out.take_from(group, first, end);
                out.entries
            })
        })
    }

    /// The entries of this range that are there. Stops when they have more than `bytes_max` of
    /// payload, but not before the first. Blocks on the disk if [`RaftLog::cached_entries`] gives
    /// nothing.
    ///
    /// # Errors
    /// When the disk does not give what was written.
    pub fn entries(
        &self,
        group: GroupId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, ReadError> {
        for _ in 0..READ_RESTARTS_MAX {
            match self.try_entries(group, range.clone(), bytes_max) {
                Ok(Some(entries)) => return Ok(entries),
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ReadError::Changing(group))
    }

    /// One attempt; `None` if the log was changed under it.
    fn try_entries(
        &self,
        group: GroupId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Option<Vec<LogEntry>>, ReadError> {
        let mut out = Collected::new(bytes_max);
        let (mut changes, mut next) = (None, range.start);
        loop {
            let step = self.with(group, |group| {
                let first = next.max(group.head.first);
                let end = range.end.min(group.head.next);
                // The first look fixes what is read; a purge may only take what was not begun.
                let changed = changes.is_some_and(|changes| changes != group.changes)
                    || (!out.entries.is_empty() && first > next);
                if changed {
                    return Step::Changed;
                }
                changes = Some(group.changes);
                if first >= end {
                    return Step::Done;
                }
                if first >= group.cached_from() {
                    out.take_from(group, first, end);
                    return Step::Done;
                }
                let held = group.index.at(first);
                let held = held.expect("an entry that left the cache is durable");
                Step::Read(held, first..held.end().min(end).min(group.cached_from()))
            });
            let (stretch, wanted) = match step {
                Step::Done => return Ok(Some(out.entries)),
                Step::Changed => return Ok(None),
                Step::Read(stretch, wanted) => (stretch, wanted),
            };
            next = wanted.end;
            match self.reader.read(group, stretch) {
                Ok(read) => {
                    for entry in read {
                        if wanted.contains(&entry.id.index) && !out.take(&entry) {
                            break;
                        }
                    }
                }
                // Purged or copied while it was read; unless it still is where it was.
                Err(error) if error.is_removed() => {
                    let same = self.with(group, |group| {
                        wanted.start >= group.head.first
                            && group.index.at(wanted.start) == Some(stretch)
                    });
                    return if same { Err(error) } else { Ok(None) };
                }
                Err(error) => return Err(error),
            }
            if out.full {
                let changed = self.with(group, |group| changes != Some(group.changes));
                return Ok((!changed).then_some(out.entries));
            }
        }
    }

    /// The groups that keep closed segments on disk, those that keep most first.
    #[must_use]
    pub fn holders(&self) -> Vec<Holder> {
        reclaim::holders(&self.shared)
    }

    /// Counters since opening, and sizes now.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let segments = self.shared.segments();
        Counters {
            journal: self.journal.counters(),
            disk_bytes: segments.values().sum(),
            segments: segments.len() as u64,
            cached_bytes: self.shared.cached_bytes() as u64,
            copied_entries: self.counts.copied_entries.load(Ordering::Relaxed),
            copied_bytes: self.counts.copied_bytes.load(Ordering::Relaxed),
            reclaim_failures: self.counts.failures.load(Ordering::Relaxed),
        }
    }

    /// Writes what was queued before, fsyncs, ends the threads and lets the folder go; blocks until
    /// then (not on the writer thread itself, where it only asks for it).
    pub fn close(&self) {
        for (id, group) in self.shared.groups().iter() {
            let mut state = Shared::lock(group);
            if state.committed_waits
                && let Ok(room) = self.small_room()
            {
                self.submit(*id, &mut state, room, Batch::default(), Box::new(|_| {}));
            }
        }
        self.journal.close();
        self.counts.stopping.store(true, Ordering::Release);
        self.shared.reclaimer.wake();
        let Some(reclaimer) = Shared::lock(&self.reclaimer).take() else {
            return;
        };
        if reclaimer.join().is_err() {
            tracing::error!("the thread that gives segments back has panicked");
        }
    }
}

impl Drop for RaftLog {
    fn drop(&mut self) {
        self.close();
    }
}

/// What a read does next.
enum Step {
    Done,
    Changed,
    Read(Stretch, Range<u64>),
}

/// Entries up to a number of bytes, at least one.
struct Collected {
    entries: Vec<LogEntry>,
    bytes_left: usize,
    full: bool,
}

impl Collected {
    fn new(bytes_max: usize) -> Self {
        Self {
            entries: Vec::new(),
            bytes_left: bytes_max,
            full: false,
        }
    }

    /// Takes an entry; false if there is no room for it.
    fn take(&mut self, entry: &LogEntry) -> bool {
        let bytes = entry.payload.len();
        if bytes > self.bytes_left && !self.entries.is_empty() {
            self.full = true;
            return false;
        }
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.entries.push(entry.clone());
        true
    }

    fn take_from(&mut self, group: &Group, first: u64, end: u64) {
        for entry in group.cached(first).take_while(|entry| entry.id.index < end) {
            if !self.take(entry) {
                return;
            }
        }
    }
}
