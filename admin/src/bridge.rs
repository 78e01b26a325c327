//! The bridge, from the broker to Kafka or the embedded log: `/v1/bridge/…`, `tidewire ctl bridge`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::question::{QuestionError, decode, encode};

/// Dead letters that one answer holds when nobody says how many.
pub const LETTERS_DEFAULT: usize = 20;
/// Dead letters that one answer or one replay holds at most.
pub const LETTERS_MAX: usize = 1_000;

/// Is how the bridge stands: `GET /v1/bridge`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What is degraded, one sentence each; empty when all is well.
    pub trouble: Vec<String>,
    /// The way to Kafka; absent with the embedded log.
    pub kafka: Option<Kafka>,
    /// The embedded log; absent with Kafka.
    pub log: Option<LogSizes>,
    /// The store's side.
    pub store: Store,
}

/// Is the way to Kafka.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kafka {
    /// Whether an operator holds it.
    pub paused: bool,
    /// Producers that failed for good and were replaced since the start.
    pub producers_rebuilt: u64,
    /// The topics that this node writes.
    pub topics: Vec<Topic>,
}

/// Is one topic that this node writes; counts are of records since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Its name in Kafka.
    pub topic: String,
    /// What settles a record: `memory`, `disk`, `log` or `kafka`.
    pub mode: String,
    /// What Kafka says of it.
    pub contact: Contact,
    /// Partitions whose records go to the spool (mode `disk`: all, always).
    pub lanes_away: u64,
    /// Times that a partition went away.
    pub went_away: u64,
    /// Taken from the broker.
    pub accepted: u64,
    /// Handed to Kafka's client and not confirmed, now.
    pub inflight_records: u64,
    /// The same in bytes.
    pub inflight_bytes: u64,
    /// Held in memory, now, until Kafka or the spool takes them.
    pub waiting_records: u64,
    /// Confirmed by Kafka.
    pub delivered: u64,
    /// Made durable in the spool.
    pub spooled: u64,
    /// Of these, confirmed by Kafka.
    pub drained: u64,
    /// Dropped by policy, by reason.
    pub shed: BTreeMap<String, u64>,
    /// Refused by Kafka for good, and kept as dead letters.
    pub poisoned: u64,
    /// Attempts that failed and were, or are, repeated.
    pub failed: u64,
    /// In the spool and not confirmed by Kafka, now.
    pub spool_records: u64,
    /// Size of the spool on disk.
    pub spool_bytes: u64,
    /// Whether the spool is at its limit, so that PUBACKs are withheld.
    pub spool_full: bool,
}

/// Says what Kafka says of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Contact {
    /// It was not reached yet, or the topic is being looked at again.
    Unknown,
    /// The topic is what the node needs.
    Good,
    /// The topic is not what the node needs, or the node may not use it: somebody has to act.
    Refused {
        /// Why.
        reason: String,
    },
}

/// Is the size of the embedded log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSizes {
    /// Partitions (= buckets).
    pub partitions: u16,
    /// Records in it since it was created, dropped ones included.
    pub records: u64,
    /// Records that the store has not processed.
    pub unread_records: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Bytes taken and not yet durable.
    pub inflight_bytes: u64,
}

/// Is the store's side: what it reads, and whether it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// The topic, or `log` for the embedded log; absent when no stream has a store.
    pub source: Option<String>,
    /// Whether it reads.
    #[serde(flatten)]
    pub reading: Reading,
}

/// Says whether the store reads its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Reading {
    /// It does, or has nothing to read.
    Reading,
    /// It cannot now and goes on by itself.
    Waiting {
        /// Why.
        reason: String,
    },
    /// It has stopped: somebody has to act.
    Stopped {
        /// Why.
        reason: String,
    },
}

impl Status {
    /// Makes a status and says what is degraded in it.
    #[must_use]
    pub fn new(kafka: Option<Kafka>, log: Option<LogSizes>, store: Store) -> Self {
        let mut trouble = Vec::new();
        if let Some(kafka) = &kafka {
            if kafka.paused {
                trouble.push("paused: nothing is sent to Kafka until `ctl bridge resume`".into());
            }
            for topic in &kafka.topics {
                topic.trouble(&mut trouble);
            }
        }
        trouble.extend(store.trouble());
        Self {
            trouble,
            kafka,
            log,
            store,
        }
    }
}

impl Topic {
    fn trouble(&self, trouble: &mut Vec<String>) {
        let name = &self.topic;
        match &self.contact {
            Contact::Good => {}
            Contact::Unknown => trouble.push(format!("{name}: Kafka is not reached")),
            Contact::Refused { reason } => trouble.push(format!("{name}: refused: {reason}")),
        }
        // Mode `disk` goes through the spool on a good day too.
        if self.lanes_away > 0 && self.mode != "disk" {
            trouble.push(format!(
                "{name}: partitions away: {}, records in the spool: {}",
                self.lanes_away, self.spool_records
            ));
        }
        if self.spool_full {
            trouble.push(format!(
                "{name}: the spool is full at {} bytes: PUBACKs are withheld",
                self.spool_bytes
            ));
        }
    }
}

impl Store {
    /// Is what keeps the store from reading.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match &self.reading {
            Reading::Reading => None,
            Reading::Waiting { reason } => Some(format!("the store waits for Kafka: {reason}")),
            Reading::Stopped { reason } => Some(format!("the store has stopped reading: {reason}")),
        }
    }
}

/// Says to hold Kafka's side, or to let it go on: `POST /v1/bridge/pause`; the answer is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// Whether nothing is to be sent.
    pub paused: bool,
}

/// Is what the store has not processed: `GET /v1/bridge/lag`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lag {
    /// Whose lag it is. When it is not reading, ends in Kafka are as last known.
    pub store: Store,
    /// Records of all partitions that the store has not processed.
    pub total: u64,
    /// By partition, all of them.
    pub partitions: Vec<PartitionLag>,
    /// Records in spools that Kafka has not confirmed, by topic; only topics that have some.
    pub spooled: BTreeMap<String, u64>,
}

/// Is the lag of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionLag {
    /// Its number.
    pub partition: u16,
    /// One past the last record, as far as this node knows.
    pub end: u64,
    /// Offset of the next record that the store processes.
    pub position: u64,
    /// Their difference.
    pub lag: u64,
}

/// Says which dead letters are wanted: `GET /v1/bridge/dlq?limit=&reason=&after=`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetterQuestion {
    /// Most letters wanted, up to [`LETTERS_MAX`]; absent: [`LETTERS_DEFAULT`].
    pub limit: Option<usize>,
    /// Only letters of this reason.
    pub reason: Option<String>,
    /// Only letters behind those of an earlier answer: its `next`.
    pub after: Option<String>,
}

impl LetterQuestion {
    /// Reads a query string.
    ///
    /// # Errors
    /// [`QuestionError`] naming the parameter.
    pub fn parse(query: &str) -> Result<Self, QuestionError> {
        let mut question = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value)?;
            match name {
                "limit" => {
                    let limit = value.parse().map_err(|_| QuestionError::Limit(value))?;
                    question.limit = Some(limit);
                }
                "reason" => question.reason = Some(value),
                "after" => question.after = Some(value),
                other => return Err(QuestionError::UnknownOfLetters(other.to_owned())),
            }
        }
        Ok(question)
    }

    /// Writes the query string that [`LetterQuestion::parse`] reads.
    #[must_use]
    pub fn to_query(&self) -> String {
        let limit = self.limit.map(|limit| limit.to_string());
        let parts = [
            ("limit", &limit),
            ("reason", &self.reason),
            ("after", &self.after),
        ];
        let pairs: Vec<String> = parts
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", encode(value.as_ref()?))))
            .collect();
        pairs.join("&")
    }
}

/// Is dead letters, newest first by the time at which their messages were received.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetters {
    /// The letters; their payloads together are bounded, so there may be fewer than were wanted.
    pub letters: Vec<DeadLetter>,
    /// Letters that fit the question behind these, as far as was looked.
    pub remaining: u64,
    /// Where the next question goes on (`after`); absent when nothing remains.
    pub next: Option<String>,
    /// Why letters may be missing.
    pub partial: Option<String>,
}

/// Is one message that could not be stored, or not whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Names it to `replay`: `kafka:PARTITION:OFFSET` in the topic of dead letters, or
    /// `node:PARTITION:OFFSET` in this node's own log.
    pub id: String,
    /// Why, as counted.
    pub reason: String,
    /// Why, in words.
    pub text: String,
    /// Device id; bytes that are no text are replaced.
    pub device: String,
    /// The topic in Kafka that the message is of; absent with the embedded log.
    pub topic: Option<String>,
    /// Its partition there.
    pub partition: u16,
    /// Its offset there; absent when Kafka refused it.
    pub offset: Option<u64>,
    /// When the broker received it, in milliseconds since the Unix epoch.
    pub received_ms: i64,
    /// What the device sent.
    pub payload: Payload,
}

/// Is bytes in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Payload {
    /// They are UTF-8.
    Text(String),
    /// They are not: in base64 (RFC 4648 §4).
    Base64(String),
}

/// Says which letters are to be sent again: `POST /v1/bridge/dlq/replay`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Replay {
    /// One.
    Letter {
        /// Its id.
        id: String,
    },
    /// All of a reason, a bounded number at a time.
    Reason {
        /// The reason.
        reason: String,
        /// Most letters of this time, up to [`LETTERS_MAX`], which is the default.
        limit: Option<usize>,
        /// Where an earlier replay ended: its `next`.
        after: Option<String>,
    },
}

/// Is what became of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// Letters whose messages are durable again as their stream's mode demands.
    pub replayed: u64,
    /// Letters that were sent and of which nothing is known: their messages may arrive later, or
    /// not at all.
    pub unsettled: u64,
    /// Letters that cannot be sent, with the reason of the first.
    pub refused: u64,
    /// Why the first of the refused was.
    pub refusal: Option<String>,
    /// Letters of the reason that are still to be replayed.
    pub remaining: u64,
    /// Where the next replay goes on (`after`).
    pub next: Option<String>,
    /// Why letters may be missing.
    pub partial: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> Topic {
        Topic {
            topic: "tidewire.t".into(),
            mode: "log".into(),
            contact: Contact::Good,
            lanes_away: 0,
            went_away: 3,
            accepted: 9,
            inflight_records: 1,
            inflight_bytes: 2,
            waiting_records: 3,
            delivered: 4,
            spooled: 5,
            drained: 5,
            shed: BTreeMap::from([("age".into(), 1)]),
            poisoned: 1,
            failed: 1,
            spool_records: 0,
            spool_bytes: 0,
            spool_full: false,
        }
    }

    fn status(change: impl FnOnce(&mut Kafka, &mut Store)) -> Status {
        let mut kafka = Kafka {
            topics: vec![topic()],
            ..Kafka::default()
        };
        let mut store = Store {
            source: Some("tidewire.t".into()),
            reading: Reading::Reading,
        };
        change(&mut kafka, &mut store);
        Status::new(Some(kafka), None, store)
    }

    #[test]
    fn what_passed_is_no_trouble() {
        assert_eq!(status(|_, _| {}).trouble, Vec::<String>::new());
    }

    #[test]
    fn each_thing_that_is_degraded_is_said() {
        let reason = || "full moon".to_owned();
        let one = |change: fn(&mut Topic)| status(|kafka, _| change(&mut kafka.topics[0])).trouble;
        let reading = |reading| status(|_, store| store.reading = reading).trouble;
        for (trouble, named) in [
            (status(|kafka, _| kafka.paused = true).trouble, "paused"),
            (one(|topic| topic.lanes_away = 2), "partitions away: 2"),
            (one(|topic| topic.spool_full = true), "spool is full"),
            (one(|topic| topic.contact = Contact::Unknown), "not reached"),
            (
                one(|topic| {
                    let reason = "8 partitions".into();
                    topic.contact = Contact::Refused { reason };
                }),
                "8 partitions",
            ),
            (reading(Reading::Waiting { reason: reason() }), "full moon"),
            (reading(Reading::Stopped { reason: reason() }), "full moon"),
        ] {
            assert!(
                matches!(&trouble[..], [only] if only.contains(named)),
                "{named}: {trouble:?}"
            );
        }
    }

    #[test]
    fn a_stream_that_always_spools_is_not_away() {
        let always = status(|kafka, _| {
            kafka.topics[0].mode = "disk".into();
            kafka.topics[0].lanes_away = 64;
        });
        assert_eq!(always.trouble, Vec::<String>::new());
    }

    #[test]
    fn a_status_survives_json() {
        let status = status(|kafka, store| {
            let reason = "no".to_owned();
            kafka.topics[0].contact = Contact::Refused { reason };
            let reason = "gap".to_owned();
            store.reading = Reading::Stopped { reason };
        });
        let text = serde_json::to_string(&status).expect("JSON");
        assert!(text.contains(r#""contact":{"state":"refused","reason":"no"}"#));
        let store = r#""store":{"source":"tidewire.t","state":"stopped","reason":"gap"}"#;
        assert!(text.contains(store), "{text}");
        let read: Status = serde_json::from_str(&text).expect("its own");
        assert_eq!(read, status);
    }

    #[test]
    fn a_question_for_letters_survives_its_query_string() {
        let question = LetterQuestion {
            limit: Some(7),
            reason: Some("un&parsable".into()),
            after: Some("5/node:1:2".into()),
        };
        assert_eq!(LetterQuestion::parse(&question.to_query()), Ok(question));
        let unknown = LetterQuestion::parse("metric=x").expect_err("it is none");
        assert!(unknown.to_string().contains("metric"), "{unknown}");
    }

    #[test]
    fn a_replay_names_one_letter_or_a_reason() {
        let read = serde_json::from_str::<Replay>;
        let one = r#"{"letter":{"id":"node:1:2"}}"#;
        let id = "node:1:2".to_owned();
        assert_eq!(read(one).expect("known"), Replay::Letter { id });
        let all = read(r#"{"reason":{"reason":"time","limit":null,"after":null}}"#);
        assert!(matches!(all, Ok(Replay::Reason { limit: None, .. })));
        assert!(read(r#"{"letter":{"id":"node:1:2","reason":"time"}}"#).is_err());
        assert!(read("{}").is_err());
    }
}
