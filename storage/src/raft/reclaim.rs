//! Gives old segments back: drops those that hold nothing live, and copies the little that a
//! lagging group has in the oldest one forward, so that it does not hold the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::Receiver;

use super::group::Group;
use super::index::Stretch;
use super::reader::{ReadError, Reader};
use super::shared::Shared;
use super::{Defects, GroupId, Holder, LogEntry, record};
use crate::journal::{Batch, Journal};
use crate::turns::Turn;

/// A copy needs so many times its bytes of fresh records since the copy before: then copying never
/// feeds itself, and adds at most a quarter to what is written.
const FRESH_BYTES_PER_COPIED: u64 = 4;

/// The thread that gives segments back.
pub(super) struct Reclaimer {
    pub(super) shared: Arc<Shared>,
    pub(super) journal: Arc<Journal>,
    pub(super) reader: Arc<Reader>,
    pub(super) counts: Arc<Counts>,
    /// More live entries of a group in the oldest segment hold it.
    pub(super) copy_entries_max: u64,
    /// More live bytes in the oldest segment hold it.
    pub(super) copy_bytes_max: u64,
    pub(super) defects: Defects,
}

/// The reclaimer where it has no thread.
pub(super) struct ReclaimerTurn {
    pub(super) reclaimer: Reclaimer,
    pub(super) woken: Receiver<()>,
}

impl Turn for ReclaimerTurn {
    fn take(&mut self) -> bool {
        let stopping = self.reclaimer.counts.stopping.load(Ordering::Acquire);
        let is_woken = !stopping && self.woken.try_recv().is_ok();
        if is_woken {
            self.reclaimer.turn();
        }
        is_woken
    }
}

/// What the reclaimer did since opening.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) stopping: AtomicBool,
    pub(super) copied_entries: AtomicU64,
    pub(super) copied_bytes: AtomicU64,
    pub(super) failures: AtomicU64,
}

/// What a group still has in the oldest segment.
struct Remainder {
    id: GroupId,
    entries: Vec<LogEntry>,
    changes: u64,
}

impl Reclaimer {
    pub(super) fn run(&self, woken: &Receiver<()>) {
        while woken.recv().is_ok() && !self.counts.stopping.load(Ordering::Acquire) {
            self.turn();
        }
    }

    fn turn(&self) {
        if let Err(error) = self.reclaim() {
            // The segment stays, so nothing is lost by this; who needs the entries gets the same
            // error from the disk.
            self.counts.failures.fetch_add(1, Ordering::Relaxed);
            tracing::error!(%error, "cannot copy entries out of the oldest segment of the log");
        }
    }

    fn reclaim(&self) -> Result<(), ReadError> {
        let Some((oldest, active)) = self.drop_worthless() else {
            return Ok(());
        };
        if oldest >= active {
            return Ok(());
        }
        let Some(remainders) = self.remainders(oldest)? else {
            return Ok(());
        };
        let bytes: u64 = remainders.iter().map(Remainder::bytes).sum();
        let fresh = self.shared.fresh_bytes.load(Ordering::Relaxed);
        if bytes > self.copy_bytes_max || fresh < bytes * FRESH_BYTES_PER_COPIED {
            return Ok(());
        }
        self.shared.fresh_bytes.store(0, Ordering::Relaxed);
        if self.defects.copies_not_written {
            self.journal.drop_before(oldest + 1);
            return Ok(());
        }
        for remainder in remainders {
            self.copy(remainder);
        }
        Ok(())
    }

    /// Drops the segments before the oldest one that holds something live; that one and the one
    /// being written.
    fn drop_worthless(&self) -> Option<(u64, u64)> {
        let active = *self.shared.segments().last_key_value()?.0;
        let live = self.shared.groups();
        let live = live
            .values()
            .filter_map(|group| Shared::lock(group).index.oldest())
            .map(|(segment, _)| segment);
        let oldest = live.min().unwrap_or(active).min(active);
        self.journal.drop_before(oldest);
        let mut segments = self.shared.segments();
        let held = segments.len();
        *segments = segments.split_off(&oldest);
        if segments.len() < held {
            // An open file would keep the space of a segment that has no name any more.
            self.reader.close_files();
        }
        Some((oldest, active))
    }

    /// What is live in this segment; `None` if a group has too much there, or copies are under way.
    fn remainders(&self, segment: u64) -> Result<Option<Vec<Remainder>>, ReadError> {
        let mut plans: Vec<(GroupId, Vec<Stretch>, u64)> = Vec::new();
        for (id, group) in self.shared.groups().iter() {
            let group = Shared::lock(group);
            let Some((_, entries)) = group.index.oldest().filter(|(at, _)| *at == segment) else {
                continue;
            };
            if entries > self.copy_entries_max || group.copying > 0 {
                return Ok(None);
            }
            plans.push((*id, group.index.in_segment(segment), group.changes));
        }
        let mut remainders = Vec::new();
        for (id, stretches, changes) in plans {
            let mut entries = Vec::new();
            for stretch in stretches {
                entries.extend(self.reader.read(id, stretch)?);
            }
            remainders.push(Remainder {
                id,
                entries,
                changes,
            });
        }
        Ok(Some(remainders))
    }

    fn copy(&self, remainder: Remainder) {
        let group = self.shared.group(remainder.id);
        let mut group = Shared::lock(&group);
        // What was read may be truncated by now: then the next round reads again.
        if group.changes != remainder.changes {
            return;
        }
        let live: Vec<LogEntry> = remainder
            .entries
            .into_iter()
            .filter(|entry| group.head.id_at(entry.id.index) == Some(entry.id))
            .collect();
        if live.is_empty() {
            return;
        }
        let bytes: usize = live.iter().map(LogEntry::log_bytes).sum();
        let mut batch = Batch::with_capacity(live.len(), bytes);
        for run in record::runs(&live) {
            batch.push(remainder.id.0, |out| record::write_copy(out, run));
            group.copying += 1;
        }
        // Beyond the limit: it must not wait for appends that may wait for the space it frees. At
        // most one copy of each group is under way.
        let Ok(room) = self.journal.reserve_beyond_limit(batch.bytes()) else {
            return;
        };
        self.counts
            .copied_entries
            .fetch_add(live.len() as u64, Ordering::Relaxed);
        self.counts
            .copied_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
        // Nobody waits for it. If it fails, the journal has ended and its owner was told.
        self.journal.append(room, batch, Box::new(|_| {}));
    }
}

impl Remainder {
    fn bytes(&self) -> u64 {
        self.entries
            .iter()
            .map(|entry| entry.log_bytes() as u64)
            .sum()
    }
}

/// The groups that hold closed segments, those that hold most first.
pub(super) fn holders(shared: &Shared) -> Vec<Holder> {
    let segments = shared.segments().clone();
    let Some((&active, _)) = segments.last_key_value() else {
        return Vec::new();
    };
    let holder = |id: &GroupId, group: &Group| {
        let (segment, entries) = group.index.oldest().filter(|(at, _)| *at < active)?;
        Some(Holder {
            group: *id,
            segment,
            entries,
            bytes: segments
                .range(segment..active)
                .map(|(_, bytes)| bytes)
                .sum(),
        })
    };
    let mut holders: Vec<Holder> = shared
        .groups()
        .iter()
        .filter_map(|(id, group)| holder(id, &Shared::lock(group)))
        .collect();
    holders.sort_by_key(|holder| (std::cmp::Reverse(holder.bytes), holder.group));
    holders
}
