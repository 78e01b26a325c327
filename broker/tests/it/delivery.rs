//! From publisher to subscriber.

use mqtt::{Packet, QoS, ReasonCode, SubscribeOptions};

use tokio::io::AsyncWriteExt;

use crate::harness::{ALL_QOS, Client, Dial, TestNode, ack, config, options, publish, start};

/// Takes a delivery through its whole exchange.
async fn take(client: &mut Client) -> (QoS, String) {
    let publish = client.publication().await;
    match (publish.qos, publish.packet_id) {
        (QoS::AtLeastOnce, Some(id)) => client.send(&Packet::PubAck(ack(id))).await,
        (QoS::ExactlyOnce, Some(id)) => {
            client.send(&Packet::PubRec(ack(id))).await;
            let answer = client.packet().await;
            assert_eq!(answer, Packet::PubRel(ack(id)));
            client.send(&Packet::PubComp(ack(id))).await;
        }
        _ => {}
    }
    let text = String::from_utf8(publish.payload.to_vec()).expect("text");
    (publish.qos, text)
}

async fn dial(node: &TestNode, id: &str, persistent: bool) -> Client {
    let dial = match persistent {
        true => Dial::v5(id).persistent(),
        false => Dial::v5(id),
    };
    node.connect(dial).await.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_qos_reaches_clean_and_persistent_sessions_on_any_thread() {
    for io_threads in [1, 2] {
        let mut config = config();
        config.io_threads = io_threads;
        let node = start(config).await;
        let mut subscribers = Vec::new();
        for (id, persistent) in [("c1", false), ("c2", false), ("p1", true), ("p2", true)] {
            let mut client = dial(&node, id, persistent).await;
            client.subscribe("a/+", QoS::ExactlyOnce).await;
            subscribers.push(client);
        }
        for (id, persistent) in [("from-clean", false), ("from-persistent", true)] {
            let mut publisher = dial(&node, id, persistent).await;
            for qos in ALL_QOS {
                publisher
                    .publish("a/b", qos, &format!("{id} {qos:?}"))
                    .await;
                for subscriber in &mut subscribers {
                    let expected = (qos, format!("{id} {qos:?}"));
                    assert_eq!(take(subscriber).await, expected);
                }
            }
        }
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_of_a_publisher_holds_per_topic_and_qos() {
    let node = start(config()).await;
    let mut subscribers = Vec::new();
    for (id, persistent) in [("c1", false), ("c2", false), ("p1", true), ("p2", true)] {
        let mut client = dial(&node, id, persistent).await;
        client.subscribe("order/#", QoS::AtLeastOnce).await;
        subscribers.push(client);
    }
    let mut publisher = node.clean("publisher").await;
    for number in 0..200 {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            publisher.publish("order/t", qos, &number.to_string()).await;
        }
    }
    for subscriber in &mut subscribers {
        let (mut zero, mut one) = (Vec::new(), Vec::new());
        while zero.len() + one.len() < 400 {
            let (qos, text) = take(subscriber).await;
            let of = if qos == QoS::AtMostOnce {
                &mut zero
            } else {
                &mut one
            };
            of.push(text.parse::<u32>().expect("a number"));
        }
        assert_eq!(zero, (0..200).collect::<Vec<_>>());
        assert_eq!(one, (0..200).collect::<Vec<_>>());
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_filters_give_one_copy_at_the_highest_qos() {
    let node = start(config()).await;
    for persistent in [false, true] {
        let mut client = dial(&node, "one", persistent).await;
        for (filter, qos) in [("x/#", QoS::AtMostOnce), ("x/+", QoS::AtLeastOnce)] {
            client.subscribe(filter, qos).await;
        }
        let mut publisher = node.clean("publisher").await;
        publisher.publish("x/y", QoS::AtLeastOnce, "first").await;
        publisher.publish("x/y", QoS::AtLeastOnce, "second").await;
        assert_eq!(take(&mut client).await, (QoS::AtLeastOnce, "first".into()));
        assert_eq!(take(&mut client).await, (QoS::AtLeastOnce, "second".into()));
        client.leave(ReasonCode::Success).await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_local_spares_the_publisher_its_own_messages() {
    let node = start(config()).await;
    for persistent in [false, true] {
        let mut client = dial(&node, "self", persistent).await;
        let no_local = SubscribeOptions {
            no_local: true,
            ..options(QoS::AtLeastOnce)
        };
        client.subscribe_with("own/#", no_local).await;
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            client.publish("own/t", qos, "mine").await;
        }
        let mut other = node.clean("other").await;
        other.publish("own/t", QoS::AtLeastOnce, "theirs").await;
        assert_eq!(take(&mut client).await.1, "theirs");
        client.leave(ReasonCode::Success).await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_heard_again_and_again_without_any_mailbox_message() {
    let node = start(config()).await;
    let mut client = node.clean("quiet").await;
    for _ in 0..50 {
        client.ping().await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_publishes_behind_its_connect_and_leaves_at_once_is_served() {
    let node = start(config()).await;
    let mut subscriber = node.clean("subscriber").await;
    subscriber.subscribe("left/#", QoS::AtMostOnce).await;
    for round in 0..20 {
        let (name, text) = (format!("leaver-{round}"), round.to_string());
        let dial = match round % 2 {
            0 => Dial::v5(&name),
            _ => Dial::v311(&name).persistent(),
        };
        let mut leaver = node.socket(dial.0.version).await;
        // All of it, and the end of the stream, lie there before the node reads.
        let bytes = leaver.encode(&[
            dial.packet(),
            Packet::Publish(publish("left/t", QoS::AtMostOnce, &text)),
            Packet::Disconnect(Box::default()),
        ]);
        leaver.raw(&bytes).await;
        leaver.socket.shutdown().await.expect("it is open");
        assert_eq!(take(&mut subscriber).await, (QoS::AtMostOnce, text));
    }
    node.stop().await;
}
