//! Kafka's client as the sender uses it: records out, reports in.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message as _, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer,
};
use rdkafka::statistics::Statistics;

use super::brokers::{Brokers, COUNT_INTERVAL_MS};
use super::delivery::{Failure, SlotId};
use super::settings::Settings;

/// Bytes that a record may have beyond its payload: key, headers and framing.
pub(crate) const RECORD_OVERHEAD_BYTES: u32 = 16 << 10;

/// Is what Kafka's client said about a record.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) slot: SlotId,
    /// The offset it has in its partition, or why it has none.
    pub(crate) result: Result<u64, Failure>,
}

/// Collects reports until the sender takes them.
pub(crate) struct Reports {
    list: Mutex<Vec<Report>>,
    is_fatal: AtomicBool,
    brokers: Brokers,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Reports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reports").finish_non_exhaustive()
    }
}

impl Reports {
    fn push(&self, report: Report) {
        let was_empty = {
            let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
            list.push(report);
            list.len() == 1
        };
        if was_empty {
            (self.wake)();
        }
    }

    fn note(&self, error: &KafkaError) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.is_fatal.store(true, Ordering::Release);
            (self.wake)();
        }
    }

    fn count(&self, counted: &Statistics) {
        self.brokers.note(counted);
        if self.brokers.are_forgotten() {
            (self.wake)();
        }
    }
}

/// Says why Kafka's client did not take a record.
#[derive(Debug)]
pub(crate) enum SendError {
    /// It has no memory for it now.
    Full,
    /// It will not take this record.
    Failed(Failure),
}

struct Context(Arc<Reports>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client_log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka");
        self.0.note(&error);
    }

    fn stats(&self, counted: Statistics) {
        self.0.count(&counted);
    }
}

/// Passes a line of librdkafka's log on. A broker that is away makes it repeat itself, so nothing
/// of it is above DEBUG: what matters an operator reads from the bridge's own lines.
pub(crate) fn client_log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    tracing::debug!(?level, facility, message, "librdkafka");
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, slot: usize) {
        let result = match result {
            Ok(message) => confirmation_of(message.offset()),
            Err((error, _)) => {
                self.0.note(error);
                Err(failure_of(error))
            }
        };
        self.0.push(Report {
            slot: slot as SlotId,
            result,
        });
    }
}

/// Takes a report for a confirmation only if it says where in the partition the record is.
///
/// Kafka takes the first batch of a producer that it does not know in a partition at any sequence
/// number. If the very first request there failed in a way that passes while the second, already
/// on its way, was taken, the client concludes that the first must be there too (its implicit
/// acknowledgement, `rd_kafka_dr_implicit_ack`) and reports it as delivered, without an offset. It
/// is not there: `docs/adr/005`. The same holds for a duplicate sequence number. Sent again, such a
/// record is at worst in Kafka twice.
fn confirmation_of(offset: i64) -> Result<u64, Failure> {
    u64::try_from(offset).map_err(|_| Failure::Passing)
}

fn failure_of(error: &KafkaError) -> Failure {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(
            Code::MessageSizeTooLarge
            | Code::InvalidMessage
            | Code::InvalidRecord
            | Code::InvalidTimestamp
            | Code::InvalidMessageSize
            | Code::BadMessage,
        ) => Failure::Suspect(error.to_string()),
        Some(
            Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
            | Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::InvalidTopic,
        ) => Failure::Topic,
        _ => Failure::Passing,
    }
}

/// Is one life of Kafka's producer.
pub(crate) struct Producer {
    client: ThreadedProducer<Context>,
    reports: Arc<Reports>,
}

impl Producer {
    /// Makes a producer; it connects by itself, in the background. `wake` is called from its
    /// thread when the first report of a group came and when the producer has failed for good.
    ///
    /// # Errors
    /// When the settings make no client.
    pub(crate) fn new(
        settings: &Settings,
        message_bytes_max: u32,
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> Result<Self, KafkaError> {
        let reports = Arc::new(Reports {
            list: Mutex::new(Vec::new()),
            is_fatal: AtomicBool::new(false),
            brokers: Brokers::default(),
            wake,
        });
        // Our own limit comes first; this one is for what it does not count.
        let queue_kbytes = (settings.producer_bytes_limit * 2 / 1024).min(2_097_151);
        let mut config = settings.client();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.codec", "lz4")
            .set("linger.ms", "5")
            // Nothing is dropped by time: the spool takes over, and the report comes at last.
            .set("message.timeout.ms", "0")
            .set("message.max.bytes", message_bytes_max.to_string())
            .set("queue.buffering.max.kbytes", queue_kbytes.to_string())
            .set("queue.buffering.max.messages", "0")
            // Sockets of a broker that was cut off without a word: noticed by the request's age.
            .set("request.timeout.ms", "10000")
            // A new leader must be found soon; the default backs off up to a second.
            .set("retry.backoff.max.ms", "250")
            .set("allow.auto.create.topics", "false")
            .set("statistics.interval.ms", COUNT_INTERVAL_MS);
        for (name, value) in &settings.properties {
            config.set(name, value);
        }
        let client = config.create_with_context(Context(Arc::clone(&reports)))?;
        Ok(Self { client, reports })
    }

    /// Gives a record to the client, which copies it.
    ///
    /// # Errors
    /// When it was not taken; nothing will be reported of it.
    pub(crate) fn send(
        &self,
        topic: &str,
        slot: SlotId,
        outgoing: Outgoing<'_>,
    ) -> Result<(), SendError> {
        let record = BaseRecord::with_opaque_to(topic, slot as usize)
            .partition(i32::from(outgoing.partition))
            .key(outgoing.key)
            .payload(outgoing.payload)
            .timestamp(outgoing.timestamp_ms)
            .headers(outgoing.headers);
        let Err((error, _)) = self.client.send(record) else {
            return Ok(());
        };
        self.reports.note(&error);
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => Err(SendError::Full),
            _ => Err(SendError::Failed(match failure_of(&error) {
                // The client looks at one record.
                Failure::Suspect(reason) => Failure::Poison(reason),
                other => other,
            })),
        }
    }

    /// Takes the reports that came.
    pub(crate) fn take_reports(&self) -> Vec<Report> {
        let mut list = self
            .reports
            .list
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *list)
    }

    /// Says why this producer can never send again, if that is so.
    pub(crate) fn fatal(&self) -> Option<String> {
        if self.reports.brokers.are_forgotten() {
            return Some("it has forgotten all brokers".to_owned());
        }
        if !self.reports.is_fatal.load(Ordering::Acquire) {
            return None;
        }
        let error = self.client.client().fatal_error();
        Some(error.map_or_else(
            || "fatal error".to_owned(),
            |(code, reason)| format!("{code}: {reason}"),
        ))
    }

    /// Forgets what it holds; its reports are nobody's any more.
    pub(crate) fn discard(self) {
        self.client.purge(PurgeConfig::default().queue().inflight());
    }
}

/// Is a record as Kafka gets it.
pub(crate) struct Outgoing<'a> {
    pub(crate) partition: u16,
    pub(crate) key: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) timestamp_ms: i64,
    pub(crate) headers: OwnedHeaders,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::brokers::tests::counted;

    #[test]
    fn a_producer_that_has_forgotten_all_brokers_has_failed_for_good() {
        let settings = Settings {
            bootstrap: Some("127.0.0.1:1".to_owned()),
            ..Settings::default()
        };
        let (wake, awake) = std::sync::mpsc::sync_channel(8);
        let wake = Box::new(move || wake.try_send(()).expect("it is read"));
        let producer = Producer::new(&settings, 1_000_000, wake).expect("the settings are good");
        assert_eq!(producer.fatal(), None);

        for _ in 0..2 {
            producer.reports.count(&counted(&[]));
        }

        let reason = producer.fatal().expect("it can send nothing");
        assert!(reason.contains("brokers"), "{reason}");
        awake.try_recv().expect("the sender looks");
    }

    #[test]
    fn a_report_without_an_offset_confirms_nothing() {
        assert_eq!(confirmation_of(0), Ok(0));
        assert_eq!(confirmation_of(-1001), Err(Failure::Passing));
    }
}
