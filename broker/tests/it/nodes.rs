//! Several nodes in this process, one of which takes nothing of the others for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mqtt::{Packet, PacketId, QoS};
use runtime::SystemClock;
use tidewire_broker::Defects;

use crate::harness::{Client, Dial, TestNode, config, publish, soon, start, start_with};

/// Shards, and sessions that are subscribed: of so many, some are led by either node.
const SHARDS: u16 = 8;

/// Two nodes of one cluster. The first takes nothing of the second's streams while it is told so.
struct Pair {
    first: TestNode,
    second: TestNode,
    takes_nothing: Arc<AtomicBool>,
}

impl Pair {
    async fn start() -> Self {
        let takes_nothing = Arc::new(AtomicBool::new(false));
        let defects = Defects {
            takes_nothing: Arc::clone(&takes_nothing),
            ..Defects::default()
        };
        let mut founding = config();
        founding.cluster.shards = SHARDS;
        let mut joining = founding.clone();
        let clock = Arc::new(SystemClock::default());
        let first = start_with(founding, clock, defects).await;
        joining.cluster.join = vec![first.node.cluster.clone()];
        let second = soon("the second node", start(joining)).await;
        Self {
            first,
            second,
            takes_nothing,
        }
    }

    fn take_nothing(&self, nothing: bool) {
        self.takes_nothing.store(nothing, Ordering::SeqCst);
    }

    async fn stop(self) {
        self.second.stop().await;
        self.first.stop().await;
    }
}

/// Publishes with QoS 1 and waits for nothing.
async fn send(client: &mut Client, topic: &str, text: &str) {
    let mut message = publish(topic, QoS::AtLeastOnce, text);
    message.packet_id = PacketId::new(7);
    client.send(&Packet::Publish(message)).await;
}

/// What comes up to `end`.
async fn texts(reader: &mut Client) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.last().is_none_or(|text| text != "end") {
        texts.push(reader.text().await);
    }
    texts
}

/// A client publishes at the second node, which cannot pass it on, and loses its connection; goes to the
/// first node, publishes the same again and then something else. Then the first one takes what the second
/// one has.
async fn move_on(pair: &Pair, topic: &str, withdrawn: &str) {
    let mut client = pair.second.clean("mover").await;
    let received = "tidewire_broker_publish_received_total";
    let before = pair.second.metric(received).await;
    pair.take_nothing(true);
    send(&mut client, topic, "left").await;
    pair.second.until(received, |n| n > before).await;
    drop(client);
    pair.second.until(withdrawn, |n| n > 0).await;
    let mut client = pair.first.clean("mover").await;
    client.publish(topic, QoS::AtLeastOnce, "left").await;
    client.publish(topic, QoS::AtLeastOnce, "since").await;
    pair.take_nothing(false);
    let mut other = pair.second.clean("other").await;
    other.publish(topic, QoS::AtLeastOnce, "end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_connection_left_comes_to_no_queue_behind_what_its_client_sent_at_another_node() {
    let pair = Pair::start().await;
    let ids = (0..SHARDS).map(|shard| {
        let mut ids = (0..).map(|nth| format!("reader-{nth}"));
        let is_of = |id: &String| telemetry::bucket_of(id.as_bytes(), u32::from(SHARDS)) == shard;
        ids.find(is_of).expect("ids without end")
    });
    let ids: Vec<String> = ids.collect();
    let mut readers = Vec::new();
    for id in &ids {
        let (mut reader, _) = pair.first.connect(Dial::v5(id).persistent()).await;
        reader.subscribe("t", QoS::AtLeastOnce).await;
        readers.push(reader);
    }

    move_on(&pair, "t", "tidewire_session_withdrawn_total").await;

    let mut spared = 0;
    for reader in &mut readers {
        // Of a shard that the second node leads itself, the first sending was taken at once.
        let mut texts = texts(reader).await;
        spared += usize::from(texts.len() == 3);
        texts.dedup();
        assert_eq!(texts, ["left", "since", "end"]);
    }
    assert!(spared > 0, "the first node leads none of the shards");
    drop(readers);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_connection_left_comes_to_no_clean_session_behind_what_its_client_sent_since() {
    let pair = Pair::start().await;
    let mut reader = pair.first.clean("reader").await;
    reader.subscribe("c", QoS::AtLeastOnce).await;

    move_on(&pair, "c", "tidewire_broker_node_withdrawn_total").await;

    assert_eq!(texts(&mut reader).await, ["left", "since", "end"]);
    drop(reader);
    pair.stop().await;
}
