//! Persistent subscribers of stream topics: their shards would log the whole fleet.

use std::cell::RefCell;

use bridge::{PersistentSubscribers, StreamId, Streams};
use session::{MonoMs, PersistentPolicy, PersistentRule};

use super::serve::Io;

/// How long a thread says nothing more about a stream after a warning, in milliseconds.
const WARNING_PAUSE_MS: u64 = 60_000;

/// What `Live` has to follow, one rule a stream, in the order of the streams.
pub(crate) fn rules(streams: &Streams) -> Vec<PersistentRule> {
    let rule = |(rule, filter): (&bridge::StreamRule, &mqtt::Filter)| PersistentRule {
        filter: filter.clone(),
        policy: match rule.persistent_subscribers {
            PersistentSubscribers::Allow => PersistentPolicy::Allow,
            PersistentSubscribers::Qos0 => PersistentPolicy::Qos0,
            PersistentSubscribers::Deny => PersistentPolicy::Deny,
        },
    };
    streams.rules().map(rule).collect()
}

/// The warnings of one io thread. Clients decide how often they subscribe, so each stream is
/// warned of at most once in [`WARNING_PAUSE_MS`].
#[derive(Default)]
pub(super) struct Warnings(RefCell<Vec<Warning>>);

#[derive(Clone, Default)]
struct Warning {
    last: Option<MonoMs>,
    /// Subscriptions since then.
    unsaid: u64,
}

impl Warnings {
    /// Notes one more; `Some` if it is to be said, with how many were not.
    fn note(&self, stream: usize, now: MonoMs) -> Option<u64> {
        let mut all = self.0.borrow_mut();
        if all.len() <= stream {
            all.resize(stream + 1, Warning::default());
        }
        let warning = &mut all[stream];
        if warning
            .last
            .is_some_and(|last| now < last.plus_ms(WARNING_PAUSE_MS))
        {
            warning.unsaid += 1;
            return None;
        }
        warning.last = Some(now);
        Some(std::mem::take(&mut warning.unsaid))
    }
}

impl Io {
    /// Counts, and warns of, a persistent session's filter that met a stream's rule.
    pub(super) fn met_persistent_rule(&self, rule: usize) {
        let stream = u16::try_from(rule).ok().map(StreamId);
        let rule_of_stream = stream.and_then(|stream| self.shared.streams.rule(stream));
        let stream = rule_of_stream.expect("`Live` has one rule for each stream");
        let (counter, outcome) = match stream.persistent_subscribers {
            PersistentSubscribers::Allow => {
                (&self.counters.stream_subscriptions_allowed_total, "allowed")
            }
            PersistentSubscribers::Qos0 => (
                &self.counters.stream_subscriptions_lowered_total,
                "lowered to QoS 0",
            ),
            PersistentSubscribers::Deny => {
                (&self.counters.stream_subscriptions_denied_total, "denied")
            }
        };
        counter.add(1);
        if let Some(unsaid) = self.stream_warnings.note(rule, self.now().mono) {
            tracing::warn!(
                stream = stream.name,
                outcome,
                unsaid,
                "a persistent session subscribes to topics of a stream with QoS > 0"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_warned_of_once_a_minute_and_what_was_not_said_is_counted() {
        let warnings = Warnings::default();
        let note = |stream, ms| warnings.note(stream, MonoMs(ms));

        assert_eq!(note(1, 5), Some(0));
        assert_eq!(note(1, 6), None);
        assert_eq!(note(0, 6), Some(0));
        assert_eq!(note(1, 5 + WARNING_PAUSE_MS - 1), None);
        assert_eq!(note(1, 5 + WARNING_PAUSE_MS), Some(2));
    }
}
