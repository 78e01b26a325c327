//! Message expiry while the wall clock leaps: no interval is cut short by it.

use std::time::Duration;

use mqtt::{Packet, PacketId, Publish, PublishProperties, QoS};
use runtime::{Clock, ManualClock};

use crate::harness::{Client, Dial, TestNode, config, publish, start_at};

const WALL_MS: u64 = 1_800_000_000_000;
const HOUR_MS: u64 = 3_600_000;
/// Longer than a leader waits before it believes a clock that leapt.
const BELIEVED_AGAIN_MS: u64 = 700_000;

fn expiring(topic: &str, expiry_s: u32) -> Publish {
    let mut publish = publish(topic, QoS::AtLeastOnce, "text");
    publish.packet_id = PacketId::new(1);
    publish.properties = Some(Box::new(PublishProperties {
        message_expiry_s: Some(expiry_s),
        ..PublishProperties::default()
    }));
    publish
}

async fn published(node: &TestNode, publish: Publish) {
    let mut publisher = node.clean("publisher").await;
    publisher.send(&Packet::Publish(publish)).await;
    let packet = publisher.packet().await;
    assert!(matches!(packet, Packet::PubAck(_)), "{packet:?}");
}

/// A session that is subscribed to everything and away.
async fn away(node: &TestNode, id: &str) {
    let (mut client, _) = node.connect(Dial::v5(id).persistent()).await;
    client.subscribe("#", QoS::AtLeastOnce).await;
    drop(client);
}

async fn back(node: &TestNode, id: &str) -> Client {
    let (client, present) = node.connect(Dial::v5(id).persistent()).await;
    assert!(present);
    client
}

fn expiry_s(publish: &Publish) -> Option<u32> {
    publish.properties.as_ref().and_then(|p| p.message_expiry_s)
}

fn leap(clock: &ManualClock, ms: i64) {
    clock.set_wall_ms(clock.wall_ms().saturating_add_signed(ms));
}

/// Every shard has looked at its clock a few times.
async fn looked_at_the_clock() {
    tokio::time::sleep(Duration::from_millis(1_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_set_back_expires_nothing_that_was_published_since() {
    let clock = ManualClock::at(WALL_MS);
    let node = start_at(config(), &clock).await;
    away(&node, "c").await;
    leap(&clock, -(HOUR_MS as i64));
    looked_at_the_clock().await;
    clock.advance_ms(BELIEVED_AGAIN_MS);
    let retained = Publish {
        retain: true,
        ..expiring("kept", 600)
    };

    published(&node, expiring("t", 600)).await;
    published(&node, retained).await;
    looked_at_the_clock().await;

    assert_eq!(
        node.metric("tidewire_session_dropped_expired_total").await,
        0
    );
    clock.advance_ms(100_000);
    let mut client = back(&node, "c").await;
    for topic in ["t", "kept"] {
        let came = client.publication().await;
        assert_eq!((came.topic.as_str(), expiry_s(&came)), (topic, Some(500)));
    }
    let mut other = node.clean("other").await;
    other.subscribe("kept", QoS::AtMostOnce).await;
    assert_eq!(expiry_s(&other.publication().await), Some(500));
    // The clock stands still: the node would wait for them to close.
    drop((client, other));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_set_forward_expires_nothing_early_and_all_in_time() {
    let clock = ManualClock::at(WALL_MS);
    let node = start_at(config(), &clock).await;
    away(&node, "c").await;
    published(&node, expiring("before", 1_000)).await;
    leap(&clock, HOUR_MS as i64);
    looked_at_the_clock().await;
    clock.advance_ms(BELIEVED_AGAIN_MS);
    published(&node, expiring("after", 600)).await;
    looked_at_the_clock().await;

    let mut client = back(&node, "c").await;
    for (topic, left_s) in [("before", 300), ("after", 600)] {
        let came = client.publication().await;
        assert_eq!(
            (came.topic.as_str(), expiry_s(&came)),
            (topic, Some(left_s))
        );
    }
    drop(client);
    away(&node, "later").await;
    published(&node, expiring("late", 60)).await;
    clock.advance_ms(61_000);
    node.until("tidewire_session_dropped_expired_total", |dropped| {
        dropped > 0
    })
    .await;
    node.stop().await;
}
