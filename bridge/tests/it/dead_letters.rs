//! What cannot be stored is kept with the reason, once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use storage::fs::FaultFs;
use storage::log::{Config, EmbeddedLog, Start};
use tidewire_bridge::{DeadLetter, DeadLetterReason, Outcome};

use crate::harness::{FOLDER, Line, NOW_MS, message, row, small};

/// Reads the dead-letter log of a stopped line.
fn letters(fs: &FaultFs) -> Vec<DeadLetter> {
    let config = Config {
        partitions: small().buckets,
        ..Config::default()
    };
    let folder = Path::new(FOLDER).join("dlq");
    let log = EmbeddedLog::open(Arc::new(fs.clone()), &folder, config, |fatal| {
        panic!("{fatal}")
    })
    .expect("the log opens");
    let start = |partition| Start {
        partition,
        offset: log.start(partition),
        incarnation: None,
    };
    let mut consumer = log.consumer();
    consumer
        .assign((0..small().buckets).map(start).collect())
        .expect("all is there");
    let mut letters = Vec::new();
    let records: u64 = log.ends().iter().sum();
    while (letters.len() as u64) < records {
        let polled = consumer
            .poll(1 << 20, Duration::from_secs(1))
            .expect("the log is whole");
        letters.extend(
            polled
                .iter()
                .map(|r| DeadLetter::decode(&r.record).expect("decodes")),
        );
    }
    letters
}

#[tokio::test]
async fn a_payload_that_is_no_json_is_kept_whole() {
    let fs = FaultFs::new(1);
    let line = Line::open(&fs, small()).await;

    assert_eq!(line.send("car", "not json").await, Outcome::Durable);

    assert_eq!(line.rows("car").await, []);
    assert_eq!(
        line.telemetry.status().dead_letters.get("unparsable"),
        Some(&1)
    );
    line.telemetry.shutdown().await;
    let letters = letters(&fs);
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].reason, DeadLetterReason::Unparsable);
    assert_eq!(
        (&letters[0].device[..], &letters[0].payload[..]),
        (&b"car"[..], &b"not json"[..])
    );
}

#[tokio::test]
async fn a_metric_that_is_no_number_is_named_and_the_others_are_stored() {
    let fs = FaultFs::new(2);
    let line = Line::open(&fs, small()).await;
    let payload = format!("{{\"ts\":{NOW_MS},\"metrics\":{{\"a\":1,\"state\":\"on\"}}}}");

    line.send("car", &payload).await;

    assert_eq!(line.rows("car").await, [row(NOW_MS, &[("a", 1.0)])]);
    line.telemetry.shutdown().await;
    let letters = letters(&fs);
    assert_eq!(letters[0].reason, DeadLetterReason::RejectedMetric);
    assert!(letters[0].text.contains("\"state\""), "{}", letters[0].text);
    assert_eq!(&letters[0].payload[..], payload.as_bytes());
}

#[tokio::test]
async fn a_time_in_seconds_is_never_stored() {
    let line = Line::open(&FaultFs::new(3), small()).await;

    line.send("car", &message(NOW_MS / 1000, &[("a", 1.0)]))
        .await;
    line.send("car", "{\"metrics\":{\"a\":1}}").await;

    assert_eq!(line.rows("car").await, []);
    assert_eq!(line.telemetry.status().dead_letters.get("time"), Some(&2));
}

#[tokio::test]
async fn a_replay_keeps_no_letter_twice() {
    let fs = FaultFs::new(4);
    let line = Line::open(&fs, small()).await;
    line.send("car", "one").await;
    line.send("car", "two").await;
    assert_eq!(line.rows("car").await, []);
    // Nothing was sealed, so the next start reads both again.
    line.telemetry.shutdown().await;
    drop(line);
    let line = Line::open(&fs, small()).await;
    line.send("car", "three").await;
    assert_eq!(line.rows("car").await, []);
    assert_eq!(line.telemetry.status().processed_messages, 3);
    line.telemetry.shutdown().await;

    let kept: Vec<_> = letters(&fs)
        .into_iter()
        .map(|letter| letter.payload)
        .collect();

    assert_eq!(kept, ["one", "two", "three"]);
}
