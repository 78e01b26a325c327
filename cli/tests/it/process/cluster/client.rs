//! A client that does one thing after the other.

use std::net::SocketAddr;

use crate::process::sessions::packet::{
    self, Connect, DISCONNECT, PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, SUBACK, Will,
};
use crate::process::wait::until;
use crate::process::wire::{Packet, Wire};

/// A connection with MQTT 5.
pub(super) struct Client {
    wire: Wire,
    /// Packet id of the last PUBLISH.
    id: u16,
    /// Whether the session was there before.
    pub(super) is_resumed: bool,
}

impl Client {
    /// Connects with a session that lasts, or with none.
    pub(super) fn connect(address: SocketAddr, id: &str, is_lasting: bool) -> Self {
        Self::with_will(address, id, is_lasting, None)
    }

    /// Comes again as long as it is told to: a node may not know yet that the client was at another.
    pub(super) fn with_will(
        address: SocketAddr,
        id: &str,
        is_lasting: bool,
        will: Option<&str>,
    ) -> Self {
        let connect = Connect {
            id,
            expiry_s: if is_lasting { 3_600 } else { 0 },
            receive_maximum: 100,
            will: will.map(|topic| Will { topic, qos: 1 }),
        };
        until("a node that takes the client", || {
            let mut wire = Wire::open(address).expect("the node listens");
            wire.send(&connect.encode()).expect("the node reads");
            let connack = wire.read().expect("the node answers");
            let is_resumed = packet::session_present(&connack).ok()?;
            Some(Self {
                wire,
                id: 0,
                is_resumed,
            })
        })
    }

    /// Subscribes, and gets retained messages.
    pub(super) fn subscribe(&mut self, filter: &str, qos: u8) {
        self.send(&packet::subscribe_with(&[filter], qos));
        let suback = self.wire.read().expect("the node answers");
        assert_eq!((suback.first, &suback.body[3..]), (SUBACK, &[qos][..]));
    }

    /// Publishes and waits for all that its QoS has come.
    pub(super) fn publish(&mut self, topic: &str, qos: u8, payload: &str) {
        self.publish_as(topic, qos, payload, false);
    }

    pub(super) fn retain(&mut self, topic: &str, payload: &str) {
        self.publish_as(topic, 1, payload, true);
    }

    fn publish_as(&mut self, topic: &str, qos: u8, payload: &str, retain: bool) {
        self.id += 1;
        let id = self.id;
        let publish = Publish {
            topic: topic.to_owned(),
            payload: payload.to_owned(),
            qos,
            id,
            dup: false,
            retain,
        };
        self.send(&publish.encode());
        match qos {
            0 => {}
            1 => self.expect(PUBACK, id),
            _ => {
                self.expect(PUBREC, id);
                self.send(&packet::ack(PUBREL, id));
                self.expect(PUBCOMP, id);
            }
        }
    }

    /// Publishes, and is told of the end of the connection instead of an acknowledgement; the reason.
    pub(super) fn publish_in_vain(mut self, topic: &str, qos: u8, payload: &str) -> u8 {
        self.id += 1;
        let publish = Publish {
            topic: topic.to_owned(),
            payload: payload.to_owned(),
            qos,
            id: self.id,
            dup: false,
            retain: false,
        };
        self.send(&publish.encode());
        let packets = self.wire.read_to_close();
        let [last] = &packets[..] else {
            panic!("nothing but the end: {packets:?}");
        };
        assert_eq!(last.first, DISCONNECT, "{last:?}");
        last.body[0]
    }

    /// Waits until the node has closed the connection.
    pub(super) fn await_end(mut self) {
        self.wire.read_to_close();
    }

    /// The next message, acknowledged. A PUBREL that comes again, since nobody had recorded its answer,
    /// is answered again.
    pub(super) fn next(&mut self) -> Publish {
        let mut packet = self.wire.read().expect("a message comes");
        while packet.first == PUBREL {
            self.send(&packet::ack(PUBCOMP, packet::acknowledged(&packet)));
            packet = self.wire.read().expect("a message comes");
        }
        let publish = Publish::decode(&packet).unwrap_or_else(|| panic!("a message: {packet:?}"));
        match publish.qos {
            0 => {}
            1 => self.send(&packet::ack(PUBACK, publish.id)),
            _ => {
                self.send(&packet::ack(PUBREC, publish.id));
                self.expect(PUBREL, publish.id);
                self.send(&packet::ack(PUBCOMP, publish.id));
            }
        }
        publish
    }

    /// The packet with which the node ends the connection.
    pub(super) fn last_packet(mut self) -> Packet {
        let packets = self.wire.read_to_close();
        packets.last().expect("the node says why").clone()
    }

    /// The packet with which the node has ended the connection, if it comes before any message; one message
    /// comes.
    pub(super) fn end_before_a_message(&mut self) -> Option<Packet> {
        let packet = self.wire.read().expect("something comes");
        let is_end = packet.first == DISCONNECT;
        if !is_end {
            let publish = Publish::decode(&packet).expect("a message");
            self.send(&packet::ack(PUBACK, publish.id));
        }
        is_end.then_some(packet)
    }

    /// The reason for which the node ends the connection.
    pub(super) fn reason_of_end(mut self) -> u8 {
        let packets = self.wire.read_to_close();
        let last = packets.last().expect("the node says why");
        assert_eq!(last.first, DISCONNECT, "{packets:?}");
        last.body[0]
    }

    /// Sees nothing that the node has sent before it answers a PINGREQ.
    pub(super) fn assert_silent(&mut self) {
        assert!(self.wire.is_alive(), "a PINGRESP comes, and nothing before");
    }

    pub(super) fn disconnect(mut self) {
        self.send(&[DISCONNECT, 0]);
        assert_eq!(self.wire.read_to_close(), []);
    }

    fn expect(&mut self, first: u8, id: u16) {
        let packet = self.wire.read().expect("the node answers");
        assert_eq!((packet.first, packet::acknowledged(&packet)), (first, id));
    }

    fn send(&mut self, bytes: &[u8]) {
        self.wire.send(bytes).expect("the node reads");
    }
}
