//! Rows of one device from several sources, united by time.

use std::iter::Peekable;

use crate::head::{Stamp, Stamps, replaces};
use crate::row::{Row, Schema};

/// A row with the stamps that decide between different values of one metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRow {
    /// The row.
    pub row: Row,
    /// Its stamps.
    pub stamps: Stamps,
}

impl SourceRow {
    /// Wraps a sealed row: its own stamps are gone, its values stay before any other.
    pub fn sealed(row: Row) -> Self {
        Self {
            row,
            stamps: Stamps::One(Stamp::SEALED),
        }
    }
}

/// Unites the rows of several sources of one device in ascending order of time.
///
/// Each source gives its rows in strictly ascending time; they are listed from the oldest to the
/// newest. Metrics of equal (device, ts) unite. Where two sources carry different values of one
/// metric: a sealed value stays before one with a stamp; of two sealed ones that of the earlier
/// source stays; of two stamped ones the higher stamp wins. Reads lazily, holds one row a source.
pub fn merge_rows<I: Iterator<Item = SourceRow>>(
    sources: impl IntoIterator<Item = I>,
) -> MergeRows<I> {
    MergeRows {
        sources: sources.into_iter().map(Iterator::peekable).collect(),
        conflicts: 0,
    }
}

/// The iterator of [`merge_rows`].
#[derive(Debug)]
pub struct MergeRows<I: Iterator<Item = SourceRow>> {
    sources: Vec<Peekable<I>>,
    conflicts: u64,
}

impl<I: Iterator<Item = SourceRow>> MergeRows<I> {
    /// How many points of the rows given so far had a different value in another source.
    pub fn conflicts(&self) -> u64 {
        self.conflicts
    }
}

impl<I: Iterator<Item = SourceRow>> Iterator for MergeRows<I> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        let heads = self.sources.iter_mut().filter_map(Peekable::peek);
        let ts_ms = heads.map(|head| head.row.ts_ms).min()?;
        let mut united: Option<SourceRow> = None;
        for source in &mut self.sources {
            let Some(row) = source.next_if(|head| head.row.ts_ms == ts_ms) else {
                continue;
            };
            united = Some(match united {
                None => row,
                Some(earlier) => unite(&earlier, &row, &mut self.conflicts),
            });
        }
        united.map(|united| united.row)
    }
}

/// Unites two rows of one time; `earlier` is of the earlier source.
fn unite(earlier: &SourceRow, later: &SourceRow, conflicts: &mut u64) -> SourceRow {
    let schema: Schema = earlier.row.schema().union(later.row.schema());
    let mut values = Vec::with_capacity(schema.len());
    let mut stamps = Vec::with_capacity(schema.len());
    for name in schema.names() {
        let place = |row: &SourceRow| row.row.schema().position(name.as_str());
        let point = |row: &SourceRow, at: usize| (row.row.values()[at], row.stamps.of(at));
        let (value, stamp) = match (place(earlier), place(later)) {
            (Some(a), Some(b)) => {
                let (a, b) = (point(earlier, a), point(later, b));
                if a.0.to_bits() != b.0.to_bits() {
                    *conflicts += 1;
                }
                if wins(b, a) { b } else { a }
            }
            (Some(a), None) => point(earlier, a),
            (None, Some(b)) => point(later, b),
            (None, None) => unreachable!("a united name stands in one of the two"),
        };
        values.push(value);
        stamps.push(stamp);
    }
    SourceRow {
        row: Row::new(earlier.row.ts_ms, schema, values),
        stamps: Stamps::of_each(stamps),
    }
}

/// Whether a later point replaces an earlier one of the same metric.
fn wins(later: (f64, Stamp), earlier: (f64, Stamp)) -> bool {
    earlier.1 != Stamp::SEALED && replaces(later, earlier)
}
