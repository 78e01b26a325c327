//! The io threads: each runs its connections, and gathers what crosses to other threads into
//! batches.

mod arrivals;
mod connection;
mod fanout;
mod open;
mod outbound;
mod report;
mod serve;
mod slots;
mod stream_subscribers;

use std::sync::Arc;

use mqtt::ReasonCode;
use runtime::{IoHandle, SendRefused};
use session::{Answer, ConnectionId, Delivery, GroupDelivery, Match, Message, Token, WillRow};
use tokio::sync::oneshot;

use crate::ids::Owed;
use crate::rebalance::HomeAsked;
use crate::shard::RowsAt;

pub(crate) use arrivals::Arrival;
use open::OpenConnections;
pub(crate) use report::Report;
use report::{Ending, ReportAsked};
pub(crate) use serve::{Shared, serve};
pub(crate) use stream_subscribers::rules as persistent_rules;

/// Batches that may wait in an io thread's inbox.
pub(crate) const INBOX_BATCHES_LIMIT: usize = 4_096;

/// A batch for an io thread.
#[derive(Debug)]
pub(crate) enum IoMessage {
    /// A socket that now belongs to this thread.
    Accepted(Arrival),
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
    /// The next [`IoMessage::Kick`] begins with the first connection.
    KickFromFirst,
    /// Have up to so many connections, from a slot on, go to the node of their shard; says where the others
    /// begin.
    GoHome {
        from: usize,
        count: usize,
        asked: HomeAsked,
        next: oneshot::Sender<Option<usize>>,
    },
    /// Have these connections say something about themselves.
    Report(Vec<ConnectionId>, ReportAsked),
    /// End one connection.
    EndOne(Ending),
    /// End those whose clients are of this shard.
    ShardRecovered(u16),
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

/// The inboxes of all io threads, and which connections are open there.
#[derive(Clone)]
pub(crate) struct Threads {
    inboxes: Arc<[IoHandle<IoMessage>]>,
    open: Arc<OpenConnections>,
}

impl Threads {
    pub(crate) fn new(handles: Vec<IoHandle<IoMessage>>) -> Self {
        Self {
            open: Arc::new(OpenConnections::new(handles.len())),
            inboxes: handles.into(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.inboxes.len()
    }

    /// A connection begins.
    fn begin(&self, id: ConnectionId) {
        self.open.begin(id);
    }

    /// Whether a connection has not ended, as far as is known outside its thread.
    pub(crate) fn is_open(&self, id: ConnectionId) -> bool {
        self.open.is_open(id)
    }

    /// Hands a batch over, waiting for room. An io thread waits for nobody, so this ends; once
    /// the thread has ended the node is stopping and the batch has no addressee.
    pub(crate) async fn send(&self, thread: usize, message: IoMessage) {
        if self.inboxes[thread].send(message).await.is_err() {
            tracing::debug!(thread, "the io thread has ended: the node is stopping");
        }
    }

    /// As [`Threads::send`], from a thread outside tokio.
    pub(crate) fn blocking_send(&self, thread: usize, message: IoMessage) {
        if self.inboxes[thread].blocking_send(message).is_err() {
            tracing::debug!(thread, "the io thread has ended: the node is stopping");
        }
    }

    /// Hands a batch over, or gives it back when there is no room now. `None` also when the
    /// thread has ended.
    pub(crate) fn try_send(&self, thread: usize, message: IoMessage) -> Option<IoMessage> {
        match self.inboxes[thread].try_send(message) {
            Ok(()) | Err(SendRefused::Ended(_)) => None,
            Err(SendRefused::Full(message)) => Some(message),
        }
    }
}
