//! The embedded log: a partitioned log of device messages in one journal.
//!
//! Producers on many threads [`append`](EmbeddedLog::append) batches and hear of the fsync through
//! their callback; each [`Consumer`] scans the one physical log in order and sees only what is
//! fsynced.

mod consumer;
mod layout;
mod record;
mod state;

pub use crate::journal::{AppendError, Defects, Fatal, OpenError};
pub use consumer::Consumer;
pub use record::{ContentType, Record, StoredRecord};

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use defects::Defect;

use crate::fs::Fs;
use crate::journal::{self, Batch, Journal, Refusal, Room};
use layout::LogLayout;
use state::{Due, Readable};

/// Says in every segment whose journal it is.
const OWNER: [u8; 4] = *b"TLOG";

/// How the log is cut and bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Partitions (= buckets); fixed when the folder is created.
    pub partitions: u16,
    /// A segment is closed when it has grown to this many bytes.
    pub segment_bytes: u32,
    /// Bytes waiting for the writer thread, above which `append` answers [`Reason::Full`].
    pub queue_bytes_limit: usize,
    /// Bytes on disk, from which on `append` answers [`Reason::OverLimit`].
    pub log_bytes_limit: u64,
    /// How long records that every owner has read stay.
    pub read_retention: Duration,
    /// How many bytes of read records stay.
    pub read_retention_bytes: u64,
    /// Bytes of the newest records kept in memory for consumers that are caught up.
    pub tail_cache_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            partitions: 64,
            segment_bytes: 16 << 20,
            queue_bytes_limit: 64 << 20,
            log_bytes_limit: 10 << 30,
            read_retention: Duration::from_hours(24),
            read_retention_bytes: 1 << 30,
            tail_cache_bytes: 32 << 20,
        }
    }
}

impl Config {
    fn check(&self) -> Result<(), OpenError> {
        let wrong = |what: String| Err(OpenError::Config(what));
        if self.partitions == 0 {
            return wrong("partitions must be at least 1, not 0".to_owned());
        }
        if self.segment_bytes < SEGMENT_BYTES_MIN {
            return wrong(format!(
                "segment_bytes must be at least {SEGMENT_BYTES_MIN}, not {}",
                self.segment_bytes
            ));
        }
        // Only closed segments can be dropped: with fewer than two the limit would hold for ever.
        if self.log_bytes_limit < 2 * u64::from(self.segment_bytes) {
            return wrong(format!(
                "log_bytes_limit must be at least two segments ({}), not {}",
                2 * u64::from(self.segment_bytes),
                self.log_bytes_limit
            ));
        }
        Ok(())
    }
}

/// Segments below this would hold little but their own headers.
const SEGMENT_BYTES_MIN: u32 = 4096;

/// One life of the log between two losses; offsets mean something only together with it.
///
/// The upper half names the log (random at creation), the lower half counts recoveries that cut a
/// torn tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(u64);

impl Incarnation {
    /// The number as it was stored.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    fn same_log(self, other: Self) -> bool {
        self.0 >> 32 == other.0 >> 32
    }

    /// The number, for storing.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}.{}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// The log of one node. Cloning gives another handle on the same log.
#[derive(Clone)]
pub struct EmbeddedLog {
    shared: Arc<Shared>,
}

struct Shared {
    journal: Journal,
    journal_config: journal::Config,
    readable: Arc<Readable>,
    fs: Arc<dyn Fs>,
    folder: PathBuf,
    config: Config,
}

impl fmt::Debug for EmbeddedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedLog")
            .field("folder", &self.shared.folder)
            .field("incarnation", &self.incarnation())
            .finish_non_exhaustive()
    }
}

/// Where a consumer begins in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The partition.
    pub partition: u16,
    /// The first offset wanted.
    pub offset: u64,
    /// The incarnation under which the offset was learned; `None` to skip that check (a consumer
    /// without a stored offset, beginning at [`EmbeddedLog::start`]).
    pub incarnation: Option<Incarnation>,
}

impl EmbeddedLog {
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
        config: Config,
        on_fatal: impl FnOnce(Fatal) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let defects = Defects {
            read_before_fsync: defects::is(Defect::ReaderAheadOfFsync),
            ..Defects::default()
        };
        Self::open_with(fs, folder, config, None, defects, on_fatal)
    }

    /// For crash tests: [`open`](Self::open) with randomness from a seed, and with mistakes that a
    /// checker must find.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_sabotaged(
        fs: Arc<dyn Fs>,
        folder: &Path,
        config: Config,
        seed: u64,
        defects: Defects,
        on_fatal: impl FnOnce(Fatal) + Send + 'static,
    ) -> Result<Self, OpenError> {
        Self::open_with(fs, folder, config, Some(seed), defects, on_fatal)
    }

    fn open_with(
        fs: Arc<dyn Fs>,
        folder: &Path,
        config: Config,
        seed: Option<u64>,
        defects: Defects,
        on_fatal: impl FnOnce(Fatal) + Send + 'static,
    ) -> Result<Self, OpenError> {
        config.check()?;
        let journal_config = journal::Config {
            segment_bytes: config.segment_bytes,
            queue_bytes_limit: config.queue_bytes_limit,
            seed,
            defects,
            ..journal::Config::new(OWNER, "log-writer")
        };
        let readable = Readable::new(config.partitions, config.tail_cache_bytes);
        let layout = LogLayout::new(Arc::clone(&readable), config.partitions);
        let journal = Journal::open(Arc::clone(&fs), folder, &journal_config, layout, on_fatal)?;
        readable.opened();
        Ok(Self {
            shared: Arc::new(Shared {
                journal,
                journal_config,
                readable,
                fs,
                folder: folder.to_owned(),
                config,
            }),
        })
    }

    /// Queues records for the writer thread; never blocks. `done` is called once, on the writer
    /// thread, when they are fsynced (or never will be): it must be quick and must not block. The
    /// appends of one thread keep their order.
    ///
    /// # Errors
    /// Nothing was queued and everything is handed back; the caller tries again later.
    ///
    /// # Panics
    /// If a record names a partition that is not there, has a key above 65 535 bytes or a payload
    /// above 256 MiB.
    pub fn append<D>(&self, records: Vec<Record>, done: D) -> Result<(), Refused<D>>
    where
        D: FnOnce(Result<(), AppendError>) + Send + 'static,
    {
        let bytes: usize = records.iter().map(Record::stored_bytes).sum();
        let room = match self.room(records.len(), bytes) {
            Ok(room) => room,
            Err(reason) => {
                return Err(Refused {
                    reason,
                    records,
                    done,
                });
            }
        };
        let mut batch = Batch::with_capacity(records.len(), bytes);
        for record in &records {
            let (partition, partitions) = (record.partition, self.shared.config.partitions);
            assert!(
                partition < partitions,
                "partition {partition} does not exist, the log has {partitions}"
            );
            let key_bytes = record.key.len();
            assert!(
                u16::try_from(key_bytes).is_ok(),
                "a key of {key_bytes} bytes is too long"
            );
            batch.push(u32::from(partition), |out| record.encode(out));
        }
        self.shared.journal.append(room, batch, Box::new(done));
        Ok(())
    }

    fn room(&self, records: usize, bytes: usize) -> Result<Room, Reason> {
        let shared = &self.shared;
        let disk_bytes = shared.readable.disk_bytes.load(Ordering::Acquire);
        let taken = disk_bytes.saturating_add(shared.journal.queued_bytes());
        if records > 0 && taken >= shared.config.log_bytes_limit {
            return Err(Reason::OverLimit);
        }
        let headers = records * Batch::ENTRY_OVERHEAD_BYTES;
        shared
            .journal
            .reserve(bytes + headers)
            .map_err(|refusal| match refusal {
                Refusal::Full => Reason::Full,
                Refusal::Closed => Reason::Closed,
            })
    }

    /// A consumer of nothing; [`Consumer::assign`] gives it partitions.
    #[must_use]
    pub fn consumer(&self) -> Consumer {
        let shared = &self.shared;
        Consumer::new(
            Arc::clone(&shared.readable),
            Arc::clone(&shared.fs),
            &shared.folder,
            &shared.journal_config,
        )
    }

    /// Calls `waker` from the writer thread whenever new fsynced records can be read, and when the
    /// log is closed, until the returned guard is dropped. It must be quick and must not block.
    #[must_use]
    pub fn on_readable(&self, waker: impl Fn() + Send + Sync + 'static) -> WakerGuard {
        let readable = Arc::clone(&self.shared.readable);
        let id = readable.add_waker(Arc::new(waker));
        WakerGuard { readable, id }
    }

    /// Ends each wait of a [`Consumer::poll`] once, or the next one that would begin: whoever waits
    /// is to look elsewhere.
    pub fn nudge(&self) {
        self.shared.readable.nudge();
    }

    /// Bytes of a record in its stored form, on the average since the opening; 0 without records.
    #[must_use]
    pub fn mean_record_bytes(&self) -> u64 {
        let state = self.shared.readable.state();
        state.record_bytes.checked_div(state.records).unwrap_or(0)
    }

    /// The life of the log that new offsets belong to.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.shared.readable.state().incarnation
    }

    /// Number of partitions.
    #[must_use]
    pub fn partitions(&self) -> u16 {
        self.shared.config.partitions
    }

    /// The first offset still there.
    ///
    /// # Panics
    /// If there is no such partition.
    #[must_use]
    pub fn start(&self, partition: u16) -> u64 {
        assert!(partition < self.partitions(), "partition {partition}");
        self.shared.readable.state().start(usize::from(partition))
    }

    /// One past the last fsynced offset.
    ///
    /// # Panics
    /// If there is no such partition.
    #[must_use]
    pub fn end(&self, partition: u16) -> u64 {
        self.shared.readable.state().ends[usize::from(partition)]
    }

    /// [`EmbeddedLog::end`] of every partition, at one moment.
    #[must_use]
    pub fn ends(&self) -> Vec<u64> {
        self.shared.readable.state().ends.clone()
    }

    /// Records that no release has passed since the log was opened: what would be missed if it were
    /// deleted, and after a start perhaps more.
    #[must_use]
    pub fn unreleased(&self) -> u64 {
        let state = self.shared.readable.state();
        let partitions = state.ends.iter().zip(&state.read);
        let left = partitions.enumerate().map(|(partition, (end, read))| {
            let first = (*read).max(state.start(partition));
            end.saturating_sub(first)
        });
        left.sum()
    }

    /// Tells the log the replay offsets `(partition, offset)`: what is below has been stored and is
    /// never asked for again. Drops whole segments that are read in all partitions and are older
    /// than the retention at `now_ms` (milliseconds since 1970) or in excess of it, or while the log
    /// is at its limit. Call it also when nothing was stored, so that age is seen. An offset lower
    /// than told before is ignored; none is kept over a restart. The files go on a thread of their
    /// own.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn release(&self, replay_offsets: &[(u16, u64)], now_ms: i64) {
        let config = &self.shared.config;
        let retention_ms = i64::try_from(config.read_retention.as_millis()).unwrap_or(i64::MAX);
        let due = Due {
            older_than_ms: now_ms.saturating_sub(retention_ms),
            read_bytes_max: config.read_retention_bytes,
            disk_bytes_max: config.log_bytes_limit,
        };
        let first = self.shared.readable.release(replay_offsets, &due);
        self.shared.journal.drop_before(first);
    }

    /// Counters since opening, and sizes now.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let shared = &self.shared;
        let counters = shared.journal.counters();
        Metrics {
            appended_records: counters.entries,
            appended_bytes: counters.entry_bytes,
            written_bytes: counters.written_bytes,
            fsyncs: counters.groups,
            group_records_max: counters.group_entries_max,
            disk_bytes: shared.readable.disk_bytes.load(Ordering::Acquire),
            queued_bytes: counters.queued_bytes,
            cached_bytes: shared.readable.state().cache.bytes as u64,
        }
    }

    /// Writes what is queued, fsyncs, ends the writer thread and lets the folder go; blocks until
    /// then. Further appends are refused or completed with an error. Dropping the last handle does
    /// the same.
    pub fn close(&self) {
        self.shared.journal.close();
    }
}

/// Keeps a waker of [`EmbeddedLog::on_readable`] registered.
pub struct WakerGuard {
    readable: Arc<Readable>,
    id: u64,
}

impl fmt::Debug for WakerGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WakerGuard").field("id", &self.id).finish()
    }
}

impl Drop for WakerGuard {
    fn drop(&mut self) {
        self.readable.remove_waker(self.id);
    }
}

/// `append` took nothing; what was given comes back.
pub struct Refused<D> {
    /// Why.
    pub reason: Reason,
    /// The records, unchanged.
    pub records: Vec<Record>,
    /// The callback, not called.
    pub done: D,
}

impl<D> fmt::Debug for Refused<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused")
            .field("reason", &self.reason)
            .field("records", &self.records.len())
            .finish_non_exhaustive()
    }
}

/// Why `append` took nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The writer thread is behind; try again after some completions.
    #[error("the log's queue is full")]
    Full,
    /// The log has reached `log_bytes_limit` with records nobody has read; try again after a release.
    #[error("the log is at its limit on disk")]
    OverLimit,
    /// The log was closed or its disk failed; trying again is useless.
    #[error("the log is closed")]
    Closed,
}

/// Why an assignment is impossible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssignError {
    /// The consumer knows offsets that this log never had, or lost.
    #[error(
        "offset {start} of partition {partition} is ahead of the log's end {end}: the log has lost records that were read"
    )]
    AheadOfEnd {
        /// The partition.
        partition: u16,
        /// The offset asked for.
        start: u64,
        /// Where the log ends (or ended, when a later incarnation began).
        end: u64,
    },
    /// Records not yet read by this consumer are gone.
    #[error("offset {start} of partition {partition} is before the log's first record {first}")]
    BeforeStart {
        /// The partition.
        partition: u16,
        /// The offset asked for.
        start: u64,
        /// The first offset still there.
        first: u64,
    },
    /// The offset belongs to another log.
    #[error("offset of partition {partition} belongs to log {known}, this is {log}")]
    OtherLog {
        /// The partition.
        partition: u16,
        /// The incarnation the consumer gave.
        known: Incarnation,
        /// The log's.
        log: Incarnation,
    },
    /// There is no such partition.
    #[error("partition {partition} does not exist, the log has {partitions}")]
    NoPartition {
        /// The partition.
        partition: u16,
        /// How many there are.
        partitions: u16,
    },
}

/// Why records cannot be given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PollError {
    /// The disk does not give the records back, or not as they were written.
    #[error("cannot read the log: {0}")]
    Damaged(String),
    /// The records at this consumer's position were released.
    #[error("the records at the consumer's position were released")]
    Released,
}

/// Counters of a log since it was opened, and its sizes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Metrics {
    /// Records fsynced.
    pub appended_records: u64,
    /// Bytes of their keys and payloads.
    pub appended_bytes: u64,
    /// Bytes written to the journal, after compression.
    pub written_bytes: u64,
    /// Groups written = fsyncs.
    pub fsyncs: u64,
    /// Records of the largest group.
    pub group_records_max: u64,
    /// Bytes of segments on disk.
    pub disk_bytes: u64,
    /// Bytes waiting for the writer thread.
    pub queued_bytes: u64,
    /// Bytes in the tail cache.
    pub cached_bytes: u64,
}
