//! What every subscriber has in the end.

use super::nodes::{Cluster, Nodes};
use crate::process::sessions::assert_nothing_dropped;
use crate::process::sessions::crowd::Running;
use crate::process::sessions::homes::Homes;
use crate::process::wait::until;

/// Lets the clients end what they have begun, starts all nodes anew, and has every subscriber take
/// what is left for it: nothing acknowledged is lost, QoS 2 came once, each publisher's order was
/// kept.
pub(super) fn assert_one_history(cluster: &Cluster, nodes: &mut Nodes<'_>, running: Running) {
    running.stop();
    nodes.kill_all_9();
    let mut crowd = running.killed();
    nodes.start_missing();
    until("the cluster to be whole", || {
        nodes.is_settled().then_some(())
    });
    crowd.drain(Homes::of(&cluster.mqtt()), 1);
    for (node, address) in nodes.all().zip(cluster.mqtt()) {
        crowd.assert_retained(address);
        assert_nothing_dropped(node);
    }
    for subscriber in &crowd.subscribers {
        subscriber.assert_complete(&crowd.publishers, &crowd.wills);
    }
    eprintln!("{} acknowledged", crowd.acked());
}
