//! The head: rows that are not yet sealed.

mod stamp;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::mem::size_of;
use std::ops::RangeInclusive;

pub(crate) use stamp::replaces;
pub use stamp::{Stamp, Stamps};

use crate::device::DeviceId;
use crate::query::SourceRow;
use crate::row::{Row, Schema};

/// The rows not yet sealed, by bucket, device and time.
///
/// Metrics of several messages of one (device, ts) unite. An equal value (the same bits) is a
/// duplicate; of different ones the higher [`Stamp`] wins, so that the result does not depend on
/// the order of arrival. To seal, [`Head::take`] it: new rows go into the fresh one while the
/// taken one is read and written out.
///
/// Memory: [`Head::bytes`] counts what rows, devices and names hold. The head itself sets no limit;
/// its writer seals at `head_bytes_limit`.
#[derive(Debug, Default)]
pub struct Head {
    buckets: BTreeMap<u16, HashMap<DeviceId, Series>>,
    /// Each schema in use, so that equal ones share memory.
    schemas: HashSet<Schema>,
    /// The last schema asked for and the one held: rows of one decoder share theirs, and a look at
    /// the address spares hashing all names.
    last_shared: Option<(Schema, Schema)>,
    bytes: usize,
    points: u64,
    rows: u64,
    oldest_received_ms: Option<i64>,
}

/// The rows of a device, ascending by time.
type Series = Vec<HeadRow>;

#[derive(Clone, Debug)]
struct HeadRow {
    row: Row,
    stamps: Stamps,
}

/// What an insertion did, in points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    /// Points of metrics that the row did not have.
    pub new_points: u32,
    /// Points with the value that the row already had.
    pub duplicate_points: u32,
    /// Points that replaced a different value of a lower stamp.
    pub replaced_points: u32,
    /// Points with a different value that lost against one of a higher stamp.
    pub outdated_points: u32,
    /// Points not taken since the row would exceed [`Head::ROW_METRICS_MAX`]; they belong to the
    /// dead letters. Then none of the message's new metrics is taken.
    pub refused_points: u32,
}

impl Head {
    /// How many metrics the messages of one (device, ts) may have together.
    pub const ROW_METRICS_MAX: usize = 1_024;

    /// Makes an empty head.
    pub fn new() -> Self {
        Self::default()
    }

    /// Unites a row with what is there of its bucket, device and time.
    pub fn insert(&mut self, bucket: u16, device: &DeviceId, row: &Row, stamp: Stamp) -> Merge {
        if row.is_empty() {
            return Merge::default();
        }
        let row = self.with_shared_schema(row);
        let devices = self.buckets.entry(bucket).or_default();
        if !devices.contains_key(device) {
            self.bytes += DEVICE_BYTES + device.as_str().len();
            devices.insert(device.clone(), Series::new());
        }
        let series = devices.get_mut(device).expect("inserted above if absent");
        let merge = match series.binary_search_by_key(&row.ts_ms, |held| held.row.ts_ms) {
            Err(at) => {
                let merge = Merge {
                    new_points: row.len() as u32,
                    ..Merge::default()
                };
                let stamps = Stamps::One(stamp);
                series.insert(at, HeadRow { row, stamps });
                self.bytes += series[at].bytes();
                self.rows += 1;
                merge
            }
            Ok(at) => {
                let held = &mut series[at];
                let before = held.bytes();
                let merge = held.unite(&row, stamp);
                self.bytes = self.bytes - before + held.bytes();
                let schema = held.row.schema().clone();
                self.share(&schema);
                merge
            }
        };
        self.points += u64::from(merge.new_points);
        let oldest = self.oldest_received_ms.unwrap_or(stamp.received_ms);
        self.oldest_received_ms = Some(oldest.min(stamp.received_ms));
        merge
    }

    fn with_shared_schema(&mut self, row: &Row) -> Row {
        let schema = self.share(row.schema());
        Row::new(row.ts_ms, schema, row.values())
    }

    /// Gives the one copy of a schema that this head holds.
    fn share(&mut self, schema: &Schema) -> Schema {
        if let Some((asked, held)) = &self.last_shared
            && asked.is_same(schema)
        {
            return held.clone();
        }
        let held = match self.schemas.get(schema) {
            Some(held) => held.clone(),
            None => {
                self.bytes += schema_bytes(schema);
                self.schemas.insert(schema.clone());
                schema.clone()
            }
        };
        self.last_shared = Some((schema.clone(), held.clone()));
        held
    }

    /// Takes everything out for sealing and leaves an empty head.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// The rows of a device with times in `range` (inclusive, milliseconds since the Unix epoch),
    /// ascending, with their stamps.
    pub fn rows_of(
        &self,
        bucket: u16,
        device: &DeviceId,
        range: RangeInclusive<i64>,
    ) -> impl Iterator<Item = SourceRow> + '_ {
        let series = self
            .buckets
            .get(&bucket)
            .and_then(|devices| devices.get(device))
            .map_or(&[][..], Vec::as_slice);
        let from = series.partition_point(|held| held.row.ts_ms < *range.start());
        let end = series.partition_point(|held| held.row.ts_ms <= *range.end());
        series[from..end.max(from)].iter().map(HeadRow::to_source)
    }

    /// Everything in ascending order of (bucket, device), each device with its rows ascending by
    /// time: the order of sealing. Sorts the devices of one bucket at a time.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &DeviceId, Vec<Row>)> {
        self.buckets.iter().flat_map(|(&bucket, devices)| {
            let mut sorted: Vec<_> = devices.iter().collect();
            sorted.sort_unstable_by(|a, b| a.0.cmp(b.0));
            sorted.into_iter().map(move |(device, series)| {
                let rows = series.iter().map(|held| held.row.clone()).collect();
                (bucket, device, rows)
            })
        })
    }

    /// About how many bytes of memory it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many points it holds.
    pub fn points(&self) -> u64 {
        self.points
    }

    /// How many rows, that is distinct (device, ts), it holds.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// When the earliest message in it was received, milliseconds since the Unix epoch; `None`
    /// when it is empty. Sealing is due `head_age_max` after it.
    pub fn oldest_received_ms(&self) -> Option<i64> {
        self.oldest_received_ms
    }
}

/// Key, hash table slot and row list of a device, without the id's text; two allocations.
const DEVICE_BYTES: usize = size_of::<(DeviceId, Series)>() + 8 + 2 * ALLOCATION_BYTES + 16;

/// What an allocator adds to an allocation.
const ALLOCATION_BYTES: usize = 16;

fn schema_bytes(schema: &Schema) -> usize {
    let names = schema.names().iter();
    let texts: usize = names
        .map(|name| name.as_str().len() + 16 + size_of_val(name) + ALLOCATION_BYTES)
        .sum();
    texts + size_of::<Schema>() + 16 + ALLOCATION_BYTES
}

impl HeadRow {
    fn bytes(&self) -> usize {
        let stamps = match &self.stamps {
            Stamps::One(_) => 0,
            Stamps::Each(stamps) => size_of_val(&**stamps) + ALLOCATION_BYTES,
        };
        // The list of rows grows by doubling: a quarter more than used, on average.
        size_of::<Self>() * 5 / 4 + size_of_val(self.row.values()) + ALLOCATION_BYTES + stamps
    }

    fn to_source(&self) -> SourceRow {
        SourceRow {
            row: self.row.clone(),
            stamps: self.stamps.clone(),
        }
    }

    fn unite(&mut self, row: &Row, stamp: Stamp) -> Merge {
        let schema = self.row.schema().union(row.schema());
        if schema.len() > Head::ROW_METRICS_MAX {
            let held = self.row.schema().clone();
            let known = row.select(|name| held.position(name).is_some());
            let refused_points = (row.len() - known.len()) as u32;
            return Merge {
                refused_points,
                ..self.unite_into(&held, &known, stamp)
            };
        }
        self.unite_into(&schema, row, stamp)
    }

    /// Unites with a row whose names are all in `schema`, which has all names of this one.
    fn unite_into(&mut self, schema: &Schema, row: &Row, stamp: Stamp) -> Merge {
        let mut merge = Merge::default();
        let mut values = Vec::with_capacity(schema.len());
        let mut stamps = Vec::with_capacity(schema.len());
        for name in schema.names() {
            let held = self.row.schema().position(name.as_str());
            let held = held.map(|at| (self.row.values()[at], self.stamps.of(at)));
            let new = row.get(name.as_str()).map(|value| (value, stamp));
            let point = match (held, new) {
                (Some(held), Some(new)) => merge.count(held, new),
                (Some(held), None) => held,
                (None, Some(new)) => {
                    merge.new_points += 1;
                    new
                }
                (None, None) => unreachable!("a united name stands in one of the two"),
            };
            values.push(point.0);
            stamps.push(point.1);
        }
        self.row = Row::new(self.row.ts_ms, schema.clone(), values);
        self.stamps = Stamps::of_each(stamps);
        merge
    }
}

impl Merge {
    /// Counts a point that meets one, and gives the one that stays.
    fn count(&mut self, held: (f64, Stamp), new: (f64, Stamp)) -> (f64, Stamp) {
        if held.0.to_bits() == new.0.to_bits() {
            self.duplicate_points += 1;
            // The value has the higher of its stamps, or a third message between the two would
            // win or lose by the order of arrival.
            (held.0, held.1.max(new.1))
        } else if replaces(new, held) {
            self.replaced_points += 1;
            new
        } else {
            self.outdated_points += 1;
            held
        }
    }
}
