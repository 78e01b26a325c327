//! A server made of `Live`, `Durable` and a minimal router, on links of bytes.
//!
//! Nothing happens by itself: bytes move, log entries commit and time passes only when a test
//! says so. `settle` lets everything happen at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;
use mqtt::{ClientId, Decoder, Filter, Packet, QoS, ReasonCode, Version};
use tidewire_session::{
    Admitted, Answer, Closed, Command, Config, ConnectionId, Durable, DurableEffect, Effect,
    Enqueue, Identity, Limits, Live, Match, Message, MonoMs, NodeEpoch, Now, Opened, Origin,
    Origins, Retain, Stamp, Subscription, Token, WallMs, WillId,
};

pub(crate) const NODE: NodeEpoch = NodeEpoch(7);

/// A defect that the checkers have to find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sabotage {
    #[default]
    None,
    /// PUBACK and PUBREC leave before the obligations are committed.
    SettleBeforeCommit,
    /// PUBREL leaves before `Rec` is committed.
    ReleaseBeforeRec,
    /// PUBCOMP leaves before `Q2Out` is committed.
    CompleteBeforeQ2Out,
    /// A repeated `Q2In` is given a new number.
    RepeatRenumbered,
    /// Commands are applied whatever their epoch.
    EpochUnchecked,
}

pub(crate) struct World {
    pub(crate) durable: Durable,
    pub(crate) now: Now,
    pub(crate) config: Arc<Config>,
    pub(crate) sabotage: Sabotage,
    index: u64,
    log: VecDeque<Entry>,
    /// Old owners that are still to be told.
    kicks: VecDeque<ConnectionId>,
    conns: BTreeMap<ConnectionId, Conn>,
    router: Vec<(ConnectionId, Filter, Subscription)>,
    seen: Origins,
    obligations: BTreeMap<u64, (usize, Settles)>,
    obligation_ids: u64,
    connections: u64,
    renumbered: u64,
}

struct Conn {
    live: Live,
    decoder: Decoder,
    client_decoder: Option<Decoder>,
    up: BytesMut,
    up_link: BytesMut,
    down_link: BytesMut,
    down: BytesMut,
    closed: Option<Closed>,
    is_cut: bool,
}

struct Entry {
    command: Command,
    from: Option<ConnectionId>,
    then: Then,
}

#[derive(Clone, Copy)]
enum Then {
    Nothing,
    Answer(ConnectionId, Token),
    Opened(ConnectionId),
    Obligation(u64),
}

#[derive(Clone, Copy)]
enum Settles {
    Publish(ConnectionId, Token),
    Will(WillId),
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Config::default(), Limits::default())
    }

    pub(crate) fn with(config: Config, limits: Limits) -> Self {
        let mut durable = Durable::new(limits);
        durable.handle_lead();
        Self {
            durable,
            now: Now {
                mono: MonoMs(1_000),
                wall: WallMs(1_700_000_000_000),
            },
            config: Arc::new(config),
            sabotage: Sabotage::None,
            index: 0,
            log: VecDeque::new(),
            kicks: VecDeque::new(),
            conns: BTreeMap::new(),
            router: Vec::new(),
            seen: Origins::new(1_000, 3_600),
            obligations: BTreeMap::new(),
            obligation_ids: 0,
            connections: 0,
            renumbered: 1_000_000,
        }
    }

    /// Accepts a connection.
    pub(crate) fn accept(&mut self) -> ConnectionId {
        self.connections += 1;
        let id = ConnectionId(self.connections);
        let limits = mqtt::Limits::default();
        self.conns.insert(
            id,
            Conn {
                live: Live::new(&self.config, NODE, id, self.now),
                decoder: Decoder::new(limits),
                client_decoder: None,
                up: BytesMut::new(),
                up_link: BytesMut::new(),
                down_link: BytesMut::new(),
                down: BytesMut::new(),
                closed: None,
                is_cut: false,
            },
        );
        id
    }

    /// Puts a packet of the client on its link.
    pub(crate) fn client_sends(&mut self, id: ConnectionId, packet: &Packet) {
        let conn = self.conns.get_mut(&id).expect("accepted before");
        if let Packet::Connect(connect) = packet {
            let limits = mqtt::Limits::default();
            conn.client_decoder
                .get_or_insert(Decoder::client(connect.version, limits));
        }
        let version = conn.client_decoder.as_ref().and_then(Decoder::version);
        mqtt::encode(packet, version.unwrap_or(Version::V5), &mut conn.up_link);
    }

    /// Moves up to `bytes` of the client's link to the server.
    pub(crate) fn move_up(&mut self, id: ConnectionId, bytes: usize) {
        let now = self.now;
        let conn = self.conns.get_mut(&id).expect("accepted before");
        if conn.is_cut {
            return;
        }
        let bytes = bytes.min(conn.up_link.len());
        conn.up.extend_from_slice(&conn.up_link.split_to(bytes));
        loop {
            let conn = self.conns.get_mut(&id).expect("accepted before");
            match conn.decoder.decode(&mut conn.up) {
                Ok(Some(packet)) => conn.live.handle_packet(packet, now),
                Ok(None) => break,
                Err(error) => {
                    conn.live.handle_malformed(error.reason, now);
                    conn.up.clear();
                }
            }
            self.drain(id);
        }
        self.drain(id);
    }

    /// Moves up to `bytes` of the server's link to the client; returns its whole packets.
    pub(crate) fn move_down(&mut self, id: ConnectionId, bytes: usize) -> Vec<Packet> {
        let conn = self.conns.get_mut(&id).expect("accepted before");
        let mut packets = Vec::new();
        if conn.is_cut {
            return packets;
        }
        let bytes = bytes.min(conn.down_link.len());
        conn.down.extend_from_slice(&conn.down_link.split_to(bytes));
        let limits = mqtt::Limits::default();
        let decoder = conn
            .client_decoder
            .get_or_insert(Decoder::client(Version::V5, limits));
        while let Some(packet) = decoder
            .decode(&mut conn.down)
            .expect("the server writes packets")
        {
            packets.push(packet);
        }
        packets
    }

    /// Whether the server's link holds bytes.
    pub(crate) fn has_down(&self, id: ConnectionId) -> bool {
        !self.conns[&id].down_link.is_empty()
    }

    /// Commits the oldest log entry; false if there is none.
    pub(crate) fn commit(&mut self) -> bool {
        let Some(mut entry) = self.log.pop_front() else {
            return false;
        };
        if let Command::Open(open) = &mut entry.command {
            open.expected_epoch = self.durable.epoch(&open.client);
        }
        if self.sabotage == Sabotage::EpochUnchecked {
            self.forge_epoch(&mut entry.command);
        }
        self.index += 1;
        let answer = self
            .durable
            .apply(self.index, self.now.wall, &entry.command);
        self.dispatch(entry.then, answer);
        self.drain_durable();
        true
    }

    /// Tells the next old owner that it lost its session; false if there is none.
    pub(crate) fn kick(&mut self) -> bool {
        let Some(id) = self.kicks.pop_front() else {
            return false;
        };
        let now = self.now;
        self.live(id).handle_kick(ReasonCode::SessionTakenOver, now);
        self.drain(id);
        true
    }

    /// Ends the socket under a connection. Of its uncommitted entries, the first `kept` stay.
    pub(crate) fn cut(&mut self, id: ConnectionId, mut kept: usize) {
        let now = self.now;
        let conn = self.conns.get_mut(&id).expect("accepted before");
        conn.is_cut = true;
        conn.live.handle_closed(now);
        self.log.retain(|entry| {
            let is_its = entry.from == Some(id);
            let lost = is_its && kept == 0 && !matches!(entry.command, Command::Open(_));
            kept -= usize::from(is_its && kept > 0);
            !lost
        });
        self.drain(id);
    }

    /// Lets all bytes, entries and answers happen; returns what the client got.
    pub(crate) fn settle(&mut self, id: ConnectionId) -> Vec<Packet> {
        let ids: Vec<ConnectionId> = self.conns.keys().copied().collect();
        loop {
            for id in &ids {
                self.move_up(*id, usize::MAX);
            }
            if !self.commit() && !self.kick() {
                break;
            }
        }
        self.move_down(id, usize::MAX)
    }

    /// Sends packets and lets everything happen; returns what came back on this connection.
    pub(crate) fn exchange(&mut self, id: ConnectionId, packet: &Packet) -> Vec<Packet> {
        self.client_sends(id, packet);
        self.settle(id)
    }

    /// Lets time pass at once, then fires timers and commits what is due.
    pub(crate) fn advance(&mut self, ms: u64) {
        self.now.mono = MonoMs(self.now.mono.0 + ms);
        self.now.wall = WallMs(self.now.wall.0 + ms);
        let ids: Vec<ConnectionId> = self.conns.keys().copied().collect();
        for id in ids {
            let now = self.now;
            let conn = self.conns.get_mut(&id).expect("listed just before");
            if conn.live.deadline().is_some_and(|at| at <= now.mono) {
                conn.live.handle_timeout(now);
            }
            self.drain(id);
        }
        for command in self.durable.due(self.now.wall, 100) {
            self.propose(None, command, Then::Nothing);
        }
    }

    pub(crate) fn live(&mut self, id: ConnectionId) -> &mut Live {
        &mut self.conns.get_mut(&id).expect("accepted before").live
    }

    pub(crate) fn closed(&self, id: ConnectionId) -> Option<&Closed> {
        self.conns[&id].closed.as_ref()
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.log.is_empty()
    }

    /// Carries out what a connection asks for.
    pub(crate) fn drain(&mut self, id: ConnectionId) {
        while let Some(effect) = self.live(id).poll_effect() {
            let conn = self.conns.get_mut(&id).expect("accepted before");
            assert!(conn.closed.is_none(), "{effect:?} after Close");
            let version = conn.live.version();
            match effect {
                Effect::Send(packet) => {
                    let max = conn.live.packet_bytes_max();
                    mqtt::encode_within(&packet, version, max, &mut conn.down_link)
                        .expect("tests leave room for what is no PUBLISH");
                }
                Effect::Ack(ack) => {
                    mqtt::encode(&ack.to_packet(), version, &mut conn.down_link);
                }
                Effect::Deliver(outgoing) => {
                    mqtt::encode_publish(&outgoing.as_publish_ref(), version, &mut conn.down_link);
                }
                Effect::Authenticate(credentials) => {
                    let fresh = format!("assigned-{}", id.0);
                    let client = credentials.client.unwrap_or_else(|| client_id(&fresh));
                    let admitted = Admitted {
                        identity: Identity(client.text().clone()),
                        client,
                    };
                    let now = self.now;
                    self.live(id).handle_admitted(admitted, now);
                }
                Effect::Open(open) => {
                    self.propose(Some(id), Command::Open(open), Then::Opened(id));
                }
                Effect::Propose { token, command } => {
                    self.answer_early(id, token, &command);
                    self.propose(Some(id), *command, Then::Answer(id, token));
                }
                Effect::Acked(seq) => {
                    let acks = conn.live.acks(vec![seq]).expect("connected");
                    self.propose(Some(id), Command::Ack(vec![acks]), Then::Nothing);
                }
                Effect::SharedAcked(acked) => {
                    self.propose(None, Command::GroupAck(vec![*acked]), Then::Nothing);
                }
                Effect::Publish(inbound) => self.publish(id, *inbound),
                Effect::Subscribe {
                    token,
                    subscriptions,
                } => {
                    for (filter, subscription) in subscriptions {
                        self.router.retain(|(c, f, _)| (*c, f) != (id, &filter));
                        self.router.push((id, filter, subscription));
                    }
                    let now = self.now;
                    self.live(id)
                        .handle_settled(token, ReasonCode::Success, now);
                }
                Effect::Unsubscribe { token, filters } => {
                    self.router
                        .retain(|(c, f, _)| *c != id || !filters.contains(f));
                    let now = self.now;
                    self.live(id)
                        .handle_settled(token, ReasonCode::Success, now);
                }
                Effect::Retained {
                    token,
                    filters,
                    limit,
                } => {
                    let now = self.now;
                    let durable = &self.durable;
                    let rows = filters
                        .iter()
                        .map(|f| durable.retained_matching(f, limit, now.wall))
                        .collect();
                    self.live(id).handle_retained(token, rows, now);
                }
                Effect::Confirmed => panic!("nobody has a doubt"),
                Effect::PersistentRule(at) => panic!("no rule is set, but {at} was met"),
                Effect::Close(closed) => {
                    self.router.retain(|(c, ..)| *c != id);
                    conn.closed = Some(*closed.clone());
                    if let Some(close) = closed.command {
                        self.propose(None, Command::Close(close), Then::Nothing);
                    }
                }
            }
        }
    }

    fn publish(&mut self, id: ConnectionId, inbound: tidewire_session::Inbound) {
        let live = self.live(id);
        let publisher = live.client().cloned();
        let stamp = Stamp {
            publisher: publisher.clone(),
            epoch: live.epoch(),
            seq: inbound.seq,
        };
        let message = Message::from_publish(inbound.publish, publisher, self.now.wall);
        let settles = inbound.token.map(|token| Settles::Publish(id, token));
        self.fan_out(Some(id), Arc::new(message), inbound.origin, stamp, settles);
    }

    fn fan_out(
        &mut self,
        from: Option<ConnectionId>,
        message: Arc<Message>,
        origin: Option<Box<Origin>>,
        stamp: Stamp,
        settles: Option<Settles>,
    ) {
        let time = self.now.wall;
        let is_new = origin.as_ref().is_none_or(|o| self.seen.admit(o, time));
        if is_new {
            self.deliver_here(&message);
        }
        let mut commands = Vec::new();
        if message.retain {
            commands.push(Command::Retain(Retain::of(&message, stamp)));
        }
        if message.qos > QoS::AtMostOnce {
            commands.push(Command::Enqueue(Enqueue { message, origin }));
        }
        let mut then = Then::Nothing;
        if let Some(settles) = settles {
            if let (Sabotage::SettleBeforeCommit, Settles::Publish(id, token)) =
                (self.sabotage, settles)
            {
                let now = self.now;
                self.live(id)
                    .handle_settled(token, ReasonCode::Success, now);
            }
            self.obligation_ids += 1;
            then = Then::Obligation(self.obligation_ids);
            let owed = (commands.len(), settles);
            self.obligations.insert(self.obligation_ids, owed);
            if commands.is_empty() {
                self.settled(settles);
            }
        }
        for command in commands {
            self.propose(from, command, then);
        }
    }

    /// Clean sessions, and QoS 0 for persistent ones.
    fn deliver_here(&mut self, message: &Arc<Message>) {
        let now = self.now;
        let mut matches: BTreeMap<ConnectionId, Match> = BTreeMap::new();
        for (id, filter, subscription) in &self.router {
            if filter.matches(&message.topic) {
                let own = self.conns[id].live.client() == message.publisher.as_ref();
                matches.entry(*id).or_default().add(subscription, own);
            }
        }
        let publisher = message.publisher.as_ref();
        let qos0 = self
            .durable
            .qos0_recipients(&message.topic, message.qos, publisher);
        let members = self.durable.next_qos0_members(&message.topic, message.qos);
        matches.extend(qos0.into_iter().map(|r| (r.connection, r.matched)));
        let members = members.into_iter().map(|r| (r.connection, r.matched));
        let matches = matches.into_iter().chain(members);
        for (id, matched) in matches {
            self.live(id)
                .handle_message(Arc::clone(message), matched, now);
            self.drain(id);
        }
    }

    fn propose(&mut self, from: Option<ConnectionId>, command: Command, then: Then) {
        self.log.push_back(Entry {
            command,
            from,
            then,
        });
    }

    fn dispatch(&mut self, then: Then, answer: Answer) {
        let now = self.now;
        match then {
            Then::Nothing => {}
            Then::Answer(id, token) => {
                let answer = self.maybe_renumber(answer);
                self.live(id).handle_answer(token, answer, now);
                self.drain(id);
            }
            Then::Opened(id) => {
                let opened = match answer {
                    Answer::Opened {
                        epoch,
                        incarnation,
                        session_present,
                    } => Opened::Yes {
                        epoch,
                        incarnation,
                        session_present,
                    },
                    Answer::Refused(reason) => Opened::No(reason),
                    _ => Opened::No(ReasonCode::ClientIdentifierNotValid),
                };
                self.live(id).handle_opened(opened, now);
                self.drain(id);
            }
            Then::Obligation(id) => {
                let (owed, settles) = self.obligations.get_mut(&id).expect("not settled yet");
                *owed -= 1;
                if *owed == 0 {
                    let settles = *settles;
                    self.obligations.remove(&id);
                    self.settled(settles);
                }
            }
        }
    }

    fn settled(&mut self, settles: Settles) {
        match settles {
            Settles::Publish(id, token) => {
                let now = self.now;
                self.live(id)
                    .handle_settled(token, ReasonCode::Success, now);
                self.drain(id);
            }
            Settles::Will(id) => self.propose(None, Command::WillDone { id }, Then::Nothing),
        }
    }

    fn drain_durable(&mut self) {
        let now = self.now;
        while let Some(effect) = self.durable.poll_effect() {
            match effect {
                DurableEffect::Deliver(delivery) => {
                    let id = delivery.connection;
                    self.live(id).handle_delivery(delivery, now);
                    self.drain(id);
                }
                DurableEffect::DeliverShared(delivery) => {
                    let id = delivery.connection;
                    self.live(id).handle_shared(delivery, now);
                    self.drain(id);
                }
                DurableEffect::Membership(row) => {
                    let version = row.version;
                    let membership = Box::new(row.to_command(0));
                    self.propose(None, Command::Membership(membership), Then::Nothing);
                    self.propose(None, Command::MembershipDone { version }, Then::Nothing);
                }
                DurableEffect::Load { message } => {
                    panic!("message {message} left memory, and nothing was flushed")
                }
                DurableEffect::TakenOver { connection, .. } => {
                    self.kicks.push_back(connection);
                }
                DurableEffect::Route(row) => {
                    let version = row.version;
                    self.propose(None, Command::RoutesDone { version }, Then::Nothing);
                }
                DurableEffect::WillDue(row) => {
                    let (origin, stamp) = (row.origin(), row.stamp());
                    let settles = Some(Settles::Will(row.id));
                    self.fan_out(None, row.message, Some(Box::new(origin)), stamp, settles);
                }
            }
        }
    }

    fn answer_early(&mut self, id: ConnectionId, token: Token, command: &Command) {
        let answer = match (self.sabotage, command) {
            (Sabotage::ReleaseBeforeRec, Command::Rec { .. }) => Answer::Rec { found: true },
            (Sabotage::CompleteBeforeQ2Out, Command::Q2Out { .. }) => Answer::Q2Out { found: true },
            _ => return,
        };
        let now = self.now;
        self.live(id).handle_answer(token, answer, now);
    }

    fn maybe_renumber(&mut self, answer: Answer) -> Answer {
        match answer {
            Answer::Q2In { .. } if self.sabotage == Sabotage::RepeatRenumbered => {
                self.renumbered += 1;
                Answer::Q2In {
                    n: self.renumbered,
                    floor: 0,
                }
            }
            answer => answer,
        }
    }

    fn forge_epoch(&self, command: &mut Command) {
        if let Command::Ack(batch) = command {
            for acks in batch {
                if let Some(epoch) = self.durable.epoch(&acks.client) {
                    acks.epoch = epoch;
                }
            }
        }
        if let Command::Close(close) = command
            && let Some(epoch) = self.durable.epoch(&close.client)
        {
            close.epoch = epoch;
        }
    }
}

pub(crate) fn client_id(text: &str) -> ClientId {
    ClientId::parse(text.try_into().expect("a short string")).expect("not empty")
}
