//! What lines of two nodes say to each other, as bytes; `docs/formats/buckets.md` shows them.
//!
//! Numbers are little-endian, a length stands before what it counts. Reading is checked: it takes
//! nothing behind the end, and no more memory than the bytes are that announce it.

use bytes::Bytes;
use storage::log::{Record, StoredRecord};

use crate::log::Position;

/// The version of everything here.
const VERSION: u8 = 1;

/// Asks for records of buckets that the asking node owns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pull {
    pub(crate) buckets: Vec<PullBucket>,
    /// Bytes of records that are wanted, about.
    pub(crate) bytes_max: u32,
}

/// Says what is wanted of one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PullBucket {
    pub(crate) bucket: u16,
    /// The ownership under which it is wanted.
    pub(crate) epoch: u64,
    pub(crate) wanted: Wanted,
    /// Everything before is sealed: the log need not keep it for this bucket.
    pub(crate) sealed: Option<Position>,
}

/// Says what of a bucket is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// To know whether there is any record: none is taken yet.
    Sign,
    /// Everything that is there.
    All,
    /// Everything from here on.
    From(Position),
}

/// Answers [`Pull`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pulled {
    /// The log's incarnation.
    pub(crate) incarnation: u64,
    /// Where the log ends, of each bucket that the answering node knows as the asking node's.
    pub(crate) ends: Vec<(u16, u64)>,
    /// Buckets that have records and of which a sign was wanted.
    pub(crate) signs: Vec<u16>,
    /// Buckets that cannot be read from there, and why.
    pub(crate) refused: Vec<(u16, String)>,
    /// Records, each partition's in the order of their offsets.
    pub(crate) records: Vec<StoredRecord>,
}

/// Asks where a log ends; answered with [`End`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndOf {
    pub(crate) bucket: u16,
}

/// Is one past the last fsynced record of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) offset: u64,
}

/// Asks for the part of a bucket behind a row, or for the first; answered with [`Copied`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CopyOf {
    pub(crate) bucket: u16,
    /// Of the move.
    pub(crate) epoch: u64,
    /// Device and time of the last row that the asking node has.
    pub(crate) after: Option<(Bytes, i64)>,
}

/// Answers [`CopyOf`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Copied {
    /// Why there is nothing to copy now.
    NotYet(String),
    /// A part of the bucket.
    Part(Part),
}

/// Is a part of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    /// The highest level of a segment that holds rows from here on.
    pub(crate) level: u32,
    /// Where the store goes on in logs, as it names them: name, incarnation, offset.
    pub(crate) offsets: Vec<(String, u64, u64)>,
    /// The schemas of the blocks.
    pub(crate) schemas: Bytes,
    /// Blocks of rows with their devices, in order.
    pub(crate) blocks: Vec<(Bytes, Bytes)>,
    /// Whether nothing follows.
    pub(crate) is_last: bool,
}

/// Says what is wrong with bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("it ends too early")]
    Short,
    #[error("{0} bytes stand behind its end")]
    Trailing(usize),
    #[error("version {0} is not known to this release")]
    Version(u8),
    #[error("tag {0} is unknown")]
    Tag(u8),
    #[error("{0}")]
    Record(String),
}

/// Takes values off the beginning of bytes.
struct Reading<'a> {
    all: &'a Bytes,
    at: usize,
}

impl<'a> Reading<'a> {
    fn new(all: &'a Bytes) -> Result<Self, Malformed> {
        let mut reading = Self { all, at: 0 };
        match reading.u8()? {
            VERSION => Ok(reading),
            version => Err(Malformed::Version(version)),
        }
    }

    fn bytes(&mut self, count: usize) -> Result<Bytes, Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed::Short)?;
        if end > self.all.len() {
            return Err(Malformed::Short);
        }
        let taken = self.all.slice(self.at..end);
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes(N)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    fn position(&mut self) -> Result<Position, Malformed> {
        let (incarnation, offset) = (self.u64()?, self.u64()?);
        Ok(Position {
            incarnation,
            offset,
        })
    }

    /// A list of things that take at least one byte each.
    fn list<T>(
        &mut self,
        mut one: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.u32()? as usize;
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(one(self)?);
        }
        Ok(list)
    }

    /// Bytes behind their number.
    fn counted(&mut self) -> Result<Bytes, Malformed> {
        let count = self.u32()? as usize;
        self.bytes(count)
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(Malformed::Tag(tag)),
        }
    }

    fn end(self) -> Result<(), Malformed> {
        match self.all.len() - self.at {
            0 => Ok(()),
            behind => Err(Malformed::Trailing(behind)),
        }
    }
}

fn put_list<T>(out: &mut Vec<u8>, list: &[T], mut one: impl FnMut(&mut Vec<u8>, &T)) {
    let count = u32::try_from(list.len()).expect("few are said at once");
    out.extend_from_slice(&count.to_le_bytes());
    for item in list {
        one(out, item);
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let count = u32::try_from(bytes.len()).expect("few are said at once");
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_position(out: &mut Vec<u8>, position: &Position) {
    out.extend_from_slice(&position.incarnation.to_le_bytes());
    out.extend_from_slice(&position.offset.to_le_bytes());
}

impl Pull {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.bytes_max.to_le_bytes());
        put_list(&mut out, &self.buckets, |out, one| {
            out.extend_from_slice(&one.bucket.to_le_bytes());
            out.extend_from_slice(&one.epoch.to_le_bytes());
            match &one.wanted {
                Wanted::Sign => out.push(0),
                Wanted::All => out.push(1),
                Wanted::From(position) => {
                    out.push(2);
                    put_position(out, position);
                }
            }
            out.push(u8::from(one.sealed.is_some()));
            if let Some(sealed) = &one.sealed {
                put_position(out, sealed);
            }
        });
        out.into()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut reading = Reading::new(bytes)?;
        let bytes_max = reading.u32()?;
        let buckets = reading.list(|reading| {
            Ok(PullBucket {
                bucket: reading.u16()?,
                epoch: reading.u64()?,
                wanted: match reading.u8()? {
                    0 => Wanted::Sign,
                    1 => Wanted::All,
                    2 => Wanted::From(reading.position()?),
                    tag => return Err(Malformed::Tag(tag)),
                },
                sealed: match reading.u8()? {
                    0 => None,
                    1 => Some(reading.position()?),
                    tag => return Err(Malformed::Tag(tag)),
                },
            })
        })?;
        reading.end()?;
        Ok(Self { buckets, bytes_max })
    }
}

impl Pulled {
    pub(crate) fn encode(&self) -> Bytes {
        let records: usize = self
            .records
            .iter()
            .map(|one| 14 + one.record.stored_bytes())
            .sum();
        let mut out = Vec::with_capacity(64 + 12 * self.ends.len() + records);
        out.push(VERSION);
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        put_list(&mut out, &self.ends, |out, (bucket, end)| {
            out.extend_from_slice(&bucket.to_le_bytes());
            out.extend_from_slice(&end.to_le_bytes());
        });
        put_list(&mut out, &self.signs, |out, bucket| {
            out.extend_from_slice(&bucket.to_le_bytes());
        });
        put_list(&mut out, &self.refused, |out, (bucket, why)| {
            out.extend_from_slice(&bucket.to_le_bytes());
            put_list(out, why.as_bytes(), |out, byte| out.push(*byte));
        });
        put_list(&mut out, &self.records, |out, one| {
            out.extend_from_slice(&one.record.partition.to_le_bytes());
            out.extend_from_slice(&one.offset.to_le_bytes());
            let bytes = u32::try_from(one.record.stored_bytes()).expect("a record is below 4 GiB");
            out.extend_from_slice(&bytes.to_le_bytes());
            one.record.encode(out);
        });
        out.into()
    }

    /// Reads it; keys and payloads share its buffer.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut reading = Reading::new(bytes)?;
        let pulled = Self {
            incarnation: reading.u64()?,
            ends: reading.list(|reading| Ok((reading.u16()?, reading.u64()?)))?,
            signs: reading.list(Reading::u16)?,
            refused: reading.list(|reading| {
                let bucket = reading.u16()?;
                let count = reading.u32()? as usize;
                let why = reading.bytes(count)?;
                Ok((bucket, String::from_utf8_lossy(&why).into_owned()))
            })?,
            records: reading.list(|reading| {
                let (partition, offset) = (reading.u16()?, reading.u64()?);
                let count = reading.u32()? as usize;
                let stored = reading.bytes(count)?;
                let record = Record::decode(partition, &stored).map_err(Malformed::Record)?;
                Ok(StoredRecord { offset, record })
            })?,
        };
        reading.end()?;
        Ok(pulled)
    }
}

impl EndOf {
    pub(crate) fn encode(self) -> Bytes {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.bucket.to_le_bytes());
        out.into()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut reading = Reading::new(bytes)?;
        let bucket = reading.u16()?;
        reading.end()?;
        Ok(Self { bucket })
    }
}

impl End {
    pub(crate) fn encode(self) -> Bytes {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.into()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut reading = Reading::new(bytes)?;
        let offset = reading.u64()?;
        reading.end()?;
        Ok(Self { offset })
    }
}

impl CopyOf {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.bucket.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.push(u8::from(self.after.is_some()));
        if let Some((device, ts_ms)) = &self.after {
            put_bytes(&mut out, device);
            out.extend_from_slice(&ts_ms.to_le_bytes());
        }
        out.into()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut reading = Reading::new(bytes)?;
        let (bucket, epoch) = (reading.u16()?, reading.u64()?);
        let after = match reading.flag()? {
            false => None,
            true => Some((reading.counted()?, reading.array().map(i64::from_le_bytes)?)),
        };
        reading.end()?;
        Ok(Self {
            bucket,
            epoch,
            after,
        })
    }
}

impl Copied {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        match self {
            Self::NotYet(why) => {
                out.push(0);
                put_bytes(&mut out, why.as_bytes());
            }
            Self::Part(part) => {
                out.push(1);
                out.extend_from_slice(&part.level.to_le_bytes());
                put_list(
                    &mut out,
                    &part.offsets,
                    |out, (name, incarnation, offset)| {
                        put_bytes(out, name.as_bytes());
                        out.extend_from_slice(&incarnation.to_le_bytes());
                        out.extend_from_slice(&offset.to_le_bytes());
                    },
                );
                put_bytes(&mut out, &part.schemas);
                put_list(&mut out, &part.blocks, |out, (device, block)| {
                    put_bytes(out, device);
                    put_bytes(out, block);
                });
                out.push(u8::from(part.is_last));
            }
        }
        out.into()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut reading = Reading::new(bytes)?;
        let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
        let copied = match reading.flag()? {
            false => Self::NotYet(text(reading.counted()?)),
            true => Self::Part(Part {
                level: reading.u32()?,
                offsets: reading.list(|reading| {
                    Ok((text(reading.counted()?), reading.u64()?, reading.u64()?))
                })?,
                schemas: reading.counted()?,
                blocks: reading.list(|reading| Ok((reading.counted()?, reading.counted()?)))?,
                is_last: reading.flag()?,
            }),
        };
        reading.end()?;
        Ok(copied)
    }
}
