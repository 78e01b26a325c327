//! Who owes what on a connection, seen from outside: each effect must be due.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;
use mqtt::{Decoder, Packet, PacketId, QoS, ReasonCode, Version};
use tidewire_session::{
    Ack, AckKind, Answer, Closed, Command, Config, Delivery, DeliveryStep, Effect, Epoch, Inbound,
    Live, Opened, Outgoing, Seq, Token,
};

/// Checks each effect of one connection.
///
/// - Nothing follows [`Effect::Close`]; only it follows a refusal; CONNACK comes first and once.
/// - PUBACK and PUBREC leave in the order of arrival, each after its message was settled, with
///   that outcome `[MQTT-4.6.0-2]`, `[MQTT-4.6.0-3]`; of a persistent session, PUBCOMP and a
///   refusing PUBREC only after the shard forgot the id.
/// - PUBREL leaves only for what the client, and for a persistent session the shard, has received.
/// - Deliveries keep to the client's window (§4.9) and use no id that is in flight.
/// - A sequence is acknowledged to the shard once, and only if it came from there.
/// - Every packet is valid on the wire and no larger than the client allows.
pub(crate) struct Ledger {
    config: Arc<Config>,
    effects: usize,
    is_closed: bool,
    connack: Option<ReasonCode>,
    opened: Option<Epoch>,
    is_connect_seen: bool,
    window: usize,
    window_max: usize,
    owed_1: VecDeque<(Token, PacketId)>,
    owed_2: VecDeque<(Token, PacketId)>,
    settled: BTreeMap<Token, ReasonCode>,
    /// Inbound QoS 2 ids between PUBREC and PUBREL.
    received: BTreeSet<PacketId>,
    /// PUBREL packets without PUBCOMP.
    releases: BTreeMap<PacketId, usize>,
    /// Inbound QoS 2 ids that the shard has forgotten, and the client does not know yet.
    forgotten: BTreeMap<PacketId, usize>,
    /// Outbound ids in flight.
    sent: BTreeMap<PacketId, QoS>,
    /// Outbound ids with a PUBREC.
    client_received: BTreeSet<PacketId>,
    /// Outbound ids whose PUBREC the shard has recorded.
    recorded: BTreeSet<PacketId>,
    /// Sequences from the shard that are not acknowledged to it.
    delivered: BTreeSet<Seq>,
    /// The same of a group.
    shared: BTreeSet<Seq>,
    /// Whether the client asked to leave groups: what was not sent of them then comes again.
    has_left: bool,
    /// What is handed over was handed over before.
    is_repeat: bool,
}

impl Ledger {
    pub(crate) fn new(config: &Arc<Config>) -> Self {
        Self {
            config: Arc::clone(config),
            effects: 0,
            is_closed: false,
            connack: None,
            opened: None,
            is_connect_seen: false,
            window: 0,
            window_max: 0,
            owed_1: VecDeque::new(),
            owed_2: VecDeque::new(),
            settled: BTreeMap::new(),
            received: BTreeSet::new(),
            releases: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            sent: BTreeMap::new(),
            client_received: BTreeSet::new(),
            recorded: BTreeSet::new(),
            delivered: BTreeSet::new(),
            shared: BTreeSet::new(),
            has_left: false,
            is_repeat: false,
        }
    }

    /// How many effects there were.
    pub(crate) fn effects(&self) -> usize {
        self.effects
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// How many sequences the shard waits for.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.delivered.len()
    }

    /// How many sequences the group waits for.
    pub(crate) fn unacknowledged_shared(&self) -> usize {
        self.shared.len()
    }

    /// Whether the client asked to leave groups.
    pub(crate) fn has_left(&self) -> bool {
        self.has_left
    }

    /// The group hands a message over.
    pub(crate) fn delivers_shared(&mut self, seq: Seq) {
        self.shared.insert(seq);
    }

    /// Ids that the client may acknowledge.
    pub(crate) fn delivered_ids(&self) -> Vec<PacketId> {
        let recorded = self.recorded.iter();
        self.sent.keys().chain(recorded).copied().collect()
    }

    /// The client's packet is handed over.
    pub(crate) fn client_sent(&mut self, packet: &Packet) {
        match packet {
            Packet::Connect(connect) if !self.is_connect_seen => {
                self.is_connect_seen = true;
                let asked = connect.properties.receive_maximum;
                self.window_max = match connect.version {
                    Version::V311 => usize::from(self.config.receive_maximum),
                    Version::V5 => asked.map_or(65_535, |it| usize::from(it.get())),
                };
                self.window = self.window_max;
            }
            Packet::PubAck(ack) | Packet::PubComp(ack) => {
                self.widen();
                self.sent.remove(&ack.packet_id);
            }
            Packet::PubRec(ack) if ack.reason.is_error() => {
                self.widen();
                self.client_received.insert(ack.packet_id);
                self.sent.remove(&ack.packet_id);
            }
            Packet::PubRec(ack) => {
                self.client_received.insert(ack.packet_id);
            }
            Packet::Unsubscribe(_) => self.has_left = true,
            Packet::PubRel(ack) => {
                self.received.remove(&ack.packet_id);
                *self.releases.entry(ack.packet_id).or_default() += 1;
            }
            _ => {}
        }
    }

    /// §4.9: one more, up to the maximum. What comes before CONNACK is handled after deliveries
    /// that leave with it, so that the maximum cannot be told apart here.
    fn widen(&mut self) {
        if self.connack.is_none() {
            self.window_max += 1;
        }
        self.window = self.window_max.min(self.window + 1);
    }

    pub(crate) fn opened(&mut self, opened: Opened) {
        if let Opened::Yes { epoch, .. } = opened {
            self.opened = Some(epoch);
        }
    }

    pub(crate) fn settled(&mut self, token: Token, outcome: ReasonCode) {
        self.settled.insert(token, outcome);
    }

    pub(crate) fn answered(&mut self, command: &Command, answer: &Answer) {
        match (command, answer) {
            (Command::Q2Out { packet_id, .. }, Answer::Q2Out { .. }) => {
                *self.forgotten.entry(*packet_id).or_default() += 1;
            }
            (Command::Rec { seq, .. }, Answer::Rec { .. }) => {
                self.recorded.insert(persistent_id(*seq));
            }
            _ => {}
        }
    }

    /// The shard hands a message or its release over.
    pub(crate) fn delivers(&mut self, delivery: &Delivery) {
        self.delivered.insert(delivery.seq);
        if matches!(delivery.step, DeliveryStep::Release) {
            self.recorded.insert(persistent_id(delivery.seq));
        }
    }

    /// What the connection has had is handed over again: nothing leaves for the client; it may say
    /// once more that it is done with.
    pub(crate) fn begin_repeat(&mut self) {
        self.is_repeat = true;
    }

    pub(crate) fn end_repeat(&mut self) {
        self.is_repeat = false;
    }

    /// Checks the next effect.
    pub(crate) fn take(&mut self, live: &Live, effect: &Effect) {
        assert!(!self.is_closed, "{effect:?} after Close");
        self.effects += 1;
        if self.is_repeat {
            match effect {
                Effect::Acked(seq) => assert!(!self.delivered.contains(seq), "{seq} is owed"),
                Effect::SharedAcked(of) => assert!(!self.shared.contains(&of.seq), "{of:?}"),
                _ => panic!("{effect:?} because of a repeat"),
            }
            return;
        }
        match effect {
            Effect::Send(packet) => self.send(live, packet),
            Effect::Ack(ack) => self.ack(live, *ack),
            Effect::Deliver(outgoing) => self.deliver(live, outgoing),
            Effect::Publish(inbound) => self.publish(live, inbound),
            Effect::Propose { token, command } => {
                assert!(
                    live.is_persistent() || is_shared(command),
                    "{command:?} of a clean session"
                );
                if let Command::Q2In { packet_id, .. } = **command {
                    self.owed_2.push_back((*token, packet_id));
                }
            }
            Effect::Acked(seq) => assert!(self.delivered.remove(seq), "{seq} is not owed"),
            Effect::SharedAcked(acked) => {
                assert!(self.shared.remove(&acked.seq), "{acked:?} is not owed");
            }
            Effect::Subscribe { .. } | Effect::Unsubscribe { .. } => {
                assert!(!live.is_persistent(), "{effect:?} of a persistent session");
            }
            Effect::Authenticate(_) => assert!(self.is_connect_seen, "before CONNECT"),
            Effect::Open(_) | Effect::Retained { .. } => {}
            Effect::Confirmed => panic!("nobody has a doubt"),
            Effect::PersistentRule(at) => panic!("no rule is set, but {at} was met"),
            Effect::Close(closed) => self.close(closed),
        }
    }

    fn send(&mut self, live: &Live, packet: &Packet) {
        match packet {
            Packet::ConnAck(connack) => {
                assert_eq!(self.connack, None, "a second {connack:?}");
                let is_open = self.opened.is_some();
                assert!(is_open || connack.reason.is_error(), "too early");
                self.connack = Some(connack.reason);
            }
            _ => self.assert_connected(packet),
        }
        let (version, bytes_max) = (live.version(), live.packet_bytes_max());
        let mut wire = BytesMut::new();
        if mqtt::encode_within(packet, version, bytes_max, &mut wire).is_err() {
            return;
        }
        assert!(wire.len() <= bytes_max as usize, "{packet:?}");
        // 3.1.1 has no words for some refusals.
        assert!(!wire.is_empty() || version == Version::V311, "{packet:?}");
        if !wire.is_empty() {
            read_by_client(version, wire);
        }
    }

    fn assert_connected(&self, what: &impl std::fmt::Debug) {
        assert_eq!(self.connack, Some(ReasonCode::Success), "{what:?}");
    }

    fn ack(&mut self, live: &Live, ack: Ack) {
        self.assert_connected(&ack);
        let id = ack.packet_id;
        match ack.kind {
            AckKind::PubAck => {
                let (token, owed) = self.owed_1.pop_front().expect("a PUBACK that is owed");
                let outcome = self.settled.remove(&token);
                assert_eq!((owed, outcome), (id, Some(ack.reason)), "{ack:?}");
            }
            AckKind::PubRec => self.pubrec(live, ack),
            AckKind::PubRel => self.pubrel(live, ack),
            AckKind::PubComp => {
                assert!(take_one(&mut self.releases, id), "{ack:?} without PUBREL");
                if live.is_persistent() {
                    assert!(take_one(&mut self.forgotten, id), "{ack:?} too early");
                }
            }
        }
        let mut wire = BytesMut::new();
        mqtt::encode(&ack.to_packet(), live.version(), &mut wire);
        read_by_client(live.version(), wire);
    }

    fn pubrec(&mut self, live: &Live, ack: Ack) {
        let id = ack.packet_id;
        if self.received.contains(&id) {
            assert_eq!(ack.reason, ReasonCode::Success, "a repeat is no error");
            return;
        }
        let (token, owed) = self.owed_2.pop_front().expect("a PUBREC that is owed");
        let outcome = self.settled.remove(&token);
        assert_eq!((owed, outcome), (id, Some(ack.reason)), "{ack:?}");
        if !ack.reason.is_error() {
            self.received.insert(id);
        } else if live.is_persistent() {
            assert!(take_one(&mut self.forgotten, id), "{ack:?} too early");
        }
    }

    fn pubrel(&self, live: &Live, ack: Ack) {
        let id = ack.packet_id;
        let is_due = if live.is_persistent() && !ack.reason.is_error() {
            self.recorded.contains(&id)
        } else {
            self.client_received.contains(&id)
        };
        assert!(is_due, "{ack:?} too early");
    }

    fn deliver(&mut self, live: &Live, outgoing: &Outgoing) {
        self.assert_connected(outgoing);
        assert_eq!(
            outgoing.packet_id.is_some(),
            outgoing.qos != QoS::AtMostOnce
        );
        if let Some(id) = outgoing.packet_id {
            assert!(self.window > 0, "{outgoing:?} beyond the window");
            self.window -= 1;
            let used = self.sent.insert(id, outgoing.qos);
            assert_eq!(used, None, "{id} is in flight");
            let is_shared = id.get() > 32_767 && !self.shared.is_empty();
            if live.is_persistent() && !is_shared {
                let mut ids = self.delivered.iter().map(|seq| persistent_id(*seq));
                assert!(ids.any(|it| it == id), "{id} is of no delivery");
            }
        }
        let mut wire = BytesMut::new();
        mqtt::encode_publish(&outgoing.as_publish_ref(), live.version(), &mut wire);
        assert!(wire.len() <= live.packet_bytes_max() as usize);
        let Packet::Publish(read) = read_by_client(live.version(), wire) else {
            panic!("{outgoing:?} is no PUBLISH");
        };
        let publish = outgoing.to_publish();
        assert_eq!(
            (read.packet_id, read.qos, read.retain, read.dup),
            (publish.packet_id, publish.qos, publish.retain, publish.dup)
        );
        assert_eq!((read.topic, read.payload), (publish.topic, publish.payload));
    }

    fn publish(&mut self, live: &Live, inbound: &Inbound) {
        let publish = &inbound.publish;
        assert!(!publish.topic.is_empty() && publish.topic_alias.is_none());
        match (inbound.token, publish.packet_id, publish.qos) {
            (None, None, QoS::AtMostOnce) => {}
            (Some(token), Some(id), QoS::AtLeastOnce) => self.owed_1.push_back((token, id)),
            (Some(token), Some(id), QoS::ExactlyOnce) if live.is_persistent() => {
                assert!(self.owed_2.contains(&(token, id)), "{inbound:?}");
                assert!(inbound.origin.is_some(), "{inbound:?} could be doubled");
            }
            (Some(token), Some(id), QoS::ExactlyOnce) => self.owed_2.push_back((token, id)),
            _ => panic!("{inbound:?}"),
        }
    }

    fn close(&mut self, closed: &Closed) {
        self.is_closed = true;
        if let Some(command) = &closed.command {
            assert_eq!(Some(command.epoch), self.opened, "ends another ownership");
        }
    }
}

/// The packet as a client reads it.
fn read_by_client(version: Version, mut wire: BytesMut) -> Packet {
    let mut decoder = Decoder::client(version, mqtt::Limits::default());
    let packet = decoder.decode(&mut wire).expect("valid on the wire");
    assert!(wire.is_empty(), "{packet:?} leaves {wire:?}");
    packet.expect("a whole packet")
}

/// The id under which a persistent session's message is sent.
fn persistent_id(seq: Seq) -> PacketId {
    let id = u16::try_from(1 + seq.0 % 32_767).expect("at most 32 767");
    PacketId::new(id).expect("at least 1")
}

/// Takes one of the counted; false when there is none.
fn take_one(counts: &mut BTreeMap<PacketId, usize>, id: PacketId) -> bool {
    match counts.get_mut(&id) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    }
}

/// Whether it is about shared subscriptions alone, which the shard has of clean sessions too.
fn is_shared(command: &Command) -> bool {
    match command {
        Command::Subs(subs) => subs
            .filters
            .iter()
            .all(|(filter, _)| filter.shared().is_some()),
        Command::Unsubs(unsubs) => unsubs
            .filters
            .iter()
            .all(|filter| filter.shared().is_some()),
        _ => false,
    }
}
