//! Eclipse Paho's Python client, the one that many devices and tools are written with.

use super::node::{Place, run};
use xtask::skip::python;

/// Runs one scene of the script beside this file against a fresh node.
fn scene(name: &str, version: &str) {
    let Some(mut python) = python("paho", "paho.mqtt.client") else {
        return;
    };
    let place = Place::new();
    let _node = place.start();
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/it/process/paho_scenes.py"
    );

    let (code, stdout, stderr) =
        run(python
            .arg(script)
            .args([name, version, &place.mqtt.port().to_string()]));

    assert_eq!(
        code,
        Some(0),
        "{name} with MQTT {version}:\n{stdout}{stderr}"
    );
}

#[test]
fn paho_3_1_1_talks_at_every_qos() {
    scene("every_qos", "3.1.1");
}

#[test]
fn paho_5_talks_at_every_qos() {
    scene("every_qos", "5");
}

#[test]
fn paho_3_1_1_resumes_its_session() {
    scene("resume", "3.1.1");
}

#[test]
fn paho_5_resumes_its_session() {
    scene("resume", "5");
}

#[test]
fn paho_5_gets_back_the_properties_of_a_message() {
    scene("properties", "5");
}
