//! Arbitrary packets, drawn from arbitrary bytes so that a failure shrinks.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use tidewire_mqtt::*;

use crate::listed;

/// Draws values from bytes; zeros when they are used up.
pub(crate) struct Source<'a>(pub(crate) &'a [u8]);

impl Source<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    fn bool(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn option<T>(&mut self, draw: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.bool() { Some(draw(self)) } else { None }
    }

    fn list<T>(&mut self, at_most: usize, mut draw: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(at_most + 1)).map(|_| draw(self)).collect()
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn binary(&mut self) -> Bytes {
        // Long enough to need two bytes of length now and then.
        let len = if self.below(16) == 0 {
            300
        } else {
            self.below(8)
        };
        (0..len).map(|_| self.byte()).collect()
    }

    fn text(&mut self) -> Text {
        let chars = [
            'a',
            'é',
            '/',
            '+',
            '#',
            '$',
            ' ',
            '\u{FEFF}',
            '\u{D7FF}',
            '\u{10FFFF}',
        ];
        let len = self.below(6);
        let text: String = (0..len).map(|_| self.pick(&chars)).collect();
        Text::try_from(text.as_str()).expect("no U+0000 in it")
    }

    fn topic(&mut self) -> Topic {
        let levels = ["a", "b", "", "é", "$SYS", "\u{FEFF}"];
        let text = self.joined(&levels);
        let text = if text.is_empty() { "/" } else { &text };
        Topic::try_from(text).expect("no wildcards and not empty")
    }

    fn filter(&mut self) -> Filter {
        let share = if self.below(4) == 0 { "$share/g/" } else { "" };
        let mut text = share.to_owned() + &self.joined(&["a", "b", "", "+", "é", "$SYS"]);
        if self.bool() {
            text += if text.is_empty() || text == share {
                "#"
            } else {
                "/#"
            };
        }
        if text == share {
            text += "/";
        }
        Filter::try_from(text.as_str()).expect("wildcards at their places")
    }

    fn joined(&mut self, levels: &[&str]) -> String {
        let count = 1 + self.below(4);
        (0..count)
            .map(|_| self.pick(levels))
            .collect::<Vec<_>>()
            .join("/")
    }

    fn packet_id(&mut self) -> PacketId {
        NonZeroU16::new(self.u16()).unwrap_or(NonZeroU16::MAX)
    }

    fn qos(&mut self) -> QoS {
        self.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
    }

    fn subscription_id(&mut self) -> NonZeroU32 {
        let sizes = [
            1,
            127,
            128,
            16_383,
            16_384,
            2_097_151,
            2_097_152,
            268_435_455,
        ];
        NonZeroU32::new(self.pick(&sizes)).expect("none is 0")
    }

    fn user_properties(&mut self) -> Vec<(Text, Text)> {
        self.list(2, |s| (s.text(), s.text()))
    }

    fn reason(&mut self, listed: &[u8]) -> ReasonCode {
        ReasonCode::try_from(self.pick(listed)).expect("a listed code")
    }

    fn reason_properties(&mut self) -> Option<Box<ReasonProperties>> {
        let properties = ReasonProperties {
            reason_string: self.option(Self::text),
            user_properties: self.user_properties(),
        };
        (properties != ReasonProperties::default()).then(|| Box::new(properties))
    }

    fn publish_properties(&mut self) -> Option<Box<PublishProperties>> {
        let properties = PublishProperties {
            payload_is_utf8: self.option(Self::bool),
            message_expiry_s: self.option(Self::u32),
            response_topic: self.option(Self::topic),
            correlation_data: self.option(Self::binary),
            content_type: self.option(Self::text),
            user_properties: self.user_properties(),
        };
        (properties != PublishProperties::default()).then(|| Box::new(properties))
    }
}

/// A packet that `role` may read in `version`.
pub(crate) fn packet(s: &mut Source<'_>, version: Version, role: Role) -> Packet {
    let kind = match (role, version) {
        (Role::Server, Version::V5) => s.pick(&[1, 3, 4, 5, 6, 7, 8, 10, 12, 14, 15]),
        (Role::Server, Version::V311) => s.pick(&[1, 3, 4, 5, 6, 7, 8, 10, 12, 14]),
        (Role::Client, Version::V5) => s.pick(&[2, 3, 4, 5, 6, 7, 9, 11, 13, 14, 15]),
        (Role::Client, Version::V311) => s.pick(&[2, 3, 4, 5, 6, 7, 9, 11, 13]),
    };
    match kind {
        1 => Packet::Connect(Box::new(connect(s, version))),
        2 => Packet::ConnAck(Box::new(connack(s, version))),
        3 => Packet::Publish(publish(s, version, role)),
        4 => Packet::PubAck(ack(s, version, listed::RECEIVED)),
        5 => Packet::PubRec(ack(s, version, listed::RECEIVED)),
        6 => Packet::PubRel(ack(s, version, listed::RELEASED)),
        7 => Packet::PubComp(ack(s, version, listed::RELEASED)),
        8 => Packet::Subscribe(Box::new(subscribe(s, version))),
        9 => Packet::SubAck(Box::new(suback(
            s,
            version,
            listed::SUBACK,
            listed::SUBACK_V311,
        ))),
        10 => Packet::Unsubscribe(Box::new(unsubscribe(s, version))),
        11 => Packet::UnsubAck(Box::new(suback(s, version, listed::UNSUBACK, &[]))),
        12 => Packet::PingReq,
        13 => Packet::PingResp,
        14 => Packet::Disconnect(Box::new(disconnect(s, version, role))),
        _ => Packet::Auth(Box::new(auth(s, role))),
    }
}

fn connect(s: &mut Source<'_>, version: Version) -> Connect {
    let v5 = version == Version::V5;
    let user_name = s.option(Source::text);
    Connect {
        version,
        clean_start: s.bool(),
        keep_alive_s: s.u16(),
        client_id: s.text(),
        will: s.option(|s| {
            Box::new(Will {
                topic: s.topic(),
                payload: s.binary(),
                qos: s.qos(),
                retain: s.bool(),
                delay_s: if v5 { s.option(Source::u32) } else { None },
                properties: if v5 { s.publish_properties() } else { None },
            })
        }),
        password: if v5 || user_name.is_some() {
            s.option(Source::binary)
        } else {
            None
        },
        user_name,
        properties: if v5 {
            connect_properties(s)
        } else {
            ConnectProperties::default()
        },
    }
}

fn connect_properties(s: &mut Source<'_>) -> ConnectProperties {
    let authentication_method = s.option(Source::text);
    ConnectProperties {
        session_expiry_s: s.option(Source::u32),
        receive_maximum: s.option(Source::packet_id),
        maximum_packet_size: s.option(Source::subscription_id),
        topic_alias_maximum: s.option(Source::u16),
        request_response_information: s.option(Source::bool),
        request_problem_information: s.option(Source::bool),
        user_properties: s.user_properties(),
        authentication_data: authentication_method.as_ref().map(|_| s.binary()),
        authentication_method,
    }
}

fn connack(s: &mut Source<'_>, version: Version) -> ConnAck {
    let v311 = version == Version::V311;
    let reason = s.reason(if v311 {
        listed::CONNACK_V311
    } else {
        listed::CONNACK
    });
    ConnAck {
        session_present: reason == ReasonCode::Success && s.bool(),
        reason,
        properties: if v311 {
            ConnAckProperties::default()
        } else {
            connack_properties(s)
        },
    }
}

fn connack_properties(s: &mut Source<'_>) -> ConnAckProperties {
    ConnAckProperties {
        session_expiry_s: s.option(Source::u32),
        receive_maximum: s.option(Source::packet_id),
        maximum_qos: s.option(|s| s.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce])),
        retain_available: s.option(Source::bool),
        maximum_packet_size: s.option(Source::subscription_id),
        assigned_client_id: s.option(Source::text),
        topic_alias_maximum: s.option(Source::u16),
        reason_string: s.option(Source::text),
        user_properties: s.user_properties(),
        wildcard_subscription_available: s.option(Source::bool),
        subscription_ids_available: s.option(Source::bool),
        shared_subscription_available: s.option(Source::bool),
        server_keep_alive_s: s.option(Source::u16),
        response_information: s.option(Source::text),
        server_reference: s.option(Source::text),
        authentication_method: s.option(Source::text),
        authentication_data: s.option(Source::binary),
    }
}

fn publish(s: &mut Source<'_>, version: Version, role: Role) -> Publish {
    let v5 = version == Version::V5;
    let qos = s.qos();
    let topic_alias = if v5 {
        s.option(Source::packet_id)
    } else {
        None
    };
    let ids = if v5 && role == Role::Client { 3 } else { 0 };
    Publish {
        dup: qos != QoS::AtMostOnce && s.bool(),
        qos,
        retain: s.bool(),
        topic: if topic_alias.is_some() && s.bool() {
            Topic::default()
        } else {
            s.topic()
        },
        packet_id: (qos != QoS::AtMostOnce).then(|| s.packet_id()),
        payload: s.binary(),
        topic_alias,
        subscription_ids: s.list(ids, Source::subscription_id).into(),
        properties: if v5 { s.publish_properties() } else { None },
    }
}

fn ack(s: &mut Source<'_>, version: Version, listed: &[u8]) -> Ack {
    let v5 = version == Version::V5;
    Ack {
        packet_id: s.packet_id(),
        reason: if v5 {
            s.reason(listed)
        } else {
            ReasonCode::Success
        },
        properties: if v5 { s.reason_properties() } else { None },
    }
}

fn subscribe(s: &mut Source<'_>, version: Version) -> Subscribe {
    let v5 = version == Version::V5;
    let mut filters = s.list(3, |s| options(s, v5));
    filters.push(options(s, v5));
    Subscribe {
        packet_id: s.packet_id(),
        filters,
        subscription_id: if v5 {
            s.option(Source::subscription_id)
        } else {
            None
        },
        user_properties: if v5 { s.user_properties() } else { Vec::new() },
    }
}

fn options(s: &mut Source<'_>, v5: bool) -> (Filter, SubscribeOptions) {
    let filter = s.filter();
    let qos = s.qos();
    if !v5 {
        return (
            filter,
            SubscribeOptions {
                qos,
                ..SubscribeOptions::default()
            },
        );
    }
    let handling = [
        RetainHandling::Send,
        RetainHandling::SendIfNew,
        RetainHandling::DoNotSend,
    ];
    let options = SubscribeOptions {
        qos,
        no_local: filter.shared().is_none() && s.bool(),
        retain_as_published: s.bool(),
        retain_handling: s.pick(&handling),
    };
    (filter, options)
}

fn suback(s: &mut Source<'_>, version: Version, v5: &[u8], v311: &[u8]) -> SubAck {
    let listed = if version == Version::V5 { v5 } else { v311 };
    let mut reasons = Vec::new();
    if !listed.is_empty() {
        reasons = s.list(3, |s| s.reason(listed));
        reasons.push(s.reason(listed));
    }
    SubAck {
        packet_id: s.packet_id(),
        reasons,
        properties: if version == Version::V5 {
            s.reason_properties()
        } else {
            None
        },
    }
}

fn unsubscribe(s: &mut Source<'_>, version: Version) -> Unsubscribe {
    let mut filters = s.list(3, Source::filter);
    filters.push(s.filter());
    Unsubscribe {
        packet_id: s.packet_id(),
        filters,
        user_properties: if version == Version::V5 {
            s.user_properties()
        } else {
            Vec::new()
        },
    }
}

fn disconnect(s: &mut Source<'_>, version: Version, role: Role) -> Disconnect {
    match (version, role) {
        (Version::V311, _) => Disconnect::default(),
        (Version::V5, Role::Server) => Disconnect {
            reason: s.reason(listed::DISCONNECT_BY_CLIENT),
            session_expiry_s: s.option(Source::u32),
            server_reference: None,
            properties: s.reason_properties(),
        },
        (Version::V5, Role::Client) => Disconnect {
            reason: s.reason(listed::DISCONNECT_BY_SERVER),
            session_expiry_s: None,
            server_reference: s.option(Source::text),
            properties: s.reason_properties(),
        },
    }
}

fn auth(s: &mut Source<'_>, role: Role) -> Auth {
    let reason = match role {
        Role::Server => s.reason(listed::AUTH_BY_CLIENT),
        Role::Client => s.reason(listed::AUTH_BY_SERVER),
    };
    if reason == ReasonCode::Success && s.bool() {
        return Auth {
            reason,
            authentication_method: None,
            authentication_data: None,
            properties: None,
        };
    }
    Auth {
        reason,
        authentication_method: Some(s.text()),
        authentication_data: s.option(Source::binary),
        properties: s.reason_properties(),
    }
}
