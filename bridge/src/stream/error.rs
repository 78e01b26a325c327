//! Why stream rules are refused.

use super::{Mode, STREAM_NAME_BYTES_MAX, STREAM_RULES_MAX, TOPIC_BYTES_MAX};

/// Says why a set of stream rules is refused; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// More rules than [`STREAM_RULES_MAX`].
    #[error("{0} stream rules exceed the limit of {STREAM_RULES_MAX}")]
    TooMany(usize),
    /// The name is empty, too long, or has other characters than `a-z 0-9 - _ .`.
    #[error(
        "stream name {0:?} must be 1 to {STREAM_NAME_BYTES_MAX} characters of a-z, 0-9, -, _ and ."
    )]
    Name(String),
    /// Two rules have one name.
    #[error("stream name {0:?} is used twice")]
    NameTwice(String),
    /// The filter is no filter, or none that a stream may have.
    #[error("stream {name:?}: filter = {filter:?}: {reason}")]
    Filter {
        /// The stream's name.
        name: String,
        /// Its filter.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The key names nothing, or no device.
    #[error("stream {name:?}: key = {key:?} {reason}")]
    Key {
        /// The stream's name.
        name: String,
        /// Its key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The topic is none that Kafka takes, with `.dlq` behind it.
    #[error(
        "stream {name:?}: topic = {topic:?} must be 1 to {TOPIC_BYTES_MAX} characters of a-z, A-Z, \
         0-9, ., _ and -, and neither . nor .."
    )]
    Topic {
        /// The stream's name.
        name: String,
        /// Its topic.
        topic: String,
    },
    /// Something only Kafka can do, and there is none.
    #[error("stream {name:?}: {setting} needs Kafka, and kafka.bootstrap is absent")]
    NeedsKafka {
        /// The stream's name.
        name: String,
        /// Key and value.
        setting: String,
    },
    /// Two streams of one topic have different modes.
    #[error(
        "streams {one:?} and {other:?} go to one topic {topic:?} with different modes, {} and {}: \
         give them one mode, or two topics",
        .modes.0.as_str(), .modes.1.as_str()
    )]
    ModesDiffer {
        /// The first stream's name.
        one: String,
        /// The other stream's name.
        other: String,
        /// Their topic.
        topic: String,
        /// Their modes.
        modes: (Mode, Mode),
    },
    /// Two streams of one topic differ in whether the store reads them.
    #[error(
        "streams {one:?} and {other:?} go to one topic {topic:?}, which the store reads wholly or \
         not at all: give them one value of store, or two topics"
    )]
    StoresDiffer {
        /// The first stream's name.
        one: String,
        /// The other stream's name.
        other: String,
        /// Their topic.
        topic: String,
    },
    /// The store would have to read two topics.
    #[error(
        "streams {one:?} and {other:?} go to the topics {:?} and {:?} and both have store = true, \
         but the store reads one topic: give both the same topic, or store = false to one",
        .topics.0, .topics.1
    )]
    StoreTopics {
        /// The first stream's name.
        one: String,
        /// The other stream's name.
        other: String,
        /// Their topics.
        topics: (String, String),
    },
    /// The topic is where another stream's dead letters go.
    #[error(
        "stream {name:?}: topic = {topic:?} is the topic of the dead letters of stream {other:?}"
    )]
    DeadLetterTopic {
        /// The stream's name.
        name: String,
        /// Its topic.
        topic: String,
        /// The stream whose dead letters go there.
        other: String,
    },
    /// Two topics that Kafka takes for one.
    #[error(
        "streams {one:?} and {other:?}: Kafka refuses topics whose names differ only in . and _, \
         as {:?} and {:?}",
        .topics.0, .topics.1
    )]
    TopicsCollide {
        /// The first stream's name.
        one: String,
        /// The other stream's name.
        other: String,
        /// Their topics.
        topics: (String, String),
    },
}
