//! The embedded log: a partitioned log of device messages in one journal.
//!
//! Producers on many threads [`append`](EmbeddedLog::append) batches and hear of the fsync through
//! their callback; each [`Consumer`] scans the one physical log in order and sees only what is
//! fsynced.

mod record;

pub use record::{ContentType, Record, StoredRecord};

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::fs::Fs;

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
#[derive(Debug, Clone)]
pub struct EmbeddedLog {
    _shared: Arc<()>,
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
    /// crash left. `on_fatal` is called once, from the writer thread, when the disk has failed and
    /// nothing more can be acknowledged: the process is to end.
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
        todo!()
    }

    /// Queues records for the writer thread; never blocks. `done` is called on the writer thread
    /// once they are fsynced (or never will be): it must be quick and must not block. The appends
    /// of one thread keep their order.
    ///
    /// # Errors
    /// Nothing was queued and everything is handed back; the caller tries again later.
    ///
    /// # Panics
    /// If a record names a partition that is not there or a key above 65 535 bytes.
    pub fn append<D>(&self, records: Vec<Record>, done: D) -> Result<(), Refused<D>>
    where
        D: FnOnce(Result<(), AppendError>) + Send + 'static,
    {
        todo!()
    }

    /// A consumer of nothing; [`Consumer::assign`] gives it partitions.
    #[must_use]
    pub fn consumer(&self) -> Consumer {
        todo!()
    }

    /// Calls `waker` from the writer thread whenever new fsynced records can be read, until the
    /// returned guard is dropped. It must be quick and must not block.
    #[must_use]
    pub fn on_readable(&self, waker: impl Fn() + Send + Sync + 'static) -> WakerGuard {
        todo!()
    }

    /// The life of the log that new offsets belong to.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        todo!()
    }

    /// Number of partitions.
    #[must_use]
    pub fn partitions(&self) -> u16 {
        todo!()
    }

    /// The first offset still there.
    ///
    /// # Panics
    /// If there is no such partition.
    #[must_use]
    pub fn start(&self, partition: u16) -> u64 {
        todo!()
    }

    /// One past the last fsynced offset.
    ///
    /// # Panics
    /// If there is no such partition.
    #[must_use]
    pub fn end(&self, partition: u16) -> u64 {
        todo!()
    }

    /// [`EmbeddedLog::end`] of every partition, at one moment.
    #[must_use]
    pub fn ends(&self) -> Vec<u64> {
        todo!()
    }

    /// Tells the log the replay offsets `(partition, offset)`: what is below has been stored and is
    /// never asked for again. Drops whole segments that are read in all partitions and are older
    /// than the retention at `now_ms` or in excess of it. An offset lower than told before is
    /// ignored. The files go on a thread of their own.
    pub fn release(&self, replay_offsets: &[(u16, u64)], now_ms: i64) {
        todo!()
    }

    /// Counters since opening, and sizes now.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        todo!()
    }

    /// Writes what is queued, fsyncs, and ends the writer thread; blocks until then. Further
    /// appends are refused. Dropping the last handle does the same.
    pub fn close(&self) {
        todo!()
    }
}

/// Reads assigned partitions in the order of the physical log.
#[derive(Debug)]
pub struct Consumer {
    log: EmbeddedLog,
}

impl Consumer {
    /// Replaces the assignment; the next poll begins at the starts.
    ///
    /// # Errors
    /// The assignment is unchanged.
    pub fn assign(&mut self, starts: Vec<Start>) -> Result<(), AssignError> {
        todo!()
    }

    /// Waits up to `timeout` for records and returns those at hand, up to about `bytes_max` of keys
    /// and payloads (at least one record if there is any). Empty after the timeout, when the log is
    /// closed, or when a stretch of the log held nothing for this consumer.
    ///
    /// # Errors
    /// The position is unchanged.
    pub fn poll(
        &mut self,
        bytes_max: usize,
        timeout: Duration,
    ) -> Result<Vec<StoredRecord>, PollError> {
        todo!()
    }
}

/// Keeps a waker of [`EmbeddedLog::on_readable`] registered.
#[derive(Debug)]
pub struct WakerGuard {}

/// The disk failed: nothing more is acknowledged, the process is to end.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the log cannot go on: {cause}")]
pub struct Fatal {
    /// What happened, with the file.
    pub cause: String,
}

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The folder holds another number of partitions; it is fixed at creation.
    #[error(
        "the log in {folder} has {found} partitions, not {asked}: the number is fixed when the folder is created"
    )]
    Partitions {
        /// The folder.
        folder: String,
        /// Partitions on disk.
        found: u16,
        /// Partitions asked for.
        asked: u16,
    },
}

/// `append` took nothing; what was given comes back.
#[derive(Debug)]
pub struct Refused<D> {
    /// Why.
    pub reason: Reason,
    /// The records, unchanged.
    pub records: Vec<Record>,
    /// The callback, not called.
    pub done: D,
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

/// Why queued records were not made durable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The disk is full; the log goes on, the same records may be appended again.
    #[error("no space left for the log")]
    NoSpace,
    /// The disk failed: nothing is known about these records, the process is to end.
    #[error("the log's disk failed")]
    Failed,
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
