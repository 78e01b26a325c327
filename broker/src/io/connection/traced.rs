//! What passes, for those who trace a client or topics. Nobody comes here while nobody does.

use admin::trace::Event;
use mqtt::{Packet, Publish, Version};
use session::{Ack, Closed, ClosedBy, Outgoing};

use super::Connection;

impl Connection {
    /// A packet of the client.
    pub(super) fn trace_received(&self, packet: &Packet) {
        let connecting = match packet {
            Packet::Connect(connect) => connect.client_id.as_str(),
            _ => "",
        };
        let client = self.live.client().map_or(connecting, |id| id.as_str());
        let traces = &self.io.shared.traces;
        traces.of_client(client, || self.event(client, true, of_packet(packet)));
    }

    /// A message of the client, of which the topic is known now whatever alias stood for it.
    pub(super) fn trace_published(&self, publish: &Publish) {
        let traces = &self.io.shared.traces;
        traces.of_topic(&publish.topic, || {
            self.event(self.traced_client(), true, of_publish(publish))
        });
    }

    /// A packet for the client.
    pub(super) fn trace_sent(&self, packet: &Packet) {
        let client = self.traced_client();
        let traces = &self.io.shared.traces;
        traces.of_client(client, || self.event(client, false, of_packet(packet)));
    }

    /// An acknowledgement for the client.
    pub(super) fn trace_acked(&self, ack: Ack) {
        self.trace_sent(&ack.to_packet());
    }

    /// A message for the client.
    pub(super) fn trace_delivered(&self, outgoing: &Outgoing) {
        let message = &outgoing.message;
        let event = || {
            let event = Event {
                packet: "PUBLISH".to_owned(),
                packet_id: outgoing.packet_id.map(Into::into),
                topic: Some(message.topic.to_string()),
                qos: Some(outgoing.qos as u8),
                retain: outgoing.retain,
                dup: outgoing.dup,
                payload_bytes: Some(message.payload.len() as u64),
                ..Event::default()
            };
            self.event(self.traced_client(), false, event)
        };
        let traces = &self.io.shared.traces;
        traces.of_client(self.traced_client(), event);
        traces.of_topic(&message.topic, event);
    }

    /// The connection ends.
    pub(super) fn trace_closed(&self, closed: &Closed) {
        let by = match closed.by {
            ClosedBy::Client => "by the client",
            ClosedBy::Server => "by the node",
            ClosedBy::Network => "by the network",
        };
        let client = self.traced_client();
        self.io.shared.traces.of_client(client, || {
            let event = Event {
                packet: "closed".to_owned(),
                reason: Some(closed.reason as u8),
                about: Some(by.to_owned()),
                ..Event::default()
            };
            self.event(client, closed.by == ClosedBy::Client, event)
        });
    }

    fn traced_client(&self) -> &str {
        self.live.client().map_or("", |id| id.as_str())
    }

    fn event(&self, client: &str, from_client: bool, event: Event) -> Event {
        Event {
            at_ms: self.io.now().wall.0,
            client: client.to_owned(),
            from_client,
            ..event
        }
    }
}

fn of_publish(publish: &Publish) -> Event {
    let alias = publish
        .topic_alias
        .map(|alias| format!("topic alias {alias}"));
    Event {
        packet: "PUBLISH".to_owned(),
        packet_id: publish.packet_id.map(Into::into),
        topic: (!publish.topic.is_empty()).then(|| publish.topic.to_string()),
        qos: Some(publish.qos as u8),
        retain: publish.retain,
        dup: publish.dup,
        payload_bytes: Some(publish.payload.len() as u64),
        about: alias,
        ..Event::default()
    }
}

fn of_packet(packet: &Packet) -> Event {
    let named = |name: &str| Event {
        packet: name.to_owned(),
        ..Event::default()
    };
    let acked = |name: &str, ack: &mqtt::Ack| Event {
        packet_id: Some(ack.packet_id.into()),
        reason: Some(ack.reason as u8),
        ..named(name)
    };
    let answered = |name: &str, ack: &mqtt::SubAck| Event {
        packet_id: Some(ack.packet_id.into()),
        reason: ack.reasons.first().map(|reason| *reason as u8),
        about: Some(format!("{} reason codes", ack.reasons.len())),
        ..named(name)
    };
    match packet {
        Packet::Connect(connect) => {
            let version = match connect.version {
                Version::V311 => "3.1.1",
                Version::V5 => "5",
            };
            let (clean, keep_alive) = (connect.clean_start, connect.keep_alive_s);
            let expiry = connect.properties.session_expiry_s.unwrap_or(0);
            let about = format!(
                "MQTT {version}, clean start {clean}, keep alive {keep_alive} s, session expiry {expiry} s"
            );
            Event {
                about: Some(about),
                ..named("CONNECT")
            }
        }
        Packet::ConnAck(connack) => Event {
            reason: Some(connack.reason as u8),
            about: Some(format!("session present {}", connack.session_present)),
            ..named("CONNACK")
        },
        Packet::Publish(publish) => of_publish(publish),
        Packet::PubAck(ack) => acked("PUBACK", ack),
        Packet::PubRec(ack) => acked("PUBREC", ack),
        Packet::PubRel(ack) => acked("PUBREL", ack),
        Packet::PubComp(ack) => acked("PUBCOMP", ack),
        Packet::Subscribe(subscribe) => {
            let all = subscribe.filters.iter();
            let all = all.map(|(filter, options)| format!("{filter} (QoS {})", options.qos as u8));
            Event {
                packet_id: Some(subscribe.packet_id.into()),
                about: Some(some_of(all)),
                ..named("SUBSCRIBE")
            }
        }
        Packet::SubAck(ack) => answered("SUBACK", ack),
        Packet::Unsubscribe(unsubscribe) => Event {
            packet_id: Some(unsubscribe.packet_id.into()),
            about: Some(some_of(unsubscribe.filters.iter().map(ToString::to_string))),
            ..named("UNSUBSCRIBE")
        },
        Packet::UnsubAck(ack) => answered("UNSUBACK", ack),
        Packet::PingReq => named("PINGREQ"),
        Packet::PingResp => named("PINGRESP"),
        Packet::Disconnect(disconnect) => Event {
            reason: Some(disconnect.reason as u8),
            ..named("DISCONNECT")
        },
        Packet::Auth(auth) => Event {
            reason: Some(auth.reason as u8),
            ..named("AUTH")
        },
    }
}

/// The first of many.
fn some_of(mut all: impl ExactSizeIterator<Item = String>) -> String {
    let mut some: Vec<String> = all.by_ref().take(8).collect();
    if all.len() > 0 {
        some.push(format!("and {} more", all.len()));
    }
    some.join(", ")
}
