//! Nodes killed one after the other, and all at once, among many clients: nothing acknowledged is
//! lost, QoS 2 comes once, each publisher's order is kept.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::nodes::{Cluster, NODES, Nodes, since};
use crate::process::sessions::crowd::{Crowd, Running};
use crate::process::sessions::homes::Homes;
use crate::process::sessions::{DEFAULTS, assert_nothing_dropped, number_from};
use crate::process::wait::pause_for;

/// Kills of single nodes; the environment variable `TIDEWIRE_TEST_KILLS` sets another number.
const KILLS: usize = 6;
/// Every so many kills the victim is whoever leads meta.
const KILLS_PER_META_LEADER: usize = 3;
/// Subscribers, and publishers; `TIDEWIRE_TEST_CLIENTS` sets another number.
const CLIENTS: usize = 20;
/// Acknowledgements over the whole test, at least; `TIDEWIRE_TEST_ACKS` sets another number.
const ACKS: usize = 6_000;
/// How long nodes are killed, at least, in seconds; `TIDEWIRE_TEST_SECONDS` sets another number.
const SECONDS: u64 = 0;
/// A victim that is to return at once does so within this time, before the others have missed it.
const RETURN_WITHIN_MS: u64 = 700;
/// Acknowledgements between a cluster that is whole and the next kill, at most.
const ACKS_BEFORE_KILL: usize = 1_000;

#[test]
fn nodes_killed_one_after_the_other_and_all_at_once_lose_nothing_acknowledged() {
    let seed = number_from("TIDEWIRE_TEST_SEED").unwrap_or(20_261_129);
    let kills = number_or("TIDEWIRE_TEST_KILLS", KILLS);
    let clients = number_or("TIDEWIRE_TEST_CLIENTS", CLIENTS);
    let acks = number_or("TIDEWIRE_TEST_ACKS", ACKS);
    let lasting = Duration::from_secs(number_from("TIDEWIRE_TEST_SECONDS").unwrap_or(SECONDS));
    eprintln!("seed {seed}; set TIDEWIRE_TEST_SEED for another");
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = Cluster::new(DEFAULTS);
    let mut nodes = cluster.start();
    let mut running = Crowd::spread(&cluster.mqtt(), clients).run(homes(&cluster), None);

    let start = Instant::now();
    let mut round = 0;
    let mut acked = 0;
    while round < kills || start.elapsed() < lasting {
        let victim = match round % KILLS_PER_META_LEADER {
            0 => nodes.leader("meta"),
            _ => random.random_range(0..NODES),
        };
        let wires = running.leave_wills(cluster.places[victim].mqtt);
        acked += take(&running, random.random_range(0..ACKS_BEFORE_KILL));
        for node in nodes.answering() {
            assert_nothing_dropped(node);
        }
        acked += take(&running, random.random_range(0..50));
        nodes.kill_9(victim);
        drop(wires);
        acked += bring_back(&mut nodes, victim, &running, &mut random);
        round += 1;
        eprintln!("kill {round}, of node {}: {acked} acknowledged", victim + 1);
    }

    // All at once, first in the middle of everything, then when nobody publishes any more.
    let wires = running.leave_wills(cluster.places[0].mqtt);
    acked += take(&running, random.random_range(0..ACKS_BEFORE_KILL));
    nodes.kill_all_9();
    drop(wires);
    let mut crowd = running.killed();
    restart(&mut nodes);
    crowd.assert_retained(cluster.places[1].mqtt);
    let running = crowd.run(homes(&cluster), None);
    take(&running, acks.saturating_sub(acked).max(ACKS_BEFORE_KILL));
    running.stop();
    nodes.kill_all_9();
    crowd = running.killed();
    for mark in 1..=2 {
        restart(&mut nodes);
        crowd.drain(homes(&cluster), mark);
        for (node, address) in nodes.all().zip(cluster.mqtt()) {
            crowd.assert_retained(address);
            assert_nothing_dropped(node);
        }
        nodes.kill_all_9();
    }

    for subscriber in &crowd.subscribers {
        subscriber.assert_complete(&crowd.publishers, &crowd.wills);
    }
    eprintln!(
        "{round} kills and all nodes 4 times, {} acknowledged, {} wills",
        crowd.acked(),
        crowd.wills.iter().flatten().count()
    );
    assert!(crowd.acked() >= acks);
}

/// Starts a killed node, at once or when the others have taken over, and waits until all are whole;
/// the acknowledgements until then.
fn bring_back(
    nodes: &mut Nodes<'_>,
    victim: usize,
    running: &Running,
    random: &mut StdRng,
) -> usize {
    let killed = Instant::now();
    let mut acked = 0;
    if random.random_ratio(1, 2) {
        acked += running.take_until("the others to lead", || nodes.is_led_without(victim));
        eprintln!("led by the others {:?} after the kill", since(killed));
    } else {
        pause_for(Duration::from_millis(
            random.random_range(0..RETURN_WITHIN_MS),
        ));
    }
    nodes.spawn(victim);
    acked += running.take_until("the cluster to be whole", || nodes.is_settled());
    eprintln!("whole {:?} after the kill", since(killed));
    acked
}

fn restart(nodes: &mut Nodes<'_>) {
    let start = Instant::now();
    nodes.start_missing();
    crate::process::wait::until("the cluster to be whole", || {
        nodes.is_settled().then_some(())
    });
    eprintln!("whole {:?} after the start of all", since(start));
}

fn homes(cluster: &Cluster) -> Homes {
    Homes::of(&cluster.mqtt())
}

fn take(running: &Running, count: usize) -> usize {
    running.take(count);
    count
}

fn number_or(variable: &str, default: usize) -> usize {
    number_from(variable).map_or(default, |number| usize::try_from(number).expect("a count"))
}
