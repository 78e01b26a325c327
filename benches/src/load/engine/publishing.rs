//! Publishing by window or schedule, and knowing when all has arrived.

use std::io;

use super::super::clock::now_ns;
use super::super::connection::{Ack, Duty, State};
use super::super::packet::{self, Malformed};
use super::{Engine, Publishing, TURN_NS};

/// Bytes written at a time; a publisher with more to send has another turn after the others.
const WRITE_BYTES: usize = 64 << 10;
/// Time without progress after which publishers no longer wait for deliveries that do not come.
const STALL_NS: u64 = 1_000_000_000;

impl Engine {
    pub(super) fn publish(&mut self, group: usize, rate_per_s: Option<f64>, messages: Option<u64>) {
        let connections = self.groups[group].clone();
        let now = now_ns();
        for place in connections.clone() {
            if let Duty::Publish(publisher) = &mut self.connections[place].duty {
                publisher.base = publisher.sequence;
            }
        }
        self.tally.first_ns = now;
        self.publishing = Some(Publishing {
            connections: connections.clone(),
            start_ns: now,
            interval_ns: rate_per_s.map_or(0.0, |rate| 1e9 / rate),
            scheduled: 0,
            counted: messages.is_some(),
        });
        if rate_per_s.is_none() {
            for place in connections {
                if let Duty::Publish(publisher) = &mut self.connections[place].duty {
                    publisher.due = match messages {
                        Some(messages) => publisher.sequence + messages,
                        None => u64::MAX,
                    };
                    self.queue_turn(place);
                }
            }
        }
    }

    /// Gives a publisher a turn after the others; it waits for one at most.
    pub(super) fn queue_turn(&mut self, place: usize) {
        let connection = &mut self.connections[place];
        if !std::mem::replace(&mut connection.has_turn, true) {
            self.turns.push_back(place);
        }
    }

    /// Marks the messages whose time has come; the time until the next one.
    pub(super) fn schedule(&mut self, now: u64) -> u64 {
        let Some(mut publishing) = self.publishing.take() else {
            return TURN_NS;
        };
        if publishing.interval_ns == 0.0 {
            self.publishing = Some(publishing);
            return TURN_NS;
        }
        let elapsed = now.saturating_sub(publishing.start_ns);
        let due = (elapsed as f64 / publishing.interval_ns) as u64 + 1;
        let count = publishing.connections.len() as u64;
        while publishing.scheduled < due {
            let place = publishing.connections.start + (publishing.scheduled % count) as usize;
            publishing.scheduled += 1;
            if let Duty::Publish(publisher) = &mut self.connections[place].duty {
                publisher.due = publisher.due.max(publisher.sequence) + 1;
                self.queue_turn(place);
            }
        }
        let next =
            publishing.start_ns + (publishing.scheduled as f64 * publishing.interval_ns) as u64;
        self.publishing = Some(publishing);
        next.saturating_sub(now).min(TURN_NS)
    }

    pub(super) fn drain(&mut self, quiet_ms: u64) -> io::Result<()> {
        let Some(publishing) = self.publishing.take() else {
            return Ok(());
        };
        let publishers = publishing.connections.clone();
        if !publishing.counted {
            for place in publishers.clone() {
                if let Duty::Publish(publisher) = &mut self.connections[place].duty {
                    publisher.due = publisher.sequence;
                }
            }
        }
        self.quiet(quiet_ms, |engine| {
            let mut settled = true;
            for place in publishers.clone() {
                settled &= engine.settle(place);
            }
            settled
        })
    }

    /// Whether a publisher has sent what is due and all is acknowledged; with QoS 0 it asks.
    pub(super) fn settle(&mut self, place: usize) -> bool {
        let connection = &mut self.connections[place];
        let Duty::Publish(publisher) = &mut connection.duty else {
            return true;
        };
        if connection.state != State::Open {
            return true;
        }
        let sent_all = publisher.sequence >= publisher.due;
        let acked_all = publisher.acked == publisher.sequence;
        if sent_all && !acked_all && publisher.qos == 0 && publisher.ping.is_none() {
            publisher.ping = Some(publisher.sequence);
            self.send(place, &packet::PINGREQ);
        }
        sent_all && acked_all
    }

    pub(super) fn receive(&mut self, total: u64, quiet_ms: u64) -> io::Result<()> {
        self.quiet(quiet_ms, |engine| {
            let lost = u64::try_from(engine.missing_total).unwrap_or(0);
            engine.received_total + lost >= total
        })
    }

    /// Publishers that wait for deliveries that do not come any more are let go on.
    pub(super) fn release_stall(&mut self, now: u64) {
        let last = self.tally.last_ns.max(self.tally.first_ns);
        if self.gate() == 0 && last != 0 && now > last + STALL_NS {
            self.deliveries_settled = self.deliveries_due;
            self.tally.last_ns = now;
        }
    }

    pub(super) fn handle_puback(
        &mut self,
        place: usize,
        body: &[u8],
        now: u64,
    ) -> Result<(), Malformed> {
        let id = u16::from_be_bytes(*body.first_chunk().ok_or(Malformed)?);
        let Duty::Publish(publisher) = &mut self.connections[place].duty else {
            return Err(Malformed);
        };
        let tally = &mut self.tally;
        tally.last_ns = now;
        if body.get(2).is_some_and(|reason| *reason >= 0x80) {
            tally.refused += 1;
        }
        match publisher.handle_puback(id) {
            Ack::InOrder(stamp) => {
                tally.acked += 1;
                tally.ack.record(now.saturating_sub(stamp));
            }
            Ack::OutOfOrder => {
                tally.acked += 1;
                tally.acks_out_of_order += 1;
            }
            Ack::ForNothing => tally.acks_out_of_order += 1,
        }
        Ok(())
    }

    pub(super) fn handle_pingresp(&mut self, place: usize, now: u64) {
        if let Duty::Publish(publisher) = &mut self.connections[place].duty
            && let Some(sent) = publisher.ping.take()
        {
            self.tally.acked += sent - publisher.acked;
            publisher.acked = sent;
            self.tally.last_ns = now;
        }
    }

    /// Messages that publishers may send before more deliveries have come.
    pub(super) fn gate(&self) -> u64 {
        match self.plan.deliveries_window {
            None => u64::MAX,
            Some(window) => {
                let outstanding = self.deliveries_due.saturating_sub(self.deliveries_settled);
                window
                    .saturating_sub(outstanding)
                    .div_ceil(self.plan.deliveries_per_message.max(1))
            }
        }
    }

    /// Serves those that waited for a turn, each once, while deliveries allow.
    pub(super) fn pump_turns(&mut self) {
        for _ in 0..self.turns.len() {
            if self.gate() == 0 {
                return;
            }
            let Some(place) = self.turns.pop_front() else {
                return;
            };
            self.connections[place].has_turn = false;
            self.pump(place);
        }
    }

    /// Sends what a publisher may send now, in one write.
    pub(super) fn pump(&mut self, place: usize) {
        let gate = self.gate();
        let connection = &mut self.connections[place];
        // Bytes that wait for the socket bring another turn once it is writable.
        if connection.state != State::Open || connection.is_clogged() {
            return;
        }
        let Duty::Publish(publisher) = &mut connection.duty else {
            return;
        };
        let most = (WRITE_BYTES / publisher.packet_bytes()).max(1) as u64;
        let count = publisher.allowed().min(gate).min(most);
        if count == 0 {
            if publisher.allowed() > 0 {
                self.queue_turn(place);
            }
            return;
        }
        let schedule = match &self.publishing {
            Some(publishing) if publishing.interval_ns > 0.0 => {
                let first = (place - publishing.connections.start) as f64;
                let start = publishing.start_ns as f64 + first * publishing.interval_ns;
                let step = publishing.interval_ns * publishing.connections.len() as f64;
                Some((start, step))
            }
            _ => None,
        };
        let now = now_ns();
        let mut bytes = std::mem::take(&mut self.write);
        bytes.clear();
        for _ in 0..count {
            let stamp = match schedule {
                Some((start, step)) => {
                    (start + (publisher.sequence - publisher.base) as f64 * step) as u64
                }
                None => now,
            };
            publisher.write(&mut bytes, stamp);
        }
        let more = publisher.allowed() > 0;
        // A window of QoS 0 ends with a question, whose answer opens the next one.
        if publisher.qos == 0 && publisher.sequence - publisher.acked >= u64::from(publisher.window)
        {
            publisher.ping = Some(publisher.sequence);
            bytes.extend(packet::PINGREQ);
        }
        self.tally.sent += count;
        self.deliveries_due += count * self.plan.deliveries_per_message;
        if more {
            self.queue_turn(place);
        }
        self.send(place, &bytes);
        self.write = bytes;
    }
}
