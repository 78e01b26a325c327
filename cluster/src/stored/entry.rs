//! Entries of the groups' logs: a header of kind and version, the leader's time, what is asked.

use cluster_core::{
    Attempt, Body, EpochView, LogTime, MetaCommand, NodeEpoch, RoutesCommand, WallMs,
};
use session::Command;

use super::wire::{Counted, Reader, Sink, Stored, Why, choice, record, whole};
use crate::Damaged;

/// Items of a shard's entry. The proposer keeps to it; a reader takes more.
pub const ENTRY_ITEMS_MAX: usize = 1_000;
/// Bytes of a shard's entry beyond which nothing is added; a single item may be larger.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;

const SHARD_KIND: u8 = 1;
const META_KIND: u8 = 2;
const ROUTES_KIND: u8 = 3;
/// The version of all kinds.
const VERSION: u8 = 1;
/// Where a shard's entry counts its items: behind kind, version, time and wall clock.
const COUNT_AT: usize = 18;

/// What one item of a shard's entry asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum ShardItem {
    /// An item of a numbered stream.
    Item {
        /// The node that sent it.
        epoch: NodeEpoch,
        /// The sending.
        attempt: Attempt,
        /// Its number.
        n: u64,
        /// What stands under the number.
        body: Body<Command>,
    },
    /// A command of the leader's own.
    Duty(Command),
    /// Which node epochs are current.
    Epochs(EpochView),
}

impl ShardItem {
    /// Bytes that it takes in an entry.
    pub fn encoded_len(&self) -> usize {
        let mut counted = Counted::default();
        self.put(&mut counted);
        counted.0
    }
}

choice!(ShardItem, "item" {
    1 => Item { epoch, attempt, n, body },
    2 => Duty(command),
    3 => Epochs(view),
});
choice!(Body<Command>, "body of an item" { 0 => Nop, 1 => Item(command) });

/// An entry of a shard's log.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardEntry {
    /// When, as the leader says.
    pub time: LogTime,
    /// What is applied, in order.
    pub items: Vec<ShardItem>,
}

/// What stands behind the time of a shard's entry.
struct ShardBody {
    /// What the wall clock showed; 0 while none is believed.
    wall: WallMs,
    items: Vec<ShardItem>,
}

record!(ShardBody { wall, items });

impl ShardEntry {
    /// Reads an entry.
    ///
    /// # Errors
    /// It is no entry of a shard, of an unknown version, or damaged.
    pub fn decode(entry: &[u8]) -> Result<Self, Damaged> {
        let (time, body) = decode::<ShardBody>(SHARD_KIND, "entry of a shard", entry)?;
        let wall = (body.wall != WallMs(0)).then_some(body.wall);
        Ok(Self {
            time: LogTime { time, wall },
            items: body.items,
        })
    }

    /// The bytes of the entry.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = ShardEntryWriter::new(self.time);
        for item in &self.items {
            writer.push(item);
        }
        writer.finish()
    }
}

/// Writes a shard's entry item by item.
#[derive(Debug)]
pub struct ShardEntryWriter {
    bytes: Vec<u8>,
    items: u32,
}

impl ShardEntryWriter {
    /// An entry without items.
    pub fn new(time: LogTime) -> Self {
        let mut bytes = Vec::with_capacity(512);
        header(SHARD_KIND, time.time, &mut bytes);
        time.wall.unwrap_or_default().put(&mut bytes);
        0_u32.put(&mut bytes);
        Self { bytes, items: 0 }
    }

    /// Appends an item.
    pub fn push(&mut self, item: &ShardItem) {
        self.items += 1;
        item.put(&mut self.bytes);
    }

    /// Whether the next item belongs into another entry.
    pub fn is_full(&self) -> bool {
        self.items as usize >= ENTRY_ITEMS_MAX || self.bytes.len() >= ENTRY_BYTES_MAX
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// The bytes of the entry.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes[COUNT_AT..COUNT_AT + 4].copy_from_slice(&self.items.to_le_bytes());
        self.bytes
    }
}

/// An entry of meta's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaEntry {
    /// The leader's wall time.
    pub time: WallMs,
    /// What is applied.
    pub command: MetaCommand,
}

impl MetaEntry {
    /// Reads an entry.
    ///
    /// # Errors
    /// It is no entry of meta, of an unknown version, or damaged.
    pub fn decode(entry: &[u8]) -> Result<Self, Damaged> {
        let (time, command) = decode(META_KIND, "entry of meta", entry)?;
        Ok(Self { time, command })
    }

    /// The bytes of the entry.
    pub fn encode(&self) -> Vec<u8> {
        encode(META_KIND, self.time, &self.command)
    }
}

/// An entry of the routes' log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutesEntry {
    /// The leader's wall time; nothing depends on it yet.
    pub time: WallMs,
    /// What is applied.
    pub command: RoutesCommand,
}

impl RoutesEntry {
    /// Reads an entry.
    ///
    /// # Errors
    /// It is no entry of the routes, of an unknown version, or damaged.
    pub fn decode(entry: &[u8]) -> Result<Self, Damaged> {
        let (time, command) = decode(ROUTES_KIND, "entry of the routes", entry)?;
        Ok(Self { time, command })
    }

    /// The bytes of the entry.
    pub fn encode(&self) -> Vec<u8> {
        encode(ROUTES_KIND, self.time, &self.command)
    }
}

fn header(kind: u8, time: WallMs, out: &mut Vec<u8>) {
    out.bytes(&[kind, VERSION]);
    time.put(out);
}

fn encode(kind: u8, time: WallMs, value: &impl Stored) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    header(kind, time, &mut bytes);
    value.put(&mut bytes);
    bytes
}

fn decode<T: Stored>(kind: u8, what: &str, entry: &[u8]) -> Result<(WallMs, T), Damaged> {
    read(kind, entry).map_err(|why| Damaged {
        what: what.to_owned(),
        why: why.to_string(),
    })
}

fn read<T: Stored>(kind: u8, entry: &[u8]) -> Result<(WallMs, T), Why> {
    let mut from = Reader::new(entry);
    match u8::get(&mut from)? {
        found if found == kind => {}
        tag => {
            return Err(Why::Tag {
                what: "kind of this log",
                tag,
            });
        }
    }
    match u8::get(&mut from)? {
        VERSION => {}
        found => {
            return Err(Why::Version {
                found,
                known: VERSION,
            });
        }
    }
    whole(from)
}
