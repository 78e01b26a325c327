//! MQTT 3.1.1 and 5: packets, codec, topics, filters and the subscription trie.
//!
//! Only [`codec`] knows how the two versions differ on the wire; everything above works with one
//! version-neutral [`Packet`]. Nothing here does I/O, reads a clock or spawns a task.

mod codec;
mod packet;
mod reason;
mod text;
mod topic;
mod topic_tree;
mod trie;

pub use packet::*;
pub use reason::ReasonCode;
pub use text::Text;
pub use topic::{ClientId, Filter, Topic};
