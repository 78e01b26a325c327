//! A node that owns buckets with rows is taken out, while its devices go on.

use super::nodes::{Cluster, Nodes};
use super::scale::ctl;
use super::telemetry::{BUCKETS, CONFIG, Fleet, dealt, owned};
use crate::process::wait::until;

/// Enough devices that each node owns several buckets with rows.
const DEVICES: usize = 48;
/// The node that is taken out, of three, and its number.
const LEAVER: usize = 2;
const NUMBER: &str = "3";

#[test]
fn a_node_that_owns_buckets_with_rows_is_drained_and_forgotten_and_every_point_is_there_once() {
    let cluster = Cluster::new(CONFIG);
    let mut nodes = cluster.start();
    let mut fleet = filled(&cluster, &nodes);

    let drained = std::thread::scope(|scope| {
        let draining = scope.spawn(|| ctl(&nodes, &["drain", NUMBER, "--wait", "4m"]));
        let mut round = 10;
        while !draining.is_finished() {
            for at in 0..LEAVER {
                fleet.publish(&cluster, at, round);
            }
            round += 1;
        }
        draining.join().expect("it does not panic")
    });
    let (code, out, err) = drained;
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(
        err.contains("of them with rows"),
        "it says what it waits for: {err}"
    );

    taken_out(&cluster, &mut nodes, &mut fleet);
}

#[test]
fn a_kill_of_the_node_that_gives_buckets_loses_nothing_acknowledged() {
    killed_while_draining(LEAVER);
}

#[test]
fn a_kill_of_a_node_that_gets_buckets_loses_nothing_acknowledged() {
    killed_while_draining(1);
}

#[test]
fn a_drain_beside_a_member_without_telemetry_ends_and_that_one_gets_nothing() {
    let cluster = Cluster::each(|at, _| match at {
        LEAVER => format!("no_telemetry = true\n{CONFIG}"),
        _ => CONFIG.to_owned(),
    });
    let nodes = cluster.start();
    until("the others to share all buckets", || {
        let shares = owned(&cluster.places[0]);
        let most = shares.iter().map(|(_, buckets, _)| *buckets).max();
        (shares[LEAVER].1 == 0 && most == Some(BUCKETS.div_ceil(2))).then_some(())
    });
    let mut fleet = Fleet::of(DEVICES);
    for at in 0..LEAVER {
        fleet.publish(&cluster, at, 0);
    }
    until("the second node to own buckets with rows", || {
        (owned(&cluster.places[0])[1].2 > 2).then_some(())
    });

    let (code, out, err) = ctl(&nodes, &["drain", "2", "--wait", "4m"]);

    assert_eq!(code, Some(0), "{out}{err}");
    let buckets: Vec<u32> = owned(&cluster.places[0])
        .iter()
        .map(|(_, buckets, _)| *buckets)
        .collect();
    assert_eq!(buckets, [BUCKETS, 0, 0]);
    fleet.publish(&cluster, 0, 1);
    fleet.assert_stored(&nodes, 0);
}

fn killed_while_draining(victim: usize) {
    let cluster = Cluster::new(CONFIG);
    let mut nodes = cluster.start();
    let mut fleet = filled(&cluster, &nodes);
    let (code, out, err) = ctl(&nodes, &["drain", NUMBER]);
    assert_eq!(code, Some(0), "{out}{err}");
    fleet.publish(&cluster, 0, 10);
    until("the first buckets to move", || {
        let moved = (0..LEAVER).map(|at| moves(&nodes, at)).sum::<f64>();
        (moved >= 2.0).then_some(())
    });

    nodes.kill_9(victim);
    // One that is to leave is never ready.
    nodes.spawn(victim);
    until("the node to answer again", || nodes.status(victim));
    for at in 0..LEAVER {
        fleet.publish(&cluster, at, 11);
    }
    let (code, out, err) = ctl(&nodes, &["drain", NUMBER, "--wait", "4m"]);
    assert_eq!(code, Some(0), "{out}{err}");

    taken_out(&cluster, &mut nodes, &mut fleet);
}

/// Points of all devices through all nodes, of which the leaver stores some.
fn filled(cluster: &Cluster, nodes: &Nodes<'_>) -> Fleet {
    dealt(nodes);
    let mut fleet = Fleet::of(DEVICES);
    for round in 0..3 {
        for at in 0..=LEAVER {
            fleet.publish(cluster, at, round);
        }
    }
    until("the leaver to own buckets with rows", || {
        let (_, _, with_rows) = owned(&cluster.places[0])[LEAVER];
        (with_rows > 4).then_some(())
    });
    fleet
}

fn moves(nodes: &Nodes<'_>, at: usize) -> f64 {
    nodes
        .node(at)
        .metric("tidewire_telemetry_bucket_moves_total")
}

/// Stops the node that holds nothing any more, and looks whether the others have everything.
fn taken_out(cluster: &Cluster, nodes: &mut Nodes<'_>, fleet: &mut Fleet) {
    let buckets = owned(&cluster.places[0]);
    assert_eq!(buckets[LEAVER], (3, 0, 0));
    assert_eq!(buckets.iter().map(|(_, all, _)| all).sum::<u32>(), BUCKETS);
    assert!(nodes.stop(LEAVER).success());
    let pulled = format!("tidewire_telemetry_pulled_records_total{{node=\"{NUMBER}\"}}");
    let names_it = |at: usize| nodes.node(at).get("/metrics").contains(&pulled);
    assert!((0..LEAVER).all(names_it), "its log was pulled");
    until("the cluster to forget the node", || {
        (ctl(nodes, &["forget", NUMBER]).0 == Some(0)).then_some(())
    });
    until("the others to name its log no more", || {
        (!(0..LEAVER).any(names_it)).then_some(())
    });
    for at in 0..LEAVER {
        fleet.publish_again(cluster, at);
        fleet.publish(cluster, at, 20);
    }
    for at in 0..LEAVER {
        fleet.assert_stored(nodes, at);
    }
}
