//! A bucket on its way from one store to another: read in pages here, adopted whole there.

use std::cell::RefCell;
use std::collections::HashSet;

use telemetry::query::merge_rows;
use telemetry::{DeviceId, Row};

use super::error::Error;
use super::manifest::{Change, ReplayOffset};
use super::marks::{BucketMark, Standing};
use super::merge::{lowest_key, take_key};
use super::output::Output;
use super::query::SealedRows;
use super::store::Tsdb;

/// Is a part of a bucket's sealed rows.
#[derive(Clone, Debug)]
pub struct BucketPage {
    /// Rows of devices, in order of device and time; a device that follows itself goes on.
    pub rows: Vec<(DeviceId, Vec<Row>)>,
    /// Whether nothing follows.
    pub is_last: bool,
    /// The highest level of a segment that holds rows of the bucket from here on.
    pub level: u32,
}

impl Tsdb {
    /// Reads sealed rows of a bucket behind those of a device up to a time, or from the first; about
    /// `bytes_max` bytes of them, at least one row if there is any. While no row of the bucket comes
    /// or goes, the same question has the same answer, also after a restart. Blocks on the disk, one
    /// block of each segment at a time.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn bucket_page(
        &self,
        bucket: u16,
        after: Option<(&DeviceId, i64)>,
        bytes_max: usize,
    ) -> Result<BucketPage, Error> {
        let sealed = self.shared.sealed();
        let segments: Vec<_> = sealed.of(bucket).collect();
        let from = after.map(|(device, _)| device);
        let entries = segments.iter();
        let entries = entries.map(|segment| segment.entries_from(bucket, from).peekable());
        let mut sources: Vec<_> = entries.collect();
        let mut page = BucketPage {
            rows: Vec::new(),
            is_last: true,
            level: 0,
        };
        for (segment, source) in segments.iter().zip(&mut sources) {
            if source.peek().is_some() {
                page.level = page.level.max(segment.about.level);
            }
        }
        let (mut bytes, failure) = (0, RefCell::new(None));
        while let Some((_, device)) = lowest_key(&mut sources)? {
            let seen = after.filter(|(of, _)| **of == device).map(|(_, ts)| ts);
            let is_new = move |ts_ms: i64| seen.is_none_or(|seen| ts_ms > seen);
            let mut found = Vec::with_capacity(segments.len());
            for (segment, source) in segments.iter().zip(&mut sources) {
                let mut blocks = take_key(source, bucket, &device)?;
                blocks.retain(|block| is_new(block.ts_max_ms));
                let rows = SealedRows::new(segment, blocks, &failure);
                found.push(rows.filter(move |source| is_new(source.row.ts_ms)));
            }
            let mut rows: Vec<Row> = Vec::new();
            for row in merge_rows(found) {
                if bytes >= bytes_max.max(1) {
                    page.is_last = false;
                    break;
                }
                bytes += weight(&row, rows.last());
                rows.push(row);
            }
            if let Some(error) = failure.take() {
                return Err(error);
            }
            if !rows.is_empty() {
                page.rows.push((device, rows));
            }
            if !page.is_last {
                break;
            }
        }
        Ok(page)
    }

    /// Begins to take over a bucket under an epoch of its row, in one or more segments of a level.
    /// Durably drops whatever the store has of it. `None`, and nothing is changed, if the store has it
    /// under a later epoch, or has taken it over under this one already.
    ///
    /// # Errors
    /// As [`Tsdb::drop_bucket`].
    pub fn adopt(&self, bucket: u16, epoch: u64, level: u32) -> Result<Option<Adoption>, Error> {
        let may_begin = self.mark(bucket).is_none_or(|mark| match mark.standing {
            Standing::Dropped => mark.epoch <= epoch,
            Standing::Frozen | Standing::Adopted => mark.epoch < epoch,
        });
        if !may_begin {
            return Ok(None);
        }
        self.drop_bucket(bucket, epoch)?;
        Ok(Some(Adoption {
            tsdb: self.clone(),
            bucket,
            epoch,
            output: Output::new(&self.shared, level),
        }))
    }
}

/// Memory that a row takes in a page, about, in bytes; its names only if they are others.
fn weight(row: &Row, before: Option<&Row>) -> usize {
    let is_same = before.is_some_and(|before| before.schema().is_same(row.schema()));
    let names = row.schema().names().iter();
    let names = names.map(|name| name.as_str().len() + 2);
    let names: usize = if is_same { 0 } else { names.sum() };
    16 + 9 * row.len() + names
}

/// Is a bucket that a store is taking over. Dropped, nothing of it stays.
#[derive(Debug)]
pub struct Adoption {
    tsdb: Tsdb,
    bucket: u16,
    epoch: u64,
    output: Output,
}

impl Adoption {
    /// Writes rows of a device, which follow those before in order of device and time.
    ///
    /// # Errors
    /// When the disk refuses.
    ///
    /// # Panics
    /// When the rows do not follow.
    pub fn push(&mut self, device: &DeviceId, rows: &[Row]) -> Result<(), Error> {
        let block_rows = self.tsdb.shared.config.block_rows;
        for block in rows.chunks(block_rows) {
            self.output.push(self.bucket, device, block)?;
        }
        Ok(())
    }

    /// Makes the rows and the bucket's replay offsets durable in one step, and shows them to readers.
    /// False if the store has taken up another epoch of the bucket meanwhile: nothing of this stays.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// What became durable is unknown; end the process. A start finds either all of it or nothing.
    ///
    /// # Panics
    /// When an offset is of another bucket.
    pub fn commit(self, offsets: &[ReplayOffset]) -> Result<bool, Error> {
        let Self {
            tsdb,
            bucket,
            epoch,
            output,
        } = self;
        assert!(
            offsets.iter().all(|offset| offset.partition == bucket),
            "the offsets are bucket {bucket}'s"
        );
        let shared = &tsdb.shared;
        let written = output.finish()?;
        let opened = shared.open_all(&written)?;
        let begun = BucketMark {
            standing: Standing::Dropped,
            epoch,
        };
        let is_adopted = shared.with_manifest(|manifest| {
            let mut marks = shared.state().marks.clone();
            if marks.get(bucket) != Some(begun) {
                return Ok(false);
            }
            let standing = Standing::Adopted;
            marks.set(bucket, BucketMark { standing, epoch });
            let change = Change {
                add: &written,
                offsets,
                forget: Some(bucket),
                buckets: &marks.rows(std::iter::once(bucket)),
                ..Change::default()
            };
            manifest.commit(&change)?;
            let mut state = shared.state();
            state.replace(&HashSet::new(), opened.clone());
            state.marks = marks;
            drop(state);
            shared.forget_newest();
            Ok(true)
        })?;
        if !is_adopted {
            opened.iter().for_each(|segment| segment.replaced());
        }
        Ok(is_adopted)
    }
}
