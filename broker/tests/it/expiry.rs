//! Message expiry while the wall clock leaps: no interval is cut short by it.

use std::sync::Arc;

use mqtt::{Packet, PacketId, Publish, PublishProperties, QoS};
use runtime::{Clock, ManualClock};
use tidewire_broker::Defects;
use tokio::sync::watch;

use crate::harness::{Client, Dial, TestNode, config, publish, soon, start_with};

const WALL_MS: u64 = 1_800_000_000_000;
const HOUR_MS: u64 = 3_600_000;
/// Longer than a leader waits before it believes a clock that leapt.
const BELIEVED_AGAIN_MS: u64 = 700_000;
/// Looks of a shard at its clock after which it has done what the time asks for.
const LOOKS: u64 = 4;

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

/// A clock that knows how often a shard has looked at it.
#[derive(Clone)]
struct Watched {
    clock: ManualClock,
    looks: Arc<watch::Sender<u64>>,
}

impl Clock for Watched {
    fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    fn mono_ms(&self) -> u64 {
        self.clock.mono_ms()
    }

    /// Only a shard's host asks, once a look.
    fn is_synchronised(&self) -> bool {
        self.looks.send_modify(|looks| *looks += 1);
        true
    }
}

impl Watched {
    fn at(wall_ms: u64) -> Self {
        Self {
            clock: ManualClock::at(wall_ms),
            looks: Arc::new(watch::Sender::new(0)),
        }
    }

    /// The only shard looks a few times more.
    async fn looked_at(&self) {
        let mut looks = self.looks.subscribe();
        let enough = *looks.borrow() + LOOKS;
        let looked = looks.wait_for(|looks| *looks >= enough);
        soon("a look at the clock", looked).await.expect("it lives");
    }
}

async fn start(clock: &Watched) -> TestNode {
    let mut config = config();
    config.cluster.shards = 1;
    start_with(config, Arc::new(clock.clone()), Defects::default()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_set_back_expires_nothing_that_was_published_since() {
    let watched = Watched::at(WALL_MS);
    let clock = &watched.clock;
    let node = start(&watched).await;
    away(&node, "c").await;
    leap(clock, -(HOUR_MS as i64));
    watched.looked_at().await;
    clock.advance_ms(BELIEVED_AGAIN_MS);
    let retained = Publish {
        retain: true,
        ..expiring("kept", 600)
    };

    published(&node, expiring("t", 600)).await;
    published(&node, retained).await;
    watched.looked_at().await;

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
    let watched = Watched::at(WALL_MS);
    let clock = &watched.clock;
    let node = start(&watched).await;
    away(&node, "c").await;
    published(&node, expiring("before", 1_000)).await;
    leap(clock, HOUR_MS as i64);
    watched.looked_at().await;
    clock.advance_ms(BELIEVED_AGAIN_MS);
    published(&node, expiring("after", 600)).await;
    watched.looked_at().await;

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
