//! Who stores which bucket, and what nodes ask each other for it.
//!
//! A bucket is a partition of the log and has one owner among the nodes. A record lies in the log
//! of the node that took it, until the owner has pulled and sealed it.
//!
//! ```text
//!  node A: log ── reader ◄──── Pull: from where, how much is sealed ──── puller :node B, owner
//!                    └──────── records of B's buckets, fsynced ───────────► writer ─► store
//!  any node: query ── not its bucket ──► the owner: ends of all logs, then its store
//! ```
//!
//! An owner takes records of a bucket only once the table says that the bucket holds rows; until then
//! the bucket may be dealt to another node. From then on it goes by a move:
//!
//! ```text
//!  table: A, to B ─► A's writer freezes it ─► Copy: page by page ─► B adopts rows and offsets at once
//!  table: B       ─► A's writer drops it      B's writer begins anew, from these offsets
//! ```

mod answer;
mod ask;
mod copier;
mod copies;
pub(crate) mod exchange;
#[cfg(test)]
mod exchange_test;
mod keeper;
mod puller;
mod pulls;
mod reader;
mod share;
mod status;

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

pub(crate) use answer::turns;
pub(crate) use ask::{Asker, NOT_THE_OWNER};
pub(crate) use copier::Copier;
pub(crate) use copies::turns as turns_of_copies;
pub(crate) use keeper::{Keeper, Signs};
pub(crate) use puller::Puller;
pub(crate) use pulls::{Places, Pulls};
pub(crate) use reader::Reader;
pub(crate) use share::Share;
pub(crate) use status::Heard;
pub use status::{MoveCounts, OwnerLag, PullStatus};

/// Is the bucket table, and who may have taken records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// A row for each bucket.
    pub rows: Vec<TableRow>,
    /// All nodes with a log.
    pub members: BTreeSet<u32>,
}

/// Is the row of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableRow {
    /// Number of the node that stores it.
    pub owner: u32,
    /// Fences former owners.
    pub epoch: u64,
    /// Whether the owner may take records: from then on the bucket goes by a move alone.
    pub holds_rows: bool,
    /// Number of the node that is to store it next, and copies what the owner has.
    pub moving_to: Option<u32>,
}

/// Names a bucket as its owner has read its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The bucket.
    pub bucket: u16,
    /// [`TableRow::epoch`].
    pub epoch: u64,
}

impl Table {
    /// The table of a node that is alone, and takes what comes.
    pub fn alone(node: u32, buckets: u16) -> Self {
        let row = TableRow {
            owner: node,
            epoch: 1,
            holds_rows: true,
            moving_to: None,
        };
        Self {
            rows: vec![row; usize::from(buckets)],
            members: BTreeSet::from([node]),
        }
    }

    /// The row of a bucket.
    pub fn row(&self, bucket: u16) -> Option<TableRow> {
        self.rows.get(usize::from(bucket)).copied()
    }

    /// The buckets of a node, with their rows.
    pub(crate) fn of(&self, node: u32) -> impl Iterator<Item = (u16, TableRow)> {
        let rows = (0..).zip(self.rows.iter().copied());
        rows.filter(move |(_, row)| row.owner == node)
    }

    /// The buckets whose records a node takes, as far as its store has them.
    pub(crate) fn taken_by(&self, node: u32) -> BTreeSet<u16> {
        let held = self
            .of(node)
            .filter(|(_, row)| row.holds_rows && row.moving_to.is_none());
        held.map(|(bucket, _)| bucket).collect()
    }

    /// The buckets of a node that hold no row yet.
    pub(crate) fn empty_of(&self, node: u32) -> impl Iterator<Item = Claim> {
        let empty = self.of(node).filter(|(_, row)| !row.holds_rows);
        empty.map(|(bucket, row)| Claim {
            bucket,
            epoch: row.epoch,
        })
    }

    /// The nodes other than this one.
    pub(crate) fn others(&self, node: u32) -> impl Iterator<Item = u32> {
        self.members.iter().copied().filter(move |one| *one != node)
    }
}

/// Is what one line asks another; the number stands for it between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Asked {
    /// For records of the asking node's buckets.
    Pull = 0,
    /// Where the asked node's log ends.
    End = 1,
    /// For rows of a device whose bucket the asked node owns.
    Query = 2,
    /// For a part of a bucket that moves from the asked node to the asking one.
    Copy = 3,
}

impl Asked {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Pull, Self::End, Self::Query, Self::Copy];

    /// Bytes that an answer has at most.
    pub fn reply_bytes_max(self) -> u32 {
        match self {
            Self::Pull => reader::REPLY_BYTES_MAX,
            Self::End => 64,
            Self::Query => 4 << 20,
            Self::Copy => copies::REPLY_BYTES_MAX,
        }
    }

    /// How long an answer may take.
    pub fn deadline(self) -> Duration {
        match self {
            Self::Pull => reader::WAIT + Duration::from_secs(5),
            Self::End => Duration::from_secs(2),
            Self::Query | Self::Copy => Duration::from_secs(10),
        }
    }
}

/// What will be answered; an error says why nothing is, for a person.
pub type Answering<T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send>>;

/// Is how a line answers: called once, from any thread, or dropped where there is no answer.
pub type Reply = Box<dyn FnOnce(Bytes) + Send>;

/// Knows the bucket table and reaches other nodes.
pub trait Cluster: Send + Sync + 'static {
    /// The table, once it is known. A row that says that its bucket holds rows has another epoch
    /// whenever its owner changes, or where it is being moved to.
    fn table(&self) -> watch::Receiver<Option<Arc<Table>>>;

    /// Has the table say that buckets of this node hold rows, as far as their rows are as they were
    /// read. Nothing is to be concluded from the answer: the table shows what became of it.
    fn hold_rows(&self, claims: Vec<Claim>) -> Answering<()>;

    /// Has the table say that this node, which was to store the bucket next, has all of it and is its
    /// owner, if the row is as it was read. Nothing is to be concluded from the answer.
    fn bucket_moved(&self, claim: Claim) -> Answering<()>;

    /// Asks the line of another node, [`crate::Telemetry::handle_asked`].
    fn ask(&self, node: u32, asked: Asked, said: Bytes) -> Answering<Bytes>;
}

/// Is a cluster of one node, whose table never changes.
#[derive(Debug)]
pub struct Alone(watch::Sender<Option<Arc<Table>>>);

impl Alone {
    /// The cluster of this node.
    pub fn new(node: u32, buckets: u16) -> Self {
        let table = Arc::new(Table::alone(node, buckets));
        Self(watch::Sender::new(Some(table)))
    }
}

impl Cluster for Alone {
    fn table(&self) -> watch::Receiver<Option<Arc<Table>>> {
        self.0.subscribe()
    }

    fn hold_rows(&self, _: Vec<Claim>) -> Answering<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn bucket_moved(&self, _: Claim) -> Answering<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn ask(&self, node: u32, _: Asked, _: Bytes) -> Answering<Bytes> {
        Box::pin(std::future::ready(Err(format!("there is no node {node}"))))
    }
}
