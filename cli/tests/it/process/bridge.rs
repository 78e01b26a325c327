//! `tidewire ctl bridge` against a node with the embedded log: what it prints, and how it ends.

use serde_json::Value;

use super::node::{Place, run, tidewire};
use super::wait::until;
use super::wire::{V5, Wire};

/// Runs `ctl bridge` with the words and returns exit code, standard output and standard error.
pub(crate) fn bridge(place: &Place, words: &str) -> (Option<i32>, String, String) {
    let admin = format!("http://{}", place.admin);
    let mut command = tidewire();
    command.args(["ctl", "--admin", &admin, "bridge"]);
    run(command.args(words.split_whitespace()))
}

/// The same with `--output json`, which must end with 0.
pub(crate) fn json(place: &Place, words: &str) -> Value {
    let (code, stdout, stderr) = bridge(place, &format!("{words} --output json"));
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stdout.lines().count(), 1, "one line: {stdout}");
    serde_json::from_str(&stdout).expect("JSON")
}

pub(crate) fn publish(place: &Place, payload: &[u8]) {
    let mut device = Wire::connect(place.mqtt, V5, "car42").expect("the node serves");
    device
        .publish_acked(V5, "fleet/car42/telemetry", 1, payload)
        .expect("the node serves");
}

/// Waits until so many letters are listed and returns them.
fn letters(place: &Place, count: usize) -> Vec<Value> {
    until("the dead letters", || {
        let found = json(place, "dlq list");
        let letters = found["letters"].as_array().expect("a list").clone();
        (letters.len() == count).then_some(letters)
    })
}

#[test]
fn status_and_lag_of_the_embedded_log_are_good() {
    let place = Place::new();
    let _node = place.start();
    publish(&place, br#"{"metrics":{"battery":1}}"#);
    until("the store to have caught up", || {
        (json(&place, "lag")["total"] == 0).then_some(())
    });

    let (code, stdout, stderr) = bridge(&place, "status");
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert!(
        stdout.contains("embedded: 64 partitions, 1 records"),
        "{stdout}"
    );
    let status = json(&place, "status");
    assert_eq!(status["trouble"], serde_json::json!([]));
    assert_eq!(status["kafka"], Value::Null);

    let (code, stdout, _) = bridge(&place, "lag");
    assert_eq!((code, &*stdout), (Some(0), "total lag: 0\n"));
    let (code, stdout, _) = bridge(&place, "lag --all");
    assert_eq!((code, stdout.lines().count()), (Some(0), 1 + 64 + 1));
}

#[test]
fn without_kafka_there_is_nothing_to_pause() {
    let place = Place::new();
    let _node = place.start();
    for word in ["pause", "resume", "pause --dry-run"] {
        let (code, stdout, stderr) = bridge(&place, word);
        assert_eq!((code, &*stdout), (Some(1), ""), "{stderr}");
        assert!(stderr.contains("no Kafka"), "{stderr}");
    }
}

#[test]
fn a_dead_letter_is_listed_and_replayed_by_its_id_and_by_its_reason() {
    let place = Place::new();
    let _node = place.start();
    let (code, stdout, _) = bridge(&place, "dlq list");
    assert_eq!((code, &*stdout), (Some(0), "no dead letters\n"));
    publish(&place, b"{\x1b[2J");

    let found = letters(&place, 1);
    assert_eq!(found[0]["reason"], "unparsable");
    assert_eq!(found[0]["payload"]["text"], "{\u{1b}[2J");
    let (code, stdout, _) = bridge(&place, "dlq list");
    assert_eq!(code, Some(0));
    assert!(
        stdout.contains("car42") && !stdout.contains('\u{1b}'),
        "{stdout}"
    );

    let id = found[0]["id"].as_str().expect("an id");
    let (code, stdout, stderr) = bridge(&place, &format!("dlq replay {id}"));
    assert_eq!((code, &*stdout), (Some(0), "replayed   1\n"), "{stderr}");
    letters(&place, 2);
    let would = json(&place, "dlq replay --reason unparsable --dry-run");
    assert_eq!(would["letters"].as_array().map(Vec::len), Some(2));
    let answer = json(&place, "dlq replay --reason unparsable");
    assert_eq!(
        (&answer["replayed"], &answer["remaining"]),
        (&2.into(), &0.into())
    );
    letters(&place, 4);

    let (code, stdout, stderr) = bridge(&place, "dlq list --limit 3 --output json");
    assert_eq!(code, Some(0));
    let page: Value = serde_json::from_str(&stdout).expect("JSON");
    let next = page["next"].as_str().expect("one is left");
    assert!(
        stderr.contains(&format!("1 more; go on with --after {next}")),
        "{stderr}"
    );
    let rest = json(&place, &format!("dlq list --after {next}"));
    assert_eq!(rest["letters"].as_array().map(Vec::len), Some(1));
}

#[test]
fn what_cannot_be_meant_ends_with_2_and_what_is_not_there_with_1() {
    let place = Place::new();
    for words in [
        "dlq replay",
        "dlq replay node:0:0 --reason time",
        "dlq list --limit 0",
        "dlq list --limit 1001",
        "speed",
    ] {
        let (code, stdout, stderr) = bridge(&place, words);
        assert_eq!((code, &*stdout), (Some(2), ""), "{words}: {stderr}");
    }
    let (code, _, stderr) = bridge(&place, "status");
    assert_eq!(code, Some(4), "{stderr}");

    let _node = place.start();
    for (words, expected, named) in [
        ("dlq replay node:0", 2, "node:0"),
        ("dlq replay node:0:0", 1, "node:0:0"),
        ("dlq replay --reason boredom", 2, "boredom"),
        ("dlq list --reason boredom", 2, "boredom"),
        ("dlq list --after boredom", 2, "boredom"),
    ] {
        let (code, stdout, stderr) = bridge(&place, words);
        assert_eq!((code, &*stdout), (Some(expected), ""), "{words}: {stderr}");
        assert!(stderr.contains(named), "{words}: {stderr}");
    }
}
