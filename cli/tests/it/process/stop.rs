//! SIGTERM: clients are told, the process ends by itself.

use super::node::Place;
use super::wire::{V5, V311, Wire};

#[test]
fn sigterm_tells_mqtt_5_clients_and_ends_with_0() {
    let place = Place::new();
    let node = place.start();
    let mut new = Wire::connect(place.mqtt, V5, "new").expect("the node serves");
    let mut old = Wire::connect(place.mqtt, V311, "old").expect("the node serves");

    node.terminate();

    let told = new.read_to_close();
    let last = told.last().expect("a DISCONNECT comes before the close");
    assert_eq!(
        (last.first, last.body.first()),
        (0xE0, Some(&0x8B)),
        "server shutting down: {last:?}"
    );
    assert_eq!(
        old.read_to_close(),
        [],
        "3.1.1 has no DISCONNECT from the server"
    );
    assert_eq!(node.ended().code(), Some(0));
}

#[test]
fn a_stopped_node_serves_what_was_acknowledged_when_it_starts_again() {
    let place = Place::new();
    let node = place.start();
    let mut device = Wire::connect(place.mqtt, V311, "car42").expect("the node serves");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_millis();
    let payload = format!(r#"{{"ts":{now},"metrics":{{"battery":81.5}}}}"#);
    device
        .publish_acked(V311, "fleet/car42/telemetry", 1, payload.as_bytes())
        .expect("the node serves");

    node.terminate();
    assert_eq!(node.ended().code(), Some(0));
    let node = place.start();

    let answer = node.get("/v1/query/car42?metric=battery");
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("the answer is JSON");
    assert_eq!(
        answer["rows"],
        serde_json::json!([{"ts": now as u64, "metrics": {"battery": 81.5}}])
    );
}
