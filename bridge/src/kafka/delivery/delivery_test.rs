//! The lanes against a model of Kafka, of the spool and of crashes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use storage::log::ContentType;

use super::spooling::MARK_INTERVAL_MS;
use super::*;
use crate::log::{Port, Ports};

const LANES: u16 = 3;
const AWAY_MS: u64 = 3_000;
const LOG: Policy = Policy {
    spools: true,
    spools_always: false,
    settles_at_once: false,
};
const KAFKA: Policy = Policy {
    spools: false,
    ..LOG
};
const DISK: Policy = Policy {
    spools_always: true,
    ..LOG
};

struct Nobody;
impl Port for Nobody {
    fn settled(&self, _: Outcome, _: Vec<Ticket>) {}
}

fn record(lane: u16, n: u64, droppable: bool) -> Record {
    Record {
        partition: lane,
        key: Bytes::from_static(b"car"),
        payload: Bytes::from_static(&[0; 100]),
        content_type: ContentType::Json,
        received_ms: 0,
        node: 1,
        connection_epoch: 1,
        packet_seq: n,
        retransmit: false,
        droppable,
    }
}

/// Kafka, the spool's disk and the shell around a [`Delivery`].
struct World {
    delivery: Delivery,
    policy: Policy,
    port: PortId,
    now_ms: u64,
    /// What Kafka's client holds, by lane.
    client: Vec<VecDeque<SlotId>>,
    /// What Kafka has, by lane.
    kafka: Vec<Vec<u64>>,
    kafka_is_up: bool,
    client_records_max: usize,
    /// The fsynced spool, by lane.
    spool: Vec<Vec<Record>>,
    marked: Vec<u64>,
    appending: Option<(Vec<Record>, Option<Vec<u64>>)>,
    disk_is_full: bool,
    settled: BTreeSet<u64>,
    sent: u64,
}

impl World {
    fn new(policy: Policy, producer_bytes: u64) -> Self {
        let port = Ports::default().add(std::sync::Arc::new(Nobody));
        let lanes = usize::from(LANES);
        let mut world = Self {
            delivery: Delivery::new(limits(producer_bytes)),
            policy,
            port,
            now_ms: 0,
            client: vec![VecDeque::new(); lanes],
            kafka: vec![Vec::new(); lanes],
            kafka_is_up: true,
            client_records_max: usize::MAX,
            spool: vec![Vec::new(); lanes],
            marked: vec![0; lanes],
            appending: None,
            disk_is_full: false,
            settled: BTreeSet::new(),
            sent: 0,
        };
        world.start(producer_bytes);
        world
    }

    /// A node begins on what the disk holds.
    fn start(&mut self, producer_bytes: u64) {
        self.delivery = Delivery::new(limits(producer_bytes));
        let ends = self.spool.iter().map(|lane| lane.len() as u64);
        let spool: Vec<(u64, u64)> = self.marked.iter().copied().zip(ends).collect();
        self.delivery.topic(self.policy, &spool);
        self.delivery.handle_producer();
        self.client.iter_mut().for_each(VecDeque::clear);
        self.appending = None;
    }

    /// Lets Kafka take a record, so that others may follow each other.
    fn know(&mut self, lane: u16) -> u64 {
        let n = self.send(lane);
        self.take(lane, 1);
        self.run();
        n
    }

    fn send(&mut self, lane: u16) -> u64 {
        self.sent += 1;
        let n = self.sent;
        let submission = Submission {
            records: vec![record(lane, n, false)],
            tickets: vec![Some(Ticket {
                kind: 0,
                words: [n, 0],
            })],
            port: self.port,
        };
        self.delivery.handle_records(0, submission, self.now_ms);
        self.run();
        n
    }

    /// Carries effects out that cost no time.
    fn run(&mut self) {
        self.delivery.handle_timeout(self.now_ms);
        while let Some(id) = self.delivery.poll_produce() {
            let lane = usize::from(self.delivery.slot(id).0.record.partition);
            if self.client.iter().map(VecDeque::len).sum::<usize>() >= self.client_records_max {
                self.delivery.handle_queue_full(id);
                break;
            }
            self.client[lane].push_back(id);
        }
        while let Some(work) = self.delivery.poll_spool(0, self.now_ms) {
            match work {
                SpoolWork::Append { slots, mark } => {
                    let records = slots
                        .iter()
                        .map(|id| self.delivery.slot(*id).0.record.clone());
                    self.appending = Some((records.collect(), mark));
                }
                SpoolWork::Read { from } => {
                    let mut records = Vec::new();
                    for (lane, offset, durable) in from {
                        let spooled = &self.spool[usize::from(lane)];
                        assert!(durable as usize <= spooled.len(), "ahead of the fsync");
                        for at in (offset..durable).take(4) {
                            records.push((at, spooled[at as usize].clone()));
                        }
                    }
                    let now = (self.now_ms, 0);
                    self.delivery.handle_read(0, records, now);
                    while let Some(id) = self.delivery.poll_produce() {
                        let lane = usize::from(self.delivery.slot(id).0.record.partition);
                        self.client[lane].push_back(id);
                    }
                }
            }
        }
        for (_, outcome, ticket) in self.delivery.take_settled() {
            assert_eq!(outcome, Outcome::Durable);
            assert!(self.settled.insert(ticket.words[0]), "settled twice");
        }
    }

    /// The disk answers the append that is under way.
    fn fsync(&mut self) {
        let Some((records, mark)) = self.appending.take() else {
            return;
        };
        if !self.disk_is_full {
            for record in records {
                self.spool[usize::from(record.partition)].push(record);
            }
            if let Some(mark) = mark {
                self.marked = mark;
            }
        }
        let is_durable = !self.disk_is_full;
        self.delivery.handle_spooled(0, is_durable, self.now_ms);
        self.run();
    }

    /// Kafka takes up to so many records of a lane and reports them.
    fn take(&mut self, lane: u16, count: usize) {
        for _ in 0..count {
            let Some(id) = self.client[usize::from(lane)].pop_front() else {
                break;
            };
            let n = self.delivery.slot(id).0.record.packet_seq;
            self.kafka[usize::from(lane)].push(n);
            self.delivery.handle_confirmed(id, self.now_ms);
        }
        self.run();
    }

    fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
        self.run();
    }

    /// Lets everything work until nothing is left to do.
    fn heal(&mut self) {
        self.kafka_is_up = true;
        self.disk_is_full = false;
        self.client_records_max = usize::MAX;
        self.delivery.handle_contact(0, Contact::Good);
        self.delivery.handle_producer();
        self.delivery.handle_pause(false);
        for _ in 0..10_000 {
            self.wait(100);
            self.fsync();
            (0..LANES).for_each(|lane| self.take(lane, 8));
            let is_done =
                self.delivery.slots.len() == 0 && self.delivery.state(0).spool_records == 0;
            if is_done {
                return;
            }
        }
        panic!("not at rest: {:?}", self.delivery.state(0));
    }

    /// Every settled record is with Kafka, and the first of each is in the order of sending.
    fn check(&mut self) {
        let mut there = BTreeMap::new();
        for poisoned in self.delivery.take_poisoned() {
            there.insert(poisoned.record.packet_seq, ());
        }
        for lane in &self.kafka {
            let mut seen = BTreeSet::new();
            let firsts: Vec<u64> = lane.iter().copied().filter(|n| seen.insert(*n)).collect();
            assert!(firsts.is_sorted(), "out of order: {firsts:?}");
            there.extend(firsts.into_iter().map(|n| (n, ())));
        }
        for n in &self.settled {
            assert!(there.contains_key(n), "{n} was settled and is lost");
        }
    }
}

fn limits(producer_bytes: u64) -> Limits {
    Limits {
        away_after_ms: AWAY_MS,
        producer_bytes,
        spool_age_ms: 1_000_000,
    }
}

fn good(policy: Policy) -> World {
    let mut world = World::new(policy, 1 << 20);
    world.delivery.handle_contact(0, Contact::Good);
    world
}

#[test]
fn a_record_is_settled_by_its_report() {
    let mut world = good(LOG);

    let n = world.send(0);
    assert!(world.settled.is_empty());
    world.take(0, 1);

    assert!(world.settled.contains(&n));
    assert_eq!(world.kafka[0], [n]);
    assert!(world.delivery.slots.len() == 0);
}

#[test]
fn before_the_first_contact_records_are_settled_by_the_spool() {
    let mut world = World::new(LOG, 1 << 20);

    let n = world.send(0);
    world.fsync();

    assert!(world.settled.contains(&n));
    assert!(
        world.client[0].is_empty(),
        "nothing goes to an unknown topic"
    );
    world.heal();
    assert_eq!(world.kafka[0], [n]);
}

#[test]
fn an_old_record_sends_its_lane_to_the_spool_and_no_other() {
    let mut world = good(LOG);
    let stuck = world.send(0);
    world.wait(AWAY_MS);
    world.fsync();
    let behind = world.send(0);
    world.fsync();
    let other = world.send(1);
    world.take(1, 1);

    assert!(
        world
            .settled
            .is_superset(&BTreeSet::from([stuck, behind, other]))
    );
    assert_eq!(world.delivery.state(0).lanes_away, 1);
    assert_eq!(world.client[0].len(), 1, "new records go only to the spool");

    world.heal();
    assert_eq!(world.kafka[0], [stuck, behind], "nothing twice, in order");
    assert_eq!(world.delivery.state(0).lanes_away, 0);
}

#[test]
fn the_drain_begins_at_the_first_record_without_a_report() {
    let mut world = good(LOG);
    let sent: Vec<u64> = (0..4).map(|_| world.send(0)).collect();
    world.wait(AWAY_MS);
    world.fsync();
    // Kafka took two of them before the node dies; one mark stands in the spool.
    world.take(0, 2);
    world.wait(MARK_INTERVAL_MS);
    world.fsync();
    world.start(1 << 20);
    world.heal();

    assert_eq!(world.kafka[0], sent);
}

#[test]
fn strict_records_are_withheld_while_kafka_is_away() {
    let mut world = good(KAFKA);
    world.send(0);
    world.wait(60_000);
    world.fsync();

    assert!(world.settled.is_empty());
    assert!(world.spool[0].is_empty());
    world.heal();
    assert_eq!(world.settled.len(), 1);
}

#[test]
fn records_of_a_refused_topic_are_withheld_until_somebody_acts() {
    let mut world = World::new(LOG, 1 << 20);
    let before = world.send(0);
    world.fsync();
    let refused = Contact::Refused("3 partitions, not 4".to_owned());
    world.delivery.handle_contact(0, refused);

    let after = world.send(0);
    world.wait(60_000);
    world.fsync();
    assert_eq!(world.settled, BTreeSet::from([before]));
    assert_eq!(world.spool[0].len(), 1, "what was acknowledged stays");

    world.heal();
    assert_eq!(world.kafka[0], [before, after]);
}

#[test]
fn strict_records_wait_behind_what_an_earlier_mode_left_in_the_spool() {
    let mut world = World::new(LOG, 1 << 20);
    let left = world.send(0);
    world.fsync();
    world.policy = KAFKA;
    world.start(1 << 20);
    world.delivery.handle_contact(0, Contact::Good);

    let strict = world.send(0);
    world.wait(60_000);
    world.fsync();
    assert!(!world.settled.contains(&strict), "only Kafka settles it");

    world.heal();
    assert_eq!(world.kafka[0], [left, strict]);
}

#[test]
fn records_for_the_disk_are_settled_there_and_reach_kafka() {
    let mut world = good(DISK);
    let n = world.send(0);
    world.fsync();
    assert!(world.settled.contains(&n));
    world.heal();
    assert_eq!(world.kafka[0], [n]);
}

#[test]
fn a_lost_producer_loses_and_reorders_nothing() {
    let mut world = good(LOG);
    let sent: Vec<u64> = (0..5).map(|_| world.send(0)).collect();
    world.take(0, 2);
    world.client[0].clear();
    world.delivery.handle_producer_lost(world.now_ms);
    world.heal();

    assert_eq!(world.kafka[0], sent);
}

#[test]
fn until_a_producer_is_known_in_a_partition_one_record_is_on_its_way() {
    let mut world = good(LOG);
    let sent: Vec<u64> = (0..3).map(|_| world.send(0)).collect();
    assert_eq!(world.client[0].len(), 1);
    world.take(0, 1);
    world.run();
    assert_eq!(world.client[0].len(), 2);

    // Kafka knows nothing of the next producer.
    world.client[0].clear();
    world.delivery.handle_producer_lost(world.now_ms);
    world.delivery.handle_producer();
    world.run();
    assert_eq!(world.client[0].len(), 1);
    world.heal();
    assert_eq!(world.kafka[0], sent);
}

#[test]
fn a_lane_whose_first_record_has_no_report_does_not_hold_up_the_drain_of_others() {
    let mut world = World::new(LOG, 1 << 20);
    let sent: Vec<u64> = [0, 0, 1, 1].map(|lane| world.send(lane)).to_vec();
    // One append holds the first record, the next one the others.
    world.fsync();
    world.run();
    world.fsync();
    world.delivery.handle_contact(0, Contact::Good);
    world.run();
    assert_eq!((world.client[0].len(), world.client[1].len()), (1, 1));

    // Nothing is heard of the first lane.
    for _ in 0..4 {
        world.take(1, 1);
        world.run();
        world.send(1);
        world.fsync();
        world.run();
    }
    assert_eq!(world.kafka[1][..2], sent[2..]);
    assert!(world.kafka[1].len() > 2, "{:?}", world.kafka[1]);
    assert!(world.kafka[0].is_empty());
}

#[test]
fn a_full_client_sends_the_fullest_lane_away() {
    let mut world = good(LOG);
    world.know(0);
    world.know(1);
    world.client_records_max = 3;
    world.send(1);
    world.send(0);
    world.send(0);
    world.send(1);
    world.run();

    assert_eq!(world.delivery.state(0).lanes_away, 1);
    world.heal();
    world.check();
    assert_eq!(world.settled.len(), 6);
}

#[test]
fn what_kafka_will_never_take_leaves_the_lane() {
    let mut world = good(LOG);
    world.send(0);
    let next = world.send(0);
    let id = world.client[0].pop_front().expect("handed over");
    let failure = Failure::Poison("too large".to_owned());
    world.delivery.handle_failed(id, failure, 0);
    world.heal();

    let poisoned = world.delivery.take_poisoned();
    assert_eq!(poisoned.len(), 1);
    assert!(poisoned[0].ticket.is_some(), "settled once it is kept");
    assert_eq!(world.kafka[0], [next]);
}

#[test]
fn no_mark_passes_a_spooled_record_that_kafka_refused_before_it_is_kept() {
    let mut world = good(LOG);
    let n = world.send(0);
    world.wait(AWAY_MS);
    world.fsync();
    assert!(world.settled.contains(&n), "acknowledged by the spool");
    let id = world.client[0].pop_front().expect("handed over");
    let failure = Failure::Poison("too large".to_owned());
    world.delivery.handle_failed(id, failure, world.now_ms);

    world.wait(MARK_INTERVAL_MS);
    // A mark would go along with this one, which is spooled.
    world.delivery.handle_contact(0, Contact::Unknown);
    world.send(0);
    world.fsync();
    assert_eq!(world.marked[0], 0, "a crash now sends it again");
    assert!(!world.delivery.may_mark());
    world.delivery.handle_kept(1);
    world.wait(MARK_INTERVAL_MS);
    world.fsync();
    assert_eq!(world.marked[0], 1);
}

#[test]
fn of_a_refused_group_only_the_culprit_leaves_the_lane() {
    let mut world = good(LOG);
    let before = world.know(0);
    let sent: Vec<u64> = (0..4).map(|_| world.send(0)).collect();
    while let Some(id) = world.client[0].pop_front() {
        let failure = Failure::Suspect("too large".to_owned());
        world.delivery.handle_failed(id, failure, 0);
    }
    world.run();

    assert_eq!(world.client[0].len(), 1, "one at a time");
    world.take(0, 1);
    let culprit = world.client[0].pop_front().expect("the next one");
    let failure = Failure::Suspect("too large".to_owned());
    world.delivery.handle_failed(culprit, failure, 0);
    let poisoned = world.delivery.take_poisoned();
    assert_eq!(poisoned[0].record.packet_seq, sent[1]);
    world.heal();
    assert_eq!(world.kafka[0], [before, sent[0], sent[2], sent[3]]);
}

#[test]
fn a_full_spool_withholds_and_drops_what_nobody_was_promised() {
    let mut world = World::new(LOG, 1 << 20);
    world.disk_is_full = true;
    let kept = world.send(0);
    world.fsync();
    let droppable = Submission {
        records: vec![record(0, 99, true)],
        tickets: vec![None],
        port: world.port,
    };
    world.delivery.handle_records(0, droppable, world.now_ms);

    assert!(world.settled.is_empty());
    assert_eq!(world.delivery.state(0).counts.shed_quota, 1);
    world.heal();
    assert_eq!(world.kafka[0], [kept]);
}

#[test]
fn old_records_of_qos_0_are_dropped_on_their_way_out_of_the_spool() {
    let mut world = World::new(LOG, 1 << 20);
    let submission = Submission {
        records: vec![record(0, 1, true), record(0, 2, false)],
        tickets: vec![None, None],
        port: world.port,
    };
    world.delivery.handle_records(0, submission, 0);
    world.run();
    world.fsync();
    world.delivery.limits.spool_age_ms = -1;
    world.heal();

    assert_eq!(world.kafka[0], [2]);
    assert_eq!(world.delivery.state(0).counts.shed_age, 1);
}

/// Sends through random trouble; then everything heals, and what was settled must be there.
fn trouble(seed: u64, policy: Policy) {
    let mut random = SmallRng::seed_from_u64(seed);
    let producer_bytes = *[2_000, 20_000, 1 << 20]
        .get(random.random_range(0..3))
        .expect("one of three");
    let mut world = World::new(policy, producer_bytes);
    for _ in 0..random.random_range(50..300) {
        match random.random_range(0..100) {
            0..45 => {
                world.send(random.random_range(0..LANES));
            }
            45..60 => world.fsync(),
            60..75 if world.kafka_is_up => {
                let (lane, count) = (random.random_range(0..LANES), random.random_range(1..6));
                world.take(lane, count);
            }
            75..85 => world.wait(random.random_range(1..2_000)),
            85..88 => world.kafka_is_up = random.random_bool(0.5),
            88..90 => world.disk_is_full = random.random_bool(0.3),
            90..92 => {
                let contact = match random.random_range(0..3) {
                    0 => Contact::Unknown,
                    1 => Contact::Refused("no".to_owned()),
                    _ => Contact::Good,
                };
                world.delivery.handle_contact(0, contact);
            }
            92..94 => {
                world.client.iter_mut().for_each(VecDeque::clear);
                world.delivery.handle_producer_lost(world.now_ms);
                world.run();
                world.delivery.handle_producer();
            }
            94..96 => {
                world.client_records_max = random.random_range(1..10);
                world.run();
            }
            96..98 => {
                // All of a lane comes back, as when its topic is refused.
                let lane = random.random_range(0..usize::from(LANES));
                while let Some(id) = world.client[lane].pop_front() {
                    world
                        .delivery
                        .handle_failed(id, Failure::Topic, world.now_ms);
                }
                world.run();
            }
            98 => world.delivery.handle_pause(random.random_bool(0.5)),
            _ => {
                // The node dies: what was neither fsynced nor confirmed is sent again by nobody.
                world.start(producer_bytes);
                world.delivery.handle_contact(0, Contact::Good);
            }
        }
    }
    world.heal();
    world.check();
}

#[test]
fn random_trouble_loses_nothing_settled_and_keeps_the_order() {
    for seed in 0..600 {
        for policy in [LOG, KAFKA, DISK] {
            let passed = std::panic::catch_unwind(|| trouble(seed, policy));
            assert!(passed.is_ok(), "seed {seed}, {policy:?}");
        }
    }
}
