//! The row of one session.

use mqtt::{ClientId, Filter, Topic, Will};

use super::qos2::Q2Open;
use super::queue::Queue;
use crate::{ConnectionId, Epoch, Identity, NodeEpoch, Open, Subscription, WallMs};

/// A session: who owns it, until when it lives, and, if it is persistent, its state.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) identity: Identity,
    pub(super) incarnation: Epoch,
    pub(super) epoch: Epoch,
    /// The connection that opened it last; with `node_epoch` it tells a repeated `Open`.
    pub(super) connection: ConnectionId,
    pub(super) node_epoch: NodeEpoch,
    /// When the owner went; `None` while it is there.
    pub(super) disconnected: Option<WallMs>,
    /// What the last `Open` answered.
    pub(super) session_present: bool,
    pub(super) expiry_s: u32,
    pub(super) receive_maximum: u16,
    /// The will of the owner, or of the one that went and whose delay runs.
    pub(super) will: Option<Box<Will>>,
    /// The entry of the deadline index.
    pub(super) deadline: Option<WallMs>,
    /// Sequences below this may have been sent by an earlier owner.
    pub(super) dup_end: u64,
    /// Whether it stands in the list of those with deliveries.
    pub(super) is_ready: bool,
    /// Whether it stands in the list of those that changed.
    pub(super) is_marked: bool,
    /// Whether there is a row of it.
    pub(super) is_stored: bool,
    pub(super) state: Option<Box<State>>,
}

/// What only a persistent session has.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) subscriptions: Vec<(Filter, Subscription)>,
    pub(super) queue: Queue,
    pub(super) q2: Q2Open,
    pub(super) replays: Vec<PendingReplay>,
}

/// A subscription whose retained messages are awaited.
#[derive(Debug)]
pub(super) struct PendingReplay {
    pub(super) filter: Filter,
    pub(super) until: WallMs,
}

impl Session {
    pub(super) fn begin(open: &Open, epoch: Epoch) -> Self {
        Self {
            identity: open.identity.clone(),
            incarnation: epoch,
            epoch,
            connection: open.connection,
            node_epoch: open.node_epoch,
            disconnected: None,
            session_present: false,
            expiry_s: open.expiry_s,
            receive_maximum: open.receive_maximum,
            will: open.will.clone(),
            deadline: None,
            dup_end: 0,
            is_ready: false,
            is_marked: false,
            is_stored: false,
            state: open.persistent.then(Box::default),
        }
    }

    /// Hands the session to a new owner.
    pub(super) fn resume(&mut self, open: &Open, epoch: Epoch) {
        self.epoch = epoch;
        self.connection = open.connection;
        self.node_epoch = open.node_epoch;
        self.disconnected = None;
        self.session_present = true;
        self.expiry_s = open.expiry_s;
        self.receive_maximum = open.receive_maximum;
        self.will.clone_from(&open.will);
        if let Some(state) = &mut self.state {
            self.dup_end = state.queue.restart_delivery();
        }
    }

    /// Whether its identity is bound to its client id, as one who is not authenticated has it.
    pub(super) fn is_bound(&self, client: &ClientId) -> bool {
        self.identity.0 == *client.text()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.disconnected.is_none()
    }

    /// When the expiry interval passes, if it runs.
    pub(super) fn expires(&self) -> Option<WallMs> {
        let since = self.disconnected?;
        (self.expiry_s != u32::MAX).then(|| since.plus_s(u64::from(self.expiry_s)))
    }

    /// When the will delay passes, if it runs.
    pub(super) fn will_due(&self) -> Option<WallMs> {
        let since = self.disconnected?;
        let delay_s = self.will.as_ref()?.delay_s.unwrap_or(0);
        Some(since.plus_s(u64::from(delay_s)))
    }

    /// The next time at which something of it is due.
    pub(super) fn next_deadline(&self) -> Option<WallMs> {
        let state = self.state.as_ref();
        let replay = state.and_then(|s| s.replays.iter().map(|r| r.until).min());
        let message = state.and_then(|s| s.queue.expiry_min());
        let all = [self.expires(), self.will_due(), replay, message];
        all.into_iter().flatten().min()
    }
}

impl State {
    pub(super) fn subscription(&self, filter: &Filter) -> Option<&Subscription> {
        let found = self.subscriptions.iter().find(|(f, _)| f == filter);
        found.map(|(_, subscription)| subscription)
    }

    pub(super) fn is_held(&self, topic: &Topic) -> bool {
        self.replays.iter().any(|r| r.filter.matches(topic))
    }

    /// Ends the wait for a replay; says whether one was awaited.
    pub(super) fn end_replay(&mut self, filter: &Filter) -> bool {
        let before = self.replays.len();
        self.replays.retain(|r| r.filter != *filter);
        before != self.replays.len()
    }

    /// Lets go what no pending replay holds any longer.
    pub(super) fn unhold(&mut self) {
        let Self { queue, replays, .. } = self;
        queue.unhold(|topic| replays.iter().any(|r| r.filter.matches(topic)));
    }
}
