//! What an operator asks of the bridge, with the embedded log.

use std::sync::Arc;

use admin::bridge::{DeadLetters, Lag, Payload, Reading, Replay, Replayed, Status};
use mqtt::QoS;
use serde::de::DeserializeOwned;

use crate::harness::{TestNode, config, soon, start};

const TOPIC: &str = "fleet/car/telemetry";

async fn node() -> TestNode {
    let mut config = config();
    config.no_telemetry = false;
    start(config).await
}

async fn get<T: DeserializeOwned>(node: &TestNode, path: &str) -> T {
    let (status, body) = node.get(path).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("the answer is of its type")
}

async fn replay(node: &TestNode, asked: &Replay) -> (u16, String) {
    let body = serde_json::to_string(asked).expect("JSON");
    node.post("/v1/bridge/dlq/replay", &body).await
}

async fn replayed(node: &TestNode, asked: &Replay) -> Replayed {
    let (status, body) = replay(node, asked).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("the answer is of its type")
}

fn of_reason(reason: &str, limit: usize, after: Option<String>) -> Replay {
    Replay::Reason {
        reason: reason.to_owned(),
        limit: Some(limit),
        after,
    }
}

/// Publishes what is no telemetry and waits until each is a dead letter.
async fn with_letters(node: &TestNode, payloads: &[&[u8]]) -> DeadLetters {
    let mut device = node.clean("device").await;
    for payload in payloads {
        let mut publish = crate::harness::publish(TOPIC, QoS::AtLeastOnce, "");
        publish.payload = payload.to_vec().into();
        device.publish_as(publish).await;
    }
    letters(node, payloads.len()).await
}

/// Waits until there are so many letters.
async fn letters(node: &TestNode, count: usize) -> DeadLetters {
    let looking = async {
        loop {
            let found: DeadLetters = get(node, "/v1/bridge/dlq").await;
            assert_eq!(found.partial, None);
            if found.letters.len() >= count {
                return found;
            }
        }
    };
    let found = soon("the dead letters", looking).await;
    assert_eq!(found.letters.len(), count, "{found:?}");
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_lag_say_how_the_embedded_log_stands() {
    let node = node().await;
    let mut device = node.clean("device").await;
    let row = r#"{"metrics":{"battery":1}}"#;
    for _ in 0..3 {
        device.publish(TOPIC, QoS::AtLeastOnce, row).await;
    }
    node.until("tidewire_telemetry_processed_messages_total", |n| n == 3)
        .await;

    let caught_up = async {
        loop {
            let lag: Lag = get(&node, "/v1/bridge/lag").await;
            if lag.total == 0 {
                return lag;
            }
        }
    };
    let lag = soon("no lag", caught_up).await;
    let status: Status = get(&node, "/v1/bridge").await;

    assert_eq!(lag.partitions.len(), 64);
    let positions: Vec<u64> = lag.partitions.iter().map(|one| one.position).collect();
    assert_eq!(
        (positions.iter().max(), positions.iter().sum()),
        (Some(&3), 3_u64)
    );
    assert!(lag.spooled.is_empty());
    assert_eq!(status.trouble, Vec::<String>::new());
    assert_eq!(status.kafka, None);
    let log = status.log.expect("it is embedded");
    assert_eq!(
        (log.partitions, log.records, log.unread_records),
        (64, 3, 0)
    );
    assert!(log.disk_bytes > 0);
    assert_eq!(status.store.source.as_deref(), Some("log"));
    assert_eq!(status.store.reading, Reading::Reading);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_is_replayed_and_fails_again_is_a_new_letter() {
    let node = node().await;
    let found = with_letters(&node, &[b"{no telemetry"]).await;
    let old = &found.letters[0];
    assert_eq!((&*old.reason, &*old.device), ("unparsable", "car"));
    assert_eq!((old.topic.as_deref(), old.offset), (None, Some(0)));
    assert_eq!(old.payload, Payload::Text("{no telemetry".to_owned()));

    let id = old.id.clone();
    let answer = replayed(&node, &Replay::Letter { id }).await;

    assert_eq!(
        (answer.replayed, answer.unsettled, answer.refused),
        (1, 0, 0)
    );
    let found = letters(&node, 2).await;
    let [new, same] = &found.letters[..] else {
        panic!("two letters");
    };
    assert_eq!(same, old, "the letter stays");
    assert_eq!(new.offset, Some(1), "it passed the log again");
    let strip = |one: &admin::bridge::DeadLetter| {
        (
            one.device.clone(),
            one.received_ms,
            one.payload.clone(),
            one.reason.clone(),
        )
    };
    assert_eq!(strip(new), strip(old));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reason_is_replayed_page_by_page_each_letter_once() {
    let node = node().await;
    let far = br#"{"ts":1,"metrics":{"battery":1}}"#;
    let payloads: [&[u8]; 5] = [b"1{", b"2{", b"\xff{", far, b"4{"];
    with_letters(&node, &payloads).await;

    let unparsable: DeadLetters = get(&node, "/v1/bridge/dlq?reason=unparsable&limit=3").await;
    assert_eq!((unparsable.letters.len(), unparsable.remaining), (3, 1));
    let binary = Payload::Base64("/3s=".to_owned());
    assert!(unparsable.letters.iter().any(|one| one.payload == binary));

    let first = replayed(&node, &of_reason("unparsable", 3, None)).await;
    assert_eq!((first.replayed, first.remaining), (3, 1));
    assert_eq!(first.next, unparsable.next);
    letters(&node, 5 + 3).await;
    let second = replayed(&node, &of_reason("unparsable", 3, first.next)).await;
    assert_eq!(
        (second.replayed, second.remaining, second.next),
        (1, 0, None)
    );

    // Each of the four came once more, and nothing else did.
    let found = letters(&node, 5 + 4).await;
    let mut offsets: Vec<_> = found.letters.iter().map(|one| one.offset).collect();
    offsets.sort_unstable();
    assert_eq!(offsets, (0..9).map(Some).collect::<Vec<_>>());
    let times = found.letters.iter().filter(|one| one.reason == "time");
    assert_eq!(times.count(), 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_meant_is_named_and_changes_nothing() {
    let node = node().await;
    for (query, named) in [
        ("limit=0", "limit"),
        ("limit=1001", "1001"),
        ("reason=boredom", "boredom"),
        ("after=yesterday", "yesterday"),
        ("before=x", "before"),
    ] {
        let (status, body) = node.get(&format!("/v1/bridge/dlq?{query}")).await;
        assert_eq!(status, 400, "{body}");
        assert!(body.contains(named), "{body}");
    }
    let letter = |id: &str| Replay::Letter { id: id.to_owned() };
    for (asked, expected, named) in [
        (letter("node:1"), 400, "node:1"),
        (letter("node:0:7"), 404, "node:0:7"),
        (letter("node:999:0"), 404, "node:999:0"),
        (letter("kafka:0:0"), 404, "kafka:0:0"),
        (of_reason("boredom", 1, None), 400, "boredom"),
    ] {
        let (status, body) = replay(&node, &asked).await;
        assert_eq!(status, expected, "{body}");
        assert!(body.contains(named), "{body}");
    }
    let (status, body) = node.post("/v1/bridge/pause", r#"{"paused":true}"#).await;
    assert_eq!(status, 409, "{body}");
    assert!(body.contains("no Kafka"), "{body}");
    let (status, body) = node.post("/v1/bridge/pause", r#"{"pause":1}"#).await;
    assert_eq!(status, 400, "{body}");
    // A foreign page can make a browser send a form, never JSON.
    let form = "Content-Type: text/plain";
    let (status, _) = node
        .send("POST", "/v1/bridge/pause", form, "{\"paused\":true}")
        .await;
    assert_eq!(status, 415);
    assert_eq!(
        node.metric("tidewire_telemetry_accepted_messages_total")
            .await,
        0
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_telemetry_has_no_bridge() {
    let node = start(config()).await;
    for path in ["/v1/bridge", "/v1/bridge/lag", "/v1/bridge/dlq"] {
        assert_eq!(node.get(path).await.0, 404, "{path}");
    }
    let (status, _) = node.post("/v1/bridge/pause", r#"{"paused":true}"#).await;
    assert_eq!(status, 404);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replays_at_one_time_are_refused_or_counted_apart() {
    let node = Arc::new(node().await);
    with_letters(&node, &[b"{"]).await;
    let asked = of_reason("unparsable", 1_000, None);
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (node, asked) = (Arc::clone(&node), asked.clone());
            tokio::spawn(async move { replay(&node, &asked).await })
        })
        .collect();
    let mut sent = 0;
    for task in tasks {
        let (status, body) = soon("an answer", task).await.expect("no panic");
        assert!(status == 200 || status == 409, "{status} {body}");
        if status == 200 {
            let answer: Replayed = serde_json::from_str(&body).expect("its type");
            assert_eq!((answer.unsettled, answer.refused), (0, 0));
            sent += answer.replayed;
        }
    }
    assert!(sent >= 1);
    let accepted = node.metric("tidewire_telemetry_accepted_messages_total");
    assert_eq!(accepted.await, 1 + sent);
}
