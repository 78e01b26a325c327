//! The folder of a stopped node is read without a change.

use std::path::Path;
use std::sync::Arc;

use runtime::ManualClock;
use storage::fs::RealFs;
use tidewire_bridge::{QueryRequest, StoppedNode, Telemetry};

use crate::harness::{Line, NOW_MS, message, small};

/// Every file with its bytes, but for the locks.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("lists") {
        let path = entry.expect("lists").path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if !path.ends_with("LOCK") {
            files.push((
                path.display().to_string(),
                std::fs::read(&path).expect("reads"),
            ));
        }
    }
    files.sort();
    files
}

#[tokio::test]
async fn sealed_rows_and_those_only_in_the_log_are_answered_and_nothing_is_changed() {
    let data = tempfile::tempdir().expect("a folder");
    let line = |telemetry| {
        let clock = ManualClock::at(NOW_MS as u64);
        Line::of(telemetry, clock, Arc::default())
    };
    let clock = Arc::new(ManualClock::at(NOW_MS as u64));
    let on_fatal: tidewire_bridge::OnFatal = Arc::new(|fatal| panic!("{fatal}"));
    let line = line(
        Telemetry::open(data.path(), Arc::new(RealFs), clock, small(), on_fatal)
            .await
            .expect("the line opens"),
    );
    line.send("car", &message(NOW_MS, &[("a", 1.0)])).await;
    line.telemetry.seal().await;
    line.send("car", &message(NOW_MS + 1, &[("a", 2.0)])).await;
    line.telemetry.shutdown().await;
    std::fs::write(data.path().join("node.json"), r#"{"buckets":4}"#).expect("writes");
    std::fs::write(
        data.path().join("tsdb/segment-00000000000000ff.tws"),
        "torn",
    )
    .expect("writes");
    let before = files(data.path());

    let request = QueryRequest {
        device: "car".to_owned(),
        metrics: Vec::new(),
        from_ms: NOW_MS,
        to_ms: NOW_MS + 10,
        step_ms: None,
        limit: 10,
    };
    let node = StoppedNode::open(data.path()).expect("the folder opens");
    let answer = node.query(&request).expect("the store answers");
    drop(node);

    let times: Vec<_> = answer.rows.iter().map(|row| row.ts).collect();
    assert_eq!(times, [NOW_MS, NOW_MS + 1]);
    assert!(files(data.path()) == before, "the folder was changed");
}
