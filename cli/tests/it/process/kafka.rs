//! A real Kafka under a real node, and what happens when Kafka, a broker of it, or the node dies.
//!
//! Outages last a few seconds here; `TIDEWIRE_TEST_OUTAGE_S=20` makes them as long as one wants to see them.

mod devices;
mod leaders;
mod topic;

use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use xtask::kafka::{Cluster, Jars, or_skip};
use xtask::skip::{outside, python};

use super::bridge::{bridge, publish};
use super::node::{Node, Place};
use super::rows;
use super::store;
use super::wait::{pause_for, until};
use devices::{Device, Fleet};
use leaders::Leaders;

const DEVICES: usize = 20;

/// Seconds of an outage.
const OUTAGE: &str = "TIDEWIRE_TEST_OUTAGE_S";

/// A broker that was killed is let in again only once Kafka takes its old process for dead: by default after 9 s, which
/// would make every outage that much longer.
const QUICK_SESSIONS: [(&str, &str); 2] = [
    ("broker.session.timeout.ms", "3000"),
    ("broker.heartbeat.interval.ms", "500"),
];

/// How long a PUBACK may wait. A Kafka that starts again on a busy machine may be away for longer than by default, and
/// then connections would be closed; who sets the outage wants to see the default.
fn settle_deadline() -> &'static str {
    match std::env::var_os(OUTAGE) {
        Some(_) => "30s",
        None => "300s",
    }
}

/// A Kafka and a place for a node that uses it.
struct Line {
    jars: Jars,
    kafka: Cluster,
    place: Place,
    _folder: TempDir,
}

impl Line {
    /// None after the test was reported as skipped.
    fn new(brokers: u8, mode: &str) -> Option<Self> {
        let jars = or_skip()?;
        let folder = tempfile::tempdir().expect("a folder");
        let kafka = Cluster::start(&jars, folder.path(), brokers, &QUICK_SESSIONS);
        let kafka = kafka.expect("Kafka starts");
        let config = format!(
            "[kafka]\nbootstrap = \"{}\"\n\n\
             [mqtt]\nsettle_deadline = \"{}\"\n\n\
             [telemetry]\nhead_age_max = \"2s\"\nblock_rows = 16\n\n\
             [[telemetry.streams]]\nmode = \"{mode}\"\n",
            kafka.bootstrap(),
            settle_deadline(),
        );
        Some(Self {
            jars,
            kafka,
            place: Place::new().with_config(&config),
            _folder: folder,
        })
    }

    /// Waits until Kafka has taken everything and the store has read it, then compares all three with what was sent.
    fn check(&self, node: Node<'_>, fleet: &Fleet) {
        until("the store to have read and sealed everything", || {
            let status: Value = serde_json::from_str(&node.get("/v1/tsdb")).expect("JSON");
            let lag = status["pipeline"]["lag"].as_object().expect("by partition");
            (lag.is_empty() && status["store"]["head_rows"] == 0).then_some(())
        });
        for device in fleet.devices() {
            until("an answer that is whole", || {
                device.is_answer_whole(&node).then_some(())
            });
            device.assert_stored(&node);
        }
        assert_eq!(node.metric("tidewire_telemetry_dead_letters_total"), 0.0);
        node.terminate();
        assert_eq!(node.ended().code(), Some(0));
        let sent = fleet.devices().map(Device::sent).sum();
        let topic = topic::read(
            &self.jars,
            &self.kafka.bootstrap(),
            "tidewire.telemetry",
            sent,
        );
        for device in fleet.devices() {
            device.assert_in_order(topic.get(device.id()).map_or(&[][..], Vec::as_slice));
        }
        assert_eq!(store::points_twice(&self.place.data()), [""; 0]);
    }
}

/// A node in contact with Kafka, and devices whose messages it acknowledges; waits begin to count now.
fn flowing(place: &Place) -> (Node<'_>, Fleet) {
    let node = place.start();
    in_contact(&node);
    let fleet = Fleet::start(place.mqtt, DEVICES);
    fleet.wait_for_acks(2_000);
    fleet.forget_waits();
    (node, fleet)
}

fn now() -> String {
    format!(r#"{{"ts":{},"metrics":{{"n":1}}}}"#, rows::ms_now())
}

fn outage() -> Duration {
    let seconds = std::env::var(OUTAGE);
    Duration::from_secs(seconds.map_or(8, |text| text.parse().expect("seconds")))
}

/// What `ctl bridge lag` says, also while the node is degraded: leaders of a topic that was just created move.
fn lag(place: &Place) -> Value {
    let (code, stdout, stderr) = bridge(place, "lag --output json");
    assert!(matches!(code, Some(0 | 3)), "{code:?}: {stderr}");
    serde_json::from_str(&stdout).expect("JSON")
}

/// Waits until Kafka takes the node's streams.
fn in_contact(node: &Node<'_>) {
    until("the node to be in contact with Kafka", || {
        node.log().contains("Kafka takes the stream").then_some(())
    });
}

#[test]
fn kafka_killed_for_a_while_holds_up_no_puback_of_mode_log_for_long() {
    let Some(mut line) = Line::new(1, "log") else {
        return;
    };
    let (node, mut fleet) = flowing(&line.place);

    line.kafka.kill(1).expect("it runs");
    let killed = Instant::now();
    // Acknowledged by the spool: they come although Kafka is away.
    fleet.wait_for_acks(2_000);
    pause_for(outage().saturating_sub(killed.elapsed()));
    line.kafka.restart(1).expect("it starts again");
    let away = killed.elapsed();
    fleet.wait_for_acks(4_000);
    let report = fleet.stop();

    eprintln!("mode log, Kafka away for {away:?}: {report}");
    assert_eq!(report.disconnects, 0);
    until("the log to tell the outage and its end", || {
        let log = node.log();
        let away = log.find("Kafka is away: the spool takes over")?;
        log[away..].contains("Kafka is back").then_some(())
    });
    line.check(node, &fleet);
}

#[test]
fn kafka_killed_for_a_while_stops_every_puback_of_mode_kafka() {
    let Some(mut line) = Line::new(1, "kafka") else {
        return;
    };
    let (node, mut fleet) = flowing(&line.place);

    line.kafka.kill(1).expect("it runs");
    // What Kafka had confirmed before may still be on its way to the devices.
    pause_for(Duration::from_secs(1));
    let acked = fleet.acked();
    pause_for(outage().saturating_sub(Duration::from_secs(1)));
    assert_eq!(fleet.acked(), acked, "a PUBACK left while Kafka was dead");
    line.kafka.restart(1).expect("it starts again");
    fleet.wait_for_acks(4_000);
    let report = fleet.stop();

    eprintln!("mode kafka: {report}");
    assert_eq!(report.disconnects, 0);
    line.check(node, &fleet);
}

#[test]
fn kafka_dead_while_the_node_dies_loses_nothing_and_keeps_the_order() {
    let Some(mut line) = Line::new(1, "log") else {
        return;
    };
    let (node, mut fleet) = flowing(&line.place);

    line.kafka.kill(1).expect("it runs");
    fleet.wait_for_acks(2_000);
    pause_for(outage() / 2);
    node.kill_9();
    // The node starts, is ready and spools without ever having met Kafka.
    let node = line.place.start();
    fleet.wait_for_acks(2_000);
    pause_for(outage() / 2);
    line.kafka.restart(1).expect("it starts again");
    in_contact(&node);
    fleet.wait_for_acks(4_000);
    let report = fleet.stop();

    eprintln!("node killed while Kafka was away: {report}");
    line.check(node, &fleet);
}

#[test]
fn an_operator_pauses_resumes_and_brings_dead_letters_back_through_kafka() {
    let Some(mut line) = Line::new(1, "log") else {
        return;
    };
    let node = line.place.start();
    in_contact(&node);
    until("nothing to be degraded", || {
        (bridge(&line.place, "status").0 == Some(0)).then_some(())
    });

    assert_eq!(bridge(&line.place, "pause").0, Some(0));
    assert_eq!(
        bridge(&line.place, "status").0,
        Some(3),
        "paused is degraded"
    );
    // Acknowledged, so the spool has it.
    publish(&line.place, now().as_bytes());
    until("the spool to be told", || {
        (lag(&line.place)["spooled"]["tidewire.telemetry"] == 1).then_some(())
    });
    assert_eq!(bridge(&line.place, "resume").0, Some(0));
    until("the spool to be drained", || {
        (lag(&line.place)["spooled"] == serde_json::json!({})).then_some(())
    });

    publish(&line.place, b"no telemetry");
    let letters = |count: usize| {
        until("the letters in Kafka", || {
            // A topic that was just created has no leaders for a moment: then it ends with 3.
            let (_, stdout, _) = bridge(&line.place, "dlq list --output json");
            let listed: Value = serde_json::from_str(&stdout).expect("JSON");
            let letters = listed["letters"].clone();
            (letters.as_array().expect("a list").len() == count).then_some(letters)
        })
    };
    let letter = letters(1)[0].clone();
    assert_eq!(letter["reason"], "unparsable");
    let id = letter["id"].as_str().expect("an id");
    assert!(id.starts_with("kafka:"), "{id}");
    // Nothing was mended, so it comes back as a letter of its own.
    assert_eq!(bridge(&line.place, &format!("dlq replay {id}")).0, Some(0));
    letters(2);

    line.kafka.kill(1).expect("it runs");
    publish(&line.place, now().as_bytes());
    until("the outage to be told", || {
        (bridge(&line.place, "status").0 == Some(3)).then_some(())
    });
    let (code, _, stderr) = bridge(&line.place, "dlq list");
    assert_eq!(
        code,
        Some(3),
        "this node's letters are listed, Kafka's are not: {stderr}"
    );
}

#[test]
fn other_teams_read_keys_headers_and_partitions_of_what_stock_clients_sent() {
    let Some(line) = Line::new(1, "log") else {
        return;
    };
    let node = line.place.start();
    in_contact(&node);
    let Some(mut publish) = outside("mosquitto", "mosquitto_pub", "mosquitto-clients") else {
        return;
    };
    let payload = r#"{"ts":1700000000000,"metrics":{"battery":81.5}}"#;
    let port = line.place.mqtt.port().to_string();
    publish.args([
        "-p",
        &port,
        "-q",
        "1",
        "-t",
        "fleet/car42/telemetry",
        "-m",
        payload,
    ]);
    assert!(publish.status().expect("it runs").success());

    if let Some(mut kcat) = outside("kafka", "kcat", "kcat") {
        kcat.args([
            "-C",
            "-e",
            "-q",
            "-b",
            &line.kafka.bootstrap(),
            "-t",
            "tidewire.telemetry",
        ]);
        kcat.args(["-f", "%p|%k|%h|%s\\n"]);
        let output = kcat.output().expect("kcat runs");
        let text = String::from_utf8(output.stdout).expect("text");
        let mut parts = text.trim().split('|');
        assert_eq!(
            parts.next(),
            Some("12"),
            "murmur2 of the device id, modulo 64: {text}"
        );
        assert_eq!(parts.next(), Some("car42"));
        let headers = parts.next().expect("headers");
        assert!(headers.contains("tidewire-source=1/"), "{headers}");
        assert!(headers.contains("tidewire-received="), "{headers}");
        assert_eq!(parts.next(), Some(payload));
    }
    if let Some(mut python) = python("kafka", "confluent_kafka") {
        let example = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../docs/examples/fleet_latest.py"
        );
        python
            .arg(example)
            .args(["--bootstrap", &line.kafka.bootstrap(), "--count", "1"]);
        let output = python.output().expect("python runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let read: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{output:?}"));
        assert_eq!(read["device"], "car42");
        assert_eq!(read["partition"], 12);
        assert_eq!(read["payload"]["metrics"]["battery"], 81.5);
    }
}

#[test]
#[ignore = "three brokers take a minute and most of the machine"]
fn one_of_three_brokers_killed_stops_mode_kafka_until_leaders_are_elected() {
    let Some(mut line) = Line::new(3, "kafka") else {
        return;
    };
    let (node, mut fleet) = flowing(&line.place);

    let watch = Leaders::watch(&line.kafka.bootstrap(), "tidewire.telemetry");
    let tell = watch.map(Leaders::killed_now);
    line.kafka.kill(1).expect("it runs");
    fleet.wait_for_acks(4_000);
    let leaderless = tell.map(|tell| tell());
    line.kafka.restart(1).expect("it starts again");
    fleet.wait_for_acks(4_000);
    let report = fleet.stop();

    eprintln!(
        "mode kafka, one of three brokers killed: {report}; no live leader for {leaderless:?} s"
    );
    assert_eq!(report.disconnects, 0);
    line.check(node, &fleet);
}
