//! A node that stands still for longer than its lease.

use super::nodes::{Cluster, Nodes};
use crate::process::sessions::DEFAULTS;
use crate::process::wait::until;

/// Starts until one is paused between the beginning of its epoch and its service.
const TRIES: usize = 20;
/// What a node logs once its epoch serves.
const SERVES: &str = "this node serves";
/// The node that is paused, by its place.
const PAUSED: usize = 2;

#[test]
fn a_node_whose_epoch_ends_before_it_serves_begins_another() {
    let cluster = Cluster::new(DEFAULTS);
    let mut nodes = cluster.start();

    let is_met = (0..TRIES).any(|_| is_paused_in_time(&mut nodes));
    assert!(is_met, "no start was paused in time");
    let ended = epoch(&nodes).expect("it has begun");
    until("the others to end the epoch", || {
        (epoch(&nodes) != Some(ended)).then_some(())
    });
    nodes.node(PAUSED).go_on();

    until("the node to serve under another epoch", || {
        nodes.is_settled().then_some(())
    });
    assert!(epoch(&nodes) > Some(ended));
}

/// Kills the node and starts it, and pauses it once its new epoch is seen; whether it did not serve
/// yet. The process goes on if it did.
fn is_paused_in_time(nodes: &mut Nodes<'_>) -> bool {
    let before = epoch(nodes);
    let served = times_served(nodes);
    nodes.kill_9(PAUSED);
    nodes.spawn(PAUSED);
    until("a new epoch", || {
        let now = epoch(nodes);
        (now.is_some() && now != before).then_some(())
    });
    nodes.node(PAUSED).pause();
    let is_in_time = times_served(nodes) == served;
    if !is_in_time {
        nodes.node(PAUSED).go_on();
        until("the nodes to be one cluster", || {
            nodes.is_settled().then_some(())
        });
    }
    is_in_time
}

fn times_served(nodes: &Nodes<'_>) -> usize {
    nodes.node(PAUSED).log().matches(SERVES).count()
}

/// The node's epoch, as the first one knows it.
fn epoch(nodes: &Nodes<'_>) -> Option<u64> {
    let status = nodes.status(0).expect("the first node answers");
    let number = u32::try_from(PAUSED + 1).expect("few nodes");
    let mut members = status.members.into_iter();
    members.find(|one| one.node == number)?.epoch
}
