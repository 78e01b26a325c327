//! One connection, server side.

mod effect;

use std::collections::VecDeque;
use std::sync::Arc;

use mqtt::{ClientId, Packet, ReasonCode, Version};

pub use effect::{
    Ack, AckKind, Admitted, Closed, ClosedBy, Credentials, Effect, Inbound, Outgoing,
};

use crate::{
    Acks, Answer, Config, ConnectionId, Delivery, Epoch, Match, Message, MonoMs, NodeEpoch, Now,
    Seq, Token,
};

/// One connection, server side: windows, packet ids, aliases, keep alive, order of
/// acknowledgements; and the subscriptions and queue of a clean session.
#[derive(Debug)]
pub struct Live {
    config: Arc<Config>,
    connection: ConnectionId,
    node_epoch: NodeEpoch,
    effects: VecDeque<Effect>,
    epoch: Epoch,
    client: Option<ClientId>,
    version: Version,
}

/// Result of [`Effect::Open`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// [`Answer::Opened`].
    Yes {
        /// The ownership.
        epoch: Epoch,
        /// The session's incarnation.
        incarnation: Epoch,
        /// Whether a session goes on.
        session_present: bool,
    },
    /// Refused with this code: 0x85 for [`Answer::OtherIdentity`], 0x88 while the shard has no
    /// leader.
    No(ReasonCode),
}

impl Live {
    /// A connection that was just accepted; it has `connect_timeout_ms` to send CONNECT.
    pub fn new(
        config: &Arc<Config>,
        node_epoch: NodeEpoch,
        connection: ConnectionId,
        _now: Now,
    ) -> Self {
        Self {
            config: Arc::clone(config),
            connection,
            node_epoch,
            effects: VecDeque::new(),
            epoch: Epoch(0),
            client: None,
            version: Version::V5,
        }
    }

    /// Takes a packet from the client.
    pub fn handle_packet(&mut self, _packet: Packet, _now: Now) {}

    /// The client's bytes are no packet: answers with the reason (MQTT 5) and closes.
    pub fn handle_malformed(&mut self, _reason: ReasonCode, _now: Now) {}

    /// Answers [`Effect::Authenticate`]: the client may connect.
    pub fn handle_admitted(&mut self, _admitted: Admitted, _now: Now) {}

    /// Answers [`Effect::Authenticate`]: the client may not connect.
    pub fn handle_refused(&mut self, _reason: ReasonCode, _now: Now) {}

    /// Answers [`Effect::Open`].
    pub fn handle_opened(&mut self, _opened: Opened, _now: Now) {}

    /// Answers [`Effect::Publish`], [`Effect::Subscribe`], [`Effect::Unsubscribe`]: every
    /// obligation is settled. `outcome` is Success, No matching subscribers, or the refusal.
    pub fn handle_settled(&mut self, _token: Token, _outcome: ReasonCode, _now: Now) {}

    /// Answers [`Effect::Propose`].
    pub fn handle_answer(&mut self, _token: Token, _answer: Answer, _now: Now) {}

    /// Answers [`Effect::Retained`]: the rows of each filter, in the order of the filters. Empty
    /// lists when shards did not answer in time.
    pub fn handle_retained(&mut self, _token: Token, _rows: Vec<Vec<Arc<Message>>>, _now: Now) {}

    /// Takes a message of the persistent session's queue.
    pub fn handle_delivery(&mut self, _delivery: Delivery, _now: Now) {}

    /// Takes a message from the router: for a clean session any, for a persistent one QoS 0.
    pub fn handle_message(&mut self, _message: Arc<Message>, _matched: Match, _now: Now) {}

    /// The socket takes no more: deliveries wait here.
    pub fn handle_blocked(&mut self) {}

    /// The socket takes bytes again.
    pub fn handle_writable(&mut self, _now: Now) {}

    /// The shell stopped (true) or resumed (false) reading the socket: keep alive is suspended
    /// meanwhile.
    pub fn handle_read_stopped(&mut self, _stopped: bool, _now: Now) {}

    /// Time passed; does nothing before [`Self::deadline`].
    pub fn handle_timeout(&mut self, _now: Now) {}

    /// The socket ended without DISCONNECT.
    pub fn handle_closed(&mut self, _now: Now) {}

    /// Ends the connection from the server's side: 0x8E (taken over), 0x8B, 0x98, 0x9C …
    pub fn handle_kick(&mut self, _reason: ReasonCode, _now: Now) {}

    /// The next thing for the shell to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Self::handle_timeout`] is to be called. Moves with every packet: look again when
    /// an old one passes rather than after each packet.
    pub fn deadline(&self) -> Option<MonoMs> {
        None
    }

    /// Whether the client's window is full (3.1.1): PUBLISH with QoS > 0 waits in the stash.
    pub fn is_paused(&self) -> bool {
        false
    }

    /// Whether the connection is closed: every `handle_*` does nothing.
    pub fn is_closed(&self) -> bool {
        false
    }

    /// Gives back buffers that an idle connection does not need.
    pub fn trim(&mut self) {
        self.effects.shrink_to_fit();
    }

    /// The client, once admitted.
    pub fn client(&self) -> Option<&ClientId> {
        self.client.as_ref()
    }

    /// The ownership, once opened.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether the session lives in its shard.
    pub fn is_persistent(&self) -> bool {
        self.config.receive_maximum == 0 && self.node_epoch.0 == self.connection.0
    }

    /// The protocol version (MQTT 5 before CONNECT).
    pub fn version(&self) -> Version {
        self.version
    }

    /// The entry of [`crate::Command::Ack`] for sequences from [`Effect::Acked`].
    pub fn acks(&self, seqs: Vec<Seq>) -> Option<Acks> {
        Some(effect::acks(self.client.as_ref()?, self.epoch, seqs))
    }
}
