//! The thread that removes old segments: deleting a large file stalls writes for milliseconds, so
//! the writer does not do it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::Receiver;

use super::{Shared, segment};
use crate::fs::{self, Fs};

/// Removes segments from the oldest on.
pub(super) struct Remover {
    pub(super) fs: Arc<dyn Fs>,
    pub(super) folder: PathBuf,
    /// The oldest segment on disk.
    pub(super) first: u64,
    pub(super) shared: Arc<Shared>,
}

impl Remover {
    pub(super) fn run(mut self, asked: &Receiver<()>) {
        while asked.recv().is_ok() && !self.shared.stopping.load(Ordering::Acquire) {
            if !self.turn() {
                return;
            }
        }
    }

    /// Removes what was asked for; false: never again.
    pub(super) fn turn(&mut self) -> bool {
        let removed = self.remove();
        if let Err(error) = &removed {
            // A segment that came back behind a gap would make the journal unreadable, so after an
            // error the rest stays until the next start.
            tracing::warn!(%error, "cannot remove old segments");
        }
        removed.is_ok()
    }

    fn remove(&mut self) -> Result<(), fs::Error> {
        loop {
            let asked = self.shared.drop_before.load(Ordering::Acquire);
            let target = asked.min(self.shared.active.load(Ordering::Acquire));
            if self.first >= target || self.shared.stopping.load(Ordering::Acquire) {
                return Ok(());
            }
            self.fs.unlink(&segment::path(&self.folder, self.first))?;
            // One by one: a crash must not leave a gap.
            self.fs.sync_dir(&self.folder)?;
            self.first += 1;
        }
    }
}
