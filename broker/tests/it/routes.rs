//! The routes: there before SUBACK, gone with the connection.

use std::sync::Arc;

use mqtt::{QoS, ReasonCode};
use runtime::SystemClock;
use tidewire_broker::Defects;

use crate::harness::{Dial, config, publish, start, start_with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_after_suback_reaches_the_subscriber() {
    let node = start(config()).await;
    let mut publishers = Vec::new();
    for id in ["p1", "p2"] {
        publishers.push(node.clean(id).await);
    }
    let (mut clean, _) = node.connect(Dial::v5("c")).await;
    let (mut persistent, _) = node.connect(Dial::v5("p").persistent()).await;
    for round in 0..300 {
        let topic = format!("round/{round}");
        clean.subscribe(&topic, QoS::AtMostOnce).await;
        persistent.subscribe(&topic, QoS::AtMostOnce).await;
        let publisher = &mut publishers[round % 2];
        publisher.publish(&topic, QoS::AtMostOnce, &topic).await;
        assert_eq!(clean.text().await, topic);
        assert_eq!(persistent.text().await, topic);
        if round % 200 == 199 {
            // Below the limit of 256 subscriptions.
            let (again, _) = node.connect(Dial::v5("c")).await;
            clean = again;
            let (fresh, _) = node.connect(Dial::v5("p")).await;
            fresh.leave(ReasonCode::Success).await;
            persistent = node.connect(Dial::v5("p").persistent()).await.0;
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_go_with_disconnect_loss_takeover_and_unsubscribe() {
    let node = start(config()).await;
    let rows = "tidewire_broker_routes";
    for end in ["disconnect", "loss", "takeover"] {
        let mut client = node.clean("c").await;
        client.subscribe("a/#", QoS::AtMostOnce).await;
        client.subscribe("b", QoS::AtMostOnce).await;
        assert_eq!(node.metric(rows).await, 2);
        match end {
            "disconnect" => client.leave(ReasonCode::Success).await,
            "loss" => drop(client),
            _ => drop(node.clean("c").await),
        }
        node.until(rows, |rows| rows == 0).await;
    }
    let (mut session, _) = node.connect(Dial::v5("s").persistent()).await;
    session.subscribe("a/#", QoS::AtMostOnce).await;
    session.leave(ReasonCode::Success).await;
    assert_eq!(node.metric(rows).await, 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_panics_leaves_no_row_no_owner_and_its_will() {
    let defects = Defects {
        panic_on_topic: Some("bug".into()),
        ..Defects::default()
    };
    let node = start_with(config(), Arc::new(SystemClock::default()), defects).await;
    let mut watcher = node.clean("w").await;
    watcher.subscribe("will", QoS::AtLeastOnce).await;
    let (mut client, _) = node.connect(Dial::v5("c").will("will", false, None)).await;
    client.subscribe("x", QoS::AtMostOnce).await;
    assert_eq!(node.metric("tidewire_broker_routes").await, 2);
    client.publish_as(publish("bug", QoS::AtMostOnce, "")).await;
    assert_eq!(watcher.text().await, "gone");
    node.until("tidewire_broker_panics_total", |n| n == 1).await;
    node.until("tidewire_broker_routes", |rows| rows == 1).await;
    node.until("tidewire_broker_connections_open", |open| open == 1)
        .await;
    watcher.ping().await;
    node.stop().await;
}
