//! Retained messages.

use mqtt::{QoS, ReasonCode, RetainHandling, SubscribeOptions};

use crate::harness::{ALL_QOS, Client, Dial, config, options, publish, start};

async fn retain(publisher: &mut Client, topic: &str, qos: QoS, payload: &str) {
    let mut publish = publish(topic, qos, payload);
    publish.retain = true;
    publisher.publish_as(publish).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_subscription_gets_what_is_retained_and_not_what_was_cleared() {
    let node = start(config()).await;
    let mut publisher = node.clean("publisher").await;
    for (number, qos) in ALL_QOS.into_iter().enumerate() {
        retain(&mut publisher, &format!("r/{number}"), qos, "old").await;
        retain(
            &mut publisher,
            &format!("r/{number}"),
            qos,
            &format!("kept {number}"),
        )
        .await;
    }
    retain(&mut publisher, "r/cleared", QoS::AtLeastOnce, "x").await;
    retain(&mut publisher, "r/cleared", QoS::AtLeastOnce, "").await;
    for (id, dial) in [("c", Dial::v5("c")), ("p", Dial::v5("p").persistent())] {
        let (mut client, _) = node.connect(dial).await;
        client.subscribe("r/1", QoS::AtLeastOnce).await;
        let exact = client.publication().await;
        assert!(exact.retain, "{id}: {exact:?}");
        assert_eq!(&exact.payload[..], b"kept 1");
        client
            .send(&mqtt::Packet::PubAck(crate::harness::ack(
                exact.packet_id.expect("QoS 1"),
            )))
            .await;
        client.subscribe("r/#", QoS::AtLeastOnce).await;
        let mut texts = Vec::new();
        for _ in 0..3 {
            texts.push(client.text().await);
        }
        texts.sort();
        assert_eq!(texts, ["kept 0", "kept 1", "kept 2"], "{id}");
        // Nothing of the cleared topic comes behind them.
        publisher.publish("r/live", QoS::AtLeastOnce, "live").await;
        let live = client.publication().await;
        assert_eq!((&live.payload[..], live.retain), (&b"live"[..], false));
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retain_handling_decides_whether_retained_messages_are_sent() {
    let node = start(config()).await;
    let mut publisher = node.clean("publisher").await;
    retain(&mut publisher, "h/t", QoS::AtLeastOnce, "kept").await;
    for dial in [Dial::v5("c"), Dial::v5("p").persistent()] {
        let (mut client, _) = node.connect(dial).await;
        let with = |retain_handling| SubscribeOptions {
            retain_handling,
            ..options(QoS::AtMostOnce)
        };
        client
            .subscribe_with("h/+", with(RetainHandling::DoNotSend))
            .await;
        client
            .subscribe_with("h/+", with(RetainHandling::SendIfNew))
            .await;
        publisher.publish("h/t", QoS::AtLeastOnce, "live").await;
        assert_eq!(client.text().await, "live");
        client
            .subscribe_with("h/+", with(RetainHandling::Send))
            .await;
        assert_eq!(client.text().await, "kept");
        client
            .subscribe_with("h/t", with(RetainHandling::SendIfNew))
            .await;
        assert_eq!(client.text().await, "kept");
        client.leave(ReasonCode::Success).await;
    }
    node.stop().await;
}
