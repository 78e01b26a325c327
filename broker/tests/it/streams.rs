//! What stream rules ask of clients.

use mqtt::{QoS, ReasonCode, Version};
use tidewire_broker::Config;

use crate::harness::{Client, Dial, TestNode, config, options, publish, soon, start, subscribe};

const POLICIES: [&str; 3] = ["allow", "qos0", "deny"];

/// A node whose stream rules are the text's.
async fn node_with(streams: &str) -> TestNode {
    let parsed: Config = toml::from_str(streams).expect("each key is known");
    let mut config = config();
    config.no_telemetry = false;
    config.telemetry.streams = parsed.telemetry.streams;
    start(config).await
}

/// One stream for each policy, named after it, on `<policy>/+/t`.
async fn node_of_policies() -> TestNode {
    let rule = |policy: &&str| {
        format!(
            "[[telemetry.streams]]\nname = '{policy}'\nfilter = '{policy}/+/t'\n\
             persistent_subscribers = '{policy}'\n"
        )
    };
    node_with(&POLICIES.iter().map(rule).collect::<String>()).await
}

/// What was counted of allowed, lowered and denied subscriptions.
async fn counted(node: &TestNode) -> [u64; 3] {
    let mut counts = [0; 3];
    for (count, what) in counts.iter_mut().zip(["allowed", "lowered", "denied"]) {
        let name = format!("tidewire_broker_stream_subscriptions_{what}_total");
        *count = node.metric(&name).await;
    }
    counts
}

/// Subscribes with QoS 1 to a filter under each policy, and to one under none.
async fn subscribe_to_all(client: &mut Client) -> Vec<ReasonCode> {
    let filters = ["allow/#", "qos0/#", "deny/#", "cmd/#"];
    let filters = filters.map(|filter| (filter, options(QoS::AtLeastOnce)));
    let packet = subscribe(client.take_id(), &filters);
    client.send(&packet).await;
    client.reasons().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_persistent_subscriber_of_a_stream_gets_what_its_rule_says() {
    let node = node_of_policies().await;
    for (version, failure, times) in [
        (Version::V5, ReasonCode::NotAuthorized, 1),
        (Version::V311, ReasonCode::UnspecifiedError, 2),
    ] {
        let dial = || match version {
            Version::V5 => Dial::v5("p5").persistent(),
            Version::V311 => Dial::v311("p3").persistent(),
        };
        let (mut client, _) = node.connect(dial()).await;

        let reasons = subscribe_to_all(&mut client).await;

        let (one, zero) = (ReasonCode::GrantedQoS1, ReasonCode::Success);
        assert_eq!(reasons, [one, zero, failure, one], "{version:?}");
        assert_eq!(counted(&node).await, [times; 3]);
        // Online, what was granted QoS 0 comes with it, and what was denied does not come.
        let mut publisher = node.clean("publisher").await;
        for policy in POLICIES {
            let topic = format!("{policy}/d/t");
            publisher.publish(&topic, QoS::AtLeastOnce, policy).await;
        }
        publisher.publish("cmd/x", QoS::AtLeastOnce, "cmd").await;
        let mut came = Vec::new();
        for _ in 0..3 {
            let publication = client.publication().await;
            if let Some(id) = publication.packet_id {
                let ack = mqtt::Packet::PubAck(crate::harness::ack(id));
                client.send(&ack).await;
            }
            came.push((publication.topic.to_string(), publication.qos));
        }
        came.sort();
        let expected = [
            ("allow/d/t", QoS::AtLeastOnce),
            ("cmd/x", QoS::AtLeastOnce),
            ("qos0/d/t", QoS::AtMostOnce),
        ];
        assert_eq!(came, expected.map(|(topic, qos)| (topic.to_owned(), qos)));
        client.ping().await;

        // Offline, only what was granted QoS 1 waits.
        client.leave(ReasonCode::Success).await;
        for policy in POLICIES {
            let topic = format!("{policy}/d/t");
            publisher.publish(&topic, QoS::AtLeastOnce, "later").await;
        }
        publisher.publish("cmd/x", QoS::AtLeastOnce, "later").await;
        let (mut client, present) = node.connect(dial()).await;
        assert!(present);
        for expected in ["allow/d/t", "cmd/x"] {
            let publication = client.publication().await;
            assert_eq!(&*publication.topic, expected);
            let id = publication.packet_id.expect("QoS 1");
            let ack = mqtt::Packet::PubAck(crate::harness::ack(id));
            client.send(&ack).await;
        }
        client.ping().await;
        client.leave(ReasonCode::Success).await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clean_sessions_subscribe_to_streams_as_they_like() {
    let node = node_of_policies().await;
    for dial in [Dial::v5("c5"), Dial::v311("c3")] {
        let (mut client, _) = node.connect(dial).await;

        let reasons = subscribe_to_all(&mut client).await;

        assert_eq!(reasons, [ReasonCode::GrantedQoS1; 4]);
    }
    assert_eq!(counted(&node).await, [0; 3]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscribe_ahead_of_connack_is_judged_too() {
    let node = node_of_policies().await;
    let mut client = node.socket(Version::V311).await;
    let filters = [("deny/#", options(QoS::ExactlyOnce))];
    let packets = [
        Dial::v311("hasty").persistent().packet(),
        subscribe(client.take_id(), &filters),
    ];

    let bytes = client.encode(&packets);
    client.raw(&bytes).await;

    client.connack().await;
    assert_eq!(client.reasons().await, [ReasonCode::UnspecifiedError]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qos_2_under_a_stream_is_served_and_counted_outside_class_critical() {
    let node = node_with(
        "[[telemetry.streams]]
         name = 'alarms'
         filter = 'alarm/+'
         class = 'critical'
         [[telemetry.streams]]
         name = 'rest'
         filter = 'rest/+'
         class = 'bulk'",
    )
    .await;
    let mut client = node.clean("device").await;

    for topic in ["alarm/a", "rest/a", "elsewhere/a"] {
        client.publish(topic, QoS::ExactlyOnce, "1").await;
        client.publish(topic, QoS::AtLeastOnce, "1").await;
    }

    assert_eq!(node.metric("tidewire_broker_stream_qos2_total").await, 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_id_may_be_the_device_of_messages_and_wills() {
    let node = node_with(
        "[[telemetry.streams]]
         name = 'gateways'
         filter = 'site/#'
         key = '{client_id}'",
    )
    .await;
    let now_ms = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_millis();
    let row = |metric: &str| format!(r#"{{"ts":{now_ms},"metrics":{{"{metric}":1}}}}"#);
    let mut dial = Dial::v5("plant/7").will("site/7/gone", false, None);
    if let Some(will) = &mut dial.0.will {
        will.payload = row("by_will").into();
    }
    let (mut client, _) = node.connect(dial).await;

    client
        .publish_as(publish("site/7/x/y", QoS::AtLeastOnce, &row("by_publish")))
        .await;
    drop(client);

    // Nobody is told when a will is stored.
    let both = async {
        loop {
            let (status, body) = node.get("/v1/query/plant%2F7?from=-15m").await;
            assert_eq!(status, 200, "{body}");
            if body.contains("by_publish") && body.contains("by_will") {
                return;
            }
        }
    };
    soon("the will beside the message", both).await;
    node.stop().await;
}
