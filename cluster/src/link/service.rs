//! Who is asked: what links hand to the node.

use std::sync::Arc;

use bytes::Bytes;
use cluster_core::{NodeId, StartCount};

use super::connection::{Ended, Line};
use super::frame::Failure;
use super::greeting::{Refusal, Wish};
use super::join::Admitter;
use super::lane::{Channel, Lane};
use super::stream::LinkStream;

/// What serves the requests of other nodes.
///
/// Every method is called by a task that reads a connection, and must return at once: it puts what
/// it gets where it belongs (the grant bounds how much that can be) and waits for nothing.
pub trait Service: Send + Sync + 'static {
    /// Takes a request, to be answered by its [`Responder`] now or later. Requests of one lane of
    /// one peer come in the order in which they were sent.
    fn handle_request(&self, request: Incoming);

    /// Takes a connection without frames that a peer opened. The default ends it.
    fn handle_stream(&self, from: NodeId, stream: LinkStream) {
        drop((from, stream));
    }

    /// Takes the wish of a node to join, to be answered by its [`Admitter`] now or later. The default
    /// answers that nobody decides.
    fn handle_wish(&self, wish: Wish, from: &str, admitter: Admitter) {
        drop((wish, from, admitter));
    }

    /// Takes note of a connection that began, ended, or was refused.
    fn handle_event(&self, event: Event) {
        drop(event);
    }
}

/// A request of another node.
#[derive(Debug)]
pub struct Incoming {
    /// Who asks.
    pub from: NodeId,
    /// By which lane.
    pub lane: Lane,
    /// What it is about.
    pub channel: Channel,
    /// When who asked stops waiting, in milliseconds of this node's clock ([`runtime::Clock::mono_ms`]).
    pub deadline_ms: u64,
    /// Bytes that a reply may have.
    pub reply_bytes_max: u32,
    /// What its user says.
    pub payload: Bytes,
    /// Answers it.
    pub responder: Responder,
}

/// Answers one request; dropped, it says that there is no answer.
///
/// Until then the request holds its share of the grant: who keeps it for ever has the peer told
/// `Busy` in the end.
pub struct Responder {
    line: Arc<Line>,
    id: Option<u64>,
}

impl Responder {
    pub(super) fn new(line: Arc<Line>, id: u64) -> Self {
        Self { line, id: Some(id) }
    }

    /// Sends the reply, if the connection is still there. One that exceeds the room reserved for it
    /// reaches the peer as [`Failure::ReplyTooLarge`].
    pub fn reply(mut self, payload: Bytes) {
        if let Some(id) = self.id.take() {
            self.line.reply(id, Ok(payload));
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.line.reply(id, Err(Failure::Unanswered));
        }
    }
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Responder")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// What became of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It began: the handshake was good.
    Up {
        /// The peer.
        node: NodeId,
        /// The lane.
        lane: Lane,
        /// Whether this node dialed it.
        dialed: bool,
        /// The peer's run.
        start: StartCount,
    },
    /// It ended.
    Down {
        /// The peer.
        node: NodeId,
        /// The lane.
        lane: Lane,
        /// Whether this node dialed it.
        dialed: bool,
        /// Why.
        why: Ended,
    },
    /// A greeting was refused.
    Refused {
        /// Who it was, as the network says.
        address: String,
        /// Whether this node dialed.
        dialed: bool,
        /// Whether this node refused.
        here: bool,
        /// Why.
        refusal: Refusal,
    },
}
