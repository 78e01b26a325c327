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
use super::query::SealedRows;
use super::segment::{BlockEntry, Entries, Segment};
use super::store::{Output, Tsdb};

impl Tsdb {
    /// Merges the oldest `merge_fan_in` segments of the lowest level that has as many; false when
    /// none has. For one thread; inserting, sealing and reading go on meanwhile. `stop` ends it
    /// early without a change; it is then false too.
    ///
    /// # Errors
    /// What became durable is unknown; end the process. A start finds either all of it or nothing.
    pub fn merge(&self, stop: &AtomicBool) -> Result<bool, Error> {
        let Some(inputs) = self.merge_inputs() else {
            return Ok(false);
        };
        let level = inputs[0].about.level + 1;
        let Some(merged) = self.write_merged(&inputs, level, stop)? else {
            return Ok(false);
        };
        let removed: Vec<u64> = inputs.iter().map(|segment| segment.about.id).collect();
        let opened = self.shared.open_all(&merged)?;
        let change = Change {
            add: &merged,
            remove: &removed,
            offsets: &[],
        };
        self.shared
            .with_manifest(|manifest| manifest.commit(&change))?;
        self.shared
            .state()
            .replace(&removed.into_iter().collect::<HashSet<_>>(), opened);
        // Only now: a file that the manifest still names must outlive its last reader.
        inputs.iter().for_each(|segment| segment.replaced());
        self.shared.merges.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    fn merge_inputs(&self) -> Option<Vec<Arc<Segment>>> {
        let live = Arc::clone(&self.shared.state().live);
        let mut levels: BTreeMap<u32, Vec<Arc<Segment>>> = BTreeMap::new();
        for segment in live.iter() {
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
        Some(ready)
    }

    /// Writes the united rows; `None` when it was stopped. What was written then is not named by
    /// the manifest and goes with the next start.
    fn write_merged(
        &self,
        inputs: &[Arc<Segment>],
        level: u32,
        stop: &AtomicBool,
    ) -> Result<Option<Vec<SegmentV1>>, Error> {
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
                let blocks = take_key(source, bucket, &device)?;
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

type Source = Peekable<Entries>;

fn lowest_key(sources: &mut [Source]) -> Result<Option<(u16, DeviceId)>, Error> {
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
fn take_key(source: &mut Source, bucket: u16, device: &DeviceId) -> Result<Vec<BlockEntry>, Error> {
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
