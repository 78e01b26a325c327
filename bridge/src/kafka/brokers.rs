//! Whether a client knows any broker.
//!
//! One that is told of topics but of no broker, by a Kafka whose controller takes its brokers for lost, forgets
//! all of them, and may not ask its bootstrap servers again: librdkafka stops that together with a timer
//! (confluentinc/librdkafka#5301, seen with 2.12.1). It says nothing any more then; only another client helps.

use std::sync::atomic::{AtomicU32, Ordering};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::TopicPartitionList;

use super::producer::client_log;

/// How often a client counts, in milliseconds.
pub(super) const COUNT_INTERVAL_MS: &str = "1000";
/// Counts without a broker, one after the other, until a client is given up: between one and the next it finds the
/// bootstrap servers again, if it ever does.
const WITHOUT_MAX: u32 = 2;

/// Is what a client's counts say about the brokers that it knows.
#[derive(Debug, Default)]
pub(super) struct Brokers {
    without: AtomicU32,
}

impl Brokers {
    pub(super) fn note(&self, counted: &Statistics) {
        // A coordinator has an entry also where nobody plays it.
        let is_server = |source: &str| source == "configured" || source == "learned";
        let knows = counted.brokers.values().any(|one| is_server(&one.source));
        match knows {
            true => self.without.store(0, Ordering::Release),
            false => {
                self.without.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    /// Whether the client is to be given up.
    pub(super) fn are_forgotten(&self) -> bool {
        self.without.load(Ordering::Acquire) >= WITHOUT_MAX
    }
}

/// Is a client's context that tells errors to the log only.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) brokers: Brokers,
}

impl ClientContext for Counted {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client_log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka");
    }

    fn stats(&self, counted: Statistics) {
        self.brokers.note(&counted);
    }
}

impl ConsumerContext for Counted {
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(%error, "offsets were not committed");
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use rdkafka::statistics::Broker;

    use super::*;

    pub(in crate::kafka) fn counted(sources: &[&str]) -> Statistics {
        let broker = |source: &&str| {
            let source = (*source).to_owned();
            let one = Broker {
                source: source.clone(),
                ..Broker::default()
            };
            (source, one)
        };
        Statistics {
            brokers: sources.iter().map(broker).collect(),
            ..Statistics::default()
        }
    }

    #[test]
    fn brokers_are_forgotten_when_two_counts_in_a_row_have_none() {
        let brokers = Brokers::default();
        assert!(!brokers.are_forgotten());
        brokers.note(&counted(&["logical"]));
        assert!(!brokers.are_forgotten());
        brokers.note(&counted(&["logical", "configured"]));
        brokers.note(&counted(&[]));
        assert!(!brokers.are_forgotten(), "not in a row");
        brokers.note(&counted(&["logical"]));
        assert!(brokers.are_forgotten());
        brokers.note(&counted(&["learned"]));
        assert!(!brokers.are_forgotten());
    }
}
