//! The measurements of telemetry, in runs too short for their figures to mean anything.

use serde_json::Value;
use xtask::kafka::{Cluster, or_skip};

use super::node::{Place, run, tidewire};

/// The one object that a measurement ends with.
fn measured(arguments: &[&str]) -> Value {
    let (ended, stdout, stderr) = run(tidewire().arg("bench").args(arguments).arg("--json"));
    assert_eq!(ended, Some(0), "stdout: {stdout}\nstderr: {stderr}");
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    serde_json::from_str(&stdout).expect("one object")
}

#[test]
fn the_pipeline_stores_what_it_acknowledges_and_says_what_it_used() {
    let place = Place::new();
    let folder = place.data();
    std::fs::create_dir_all(&folder).expect("a folder");

    let report = measured(&[
        "pipeline",
        "--connections",
        "4",
        "--for",
        "1s",
        "--head-age-max",
        "200ms",
        "--folder",
        folder.to_str().expect("UTF-8"),
    ]);

    assert_eq!(report["stored"], report["acked"]);
    assert!(
        report["acked"].as_u64().is_some_and(|points| points > 0),
        "{report}"
    );
    assert!(
        report["seals"].as_u64().is_some_and(|seals| seals > 0),
        "{report}"
    );
    let threads = report["node"]["threads"].as_array().expect("threads");
    for thread in ["io-0", "store-writer", "log-writer", "tsdb-merge"] {
        assert!(
            threads.iter().any(|one| one["name"] == thread),
            "{thread} in {report}"
        );
    }
    let left = std::fs::read_dir(&folder)
        .expect("the folder stays")
        .count();
    assert_eq!(left, 0, "the node's data is removed");
}

#[test]
fn the_pipeline_through_kafka_reads_back_what_it_acknowledges() {
    let Some(jars) = or_skip() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let kafka = Cluster::start(&jars, folder.path(), 1, &[]).expect("Kafka starts");

    let report = measured(&[
        "pipeline",
        "--kafka",
        &kafka.bootstrap(),
        "--connections",
        "4",
        "--for",
        "1s",
        "--head-age-max",
        "200ms",
    ]);

    assert_eq!(report["payload_bytes"], 256.0, "{report}");
    let lines = report["lines"].as_array().expect("runs");
    assert_eq!(lines.len(), 4, "{report}");
    for line in lines {
        assert!(line["acked"].as_u64() > Some(0), "{line}");
        assert!(line["acked_per_core_s"].as_f64() > Some(0.0), "{line}");
        let is_kafka = line["name"] != "embedded log and the store";
        let has_sender = line["threads_ns"].get("kafka-sender").is_some();
        assert_eq!(has_sender, is_kafka, "{line}");
    }
    assert_eq!(lines[0]["processed"], Value::Null, "{report}");
    assert_eq!(lines[1]["processed"], lines[1]["acked"], "{report}");
}

#[test]
fn a_surge_that_the_store_may_not_follow_piles_up_in_kafka_and_goes() {
    let Some(jars) = or_skip() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let kafka = Cluster::start(&jars, folder.path(), 1, &[]).expect("Kafka starts");
    let out = folder.path().join("out");

    let (ended, stdout, stderr) = run(tidewire().args([
        "bench",
        "surge",
        "--kafka",
        &kafka.bootstrap(),
        "--devices",
        "100",
        "--rate",
        "800",
        "--hold",
        "100",
        "--for",
        "3s",
        "--json",
        "--out",
        out.to_str().expect("UTF-8"),
    ]));

    let report: Value = serde_json::from_str(&stdout).expect("one object");
    let violations = report["violations"].as_array().expect("a list");
    assert_eq!(
        ended,
        Some(i32::from(!violations.is_empty())),
        "{report}\n{stderr}"
    );
    // How much piles up is a matter of how fast the machine is; nothing else is.
    let of_speed = |one: &&Value| {
        one.as_str()
            .is_some_and(|text| text.contains("the surge was none"))
    };
    let violations: Vec<_> = violations.iter().filter(|one| !of_speed(one)).collect();
    assert_eq!(violations, [&Value::Null; 0], "{report}");
    assert!(report["lag_peak"].as_u64() > Some(0), "{report}");
    assert_eq!(report["stored"], report["sent"], "{report}");
    for file in ["surge.md", "surge.json", "surge.png"] {
        assert!(out.join(file).is_file(), "{file}");
    }
}

#[test]
fn the_density_of_the_standard_fleet_is_within_its_goal() {
    let report = measured(&["density", "--devices", "3"]);

    let blocks = &report["sets"][0]["encodings"][0]["bytes_per_point"];
    assert!(
        blocks.as_f64().is_some_and(|bytes| bytes <= 0.62),
        "{report}"
    );
}

#[test]
fn three_nodes_say_what_they_carry_and_what_bounds_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("page.md");

    let report = measured(&[
        "cluster",
        "--only",
        "p2p,connects,crossing",
        "--pairs",
        "9",
        "--rate",
        "50",
        "--for",
        "1s",
        "--connections",
        "30",
        "--folder",
        folder.path().to_str().expect("UTF-8"),
        "--markdown",
        page.to_str().expect("UTF-8"),
    ]);

    let figures = report["figures"].as_array().expect("figures");
    for figure in figures {
        assert!(figure["value"].as_f64() > Some(0.0), "{figure} in {report}");
        let limit = figure["limit"].as_str().expect("what bounds it");
        assert!(
            limit.contains("nodes") && limit.contains("generator"),
            "{figure}"
        );
    }
    for case in ["p2p", "connects", "crossing"] {
        assert!(
            figures.iter().any(|one| one["case"] == case),
            "{case}: {report}"
        );
    }
    let text = std::fs::read_to_string(&page).expect("the page is written");
    assert!(
        text.contains("| p2p | 9 durable pairs, QoS 1, 1 in flight each: messages per second |")
    );
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .expect("the folder stays")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(left, ["page.md"], "the nodes' data is removed");
}

#[test]
fn the_cost_of_a_message_is_that_of_all_nodes() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("page.md");

    let report = measured(&[
        "cost",
        "--nodes",
        "1,2",
        "--pairs",
        "4",
        "--pair-rate",
        "40",
        "--devices",
        "4",
        "--device-rate",
        "40",
        "--for",
        "1s",
        "--folder",
        folder.path().to_str().expect("UTF-8"),
        "--markdown",
        page.to_str().expect("UTF-8"),
    ]);

    let costs = report["costs"].as_array().expect("costs");
    let sizes: Vec<_> = costs.iter().map(|cost| cost["nodes"].as_u64()).collect();
    assert_eq!(sizes, [Some(1), Some(2), Some(1), Some(2)], "{report}");
    for cost in costs {
        let each = cost["nodes_cpu_s"].as_array().expect("each node");
        assert_eq!(Some(each.len() as u64), cost["nodes"].as_u64(), "{report}");
        assert!(cost["messages"].as_u64() > Some(30), "{report}");
        assert!(cost["cpu_s_per_million"].as_f64() > Some(0.0), "{report}");
    }
    // Nothing was measured on three and on five.
    assert!(report["holds"].is_null(), "{report}");
    let text = std::fs::read_to_string(&page).expect("the page is written");
    assert!(text.contains("| durable pairs | 2 |"), "{text}");
}
