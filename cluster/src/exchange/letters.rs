//! The numbered stream from one node's epoch to another's.

use std::sync::Arc;

use cluster_core::{Attempt, Body, NodeEpoch, Sent};
use mqtt::SubscriptionIds;
use session::{ConnectionId, Delivery, DeliveryStep, GroupDelivery, Message, Origin};

use super::said;
use crate::stored::wire::{choice, record};

/// What one node has for another, beside what goes through logs. Messages have the wall time of the
/// node that sends them.
#[derive(Clone, Debug, PartialEq)]
pub enum Letter {
    /// For the connection that owns a session.
    Delivery(Box<Delivery>),
    /// For a member of a group.
    Shared(Box<GroupDelivery>),
    /// QoS 0, for a connection with a persistent session, or a member of a group.
    Passing {
        /// The connection.
        connection: ConnectionId,
        /// The message.
        message: Arc<Message>,
        /// RETAIN flag of the delivery.
        retain: bool,
        /// Identifiers of the matching subscriptions.
        subscription_ids: SubscriptionIds,
    },
    /// A connection lost its session to another.
    TakenOver {
        /// The connection.
        connection: ConnectionId,
    },
    /// For the clean sessions of the node that match; its receipt settles an obligation.
    Message {
        /// The message.
        message: Arc<Message>,
        /// By which repeats are dropped; QoS 2 and wills have one.
        origin: Option<Box<Origin>>,
    },
    /// The sending node has applied the routes up to this index.
    RoutesApplied {
        /// The index.
        index: u64,
    },
}

choice!(Letter, "letter" {
    1 => Delivery(delivery),
    2 => Shared(delivery),
    3 => Passing { connection, message, retain, subscription_ids },
    4 => TakenOver { connection },
    5 => Message { message, origin },
    6 => RoutesApplied { index },
});

record!(Delivery {
    client,
    epoch,
    node_epoch,
    connection,
    seq,
    step,
});
choice!(DeliveryStep, "step of a delivery" {
    1 => Publish { message, qos, retain, subscription_ids, dup },
    2 => Release,
});
record!(GroupDelivery {
    node_epoch,
    connection,
    epoch,
    group_seq,
    message,
    qos,
    retain,
    subscription_ids,
    dup,
});

/// Letters in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Letters {
    /// Whose.
    pub from: NodeEpoch,
    /// For whom: another epoch of the node takes none of them.
    pub to: NodeEpoch,
    /// The letters.
    pub letters: Vec<Sent<Letter>>,
}

record!(Letters { from, to, letters });
record!(Sent<Letter> { n, attempt, body });
choice!(Body<Letter>, "body of a letter" { 0 => Nop, 1 => Item(letter) });

/// The receipt of [`Letters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LettersReply {
    /// Everything below this number was taken, or dropped by a policy.
    Taken {
        /// The number that is wanted next.
        next: u64,
    },
    /// One before those of this sending is missing.
    Gap {
        /// The sending.
        attempt: Attempt,
        /// The number that is wanted.
        next: u64,
    },
    /// The one epoch or the other is over, or not known yet.
    Stranger,
}

choice!(LettersReply, "receipt of letters" {
    1 => Taken { next },
    2 => Gap { attempt, next },
    3 => Stranger,
});

said!(new: Letters = "letters", LettersReply = "a receipt of letters");
