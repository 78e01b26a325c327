//! Counting who was refused, and saying so now and then.

use std::sync::atomic::{AtomicU64, Ordering};

use mqtt::ReasonCode;
use session::MonoMs;

use crate::counters::{metric, metric_by};

/// How long nothing more is logged after a line, in milliseconds: strangers decide how often they
/// are refused.
const LINE_PAUSE_MS: u64 = 10_000;

/// Why a client that connects is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Its source is over the rate of a source.
    SourceRate,
    /// The node is over its rate.
    NodeRate,
    /// Too many wait for an answer already.
    Handshakes,
    /// It had not sent its CONNECT when somebody else wanted to.
    Silent,
    /// The log of its session's shard had no room in time.
    OpenWait,
}

impl Refusal {
    /// In the order of the variants.
    const ALL: [Self; 5] = [
        Self::SourceRate,
        Self::NodeRate,
        Self::Handshakes,
        Self::Silent,
        Self::OpenWait,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::SourceRate => "source_rate",
            Self::NodeRate => "node_rate",
            Self::Handshakes => "handshakes",
            Self::Silent => "silent",
            Self::OpenWait => "open_wait",
        }
    }

    /// What a client of MQTT 5 is told; one of 3.1.1 gets return code 3.
    pub(crate) fn reason(self) -> ReasonCode {
        match self {
            Self::SourceRate | Self::NodeRate => ReasonCode::ConnectionRateExceeded,
            Self::Handshakes | Self::Silent | Self::OpenWait => ReasonCode::QuotaExceeded,
        }
    }
}

/// Refusals of a node since it began, by reason. Written by the listener and by the io threads.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    by_reason: [AtomicU64; Refusal::ALL.len()],
    told: AtomicU64,
    /// All of them when the last line was logged.
    logged: AtomicU64,
    /// No line is logged before.
    line_at_ms: AtomicU64,
}

impl Refusals {
    /// Counts one, and logs a line if there was none lately.
    pub(crate) fn count(&self, refusal: Refusal, now: MonoMs) {
        self.by_reason[refusal as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(refused) = self.line(now) {
            tracing::warn!(
                refused,
                last = refusal.label(),
                "clients that connect are refused; tidewire_broker_connects_refused_total counts why"
            );
        }
    }

    /// Counts one that was told why.
    pub(crate) fn count_told(&self) {
        self.told.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were since the last line, if it is time for another one.
    fn line(&self, now: MonoMs) -> Option<u64> {
        let due = self.line_at_ms.load(Ordering::Relaxed);
        let next = now.plus_ms(LINE_PAUSE_MS).0;
        if now.0 < due {
            return None;
        }
        let relaxed = Ordering::Relaxed;
        let is_ours = self
            .line_at_ms
            .compare_exchange(due, next, relaxed, relaxed);
        is_ours.ok()?;
        let all: u64 = self.by_reason.iter().map(|count| count.load(relaxed)).sum();
        Some(all.saturating_sub(self.logged.swap(all, relaxed)))
    }

    /// Writes them in the Prometheus text format.
    pub(crate) fn write(&self, out: &mut String) {
        let count = |refusal: &Refusal| {
            let count = self.by_reason[*refusal as usize].load(Ordering::Relaxed);
            (format!("reason=\"{}\"", refusal.label()), count)
        };
        let samples: Vec<_> = Refusal::ALL.iter().map(count).collect();
        let name = "tidewire_broker_connects_refused_total";
        let help = "Sockets and clients that were refused before they were connected.";
        metric_by(out, name, help, "counter", &samples);
        let name = "tidewire_broker_connects_refused_told_total";
        let help = "Of them, clients whose CONNECT was answered with the reason.";
        let told = self.told.load(Ordering::Relaxed);
        metric(out, name, help, "counter", told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_counted_apart() {
        let refusals = Refusals::default();
        for (at, refusal) in Refusal::ALL.into_iter().enumerate() {
            (0..=at).for_each(|_| refusals.count(refusal, MonoMs(0)));
        }
        let mut text = String::new();
        refusals.write(&mut text);
        for sample in ["{reason=\"source_rate\"} 1\n", "{reason=\"open_wait\"} 5\n"] {
            assert!(text.contains(sample), "{text}");
        }
    }

    #[test]
    fn a_line_is_logged_every_ten_seconds_at_most_and_counts_what_came_between() {
        let refusals = Refusals::default();
        let refuse = |at| {
            refusals.by_reason[0].fetch_add(1, Ordering::Relaxed);
            refusals.line(MonoMs(at))
        };
        assert_eq!(refuse(5), Some(1));
        assert_eq!([refuse(6), refuse(5 + LINE_PAUSE_MS - 1)], [None; 2]);
        assert_eq!(refuse(5 + LINE_PAUSE_MS), Some(3));
    }
}
