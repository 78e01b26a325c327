//! The loop of a worker: one thread, many connections, one read and one write for each wake-up.

mod connecting;
mod publishing;

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::clock::now_ns;
use super::connection::{Connection, Duty, Written};
use super::order::Verdict;
use super::packet::{self, Malformed, Version, kind};
use super::plan::{Command, Plan, Rule, Tally};
use super::socket::{self, Poller, Ready};

/// Bytes read at a time.
const READ_BYTES: usize = 256 << 10;
/// Longest wait when something may be due soon, in ns.
const TURN_NS: u64 = 20_000_000;

/// A schedule, or a number of messages, in force.
struct Publishing {
    connections: Range<usize>,
    start_ns: u64,
    /// ns between two messages of the group; 0: closed loop.
    interval_ns: f64,
    /// Messages of the group that have become due.
    scheduled: u64,
    /// It ends by itself.
    counted: bool,
}

/// A worker's connections and what they do.
pub(super) struct Engine {
    plan: Plan,
    poller: Poller,
    ready: Vec<Ready>,
    connections: Vec<Connection>,
    groups: Vec<Range<usize>>,
    read: Box<[u8]>,
    write: Vec<u8>,
    /// Due times and connections that are to connect, in order.
    connect_queue: VecDeque<(u64, usize)>,
    connecting: u32,
    connect_limit: u32,
    subscribe: bool,
    /// By which what connects now comes back.
    rule: Option<Rule>,
    publishing: Option<Publishing>,
    /// Publishers with another turn to come.
    turns: VecDeque<usize>,
    /// Deliveries caused and settled; see `Plan::deliveries_window`.
    deliveries_due: u64,
    deliveries_settled: u64,
    received_total: u64,
    missing_total: i64,
    tally: Tally,
    random: SmallRng,
}

impl Engine {
    /// Sets up a plan; nothing is connected yet.
    ///
    /// # Errors
    /// What the system says.
    pub(in crate::load) fn new(plan: Plan) -> io::Result<Self> {
        let mut connections = Vec::new();
        let mut groups = Vec::new();
        for (place, group) in plan.groups.iter().enumerate() {
            let start = connections.len();
            for number in group.first..group.first + group.count {
                connections.push(Connection::new(place, group, number, plan.version));
            }
            groups.push(start..connections.len());
        }
        Ok(Self {
            poller: Poller::new()?,
            ready: Vec::new(),
            connections,
            groups,
            read: vec![0; READ_BYTES].into(),
            write: Vec::new(),
            connect_queue: VecDeque::new(),
            connecting: 0,
            connect_limit: 1,
            subscribe: true,
            rule: None,
            publishing: None,
            turns: VecDeque::new(),
            deliveries_due: 0,
            deliveries_settled: 0,
            received_total: 0,
            missing_total: 0,
            tally: Tally::default(),
            random: SmallRng::seed_from_u64(u64::from(std::process::id())),
            plan,
        })
    }

    /// Carries out a command and returns what happened since the last one.
    ///
    /// # Errors
    /// What the system says about the poller; failures of connections are counted instead.
    pub(in crate::load) fn command(&mut self, command: Command) -> io::Result<Tally> {
        match command {
            Command::Connect {
                group,
                in_flight,
                jitter_ms,
                subscribe,
                rule,
            } => self.connect(group, in_flight, jitter_ms, subscribe, rule)?,
            Command::Close { group, abrupt } => self.close(group, abrupt),
            Command::Publish {
                group,
                rate_per_s,
                messages,
            } => self.publish(group, rate_per_s, messages),
            Command::Run { ms } => {
                let until = now_ns() + ms * 1_000_000;
                while now_ns() < until {
                    self.turn(until.saturating_sub(now_ns()).min(TURN_NS))?;
                }
            }
            Command::Drain { quiet_ms } => self.drain(quiet_ms)?,
            Command::Receive { total, quiet_ms } => self.receive(total, quiet_ms)?,
        }
        Ok(std::mem::take(&mut self.tally))
    }

    /// Carries on for a moment, so that nobody waits for this worker between two commands.
    ///
    /// # Errors
    /// What the system says about the poller.
    pub(in crate::load) fn idle(&mut self, ns: u64) -> io::Result<()> {
        self.turn(ns)
    }

    fn send(&mut self, place: usize, bytes: &[u8]) {
        if self.connections[place].write(bytes).is_err() {
            self.lost(place);
        }
    }

    /// Carries on until `done`, or until nothing has come for a time.
    fn quiet(&mut self, quiet_ms: u64, mut done: impl FnMut(&mut Self) -> bool) -> io::Result<()> {
        let began = now_ns();
        while !done(self) {
            if now_ns() > self.tally.last_ns.max(began) + quiet_ms * 1_000_000 {
                break;
            }
            // Sockets are asked often, `done` may be slow: a few turns for each question.
            for _ in 0..16 {
                self.turn(1_000_000)?;
            }
        }
        Ok(())
    }

    /// Waits for what is ready, for at most `ns`, and serves it.
    fn turn(&mut self, ns: u64) -> io::Result<()> {
        let now = now_ns();
        let mut wait = ns;
        if self.publishing.is_some() {
            wait = wait.min(self.schedule(now));
            self.release_stall(now);
        }
        if !self.connect_queue.is_empty() {
            self.start_connects(now);
            if let Some((due, _)) = self.connect_queue.front()
                && self.connecting < self.connect_limit
            {
                wait = wait.min(due.saturating_sub(now_ns()));
            }
        }
        self.pump_turns();
        if !self.turns.is_empty() && self.gate() > 0 {
            wait = 0;
        }
        let mut ready = std::mem::take(&mut self.ready);
        let waited = self.poller.wait(wait, &mut ready);
        for event in &ready {
            self.serve(*event);
        }
        self.ready = ready;
        waited
    }

    fn serve(&mut self, event: Ready) {
        let place = event.key;
        if self.connections[place].socket.is_none() {
            return;
        }
        if event.writable && self.connections[place].is_clogged() {
            match self.connections[place].flush() {
                Ok(Written::All) => self.pump(place),
                Ok(Written::Some) => {}
                Err(_) => return self.lost(place),
            }
        }
        if event.readable {
            self.read_all(place, event.ended);
        }
    }

    /// Reads until the socket is empty: a short read says so unless its end has come too.
    fn read_all(&mut self, place: usize, ended: bool) {
        loop {
            let connection = &mut self.connections[place];
            let Some(socket) = &connection.socket else {
                return;
            };
            let mut read = std::mem::take(&mut self.read);
            // What is left of the last read comes first.
            let tail = std::mem::take(&mut connection.tail);
            read[..tail.len()].copy_from_slice(&tail);
            let taken = socket::read(socket, &mut read[tail.len()..]);
            let count = match taken {
                Ok(Some(0)) | Err(_) => {
                    self.read = read;
                    return self.lost(place);
                }
                Ok(count) => count,
            };
            let Some(count) = count else {
                self.connections[place].tail = tail;
                self.read = read;
                return;
            };
            let room = read.len() - tail.len();
            let served = self.handle(place, &read[..tail.len() + count]);
            match served {
                Ok(used) => {
                    let rest = &read[used..tail.len() + count];
                    // A packet larger than the whole buffer never completes.
                    if rest.len() == read.len() {
                        self.tally.malformed += 1;
                        self.lost(place);
                    } else if !rest.is_empty() {
                        self.connections[place].tail = rest.to_vec();
                    }
                }
                Err(Malformed) => {
                    self.tally.malformed += 1;
                    self.lost(place);
                }
            }
            self.read = read;
            self.pump(place);
            if count < room && !ended {
                return;
            }
        }
    }

    /// Handles the whole packets of one read; returns their bytes.
    fn handle(&mut self, place: usize, bytes: &[u8]) -> Result<usize, Malformed> {
        let now = now_ns();
        let mut used = 0;
        let mut acks = std::mem::take(&mut self.write);
        acks.clear();
        let handled = loop {
            match packet::frame(&bytes[used..]) {
                Ok(Some(frame)) => {
                    used += frame.packet_bytes;
                    if let Err(error) = self.handle_packet(place, frame, now, &mut acks) {
                        break Err(error);
                    }
                }
                Ok(None) => break Ok(used),
                Err(error) => break Err(error),
            }
        };
        if !acks.is_empty() {
            self.send(place, &acks);
        }
        self.write = acks;
        handled
    }

    fn handle_packet(
        &mut self,
        place: usize,
        frame: packet::Frame<'_>,
        now: u64,
        acks: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        match frame.first & 0xF0 {
            kind::PUBLISH => self.handle_publish(place, frame, now, acks),
            kind::PUBACK => self.handle_puback(place, frame.body, now),
            kind::CONNACK => self.handle_connack(place, frame.body, now),
            kind::SUBACK => self.handle_suback(place, frame.body, now),
            kind::PINGRESP => {
                self.handle_pingresp(place, now);
                Ok(())
            }
            // The broker says why it closes; that it closes is what counts.
            kind::DISCONNECT if self.plan.version == Version::V5 => Ok(()),
            _ => Err(Malformed),
        }
    }

    fn handle_publish(
        &mut self,
        place: usize,
        frame: packet::Frame<'_>,
        now: u64,
        acks: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        let publish = packet::publish(self.plan.version, frame.first, frame.body)?;
        let head = packet::payload_head(publish.payload)?;
        let Duty::Receive(receiver) = &mut self.connections[place].duty else {
            return Err(Malformed);
        };
        let verdict = receiver.check(head.publisher)?.handle(head.sequence);
        if publish.packet_id != 0 {
            packet::puback(acks, publish.packet_id);
        }
        let tally = &mut self.tally;
        let missing = match verdict {
            Verdict::InOrder => 0,
            Verdict::Gap(gap) => {
                self.deliveries_settled = self.deliveries_settled.saturating_add(gap);
                i64::try_from(gap).map_err(|_| Malformed)?
            }
            Verdict::Late => {
                tally.late += 1;
                -1
            }
            Verdict::Again => {
                tally.again += 1;
                0
            }
        };
        tally.missing = tally.missing.saturating_add(missing);
        self.missing_total = self.missing_total.saturating_add(missing);
        if verdict != Verdict::Again {
            tally.received += 1;
            self.received_total += 1;
            self.deliveries_settled += u64::from(verdict != Verdict::Late);
        }
        tally.delivery.record(now.saturating_sub(head.stamp_ns));
        tally.last_ns = now;
        Ok(())
    }
}
