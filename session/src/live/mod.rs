//! One connection, server side.

mod connect;
mod deliver;
mod effect;
#[cfg(test)]
mod failover_test;
#[cfg(test)]
mod live_test;
mod publish_in;
mod reasons;
mod requests;
mod shared_seqs;
mod subscribe;
#[cfg(test)]
mod subscribe_test;
mod timers;
mod view;

use std::collections::VecDeque;
use std::sync::Arc;

use mqtt::{
    ClientId, Connect, Disconnect, Filter, Packet, PacketId, ReasonCode, Text, Topic, Version,
};

use deliver::Outbound;
pub use effect::{
    Ack, AckKind, Admitted, Closed, ClosedBy, Credentials, Effect, Inbound, Outgoing,
};
use publish_in::PublishIn;
use requests::Requests;
use shared_seqs::SharedSeqs;
pub use view::LiveView;

use crate::{
    Acks, Answer, Close, Config, ConnectionId, Delivery, Epoch, GroupDelivery, Match, Message,
    MonoMs, NodeEpoch, Now, Seq, Subscription, Token, WillFate,
};

/// One connection, server side: windows, packet ids, aliases, keep alive, order of
/// acknowledgements; and the subscriptions and queue of a clean session.
///
/// Once closed, every `handle_*` does nothing. A connection that ends while its
/// [`Effect::Open`] is unanswered emits [`Effect::Close`] only after
/// [`Self::handle_opened`]: the shell keeps it until then.
#[derive(Debug)]
pub struct Live {
    config: Arc<Config>,
    effects: VecDeque<Effect>,
    client: Option<ClientId>,
    connection: ConnectionId,
    node_epoch: NodeEpoch,
    epoch: Epoch,
    incarnation: Epoch,
    tokens: u64,
    publish_seq: u64,
    /// One above the last sequence of the session that a leader of its shard handed over.
    delivered_end: u64,
    accepted: MonoMs,
    last_heard: MonoMs,
    /// Largest packet the client takes.
    packet_bytes_max: u32,
    expiry_s: u32,
    keep_alive_s: u16,
    /// QoS > 0 messages the client takes at once.
    receive_maximum: u16,
    phase: Phase,
    version: Version,
    is_persistent: bool,
    is_blocked: bool,
    is_read_stopped: bool,
    /// The session is to end with the connection.
    is_to_end: bool,
    connecting: Option<Box<Connect>>,
    early: VecDeque<Packet>,
    inbound: Option<Box<PublishIn>>,
    outbound: Option<Box<Outbound>>,
    requests: Option<Box<Requests>>,
    shared_seqs: Option<Box<SharedSeqs>>,
    aliases: Vec<Topic>,
    /// Subscriptions of a clean session, but the shared ones: those are the shard's.
    local: Vec<(Filter, Subscription)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Accepted,
    Authenticating,
    Opening,
    /// The connection ended while its `Open` was unanswered.
    ClosingOpen,
    Open,
    Closed,
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

/// Messages that a connection dropped; QoS 0, or of a clean session, unless stated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// The queue was full.
    pub full: u64,
    /// The expiry interval passed before it was sent; also of persistent sessions.
    pub expired: u64,
    /// Larger than the client's Maximum Packet Size; also of persistent sessions.
    pub too_large: u64,
}

impl Live {
    /// A connection that was just accepted; it has `connect_timeout_ms` to be connected.
    pub fn new(
        config: &Arc<Config>,
        node_epoch: NodeEpoch,
        connection: ConnectionId,
        now: Now,
    ) -> Self {
        Self {
            config: Arc::clone(config),
            effects: VecDeque::new(),
            client: None,
            connection,
            node_epoch,
            epoch: Epoch(0),
            incarnation: Epoch(0),
            tokens: 0,
            publish_seq: 0,
            delivered_end: 0,
            accepted: now.mono,
            last_heard: now.mono,
            packet_bytes_max: u32::MAX,
            expiry_s: 0,
            keep_alive_s: 0,
            receive_maximum: 0,
            phase: Phase::Accepted,
            version: Version::V5,
            is_persistent: false,
            is_blocked: false,
            is_read_stopped: false,
            is_to_end: false,
            connecting: None,
            early: VecDeque::new(),
            inbound: None,
            outbound: None,
            requests: None,
            shared_seqs: None,
            aliases: Vec::new(),
            local: Vec::new(),
        }
    }

    /// Takes a packet from the client.
    pub fn handle_packet(&mut self, packet: Packet, now: Now) {
        match self.phase {
            Phase::Closed | Phase::ClosingOpen => return,
            Phase::Open => {}
            _ => return self.handle_before_connack(packet, now),
        }
        self.last_heard = now.mono;
        match packet {
            Packet::Publish(publish) => self.handle_publish(publish, now),
            Packet::PubAck(ack) => self.handle_puback(&ack, now),
            Packet::PubRec(ack) => self.handle_pubrec(&ack, now),
            Packet::PubRel(ack) => self.handle_pubrel(ack.packet_id, now),
            Packet::PubComp(ack) => self.handle_pubcomp(&ack, now),
            Packet::Subscribe(subscribe) => self.handle_subscribe(*subscribe, now),
            Packet::Unsubscribe(unsubscribe) => self.handle_unsubscribe(&unsubscribe, now),
            Packet::PingReq => self.effects.push_back(Effect::Send(Packet::PingResp)),
            Packet::Disconnect(disconnect) => self.handle_disconnect(&disconnect),
            //# [MQTT-3.1.0-2] ... process a second CONNECT packet ... as a Protocol Error
            Packet::Connect(_)
            // [MQTT-4.12.0-7]: no method was agreed on.
            | Packet::Auth(_)
            | Packet::ConnAck(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => self.close_server(ReasonCode::ProtocolError),
        }
    }

    /// The client's bytes are no packet: answers with the reason (MQTT 5) and closes
    /// `[MQTT-4.13.1-1]`.
    pub fn handle_malformed(&mut self, reason: ReasonCode, _now: Now) {
        self.close_server(reason);
    }

    /// Answers [`Effect::Authenticate`]: the client may connect.
    pub fn handle_admitted(&mut self, admitted: Admitted, _now: Now) {
        if self.phase == Phase::Authenticating {
            let Admitted { identity, client } = admitted;
            self.admitted(&identity, &client);
        }
    }

    /// Answers [`Effect::Authenticate`]: the client may not connect.
    pub fn handle_refused(&mut self, reason: ReasonCode, _now: Now) {
        if self.phase == Phase::Authenticating {
            self.refuse(reason);
        }
    }

    /// Answers [`Effect::Open`].
    pub fn handle_opened(&mut self, opened: Opened, now: Now) {
        if matches!(self.phase, Phase::Opening | Phase::ClosingOpen) {
            self.opened(opened, now);
        }
    }

    /// Answers [`Effect::Publish`], [`Effect::Subscribe`], [`Effect::Unsubscribe`]: every
    /// obligation is settled. `outcome` is Success, No matching subscribers, or the refusal.
    pub fn handle_settled(&mut self, token: Token, outcome: ReasonCode, now: Now) {
        if self.phase == Phase::Open && !self.publish_settled(token, outcome, now) {
            self.request_settled(token, outcome, now);
        }
    }

    /// Answers [`Effect::Propose`].
    pub fn handle_answer(&mut self, token: Token, answer: Answer, now: Now) {
        if self.phase == Phase::Open {
            self.answered(token, answer, now);
        }
    }

    /// The shell cannot tell whether the session is still this connection's: asks the shard, and answers with
    /// [`Effect::Confirmed`]. If it is another's, the connection ends with 0x8E.
    pub fn handle_doubt(&mut self, now: Now) {
        if self.phase == Phase::Open {
            self.ask_whether_own(now);
        }
    }

    /// Answers [`Effect::Retained`]: the rows of each filter, in the order of the filters. Empty
    /// lists when shards did not answer in time; after 5 s it gives up by itself.
    pub fn handle_retained(&mut self, token: Token, rows: Vec<Vec<Arc<Message>>>, now: Now) {
        if self.phase == Phase::Open {
            self.retained(token, rows, now);
        }
    }

    /// Takes a message of the persistent session's queue; one of another ownership is ignored.
    ///
    /// After a failover the shard's new leader hands out again whatever it does not know to be
    /// acknowledged. What this connection has had already is not sent to the client again
    /// `[MQTT-4.4.0-1]`. Each leader's deliveries have to come in order and without a gap, from the
    /// oldest unacknowledged one on; those of several may come mixed, and each may stop at any.
    pub fn handle_delivery(&mut self, delivery: Delivery, now: Now) {
        let is_open = matches!(self.phase, Phase::Open | Phase::Opening);
        if is_open && (delivery.epoch == self.epoch || self.phase == Phase::Opening) {
            self.delivery(delivery, now);
        }
    }

    /// Takes a message of a group that the client is a member of; one of another ownership is
    /// ignored, and one that this connection has had already is not sent again.
    pub fn handle_shared(&mut self, delivery: GroupDelivery, now: Now) {
        let is_own = delivery.epoch == self.epoch || self.phase == Phase::Opening;
        if is_own && matches!(self.phase, Phase::Open | Phase::Opening) {
            self.shared(delivery, now);
        }
    }

    /// Takes a message from the router: for a clean session any, for a persistent one QoS 0
    /// (others are ignored, they come from the queue).
    pub fn handle_message(&mut self, message: Arc<Message>, matched: Match, now: Now) {
        if self.phase == Phase::Open && !matched.is_empty() {
            self.message(message, matched, now);
        }
    }

    /// The socket takes no more: deliveries wait here.
    pub fn handle_blocked(&mut self) {
        self.is_blocked = true;
    }

    /// The socket takes bytes again.
    pub fn handle_writable(&mut self, now: Now) {
        self.is_blocked = false;
        self.send_waiting(now);
    }

    /// The shell stopped (true) or resumed (false) reading the socket: keep alive is suspended
    /// meanwhile.
    pub fn handle_read_stopped(&mut self, stopped: bool, now: Now) {
        self.is_read_stopped = stopped;
        self.last_heard = now.mono;
    }

    /// Time passed; does nothing before [`Self::deadline`].
    pub fn handle_timeout(&mut self, now: Now) {
        self.timeout(now);
    }

    /// The socket ended without DISCONNECT.
    pub fn handle_closed(&mut self, _now: Now) {
        self.close(
            ReasonCode::UnspecifiedError,
            ClosedBy::Network,
            WillFate::Keep,
        );
    }

    /// Ends the connection from the server's side: 0x8E (taken over), 0x8B, 0x98, 0x9C …
    pub fn handle_kick(&mut self, reason: ReasonCode, _now: Now) {
        if reason == ReasonCode::SessionTakenOver {
            self.lost_session();
        } else {
            self.close_server(reason);
        }
    }

    /// Has the client go to another server (§4.11): with 0x9C, and where that is, in the CONNACK if it is
    /// connecting yet, else in a DISCONNECT. MQTT 3.1.1 has no word for either.
    pub fn handle_sent_away(&mut self, reference: Option<&Text>, _now: Now) {
        let before = self.effects.len();
        self.close_server(ReasonCode::UseAnotherServer);
        let said = self.effects.iter_mut().skip(before);
        for effect in said {
            match effect {
                Effect::Send(Packet::ConnAck(connack)) => {
                    connack.properties.server_reference = reference.cloned();
                }
                Effect::Send(Packet::Disconnect(disconnect)) => {
                    disconnect.server_reference = reference.cloned();
                }
                _ => {}
            }
        }
    }

    /// As [`Self::handle_kick`], and the session ends with the connection, whatever its expiry
    /// interval says.
    pub fn handle_end(&mut self, reason: ReasonCode, now: Now) {
        self.expiry_s = 0;
        self.is_to_end = true;
        self.handle_kick(reason, now);
    }

    /// The next thing for the shell to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Self::handle_timeout`] is to be called. Moves with every packet: look again when
    /// an old one passes rather than after each packet.
    pub fn deadline(&self) -> Option<MonoMs> {
        self.next_deadline()
    }

    /// Whether the server owes the client a whole window of answers (3.1.1): PUBLISH with QoS > 0 waits in the stash.
    pub fn is_paused(&self) -> bool {
        self.version == Version::V311 && self.is_owing_window()
    }

    /// Whether CONNECT is being answered. Packets handed in meanwhile are kept, up to 32; a
    /// shell had better stop reading.
    pub fn is_connecting(&self) -> bool {
        matches!(self.phase, Phase::Authenticating | Phase::Opening)
    }

    /// Whether the connection is closed: every `handle_*` does nothing.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Gives back buffers that an idle connection does not need.
    pub fn trim(&mut self) {
        self.effects.shrink_to_fit();
        self.local.shrink_to_fit();
        if self.requests.as_ref().is_some_and(|r| r.is_idle()) {
            self.requests = None;
        }
        if self.inbound.as_ref().is_some_and(|i| i.is_idle()) {
            self.inbound = None;
        }
        let dropped = self.dropped();
        let idle = self.outbound.as_ref().is_some_and(|o| o.is_idle());
        // A clean session's packet ids go on where they were, and counters stay.
        if idle && self.is_persistent && dropped == Dropped::default() {
            self.outbound = None;
        }
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
        self.is_persistent
    }

    /// The protocol version (MQTT 5 before CONNECT).
    pub fn version(&self) -> Version {
        self.version
    }

    /// The client's Maximum Packet Size in bytes, `u32::MAX` without one: the bound for
    /// [`mqtt::encode_within`] of [`Effect::Send`] `[MQTT-3.1.2-24]`. PUBLISH already fits.
    pub fn packet_bytes_max(&self) -> u32 {
        self.packet_bytes_max
    }

    /// What was dropped.
    pub fn dropped(&self) -> Dropped {
        self.outbound
            .as_ref()
            .map_or_else(Dropped::default, |o| o.dropped())
    }

    /// Bytes ([`Message::bytes`]) of messages that wait here and in no shard.
    pub fn queue_bytes(&self) -> usize {
        self.outbound.as_ref().map_or(0, |o| o.held_bytes())
    }

    /// The entry of [`crate::Command::Ack`] for sequences from [`Effect::Acked`].
    pub fn acks(&self, seqs: Vec<Seq>) -> Option<Acks> {
        Some(effect::acks(self.client.as_ref()?, self.epoch, seqs))
    }

    fn handle_disconnect(&mut self, disconnect: &Disconnect) {
        if disconnect.session_expiry_s.is_some_and(|s| s > 0) && self.expiry_s == 0 {
            // §3.14.2.2.2
            return self.close_server(ReasonCode::ProtocolError);
        }
        if let Some(expiry_s) = disconnect.session_expiry_s {
            self.expiry_s = expiry_s.min(self.config.session_expiry_s_max);
        }
        //# [MQTT-3.14.4-3] ... MUST discard any Will Message ... without publishing it
        let will = match disconnect.reason {
            ReasonCode::Success => WillFate::Discard,
            _ => WillFate::Keep,
        };
        self.close(disconnect.reason, ClosedBy::Client, will);
    }

    /// Another connection owns the session: nothing may be committed for it any more.
    fn lost_session(&mut self) {
        self.send_disconnect(ReasonCode::SessionTakenOver);
        if self.phase == Phase::Opening {
            self.phase = Phase::ClosingOpen;
        } else if self.phase != Phase::ClosingOpen {
            self.end(ReasonCode::SessionTakenOver, ClosedBy::Server, None);
        }
    }

    fn close(&mut self, reason: ReasonCode, by: ClosedBy, will: WillFate) {
        match self.phase {
            Phase::Closed | Phase::ClosingOpen => return,
            Phase::Authenticating if by == ClosedBy::Server => return self.refuse(reason),
            Phase::Opening => {
                if by == ClosedBy::Server {
                    self.send_refusal(reason);
                }
                self.phase = Phase::ClosingOpen;
                return;
            }
            // 3.1.1 [MQTT-3.1.2-2]: an unknown level is answered.
            Phase::Accepted if reason == ReasonCode::UnsupportedProtocolVersion => {
                return self.refuse(reason);
            }
            _ => {}
        }
        if by == ClosedBy::Server {
            self.send_disconnect(reason);
        }
        let is_said = by == ClosedBy::Client || self.is_to_end;
        let expiry_s = is_said.then_some(self.expiry_s);
        let command = self.is_owner().then(|| Close {
            client: self.own_client(),
            epoch: self.epoch,
            will,
            expiry_s,
        });
        self.end(reason, by, command);
    }

    fn end(&mut self, reason: ReasonCode, by: ClosedBy, command: Option<Close>) {
        if self.phase == Phase::Closed {
            return;
        }
        self.phase = Phase::Closed;
        self.connecting = None;
        self.early = VecDeque::new();
        self.inbound = None;
        self.requests = None;
        self.shared_seqs = None;
        self.aliases = Vec::new();
        self.local = Vec::new();
        let closed = Closed {
            reason,
            by,
            command,
        };
        self.effects.push_back(Effect::Close(Box::new(closed)));
    }

    fn send_disconnect(&mut self, reason: ReasonCode) {
        if self.may_send_disconnect() {
            let disconnect = Disconnect {
                reason: reasons::for_disconnect(reason),
                ..Disconnect::default()
            };
            self.effects
                .push_back(Effect::Send(Packet::Disconnect(Box::new(disconnect))));
        }
    }

    fn send_ack(&mut self, kind: AckKind, packet_id: PacketId) {
        self.effects.push_back(Effect::Ack(Ack {
            kind,
            packet_id,
            reason: ReasonCode::Success,
        }));
    }

    fn own_client(&self) -> ClientId {
        self.client.clone().expect("set before the session opened")
    }

    fn take_token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }
}

/// Where an entry with this token stands in a queue whose tokens ascend.
fn position_of<T>(queue: &VecDeque<T>, token: Token, of: impl Fn(&T) -> Token) -> Option<usize> {
    queue.binary_search_by_key(&token, of).ok()
}
