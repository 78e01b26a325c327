//! What a worker is told and what it answers: one JSON line each.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::histogram::Histogram;
use super::packet::Version;

/// Largest window: packet ids of one connection repeat after this many messages.
pub const WINDOW_MAX: u32 = 32_768;

/// Tenths of a second of which connections are counted apart: ten minutes.
pub(super) const TENTHS_MAX: usize = 6_000;

/// A worker's connections, in groups. Sent once, before every command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The nodes of the broker.
    pub addresses: Vec<SocketAddr>,
    /// Source addresses, taken in turn; empty: the system chooses.
    pub sources: Vec<Ipv4Addr>,
    /// Version of MQTT.
    pub version: Version,
    /// Groups of connections; commands name them by their place here.
    pub groups: Vec<Group>,
    /// Most deliveries of this worker's messages to its own subscribers that may be outstanding
    /// before its publishers wait; `None`: no limit.
    pub deliveries_window: Option<u64>,
    /// Deliveries at this worker's own subscribers that each of its messages causes.
    pub deliveries_per_message: u64,
}

/// Connections of one kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Group {
    /// Client ids are this and the number; in topics and filters `{}` stands for the number.
    pub prefix: String,
    /// Number of the first connection.
    pub first: u32,
    /// Number of connections.
    pub count: u32,
    /// Place of the node of number 0; the next number goes to the next node.
    pub home: u32,
    /// Sessions outlive their connections.
    pub persistent: bool,
    /// What they do.
    pub role: Role,
}

/// What the connections of a group do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Role {
    /// Nothing.
    Idle,
    /// They publish when told.
    Publisher {
        /// Topic of each.
        topic: String,
        /// 0 or 1.
        qos: u8,
        /// Messages that each may have unacknowledged, 1 to [`WINDOW_MAX`]. With QoS 0 in a
        /// closed loop: messages before a PINGREQ whose answer is awaited.
        window: u32,
        /// Payload bytes.
        payload_bytes: usize,
    },
    /// They subscribe once connected and acknowledge what comes.
    Subscriber {
        /// Filter of each.
        filter: String,
        /// Granted QoS, 0 or 1.
        qos: u8,
        /// Whose messages each gets.
        publishers: Publishers,
    },
}

/// The publishers whose messages a subscriber gets, for the check of order and loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Publishers {
    /// Numbers 0 to this, exclusive.
    All(u32),
    /// The one of its own number.
    Own,
}

/// What a worker is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Command {
    /// Connect a group, and subscribe where it is one of subscribers.
    Connect {
        /// Place of the group in the plan.
        group: usize,
        /// Connections that may wait for their CONNACK at a time.
        in_flight: u32,
        /// Each waits for a random part of this first.
        jitter_ms: u64,
        /// Send SUBSCRIBE; off when sessions come back.
        subscribe: bool,
        /// How devices come back: each waits first, and again after each failure. `None`: as a load
        /// generator, at once and with short waits after failures, of which a refusal is none that
        /// may happen.
        rule: Option<Rule>,
    },
    /// Close a group's connections: with DISCONNECT, or abruptly.
    Close {
        /// Place of the group in the plan.
        group: usize,
        /// Without DISCONNECT, as when the network fails.
        abrupt: bool,
    },
    /// Begin to publish; answered at once.
    Publish {
        /// Place of the group in the plan.
        group: usize,
        /// Messages a second of this worker's part of the group; `None`: as the window allows.
        rate_per_s: Option<f64>,
        /// Messages of each connection; `None`: until [`Command::Drain`].
        messages: Option<u64>,
    },
    /// Carry on for a time.
    Run {
        /// How long.
        ms: u64,
    },
    /// Stop publishing, or finish the number of messages, and wait until all is acknowledged, or
    /// nothing has moved for a time.
    Drain {
        /// That time.
        quiet_ms: u64,
    },
    /// Wait until this many messages have come since the plan, or nothing has moved for a time.
    Receive {
        /// Received and lost together.
        total: u64,
        /// That time.
        quiet_ms: u64,
    },
}

/// How devices whose connection was lost come back.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rule {
    /// `Backoff::base`.
    pub base_ms: u64,
    /// `Backoff::delay_max`; equal to `base_ms`, waits do not grow.
    pub delay_ms_max: u64,
    /// `Backoff::jitter`.
    pub jitter_ms: u64,
    /// They turn to another node at each attempt: theirs is dead.
    pub turns: bool,
}

/// What happened at a worker since its last answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Messages sent.
    pub sent: u64,
    /// Messages acknowledged; with QoS 0: known to be processed by a PINGRESP behind them.
    pub acked: u64,
    /// Messages that came to subscribers.
    pub received: u64,
    /// Messages not seen although a later one of the same publisher was. Late ones still reduce it.
    pub missing: i64,
    /// Messages that came after a later one.
    pub late: u64,
    /// Messages that came again.
    pub again: u64,
    /// PUBACKs out of order [MQTT-4.6.0-2], or for nothing.
    pub acks_out_of_order: u64,
    /// PUBACKs with a failure.
    pub refused: u64,
    /// Connections that reached CONNACK, and SUBACK where asked.
    pub connected: u64,
    /// Attempts to connect made again after a failure.
    pub retries: u64,
    /// CONNACKs with a failure, by their code, where devices come back.
    pub refusals: BTreeMap<u8, u64>,
    /// CONNACKs without the session that was there.
    pub sessions_missing: u64,
    /// Connections made in each tenth of a second since `first_ns`, for up to
    /// [`TENTHS_MAX`] of them.
    pub by_tenth: Vec<u64>,
    /// Connections given up.
    pub failed: u64,
    /// Established connections that the broker closed.
    pub closed: u64,
    /// Connections that spoke no MQTT.
    pub malformed: u64,
    /// When the first message was sent, in ns of the monotonic clock; 0: never.
    pub first_ns: u64,
    /// When the last acknowledgement, message or CONNACK came.
    pub last_ns: u64,
    /// When the last connection reached CONNACK, and SUBACK where asked; 0: never.
    pub last_connect_ns: u64,
    /// PUBLISH to PUBACK in ns; from the due time with a rate.
    pub ack: Histogram,
    /// PUBLISH to delivery in ns; from the due time with a rate.
    pub delivery: Histogram,
    /// TCP connect to CONNACK in ns; from the due time where there is jitter.
    pub connect: Histogram,
}

impl Tally {
    /// Adds what happened at another worker, or later.
    pub(super) fn merge(&mut self, other: &Self) {
        self.sent += other.sent;
        self.acked += other.acked;
        self.received += other.received;
        self.missing += other.missing;
        self.late += other.late;
        self.again += other.again;
        self.acks_out_of_order += other.acks_out_of_order;
        self.refused += other.refused;
        self.connected += other.connected;
        self.retries += other.retries;
        for (code, count) in &other.refusals {
            *self.refusals.entry(*code).or_default() += count;
        }
        self.sessions_missing += other.sessions_missing;
        let tenths = self.by_tenth.len().max(other.by_tenth.len());
        self.by_tenth.resize(tenths, 0);
        for (to, from) in self.by_tenth.iter_mut().zip(&other.by_tenth) {
            *to += from;
        }
        self.failed += other.failed;
        self.closed += other.closed;
        self.malformed += other.malformed;
        self.first_ns = match (self.first_ns, other.first_ns) {
            (0, first) | (first, 0) => first,
            (one, two) => one.min(two),
        };
        self.last_ns = self.last_ns.max(other.last_ns);
        self.last_connect_ns = self.last_connect_ns.max(other.last_connect_ns);
        self.ack.merge(&other.ack);
        self.delivery.merge(&other.delivery);
        self.connect.merge(&other.connect);
    }

    /// Returns the time from the first message to the last thing that came, in seconds.
    #[must_use]
    pub(super) fn seconds(&self) -> f64 {
        self.last_ns.saturating_sub(self.first_ns) as f64 / 1e9
    }
}

/// A worker's answer to a plan or a command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Done.
    Done(Box<Tally>),
    /// The worker cannot go on.
    Failed(String),
}
