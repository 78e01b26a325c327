//! Files of segments on their way to the manifest.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use telemetry::{DeviceId, Row, block};

use super::error::Error;
use super::manifest::SegmentV1;
use super::segment::{Pushed, Writer, file_name};
use super::store::Shared;

/// Writes sorted blocks into one segment, or into further ones when the schemas of one are full.
#[derive(Debug)]
pub(super) struct Output {
    shared: Arc<Shared>,
    level: u32,
    writer: Option<Writer>,
    /// Numbers of all files.
    begun: Vec<u64>,
    finished: Vec<SegmentV1>,
}

impl Output {
    pub(super) fn new(shared: &Arc<Shared>, level: u32) -> Self {
        Self {
            shared: Arc::clone(shared),
            level,
            writer: None,
            begun: Vec::new(),
            finished: Vec::new(),
        }
    }

    /// Appends rows as one block, or as several when one cannot hold them.
    pub(super) fn push(
        &mut self,
        bucket: u16,
        device: &DeviceId,
        mut rows: &[Row],
    ) -> Result<(), Error> {
        while !rows.is_empty() {
            let (block, rest) = rows.split_at(block::rows_that_fit(rows).max(1));
            if self.writer()?.push(bucket, device, block)? == Pushed::Full {
                self.close()?;
                let pushed = self.writer()?.push(bucket, device, block)?;
                assert_eq!(
                    pushed,
                    Pushed::Taken,
                    "an empty segment has room for one schema"
                );
            }
            rows = rest;
        }
        Ok(())
    }

    fn writer(&mut self) -> Result<&mut Writer, Error> {
        if self.writer.is_none() {
            let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
            self.begun.push(id);
            let Shared { fs, folder, .. } = &*self.shared;
            self.writer = Some(Writer::create(&**fs, folder, id, self.level)?);
        }
        Ok(self.writer.as_mut().expect("made above if absent"))
    }

    fn close(&mut self) -> Result<(), Error> {
        if let Some(writer) = self.writer.take() {
            self.finished
                .push(writer.finish(self.shared.defects.commit_before_sync)?);
        }
        Ok(())
    }

    /// Makes the files and their names durable.
    pub(super) fn finish(mut self) -> Result<Vec<SegmentV1>, Error> {
        self.close()?;
        if !self.finished.is_empty() {
            self.shared.fs.sync_dir(&self.shared.folder)?;
        }
        self.begun.clear();
        Ok(std::mem::take(&mut self.finished))
    }
}

impl Drop for Output {
    /// Deletes what was not finished: no manifest names it.
    fn drop(&mut self) {
        self.writer = None;
        for id in self.begun.drain(..) {
            let path = self.shared.folder.join(file_name(id));
            if let Err(error) = self.shared.fs.unlink(&path) {
                tracing::warn!(%error, "an unfinished segment stays until the next start");
            }
        }
    }
}
