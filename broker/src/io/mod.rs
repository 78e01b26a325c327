//! The io threads: each runs its connections, and gathers what crosses to other threads into
//! batches.

mod connection;
mod fanout;
mod outbound;
mod serve;
mod slots;
mod stream_subscribers;

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use mqtt::ReasonCode;
use runtime::{IoHandle, SendRefused};
use session::{Answer, ConnectionId, Delivery, GroupDelivery, Match, Message, Token, WillRow};

use crate::ids::Owed;
use crate::shard::RowsAt;

pub(crate) use serve::{Shared, serve};
pub(crate) use stream_subscribers::rules as persistent_rules;

/// Batches that may wait in an io thread's inbox.
pub(crate) const INBOX_BATCHES_LIMIT: usize = 4_096;

/// A batch for an io thread.
#[derive(Debug)]
pub(crate) enum IoMessage {
    /// A socket that now belongs to this thread, and its number among the node's connections.
    Accepted(TcpStream, SocketAddr, u32),
    /// Messages for connections of this thread, from a publisher on another.
    Messages(Vec<CrossMessage>),
    /// Answers and deliveries of a shard.
    Shard(Vec<ShardEvent>),
    /// Obligations that are settled.
    Settled(Vec<Owed>),
    /// The telemetry log stopped before these were durable: nothing may be acknowledged.
    Unsettled(Vec<Owed>),
    /// The telemetry log may have room again.
    TelemetryReady,
    /// End up to so many connections with this reason.
    Kick { reason: ReasonCode, count: usize },
    /// Drop everything and end the thread.
    End,
}

/// One message for connections of another thread.
#[derive(Debug)]
pub(crate) struct CrossMessage {
    pub(crate) message: Arc<Message>,
    pub(crate) targets: Vec<(ConnectionId, Match)>,
}

/// What a shard's host tells a connection, or the thread that publishes wills.
#[derive(Debug)]
pub(crate) enum ShardEvent {
    Opened {
        connection: ConnectionId,
        client: mqtt::ClientId,
        answer: Answer,
    },
    Answer {
        connection: ConnectionId,
        token: Token,
        answer: Answer,
    },
    Settled(Owed),
    Delivery(Box<Delivery>),
    Shared(Box<GroupDelivery>),
    Message {
        connection: ConnectionId,
        message: Arc<Message>,
        matched: Match,
    },
    Retained {
        connection: ConnectionId,
        token: Token,
        rows: Vec<RowsAt>,
    },
    TakenOver {
        connection: ConnectionId,
    },
    WillDue {
        shard: u16,
        will: Box<WillRow>,
    },
}

/// The inboxes of all io threads.
#[derive(Clone)]
pub(crate) struct Threads(Arc<[IoHandle<IoMessage>]>);

impl Threads {
    pub(crate) fn new(handles: Vec<IoHandle<IoMessage>>) -> Self {
        Self(handles.into())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Hands a batch over, waiting for room. An io thread waits for nobody, so this ends; once
    /// the thread has ended the node is stopping and the batch has no addressee.
    pub(crate) async fn send(&self, thread: usize, message: IoMessage) {
        if self.0[thread].send(message).await.is_err() {
            tracing::debug!(thread, "the io thread has ended: the node is stopping");
        }
    }

    /// As [`Threads::send`], from a thread outside tokio.
    pub(crate) fn blocking_send(&self, thread: usize, message: IoMessage) {
        if self.0[thread].blocking_send(message).is_err() {
            tracing::debug!(thread, "the io thread has ended: the node is stopping");
        }
    }

    /// Hands a batch over, or gives it back when there is no room now. `None` also when the
    /// thread has ended.
    pub(crate) fn try_send(&self, thread: usize, message: IoMessage) -> Option<IoMessage> {
        match self.0[thread].try_send(message) {
            Ok(()) | Err(SendRefused::Ended(_)) => None,
            Err(SendRefused::Full(message)) => Some(message),
        }
    }
}
