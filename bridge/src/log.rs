//! What the telemetry line asks of a log: the embedded one now, Kafka later.
//!
//! A log has a fixed number of partitions; a device's records all go to one, its bucket. Readers
//! see only what is durable. A position names the log's incarnation, since a log that lost its
//! torn tail counts on from an older offset: a consumer ahead of the end must stop, not go on.

use std::time::Duration;

use storage::log::{Record, StoredRecord};

/// Is called once, on the log's own thread, with true when the records are durable and false
/// when they will not be; it must not block.
pub type Appended = Box<dyn FnOnce(bool) + Send>;

/// Says why records were not taken; none was, and the completion was dropped uncalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The log's queue in memory is full; there will be room after some completions.
    #[error("the log's queue is full")]
    Full,
    /// The log on disk is at its limit with records nobody has read.
    #[error("the log is at its limit on disk")]
    OverLimit,
    /// The log is closed; trying again is useless.
    #[error("the log is closed")]
    Closed,
}

/// Is the place in one partition from which a consumer goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The log's incarnation under which the offset was learned.
    pub incarnation: u64,
    /// Offset of the next record to read.
    pub offset: u64,
}

/// Says why a log cannot be read from a position: its records are not what the consumer knows.
/// The state is unchanged; going on would lose or double records.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReadError(pub String);

/// Is a durable, partitioned log as the telemetry line needs it.
///
/// Any thread may call; only [`Log::close`] blocks on a disk.
pub trait Log: Send + Sync + 'static {
    /// Is the number of partitions, 1 or more.
    fn partitions(&self) -> u16;

    /// Is the incarnation that new offsets belong to.
    fn incarnation(&self) -> u64;

    /// Appends the records in their order and calls `appended` once all are durable. Records of
    /// one partition keep the order of the calls of one thread.
    ///
    /// # Errors
    /// Gives the records back when none was taken.
    fn append(
        &self,
        records: Vec<Record>,
        appended: Appended,
    ) -> Result<(), (AppendError, Vec<Record>)>;

    /// Opens a reader of all partitions. A partition without a position is read from its first
    /// record that is still there.
    ///
    /// # Errors
    /// When a position is not one of this log, is ahead of its end, or its record is gone.
    fn consume(&self, from: &[Option<Position>]) -> Result<Box<dyn Consume>, ReadError>;

    /// Is one past the last durable offset, by partition, at one moment.
    fn ends(&self) -> Vec<u64>;

    /// Says by partition which offset will be asked for next at the earliest, also after a
    /// restart. What is older may be dropped.
    fn release(&self, offsets: &[(u16, u64)], now_ms: i64);

    /// Is the size on disk in bytes.
    fn disk_bytes(&self) -> u64;

    /// Makes durable what was appended, then refuses everything. Blocks until then.
    fn close(&self);
}

/// Reads a log's partitions, each in order.
pub trait Consume: Send {
    /// Waits up to `timeout` for durable records and gives those at hand, about `bytes_max` of
    /// them; at least one if there is any, none after the timeout or when the log is closed.
    ///
    /// # Errors
    /// When the records are damaged or gone; the position is unchanged.
    fn poll(&mut self, bytes_max: usize, timeout: Duration)
    -> Result<Vec<StoredRecord>, ReadError>;
}
