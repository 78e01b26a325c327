//! Reading: a range of one device, or every stored point as it lies.

use std::cell::RefCell;

use telemetry::query::{SourceRow, merge_rows};
use telemetry::{DeviceId, Row};

use super::error::Error;
use super::segment::{BlockEntry, Segment};
use super::store::Tsdb;

/// Is a question about one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// The bucket of the device.
    pub bucket: u16,
    /// The device.
    pub device: &'a DeviceId,
    /// Names of the metrics wanted; empty means all. A row without any of them is not given.
    pub metrics: &'a [String],
    /// First moment wanted, milliseconds since the Unix epoch.
    pub from_ms: i64,
    /// Last moment wanted, inclusive.
    pub to_ms: i64,
    /// Greatest number of rows, the oldest first.
    pub limit: usize,
}

/// Is one point as it lies in a block, before any merging.
#[derive(Clone, Copy, Debug)]
pub struct RawPoint<'a> {
    /// Number of the segment; `None` for the head.
    pub segment: Option<u64>,
    /// Level of the segment; 0 for the head.
    pub level: u32,
    /// The device.
    pub device: &'a DeviceId,
    /// Event time, milliseconds since the Unix epoch.
    pub ts_ms: i64,
    /// The metric.
    pub metric: &'a str,
    /// Its value.
    pub value: f64,
}

impl Tsdb {
    /// The rows of a device, ascending by time; those of head and segments united. Blocks on the
    /// disk, one block of each segment at a time.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn query(&self, query: &Query<'_>) -> Result<Vec<Row>, Error> {
        if query.from_ms > query.to_ms {
            return Ok(Vec::new());
        }
        let range = query.from_ms..=query.to_ms;
        let (sealed, heads) = {
            let state = self.shared.state();
            let heads = [state.sealing.as_deref(), Some(&state.active)]
                .into_iter()
                .flatten();
            let heads: Vec<Vec<SourceRow>> = heads
                .map(|head| {
                    head.rows_of(query.bucket, query.device, range.clone())
                        .collect()
                })
                .collect();
            (state.sealed(), heads)
        };
        let failure = RefCell::new(None);
        let mut sources: Vec<Source<'_>> = Vec::new();
        for segment in sealed.of(query.bucket) {
            let about = &segment.about;
            if about.ts_max_ms < query.from_ms || about.ts_min_ms > query.to_ms {
                continue;
            }
            let mut blocks = segment.blocks_of(query.bucket, query.device, &self.shared.pages)?;
            blocks
                .retain(|block| block.ts_max_ms >= query.from_ms && block.ts_min_ms <= query.to_ms);
            let rows = SealedRows::new(segment, blocks, &failure);
            let range = range.clone();
            sources.push(Box::new(
                rows.filter(move |source| range.contains(&source.row.ts_ms)),
            ));
        }
        sources.extend(
            heads
                .into_iter()
                .map(|rows| Box::new(rows.into_iter()) as Source<'_>),
        );
        let rows = merge_rows(sources)
            .filter_map(|row| wanted(row, query.metrics))
            .take(query.limit)
            .collect();
        match failure.into_inner() {
            Some(error) => Err(error),
            None => Ok(rows),
        }
    }

    /// Gives every live point once for each block that holds it, segment by segment without any
    /// merging, then those of the head. Blocks on the disk.
    ///
    /// # Errors
    /// When a segment cannot be read; some points were given.
    pub fn scan_raw(&self, mut visit: impl FnMut(&RawPoint<'_>)) -> Result<(), Error> {
        let sealed = self.shared.sealed();
        for segment in sealed.all() {
            for entry in segment.entries() {
                let entry = entry?;
                if sealed.is_dead(entry.bucket, segment) {
                    continue;
                }
                let place = (Some(segment.about.id), segment.about.level);
                for row in segment.rows(&entry)? {
                    visit_row(place, &entry.device, &row, &mut visit);
                }
            }
        }
        let state = self.shared.state();
        let heads = [state.sealing.as_deref(), Some(&state.active)];
        for (_, device, rows) in heads.into_iter().flatten().flat_map(telemetry::Head::iter) {
            for row in rows {
                visit_row((None, 0), device, &row, &mut visit);
            }
        }
        Ok(())
    }

    /// The devices of a bucket that have rows, ascending, beginning behind `after`, at most
    /// `limit`. Reads the index of the bucket in each segment.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn devices(
        &self,
        bucket: u16,
        after: Option<&DeviceId>,
        limit: usize,
    ) -> Result<Vec<DeviceId>, Error> {
        let mut found = std::collections::BTreeSet::new();
        let mut add = |device: &DeviceId| {
            if after.is_none_or(|after| device > after) && !found.contains(device) {
                found.insert(device.clone());
                if found.len() > limit {
                    found.pop_last();
                }
            }
        };
        let sealed = self.shared.sealed();
        for segment in sealed.of(bucket) {
            for entry in segment.entries_from(bucket, None) {
                add(&entry?.device);
            }
        }
        let state = self.shared.state();
        let heads = [state.sealing.as_deref(), Some(&state.active)];
        for (of, device, _) in heads.into_iter().flatten().flat_map(telemetry::Head::iter) {
            if of == bucket {
                add(device);
            }
        }
        Ok(found.into_iter().collect())
    }
}

fn visit_row(
    (segment, level): (Option<u64>, u32),
    device: &DeviceId,
    row: &Row,
    visit: &mut impl FnMut(&RawPoint<'_>),
) {
    for (metric, value) in row.metrics() {
        let metric = metric.as_str();
        visit(&RawPoint {
            segment,
            level,
            device,
            ts_ms: row.ts_ms,
            metric,
            value,
        });
    }
}

fn wanted(row: Row, metrics: &[String]) -> Option<Row> {
    if metrics.is_empty() {
        return Some(row);
    }
    let row = row.select(|name| metrics.iter().any(|metric| metric == name));
    (!row.is_empty()).then_some(row)
}

type Source<'a> = Box<dyn Iterator<Item = SourceRow> + 'a>;

/// The rows of one device in one segment, decoded block by block. An error ends the rows and is
/// left in `failure`, where the caller must look before it uses them.
pub(super) struct SealedRows<'a> {
    segment: &'a Segment,
    blocks: std::vec::IntoIter<BlockEntry>,
    rows: std::vec::IntoIter<Row>,
    failure: &'a RefCell<Option<Error>>,
}

impl<'a> SealedRows<'a> {
    pub(super) fn new(
        segment: &'a Segment,
        blocks: Vec<BlockEntry>,
        failure: &'a RefCell<Option<Error>>,
    ) -> Self {
        Self {
            segment,
            blocks: blocks.into_iter(),
            rows: Vec::new().into_iter(),
            failure,
        }
    }
}

impl Iterator for SealedRows<'_> {
    type Item = SourceRow;

    fn next(&mut self) -> Option<SourceRow> {
        loop {
            if let Some(row) = self.rows.next() {
                return Some(SourceRow::sealed(row));
            }
            if self.failure.borrow().is_some() {
                return None;
            }
            match self.segment.rows(&self.blocks.next()?) {
                Ok(rows) => self.rows = rows.into_iter(),
                Err(error) => {
                    self.failure.replace(Some(error));
                    return None;
                }
            }
        }
    }
}
