//! One simulated device as a machine: what to measure when, what to send, what is in flight.
//! No I/O and no clock: time is an argument, counted from the start of the fleet.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::profile::{self, METRICS};

/// Messages that wait for the window; beyond it the device measures nothing until there is room
/// (it counts what it skipped).
const WAITING_MAX: usize = 1_000;

/// Messages that the backfilling device holds back and then sends out of order.
pub const BACKFILL_MESSAGES: usize = 8;

/// Says when a device measures and how it sends.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Number of the device.
    pub device: u32,
    /// Seed of the fleet.
    pub seed: u64,
    /// Wall time of the fleet's start in milliseconds since the Unix epoch.
    pub start_ms: i64,
    /// First measurement, after the start of the fleet.
    pub phase: Duration,
    /// Time between measurements; whole milliseconds make the times unique.
    pub interval: Duration,
    /// The device measures before this moment only.
    pub end: Duration,
    /// Messages sent and not acknowledged, at most.
    pub inflight_max: usize,
    /// One message in so many is sent again after its PUBACK; 0: none.
    pub resend_one_in: u64,
    /// Holds messages back and sends them out of order.
    pub backfill: bool,
}

/// Is one message of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The device's sequence number.
    pub sequence: u64,
    /// Event time in milliseconds since the Unix epoch.
    pub ts_ms: i64,
    /// What was measured, in the order of [`profile::METRIC_NAMES`].
    pub values: [f64; METRICS],
    /// The payload of its PUBLISH.
    pub payload: Bytes,
}

/// Says how often a message went out before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// Never: it is to be entered as sent.
    First,
    /// It was acknowledged and goes out once more on purpose, with a packet id of its own.
    OnPurpose,
    /// Its PUBACK is missing after a reconnect.
    Unacknowledged,
}

/// Is a PUBLISH to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// The packet id, never 0.
    pub packet_id: u16,
    /// How often the message went out before.
    pub sending: Sending,
    /// The message.
    pub message: Message,
}

/// Is a message whose PUBACK has come.
#[derive(Clone, Debug, PartialEq)]
pub struct Acknowledged {
    /// The device's sequence number.
    pub sequence: u64,
    /// Event time in milliseconds since the Unix epoch.
    pub ts_ms: i64,
    /// Time since the packet was first sent.
    pub latency: Duration,
    /// True at the first PUBACK of the message, false when it was sent again on purpose.
    pub first: bool,
}

#[derive(Debug)]
struct InFlight {
    packet_id: u16,
    sent_at: Duration,
    on_purpose: bool,
    message: Message,
}

/// Is the state of one device.
#[derive(Debug)]
pub struct Device {
    plan: Plan,
    next_sequence: u64,
    measurements: u64,
    held: Vec<Message>,
    waiting: VecDeque<(Message, bool)>,
    in_flight: VecDeque<InFlight>,
    again: VecDeque<(u16, Message)>,
    last_packet_id: u16,
    skipped: u64,
}

impl Device {
    /// Creates a device that has measured nothing.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            next_sequence: 0,
            measurements: 0,
            held: Vec::new(),
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            again: VecDeque::new(),
            last_packet_id: 0,
            skipped: 0,
        }
    }

    /// Takes all measurements that are due at `now`.
    pub fn handle_time(&mut self, now: Duration) {
        while let Some(due) = self.next_measurement().filter(|due| *due <= now) {
            self.measurements += 1;
            if self.waiting.len() + self.held.len() >= WAITING_MAX {
                self.skipped += 1;
                continue;
            }
            let message = self.measure(due);
            if self.plan.backfill {
                self.held.push(message);
                if self.held.len() == BACKFILL_MESSAGES {
                    self.release_held();
                }
            } else {
                self.waiting.push_back((message, false));
            }
        }
        if self.next_measurement().is_none() {
            self.release_held();
        }
    }

    /// Takes a PUBACK; `None` when no such packet is in flight.
    pub fn handle_puback(&mut self, packet_id: u16, now: Duration) -> Option<Acknowledged> {
        let place = self
            .in_flight
            .iter()
            .position(|sent| sent.packet_id == packet_id)?;
        let sent = self.in_flight.remove(place)?;
        let acknowledged = Acknowledged {
            sequence: sent.message.sequence,
            ts_ms: sent.message.ts_ms,
            latency: now.saturating_sub(sent.sent_at),
            first: !sent.on_purpose,
        };
        if acknowledged.first && self.is_sent_twice(sent.message.sequence) {
            self.waiting.push_front((sent.message, true));
        }
        Some(acknowledged)
    }

    /// Takes the news that a new connection stands: what is in flight goes out again, in order.
    pub fn handle_connected(&mut self) {
        self.again = self
            .in_flight
            .iter()
            .map(|sent| (sent.packet_id, sent.message.clone()))
            .collect();
    }

    /// Hands out the next PUBLISH that the window permits.
    pub fn poll_publish(&mut self, now: Duration) -> Option<Outgoing> {
        while let Some((packet_id, message)) = self.again.pop_front() {
            // Its PUBACK may have come since the reconnect, for a broker may send it late.
            if self
                .in_flight
                .iter()
                .any(|sent| sent.packet_id == packet_id)
            {
                return Some(Outgoing {
                    packet_id,
                    sending: Sending::Unacknowledged,
                    message,
                });
            }
        }
        if self.in_flight.len() >= self.plan.inflight_max {
            return None;
        }
        let (message, on_purpose) = self.waiting.pop_front()?;
        let packet_id = self.free_packet_id();
        self.in_flight.push_back(InFlight {
            packet_id,
            sent_at: now,
            on_purpose,
            message: message.clone(),
        });
        let sending = if on_purpose {
            Sending::OnPurpose
        } else {
            Sending::First
        };
        Some(Outgoing {
            packet_id,
            sending,
            message,
        })
    }

    /// Returns the number of the device.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.plan.device
    }

    /// Returns the moment of the next measurement; `None` after the last.
    #[must_use]
    pub fn next_measurement(&self) -> Option<Duration> {
        let steps = u32::try_from(self.measurements).unwrap_or(u32::MAX);
        let due = self.plan.phase + self.plan.interval.saturating_mul(steps);
        (due < self.plan.end).then_some(due)
    }

    /// Returns true when all was measured, sent and acknowledged.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.next_measurement().is_none()
            && self.held.is_empty()
            && self.waiting.is_empty()
            && self.in_flight.is_empty()
    }

    /// Returns the number of packets in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Returns the moment at which the oldest packet in flight was first sent.
    #[must_use]
    pub fn oldest_sent_at(&self) -> Option<Duration> {
        self.in_flight.front().map(|sent| sent.sent_at)
    }

    /// Returns the measurements not taken because too much waited.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn measure(&mut self, due: Duration) -> Message {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let ts_ms = self.plan.start_ms + due.as_millis() as i64;
        let values = profile::values(self.plan.seed, self.plan.device, sequence);
        let payload = Bytes::from(profile::payload(ts_ms, &values));
        Message {
            sequence,
            ts_ms,
            values,
            payload,
        }
    }

    /// Sends what was held: the newest first, the others in an order drawn from the seed, so
    /// that all but one are late.
    fn release_held(&mut self) {
        if let Some(newest) = self.held.pop() {
            self.waiting.push_back((newest, false));
        }
        let (seed, device) = (self.plan.seed, u64::from(self.plan.device));
        self.held
            .sort_by_key(|message| profile::mix(&[seed, device, message.sequence]));
        self.waiting
            .extend(self.held.drain(..).map(|message| (message, false)));
    }

    /// Staggers by device, so that a short run of few messages a device has its share too.
    fn is_sent_twice(&self, sequence: u64) -> bool {
        let one_in = self.plan.resend_one_in;
        one_in > 0 && (sequence + u64::from(self.plan.device)).is_multiple_of(one_in)
    }

    fn free_packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            // The window is far smaller than the range, so this ends.
            if self
                .in_flight
                .iter()
                .all(|sent| sent.packet_id != self.last_packet_id)
            {
                return self.last_packet_id;
            }
        }
    }
}
