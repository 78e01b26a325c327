//! Merging: the oldest segments of a level become one of the next, with fuller blocks.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::iter::Peekable;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use telemetry::query::merge_rows;
use telemetry::{DeviceId, Row};

use super::error::Error;
use super::manifest::{Change, SegmentV1};
use super::marks::Sealed;
use super::output::Output;
use super::query::SealedRows;
use super::segment::{BlockEntry, Entries, Segment};
use super::store::Tsdb;

impl Tsdb {
    /// Merges the oldest `merge_fan_in` segments of the lowest level that has as many; false when
    /// none has. For one thread; inserting, sealing and reading go on meanwhile. `stop` ends it
    /// early without a change; it is then false too.
    ///
    /// # Errors
    /// What became durable is unknown; end the process. A start finds either all of it or nothing.
    pub fn merge(&self, stop: &AtomicBool) -> Result<bool, Error> {
        let Some(merging) = self.begin_merge() else {
            return Ok(false);
        };
        let Some(merged) = self.write_merged(&merging, stop)? else {
            return Ok(false);
        };
        if self.end_merge(&merging, &merged)? {
            self.shared.merges.fetch_add(1, Ordering::Relaxed);
        } else {
            tracing::debug!("a merge begins again: a bucket has gone meanwhile");
        }
        Ok(true)
    }

    /// Puts what was written in the place of what it was made of. Not if rows have died meanwhile
    /// that it may hold: the files go then, and it is false.
    pub(super) fn end_merge(&self, merging: &Merging, merged: &[SegmentV1]) -> Result<bool, Error> {
        let inputs = &merging.inputs;
        let removed: Vec<u64> = inputs.iter().map(|segment| segment.about.id).collect();
        let opened = self.shared.open_all(merged)?;
        let is_ended = self.shared.with_manifest(|manifest| {
            let (mut marks, live) = {
                let state = self.shared.state();
                (state.marks.clone(), Arc::clone(&state.live))
            };
            if !merging.sealed.has_dead_of(&marks) {
                return Ok(false);
            }
            let kept = live.iter().map(|segment| segment.about.id);
            let gone = marks.bury(kept.filter(|id| !removed.contains(id)));
            let change = Change {
                add: merged,
                remove: &removed,
                buckets: &marks.rows(gone.into_iter()),
                ..Change::default()
            };
            manifest.commit(&change)?;
            let mut state = self.shared.state();
            state.replace(
                &removed.iter().copied().collect::<HashSet<_>>(),
                opened.clone(),
            );
            state.marks = marks;
            Ok(true)
        })?;
        // Only now: a file that the manifest still names must outlive its last reader.
        let gone = if is_ended { inputs } else { &opened };
        gone.iter().for_each(|segment| segment.replaced());
        Ok(is_ended)
    }

    pub(super) fn begin_merge(&self) -> Option<Merging> {
        let sealed = self.shared.sealed();
        let mut levels: BTreeMap<u32, Vec<Arc<Segment>>> = BTreeMap::new();
        for segment in sealed.all() {
            levels
                .entry(segment.about.level)
                .or_default()
                .push(Arc::clone(segment));
        }
        let fan_in = self.shared.config.merge_fan_in;
        let mut ready = levels
            .into_values()
            .find(|segments| segments.len() >= fan_in)?;
        ready.truncate(fan_in);
        Some(Merging {
            inputs: ready,
            sealed,
        })
    }

    /// Writes the united rows that live; `None` when it was stopped, and what was written is gone.
    pub(super) fn write_merged(
        &self,
        Merging { inputs, sealed }: &Merging,
        stop: &AtomicBool,
    ) -> Result<Option<Vec<SegmentV1>>, Error> {
        let level = inputs[0].about.level + 1;
        let mut output = Output::new(&self.shared, level);
        let mut sources: Vec<Peekable<Entries>> = inputs
            .iter()
            .map(|segment| segment.entries().peekable())
            .collect();
        let failure = RefCell::new(None);
        while let Some((bucket, device)) = lowest_key(&mut sources)? {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let mut rows = Vec::with_capacity(inputs.len());
            for (segment, source) in inputs.iter().zip(&mut sources) {
                let mut blocks = take_key(source, bucket, &device)?;
                if sealed.is_dead(bucket, segment) {
                    blocks.clear();
                }
                rows.push(SealedRows::new(segment, blocks, &failure));
            }
            let mut merged = merge_rows(rows);
            loop {
                let block: Vec<Row> = merged
                    .by_ref()
                    .take(self.shared.config.block_rows)
                    .collect();
                if let Some(error) = failure.take() {
                    return Err(error);
                }
                if block.is_empty() {
                    break;
                }
                output.push(bucket, &device, &block)?;
            }
            // Two different values of one point in two segments: insertion never lets them in.
            assert_eq!(
                merged.conflicts(),
                0,
                "segments agree about device {device}"
            );
        }
        output.finish().map(Some)
    }
}

/// A merge under way.
#[derive(Debug)]
pub(super) struct Merging {
    inputs: Vec<Arc<Segment>>,
    /// The store as it was when the merge began.
    sealed: Sealed,
}

/// The lowest key at which sources stand; none at their ends.
pub(super) fn lowest_key<I: Iterator<Item = Result<BlockEntry, Error>>>(
    sources: &mut [Peekable<I>],
) -> Result<Option<(u16, DeviceId)>, Error> {
    let mut lowest: Option<(u16, DeviceId)> = None;
    for source in sources {
        match source.peek() {
            None => {}
            Some(Ok(entry)) => {
                let key = (entry.bucket, &entry.device);
                if lowest
                    .as_ref()
                    .is_none_or(|(bucket, device)| key < (*bucket, device))
                {
                    lowest = Some((entry.bucket, entry.device.clone()));
                }
            }
            Some(Err(_)) => {
                let error = source.next().expect("peeked above");
                return Err(error.expect_err("peeked above"));
            }
        }
    }
    Ok(lowest)
}

/// Takes the blocks of one key out of a source that stands at it or behind it.
pub(super) fn take_key<I: Iterator<Item = Result<BlockEntry, Error>>>(
    source: &mut Peekable<I>,
    bucket: u16,
    device: &DeviceId,
) -> Result<Vec<BlockEntry>, Error> {
    let mut blocks = Vec::new();
    let is_key = |entry: &Result<BlockEntry, Error>| match entry {
        Ok(entry) => entry.bucket == bucket && entry.device == *device,
        Err(_) => true,
    };
    while let Some(entry) = source.next_if(is_key) {
        blocks.push(entry?);
    }
    Ok(blocks)
}
