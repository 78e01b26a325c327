//! What is known of a topic that this node reads: whose it is, and where it ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Holds what the sender, the consumer and the contact thread learn of a topic.
#[derive(Debug)]
pub(crate) struct Watch {
    /// 0 until Kafka was reached.
    incarnation: AtomicU64,
    ends: Vec<AtomicU64>,
    error: Mutex<Option<String>>,
    /// Offsets that the store has, by partition, until they were told to Kafka.
    release: Mutex<Option<Vec<(u16, u64)>>>,
}

impl Watch {
    pub(crate) fn new(partitions: u16) -> Self {
        Self {
            incarnation: AtomicU64::new(0),
            ends: (0..partitions).map(|_| AtomicU64::new(0)).collect(),
            error: Mutex::new(None),
            release: Mutex::new(None),
        }
    }

    /// Is which cluster's topic it is, as a position names it; 0 until Kafka was reached.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Acquire)
    }

    /// Tells which cluster's topic it is.
    pub(crate) fn note_incarnation(&self, incarnation: u64) {
        self.incarnation.store(incarnation, Ordering::Release);
    }

    /// Tells that a partition reaches at least to `end`.
    pub(crate) fn note_end(&self, partition: u16, end: u64) {
        if let Some(known) = self.ends.get(usize::from(partition)) {
            known.fetch_max(end, Ordering::AcqRel);
        }
    }

    /// Is the highest known end by partition.
    pub(crate) fn ends(&self) -> Vec<u64> {
        let ends = self.ends.iter();
        ends.map(|end| end.load(Ordering::Acquire)).collect()
    }

    /// Tells why Kafka cannot be read now, or that it can.
    pub(crate) fn note_error(&self, error: Option<String>) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// Tells by partition how far the store is.
    pub(crate) fn note_release(&self, offsets: &[(u16, u64)]) {
        let mut release = self.release.lock().unwrap_or_else(PoisonError::into_inner);
        *release = Some(offsets.to_vec());
    }

    /// Takes what was told last, once.
    pub(crate) fn take_release(&self) -> Option<Vec<(u16, u64)>> {
        let mut release = self.release.lock().unwrap_or_else(PoisonError::into_inner);
        release.take()
    }

    /// Is why Kafka cannot be read now.
    pub(crate) fn error(&self) -> Option<String> {
        let error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        error.clone()
    }
}

/// Says which cluster's topic positions are of: a hash of both names (FNV-1a, 64 bits, folded) in
/// the upper half, where others look for a log's identity; never 0.
pub(crate) fn incarnation_of(cluster_id: &str, topic: &str) -> u64 {
    let bytes = cluster_id.bytes().chain([0]).chain(topic.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let folded = (hash ^ (hash >> 32)) & 0xffff_ffff;
    folded.max(1) << 32
}
