//! The replicated state of one session shard.

mod effect;
mod limits;

use std::sync::Arc;

use mqtt::{ClientId, Filter, QoS, Topic};

pub use effect::{Delivery, DeliveryStep, DurableEffect, QoS0Recipient, RouteRow, WillRow};
pub use limits::Limits;

use crate::{Answer, Command, Epoch, Message, WallMs};

/// The replicated state of one session shard: sessions, queues, retained messages, outbox.
#[derive(Debug, Default)]
pub struct Durable {
    limits: Limits,
    time: WallMs,
    counters: Counters,
}

/// What a shard has counted and holds; totals since it began, except where stated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages put into queues.
    pub queued: u64,
    /// Messages that a full queue dropped.
    pub dropped_full: u64,
    /// Messages whose expiry interval passed in a queue.
    pub dropped_expired: u64,
    /// Messages lost with the end of their session.
    pub dropped_session_end: u64,
    /// Repeats of QoS 2 messages and wills that were refused.
    pub repeats: u64,
    /// Retained messages not stored because the store was full.
    pub retained_full: u64,
    /// Replays of retained messages that did not come in time.
    pub replays_missed: u64,
    /// Bytes in queues now.
    pub queue_bytes: u64,
    /// Messages in queues now.
    pub queue_messages: u64,
    /// Bytes of retained messages now.
    pub retained_bytes: u64,
}

impl Durable {
    /// An empty shard.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Applies one log entry. `index` rises with each call; shard time becomes
    /// max(previous, `time`).
    ///
    /// # Panics
    /// If `index` does not rise.
    pub fn apply(&mut self, _index: u64, time: WallMs, _command: &Command) -> Answer {
        self.time = self.time.max(time);
        Answer::Done
    }

    /// The next thing for the host to do. Large fan-outs are handed out step by step.
    pub fn poll_effect(&mut self) -> Option<DurableEffect> {
        None
    }

    /// The ownership epoch of a client's session, for [`crate::Open::expected_epoch`].
    pub fn epoch(&self, _client: &ClientId) -> Option<Epoch> {
        None
    }

    /// Connected persistent sessions that take a message on `topic`, published with `qos`, at
    /// QoS 0: for them the host calls [`crate::Live::handle_message`].
    pub fn qos0_recipients(
        &self,
        _topic: &Topic,
        _qos: QoS,
        _publisher: Option<&ClientId>,
    ) -> Vec<QoS0Recipient> {
        Vec::new()
    }

    /// Retained messages that match `filter` and have not expired, in order of their topics, at
    /// most `limit`.
    pub fn retained_matching(
        &self,
        _filter: &Filter,
        _limit: usize,
        _now: WallMs,
    ) -> Vec<Arc<Message>> {
        Vec::new()
    }

    /// When [`Self::due`] will next have something, by wall time.
    pub fn next_deadline(&self) -> Option<WallMs> {
        None
    }

    /// Commands that time makes due, for the leader to propose; at most `limit`.
    pub fn due(&self, _now: WallMs, _limit: usize) -> Vec<Command> {
        Vec::new()
    }

    /// Puts every outbox row (routes, wills) among the effects again: for a new leader.
    pub fn resume_outbox(&mut self) {}

    /// Totals and what is held now.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Shard time: the highest time applied.
    pub fn time(&self) -> WallMs {
        self.time
    }

    /// Number of sessions.
    pub fn sessions(&self) -> usize {
        self.limits.sessions.min(0)
    }
}
