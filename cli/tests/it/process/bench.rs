//! The measurements of telemetry, in runs too short for their figures to mean anything.

use serde_json::Value;

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
fn the_density_of_the_standard_fleet_is_within_its_goal() {
    let report = measured(&["density", "--devices", "3"]);

    let blocks = &report["sets"][0]["encodings"][0]["bytes_per_point"];
    assert!(
        blocks.as_f64().is_some_and(|bytes| bytes <= 0.62),
        "{report}"
    );
}
