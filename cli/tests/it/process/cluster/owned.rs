//! Topics that belong to one client: every node knows without a row where its session is.

use admin::session::SessionDetails;

use super::client::Client;
use super::nodes::{Cluster, Nodes, json, leads_as_placed};
use crate::process::sessions::DEFAULTS;
use crate::process::wait::until;

const OWN: &str = "cmd/device-7/#";

#[test]
fn a_clients_own_topics_reach_it_from_every_node_without_a_row_also_after_a_kill() {
    let cluster = Cluster::new(DEFAULTS);
    let mut nodes = cluster.start();
    // A message of QoS 0 may be lost while a leadership moves.
    until("leaders to return", || {
        let status = nodes.status(0);
        status
            .is_some_and(|status| leads_as_placed(&status))
            .then_some(())
    });
    let [one, two, three] = cluster.mqtt();
    let mut device = Client::connect(one, "device-7", true);
    device.subscribe(OWN, 2);
    assert_no_row(&nodes);
    let mut operators = [one, two, three].map(|at| Client::connect(at, &format!("o{at}"), true));
    for operator in &mut operators {
        for qos in 0..=2 {
            operator.publish("cmd/device-7/go", qos, "now");
            let message = device.next();
            assert_eq!((message.payload.as_str(), message.qos), ("now", qos));
        }
    }
    let [_, operator, _] = &mut operators;
    operator.retain("cmd/device-7", "kept");
    assert_eq!(device.next().payload, "kept");
    device.assert_silent();

    // What is not recorded yet as acknowledged would come again. The leader is asked: a metric may be a tick old,
    // from before the last message was queued.
    until("the acknowledgements to be recorded", || {
        let shown: SessionDetails = json(&nodes, 1, &["client", "show", "device-7"]);
        (shown.by_leader && shown.session.queue_messages == 0).then_some(())
    });
    // The device's node dies; so may the leader of its shard.
    nodes.kill_9(0);
    until("the others to lead", || {
        nodes.is_led_without(0).then_some(())
    });
    operator.publish("cmd/device-7/go", 1, "away");
    let mut device = Client::connect(three, "device-7", true);
    assert!(device.is_resumed);
    assert_eq!(device.next().payload, "away");
    for qos in 0..=2 {
        operator.publish("cmd/device-7/go", qos, "back");
        let message = device.next();
        assert_eq!((message.payload.as_str(), message.qos), ("back", qos));
    }
    device.subscribe(OWN, 1);
    let message = device.next();
    assert_eq!((message.payload.as_str(), message.retain), ("kept", true));
    device.assert_silent();
    assert_no_row(&nodes);
}

fn assert_no_row(nodes: &Nodes<'_>) {
    for node in nodes.all() {
        assert!(node.metric("tidewire_broker_routes") < 1.0);
    }
}
