//! A client machine: publishes, re-sends with DUP after a reconnect, acknowledges, and records
//! what its application gets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mqtt::{
    Ack, Connect, ConnectProperties, Packet, PacketId, Publish, QoS, ReasonCode, Subscribe,
    SubscribeOptions, Version,
};

/// A client with a persistent session and a store that survives its connections.
pub(crate) struct Client {
    id: &'static str,
    version: Version,
    clean_start: bool,
    next_id: u16,
    /// In order of publishing.
    unacked: VecDeque<Outgoing>,
    window: usize,
    to_publish: VecDeque<Publish>,
    /// QoS 2 ids that wait for PUBREL.
    received_ids: BTreeSet<PacketId>,
    pub(crate) is_connected: bool,
    /// Whether a CONNACK said that the server keeps a session.
    has_session: bool,
    pub(crate) subscribed: bool,
    /// Payloads in order of arrival, with their QoS.
    pub(crate) got: Vec<(QoS, u32)>,
    /// Payloads whose exchange is complete.
    pub(crate) completed: BTreeMap<u32, QoS>,
    pub(crate) faults: Vec<String>,
}

struct Outgoing {
    packet_id: PacketId,
    publish: Publish,
    is_sent: bool,
    is_released: bool,
}

impl Client {
    pub(crate) fn new(id: &'static str, version: Version) -> Self {
        Self {
            id,
            version,
            clean_start: false,
            next_id: 0,
            unacked: VecDeque::new(),
            window: 8,
            to_publish: VecDeque::new(),
            received_ids: BTreeSet::new(),
            is_connected: false,
            has_session: false,
            subscribed: false,
            got: Vec::new(),
            completed: BTreeMap::new(),
            faults: Vec::new(),
        }
    }

    pub(crate) fn connect(&self) -> Packet {
        let mut connect = connect(self.id, self.version);
        connect.clean_start = self.clean_start;
        if self.version == Version::V5 {
            connect.properties.session_expiry_s = Some(3_600);
            connect.properties.receive_maximum = 4.try_into().ok();
        }
        Packet::Connect(Box::new(connect))
    }

    pub(crate) fn subscribe(&self, filter: &str, qos: QoS) -> Packet {
        subscribe(filter, qos)
    }

    pub(crate) fn publish(&mut self, topic: &str, qos: QoS, number: u32) {
        self.to_publish
            .push_back(publish(topic, qos, None, &number.to_string()));
    }

    pub(crate) fn is_done(&self) -> bool {
        self.to_publish.is_empty() && self.unacked.is_empty()
    }

    pub(crate) fn lost_connection(&mut self) {
        self.is_connected = false;
        for outgoing in &mut self.unacked {
            outgoing.is_sent = false;
        }
    }

    /// Packets that may leave now.
    pub(crate) fn poll(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        if !self.is_connected {
            return packets;
        }
        while self.unacked.len() < self.window {
            let Some(publish) = self.to_publish.pop_front() else {
                break;
            };
            let packet_id = self.free_id();
            self.unacked.push_back(Outgoing {
                packet_id,
                publish,
                is_sent: false,
                is_released: false,
            });
        }
        for outgoing in self.unacked.iter_mut().filter(|o| !o.is_sent) {
            outgoing.is_sent = true;
            packets.push(if outgoing.is_released {
                Packet::PubRel(ack(outgoing.packet_id))
            } else {
                let mut publish = outgoing.publish.clone();
                publish.packet_id = Some(outgoing.packet_id);
                outgoing.publish.dup = true;
                Packet::Publish(publish)
            });
        }
        packets
    }

    /// Takes a packet of the server; returns the answers.
    pub(crate) fn handle(&mut self, packet: Packet) -> Vec<Packet> {
        match packet {
            Packet::ConnAck(connack) => {
                if connack.reason != ReasonCode::Success {
                    self.faults.push(format!("refused: {:?}", connack.reason));
                }
                if connack.session_present != self.has_session && self.has_session {
                    self.faults.push("the session is gone".to_owned());
                }
                self.has_session = true;
                self.is_connected = true;
                Vec::new()
            }
            Packet::Publish(publish) => self.receive(&publish),
            Packet::PubAck(ack) => {
                self.complete(ack.packet_id, QoS::AtLeastOnce);
                Vec::new()
            }
            Packet::PubRec(ack) => self.received(ack.packet_id),
            Packet::PubComp(ack) => {
                self.complete(ack.packet_id, QoS::ExactlyOnce);
                Vec::new()
            }
            Packet::PubRel(rel) => {
                self.received_ids.remove(&rel.packet_id);
                vec![Packet::PubComp(ack(rel.packet_id))]
            }
            Packet::SubAck(_) => {
                self.subscribed = true;
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn receive(&mut self, publish: &Publish) -> Vec<Packet> {
        let number = number_of(publish);
        match publish.packet_id {
            None => {
                self.got.push((publish.qos, number));
                Vec::new()
            }
            Some(id) if publish.qos == QoS::AtLeastOnce => {
                self.got.push((publish.qos, number));
                vec![Packet::PubAck(ack(id))]
            }
            Some(id) => {
                if self.received_ids.insert(id) {
                    self.got.push((publish.qos, number));
                }
                vec![Packet::PubRec(ack(id))]
            }
        }
    }

    fn received(&mut self, packet_id: PacketId) -> Vec<Packet> {
        let found = self.unacked.iter_mut().find(|o| o.packet_id == packet_id);
        if let Some(outgoing) = found {
            outgoing.is_released = true;
        }
        vec![Packet::PubRel(ack(packet_id))]
    }

    fn complete(&mut self, packet_id: PacketId, qos: QoS) {
        let found = self.unacked.iter().position(|o| o.packet_id == packet_id);
        let Some(outgoing) = found.and_then(|at| self.unacked.remove(at)) else {
            return;
        };
        if outgoing.publish.qos != qos {
            self.faults.push(format!("wrong ack for {packet_id}"));
        }
        self.completed.insert(number_of(&outgoing.publish), qos);
    }

    fn free_id(&mut self) -> PacketId {
        loop {
            // Few ids, so that they are soon used again.
            self.next_id = self.next_id % 16 + 1;
            let id = PacketId::new(self.next_id).expect("above 0");
            if self.unacked.iter().all(|o| o.packet_id != id) {
                return id;
            }
        }
    }
}

fn number_of(publish: &Publish) -> u32 {
    let text = std::str::from_utf8(&publish.payload).expect("a number");
    text.parse().expect("a number")
}

pub(crate) fn connect(id: &str, version: Version) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 0,
        client_id: id.try_into().expect("a short string"),
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

pub(crate) fn publish(topic: &str, qos: QoS, packet_id: Option<u16>, payload: &str) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: topic.try_into().expect("a topic"),
        packet_id: packet_id.and_then(PacketId::new),
        payload: payload.to_owned().into(),
        topic_alias: None,
        subscription_ids: mqtt::SubscriptionIds::new(),
        properties: None,
    }
}

pub(crate) fn subscribe(filter: &str, qos: QoS) -> Packet {
    subscribe_with(
        filter,
        SubscribeOptions {
            qos,
            ..SubscribeOptions::default()
        },
        None,
    )
}

pub(crate) fn subscribe_with(filter: &str, options: SubscribeOptions, id: Option<u32>) -> Packet {
    Packet::Subscribe(Box::new(Subscribe {
        packet_id: id_of(900),
        filters: vec![(filter.try_into().expect("a filter"), options)],
        subscription_id: id.and_then(|id| id.try_into().ok()),
        user_properties: Vec::new(),
    }))
}

pub(crate) fn ack(packet_id: PacketId) -> Ack {
    Ack {
        packet_id,
        reason: ReasonCode::Success,
        properties: None,
    }
}

pub(crate) fn id_of(id: u16) -> PacketId {
    PacketId::new(id).expect("above 0")
}
