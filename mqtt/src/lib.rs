//! MQTT 3.1.1 and 5: packets, codec, topics, filters and the subscription trie.
//!
//! Only the codec ([`Decoder`], [`encode`]) knows how the two versions differ on the wire;
//! everything above works with one version-neutral [`Packet`]. Nothing here does I/O, reads a
//! clock or spawns a task.
//!
//! ```
//! use bytes::BytesMut;
//! use tidewire_mqtt::{Decoder, Limits, Packet, Version, encode};
//!
//! let mut received = BytesMut::from(&b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0\xc0"[..]);
//! let mut decoder = Decoder::new(Limits::default().unauthenticated());
//!
//! let connect = decoder.decode(&mut received)?;
//! assert!(matches!(connect, Some(Packet::Connect(_))));
//! assert_eq!(decoder.version(), Some(Version::V311));
//! assert_eq!(decoder.decode(&mut received)?, None); // half a PINGREQ stays
//!
//! let mut answer = BytesMut::new();
//! encode(&Packet::PingResp, Version::V311, &mut answer);
//! assert_eq!(&answer[..], b"\xd0\0");
//! # Ok::<(), tidewire_mqtt::DecodeError>(())
//! ```

mod codec;
mod limits;
mod packet;
mod reason;
mod template;
mod text;
mod topic;
mod topic_tree;
mod trie;

pub use codec::{
    AckKind, DecodeError, Decoder, PublishRef, Role, TooLarge, encode, encode_ack, encode_publish,
    encode_within, encoded_len, encoded_publish_len,
};
pub use limits::{Limits, UNAUTHENTICATED_PACKET_BYTES_MAX};
pub use packet::*;
pub use reason::{ReasonCode, UnknownReasonCode};
pub use template::{
    TEMPLATE_BYTES_MAX, TEMPLATES_MAX, Template, TemplateError, TemplateFault, Templates,
};
pub use text::{Text, TextError};
pub use topic::{ClientId, ClientIdError, Filter, FilterError, LEVELS_MAX, Topic, TopicError};
pub use topic_tree::TopicTree;
pub use trie::{Iter as TrieIter, Trie, VISITED_NODES_MAX, VisitLimit};
