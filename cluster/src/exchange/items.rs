//! What a node asks of the leader of a shard.

use std::sync::Arc;

use cluster_core::NodeId;
use session::{Message, Retain};

use super::said;
use crate::Outcome;
use crate::stored::ShardItem;
use crate::stored::wire::{choice, record};

/// Items of a node's numbered stream to a shard, in order. Messages in them have the wall time of
/// their node.
#[derive(Clone, Debug, PartialEq)]
pub struct Items {
    /// [`ShardItem::Item`]s; a leader refuses others.
    pub items: Vec<ShardItem>,
}

record!(Items { items });

/// What became of [`Items`].
#[derive(Clone, Debug, PartialEq)]
pub enum ItemsReply {
    /// Each is in the log, now or before, or was refused by its machine.
    Landed(Vec<Outcome>),
    /// Nothing is known to be in the log: another node leads, which this one may know.
    NotLeading(Option<NodeId>),
    /// Some may be in the log and some not; to be sent again.
    Unknown,
}

choice!(ItemsReply, "reply to items" {
    1 => Landed(outcomes),
    2 => NotLeading(leader),
    3 => Unknown,
});

/// What goes past the log: QoS 0, which may be lost.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Passing {
    /// For connected sessions that match.
    pub messages: Vec<Arc<Message>>,
    /// To be retained if the shard has room.
    pub retains: Vec<Retain>,
}

record!(Passing { messages, retains });

said!(
    shared: Items = "items of a stream",
    ItemsReply = "a reply to items",
    Passing = "messages past the log",
);
