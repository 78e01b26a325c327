//! Links between the nodes of a cluster: how one asks another, and how it knows that it is there.
//!
//! Each node dials each of its peers, once for every [`Lane`]: what it asks goes out on the
//! connections that it dialed, and the replies come back there. A connection begins with a
//! handshake that says who is who; then it carries frames, each with a checksum, all of a turn in
//! one write. `docs/formats/link.md` has the bytes, `docs/adr/008` the reasons.
//!
//! ```text
//!  Peer::send ─► Session ─ queue ─► one write a turn ══ lane ══► one read buffer ─► Session ─► Service
//!     ▲          Credits: what is open, bounded by the grant                                │
//!     └───────── Session ◄─ one read buffer ◄══ lane ══ one write a turn ◄─ queue ◄─ Responder
//! ```
//!
//! Nobody waits while holding what a peer waits for: who asks beyond the grant is told so at once, a
//! reply has its room reserved when its request leaves, and the task that reads a connection hands
//! over what came without waiting. Rules are values ([`Decoder`], [`Greeting`], [`Roster`],
//! [`Credits`], [`Backoff`]); the tasks around them only read, write and sleep.

mod backoff;
mod config;
mod connection;
mod counters;
mod credits;
mod dialer;
mod frame;
mod greet;
mod greeting;
mod handshake;
mod join;
mod lane;
mod links;
mod listener;
mod memory;
mod net;
mod peer;
mod peer_net;
mod service;
mod session;
mod stream;
mod tcp;
mod tls;

#[cfg(test)]
mod bench_test;
#[cfg(test)]
mod chaos_test;
#[cfg(test)]
mod frame_test;
#[cfg(test)]
mod greeting_test;
#[cfg(test)]
mod handshake_test;
#[cfg(test)]
mod join_test;
#[cfg(test)]
mod link_test;
#[cfg(test)]
mod refusal_test;
#[cfg(test)]
mod session_test;
#[cfg(test)]
mod tcp_test;
#[cfg(test)]
mod test_nodes;
#[cfg(test)]
mod tls_test;

pub use backoff::{Backoff, BackoffLimits};
pub use config::LinkConfig;
pub use connection::Ended;
pub use counters::{Counter, LaneCounters, LinkCounters};
pub use credits::{Credits, Exceeded, Share};
pub use frame::{
    CloseReason, Decoder, Failure, Frame, HEADER_BYTES, Malformed, PAYLOAD_BYTES_MAX, Request,
};
pub use greeting::{
    Admission, ClusterId, Greeting, Hello, NodeIdentity, PROTOCOL_VERSION, Refusal, RefusalCode,
    Welcome, Wish,
};
pub use handshake::{Dialing, Met, NODES_MAX, Rejected, Roster, answer};
pub use join::{ADMISSION_BYTES_MAX, Admitter, NotAdmitted, apply};
pub use lane::{Channel, Grant, Lane, LaneLimits};
pub use links::{Broken, LinkParts, LinkService, Links, NoStream};
pub use memory::{Faults, MemoryHub, MemoryListener, MemoryNet, MemoryStream};
pub use net::{ByteStream, Listen, Net};
pub use peer::{Ask, LaneStatus, Peer, PeerStatus, PendingReply, RequestError};
pub use peer_net::{PeerListening, PeerNet, PeerStream};
pub use service::{Event, Incoming, Responder, Service};
pub use session::Violation;
pub use stream::LinkStream;
pub use tcp::{TcpListening, TcpNet};
pub use tls::{
    CLUSTER_NAME, TlsError, TlsIdentity, TlsLinkStream, TlsListening, TlsNet, TlsOpening, node_name,
};
