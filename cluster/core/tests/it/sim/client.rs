//! A client machine: publishes, subscribes, acknowledges, and records what its application gets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mqtt::{
    Ack, Connect, ConnectProperties, Disconnect, Packet, PacketId, Publish, QoS, ReasonCode,
    RetainHandling, Subscribe, SubscribeOptions, Version, Will,
};
use session::ConnectionId;

/// What a client does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    pub(crate) id: &'static str,
    pub(crate) publishes: bool,
    pub(crate) filters: &'static [&'static str],
    pub(crate) has_will: bool,
    pub(crate) expiry_s: u32,
    /// Whether it now and then begins anew with Clean Start.
    pub(crate) cleans: bool,
}

impl Spec {
    /// Whether it gets what a group gives it, not all that matches.
    pub(crate) fn shares(&self) -> bool {
        self.filters
            .iter()
            .any(|filter| filter.starts_with("$share/"))
    }
}

/// What a payload says of its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Label {
    Publish { client: usize, n: u32 },
    Will { client: usize, ordinal: u32 },
}

impl Label {
    pub(crate) fn parse(payload: &[u8]) -> Self {
        let text = std::str::from_utf8(payload).expect("a label");
        let mut words = text.split(' ');
        let kind = words.next();
        let mut number = || words.next().and_then(|w| w.parse::<u32>().ok());
        let (client, n) = (number().expect("a label"), number().expect("a label"));
        let client = client as usize;
        match kind {
            Some("p") => Self::Publish { client, n },
            _ => Self::Will { client, ordinal: n },
        }
    }

    fn payload(self) -> bytes::Bytes {
        match self {
            Self::Publish { client, n } => format!("p {client} {n}"),
            Self::Will { client, ordinal } => format!("w {client} {ordinal}"),
        }
        .into()
    }
}

/// A message that a client published.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) topic: String,
    pub(crate) qos: QoS,
    /// Step of its first sending.
    pub(crate) at: Option<u64>,
    /// Connection on which it was acknowledged.
    pub(crate) acked_on: Option<u32>,
}

/// A message that a client's application got.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) label: Label,
    pub(crate) topic: String,
    pub(crate) qos: QoS,
}

/// A connection that a client has had.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Past {
    /// Step of the CONNACK, if it came.
    pub(crate) connected: Option<u64>,
    /// Whether a DISCONNECT that discards the will was sent.
    pub(crate) clean: bool,
}

pub(crate) struct Client {
    pub(crate) spec: Spec,
    index: usize,
    pub(crate) conn: Option<ConnectionId>,
    pub(crate) is_connected: bool,
    /// How many connections it began.
    pub(crate) ordinal: u32,
    pub(crate) past: BTreeMap<u32, Past>,
    /// Whether the last CONNECT asked for a clean start.
    clean_start: bool,
    /// Whether a clean start was asked for and not answered yet.
    has_forgotten: bool,
    /// Whether the server must still keep a session, as long as it has not expired.
    has_session: bool,
    /// Last time at which it was connected.
    last_alive_ms: u64,
    packet_ids: u16,
    /// In order of publishing.
    unacked: VecDeque<Outgoing>,
    to_publish: VecDeque<u32>,
    received_ids: BTreeSet<PacketId>,
    /// What its connection brought: PUBLISH packets of the session's queue, and PUBREL packets.
    brought: BTreeSet<(PacketId, Option<Label>)>,
    is_subscribing: bool,
    /// Step of the SUBACK that its present session got.
    pub(crate) subscribed: Option<u64>,
    pub(crate) sent: BTreeMap<u32, Sent>,
    pub(crate) got: Vec<Got>,
    pub(crate) faults: Vec<String>,
}

struct Outgoing {
    packet_id: PacketId,
    n: u32,
    is_sent: bool,
    was_sent: bool,
    is_released: bool,
}

const WINDOW: usize = 6;

impl Client {
    pub(crate) fn new(spec: Spec, index: usize) -> Self {
        Self {
            spec,
            index,
            conn: None,
            is_connected: false,
            ordinal: 0,
            past: BTreeMap::new(),
            clean_start: false,
            has_forgotten: false,
            has_session: false,
            last_alive_ms: 0,
            packet_ids: 0,
            unacked: VecDeque::new(),
            to_publish: VecDeque::new(),
            received_ids: BTreeSet::new(),
            brought: BTreeSet::new(),
            is_subscribing: false,
            subscribed: None,
            sent: BTreeMap::new(),
            got: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Begins a connection, anew if it wants to, or if its session may have expired.
    pub(crate) fn connect(&mut self, conn: ConnectionId, wants_clean: bool, now_ms: u64) -> Packet {
        let is_over = self.has_session && !self.lives(now_ms);
        // Whoever has forgotten a session must not find it again.
        let clean_start = wants_clean || is_over || self.has_forgotten;
        self.has_forgotten = clean_start;
        if clean_start {
            self.forget_session();
        }
        self.conn = Some(conn);
        self.brought.clear();
        self.ordinal += 1;
        self.past.insert(self.ordinal, Past::default());
        self.clean_start = clean_start;
        // Its answer may be lost: from now on the server may have ended the session.
        self.has_session &= !clean_start;
        let label = Label::Will {
            client: self.index,
            ordinal: self.ordinal,
        };
        let will = Will {
            topic: topic(&format!("r/{}", self.spec.id)),
            payload: label.payload(),
            qos: QoS::ExactlyOnce,
            retain: true,
            delay_s: None,
            properties: None,
        };
        let properties = ConnectProperties {
            session_expiry_s: Some(self.spec.expiry_s),
            receive_maximum: 4.try_into().ok(),
            ..ConnectProperties::default()
        };
        Packet::Connect(Box::new(Connect {
            version: Version::V5,
            clean_start,
            keep_alive_s: 0,
            client_id: self.spec.id.try_into().expect("a short string"),
            will: self.spec.has_will.then(|| Box::new(will)),
            user_name: None,
            password: None,
            properties,
        }))
    }

    /// Ends the connection in order.
    pub(crate) fn disconnect(&mut self) -> Packet {
        self.past.entry(self.ordinal).or_default().clean = true;
        Packet::Disconnect(Box::<Disconnect>::default())
    }

    pub(crate) fn lost_connection(&mut self, now_ms: u64) {
        if self.is_connected {
            self.last_alive_ms = now_ms;
        }
        self.conn = None;
        self.is_connected = false;
        self.is_subscribing = false;
        for outgoing in &mut self.unacked {
            outgoing.is_sent = false;
        }
    }

    pub(crate) fn publish(&mut self, topic: String, qos: QoS) {
        let n = self.sent.len() as u32;
        let sent = Sent {
            topic,
            qos,
            at: None,
            acked_on: None,
        };
        self.sent.insert(n, sent);
        self.to_publish.push_back(n);
    }

    pub(crate) fn is_done(&self) -> bool {
        let subscribed = self.spec.filters.is_empty() || self.subscribed.is_some();
        self.is_connected && subscribed && self.to_publish.is_empty() && self.unacked.is_empty()
    }

    /// Packets that may leave now.
    pub(crate) fn poll(&mut self, step: u64) -> Vec<Packet> {
        let mut packets = Vec::new();
        if !self.is_connected {
            return packets;
        }
        if !self.spec.filters.is_empty() && self.subscribed.is_none() && !self.is_subscribing {
            self.is_subscribing = true;
            packets.push(self.subscribe());
        }
        while self.unacked.len() < WINDOW {
            let Some(n) = self.to_publish.pop_front() else {
                break;
            };
            let packet_id = self.free_id();
            self.unacked.push_back(Outgoing {
                packet_id,
                n,
                is_sent: false,
                was_sent: false,
                is_released: false,
            });
        }
        for outgoing in self.unacked.iter_mut().filter(|o| !o.is_sent) {
            outgoing.is_sent = true;
            let packet_id = outgoing.packet_id;
            if outgoing.is_released {
                packets.push(Packet::PubRel(ack(packet_id)));
                continue;
            }
            let label = Label::Publish {
                client: self.index,
                n: outgoing.n,
            };
            let sent = self.sent.get_mut(&outgoing.n).expect("numbered before");
            sent.at.get_or_insert(step);
            packets.push(Packet::Publish(Publish {
                dup: outgoing.was_sent,
                qos: sent.qos,
                retain: sent.topic.starts_with("r/"),
                topic: topic(&sent.topic),
                packet_id: Some(packet_id),
                payload: label.payload(),
                topic_alias: None,
                subscription_ids: mqtt::SubscriptionIds::new(),
                properties: None,
            }));
            outgoing.was_sent = true;
        }
        packets
    }

    /// Takes a packet of the server; returns the answers.
    pub(crate) fn handle(&mut self, packet: &Packet, step: u64, now_ms: u64) -> Vec<Packet> {
        match packet {
            Packet::ConnAck(connack) => {
                if connack.reason == ReasonCode::Success {
                    self.connected(connack.session_present, step, now_ms);
                }
                Vec::new()
            }
            Packet::Publish(publish) => self.receive(publish),
            Packet::PubAck(ack) => {
                self.acknowledged(ack.packet_id);
                self.complete(ack.packet_id);
                Vec::new()
            }
            Packet::PubRec(ack) => {
                self.acknowledged(ack.packet_id);
                self.released(ack.packet_id)
            }
            Packet::PubComp(ack) => {
                self.complete(ack.packet_id);
                Vec::new()
            }
            Packet::PubRel(rel) => {
                self.note_brought(rel.packet_id, None);
                self.received_ids.remove(&rel.packet_id);
                vec![Packet::PubComp(ack(rel.packet_id))]
            }
            Packet::SubAck(suback) => {
                let refused = suback.reasons.iter().find(|reason| reason.is_error());
                if let Some(reason) = refused {
                    self.faults.push(format!("SUBSCRIBE refused: {reason:?}"));
                }
                self.subscribed = Some(step);
                self.is_subscribing = false;
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn connected(&mut self, session_present: bool, step: u64, now_ms: u64) {
        if self.has_session && self.lives(now_ms) && !session_present {
            let away_ms = now_ms - self.last_alive_ms;
            self.faults.push(format!(
                "{}: the session is gone after {away_ms} ms",
                self.spec.id
            ));
        }
        if self.clean_start && session_present {
            self.faults
                .push(format!("{}: a clean start found a session", self.spec.id));
        }
        if !session_present {
            self.forget_session();
        }
        self.has_session = true;
        self.has_forgotten = false;
        self.is_connected = true;
        self.last_alive_ms = now_ms;
        self.past.entry(self.ordinal).or_default().connected = Some(step);
    }

    /// Whether the server must still keep the session.
    fn lives(&self, now_ms: u64) -> bool {
        now_ms - self.last_alive_ms < u64::from(self.spec.expiry_s) * 1_000
    }

    fn forget_session(&mut self) {
        self.subscribed = None;
        self.received_ids.clear();
        // What was in flight belonged to the session; nobody knows what became of it.
        self.unacked.clear();
    }

    fn subscribe(&self) -> Packet {
        let filters = self.spec.filters.iter().map(|filter| {
            let options = SubscribeOptions {
                qos: QoS::ExactlyOnce,
                retain_handling: if filter.starts_with("r/") {
                    RetainHandling::Send
                } else {
                    RetainHandling::DoNotSend
                },
                ..SubscribeOptions::default()
            };
            ((*filter).try_into().expect("a filter"), options)
        });
        Packet::Subscribe(Box::new(Subscribe {
            packet_id: PacketId::new(900).expect("above 0"),
            filters: filters.collect(),
            subscription_id: None,
            user_properties: Vec::new(),
        }))
    }

    fn receive(&mut self, publish: &Publish) -> Vec<Packet> {
        let Some(id) = publish.packet_id else {
            return Vec::new();
        };
        self.note_brought(id, Some(Label::parse(&publish.payload)));
        let is_second = publish.qos == QoS::ExactlyOnce;
        if !is_second || self.received_ids.insert(id) {
            self.got.push(Got {
                label: Label::parse(&publish.payload),
                topic: publish.topic.to_string(),
                qos: publish.qos,
            });
        }
        vec![if is_second {
            Packet::PubRec(ack(id))
        } else {
            Packet::PubAck(ack(id))
        }]
    }

    /// A connection brings nothing twice `[MQTT-4.4.0-1]`. Of ids above those of persistent sessions
    /// the node sees that itself.
    fn note_brought(&mut self, id: PacketId, label: Option<Label>) {
        if id.get() < 32_768 && !self.brought.insert((id, label)) {
            let what = format!("{}: {label:?} under {id} is sent again", self.spec.id);
            self.faults.push(what);
        }
    }

    fn released(&mut self, packet_id: PacketId) -> Vec<Packet> {
        let found = self.unacked.iter_mut().find(|o| o.packet_id == packet_id);
        if let Some(outgoing) = found {
            outgoing.is_released = true;
        }
        vec![Packet::PubRel(ack(packet_id))]
    }

    fn acknowledged(&mut self, packet_id: PacketId) {
        if let Some(outgoing) = self.unacked.iter().find(|o| o.packet_id == packet_id) {
            let sent = self.sent.get_mut(&outgoing.n).expect("numbered before");
            sent.acked_on.get_or_insert(self.ordinal);
        }
    }

    fn complete(&mut self, packet_id: PacketId) {
        self.unacked.retain(|o| o.packet_id != packet_id);
    }

    fn free_id(&mut self) -> PacketId {
        loop {
            // Few ids, so that they are soon used again.
            self.packet_ids = self.packet_ids % 12 + 1;
            let id = PacketId::new(self.packet_ids).expect("above 0");
            if self.unacked.iter().all(|o| o.packet_id != id) {
                return id;
            }
        }
    }
}

fn topic(text: &str) -> mqtt::Topic {
    text.try_into().expect("a topic")
}

fn ack(packet_id: PacketId) -> Ack {
    Ack {
        packet_id,
        reason: ReasonCode::Success,
        properties: None,
    }
}
