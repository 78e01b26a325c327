//! Connecting, losing and closing connections.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

use super::super::clock::now_ns;
use super::super::connection::{State, numbered};
use super::super::packet::{self, Malformed};
use super::super::plan::{Role, Rule, TENTHS_MAX};
use super::super::socket;
use super::{Engine, TURN_NS};
use crate::fleet::Backoff;

/// Most attempts to connect.
const ATTEMPTS_MAX: u32 = 12;
/// First wait after a failed attempt, doubled each time, in ns.
const RETRY_NS: u64 = 5_000_000;
/// Time without a single CONNACK after which what still connects is given up.
const CONNECT_QUIET_NS: u64 = 30_000_000_000;

impl Engine {
    pub(super) fn connect(
        &mut self,
        group: usize,
        in_flight: u32,
        jitter_ms: u64,
        subscribe: bool,
        rule: Option<Rule>,
    ) -> io::Result<()> {
        let now = now_ns();
        self.rule = rule;
        self.connect_limit = in_flight.max(1);
        self.subscribe = subscribe;
        let mut queue: Vec<_> = self.groups[group]
            .clone()
            .filter(|place| self.connections[*place].state == State::Closed)
            .map(|place| {
                let jitter_ns = jitter_ms * 1_000_000;
                let wait = match rule {
                    Some(rule) => firmware_wait(rule, 0, &mut self.random),
                    None if jitter_ns == 0 => 0,
                    None => self.random.random_range(0..jitter_ns),
                };
                (now + wait, place)
            })
            .collect();
        queue.sort_unstable();
        for (due, place) in queue {
            self.connections[place].attempts = 0;
            self.connections[place].closing = false;
            self.connect_queue.push_back((due, place));
        }
        self.tally.first_ns = now;
        let first_wait_ms = rule.map_or(jitter_ms, |rule| rule.base_ms + rule.jitter_ms);
        let jitter_end = now + first_wait_ms * 1_000_000;
        while !self.connect_queue.is_empty() || self.connecting > 0 {
            self.turn(TURN_NS)?;
            if now_ns() > self.tally.last_connect_ns.max(jitter_end) + CONNECT_QUIET_NS {
                self.give_up_connects();
            }
        }
        self.rule = None;
        Ok(())
    }

    pub(super) fn give_up_connects(&mut self) {
        self.tally.failed += self.connect_queue.len() as u64 + u64::from(self.connecting);
        self.connect_queue.clear();
        self.connecting = 0;
        for connection in &mut self.connections {
            if matches!(connection.state, State::Connecting | State::Subscribing) {
                connection.close();
            }
        }
    }

    /// Begins to connect what is due, as far as the limit allows.
    pub(super) fn start_connects(&mut self, now: u64) {
        while self.connecting < self.connect_limit {
            match self.connect_queue.front() {
                Some((due, _)) if *due <= now => {}
                _ => return,
            }
            let Some((due, place)) = self.connect_queue.pop_front() else {
                return;
            };
            let source = self.source(place);
            let address = self.address(place);
            let connection = &mut self.connections[place];
            if connection.attempts == 0 {
                connection.since_ns = due;
            }
            connection.state = State::Connecting;
            self.connecting += 1;
            let added = socket::connect(address, source).and_then(|socket| {
                self.poller.add(&socket, place)?;
                Ok(socket)
            });
            match added {
                Ok(socket) => {
                    connection.socket = Some(socket);
                    self.greet(place);
                }
                Err(_) => self.lost(place),
            }
        }
    }

    fn address(&self, place: usize) -> SocketAddr {
        let connection = &self.connections[place];
        let home = self.plan.groups[connection.group].home;
        let mut node = u64::from(connection.number) + u64::from(home);
        let addresses = &self.plan.addresses;
        let nodes = addresses.len() as u64;
        if self.rule.is_some_and(|rule| rule.turns) && nodes > 1 {
            // Those of one node spread over all others.
            let others = u64::from(connection.number) / nodes + u64::from(connection.attempts);
            node += 1 + others % (nodes - 1);
        }
        addresses[(node % nodes) as usize]
    }

    pub(super) fn source(&self, place: usize) -> Option<Ipv4Addr> {
        let sources = &self.plan.sources;
        (!sources.is_empty()).then(|| sources[place % sources.len()])
    }

    /// Sends CONNECT, at once where the connection stands already, else once it does.
    pub(super) fn greet(&mut self, place: usize) {
        let connection = &self.connections[place];
        let group = &self.plan.groups[connection.group];
        let id = format!("{}{}", group.prefix, connection.number);
        let mut bytes = Vec::with_capacity(64);
        packet::connect(&mut bytes, self.plan.version, &id, group.persistent);
        self.send(place, &bytes);
    }

    /// A connection has failed or ended.
    pub(super) fn lost(&mut self, place: usize) {
        let connection = &mut self.connections[place];
        let state = connection.state;
        let closing = connection.closing;
        connection.close();
        match state {
            State::Closed => {}
            State::Connecting | State::Subscribing => {
                self.connecting -= 1;
                connection.attempts += 1;
                let attempts = connection.attempts;
                if attempts >= ATTEMPTS_MAX && self.rule.is_none() {
                    self.tally.failed += 1;
                } else {
                    self.tally.retries += 1;
                    let wait = match self.rule {
                        Some(rule) => firmware_wait(rule, attempts, &mut self.random),
                        // Full jitter, or all come again at once.
                        None => self.random.random_range(RETRY_NS..=RETRY_NS << attempts),
                    };
                    let due = now_ns() + wait;
                    let at = self
                        .connect_queue
                        .partition_point(|(other, _)| *other <= due);
                    self.connect_queue.insert(at, (due, place));
                }
            }
            State::Open if closing => {}
            State::Open => self.tally.closed += 1,
        }
    }

    pub(super) fn close(&mut self, group: usize, abrupt: bool) {
        for place in self.groups[group].clone() {
            if self.connections[place].state != State::Open {
                continue;
            }
            if !abrupt {
                self.send(place, &packet::DISCONNECT);
            }
            self.connections[place].closing = true;
            self.connections[place].close();
        }
    }

    pub(super) fn handle_connack(
        &mut self,
        place: usize,
        body: &[u8],
        now: u64,
    ) -> Result<(), Malformed> {
        let code = *body.get(1).ok_or(Malformed)?;
        let connection = &mut self.connections[place];
        if connection.state == State::Connecting && code != 0 && self.rule.is_some() {
            *self.tally.refusals.entry(code).or_default() += 1;
            self.lost(place);
            return Ok(());
        }
        if connection.state != State::Connecting || code != 0 {
            return Err(Malformed);
        }
        let group = &self.plan.groups[connection.group];
        if self.rule.is_some() && group.persistent && body[0] & 1 == 0 {
            self.tally.sessions_missing += 1;
        }
        if let (Role::Subscriber { filter, qos, .. }, true) = (&group.role, self.subscribe) {
            connection.state = State::Subscribing;
            let mut bytes = Vec::with_capacity(64);
            let filter = numbered(filter, connection.number);
            packet::subscribe(&mut bytes, self.plan.version, &filter, *qos);
            self.send(place, &bytes);
        } else {
            self.opened(place, now);
        }
        Ok(())
    }

    pub(super) fn handle_suback(
        &mut self,
        place: usize,
        body: &[u8],
        now: u64,
    ) -> Result<(), Malformed> {
        let granted = *body.last().ok_or(Malformed)?;
        if self.connections[place].state != State::Subscribing || granted > 1 {
            return Err(Malformed);
        }
        self.opened(place, now);
        Ok(())
    }

    pub(super) fn opened(&mut self, place: usize, now: u64) {
        let connection = &mut self.connections[place];
        connection.state = State::Open;
        self.connecting -= 1;
        self.tally.connected += 1;
        let tenth = (now.saturating_sub(self.tally.first_ns) / 100_000_000) as usize;
        let by_tenth = &mut self.tally.by_tenth;
        if tenth < TENTHS_MAX {
            by_tenth.resize(by_tenth.len().max(tenth + 1), 0);
            by_tenth[tenth] += 1;
        }
        self.tally
            .connect
            .record(now.saturating_sub(connection.since_ns));
        self.tally.last_connect_ns = now;
        self.tally.last_ns = now;
    }
}

/// How long a device waits after so many failures and one more, in ns.
fn firmware_wait(rule: Rule, failures: u32, random: &mut SmallRng) -> u64 {
    let backoff = Backoff {
        base: Duration::from_millis(rule.base_ms),
        delay_max: Duration::from_millis(rule.delay_ms_max),
        jitter: Duration::from_millis(rule.jitter_ms),
    };
    backoff.delay(failures, random.random()).as_nanos() as u64
}
