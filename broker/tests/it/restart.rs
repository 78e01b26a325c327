//! What a node knows after it was stopped and started again on its folder.

use std::time::Duration;

use mqtt::{QoS, ReasonCode};

use crate::harness::{Dial, config, start, start_again};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_queues_and_retained_messages_are_there_after_a_restart() {
    let node = start(config()).await;
    let (mut reader, _) = node.connect(Dial::v5("reader").persistent()).await;
    reader.subscribe("q/#", QoS::ExactlyOnce).await;
    reader.leave(ReasonCode::Success).await;
    let mut writer = node.clean("writer").await;
    for n in 0..20 {
        writer
            .publish("q/a", QoS::AtLeastOnce, &n.to_string())
            .await;
    }
    let mut kept = crate::harness::publish("r/kept", QoS::AtLeastOnce, "kept");
    kept.retain = true;
    writer.publish_as(kept).await;
    let folder = node.stop().await;

    let node = start_again(config(), folder).await;
    let (mut reader, present) = node.connect(Dial::v5("reader").persistent()).await;
    assert!(present);
    for n in 0..20 {
        assert_eq!(reader.text().await, n.to_string());
    }
    reader.subscribe("r/#", QoS::AtLeastOnce).await;
    assert_eq!(reader.text().await, "kept");
    // The route is there as well: nobody has subscribed to q/# in this life.
    let mut writer = node.clean("writer").await;
    writer.publish("q/b", QoS::AtLeastOnce, "later").await;
    assert_eq!(reader.text().await, "later");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_left_memory_is_read_again_in_its_turn() {
    let small = || {
        let mut config = config();
        config.memory_bytes_limit = Some(1 << 20);
        config.cluster.state_flush_age = Duration::from_millis(50);
        config
    };
    let node = start(small()).await;
    let (mut reader, _) = node.connect(Dial::v5("reader").persistent()).await;
    reader.subscribe("q", QoS::AtLeastOnce).await;
    reader.leave(ReasonCode::Success).await;
    let mut writer = node.clean("writer").await;
    let payload = |n: u32| format!("{n:04}{}", "x".repeat(4_000));
    for n in 0..150 {
        writer.publish("q", QoS::AtLeastOnce, &payload(n)).await;
    }
    let folder = node.stop().await;

    let node = start_again(small(), folder).await;
    let (mut reader, _) = node.connect(Dial::v5("reader").persistent()).await;
    for n in 0..150 {
        assert_eq!(reader.text().await, payload(n));
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_will_is_published_once_if_a_stop_cut_its_connection_and_never_after_a_disconnect() {
    let node = start(config()).await;
    let (mut watcher, _) = node.connect(Dial::v5("watcher").persistent()).await;
    watcher.subscribe("will/#", QoS::AtLeastOnce).await;
    watcher.leave(ReasonCode::Success).await;
    let polite = Dial::v5("polite").will("will/polite", false, None);
    let (polite, _) = node.connect(polite).await;
    let (_cut, _) = node
        .connect(Dial::v5("cut").will("will/cut", false, None))
        .await;
    polite.leave(ReasonCode::Success).await;
    let folder = node.stop().await;

    let node = start_again(config(), folder).await;
    let (mut watcher, _) = node.connect(Dial::v5("watcher").persistent()).await;
    assert_eq!(watcher.publication().await.topic.as_str(), "will/cut");
    let folder = node.stop().await;

    // It was not acknowledged, and comes again; but it was published once.
    let node = start_again(config(), folder).await;
    let (mut watcher, _) = node.connect(Dial::v5("watcher").persistent()).await;
    assert_eq!(watcher.text().await, "gone");
    let mut writer = node.clean("writer").await;
    writer.publish("will/end", QoS::AtLeastOnce, "end").await;
    assert_eq!(watcher.text().await, "end");
    node.stop().await;
}
