//! How long a killed node is missed, by the clock of who watches from outside: until its shards are
//! led again, and until its persistent clients have their first queued message at another node.
//! Clients of other nodes notice nothing.
//!
//! For figures: `TIDEWIRE_TEST_KILLS=20 TIDEWIRE_TEST_CLIENTS=200 cargo test -p tidewire-cli --test it
//! failover -- --nocapture`; with `TIDEWIRE_TEST_CROWD` so many publishers and
//! subscribers make traffic beside them.

mod fleet;

use std::time::{Duration, Instant};

use super::history::assert_one_history;
use super::nodes::{Cluster, NODES, Nodes, since};
use crate::process::sessions::crowd::{Crowd, Running};
use crate::process::sessions::homes::Homes;
use crate::process::sessions::{DEFAULTS, number_from};
use fleet::Fleet;

/// Nodes that are killed, in turn.
const KILLS: usize = 2;
/// Persistent clients with a queued message each, spread over the nodes.
const CLIENTS: usize = 24;
/// Publishers, and as many subscribers, that go on beside them: without any the shards sleep.
const CROWD: usize = 6;
/// Acknowledgements before each kill.
const ACKS: usize = 100;

#[test]
fn a_killed_node_is_missed_for_an_election_and_clients_of_others_stay() {
    let kills = number_or("TIDEWIRE_TEST_KILLS", KILLS);
    let clients = number_or("TIDEWIRE_TEST_CLIENTS", CLIENTS);
    let crowd = number_or("TIDEWIRE_TEST_CROWD", CROWD);
    let cluster = Cluster::new(DEFAULTS);
    let mut nodes = cluster.start();
    let running = Crowd::spread(&cluster.mqtt(), crowd).run(Homes::of(&cluster.mqtt()), None);
    let fleet = Fleet::start(&cluster.mqtt(), clients);
    let (mut led, mut connected, mut delivered) = (Vec::new(), Vec::new(), Vec::new());
    for kill in 0..kills {
        let victim = kill % NODES;
        await_order(&mut nodes, &running, &fleet);
        running.take(ACKS);
        let before = fleet.connections();

        let killed = Instant::now();
        nodes.kill_9(victim);
        running.take_until("the others to lead", || nodes.is_led_without(victim));
        let led_after = since(killed);
        led.push(led_after);
        running.take_until("its clients to have their message", || {
            fleet.is_served(victim, killed)
        });

        let times = fleet.times(victim, killed);
        let longest = times.iter().map(|time| time.delivered).max();
        eprintln!(
            "node {}: led again {led_after:?}, longest {longest:?}",
            victim + 1
        );
        connected.extend(times.iter().map(|time| time.connected));
        delivered.extend(times.iter().map(|time| time.delivered));
        let moved = fleet.connections();
        for (at, (before, after)) in before.iter().zip(&moved).enumerate() {
            let is_its = fleet.home(at) == victim;
            assert!(
                is_its || before == after,
                "client {at} of another node stays"
            );
        }
        nodes.spawn(victim);
    }
    eprintln!("{kills} kills, {clients} clients");
    print_times("all shards led again", led);
    print_times("its clients connected elsewhere", connected);
    print_times("its clients have their first message", delivered);
    drop(fleet);
    assert_one_history(&cluster, &mut nodes, running);
}

/// Waits until every node leads what it is to lead, and every client is at home.
fn await_order(nodes: &mut Nodes<'_>, running: &Running, fleet: &Fleet) {
    nodes.await_order(running);
    fleet.send_home();
    running.take_until("clients to be at home", || fleet.is_at_home());
}

/// Prints quantiles.
pub(super) fn print_times(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| {
        let rank = (times.len() as f64 * share).ceil() as usize;
        times[rank.clamp(1, times.len()) - 1]
    };
    let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
    eprintln!(
        "{what}: p50 {p50:.3?}, p99 {p99:.3?}, max {max:.3?} of {}",
        times.len()
    );
}

fn number_or(variable: &str, default: usize) -> usize {
    number_from(variable).map_or(default, |number| usize::try_from(number).expect("a count"))
}
