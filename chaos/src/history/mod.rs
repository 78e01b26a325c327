//! What each client did and saw, in microseconds since the start of the run.
//!
//! An [`Actor`] is one program with an MQTT client in it; two actors may use the same client id on purpose.
//! Everything is in memory, 32 bytes an event, at most [`EVENTS_MAX`] of them: when so many are there,
//! publishers send nothing new, and what comes in addition is counted as [`History::unrecorded`], which no
//! checker lets pass.

mod dump;
mod log;
mod payload;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use log::{Budget, EVENTS_MAX, Log};
pub use payload::{PAYLOAD_BYTES_MIN, Payload};

/// Is everything that the clients of a run did and saw.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Seed of the workload.
    pub seed: u64,
    /// MQTT addresses; events name them by their place.
    pub nodes: Vec<SocketAddr>,
    /// Topics; events name them by their place.
    pub topics: Vec<String>,
    /// Filters; events name them by their place.
    pub filters: Vec<String>,
    /// Who took part; events and messages name them by their place.
    pub actors: Vec<Actor>,
    /// Events that there was no room for; 0 in a run whose verdict counts.
    pub unrecorded: u64,
    /// When the clients were told to publish nothing new; `None`: never.
    pub drained_us: Option<u64>,
    /// When the history was taken.
    pub taken_us: u64,
}

/// Is one client program.
#[derive(Clone, Debug)]
pub struct Actor {
    /// Its client id, of which it may not be the only user.
    pub client_id: String,
    /// What it is there for.
    pub role: Role,
    /// Session Expiry Interval in seconds; 0: its session ends with its connection.
    pub expiry_s: u32,
    /// What it did and saw, in order.
    pub events: Vec<Event>,
}

/// Says what an actor is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Publishes to topics that sessions wait for.
    Publisher,
    /// Has a session that outlives its connections.
    Subscriber,
    /// Has a session that ends with its connection.
    Clean,
    /// Reads slowly, and now and then not at all.
    Slow,
    /// Publishes retained messages, alone on its topics.
    Writer,
    /// Subscribes anew again and again for retained messages.
    Reader,
    /// Connects with a will.
    Willing,
    /// Waits for wills.
    Observer,
    /// Shares its client id with another.
    Contender,
    /// Gives a node up that does not answer soon, and goes to another.
    Impatient,
    /// Is one of a shared group.
    Member,
    /// Starts clean over its session now and then.
    Resetter,
    /// Subscribes and unsubscribes again and again.
    Churner,
    /// Comes back about when its session expires.
    Expirer,
    /// Publishes what nobody is promised.
    Noise,
}

/// Is one thing that happened to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When, in microseconds since the start.
    pub at_us: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// Says what happened. Whatever is sent is recorded before it is written to the socket, whatever comes after
/// it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// Dials a node and sends CONNECT.
    Connecting {
        /// Number of the attempt at this actor, from 0; a will carries it as its number.
        connection: u32,
        /// The node.
        node: u16,
        /// Clean Start.
        clean_start: bool,
        /// Whether it carries a will.
        will: bool,
    },
    /// CONNACK with success.
    Connected {
        /// Session Present.
        session_present: bool,
    },
    /// CONNACK with another reason.
    Refused {
        /// The reason.
        reason: u8,
    },
    /// The connection, or the attempt, is over.
    Ended {
        /// Why.
        why: End,
        /// The reason of the node's DISCONNECT, else 0.
        reason: u8,
    },
    /// SUBSCRIBE of one filter.
    Subscribing {
        /// The filter.
        filter: u32,
        /// The QoS that is asked for.
        qos: u8,
    },
    /// Its SUBACK.
    Subscribed {
        /// The filter.
        filter: u32,
        /// What was granted, or the failure.
        reason: u8,
    },
    /// UNSUBSCRIBE of one filter.
    Unsubscribing {
        /// The filter.
        filter: u32,
    },
    /// Its UNSUBACK.
    Unsubscribed {
        /// The filter.
        filter: u32,
        /// What it says.
        reason: u8,
    },
    /// PUBLISH to the node.
    Publishing {
        /// Number of the message at this actor, from 0.
        number: u32,
        /// The topic.
        topic: u32,
        /// The packet id, 0 with QoS 0.
        packet_id: u16,
        /// QoS, DUP, RETAIN.
        flags: Flags,
    },
    /// PUBACK for a message of QoS 1.
    PubAcked {
        /// The message.
        number: u32,
        /// The packet id.
        packet_id: u16,
        /// The reason.
        reason: u8,
    },
    /// PUBREC for a message of QoS 2.
    PubReced {
        /// The message.
        number: u32,
        /// The packet id.
        packet_id: u16,
        /// The reason.
        reason: u8,
    },
    /// PUBCOMP for a message of QoS 2.
    PubComped {
        /// The message.
        number: u32,
        /// The packet id.
        packet_id: u16,
        /// The reason.
        reason: u8,
    },
    /// The session was lost with this message under way; nobody knows what becomes of it.
    GivenUp {
        /// The message.
        number: u32,
    },
    /// PUBLISH from the node.
    Delivered {
        /// The actor that published it.
        publisher: u32,
        /// Its number there.
        number: u32,
        /// The topic.
        topic: u32,
        /// The packet id, 0 with QoS 0.
        packet_id: u16,
        /// QoS, DUP, RETAIN, and whether the client has the packet id's message already.
        flags: Flags,
    },
    /// PUBREL from the node.
    Released {
        /// The packet id.
        packet_id: u16,
        /// Whether a message of that id waited for it.
        known: bool,
    },
    /// PINGRESP.
    Ponged,
    /// Something that no rule of MQTT or of the workload explains.
    Stray {
        /// What.
        stray: Stray,
        /// A packet id or a reason, if there is one.
        detail: u16,
    },
}

/// Are the flags of a PUBLISH.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flags {
    /// Quality of service.
    pub qos: u8,
    /// DUP.
    pub dup: bool,
    /// RETAIN.
    pub retain: bool,
    /// QoS 2 from the node, with an id that was not released: the packet again, not the message.
    pub again: bool,
}

/// Says why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The node cannot be reached.
    Unreachable,
    /// The connection broke or the node closed it.
    Closed,
    /// The node sent DISCONNECT, see its reason.
    Told,
    /// Something was awaited for too long.
    Slow,
    /// The client closed it without DISCONNECT.
    Cut,
    /// The client sent DISCONNECT, and the node closed the connection.
    Left,
    /// The client sent DISCONNECT, and nobody knows whether it was read.
    LeftUnseen,
    /// What came was no MQTT.
    Malformed,
}

/// Says what no rule explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stray {
    /// An acknowledgement of a packet id that is not under way.
    Acknowledgement,
    /// A packet that a client never gets at this point.
    Packet,
    /// A payload that no actor has sent, or under another topic.
    Payload,
    /// A PUBLISH of QoS 2 under a packet id whose other message is not released yet.
    PacketIdInUse,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_takes_32_bytes() {
        assert!(size_of::<Event>() <= 32, "{}", size_of::<Event>());
    }
}
