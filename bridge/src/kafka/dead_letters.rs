//! Reads the topic of dead letters for an operator, with a consumer that lives for one question.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use runtime::Clock;

use super::contact::Quiet;
use super::message::record_of;
use super::settings::Settings;
use crate::operations::letters::{Letter, LetterId, Place, Span, not_whole};
use crate::stream::DEAD_LETTER_SUFFIX;

/// Longest wait for Kafka's first answer.
const CONTACT_WAIT_MS: u64 = 3_000;
/// Longest time for all of a question.
const TIME_MAX_MS: u64 = 6_000;
/// Longest wait for one record before the clock is looked at.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// Bytes that one question reads at most.
const BYTES_MAX: usize = 128 << 20;

/// Is where the dead letters of a topic lie, and how to get there.
#[derive(Debug)]
pub(crate) struct LetterTopic {
    pub(crate) settings: Settings,
    /// The topic that they are letters of.
    pub(crate) source: String,
    pub(crate) partitions: u16,
}

impl LetterTopic {
    /// Reads letters and says why some may be missing. Blocks up to [`TIME_MAX_MS`].
    ///
    /// # Errors
    /// When Kafka is away; none was read.
    pub(crate) fn read(
        &self,
        span: Span,
        clock: &dyn Clock,
        mut each: impl FnMut(&Letter),
    ) -> Result<Option<String>, String> {
        let until_ms = clock.mono_ms() + TIME_MAX_MS;
        let left = || Duration::from_millis(until_ms.saturating_sub(clock.mono_ms()));
        let topic = format!("{}{DEAD_LETTER_SUFFIX}", self.source);
        let client = self.client().map_err(|error| error.to_string())?;
        let there = self.watermarks(&client, &topic, left)?;
        let (mut spans, is_whole) = span.of(&there);
        assign(&client, &topic, &spans).map_err(|error| error.to_string())?;
        let mut bytes = 0;
        let mut last_error = None;
        while spans.iter().any(|(next, end)| next < end) {
            if left().is_zero() || bytes > BYTES_MAX {
                let why = last_error.map_or_else(String::new, |error| format!(": {error}"));
                return Ok(Some(format!("topic {topic} was not read to its end{why}")));
            }
            match client.poll(POLL_WAIT.min(left())) {
                None => {}
                Some(Ok(message)) => {
                    let letter = self.letter_of(&message);
                    bytes += letter.record.stored_bytes();
                    let LetterId {
                        partition, offset, ..
                    } = letter.id;
                    let Some((next, end)) = spans.get_mut(usize::from(partition)) else {
                        continue;
                    };
                    if offset < *end {
                        each(&letter);
                    }
                    *next = offset + 1;
                }
                // What is behind the last record is no record: a mark of a transaction.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    let place = usize::try_from(partition).ok();
                    if let Some((next, end)) = place.and_then(|place| spans.get_mut(place)) {
                        *next = *end;
                    }
                }
                Some(Err(error)) => last_error = Some(error.to_string()),
            }
        }
        Ok(not_whole(is_whole, &format!("topic {topic}")))
    }

    fn client(&self) -> Result<BaseConsumer<Quiet>, KafkaError> {
        let mut config = self.settings.client();
        config
            // The client wants a name; nothing is ever committed under it.
            .set("group.id", "tidewire-dead-letters")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("allow.auto.create.topics", "false")
            .set("queued.max.messages.kbytes", "16384")
            .set("fetch.wait.max.ms", "100");
        config.create_with_context(Quiet)
    }

    fn watermarks(
        &self,
        client: &BaseConsumer<Quiet>,
        topic: &str,
        left: impl Fn() -> Duration,
    ) -> Result<Vec<(u64, u64)>, String> {
        let contact = Duration::from_millis(CONTACT_WAIT_MS).min(left());
        client
            .fetch_metadata(Some(topic), contact)
            .map_err(|error| error.to_string())?;
        let of = |partition: u16| {
            let marks = client.fetch_watermarks(topic, i32::from(partition), left());
            let failed = |error| format!("topic {topic} partition {partition}: {error}");
            let (low, high) = marks.map_err(failed)?;
            Ok((low.max(0) as u64, high.max(0) as u64))
        };
        (0..self.partitions).map(of).collect()
    }

    fn letter_of(&self, message: &BorrowedMessage<'_>) -> Letter {
        let (offset, record) = record_of(message);
        let mut letter = Letter {
            id: LetterId {
                place: Place::Kafka,
                partition: record.partition,
                offset,
            },
            reason: "unknown".to_owned(),
            text: String::new(),
            topic: Some(self.source.clone()),
            partition: record.partition,
            offset: None,
            record,
        };
        for header in message.headers().into_iter().flat_map(|all| all.iter()) {
            let text = header.value.map(String::from_utf8_lossy);
            let Some(text) = text else { continue };
            match header.key {
                "tidewire-reason" => letter.reason = text.into_owned(),
                "tidewire-error" => letter.text = text.into_owned(),
                "tidewire-partition" => {
                    letter.partition = text.parse().unwrap_or(letter.partition);
                }
                "tidewire-offset" => letter.offset = text.parse().ok(),
                _ => {}
            }
        }
        letter
    }
}

fn assign(
    client: &BaseConsumer<Quiet>,
    topic: &str,
    spans: &[(u64, u64)],
) -> Result<(), KafkaError> {
    let mut list = TopicPartitionList::new();
    for (partition, (next, end)) in (0..).zip(spans) {
        if next < end {
            let offset = Offset::Offset(i64::try_from(*next).unwrap_or(i64::MAX));
            list.add_partition_offset(topic, partition, offset)?;
        }
    }
    client.assign(&list)
}
