//! A stream rule as it stands in the configuration file.

use serde::{Deserialize, Serialize};

/// Says which topics are telemetry, whose, and what happens to their messages.
///
/// A rule is a part of the configuration file; unknown keys are errors. What goes against
/// another key or another rule is found by [`crate::Streams::new`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamRule {
    /// Name of the stream, `a-z 0-9 - _ .`, unique on the node.
    pub name: String,
    /// Topic filter; shares no subscription and does not begin with `$`.
    pub filter: String,
    /// Kafka topic, needs Kafka; absent: `tidewire.` and the stream's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Where the device id is: `{1}`, `{2}` … for the level that the first, second … `+` of the
    /// filter stands for, `{client_id}` for the publisher, `{topic}` for the whole topic name.
    pub key: String,
    /// How important the stream is under overload.
    pub class: Class,
    /// What must have a message before its PUBACK leaves.
    pub mode: Mode,
    /// What a persistent session gets that subscribes to these topics with QoS > 0.
    pub persistent_subscribers: PersistentSubscribers,
    /// Whether this node's time-series store reads the stream; `false` needs Kafka.
    pub store: bool,
}

impl Default for StreamRule {
    fn default() -> Self {
        Self {
            name: "telemetry".to_owned(),
            filter: "fleet/+/telemetry".to_owned(),
            topic: None,
            key: "{1}".to_owned(),
            class: Class::default(),
            mode: Mode::default(),
            persistent_subscribers: PersistentSubscribers::default(),
            store: true,
        }
    }
}

impl StreamRule {
    /// The topic it goes to in Kafka.
    pub fn kafka_topic(&self) -> String {
        self.topic
            .clone()
            .unwrap_or_else(|| format!("tidewire.{}", self.name))
    }
}

/// Says what settles a stream's obligation for a PUBLISH.
///
/// Without Kafka `disk` and `log` are the same: fsynced in this node's embedded log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Memory has it: a message may be lost with the node, as one of QoS 0.
    Memory,
    /// This node's disk has it (group fsync).
    Disk,
    /// The log has it. With Kafka: acks=all, or, while Kafka is away, fsynced in this node's
    /// spool; without: fsynced in the embedded log.
    #[default]
    Log,
    /// Kafka has it (acks=all); withheld while Kafka is away.
    Kafka,
}

impl Mode {
    /// The word in the configuration file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Log => "log",
            Self::Kafka => "kafka",
        }
    }
}

/// Says how important a stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Given up last; QoS 2 is meant.
    Critical,
    /// As most.
    #[default]
    Normal,
    /// Given up first.
    Bulk,
}

/// Says what a persistent session gets that subscribes to a stream's topics with QoS > 0: its
/// shard would log every message of the fleet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PersistentSubscribers {
    /// What it asked for.
    #[default]
    Allow,
    /// QoS 0.
    Qos0,
    /// A refusal in the SUBACK.
    Deny,
}
