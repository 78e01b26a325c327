//! What the telemetry line counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Says why a message, or a part of it, went to the dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeadLetterReason {
    /// The payload is not what its content type says.
    Unparsable,
    /// The content type is one that this node does not read.
    ContentType,
    /// No event time, or one outside -30 d to +60 s of the receive time.
    Time,
    /// The device id is none.
    DeviceId,
    /// Some metrics cannot be stored; the others were.
    RejectedMetric,
    /// The row would have more metrics than a row may have; the new ones were not stored.
    RowFull,
    /// A sealed point has another value, which stays.
    Conflict,
    /// Kafka will never take the record, such as one that is too large for its topic.
    Refused,
}

impl DeadLetterReason {
    pub(crate) const ALL: [Self; 8] = [
        Self::Unparsable,
        Self::ContentType,
        Self::Time,
        Self::DeviceId,
        Self::RejectedMetric,
        Self::RowFull,
        Self::Conflict,
        Self::Refused,
    ];

    /// The name in counters.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Unparsable => "unparsable",
            Self::ContentType => "content_type",
            Self::Time => "time",
            Self::DeviceId => "device_id",
            Self::RejectedMetric => "rejected_metric",
            Self::RowFull => "row_full",
            Self::Conflict => "conflict",
            Self::Refused => "refused",
        }
    }

    /// The number in stored dead letters; never reused.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Unparsable => 1,
            Self::ContentType => 2,
            Self::Time => 3,
            Self::DeviceId => 4,
            Self::RejectedMetric => 5,
            Self::RowFull => 6,
            Self::Conflict => 7,
            Self::Refused => 8,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.number() == number)
    }
}

/// Counts since the start of the process.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) processed_messages: AtomicU64,
    pub(crate) stored_rows: AtomicU64,
    pub(crate) stored_points: AtomicU64,
    pub(crate) duplicate_points: AtomicU64,
    pub(crate) late_rows: AtomicU64,
    pub(crate) replaced_points: AtomicU64,
    pub(crate) writer_restarts: AtomicU64,
    /// Buckets with rows that were copied from other nodes.
    pub(crate) bucket_moves: AtomicU64,
    /// Bytes of parts that came for that.
    pub(crate) copied_bytes: AtomicU64,
    dead_letters: [AtomicU64; DeadLetterReason::ALL.len()],
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, count: impl Into<u64>) {
        counter.fetch_add(count.into(), Ordering::Relaxed);
    }

    pub(crate) fn dead_letter(&self, reason: DeadLetterReason) {
        let at = usize::from(reason.number()) - 1;
        Self::add(&self.dead_letters[at], 1_u64);
    }

    pub(crate) fn dead_letters(&self) -> BTreeMap<String, u64> {
        DeadLetterReason::ALL
            .into_iter()
            .zip(&self.dead_letters)
            .map(|(reason, count)| (reason.label().to_owned(), count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter_and_number() {
        let counters = Counters::default();
        for reason in DeadLetterReason::ALL {
            counters.dead_letter(reason);
            assert_eq!(DeadLetterReason::from_number(reason.number()), Some(reason));
        }

        let counts = counters.dead_letters();

        assert_eq!(counts.len(), DeadLetterReason::ALL.len());
        assert!(counts.values().all(|count| *count == 1));
    }
}
