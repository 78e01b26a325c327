//! The demo and its check, as the README promises them.

use std::fs;
use std::path::Path;

use serde_json::Value;
use xtask::kafka::{Cluster, Tool, or_skip};

use super::node::{Place, run, tidewire};
use super::store;
use super::wait::until;

/// Runs a short demo in `data` and returns its JSON line.
fn demo(data: &Path) -> Value {
    let mut demo = tidewire();
    demo.args(["demo", "--devices", "50", "--for", "5s", "--json", "--data"])
        .arg(data);
    let (code, stdout, stderr) = run(&mut demo);
    assert_eq!(code, Some(0), "{stdout}\n{stderr}");
    last_json(&stdout)
}

#[test]
fn the_demo_through_kafka_loses_nothing_when_its_node_is_killed() {
    let Some(jars) = or_skip() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let kafka = Cluster::start(&jars, folder.path(), 1, &[]).expect("Kafka starts");
    let data = folder.path().join("demo");

    let mut demo = tidewire();
    demo.args(["demo", "--devices", "20", "--for", "4s", "--kill", "--json"])
        .args(["--kafka", &kafka.bootstrap(), "--data"])
        .arg(&data);
    let (code, stdout, stderr) = run(&mut demo);

    assert_eq!(code, Some(0), "{stdout}\n{stderr}");
    let report = last_json(&stdout);
    for count in ["lost", "duplicates", "unacked"] {
        assert_eq!(report[count], 0, "{report}");
    }
    assert!(report["reconnects"].as_u64() >= Some(20), "{report}");
    // It went through Kafka, not through a log of the node's own.
    let record = fs::read_to_string(data.join("demo.json")).expect("a record");
    let record: Value = serde_json::from_str(&record).expect("JSON");
    let topic = record["kafka"]["topic"].as_str().expect("a topic");
    let topics = kafka.tool(Tool::Topics, &["--list"]).expect("an answer");
    assert!(topics.lines().any(|line| line == topic), "{topics}");
    assert_eq!(check(&data), (Some(0), report));
}

#[test]
fn three_nodes_through_kafka_lose_nothing_when_one_is_killed() {
    let Some(jars) = or_skip() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let kafka = Cluster::start(&jars, folder.path(), 1, &[]).expect("Kafka starts");
    let data = folder.path().join("demo");

    let mut demo = tidewire();
    demo.args(["demo", "--nodes", "3", "--devices", "30", "--for", "8s"])
        .args(["--kill", "--json", "--kafka", &kafka.bootstrap(), "--data"])
        .arg(&data);
    let (code, stdout, stderr) = run(&mut demo);

    // Each device has one store, and all stores have been asked through all nodes.
    assert_eq!(code, Some(0), "{stdout}\n{stderr}");
    let report = last_json(&stdout);
    for count in ["lost", "duplicates", "unacked"] {
        assert_eq!(report[count], 0, "{report}");
    }
    assert_eq!(report["cluster"]["lost_in_answers"], 0, "{report}");
    assert_eq!(report["stored"], report["acked"], "{report}");
    assert_eq!(check(&data), (Some(0), report));
}

#[test]
fn three_nodes_lose_nothing_when_the_one_that_leads_meta_is_killed() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let data = folder.path().join("demo");

    let mut demo = tidewire();
    demo.args(["demo", "--nodes", "3", "--devices", "30", "--for", "8s"])
        .args(["--kill", "--json", "--data"])
        .arg(&data);
    let (code, stdout, stderr) = run(&mut demo);

    assert_eq!(code, Some(0), "{stdout}\n{stderr}");
    let report = last_json(&stdout);
    for count in ["lost", "duplicates", "unacked"] {
        assert_eq!(report[count], 0, "{report}");
    }
    assert_eq!(report["stored"], report["acked"], "{report}");
    assert_eq!(report["nodes"], 3);
    // Its ten devices went elsewhere.
    assert!(report["reconnects"].as_u64() >= Some(10), "{report}");
    let cluster = &report["cluster"];
    assert!(cluster["killed"].as_u64() > Some(0), "{report}");
    for seconds in ["led_again_s", "ready_again_s"] {
        assert!(cluster[seconds].as_f64() > Some(0.0), "{seconds}: {report}");
    }
    let sessions = &cluster["sessions"];
    assert!(sessions["acked"].as_u64() > Some(0), "{report}");
    for count in ["lost", "out_of_order", "sessions_missing"] {
        assert_eq!(sessions[count], 0, "{report}");
    }
    // Those of the killed node, and those that go away on purpose.
    assert!(sessions["reconnects"].as_u64() >= Some(4), "{report}");
    for said in [
        "3 of 3 nodes serve; shards led: node 1 ",
        "0 of 32 under-replicated",
        "meta led by node ",
        "killed with SIGKILL",
        "2 of 3 nodes serve",
        "32 of 32 under-replicated",
    ] {
        assert!(stderr.contains(said), "{said:?} was not shown: {stderr}");
    }
    assert_eq!(check(&data), (Some(0), report));
}

#[test]
fn the_check_of_three_nodes_names_a_row_that_one_of_them_lacks_or_has_twice() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let data = folder.path().join("demo");
    let mut demo = tidewire();
    demo.args(["demo", "--nodes", "3", "--devices", "30", "--for", "3s"])
        .args(["--json", "--data"])
        .arg(&data);
    let (code, stdout, stderr) = run(&mut demo);
    assert_eq!(code, Some(0), "{stdout}\n{stderr}");

    let doubled = folder.path().join("doubled");
    copy(&data, &doubled);
    let row = store::double_a_row(&doubled.join("node-3"));
    let (code, report) = check(&doubled);
    assert_eq!(code, Some(1), "{report}");
    assert!(report["duplicates"].as_u64() > Some(0), "{report}");
    assert!(names(&report, &row), "{row:?} is not named: {report}");

    let row = store::remove_a_row(&data.join("node-2"));
    let (code, report) = check(&data);
    assert_eq!(code, Some(1), "{report}");
    assert!(report["lost"].as_u64() > Some(0), "{report}");
    assert!(names(&report, &row), "{row:?} is not named: {report}");
}

fn check(data: &Path) -> (Option<i32>, Value) {
    let (code, stdout, _) = run(tidewire().args(["demo", "--json", "--check"]).arg(data));
    (code, last_json(&stdout))
}

fn last_json(stdout: &str) -> Value {
    let last = stdout.lines().last().expect("the last line is the report");
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {last}"))
}

#[test]
fn the_demo_loses_nothing_and_stores_nothing_twice() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");

    let report = demo(&folder.path().join("demo"));

    for count in ["lost", "duplicates", "unacked"] {
        assert_eq!(report[count], 0, "{report}");
    }
    assert_eq!(report["stored"], report["acked"], "{report}");
    assert!(
        report["acked"].as_u64() >= Some(50 * 5 * 20 / 2),
        "50 devices sent for 5 s: {report}"
    );
    assert!(
        report["resent"].as_u64() > Some(0),
        "some messages are sent again on purpose: {report}"
    );
    assert!(
        report["late"].as_u64() > Some(0),
        "one device backfills: {report}"
    );
    assert_eq!(report["nodes"], 1);
    assert_eq!(report["devices"], 50);
    for figure in ["published", "points_per_s", "p99_ms"] {
        assert!(report[figure].as_f64() > Some(0.0), "{figure}: {report}");
    }
}

#[test]
fn the_check_names_a_row_that_was_removed_and_one_that_was_doubled() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let data = folder.path().join("demo");
    demo(&data);
    seal_everything(&data.join("node-1"));
    let (code, report) = check(&data);
    assert_eq!(code, Some(0), "an untouched folder passes: {report}");

    let removed = folder.path().join("removed");
    copy(&data, &removed);
    let row = store::remove_a_row(&removed);
    let (code, report) = check(&removed);
    assert_eq!(code, Some(1), "{report}");
    assert!(report["lost"].as_u64() > Some(0), "{report}");
    assert!(names(&report, &row), "{row:?} is not named: {report}");

    let doubled = folder.path().join("doubled");
    copy(&data, &doubled);
    assert_eq!(store::points_twice(&doubled), [""; 0]);
    let row = store::double_a_row(&doubled);
    assert_ne!(
        store::points_twice(&doubled),
        [""; 0],
        "the kill test counts them too"
    );
    let (code, report) = check(&doubled);
    assert_eq!(code, Some(1), "{report}");
    assert!(report["duplicates"].as_u64() > Some(0), "{report}");
    assert!(names(&report, &row), "{row:?} is not named: {report}");
}

/// Lets a node move all rows into segments, where a test can get at them.
fn seal_everything(data: &Path) {
    let place = Place::with_data(data).with_config("[telemetry]\nhead_age_max = \"100ms\"\n");
    let node = place.start();
    until("every row to be sealed", || {
        let status: Value =
            serde_json::from_str(&node.get("/v1/tsdb")).expect("the answer is JSON");
        let read = status["pipeline"]["lag"]
            .as_object()
            .is_some_and(serde_json::Map::is_empty);
        (read && status["store"]["head_rows"] == 0).then_some(())
    });
    node.terminate();
    assert_eq!(node.ended().code(), Some(0));
}

/// Whether a violation in `report` names the row's device and time.
fn names(report: &Value, row: &store::Row) -> bool {
    let violations = report["violations"]
        .as_array()
        .expect("the report lists violations");
    violations
        .iter()
        .any(|violation| violation["device"] == row.device && violation["time"] == row.time)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("the temporary folder can be written");
    for entry in fs::read_dir(from).expect("the demo's folder can be listed") {
        let entry = entry.expect("the demo's folder can be listed");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).expect("a file of the demo can be copied");
        }
    }
}
