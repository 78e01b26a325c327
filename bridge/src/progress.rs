//! How far the writer has come, for those who wait for it.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// Holds by partition the offset behind the last record whose rows a query sees.
#[derive(Debug)]
pub(crate) struct Progress {
    positions: Vec<AtomicU64>,
    moved: watch::Sender<()>,
}

impl Progress {
    pub(crate) fn new(partitions: u16) -> Self {
        let positions = (0..partitions).map(|_| AtomicU64::new(0)).collect();
        Self {
            positions,
            moved: watch::Sender::new(()),
        }
    }

    pub(crate) fn set(&self, positions: &[u64]) {
        for (place, position) in self.positions.iter().zip(positions) {
            place.store(*position, Ordering::Release);
        }
        self.moved.send_replace(());
    }

    pub(crate) fn position(&self, partition: u16) -> u64 {
        self.positions
            .get(usize::from(partition))
            .map_or(0, |position| position.load(Ordering::Acquire))
    }

    /// Waits until the partition's position is `offset` or beyond. Cancel-safe.
    pub(crate) async fn reach(&self, partition: u16, offset: u64) {
        let mut moved = self.moved.subscribe();
        while self.position(partition) < offset {
            // The sender lives as long as `self`.
            if moved.changed().await.is_err() {
                return;
            }
        }
    }
}
