//! How far the writer has come, for those who wait for it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::log::LogId;

/// Holds by log and partition the offset behind the last record whose rows a query sees.
#[derive(Debug)]
pub(crate) struct Progress {
    positions: Mutex<BTreeMap<LogId, Vec<u64>>>,
    moved: watch::Sender<()>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            positions: Mutex::default(),
            moved: watch::Sender::new(()),
        }
    }

    fn positions(&self) -> MutexGuard<'_, BTreeMap<LogId, Vec<u64>>> {
        self.positions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer is there in a log, by partition.
    pub(crate) fn set(&self, log: LogId, positions: &[u64]) {
        let mut known = self.positions();
        let places = known.entry(log).or_default();
        places.clear();
        places.extend_from_slice(positions);
        drop(known);
        self.moved.send_replace(());
    }

    pub(crate) fn position(&self, log: LogId, partition: u16) -> u64 {
        let known = self.positions();
        let places = known.get(&log);
        places.map_or(0, |places| {
            places.get(usize::from(partition)).copied().unwrap_or(0)
        })
    }

    /// Waits until the partition's position in the log is `offset` or beyond. Cancel-safe.
    pub(crate) async fn reach(&self, log: LogId, partition: u16, offset: u64) {
        let mut moved = self.moved.subscribe();
        while self.position(log, partition) < offset {
            // The sender lives as long as `self`.
            if moved.changed().await.is_err() {
                return;
            }
        }
    }
}
