//! What connections say about themselves, for an operator.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mqtt::{ClientId, ReasonCode, Topic};
use session::{ConnectionId, LiveView};
use tokio::sync::{mpsc, oneshot};

use super::serve::Io;
use super::slots::ConnectionMessage;
use super::{IoMessage, Threads};
use crate::ids::Place;
use crate::rebalance::HomeAsked;

/// Connections that one report is asked of at most.
const REPORTS_MAX: usize = 1_000;
/// Subscriptions that one connection names at most.
pub(super) const SUBSCRIPTIONS_MAX: usize = 1_000;
/// How long an io thread or connection may take: they wait for nobody.
const PATIENCE: Duration = Duration::from_secs(1);

/// A connection, as it says itself.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) connection: ConnectionId,
    /// Once it is admitted.
    pub(crate) client: Option<ClientId>,
    pub(crate) peer: Option<SocketAddr>,
    /// Bytes that the socket has not taken.
    pub(crate) unsent_bytes: usize,
    pub(crate) view: LiveView,
}

/// A question to a connection. Once all have answered, or ended, nobody holds the sender any more.
#[derive(Clone, Debug)]
pub(crate) struct ReportAsked {
    /// Of the subscriptions of a clean session those that match are named; all without a topic.
    pub(super) topic: Option<Arc<Topic>>,
    /// Has room for all that are asked.
    pub(super) tell: mpsc::Sender<Box<Report>>,
}

/// How a connection is to end.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) connection: ConnectionId,
    pub(crate) reason: ReasonCode,
    /// Whether the session ends too.
    pub(crate) ends_session: bool,
    /// Is told whether there was such a connection.
    tell: oneshot::Sender<bool>,
}

impl Threads {
    /// Asks connections of this node, [`REPORTS_MAX`] at most; of those that have ended, or do not
    /// answer within a second, there is no report.
    pub(crate) async fn reports(
        &self,
        mut connections: Vec<ConnectionId>,
        topic: Option<Topic>,
    ) -> Vec<Report> {
        connections.truncate(REPORTS_MAX);
        let (tell, mut told) = mpsc::channel(connections.len().max(1));
        let asked = ReportAsked {
            topic: topic.map(Arc::new),
            tell,
        };
        let mut by_thread: Vec<Vec<ConnectionId>> = vec![Vec::new(); self.len()];
        for id in connections {
            // A number that somebody made up may name a thread that there is not.
            if let Some(of_thread) = by_thread.get_mut(Place::of(id).thread) {
                of_thread.push(id);
            }
        }
        let mut reports = Vec::new();
        let gather = async {
            for (thread, ids) in by_thread.into_iter().enumerate() {
                if !ids.is_empty() {
                    self.send(thread, IoMessage::Report(ids, asked.clone()))
                        .await;
                }
            }
            drop(asked);
            while let Some(report) = told.recv().await {
                reports.push(*report);
            }
        };
        if tokio::time::timeout(PATIENCE, gather).await.is_err() {
            tracing::warn!("not all connections said something about themselves in time");
        }
        reports
    }

    /// Ends a connection of this node; says whether there was one.
    pub(crate) async fn end(
        &self,
        connection: ConnectionId,
        reason: ReasonCode,
        ends_session: bool,
    ) -> bool {
        let thread = Place::of(connection).thread;
        if thread >= self.len() {
            return false;
        }
        let (tell, told) = oneshot::channel();
        let ending = Ending {
            connection,
            reason,
            ends_session,
            tell,
        };
        self.send(thread, IoMessage::EndOne(ending)).await;
        told.await.unwrap_or(false)
    }
}

impl Io {
    pub(super) fn ask_reports(&self, connections: Vec<ConnectionId>, asked: &ReportAsked) {
        for id in connections {
            self.tell(id, ConnectionMessage::Report(asked.clone()));
        }
    }

    /// Asks connections to go to the node of their shard, if that is another one.
    pub(super) fn ask_home(
        &self,
        from: usize,
        count: usize,
        asked: &HomeAsked,
        tell: oneshot::Sender<Option<usize>>,
    ) {
        let slots = self.slots.borrow();
        let (mailboxes, next) = slots.from(from, count);
        for mailbox in mailboxes {
            let message = ConnectionMessage::GoHome(asked.clone());
            if mailbox
                .push(runtime::Priority::Control, 0, message)
                .is_err()
            {
                tracing::debug!("the connection has just ended");
            }
        }
        if tell.send(next).is_err() {
            tracing::debug!("nobody waits any more for the end of a look");
        }
    }

    /// What a shard has told its clients may be lost: they are to come again, and hear what it knows.
    pub(super) fn end_of_shard(&self, shard: u16) {
        for mailbox in self.slots.borrow().all() {
            let message = ConnectionMessage::ShardRecovered(shard);
            if mailbox
                .push(runtime::Priority::Control, 0, message)
                .is_err()
            {
                tracing::debug!("the connection has just ended");
            }
        }
    }

    pub(super) fn end_one(&self, ending: Ending) {
        let is_there = self.slots.borrow().get(ending.connection).is_some();
        if is_there {
            let message = match ending.ends_session {
                true => ConnectionMessage::EndSession(ending.reason),
                false => ConnectionMessage::Kick(ending.reason),
            };
            self.tell(ending.connection, message);
        }
        if ending.tell.send(is_there).is_err() {
            tracing::debug!("nobody waits any more for the end of a connection");
        }
    }
}
