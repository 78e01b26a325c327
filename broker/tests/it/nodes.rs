//! Several nodes in this process, one of which takes nothing of the others for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mqtt::{Packet, PacketId, QoS, ReasonCode, Version};
use runtime::SystemClock;
use tidewire_broker::Defects;

use crate::harness::{Client, Dial, TestNode, ack, config, publish, soon, start_with};

/// Shards, and sessions that are subscribed: of so many, some are led by either node.
const SHARDS: u16 = 8;

/// Two nodes of one cluster, of which each takes nothing of the other's streams while it is told so.
struct Pair {
    first: TestNode,
    second: TestNode,
    first_takes_nothing: Arc<AtomicBool>,
    second_takes_no_letters: Arc<AtomicBool>,
}

impl Pair {
    async fn start() -> Self {
        let (of_first, of_second) = (Defects::default(), Defects::default());
        let first_takes_nothing = Arc::clone(&of_first.takes_nothing);
        let second_takes_no_letters = Arc::clone(&of_second.takes_no_letters);
        let mut founding = config();
        founding.cluster.shards = SHARDS;
        founding.mqtt.queue_bytes_limit = 2 * MESSAGES * PAYLOAD_BYTES;
        let mut joining = founding.clone();
        let clock = || Arc::new(SystemClock::default());
        let first = start_with(founding, clock(), of_first).await;
        joining.cluster.join = vec![first.node.cluster.clone()];
        let second = start_with(joining, clock(), of_second);
        let second = soon("the second node", second).await;
        Self {
            first,
            second,
            first_takes_nothing,
            second_takes_no_letters,
        }
    }

    async fn stop(self) {
        self.second.stop().await;
        self.first.stop().await;
    }
}

/// A persistent session in each shard, connected to this node.
async fn readers(node: &TestNode, topic: &str, qos: QoS) -> Vec<Client> {
    let mut readers = Vec::new();
    for shard in 0..SHARDS {
        let mut ids = (0..).map(|nth| format!("reader-{qos:?}-{nth}"));
        let is_of = |id: &String| telemetry::bucket_of(id.as_bytes(), u32::from(SHARDS)) == shard;
        let id = ids.find(is_of).expect("ids without end");
        let (mut reader, _) = node.connect(Dial::v5(&id).persistent()).await;
        reader.subscribe(topic, qos).await;
        readers.push(reader);
    }
    readers
}

/// Publishes with QoS 1 and waits for nothing.
async fn send(client: &mut Client, topic: &str, text: &str) {
    let mut message = publish(topic, QoS::AtLeastOnce, text);
    message.packet_id = PacketId::new(7);
    client.send(&Packet::Publish(message)).await;
}

/// Connects until it is let in: a node that has not heard of a session's last owner yet refuses it.
async fn come_again(node: &TestNode, id: &str) -> Client {
    let connecting = async {
        loop {
            let mut client = node.socket(Version::V5).await;
            client.send(&Dial::v5(id).packet()).await;
            match client.packet().await {
                Packet::ConnAck(ack) if ack.reason == ReasonCode::Success => return client,
                Packet::ConnAck(ack) => assert_eq!(ack.reason, ReasonCode::ServerUnavailable),
                other => panic!("no CONNACK but {other:?}"),
            }
        }
    };
    soon("a CONNACK", connecting).await
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
    pair.first_takes_nothing.store(true, Ordering::SeqCst);
    send(&mut client, topic, "left").await;
    pair.second.until(received, |n| n > before).await;
    drop(client);
    pair.second.until(withdrawn, |n| n > 0).await;
    let mut client = come_again(&pair.first, "mover").await;
    client.publish(topic, QoS::AtLeastOnce, "left").await;
    client.publish(topic, QoS::AtLeastOnce, "since").await;
    pair.first_takes_nothing.store(false, Ordering::SeqCst);
    let mut other = pair.second.clean("other").await;
    other.publish(topic, QoS::AtLeastOnce, "end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_connection_left_comes_to_no_queue_behind_what_its_client_sent_at_another_node() {
    let pair = Pair::start().await;
    let mut readers = readers(&pair.first, "t", QoS::AtLeastOnce).await;

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

/// Of each reader 6 MiB: of two shards alone more than may wait in a stream.
const MESSAGES: usize = 96;
const PAYLOAD_BYTES: usize = 64 << 10;
/// What deliveries to a node may occupy, and what each shard may be beyond it with.
const DELIVERIES_BYTES: u64 = 16 << 20;
const BEYOND_BYTES: u64 = (PAYLOAD_BYTES as u64 + 1_024) * SHARDS as u64;

/// The numbers of the messages that come, acknowledged to their end, until nothing more does.
async fn numbers(reader: &mut Client) -> Vec<usize> {
    let mut numbers = Vec::new();
    let mut is_asked = false;
    loop {
        if numbers.len() >= MESSAGES && !std::mem::replace(&mut is_asked, true) {
            reader.send(&Packet::PingReq).await;
        }
        match reader.packet().await {
            Packet::Publish(publish) => {
                let id = publish.packet_id.expect("QoS > 0");
                let answer = match publish.qos {
                    QoS::ExactlyOnce => Packet::PubRec(ack(id)),
                    _ => Packet::PubAck(ack(id)),
                };
                reader.send(&answer).await;
                let text = String::from_utf8(publish.payload.to_vec()).expect("text");
                let (number, _) = text.split_once(' ').expect("a number");
                numbers.push(number.parse().expect("a number"));
            }
            Packet::PubRel(rel) => reader.send(&Packet::PubComp(ack(rel.packet_id))).await,
            Packet::PingResp => return numbers,
            other => panic!("no message but {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_to_a_node_that_takes_none_are_bounded_and_all_come_once_it_does() {
    let pair = Pair::start().await;
    let mut all = readers(&pair.second, "t", QoS::AtLeastOnce).await;
    all.extend(readers(&pair.second, "t", QoS::ExactlyOnce).await);
    let mut publisher = pair.first.clean("publisher").await;
    pair.second_takes_no_letters.store(true, Ordering::SeqCst);

    let payload = "x".repeat(PAYLOAD_BYTES);
    let bytes = "tidewire_broker_deliveries_bytes";
    for number in 0..MESSAGES {
        let text = format!("{number} {payload}");
        publisher.publish("t", QoS::ExactlyOnce, &text).await;
        let waiting = pair.first.metric(bytes).await;
        assert!(waiting < DELIVERIES_BYTES + BEYOND_BYTES, "{waiting}");
    }
    let held = "tidewire_broker_deliveries_held_total";
    let leads = pair.first.metric("tidewire_member_leads").await;
    let full = pair.first.metric(bytes).await;
    assert!(full > 0 && leads > 1, "{full} bytes of {leads} shards");
    pair.first.until(held, |times| times > 0).await;
    let waiting = pair.first.metric(bytes).await;
    assert!(waiting >= DELIVERIES_BYTES, "{waiting}");

    pair.second_takes_no_letters.store(false, Ordering::SeqCst);
    for reader in &mut all {
        let expected: Vec<usize> = (0..MESSAGES).collect();
        assert_eq!(numbers(reader).await, expected);
    }
    pair.first.until(bytes, |left| left == 0).await;
    drop((all, publisher));
    pair.stop().await;
}
