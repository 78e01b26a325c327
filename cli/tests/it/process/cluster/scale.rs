//! A cluster that grows from three nodes to five and shrinks to three again, under traffic.

use std::net::SocketAddr;
use std::time::Instant;

use admin::cluster::ClusterStatus;

use super::client::Client;
use super::history::assert_one_history;
use super::nodes::{Cluster, NODES, Nodes, since};
use crate::process::http;
use crate::process::node::{Place, run, tidewire};
use crate::process::sessions::DEFAULTS;
use crate::process::sessions::crowd::Crowd;
use crate::process::sessions::homes::Homes;
use crate::process::sessions::packet::{CONNACK, Connect};
use crate::process::wait::until;
use crate::process::wire::Wire;

/// Publishers, and as many subscribers, at the nodes that stay.
const CLIENTS: usize = 9;
/// Sessions that were begun elsewhere: more than one in a shard of which the new node has no replica.
const SESSIONS: usize = 24;
/// What a client is told that is to go to another node.
const USE_ANOTHER_SERVER: u8 = 0x9C;

#[test]
fn a_cluster_grows_to_five_nodes_and_shrinks_to_three_and_only_who_is_sent_away_notices() {
    let cluster = Cluster::new(DEFAULTS);
    let mut nodes = cluster.start();
    let join = [cluster.places[0].cluster];
    let places: Vec<Place> = (4..=5)
        .map(|number| {
            Place::of_cluster(&join)
                .numbered(number)
                .with_config(DEFAULTS)
        })
        .collect();
    let sessions: Vec<String> = (0..SESSIONS).map(|n| format!("roaming{n}")).collect();
    for id in &sessions {
        let mut client = Client::connect(cluster.places[1].mqtt, id, true);
        client.subscribe("roaming", 1);
        client.disconnect();
    }
    let running = Crowd::spread(&cluster.mqtt(), CLIENTS).run(Homes::of(&cluster.mqtt()), None);
    running.take(100);
    let before = accepted(&nodes);

    let begun = Instant::now();
    let mut joined: Vec<_> = places.iter().map(Place::start).collect();
    running.take_until("five nodes to share the shards", || {
        spread(&nodes, 5).is_some_and(|(leads, holds)| leads <= 7 && holds <= 20)
    });
    eprintln!("three nodes became five within {:?}", since(begun));

    // At a node that does not have their shards they find what they have left at another.
    let at_last = places[1].mqtt;
    let mut guests: Vec<Client> = sessions.iter().map(|id| resumed(at_last, id)).collect();
    let mut teller = Client::connect(places[0].mqtt, "teller", false);
    teller.publish("roaming", 1, "found");
    for guest in &mut guests {
        assert_eq!(guest.next().payload, "found");
    }

    let clients = [vec![teller], guests];
    for ((place, number), clients) in places.iter().zip(["4", "5"]).zip(clients).rev() {
        let begun = Instant::now();
        let (code, out, err) = running.during(|| ctl(&nodes, &["drain", number, "--wait", "2m"]));
        assert_eq!(code, Some(0), "{out}{err}");
        eprintln!("node {number} was drained in {:?}", since(begun));
        for client in clients {
            assert_eq!(client.reason_of_end(), USE_ANOTHER_SERVER);
        }
        assert_eq!(refusal(place.mqtt), USE_ANOTHER_SERVER);
        assert_eq!(http::get(place.admin, "/health/ready").unwrap().0, 503);
        let (code, _, err) = ctl(&nodes, &["forget", number]);
        assert_eq!(code, Some(1), "it runs: {err}");

        let node = joined.pop().expect("it runs");
        node.terminate();
        assert!(node.ended().success());
        until("the cluster to forget the node", || {
            (ctl(&nodes, &["forget", number]).0 == Some(0)).then_some(())
        });
    }
    running.take_until("three nodes to share the shards", || {
        spread(&nodes, 3).is_some_and(|(leads, holds)| leads <= 11 && holds <= 32)
    });
    running.take(100);
    let after = accepted(&nodes);
    let epochs = |all: &[(u64, f64)]| -> Vec<u64> { all.iter().map(|(epoch, _)| *epoch).collect() };
    match epochs(&after) == epochs(&before) {
        true => assert_eq!(after, before, "nobody had to come again"),
        // A machine that stands still for longer than a lease ends an epoch, and with it connections.
        false => eprintln!("an epoch has ended: who had to come again is not compared"),
    }
    assert_one_history(&cluster, &mut nodes, running);
}

/// The epochs of the nodes that stay, and how many connections each has accepted.
fn accepted(nodes: &Nodes<'_>) -> Vec<(u64, f64)> {
    let epoch = |at: usize| until("a node that answers", || nodes.status(at)?.epoch);
    let metric = "tidewire_broker_connections_accepted_total";
    let all = (0..NODES).map(|at| (epoch(at), nodes.node(at).metric(metric)));
    all.collect()
}

/// The most that a node leads and holds of the shards, once so many nodes have them and nothing moves.
fn spread(nodes: &Nodes<'_>, count: usize) -> Option<(usize, usize)> {
    let ClusterStatus {
        members, groups, ..
    } = nodes.status(0)?;
    let is_shard = |group: &str| group.parse::<u16>().is_ok();
    let shards: Vec<_> = groups.iter().filter(|one| is_shard(&one.group)).collect();
    let is_calm = shards
        .iter()
        .all(|shard| shard.moving_to.is_none() && shard.leader == shard.voters.first().copied());
    if members.len() != count || !is_calm {
        return None;
    }
    let most = |of: &dyn Fn(u32) -> usize| members.iter().map(|one| of(one.node)).max();
    let leads = most(&|node| {
        let led = shards.iter().filter(|shard| shard.leader == Some(node));
        led.count()
    })?;
    let holds = most(&|node| {
        let held = shards.iter().filter(|shard| shard.voters.contains(&node));
        held.count()
    })?;
    Some((leads, holds))
}

/// A client that finds its session at another node.
fn resumed(address: SocketAddr, id: &str) -> Client {
    let client = Client::connect(address, id, true);
    assert!(client.is_resumed, "{id} has a session");
    client
}

/// What a client is told that connects to a node which takes none any more.
fn refusal(address: SocketAddr) -> u8 {
    let mut wire = Wire::open(address).expect("the node listens");
    let connect = Connect {
        id: "late",
        expiry_s: 0,
        receive_maximum: 10,
        will: None,
    };
    wire.send(&connect.encode()).expect("the node reads");
    let connack = wire.read().expect("the node answers");
    assert_eq!(connack.first, CONNACK, "{connack:?}");
    connack.body[1]
}

pub(super) fn ctl(nodes: &Nodes<'_>, words: &[&str]) -> (Option<i32>, String, String) {
    let admin = nodes.admin(0).to_string();
    run(tidewire()
        .args(["ctl", "--admin", &admin, "cluster"])
        .args(words))
}
