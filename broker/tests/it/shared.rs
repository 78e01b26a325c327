//! Shared subscriptions: one member of a group gets each message, and none is lost with a member.

use std::collections::BTreeSet;
use std::time::Duration;

use mqtt::{Packet, Publish, QoS, ReasonCode, Unsubscribe};

use crate::harness::{
    Client, Dial, TestNode, ack, config, options, publish, soon, start, start_again, subscribe,
};

const SHARED: &str = "$share/g/t/#";

async fn publish_all(node: &TestNode, numbers: std::ops::Range<u32>) {
    let mut publisher = node.clean("publisher").await;
    for number in numbers {
        let text = number.to_string();
        publisher.publish("t/1", QoS::AtLeastOnce, &text).await;
    }
    publisher.leave(ReasonCode::Success).await;
}

/// The next PUBLISH to any of two, acknowledged, and whose it was.
async fn next_of(one: &mut Client, other: &mut Client) -> (usize, Publish) {
    let (at, packet) = tokio::select! {
        packet = one.next() => (0, packet),
        packet = other.next() => (1, packet),
    };
    let Some(Packet::Publish(publish)) = packet else {
        panic!("no PUBLISH but {packet:?}");
    };
    let acked = Packet::PubAck(ack(publish.packet_id.expect("QoS 1")));
    [one, other][at].send(&acked).await;
    (at, publish)
}

fn number(publish: &Publish) -> u32 {
    let text = std::str::from_utf8(&publish.payload).expect("a text");
    text.parse().expect("a number")
}

async fn unsubscribe(client: &mut Client, filters: &[&str]) -> Vec<ReasonCode> {
    let packet_id = client.take_id();
    let filters = filters.iter().map(|f| (*f).try_into().expect("a filter"));
    let packet = Packet::Unsubscribe(Box::new(Unsubscribe {
        packet_id,
        filters: filters.collect(),
        user_properties: Vec::new(),
    }));
    client.send(&packet).await;
    client.reasons().await
}

/// The reason of the PUBACK: whether anybody wanted it.
async fn wanted(client: &mut Client, topic: &str) -> bool {
    let mut message = publish(topic, QoS::AtLeastOnce, "wanted?");
    message.packet_id = Some(client.take_id());
    client.send(&Packet::Publish(message)).await;
    match client.packet().await {
        Packet::PubAck(ack) => ack.reason == ReasonCode::Success,
        other => panic!("no PUBACK but {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_share_what_is_published_each_message_once() {
    let node = start(config()).await;
    for (first, second) in [
        (Dial::v5("a"), Dial::v5("b")),
        (Dial::v5("c").persistent(), Dial::v311("d").persistent()),
        (Dial::v311("e"), Dial::v5("f").persistent()),
    ] {
        let (mut a, _) = node.connect(first).await;
        let (mut b, _) = node.connect(second).await;
        a.subscribe(SHARED, QoS::AtLeastOnce).await;
        b.subscribe(SHARED, QoS::AtLeastOnce).await;
        publish_all(&node, 0..100).await;

        let (mut got, mut counts) = (BTreeSet::new(), [0; 2]);
        while got.len() < 100 {
            let (at, publish) = next_of(&mut a, &mut b).await;
            assert!(!publish.dup);
            assert!(got.insert(number(&publish)), "{publish:?} came twice");
            counts[at] += 1;
        }
        assert!(counts.iter().all(|count| *count >= 20), "{counts:?}");
        for client in [&mut a, &mut b] {
            unsubscribe(client, &[SHARED]).await;
        }
        let mut publisher = node.clean("publisher").await;
        assert!(!wanted(&mut publisher, "t/1").await, "nobody is left");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_member_had_goes_to_the_other() {
    let node = start(config()).await;
    for dial in [Dial::v5("a"), Dial::v5("b").persistent(), Dial::v311("c")] {
        let (mut lost, _) = node.connect(dial).await;
        lost.subscribe(SHARED, QoS::AtLeastOnce).await;
        publish_all(&node, 0..10).await;
        for expected in 0..10 {
            assert_eq!(number(&lost.publication().await), expected);
        }
        let (mut other, _) = node.connect(Dial::v5("other").persistent()).await;
        other.subscribe(SHARED, QoS::AtLeastOnce).await;
        drop(lost);
        for expected in 0..10 {
            let publish = other.publication().await;
            assert_eq!((number(&publish), publish.dup), (expected, true));
            let id = publish.packet_id.expect("QoS 1");
            other.send(&Packet::PubAck(ack(id))).await;
        }
        unsubscribe(&mut other, &[SHARED]).await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_suback_on_nothing_is_missed() {
    let node = start(config()).await;
    let mut publisher = node.clean("publisher").await;
    for at in 0..20 {
        let (mut member, _) = node.connect(Dial::v5(&format!("m{at}"))).await;
        let (shared, own) = (format!("$share/g{at}/s/{at}"), format!("o/{at}"));
        // Of a clean session the shard has one, the router the other.
        let filters = [
            (&*own, options(QoS::ExactlyOnce)),
            (&*shared, options(QoS::ExactlyOnce)),
        ];
        let packet = subscribe(member.take_id(), &filters);
        member.send(&packet).await;
        let granted = [ReasonCode::GrantedQoS2, ReasonCode::GrantedQoS1];
        assert_eq!(member.reasons().await, granted);
        for (topic, text) in [(format!("s/{at}"), "shared"), (own.clone(), "own")] {
            publisher.publish(&topic, QoS::AtLeastOnce, text).await;
            assert_eq!(member.text().await, text);
        }
        let never = ReasonCode::NoSubscriptionExisted;
        let reasons = unsubscribe(&mut member, &["s", &shared, &own]).await;
        assert_eq!(reasons, [never, ReasonCode::Success, ReasonCode::Success]);
        assert!(!wanted(&mut publisher, &format!("s/{at}")).await);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qos_0_and_members_of_qos_0_store_nothing() {
    let node = start(config()).await;
    let mut a = node.clean("a").await;
    a.subscribe(SHARED, QoS::AtMostOnce).await;
    let mut publisher = node.clean("publisher").await;
    publisher.publish("t/1", QoS::AtMostOnce, "0").await;
    assert_eq!(a.text().await, "0");
    publisher.publish("t/1", QoS::ExactlyOnce, "2").await;
    let publish = a.publication().await;
    assert_eq!((publish.qos, publish.packet_id), (QoS::AtMostOnce, None));
    a.subscribe(SHARED, QoS::AtLeastOnce).await;
    publisher.publish("t/1", QoS::AtMostOnce, "1").await;
    assert_eq!(a.publication().await.qos, QoS::AtMostOnce);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_and_its_group_both_get_a_message() {
    let mut one_shard = config();
    one_shard.cluster.shards = 1;
    let node = start(one_shard).await;
    let (mut a, _) = node.connect(Dial::v5("a").persistent()).await;
    a.subscribe(SHARED, QoS::AtLeastOnce).await;
    a.subscribe("t/1", QoS::AtLeastOnce).await;
    a.subscribe("t/#", QoS::AtLeastOnce).await;
    publish_all(&node, 0..5).await;
    let mut texts = Vec::new();
    for _ in 0..10 {
        texts.push(a.text().await);
    }
    texts.sort();
    let expected: Vec<String> = (0..10).map(|n| (n / 2).to_string()).collect();
    assert_eq!(texts, expected);
    // The route of t/# is both the session's and the group's.
    unsubscribe(&mut a, &["t/#", "t/1"]).await;
    publish_all(&node, 5..6).await;
    assert_eq!(a.text().await, "5");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_and_its_queue_are_there_after_a_restart() {
    let flushing = || {
        let mut config = config();
        config.memory_bytes_limit = Some(1 << 20);
        config.cluster.state_flush_age = Duration::from_millis(50);
        config
    };
    let node = start(flushing()).await;
    let (mut member, _) = node.connect(Dial::v5("member").persistent()).await;
    member.subscribe(SHARED, QoS::AtLeastOnce).await;
    let mut clean = node.clean("clean").await;
    clean.subscribe(SHARED, QoS::AtLeastOnce).await;
    clean.subscribe("$share/h/t/1", QoS::AtLeastOnce).await;
    member.leave(ReasonCode::Success).await;
    clean.leave(ReasonCode::Success).await;
    publish_all(&node, 0..50).await;
    let folder = node.stop().await;

    let node = start_again(flushing(), folder).await;
    publish_all(&node, 50..60).await;
    let (mut member, present) = node.connect(Dial::v5("member").persistent()).await;
    assert!(present);
    let mut got = BTreeSet::new();
    while got.len() < 60 {
        got.insert(number(&soon("a message", member.publication()).await));
    }
    node.stop().await;
}
