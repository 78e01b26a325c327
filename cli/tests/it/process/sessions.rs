//! `kill -9` in the middle of traffic to persistent sessions: nothing acknowledged is lost, QoS 2 comes once.

pub(super) mod crowd;
mod full_disk;
pub(super) mod homes;
pub(super) mod packet;
mod publisher;
mod subscriber;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use self::crowd::Crowd;
use self::publisher::Publisher;
use self::subscriber::Subscriber;
use super::node::{Node, Place};
use super::wait::pause_for;
use super::wire::{V5, Wire};

/// Kills of each test; the environment variable `TIDEWIRE_TEST_KILLS` sets another number.
const KILLS: usize = 5;

/// Acknowledgements per kill, at least, over a whole test.
const ACKS_PER_KILL: usize = 2_000;

/// One start out of so many is itself cut short, within this time.
const STARTS_PER_CUT: u32 = 4;
const CUT_WITHIN_MS: u64 = 600;

/// The defaults, but for limits of queues: a message that a full queue drops by policy is not lost.
pub(super) const DEFAULTS: &str = "\
[mqtt]
queue_messages_limit = 10_000_000
queue_bytes_limit = 4_000_000_000
";

/// State files are written, and the log is purged, many times between two kills.
const FLUSHES: &str = "\
[mqtt]
queue_messages_limit = 10_000_000
queue_bytes_limit = 4_000_000_000

[cluster]
state_flush_bytes = 65_536
state_flush_age = \"500ms\"
";

#[test]
fn sessions_survive_kill_9_at_random_moments_with_the_default_configuration() {
    kill_at_random_moments(DEFAULTS);
}

#[test]
fn sessions_survive_kill_9_between_flushes_and_purges() {
    kill_at_random_moments(FLUSHES);
}

#[test]
fn wills_that_are_due_at_a_start_keep_no_io_thread_from_serving() {
    let place = Place::new();
    let node = place.start();
    let wires = crowd::testators(place.mqtt, 64);
    node.kill_9();
    drop(wires);

    let _node = place.start();
    // Connections are dealt to all io threads in turn.
    for client in 0..8 {
        Wire::connect(place.mqtt, V5, &format!("client{client}")).expect("the node answers");
    }
}

fn kill_at_random_moments(config: &str) {
    let seed = number_from("TIDEWIRE_TEST_SEED").unwrap_or(20_261_128);
    let kills = number_from("TIDEWIRE_TEST_KILLS").map_or(KILLS, |kills| kills as usize);
    eprintln!("seed {seed}; set TIDEWIRE_TEST_SEED for another");
    let mut random = StdRng::seed_from_u64(seed);
    let place = Place::new().with_config(config);
    let mut open = OpenIds::default();

    let node = place.start();
    let mut crowd = Crowd::subscribed(place.mqtt);
    node.kill_9();
    for round in 0..kills {
        if random.random_ratio(1, STARTS_PER_CUT) {
            let node = place.spawn();
            pause_for(Duration::from_millis(random.random_range(0..CUT_WITHIN_MS)));
            node.kill_9();
        }
        let node = place.start();
        if round == kills / 2 {
            crowd.join_late(place.mqtt);
        }
        crowd.assert_retained(place.mqtt);
        let wires = crowd.leave_wills(place.mqtt);
        let seldom = random
            .random_ratio(1, 2)
            .then(|| random.random_range(0..500));
        let running = crowd.run(place.mqtt, seldom);
        running.take(random.random_range(0..2 * ACKS_PER_KILL));
        assert_nothing_dropped(&node);
        running.take(random.random_range(0..50));
        node.kill_9();
        crowd = running.killed();
        drop(wires);
        open.count(&crowd);
        eprintln!("kill {round}: {} acknowledged", crowd.acked());
    }
    let crowd = drained(&place, crowd, kills * ACKS_PER_KILL);

    for subscriber in &crowd.subscribers {
        subscriber.assert_complete(&crowd.publishers, &crowd.wills);
    }
    eprintln!(
        "{kills} kills, {} acknowledged; QoS 2 ids were open at a publisher in {}, at a subscriber \
         in {}; {} wills",
        crowd.acked(),
        open.publishers,
        open.subscribers,
        crowd.wills.iter().flatten().count()
    );
    assert!(open.publishers >= kills / 5 && open.subscribers >= kills / 5);
}

/// Publishes up to `acked` acknowledgements and lets the subscribers take everything, with one more kill behind.
fn drained(place: &Place, mut crowd: Crowd, acked: usize) -> Crowd {
    let node = place.start();
    crowd.assert_retained(place.mqtt);
    let missing = acked.saturating_sub(crowd.acked());
    let running = crowd.run(place.mqtt, None);
    running.take(missing);
    running.stop();
    assert_nothing_dropped(&node);
    node.kill_9();
    crowd = running.killed();
    for mark in 1..=2 {
        let node = place.start();
        crowd.drain(place.mqtt, mark);
        crowd.assert_retained(place.mqtt);
        assert_nothing_dropped(&node);
        // What was done before the last kill does not come back with it.
        node.kill_9();
    }
    crowd
}

/// No policy may have dropped a message, or what did not come would not be lost.
pub(super) fn assert_nothing_dropped(node: &Node<'_>) {
    let counted = ["dropped", "retained_full", "panics", "protocol_errors"];
    let metrics = node.get("/metrics");
    // QoS 0 has no promise: a leader that stood still, on a busy machine, hands out none of it.
    let dropped: Vec<_> = metrics
        .lines()
        .filter(|line| !line.contains("deliveries_qos0_dropped"))
        .filter(|line| line.starts_with("tidewire_") && !line.ends_with(" 0"))
        .filter(|line| counted.iter().any(|name| line.contains(name)))
        .collect();
    assert!(dropped.is_empty(), "dropped: {dropped:?}");
}

pub(super) fn number_from(variable: &str) -> Option<u64> {
    let number = std::env::var(variable).ok()?;
    Some(number.parse().expect("a number"))
}

/// Kills that met QoS 2 handshakes open.
#[derive(Default)]
struct OpenIds {
    publishers: usize,
    subscribers: usize,
}

impl OpenIds {
    fn count(&mut self, crowd: &Crowd) {
        self.publishers += usize::from(crowd.publishers.iter().any(Publisher::has_released));
        self.subscribers += usize::from(crowd.subscribers.iter().any(Subscriber::has_held));
    }
}
