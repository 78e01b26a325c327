//! What is known of a topic that this node reads: whose it is, and where it ends.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Holds what the sender, the consumer and the contact thread learn of a topic.
#[derive(Debug)]
pub(crate) struct Watch {
    /// 0 until Kafka was reached.
    incarnation: AtomicU64,
    /// Whether the ends were asked for since the start.
    is_compared: AtomicBool,
    ends: Vec<AtomicU64>,
    /// By partition, up to where the reader has been, and where its last record stands.
    passed: Vec<Passed>,
    error: Mutex<Option<String>>,
    /// Offsets that the store has, by partition, until they were told to Kafka.
    release: Mutex<Option<Vec<(u16, u64)>>>,
}

#[derive(Debug, Default)]
struct Passed {
    end: AtomicU64,
    reached: AtomicU64,
}

impl Watch {
    pub(crate) fn new(partitions: u16) -> Self {
        Self {
            incarnation: AtomicU64::new(0),
            is_compared: AtomicBool::new(false),
            ends: (0..partitions).map(|_| AtomicU64::new(0)).collect(),
            passed: (0..partitions).map(|_| Passed::default()).collect(),
            error: Mutex::new(None),
            release: Mutex::new(None),
        }
    }

    /// Is which cluster's topic it is, as a position names it; 0 until Kafka was reached.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Acquire)
    }

    /// Tells that all ends are known.
    pub(crate) fn note_compared(&self) {
        self.is_compared.store(true, Ordering::Release);
    }

    /// Whether the ends are known; before, nobody can say that he has read everything.
    pub(crate) fn is_compared(&self) -> bool {
        self.is_compared.load(Ordering::Acquire)
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

    /// Tells that the reader was given every record below `end`, the last of them below `reached`.
    pub(crate) fn note_passed(&self, partition: u16, end: u64, reached: u64) {
        if let Some(passed) = self.passed.get(usize::from(partition)) {
            passed.reached.store(reached, Ordering::Release);
            passed.end.store(end, Ordering::Release);
        }
    }

    /// Is where a reader is, by partition, that has all records known of. Kafka's own end may be
    /// higher: marks of transactions have offsets too, and so had records that are deleted.
    pub(crate) fn ends(&self) -> Vec<u64> {
        let ends = self.ends.iter().zip(&self.passed);
        ends.map(|(end, passed)| {
            let end = end.load(Ordering::Acquire);
            if end <= passed.end.load(Ordering::Acquire) {
                passed.reached.load(Ordering::Acquire)
            } else {
                end
            }
        })
        .collect()
    }

    /// Tells why Kafka cannot be read now, or that it can; true when it could before, or could not.
    /// Several reasons take turns during one outage.
    pub(crate) fn note_error(&self, error: Option<String>) -> bool {
        let mut known = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = known.is_some() != error.is_some();
        *known = error;
        is_news
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_behind_which_no_record_stands_is_where_the_reader_is() {
        let watch = Watch::new(2);
        watch.note_end(0, 11);
        assert_eq!(watch.ends(), [11, 0], "nobody has looked yet");

        watch.note_passed(0, 11, 10);
        assert_eq!(watch.ends(), [10, 0], "11 is a transaction's mark");

        watch.note_end(0, 12);
        assert_eq!(watch.ends(), [12, 0], "something came");
    }

    #[test]
    fn identities_differ_by_cluster_and_topic_and_leave_the_lower_half_free() {
        let one = incarnation_of("cluster", "topic");
        assert_ne!(one, incarnation_of("cluste", "rtopic"));
        assert_ne!(one, incarnation_of("cluster", "topic2"));
        assert_eq!(one & 0xffff_ffff, 0);
        // Positions on disk hold it: it must never change.
        assert_eq!(one, 0xabaf_c544_0000_0000);
    }

    #[test]
    fn an_outage_is_news_once() {
        let watch = Watch::new(1);
        assert!(watch.note_error(Some("away".to_owned())));
        assert!(!watch.note_error(Some("all brokers are away".to_owned())));
        assert!(watch.note_error(None));
        assert_eq!(watch.error(), None);
    }
}
