//! Random schedules: bytes in chunks, entries late or lost with their connection, cuts anywhere.

use std::collections::BTreeMap;

use mqtt::{QoS, Version};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidewire_session::ConnectionId;

use crate::client::Client;
use crate::world::{Sabotage, World};

const MESSAGES: u32 = 40;
const STEPS_PER_MESSAGE: u32 = 50;

struct Pair {
    world: World,
    rng: StdRng,
    clients: [Client; 2],
    conns: [Option<ConnectionId>; 2],
    /// Connections whose client went on elsewhere; the server does not know yet.
    ghosts: Vec<ConnectionId>,
}

impl Pair {
    fn new(seed: u64, sabotage: Sabotage) -> Self {
        let mut world = World::new();
        world.sabotage = sabotage;
        let version = match seed % 2 {
            0 => Version::V5,
            _ => Version::V311,
        };
        Self {
            world,
            rng: StdRng::seed_from_u64(seed),
            clients: [
                Client::new("publisher", version),
                Client::new("subscriber", version),
            ],
            conns: [None, None],
            ghosts: Vec::new(),
        }
    }

    fn connect(&mut self, who: usize) {
        let id = self.world.accept();
        self.world.client_sends(id, &self.clients[who].connect());
        self.conns[who] = Some(id);
    }

    fn cut(&mut self, who: usize) {
        let Some(id) = self.conns[who].take() else {
            return;
        };
        let kept = self.rng.random_range(0..6);
        self.world.cut(id, kept);
        self.clients[who].lost_connection();
    }

    fn forget_closed(&mut self, who: usize) {
        if let Some(id) = self.conns[who]
            && self.world.closed(id).is_some()
        {
            self.conns[who] = None;
            self.clients[who].lost_connection();
        }
    }

    fn move_bytes(&mut self, who: usize, bytes: usize) {
        let Some(id) = self.conns[who] else { return };
        for packet in self.clients[who].poll() {
            self.world.client_sends(id, &packet);
        }
        self.world.move_up(id, bytes);
        for packet in self.world.move_down(id, bytes) {
            for answer in self.clients[who].handle(packet) {
                self.world.client_sends(id, &answer);
            }
        }
    }

    fn publish(&mut self, number: u32) {
        let qos = match number % 2 {
            0 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        self.clients[0].publish("t/x", qos, number);
    }

    fn step(&mut self) {
        let who = self.rng.random_range(0..2);
        match self.rng.random_range(0..100) {
            0..2 => self.cut(who),
            // Takeover: the new connection comes while the old one is still there.
            2..3 => {
                self.ghosts.extend(self.conns[who].take());
                self.clients[who].lost_connection();
                self.connect(who);
            }
            3..5 => {
                if let Some(ghost) = self.ghosts.pop() {
                    let kept = self.rng.random_range(0..6);
                    self.world.cut(ghost, kept);
                }
            }
            5..10 if self.conns[who].is_none() => self.connect(who),
            10..60 => {
                let bytes = self.rng.random_range(1..40);
                self.move_bytes(who, bytes);
            }
            60..62 => {
                self.world.kick();
            }
            _ => {
                self.world.commit();
            }
        }
        self.forget_closed(0);
        self.forget_closed(1);
    }

    /// No more faults: everything that is owed arrives.
    fn heal(&mut self) {
        for _ in 0..20_000 {
            for who in 0..2 {
                if self.conns[who].is_none() {
                    self.connect(who);
                }
                self.move_bytes(who, usize::MAX);
                self.forget_closed(who);
            }
            let committed = self.world.commit() | self.world.kick();
            let mut links = self.conns.iter().flatten();
            let down = links.any(|id| self.world.has_down(*id));
            if !committed && !down && self.clients[0].is_done() && self.clients[1].is_connected {
                return;
            }
        }
    }

    fn run(&mut self) -> Vec<String> {
        self.connect(1);
        while !self.clients[1].is_connected {
            self.move_bytes(1, usize::MAX);
            self.world.commit();
        }
        let id = self.conns[1].expect("connected just before");
        let subscribe = self.clients[1].subscribe("t/#", QoS::ExactlyOnce);
        self.world.client_sends(id, &subscribe);
        while !self.clients[1].subscribed {
            self.move_bytes(1, usize::MAX);
            self.world.commit();
        }
        for number in 0..MESSAGES {
            self.publish(number);
            for _ in 0..STEPS_PER_MESSAGE {
                self.step();
            }
        }
        // What comes after all faults finds out whether everybody is still served.
        self.publish(MESSAGES);
        self.publish(MESSAGES + 1);
        self.heal();
        self.violations()
    }

    fn violations(&self) -> Vec<String> {
        let [publisher, subscriber] = &self.clients;
        let mut violations = [&publisher.faults[..], &subscriber.faults[..]].concat();
        if !publisher.is_done() {
            violations.push("the publisher waits for ever".to_owned());
        }
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        for (_, number) in &subscriber.got {
            *counts.entry(*number).or_default() += 1;
        }
        for (number, qos) in &publisher.completed {
            let count = counts.get(number).copied().unwrap_or(0);
            if count == 0 {
                violations.push(format!("{qos:?} {number} is lost"));
            }
            if count > 1 && *qos == QoS::ExactlyOnce {
                violations.push(format!("{qos:?} {number} came {count} times"));
            }
        }
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut highest = None;
            let mut seen = std::collections::BTreeSet::new();
            for (_, number) in subscriber.got.iter().filter(|(q, _)| *q == qos) {
                if seen.insert(*number) && highest > Some(*number) {
                    violations.push(format!("{qos:?} {number} came after {highest:?}"));
                }
                highest = highest.max(Some(*number));
            }
        }
        violations
    }
}

fn violations_with(seeds: std::ops::Range<u64>, sabotage: Sabotage) -> Vec<(u64, Vec<String>)> {
    let runs = seeds.map(|seed| (seed, Pair::new(seed, sabotage).run()));
    runs.filter(|(_, violations)| !violations.is_empty())
        .collect()
}

#[test]
fn qos_1_arrives_at_least_once_and_qos_2_exactly_once_in_order_whatever_is_cut() {
    let violations = violations_with(0..300, Sabotage::None);

    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn an_acknowledgement_before_its_obligations_is_noticed() {
    assert!(!violations_with(0..60, Sabotage::SettleBeforeCommit).is_empty());
}

#[test]
fn pubrel_before_rec_is_noticed() {
    assert!(!violations_with(0..200, Sabotage::ReleaseBeforeRec).is_empty());
}

#[test]
fn pubcomp_before_q2_out_is_noticed() {
    assert!(!violations_with(0..200, Sabotage::CompleteBeforeQ2Out).is_empty());
}

#[test]
fn a_repeat_with_a_new_number_is_noticed() {
    assert!(!violations_with(0..60, Sabotage::RepeatRenumbered).is_empty());
}

#[test]
fn commands_of_an_ended_ownership_are_noticed() {
    assert!(!violations_with(0..200, Sabotage::EpochUnchecked).is_empty());
}
