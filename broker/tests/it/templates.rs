//! Topics that belong to one client: its subscriptions to them have no row in the routes.

use mqtt::{Filter, Packet, Publish, QoS, ReasonCode, Unsubscribe};
use tidewire_broker::{Config, Node};

use crate::harness::{ALL_QOS, Client, Dial, TestNode, ack, config, publish, start, start_again};

const ROWS: &str = "tidewire_broker_routes";

/// The next message, taken to the end of its exchange.
async fn take(client: &mut Client) -> Publish {
    let publish = client.publication().await;
    let Some(id) = publish.packet_id else {
        return publish;
    };
    match publish.qos {
        QoS::ExactlyOnce => {
            client.send(&Packet::PubRec(ack(id))).await;
            assert_eq!(client.packet().await, Packet::PubRel(ack(id)));
            client.send(&Packet::PubComp(ack(id))).await;
        }
        _ => client.send(&Packet::PubAck(ack(id))).await,
    }
    publish
}

async fn text(client: &mut Client) -> String {
    let publish = take(client).await;
    String::from_utf8(publish.payload.to_vec()).expect("text")
}

async fn unsubscribe(client: &mut Client, filter: &str) {
    let packet = Packet::Unsubscribe(Box::new(Unsubscribe {
        packet_id: client.take_id(),
        filters: vec![Filter::try_from(filter).expect("a filter")],
        user_properties: Vec::new(),
    }));
    client.send(&packet).await;
    let reasons = client.reasons().await;
    assert!(
        reasons.iter().all(|reason| !reason.is_error()),
        "{reasons:?}"
    );
}

async fn retain(publisher: &mut Client, topic: &str, payload: &str) {
    let mut publish = publish(topic, QoS::AtLeastOnce, payload);
    publish.retain = true;
    publisher.publish_as(publish).await;
}

async fn session(node: &TestNode, id: &str) -> Client {
    node.connect(Dial::v5(id).persistent()).await.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gets_its_own_topics_without_a_row() {
    let node = start(config()).await;
    let mut publisher = node.clean("publisher").await;
    for (id, dial) in [("d5", Dial::v5("d5")), ("d3", Dial::v311("d3"))] {
        let (mut device, _) = node.connect(dial.persistent()).await;
        let (own, topic) = (format!("cmd/{id}/#"), format!("cmd/{id}/go"));
        device.subscribe(&own, QoS::ExactlyOnce).await;
        assert_eq!(node.metric(ROWS).await, 0, "{id}");
        for qos in ALL_QOS {
            publisher.publish(&topic, qos, "live").await;
            let message = take(&mut device).await;
            assert_eq!((&*message.topic, message.qos), (&*topic, qos));
        }
        // A will, and a retained message, live and at the next SUBSCRIBE.
        let will = format!("cmd/{id}/will");
        drop(
            node.connect(Dial::v5("testator").will(&will, false, None))
                .await,
        );
        assert_eq!(text(&mut device).await, "gone");
        let kept = format!("cmd/{id}");
        retain(&mut publisher, &kept, "kept").await;
        assert!(!take(&mut device).await.retain);
        device.subscribe(&own, QoS::ExactlyOnce).await;
        let message = take(&mut device).await;
        assert_eq!((&*message.topic, message.retain), (&*kept, true));

        unsubscribe(&mut device, &own).await;
        for qos in ALL_QOS {
            publisher.publish(&topic, qos, "late").await;
        }
        assert_eq!(node.metric(ROWS).await, 0, "{id}");
        // What had been queued would come before what is queued now.
        device.subscribe("other", QoS::AtLeastOnce).await;
        publisher.publish("other", QoS::AtLeastOnce, "other").await;
        assert_eq!(text(&mut device).await, "other");
        unsubscribe(&mut device, "other").await;
        node.until(ROWS, |rows| rows == 0).await;
        device.leave(ReasonCode::Success).await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_else_wants_a_clients_topics_takes_a_row_and_each_gets_them_once() {
    // One shard: a row of it and the computed way to it are one entry.
    let mut config = config();
    config.cluster.shards = 1;
    let node = start(config).await;
    let mut publisher = node.clean("publisher").await;
    let mut device = session(&node, "d").await;
    device.subscribe("cmd/d/#", QoS::AtLeastOnce).await;
    let mut spy = session(&node, "spy").await;
    spy.subscribe("cmd/d/#", QoS::AtLeastOnce).await;
    assert_eq!(node.metric(ROWS).await, 1);
    // A clean session lives on its node: no shard would hand it anything.
    let mut clean = node.clean("c").await;
    clean.subscribe("cmd/c/#", QoS::AtLeastOnce).await;
    assert_eq!(node.metric(ROWS).await, 2);

    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        publisher.publish("cmd/d/x", qos, "to d").await;
        publisher.publish("cmd/c/x", qos, "to c").await;
        assert_eq!(text(&mut device).await, "to d");
        assert_eq!(text(&mut spy).await, "to d");
        assert_eq!(text(&mut clean).await, "to c");
    }
    // The row goes with who took it, the device's messages do not.
    unsubscribe(&mut spy, "cmd/d/#").await;
    assert_eq!(node.metric(ROWS).await, 1);
    publisher
        .publish("cmd/d/x", QoS::AtLeastOnce, "still")
        .await;
    assert_eq!(text(&mut device).await, "still");
    for client in [&mut device, &mut spy, &mut clean] {
        client.ping().await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_own_filter_asks_its_shard_for_retained_messages_and_a_wider_one_all() {
    let node = start(config()).await;
    let mut publisher = node.clean("publisher").await;
    for device in 0..20 {
        retain(&mut publisher, &format!("cmd/d{device}/a"), "a").await;
        retain(&mut publisher, &format!("cmd/d{device}/b/c"), "b").await;
    }
    let mut reader = node.clean("reader").await;
    for device in 0..20 {
        // Anybody may ask.
        for (filter, count) in [("/#", 2), ("/+", 1), ("/b/c", 1)] {
            let filter = format!("cmd/d{device}{filter}");
            reader.subscribe(&filter, QoS::AtMostOnce).await;
            for _ in 0..count {
                let message = take(&mut reader).await;
                assert!(message.topic.starts_with(&format!("cmd/d{device}/")));
            }
            reader.ping().await;
        }
    }
    let mut all = node.clean("all").await;
    all.subscribe("cmd/#", QoS::AtMostOnce).await;
    for _ in 0..40 {
        assert!(take(&mut all).await.retain);
    }
    all.ping().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_again_needs_no_row_either() {
    let node = start(config()).await;
    let mut device = session(&node, "d").await;
    device.subscribe("cmd/d/#", QoS::AtLeastOnce).await;
    device.leave(ReasonCode::Success).await;
    let folder = node.stop().await;

    let node = start_again(config(), folder).await;
    assert_eq!(node.metric(ROWS).await, 0);
    let mut publisher = node.clean("publisher").await;
    publisher.publish("cmd/d/x", QoS::AtLeastOnce, "away").await;
    let (mut device, is_resumed) = node.connect(Dial::v5("d").persistent()).await;
    assert!(is_resumed);
    assert_eq!(text(&mut device).await, "away");
    node.stop().await;
}

/// A folder of a cluster without templates is, byte for byte, one from before there were any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_was_founded_without_templates_goes_on_with_rows() {
    let without = Config {
        cluster: tidewire_broker::config::Cluster {
            device_templates: Some(Vec::new()),
            ..config().cluster
        },
        ..config()
    };
    let node = start(without).await;
    let mut device = session(&node, "d").await;
    device.subscribe("cmd/d/#", QoS::AtLeastOnce).await;
    assert_eq!(node.metric(ROWS).await, 1);
    let folder = node.stop().await;
    let file = std::fs::read_to_string(folder.path().join("data/node.json")).expect("it is there");
    assert!(!file.contains("templates"), "{file}");

    let node = start_again(config(), folder).await;
    assert_eq!(node.metric(ROWS).await, 1);
    let mut publisher = node.clean("publisher").await;
    let (mut device, _) = node.connect(Dial::v5("d").persistent()).await;
    publisher.publish("cmd/d/x", QoS::AtLeastOnce, "x").await;
    assert_eq!(text(&mut device).await, "x");
    unsubscribe(&mut device, "cmd/d/#").await;
    node.until(ROWS, |rows| rows == 0).await;
    let folder = node.stop().await;

    let mut late = config();
    late.data = folder.path().join("data");
    late.cluster.device_templates = Some(vec!["cmd/{client_id}/#".to_owned()]);
    let error = Node::start(late).await.err().expect("it is fixed");
    assert!(error.is_usage(), "{error}");
    assert!(
        error.to_string().contains("cluster.device_templates is []"),
        "{error}"
    );
}
