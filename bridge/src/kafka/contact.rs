//! The first words with Kafka about a topic: does it exist, has it our partitions, may we use it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::producer::client_log;
use super::settings::Settings;

/// Is a topic as Kafka has it: what we need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contacted {
    pub(crate) cluster_id: String,
}

/// Says why a topic cannot be used, now or at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ContactError {
    /// Kafka was not reached; it may be at any time.
    #[error("Kafka is not reached: {0}")]
    Away(String),
    /// The topic has another number of partitions than the node has buckets.
    #[error(
        "topic {topic} has {has} partitions, this node has {wants} buckets (telemetry.buckets); \
         name another topic, or create it with {wants} partitions"
    )]
    Partitions {
        topic: String,
        has: usize,
        wants: u16,
    },
    /// Kafka does not let us see or write the topic.
    #[error("topic {topic}: not authorised: {reason}")]
    Unauthorised { topic: String, reason: String },
    /// The topic is not there and Kafka does not create it for us.
    #[error("topic {topic} does not exist and cannot be created: {reason}")]
    NotCreated { topic: String, reason: String },
}

impl ContactError {
    /// Whether somebody has to act; else it may pass by itself.
    pub(crate) fn is_refusal(&self) -> bool {
        !matches!(self, Self::Away(_))
    }
}

/// Tells errors of a client that nobody waits for to the log only.
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client_log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka");
    }
}

impl ConsumerContext for Quiet {}

/// Asks Kafka about a topic and creates it where it is missing, with exactly `partitions`.
/// Blocks up to about three times `timeout`.
///
/// # Errors
/// [`ContactError`]; the topic may have been created all the same when the answer was lost.
pub(crate) fn check_topic(
    settings: &Settings,
    topic: &str,
    partitions: u16,
    message_bytes_max: u32,
    timeout: Duration,
) -> Result<Contacted, ContactError> {
    // A consumer, because a producer's question about a topic may create it.
    let client: BaseConsumer<Quiet> = settings
        .client()
        .set("allow.auto.create.topics", "false")
        .create_with_context(Quiet)
        .map_err(|error| ContactError::Away(error.to_string()))?;
    let cluster_id = || {
        client
            .client()
            .fetch_cluster_id(timeout)
            .ok_or_else(|| ContactError::Away("no cluster id".to_owned()))
    };
    let has = match partitions_of(&client, topic, timeout)? {
        Some(has) => has,
        None => match create(settings, topic, partitions, message_bytes_max, timeout)? {
            // Its leaders are elected a moment later; the producer waits for them by itself.
            Created::ByUs => usize::from(partitions),
            // Whoever was faster may have wanted another number.
            Created::ByAnother => partitions_of(&client, topic, timeout)?.ok_or_else(|| {
                ContactError::Away(format!("{topic} was created a moment ago, not yet seen"))
            })?,
        },
    };
    if has != usize::from(partitions) {
        return Err(ContactError::Partitions {
            topic: topic.to_owned(),
            has,
            wants: partitions,
        });
    }
    Ok(Contacted {
        cluster_id: cluster_id()?,
    })
}

/// Is the number of partitions; none when the topic is not there.
fn partitions_of(
    client: &BaseConsumer<Quiet>,
    topic: &str,
    timeout: Duration,
) -> Result<Option<usize>, ContactError> {
    let metadata = client
        .fetch_metadata(Some(topic), timeout)
        .map_err(|error| ContactError::Away(error.to_string()))?;
    let found = metadata.topics().iter().find(|one| one.name() == topic);
    let found = found.ok_or_else(|| ContactError::Away(format!("no word about {topic}")))?;
    match found.error().map(RDKafkaErrorCode::from) {
        None => Ok(Some(found.partitions().len())),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            Ok(None)
        }
        Some(
            code @ (RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed),
        ) => Err(ContactError::Unauthorised {
            topic: topic.to_owned(),
            reason: code.to_string(),
        }),
        Some(code @ RDKafkaErrorCode::InvalidTopic) => Err(ContactError::NotCreated {
            topic: topic.to_owned(),
            reason: code.to_string(),
        }),
        Some(code) => Err(ContactError::Away(format!("topic {topic}: {code}"))),
    }
}

enum Created {
    ByUs,
    ByAnother,
}

fn create(
    settings: &Settings,
    topic: &str,
    partitions: u16,
    message_bytes_max: u32,
    timeout: Duration,
) -> Result<Created, ContactError> {
    let away = |error: KafkaError| ContactError::Away(error.to_string());
    let admin: AdminClient<DefaultClientContext> = settings.client().create().map_err(away)?;
    let replication = settings.replication.map_or(-1, i32::from);
    let bytes = message_bytes_max.to_string();
    let new = NewTopic::new(
        topic,
        i32::from(partitions),
        TopicReplication::Fixed(replication),
    )
    .set("max.message.bytes", &bytes);
    let options = AdminOptions::new()
        .request_timeout(Some(timeout))
        .operation_timeout(Some(timeout));
    let results = block_on(admin.create_topics([&new], &options)).map_err(away)?;
    match results.into_iter().next() {
        Some(Ok(_)) => {
            tracing::info!(topic, partitions, "created the topic in Kafka");
            Ok(Created::ByUs)
        }
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(Created::ByAnother),
        Some(Err((_, code))) if may_pass(code) => {
            Err(ContactError::Away(format!("creating {topic}: {code}")))
        }
        Some(Err((_, code))) => Err(ContactError::NotCreated {
            topic: topic.to_owned(),
            reason: code.to_string(),
        }),
        None => Err(ContactError::Away(format!("creating {topic}: no answer"))),
    }
}

fn may_pass(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::RequestTimedOut
            | Code::OperationTimedOut
            | Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::NotController
            | Code::BrokerNotAvailable
    )
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future whose end another thread brings about.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::park();
    }
}

#[cfg(test)]
#[path = "contact_test.rs"]
mod tests;
