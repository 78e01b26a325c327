//! What a caller of the line sees.

use std::sync::{Arc, Mutex};

use storage::fs::FaultFs;
use tidewire_bridge::{Config, Outcome, OutletId, Port, Ticket};

use crate::harness::{Line, NOW_MS, message, message_at, row, small};

#[tokio::test]
async fn a_durable_message_is_read_back_at_once() {
    let line = Line::open(&FaultFs::new(1), small()).await;

    let outcome = line
        .send("car42", &message(NOW_MS, &[("battery", 81.5)]))
        .await;

    assert_eq!(outcome, Outcome::Durable);
    assert_eq!(
        line.rows("car42").await,
        [row(NOW_MS, &[("battery", 81.5)])]
    );
    assert_eq!(line.rows("car43").await, []);
}

#[tokio::test]
async fn rows_survive_a_seal_a_merge_and_a_restart() {
    let fs = FaultFs::new(2);
    let mut expected = Vec::new();
    let line = Line::open(&fs, small()).await;
    for round in 0..8 {
        for n in 0..10 {
            let ts = NOW_MS + round * 10 + n;
            line.send("car", &message(ts, &[("n", n as f64)])).await;
            expected.push(row(ts, &[("n", n as f64)]));
        }
        line.telemetry.seal().await;
    }
    line.merged(small().merge_fan_in).await;
    line.telemetry.shutdown().await;
    drop(line);

    let line = Line::open(&fs, small()).await;

    assert_eq!(line.rows("car").await, expected);
    let store = line.telemetry.tsdb_status();
    assert_eq!(store.levels.iter().map(|level| level.rows).sum::<u64>(), 80);
    assert!(
        store.levels.iter().any(|level| level.level > 0),
        "{store:?}"
    );
    assert!(store.merged_bytes_per_point.is_some());
}

#[tokio::test]
async fn what_comes_again_is_counted_and_stored_once() {
    let line = Line::open(&FaultFs::new(3), small()).await;
    let sent = message(NOW_MS, &[("a", 1.0), ("b", 2.0)]);
    line.send("car", &sent).await;
    line.send("car", &sent).await;
    line.telemetry.seal().await;
    line.send("car", &sent).await;
    line.send("car", &message(NOW_MS, &[("a", 1.0), ("c", 3.0)]))
        .await;

    assert_eq!(
        line.rows("car").await,
        [row(NOW_MS, &[("a", 1.0), ("b", 2.0), ("c", 3.0)])]
    );

    let status = line.telemetry.status();
    assert_eq!((status.stored_points, status.duplicate_points), (3, 5));
    assert_eq!(status.stored_rows, 1);
}

#[tokio::test]
async fn of_two_values_the_higher_stamp_wins_until_it_is_sealed() {
    let line = Line::open(&FaultFs::new(4), small()).await;
    line.send_at("car", &message(NOW_MS, &[("a", 2.0)]), NOW_MS + 5)
        .await;
    line.send_at("car", &message(NOW_MS, &[("a", 1.0)]), NOW_MS)
        .await;
    assert_eq!(line.rows("car").await, [row(NOW_MS, &[("a", 2.0)])]);
    line.telemetry.seal().await;

    line.send_at("car", &message(NOW_MS, &[("a", 3.0)]), NOW_MS + 9)
        .await;

    assert_eq!(line.rows("car").await, [row(NOW_MS, &[("a", 2.0)])]);
    assert_eq!(
        line.telemetry.status().dead_letters.get("conflict"),
        Some(&1)
    );
}

#[tokio::test]
async fn the_head_is_sealed_when_it_is_old() {
    let line = Line::open(&FaultFs::new(5), small()).await;
    line.send("car", &message(NOW_MS, &[("a", 1.0)])).await;
    assert_eq!(line.rows("car").await.len(), 1);
    assert_eq!(line.telemetry.status().seals, 0);

    line.clock.advance_ms(60_000);
    // The seal that is asked for finds nothing left when age was first.
    line.telemetry.seal().await;

    assert_eq!(line.telemetry.status().seals, 1);
    assert_eq!(line.telemetry.tsdb_status().head_rows, 0);
}

#[tokio::test]
async fn the_head_is_sealed_when_it_is_large() {
    let line = Line::open(
        &FaultFs::new(6),
        Config {
            head_bytes_limit: 2_000,
            ..small()
        },
    )
    .await;
    for n in 0..200 {
        line.send("car", &message(NOW_MS + n, &[("a", n as f64)]))
            .await;
    }

    assert_eq!(line.rows("car").await.len(), 200);
    assert!(
        line.telemetry.status().seals >= 2,
        "{:?}",
        line.telemetry.status()
    );
}

#[tokio::test]
async fn a_batch_beyond_the_limit_in_flight_comes_back_and_room_is_announced() {
    let fs = FaultFs::new(7);
    let line = Line::open(
        &fs,
        Config {
            inflight_bytes_limit: 1,
            ..small()
        },
    )
    .await;
    let ingest = line.telemetry.ingest();
    let payloads: Vec<bytes::Bytes> = (0..3)
        .map(|n| bytes::Bytes::from(message(NOW_MS + n, &[("a", 1.0)])))
        .collect();
    let messages: Vec<_> = payloads
        .iter()
        .map(|payload| message_at("car", payload, NOW_MS))
        .collect();
    // The log's thread is held in the first settlement, so what comes after it stays in flight.
    let (hold, held) = std::sync::mpsc::sync_channel::<()>(0);
    let (enter, entered) = std::sync::mpsc::sync_channel(1);
    let port = ingest.port(Arc::new(HeldPort {
        enter,
        held: Mutex::new(held),
    }));
    let mut first = ingest.batch(OutletId(0), port);
    let ticket = Ticket {
        kind: 0,
        words: [0, 0],
    };
    first.push(&messages[0], Some(ticket));
    ingest.submit(first).expect("an empty line has room");
    entered.recv().expect("it is settled");
    let (second, second_outcome) = line.batch(&messages[..1]);
    ingest.submit(second).expect("the first is not in flight");

    let (batch, outcome) = line.batch(&messages);
    let refused = ingest.submit(batch).expect_err("one byte is the limit");
    // As a connection does: hold it, and submit it when there is room.
    let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
    let told = Box::new(move || ready.send(()).expect("the test waits"));
    ingest.notify_ready(OutletId(0), refused.batch.bytes(), told);
    hold.send(()).expect("the log's thread waits");
    is_ready.recv().expect("room is announced");
    assert_eq!(refused.batch.len(), 3);
    ingest.submit(refused.batch).expect("there is room now");

    assert_eq!(second_outcome.await, Ok(Outcome::Durable));
    assert_eq!(outcome.await, Ok(Outcome::Durable));
    assert_eq!(line.rows("car").await.len(), 3);
}

/// Says that something is settled, and holds the thread that settles until the test lets go.
struct HeldPort {
    enter: std::sync::mpsc::SyncSender<()>,
    held: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Port for HeldPort {
    fn settled(&self, _: Outcome, _: Vec<Ticket>) {
        self.enter.send(()).expect("the test waits");
        let held = self.held.lock().expect("nobody panics with it");
        held.recv().expect("the test lets go");
    }
}

#[tokio::test]
async fn another_number_of_buckets_is_refused_by_name() {
    let fs = FaultFs::new(8);
    Line::open(&fs, small()).await.telemetry.shutdown().await;

    let refused = Line::try_open(
        &fs,
        Config {
            buckets: 5,
            ..small()
        },
        Default::default(),
    )
    .await;

    let text = refused.err().expect("refused").to_string();
    assert!(text.contains("4 buckets, not 5"), "{text}");
}

#[tokio::test]
async fn after_a_shutdown_nothing_is_taken() {
    let line = Line::open(&FaultFs::new(9), small()).await;
    line.telemetry.shutdown().await;
    let payload = bytes::Bytes::from_static(b"{}");

    let refused = line.submit(&[message_at("car", &payload, NOW_MS)]);

    assert_eq!(
        refused.expect_err("closed").reason,
        tidewire_bridge::RefusedReason::Stopped
    );
}
