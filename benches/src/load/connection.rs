//! One connection of a worker: its socket, what is half read or half written, and its role.

use std::io;
use std::os::fd::OwnedFd;

use super::order::OrderCheck;
use super::packet::{Malformed, Template, Version};
use super::plan::{Group, Publishers, Role};
use super::socket;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not connected.
    Closed,
    /// TCP, then CONNACK.
    Connecting,
    /// SUBACK.
    Subscribing,
    /// In use.
    Open,
}

/// What became of what a write wanted to write.
pub(super) enum Written {
    /// All of it is with the kernel.
    All,
    /// Some waits until the socket is writable.
    Some,
}

pub(super) struct Connection {
    pub(super) group: usize,
    pub(super) number: u32,
    pub(super) state: State,
    pub(super) socket: Option<OwnedFd>,
    /// When it began to connect, or was due to, in ns.
    pub(super) since_ns: u64,
    /// Failed attempts in a row.
    pub(super) attempts: u32,
    /// It waits for a turn to publish.
    pub(super) has_turn: bool,
    /// It was asked to close: its end is no failure.
    pub(super) closing: bool,
    /// The start of a packet that is not complete.
    pub(super) tail: Vec<u8>,
    /// What the socket did not take.
    out: Vec<u8>,
    pub(super) duty: Duty,
}

pub(super) enum Duty {
    Idle,
    Publish(Box<Publisher>),
    Receive(Box<Receiver>),
}

impl Connection {
    pub(super) fn new(group_place: usize, group: &Group, number: u32, version: Version) -> Self {
        let duty = match &group.role {
            Role::Idle => Duty::Idle,
            Role::Publisher {
                topic,
                qos,
                window,
                payload_bytes,
            } => Duty::Publish(Box::new(Publisher::new(
                Template::new(
                    version,
                    &numbered(topic, number),
                    *qos,
                    number,
                    *payload_bytes,
                ),
                *qos,
                *window,
            ))),
            Role::Subscriber { publishers, .. } => {
                let (first, count) = match *publishers {
                    Publishers::All(count) => (0, count),
                    Publishers::Own => (number, 1),
                };
                Duty::Receive(Box::new(Receiver {
                    first,
                    checks: vec![OrderCheck::default(); count as usize].into(),
                }))
            }
        };
        Self {
            group: group_place,
            number,
            state: State::Closed,
            socket: None,
            since_ns: 0,
            attempts: 0,
            has_turn: false,
            closing: false,
            tail: Vec::new(),
            out: Vec::new(),
            duty,
        }
    }

    pub(super) fn close(&mut self) {
        self.socket = None;
        self.state = State::Closed;
        self.tail = Vec::new();
        self.out = Vec::new();
    }

    /// Whether earlier bytes still wait for the socket.
    pub(super) fn is_clogged(&self) -> bool {
        !self.out.is_empty()
    }

    /// Writes bytes behind what waits already. Nothing when closed.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<Written> {
        let Some(socket) = &self.socket else {
            return Ok(Written::All);
        };
        let taken = if self.out.is_empty() {
            socket::write(socket, bytes)?
        } else {
            0
        };
        self.out.extend_from_slice(&bytes[taken..]);
        Ok(if self.out.is_empty() {
            Written::All
        } else {
            Written::Some
        })
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self) -> io::Result<Written> {
        if let Some(socket) = &self.socket
            && !self.out.is_empty()
        {
            let taken = socket::write(socket, &self.out)?;
            self.out.drain(..taken);
        }
        Ok(if self.out.is_empty() {
            Written::All
        } else {
            Written::Some
        })
    }
}

/// Puts a connection's number in the place of `{}`.
pub(super) fn numbered(text: &str, number: u32) -> String {
    text.replace("{}", &number.to_string())
}

/// A publisher's numbers. Message n has packet id n mod 32768 + 1, so that the id alone says when
/// it was sent.
pub(super) struct Publisher {
    template: Template,
    pub(super) qos: u8,
    pub(super) window: u32,
    /// Messages sent.
    pub(super) sequence: u64,
    /// Messages sent before the schedule in force began.
    pub(super) base: u64,
    /// Messages acknowledged.
    pub(super) acked: u64,
    /// Messages that may be sent by the schedule or the number asked for.
    pub(super) due: u64,
    /// With QoS 0: messages sent before the PINGREQ whose answer is awaited.
    pub(super) ping: Option<u64>,
    /// When the messages in the window were sent or due; a power of two of places.
    stamps: Box<[u64]>,
}

/// Packet ids of a publisher.
const PACKET_IDS: u64 = 32_768;

impl Publisher {
    pub(super) fn new(template: Template, qos: u8, window: u32) -> Self {
        let places = if qos > 0 {
            window.next_power_of_two() as usize
        } else {
            0
        };
        Self {
            template,
            qos,
            window,
            sequence: 0,
            base: 0,
            acked: 0,
            due: 0,
            ping: None,
            stamps: vec![0; places].into(),
        }
    }

    /// Messages that window and schedule allow now.
    pub(super) fn allowed(&self) -> u64 {
        let outstanding = self.sequence - self.acked;
        let room = match self.ping {
            Some(_) => 0,
            None => u64::from(self.window).saturating_sub(outstanding),
        };
        room.min(self.due.saturating_sub(self.sequence))
    }

    pub(super) fn packet_bytes(&self) -> usize {
        self.template.packet_bytes()
    }

    /// Appends the next message.
    pub(super) fn write(&mut self, to: &mut Vec<u8>, stamp_ns: u64) {
        let sequence = self.sequence;
        let id = (sequence % PACKET_IDS) as u16 + 1;
        self.template.write(to, id, sequence, stamp_ns);
        if self.qos > 0 {
            let place = sequence as usize & (self.stamps.len() - 1);
            self.stamps[place] = stamp_ns;
        }
        self.sequence += 1;
    }

    /// Takes a PUBACK: the stamp of its message, `None` when it is not that of the oldest
    /// unacknowledged one [MQTT-4.6.0-2]. Out of order it still counts one of them.
    pub(super) fn handle_puback(&mut self, packet_id: u16) -> Ack {
        if self.acked == self.sequence {
            return Ack::ForNothing;
        }
        let oldest = self.acked;
        self.acked += 1;
        if u64::from(packet_id) != oldest % PACKET_IDS + 1 {
            return Ack::OutOfOrder;
        }
        Ack::InOrder(self.stamps[oldest as usize & (self.stamps.len() - 1)])
    }
}

/// What a PUBACK was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ack {
    /// That of the oldest message; with its stamp.
    InOrder(u64),
    /// That of another one.
    OutOfOrder,
    /// Nothing was outstanding.
    ForNothing,
}

/// What a subscriber knows of its publishers.
pub(super) struct Receiver {
    first: u32,
    checks: Box<[OrderCheck]>,
}

impl Receiver {
    /// Returns the check of a publisher's messages.
    pub(super) fn check(&mut self, publisher: u32) -> Result<&mut OrderCheck, Malformed> {
        let place = publisher.checked_sub(self.first).ok_or(Malformed)?;
        self.checks.get_mut(place as usize).ok_or(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publisher(window: u32) -> Publisher {
        let mut publisher = Publisher::new(Template::new(Version::V311, "t", 1, 0, 24), 1, window);
        publisher.due = u64::MAX;
        publisher
    }

    #[test]
    fn a_window_that_is_full_allows_nothing_until_a_puback() {
        let mut publisher = publisher(3);
        let mut bytes = Vec::new();
        for stamp in 10..13 {
            publisher.write(&mut bytes, stamp);
        }
        assert_eq!(publisher.allowed(), 0);
        assert_eq!(publisher.handle_puback(1), Ack::InOrder(10));
        assert_eq!(publisher.allowed(), 1);
    }

    #[test]
    fn a_puback_out_of_order_or_for_nothing_is_noticed() {
        let mut publisher = publisher(4);
        let mut bytes = Vec::new();
        publisher.write(&mut bytes, 10);
        publisher.write(&mut bytes, 11);
        assert_eq!(publisher.handle_puback(2), Ack::OutOfOrder);
        assert_eq!(publisher.handle_puback(1), Ack::OutOfOrder);
        assert_eq!(publisher.handle_puback(3), Ack::ForNothing);
    }

    #[test]
    fn packet_ids_begin_again_without_a_break_in_order_or_stamps() {
        let mut publisher = publisher(2);
        let mut bytes = Vec::new();
        for sequence in 0..PACKET_IDS + 3 {
            publisher.write(&mut bytes, sequence);
            let id = (sequence % PACKET_IDS) as u16 + 1;
            assert_eq!(publisher.handle_puback(id), Ack::InOrder(sequence));
            bytes.clear();
        }
        assert_eq!(publisher.allowed(), 2);
    }
}
