//! Stop, and what is found after the next start.

use std::time::Duration;

use mqtt::{Packet, PacketId, QoS, ReasonCode};
use tidewire_broker::Node;

use crate::harness::{Dial, TestNode, config, publish, soon, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_tells_clients_and_keeps_what_was_acknowledged() {
    let mut config = config();
    config.no_telemetry = false;
    let node = start(config.clone()).await;
    let mut devices = Vec::new();
    for number in 0..4 {
        devices.push(node.clean(&format!("car{number}")).await);
    }
    let now_ms = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_millis();
    for (number, device) in devices.iter_mut().enumerate() {
        for row in 0..25 {
            let topic = format!("fleet/car{number}/telemetry");
            let text = format!(r#"{{"ts":{},"metrics":{{"m":{row}}}}}"#, now_ms - row);
            device.publish(&topic, QoS::AtLeastOnce, &text).await;
        }
    }
    let (mut old, _) = node.connect(Dial::v311("old")).await;
    let stopping = tokio::spawn(node.stop());
    for device in &mut devices {
        assert_eq!(device.disconnected().await, ReasonCode::ServerShuttingDown);
    }
    assert_eq!(old.next().await, None);
    drop((devices, old));
    let folder = stopping.await.expect("no panic");

    config.data = folder.path().join("data");
    let node = Node::start(config).await.expect("the same folder");
    let node = TestNode { node, folder };
    for number in 0..4 {
        let (status, body) = node.get(&format!("/v1/query/car{number}?from=-15m")).await;
        assert_eq!(status, 200, "{body}");
        assert_eq!(body.matches("\"ts\":").count(), 25, "{body}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_does_not_hold_a_stop_up() {
    let mut config = config();
    config.stop_deadline = Duration::from_secs(3);
    let node = start(config).await;
    let mut deaf = node.clean("deaf").await;
    deaf.subscribe("flood", QoS::AtMostOnce).await;
    let mut publisher = node.clean("p").await;
    let mut big = publish("flood", QoS::AtLeastOnce, &"x".repeat(500_000));
    for id in 1..=40 {
        big.packet_id = PacketId::new(id);
        publisher.send(&Packet::Publish(big.clone())).await;
        assert!(matches!(publisher.packet().await, Packet::PubAck(_)));
    }
    drop(publisher);
    soon("the end of the node", node.node.stop()).await;
    drop(deaf);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_node_gives_its_ports_and_its_folder_back() {
    let mut config = config();
    // An address of its own: on the others' a free port may be another test's in the next moment.
    config.mqtt.listen.set_ip([127, 0, 0, 77].into());
    config.admin.listen.set_ip([127, 0, 0, 77].into());
    let node = start(config.clone()).await;
    let (mqtt, admin) = (node.node.mqtt, node.node.admin);
    let folder = node.stop().await;
    config.mqtt.listen = mqtt;
    config.admin.listen = admin;
    config.data = folder.path().join("data");
    let again = Node::start(config)
        .await
        .expect("ports and folder are free");
    let node = TestNode {
        node: again,
        folder,
    };
    node.clean("c").await.ping().await;
    node.stop().await;
}
