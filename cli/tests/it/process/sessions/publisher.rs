//! A publisher whose session, and whose open handshakes, outlive its node.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;

use super::packet::{self, Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Publish};
use crate::process::wire::Wire;

/// Messages under way; more than one, so that a kill meets them in every state.
const WINDOW: usize = 16;

/// Every so many messages one is retained.
const RETAINED_EVERY: u32 = 20;

/// Sends message after message, each with the next number, in turn to three topics.
pub(crate) struct Publisher {
    pub(crate) number: usize,
    pub(crate) qos: u8,
    /// Number of the next new message.
    pub(crate) next: u32,
    /// PUBACKs and first PUBRECs that came.
    pub(crate) acked: u32,
    /// The last retained message that was acknowledged.
    pub(crate) retained_acked: Option<u32>,
    /// Sent and not done, oldest first.
    open: VecDeque<Handshake>,
    has_session: bool,
}

struct Handshake {
    number: u32,
    /// PUBREC came, so that PUBREL is what is sent.
    released: bool,
}

impl Publisher {
    pub(crate) fn new(number: usize, qos: u8) -> Self {
        Self {
            number,
            qos,
            next: 0,
            acked: 0,
            retained_acked: None,
            open: VecDeque::new(),
            has_session: false,
        }
    }

    /// Whether a PUBREC has come whose PUBCOMP has not.
    pub(crate) fn has_released(&self) -> bool {
        self.open.iter().any(|handshake| handshake.released)
    }

    /// The newest retained message that was sent.
    pub(crate) fn retained_sent(&self) -> Option<u32> {
        (0..self.next).rev().find(|number| is_retained(*number))
    }

    /// Publishes until the connection breaks, or until all handshakes are done after `stop`.
    pub(crate) fn run(
        &mut self,
        address: SocketAddr,
        stop: &AtomicBool,
        acks: &SyncSender<()>,
    ) -> io::Result<()> {
        let mut wire = self.resume(address)?;
        loop {
            while self.open.len() < WINDOW && !stop.load(Ordering::Relaxed) {
                let handshake = Handshake {
                    number: self.next,
                    released: false,
                };
                let publish = self.publish(handshake.number, false);
                self.next += 1;
                self.open.push_back(handshake);
                wire.send(&publish)?;
            }
            if self.open.is_empty() {
                return wire.send(&[0xE0, 0]);
            }
            let packet = wire.read()?;
            packet::not_closing(&packet)?;
            let id = packet::acknowledged(&packet);
            match packet.first {
                PUBACK => self.handle_puback(id),
                PUBREC => {
                    self.handle_pubrec(id);
                    wire.send(&packet::ack(PUBREL, id))?;
                }
                PUBCOMP => self.handle_pubcomp(id),
                _ => panic!("publisher {}: {packet:?}", self.number),
            }
            // The counting thread stops listening once it has killed the node.
            if packet.first != PUBCOMP && acks.send(()).is_err() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
    }

    /// Connects and goes on where each handshake was, in the order in which they began.
    fn resume(&mut self, address: SocketAddr) -> io::Result<Wire> {
        let mut wire = Wire::open(address)?;
        let connect = Connect {
            id: &format!("publisher{}", self.number),
            expiry_s: 3_600,
            receive_maximum: u16::MAX,
            will: None,
        };
        wire.send(&connect.encode())?;
        let present = packet::session_present(&wire.read()?)?;
        assert!(
            present || !self.has_session,
            "publisher {} has a session",
            self.number
        );
        self.has_session = true;
        for handshake in &self.open {
            wire.send(&if handshake.released {
                packet::ack(PUBREL, packet_id(handshake.number))
            } else {
                self.publish(handshake.number, true)
            })?;
        }
        Ok(wire)
    }

    fn publish(&self, number: u32, dup: bool) -> Vec<u8> {
        let publish = Publish {
            topic: topic(self.number, number),
            payload: format!("{} {number}", self.number),
            qos: self.qos,
            id: packet_id(number),
            dup,
            retain: is_retained(number),
        };
        publish.encode()
    }

    fn handle_puback(&mut self, id: u16) {
        let handshake = self.open.pop_front().expect("something was sent");
        assert_eq!(id, packet_id(handshake.number), "PUBACKs come in order");
        self.acknowledged(handshake.number);
    }

    fn handle_pubrec(&mut self, id: u16) {
        let first = self.open.iter_mut().find(|handshake| !handshake.released);
        let first = first.expect("something was sent");
        assert_eq!(id, packet_id(first.number), "PUBRECs come in order");
        first.released = true;
        let number = first.number;
        self.acknowledged(number);
    }

    fn handle_pubcomp(&mut self, id: u16) {
        let of_id = |handshake: &Handshake| packet_id(handshake.number) == id;
        let at = self.open.iter().position(of_id).expect("it is open");
        let done = self.open.remove(at).expect("it was found");
        assert!(done.released, "PUBCOMP answers PUBREL");
    }

    fn acknowledged(&mut self, number: u32) {
        self.acked += 1;
        if is_retained(number) {
            self.retained_acked = Some(number);
        }
    }
}

/// The topic to which a publisher sends a message.
pub(crate) fn topic(publisher: usize, number: u32) -> String {
    if is_retained(number) {
        format!("kept/{publisher}")
    } else {
        format!("live/{publisher}/{}", number % 2)
    }
}

fn is_retained(number: u32) -> bool {
    number.is_multiple_of(RETAINED_EVERY)
}

fn packet_id(number: u32) -> u16 {
    u16::try_from(1 + number % 65_535).expect("below 65 536")
}
