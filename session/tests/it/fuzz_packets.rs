//! Packets and messages drawn from bytes: few topics and ids, so that they meet.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use mqtt::{
    Ack, Auth, Connect, ConnectProperties, Disconnect, Filter, Packet, PacketId, Publish,
    PublishProperties, QoS, ReasonCode, RetainHandling, Subscribe, SubscribeOptions, Text, Topic,
    Unsubscribe, Version, Will,
};
use tidewire_session::{Message, Subscription, WallMs};

/// Draws values from bytes; zeros when they are used up.
pub(crate) struct Source<'a>(pub(crate) &'a [u8]);

impl<'a> Source<'a> {
    /// The next byte, if there is one.
    pub(crate) fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    /// That many bytes, or what is left.
    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    fn bool(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn topic(&mut self) -> Topic {
        topic(self.pick(&["a", "a/b", "b", "$SYS/a"]))
    }

    fn filter(&mut self) -> Filter {
        let text = self.pick(&["a", "a/+", "#", "b", "+/b", "$share/g/a", "a/b/c/d"]);
        Filter::try_from(text).expect("a topic filter")
    }

    fn qos(&mut self) -> QoS {
        self.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
    }

    fn packet_id(&mut self) -> PacketId {
        NonZeroU16::new(u16::from(self.byte() & 7)).unwrap_or(NonZeroU16::MAX)
    }

    fn payload(&mut self) -> Bytes {
        let sizes = [0, 1, 20, 700, 3_000];
        Bytes::from(vec![b'x'; self.pick(&sizes)])
    }

    fn properties(&mut self) -> Option<Box<PublishProperties>> {
        let properties = match self.byte() & 3 {
            0 => PublishProperties {
                message_expiry_s: Some(u32::from(self.byte())),
                ..PublishProperties::default()
            },
            1 => PublishProperties {
                response_topic: Some(self.topic()),
                user_properties: vec![(text("k"), text("v"))],
                ..PublishProperties::default()
            },
            _ => return None,
        };
        Some(Box::new(properties))
    }
}

/// A packet of the kind that a step of the programme asks for.
pub(crate) fn client_packet(
    s: &mut Source<'_>,
    kind: u8,
    version: Version,
    delivered: &[PacketId],
) -> Packet {
    match kind {
        0 => Packet::Connect(Box::new(connect(s))),
        1 => Packet::Publish(publish(s, QoS::AtMostOnce, version)),
        2 => Packet::Publish(publish(s, QoS::AtLeastOnce, version)),
        3 => Packet::Publish(publish(s, QoS::ExactlyOnce, version)),
        4 => Packet::PubRel(ack(s.packet_id())),
        5 => Packet::PubAck(ack(delivered_id(s, delivered))),
        6 => {
            let packet_id = delivered_id(s, delivered);
            let is_refused = version == Version::V5 && s.byte() & 7 == 7;
            Packet::PubRec(Ack {
                reason: if is_refused {
                    ReasonCode::QuotaExceeded
                } else {
                    ReasonCode::Success
                },
                ..ack(packet_id)
            })
        }
        7 => Packet::PubComp(ack(delivered_id(s, delivered))),
        8 => subscribe(s, version),
        _ => rare(s, version),
    }
}

/// Mostly the id of something that was delivered.
fn delivered_id(s: &mut Source<'_>, delivered: &[PacketId]) -> PacketId {
    let choice = s.byte();
    match delivered.len() {
        0 => s.packet_id(),
        _ if choice > 240 => s.packet_id(),
        count => delivered[usize::from(choice) % count],
    }
}

fn connect(s: &mut Source<'_>) -> Connect {
    let options = s.byte();
    let version = [Version::V5, Version::V311][usize::from(options & 1)];
    let properties = match version {
        Version::V311 => ConnectProperties::default(),
        Version::V5 => ConnectProperties {
            session_expiry_s: s.pick(&[None, Some(0), Some(60), Some(u32::MAX)]),
            receive_maximum: s.pick(&[None, NonZeroU16::new(1), NonZeroU16::new(2)]),
            maximum_packet_size: s.pick(&[None, None, NonZeroU32::new(40), NonZeroU32::new(5)]),
            authentication_method: (s.byte() & 31 == 31).then(|| text("SCRAM")),
            ..ConnectProperties::default()
        },
    };
    Connect {
        version,
        clean_start: options & 2 == 2,
        keep_alive_s: s.pick(&[0, 1, 60]),
        client_id: text(if options & 12 == 12 { "" } else { "c" }),
        will: (options & 16 == 16).then(|| Box::new(will(s))),
        user_name: None,
        password: None,
        properties,
    }
}

fn will(s: &mut Source<'_>) -> Will {
    Will {
        topic: s.topic(),
        payload: s.payload(),
        qos: s.qos(),
        retain: s.bool(),
        delay_s: None,
        properties: None,
    }
}

fn publish(s: &mut Source<'_>, qos: QoS, version: Version) -> Publish {
    let options = s.byte();
    let is_v5 = version == Version::V5;
    let topic_alias = NonZeroU16::new(u16::from(options & 3)).filter(|_| is_v5);
    let is_acknowledged = qos != QoS::AtMostOnce;
    Publish {
        dup: is_acknowledged && options & 4 == 4,
        qos,
        retain: options & 8 == 8,
        topic: if topic_alias.is_some() && options & 16 == 16 {
            Topic::default()
        } else {
            s.topic()
        },
        packet_id: is_acknowledged.then(|| s.packet_id()),
        payload: s.payload(),
        topic_alias,
        subscription_ids: mqtt::SubscriptionIds::new(),
        properties: if is_v5 { s.properties() } else { None },
    }
}

fn subscribe(s: &mut Source<'_>, version: Version) -> Packet {
    let packet_id = s.packet_id();
    let count = 1 + usize::from(s.byte() % 3);
    if s.byte() & 3 == 3 {
        return Packet::Unsubscribe(Box::new(Unsubscribe {
            packet_id,
            filters: (0..count).map(|_| s.filter()).collect(),
            user_properties: Vec::new(),
        }));
    }
    let filters = (0..count).map(|_| {
        let filter = s.filter();
        let mut options = options(s, version);
        options.no_local &= filter.shared().is_none();
        (filter, options)
    });
    let filters = filters.collect();
    Packet::Subscribe(Box::new(Subscribe {
        packet_id,
        filters,
        subscription_id: match version {
            Version::V5 => NonZeroU32::new(u32::from(s.byte() & 3)),
            Version::V311 => None,
        },
        user_properties: Vec::new(),
    }))
}

fn options(s: &mut Source<'_>, version: Version) -> SubscribeOptions {
    let qos = s.qos();
    if version == Version::V311 {
        return SubscribeOptions {
            qos,
            ..SubscribeOptions::default()
        };
    }
    SubscribeOptions {
        qos,
        no_local: s.bool(),
        retain_as_published: s.bool(),
        retain_handling: s.pick(&[
            RetainHandling::Send,
            RetainHandling::SendIfNew,
            RetainHandling::DoNotSend,
        ]),
    }
}

fn rare(s: &mut Source<'_>, version: Version) -> Packet {
    match s.byte() & 15 {
        0 => Packet::Disconnect(Box::default()),
        1 if version == Version::V5 => Packet::Disconnect(Box::new(Disconnect {
            reason: ReasonCode::DisconnectWithWill,
            session_expiry_s: s.pick(&[None, Some(0), Some(60)]),
            ..Disconnect::default()
        })),
        2 if version == Version::V5 => Packet::Auth(Box::new(Auth {
            reason: ReasonCode::ReAuthenticate,
            authentication_method: Some(text("SCRAM")),
            authentication_data: None,
            properties: None,
        })),
        _ => Packet::PingReq,
    }
}

/// What somebody published.
pub(crate) fn message(s: &mut Source<'_>, now: WallMs) -> Message {
    let options = s.byte();
    Message {
        topic: s.topic(),
        payload: s.payload(),
        qos: s.qos(),
        retain: options & 1 == 1,
        properties: s.properties(),
        publisher: (options & 2 == 2).then(|| "c".try_into().expect("a client id")),
        received: now,
        expiry: (options & 4 == 4).then(|| now.plus_s(u64::from(options >> 4))),
    }
}

/// A subscription that a message matched.
pub(crate) fn subscription(s: &mut Source<'_>) -> Subscription {
    Subscription {
        options: options(s, Version::V5),
        id: NonZeroU32::new(u32::from(s.byte() & 3)),
    }
}

fn ack(packet_id: PacketId) -> Ack {
    Ack {
        packet_id,
        reason: ReasonCode::Success,
        properties: None,
    }
}

fn text(text: &str) -> Text {
    Text::try_from(text).expect("an MQTT string")
}

fn topic(text: &str) -> Topic {
    Topic::try_from(text).expect("a topic name")
}
