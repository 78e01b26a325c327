//! What the telemetry line asks of a log: the embedded one, or Kafka.
//!
//! A log has a fixed number of partitions; a device's records all go to one, its bucket. Readers
//! see only what is durable. A position names the log's incarnation, since a log that lost its
//! torn tail counts on from an older offset: a consumer ahead of the end must stop, not go on.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use storage::log::{Record, StoredRecord};

use crate::buckets::Answering;
use crate::kafka::dead_letters::LetterTopic;
use crate::room::Room;

/// Names to its owner what a record settles; the line carries it untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The owner's to use.
    pub kind: u32,
    /// The owner's to use.
    pub words: [u64; 2],
}

/// Says how a submitted record ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The record has what its stream's mode demands; PUBACK may leave.
    Durable,
    /// Nothing is promised about the record: the disk was full, or the line was shut down, before
    /// it was durable. Acknowledge nothing; it may be sent again.
    NotDurable,
}

/// Hears how records ended. It is called on a thread of the line and must only hand on (send to a
/// mailbox, wake a task); it must not block for long.
pub trait Port: Send + Sync + 'static {
    /// Tells the tickets of records that ended, in the order in which they were settled.
    fn settled(&self, outcome: Outcome, tickets: Vec<Ticket>);
}

/// Is the number of a port among [`Ports`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(u16);

/// Holds the ports of a line; there are few, one for each io thread, and none ever goes.
#[derive(Clone, Default)]
pub(crate) struct Ports(Arc<RwLock<Vec<Arc<dyn Port>>>>);

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ports").finish_non_exhaustive()
    }
}

impl Ports {
    /// Adds a port.
    ///
    /// # Panics
    /// When there are 65 536 already.
    pub(crate) fn add(&self, port: Arc<dyn Port>) -> PortId {
        let mut ports = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let id = u16::try_from(ports.len()).expect("a line has few ports");
        ports.push(port);
        PortId(id)
    }

    /// Tells a port how its tickets ended.
    pub(crate) fn settle(&self, port: PortId, outcome: Outcome, tickets: Vec<Ticket>) {
        if tickets.is_empty() {
            return;
        }
        let port = {
            let ports = self.0.read().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(&ports[usize::from(port.0)])
        };
        port.settled(outcome, tickets);
    }
}

/// Is records on their way into a log, with what each one settles.
#[derive(Clone, Debug)]
pub(crate) struct Submission {
    /// The records, in order.
    pub(crate) records: Vec<Record>,
    /// What each settles, record by record; none where nobody was promised anything.
    pub(crate) tickets: Vec<Option<Ticket>>,
    /// Who hears of it.
    pub(crate) port: PortId,
}

/// What a record takes in memory while it is submitted and not durable, in bytes.
pub(crate) fn memory_bytes(record: &Record) -> u64 {
    (size_of::<Record>() + record.key.len() + record.payload.len()) as u64
}

/// Says why records were not taken; none was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AppendError {
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

/// Names one of the logs that a store is filled from: by the number of its node, or 0 for a log that
/// belongs to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LogId(pub(crate) u32);

impl LogId {
    /// A log that belongs to no node: a topic of Kafka.
    pub(crate) const OF_NOBODY: Self = Self(0);
}

/// Is the place in one partition from which a consumer goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Position {
    /// The log's incarnation under which the offset was learned.
    pub(crate) incarnation: u64,
    /// Offset of the next record to read.
    pub(crate) offset: u64,
}

/// Says why a log cannot be read from a position: its records are not what the consumer knows.
/// The state is unchanged; going on would lose or double records.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ReadError(pub(crate) String);

/// Takes records and settles each when it is durable.
pub(crate) trait Append: Send + Sync + 'static {
    /// Appends the records in their order and settles each once it is durable. Records of one
    /// partition keep the order of the calls of one thread. The caller has reserved their
    /// [`memory_bytes`] in [`Append::room`]; they are released as the records are settled.
    ///
    /// # Errors
    /// Gives the records back when none was taken; the room is the caller's again.
    fn append(&self, submission: Submission) -> Result<(), (AppendError, Submission)>;

    /// Is the room in memory for what is not yet durable.
    fn room(&self) -> &Room;
}

/// Is a durable, partitioned log as the telemetry line needs it.
///
/// Any thread may call; only [`Log::close`] blocks on a disk.
pub(crate) trait Log: Append {
    /// Is the log's name in the store's offsets.
    fn source(&self) -> &str;

    /// Is which log it is.
    fn id(&self) -> LogId;

    /// Whether the logs of other nodes hold records for this node's store too. Their names in the
    /// store's offsets are [`Log::name_of`].
    fn is_one_of_many(&self) -> bool {
        false
    }

    /// Is the name of a log of the same kind in the store's offsets.
    fn name_of(&self, log: LogId) -> String {
        assert_eq!(log, self.id(), "there is one log of this kind");
        self.source().to_owned()
    }

    /// Is which log a name in the store's offsets is of; none for a log of another kind.
    fn log_of(&self, name: &str) -> Option<LogId> {
        (name == self.source()).then(|| self.id())
    }

    /// Is how this node's store names a log that the store of another node names so; none for a log of
    /// another kind.
    fn name_of_peer(&self, _peer: u32, name: &str) -> Option<String> {
        self.log_of(name).map(|log| self.name_of(log))
    }

    /// Says by partition whether the log holds anything that is not sealed, as far as it knows.
    fn unread(&self) -> Vec<bool>;

    /// Is the number of partitions, 1 or more.
    fn partitions(&self) -> u16;

    /// Is the incarnation that new offsets belong to; 0 while a log elsewhere was not reached yet.
    fn incarnation(&self) -> u64;

    /// Opens a reader of all partitions. A partition without a position is read from its first
    /// record that is still there.
    ///
    /// # Errors
    /// When a position is not one of this log, is ahead of its end, or its record is gone.
    fn consume(&self, from: &[Option<Position>]) -> Result<Box<dyn Consume>, ReadError>;

    /// Is one past the last durable offset, by partition, at one moment.
    fn ends(&self) -> Vec<u64>;

    /// Has [`Log::ends`] know where a partition ends as of now, though others append to it too; else says
    /// why not, for a person. What this node alone appends to is known anyway.
    fn learn_end(&self, _partition: u16) -> Answering<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Whether something of the partition is acknowledged that [`Log::ends`] does not count,
    /// because it waits in a spool.
    fn is_behind(&self, partition: u16) -> bool;

    /// Says by partition which offset will be asked for next at the earliest, also after a
    /// restart. What is older may be dropped.
    fn release(&self, offsets: &[(u16, u64)], now_ms: i64);

    /// Says why the log cannot be read now, though its reader goes on by itself.
    fn unreadable(&self) -> Option<String> {
        None
    }

    /// Is where the dead letters of this log lie when not on this node.
    fn letter_topic(&self) -> Option<LetterTopic> {
        None
    }

    /// Is the size on disk in bytes.
    fn disk_bytes(&self) -> u64;

    /// Makes durable what was appended, then refuses everything. Blocks until then.
    fn close(&self);
}

/// Reads a log's partitions, each in order.
pub(crate) trait Consume: Send {
    /// Waits up to `timeout` for durable records and gives those at hand, about `bytes_max` of
    /// them; at least one if there is any, none after the timeout or when the log is closed.
    ///
    /// # Errors
    /// When the records are damaged or gone; the position is unchanged.
    fn poll(&mut self, bytes_max: usize, timeout: Duration)
    -> Result<Vec<StoredRecord>, ReadError>;

    /// Reads the partitions `taken` and no others from now on, each from where it was read last or was
    /// to be read; of those `watched` it takes note whether there is anything ([`Log::unread`]).
    ///
    /// # Errors
    /// When what is to be read is gone.
    fn assign(&mut self, taken: &BTreeSet<u16>, watched: &BTreeSet<u16>) -> Result<(), ReadError>;
}
