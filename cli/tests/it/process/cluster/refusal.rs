//! Who is not to be a member, and what no member says: refused in one line, and the cluster goes on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use super::client::Client;
use super::nodes::{Cluster, Nodes};
use crate::process::node::{Place, run};
use crate::process::sessions::DEFAULTS;
use crate::process::wait::until;

#[test]
fn whoever_may_not_join_is_told_why_in_one_line_and_the_cluster_goes_on() {
    let cluster = Cluster::new(DEFAULTS);
    let nodes = cluster.start();
    let member = cluster.places[0].cluster;
    let absent = Place::of_cluster(&[]);

    let taken = Place::of_cluster(&[member]).numbered(2);
    let reason = "the cluster refuses this node: the node number belongs to data folder ";
    assert_refused(&mut taken.serve(), &[reason]);
    let lost = Place::of_cluster(&[absent.cluster]);
    let silent = "no member of the cluster answered: ";
    assert_refused(&mut lost.serve(), &[silent, &absent.cluster.to_string()]);

    assert_goes_on(&cluster, &nodes);
}

#[test]
fn a_node_of_another_cluster_and_garbage_get_no_link_and_the_cluster_goes_on() {
    let cluster = Cluster::new(DEFAULTS);
    let mut nodes = cluster.start();
    let garbage = speak(cluster.places[0].cluster, b"GET / HTTP/1.1\r\n\r\n");
    let long = speak(cluster.places[0].cluster, &[0xA5; 100_000]);
    await_line(&nodes, 0, &["no link from", &garbage.to_string()]);
    await_line(&nodes, 0, &["no link from", &long.to_string()]);
    // Says nothing, for as long as the cluster is looked at.
    let _silent = TcpStream::connect(cluster.places[0].cluster).expect("the node listens");
    assert_goes_on(&cluster, &nodes);

    // Another cluster's founder where a member has been.
    nodes.kill_9(2);
    let stranger = Place::of_cluster(&[]).at(cluster.places[2].cluster);
    let founder = stranger.start();
    await_line(&nodes, 0, &["no link", " meets cluster "]);
    assert_goes_on(&cluster, &nodes);
    founder.kill_9();
    nodes.start(2);
    until("the nodes to be one cluster", || {
        nodes.is_settled().then_some(())
    });
    assert_goes_on(&cluster, &nodes);
}

/// Fails unless the program ends with 1, and with one line beside its log that has all of `named`.
fn assert_refused(serve: &mut Command, named: &[&str]) {
    let (code, stdout, stderr) = run(serve);
    assert_eq!((code, &*stdout), (Some(1), ""), "{stderr}");
    let lines: Vec<_> = stderr
        .lines()
        .filter(|line| line.starts_with("tidewire: "))
        .collect();
    let [line] = lines[..] else {
        panic!("one line: {stderr}");
    };
    for name in named {
        assert!(line.contains(name), "{name:?} is not named in: {line}");
    }
}

/// Says something to a node until that has enough; the address from which it was said.
fn speak(to: SocketAddr, bytes: &[u8]) -> SocketAddr {
    let mut stream = TcpStream::connect(to).expect("the node listens");
    let from = stream.local_addr().expect("it is connected");
    // The node may close before it has read all.
    drop(stream.write_all(bytes));
    drop(stream.read_to_end(&mut Vec::new()));
    from
}

/// Waits until a node's log has a line with all of these.
fn await_line(nodes: &Nodes<'_>, at: usize, named: &[&str]) {
    until(&format!("a line with {named:?}"), || {
        let log = nodes.node(at).log();
        let mut lines = log.lines();
        lines
            .any(|line| named.iter().all(|name| line.contains(name)))
            .then_some(())
    });
}

/// Fails unless clients of the first two nodes hear of each other what they may count on.
fn assert_goes_on(cluster: &Cluster, nodes: &Nodes<'_>) {
    let [one, two, _] = cluster.mqtt();
    let mut subscriber = Client::connect(one, "subscriber", true);
    if !subscriber.is_resumed {
        subscriber.subscribe("goes/on", 2);
    }
    let mut publisher = Client::connect(two, "publisher", false);
    publisher.publish("goes/on", 2, "still");
    assert_eq!(subscriber.next().payload, "still");
    for node in nodes.all() {
        assert_eq!(node.metric("tidewire_panics_total"), 0.0);
    }
}
