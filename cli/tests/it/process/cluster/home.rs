//! Clients that are told which node leads the shard of their session.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use admin::cluster::Rebalances;

use super::client::Client;
use super::nodes::{Cluster, NODES, Nodes, ctl, json, leads_as_placed};
use crate::process::node::Place;
use crate::process::sessions::packet::{CONNACK, Connect, DISCONNECT};
use crate::process::wait::until;
use crate::process::wire::{Packet, V311, Wire};

/// Enough clients that each node leads the shards of several.
const CLIENTS: usize = 24;
const USE_ANOTHER_SERVER: u8 = 0x9C;
/// The property Server Reference.
const SERVER_REFERENCE: u8 = 0x1C;

#[test]
fn a_client_is_told_once_which_node_leads_its_shard_and_served_if_it_comes_again() {
    let cluster = Cluster::each(|_, place| config(place, "redirect"));
    let nodes = cluster.start();
    ordered(&nodes);
    // Until all know where clients reach each other, nobody is sent anywhere.
    let mut sent = BTreeMap::<SocketAddr, usize>::new();
    until("clients to be sent to both other nodes", || {
        let id = format!("found{}", sent.values().sum::<usize>());
        for n in 0..CLIENTS {
            let (reason, reference) = connected(cluster.places[0].mqtt, &format!("{id}-{n}"));
            if reason == USE_ANOTHER_SERVER {
                *sent
                    .entry(reference.expect("it is said where"))
                    .or_default() += 1;
            }
        }
        (sent.len() == NODES - 1).then_some(())
    });
    assert!(!sent.contains_key(&cluster.places[0].mqtt));

    let mut told = 0;
    for n in 0..CLIENTS {
        let id = format!("told{n}");
        let (reason, reference) = connected(cluster.places[0].mqtt, &id);
        if reason != USE_ANOTHER_SERVER {
            continue;
        }
        told += 1;
        let home = reference.expect("it is said where");
        let (reason, _) = connected(cluster.places[0].mqtt, &id);
        assert_ne!(reason, USE_ANOTHER_SERVER, "it is not sent away twice");
        until("its home to know that it has left", || {
            let (reason, _) = connected(home, &id);
            assert_ne!(reason, USE_ANOTHER_SERVER, "{id} at its home");
            (reason == 0).then_some(())
        });
    }
    assert!((1..CLIENTS).contains(&told), "{told} of {CLIENTS}");
    let sent = || {
        nodes
            .node(0)
            .metric("tidewire_broker_clients_sent_home_total")
    };
    let before = sent();
    assert!(before >= told as f64);
    // An old client knows no such word, and is served.
    for n in 0..CLIENTS {
        let id = format!("old{n}");
        until("an old client to be served", || {
            (connected_v311(cluster.places[0].mqtt, &id) == 0).then_some(())
        });
    }
    assert_eq!(sent(), before);
}

#[test]
fn established_clients_go_to_the_nodes_of_their_shards_with_their_sessions_when_told_to() {
    let cluster = Cluster::each(|_, place| config(place, "off"));
    let nodes = cluster.start();
    ordered(&nodes);
    let first = cluster.places[0].mqtt;
    let mut clients: Vec<(String, Client)> = (0..CLIENTS)
        .map(|n| {
            let id = format!("moved{n}");
            let mut client = Client::connect(first, &id, true);
            client.subscribe("moved", 1);
            (id, client)
        })
        .collect();
    let mut clean = Client::connect(first, "clean", false);
    let rebalance = |more: &[&'static str]| {
        let words = ["cluster", "rebalance"]
            .into_iter()
            .chain(more.iter().copied());
        words.collect::<Vec<_>>()
    };
    let elsewhere = until("the nodes to know of each other", || {
        let found: Rebalances = json(&nodes, 1, &rebalance(&["--dry-run"]));
        let left: u64 = found.nodes.iter().map(|node| node.left).sum();
        (found.dry_run && left > 0).then_some(left as usize)
    });
    assert!(elsewhere < CLIENTS, "{elsewhere}");
    for (_, client) in &mut clients {
        client.assert_silent();
    }

    let (code, out, error) = ctl(&nodes, 1, &rebalance(&["--rate", "20/s", "--wait", "2m"]));
    assert_eq!(code, Some(0), "{out}{error}");
    assert!(error.contains("clients were sent"), "{error}");
    let mut publisher = Client::connect(cluster.places[2].mqtt, "publisher", false);
    publisher.publish("moved", 1, "on the way");

    let mut moved = 0;
    for (id, mut client) in clients {
        let Some(last) = client.end_before_a_message() else {
            continue;
        };
        moved += 1;
        assert_eq!((last.first, last.body[0]), (DISCONNECT, USE_ANOTHER_SERVER));
        let home = reference(&last.body[1..]).expect("it is said where");
        assert_ne!(home, first);
        let mut client = Client::connect(home, &id, true);
        assert!(client.is_resumed, "{id}");
        assert_eq!(client.next().payload, "on the way");
    }
    assert!((1..=elsewhere).contains(&moved), "{moved} of {elsewhere}");
    clean.assert_silent();
    let left: Rebalances = json(&nodes, 0, &rebalance(&["--dry-run"]));
    assert_eq!(left.nodes.iter().map(|node| node.left).sum::<u64>(), 0);
}

#[test]
fn a_client_of_a_node_that_drains_is_told_where_its_shard_is_led() {
    let cluster = Cluster::each(|_, place| config(place, "off"));
    let nodes = cluster.start();
    ordered(&nodes);
    let clients: Vec<Client> = (0..CLIENTS)
        .map(|n| Client::connect(cluster.places[2].mqtt, &format!("c{n}"), true))
        .collect();

    let (code, out, error) = ctl(&nodes, 0, &["cluster", "drain", "3"]);
    assert_eq!(code, Some(0), "{out}{error}");

    let others = [0, 1].map(|at| cluster.places[at].mqtt);
    let mut told = 0;
    for client in clients {
        let last = client.last_packet();
        assert_eq!((last.first, last.body[0]), (DISCONNECT, USE_ANOTHER_SERVER));
        // A shard that is being moved yet has no home.
        if let Some(home) = last.body.get(1..).and_then(reference) {
            assert!(others.contains(&home));
            told += 1;
        }
    }
    eprintln!("{told} of {CLIENTS} were told where to");
    until("those who come late to be told too", || {
        let (reason, reference) = connected(cluster.places[2].mqtt, "late");
        assert_eq!(reason, USE_ANOTHER_SERVER);
        reference.filter(|home| others.contains(home))
    });
}

fn config(place: &Place, server_reference: &str) -> String {
    format!(
        "[mqtt]\nadvertise = \"{}\"\nserver_reference = \"{server_reference}\"\n",
        place.mqtt
    )
}

fn ordered(nodes: &Nodes<'_>) {
    until("leaders to be where they are to be", || {
        let status = (0..NODES).map(|at| nodes.status(at));
        let mut status = status.map(|status| status.is_some_and(|one| leads_as_placed(&one)));
        status.all(|is| is).then_some(())
    });
}

/// What a client is answered that connects: the reason, and where it is to go.
fn connected(address: SocketAddr, id: &str) -> (u8, Option<SocketAddr>) {
    let connect = Connect {
        id,
        expiry_s: 0,
        receive_maximum: 10,
        will: None,
    };
    let connack = answer(address, &connect.encode());
    let reason = connack.body[1];
    let home = match reason {
        0 => None,
        _ => reference(&connack.body[2..]),
    };
    (reason, home)
}

fn connected_v311(address: SocketAddr, id: &str) -> u8 {
    let connack = answer(address, &crate::process::wire::connect(V311, id));
    connack.body[1]
}

fn answer(address: SocketAddr, connect: &[u8]) -> Packet {
    let mut wire = Wire::open(address).expect("the node listens");
    wire.send(connect).expect("the node reads");
    let connack = wire.read().expect("the node answers");
    assert_eq!(connack.first, CONNACK, "{connack:?}");
    connack
}

/// The Server Reference among properties of which it is the only one.
fn reference(properties: &[u8]) -> Option<SocketAddr> {
    let (_, properties) = properties.split_first()?;
    let (id, text) = properties.split_first()?;
    assert_eq!(*id, SERVER_REFERENCE, "{properties:?}");
    let text = std::str::from_utf8(&text[2..]).expect("it is text");
    Some(text.parse().expect("an address"))
}
