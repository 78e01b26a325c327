//! Wrong usage and wrong surroundings: a clear error that names the value, before anything was started.

use std::fs;
use std::net::TcpListener;

use super::node::{Place, is_empty, run, tidewire};

/// Fails unless the program ended with `code` and its message names every one of `named`.
fn assert_refused(command: &mut std::process::Command, code: i32, named: &[&str]) {
    let (ended, stdout, stderr) = run(command);
    assert_eq!(ended, Some(code), "stdout: {stdout}\nstderr: {stderr}");
    for name in named {
        assert!(stderr.contains(name), "{name:?} is not named in: {stderr}");
    }
    assert_eq!(stdout, "", "results only go to standard output");
}

#[test]
fn an_unknown_flag_is_named() {
    assert_refused(tidewire().args(["serve", "--speed", "9"]), 2, &["--speed"]);
    assert_refused(&mut tidewire(), 2, &["serve"]);
    assert_refused(tidewire().arg("sreve"), 2, &["sreve"]);
}

#[test]
fn an_unknown_key_of_the_configuration_is_named_and_nothing_is_started() {
    let place = Place::new().with_config("[telemetry]\nblock_rwos = 8\n");

    assert_refused(&mut place.serve(), 2, &["block_rwos"]);

    assert!(is_empty(&place.data()), "nothing was written");
}

#[test]
fn a_value_that_cannot_be_meant_is_named() {
    let place = Place::new().with_config("[telemetry]\nblock_rows = 0\n");
    assert_refused(&mut place.serve(), 2, &["block_rows"]);

    let place = Place::new().with_config("[telemetry]\nhead_age_max = \"soon\"\n");
    assert_refused(&mut place.serve(), 2, &["soon"]);

    assert_refused(
        tidewire().args(["serve", "--mqtt", "nowhere"]),
        2,
        &["nowhere"],
    );
}

#[test]
fn a_missing_configuration_file_is_named() {
    let place = Place::new();

    assert_refused(
        place
            .serve()
            .args(["--config", "/nonexistent/tidewire.toml"]),
        2,
        &["/nonexistent/tidewire.toml"],
    );
}

#[test]
fn a_busy_port_is_named() {
    let place = Place::new();
    let _busy = TcpListener::bind(place.mqtt).expect("the port was free");

    assert_refused(&mut place.serve(), 1, &[&place.mqtt.to_string()]);
}

#[test]
fn a_busy_admin_port_is_named() {
    let place = Place::new();
    let _busy = TcpListener::bind(place.admin).expect("the port was free");

    assert_refused(&mut place.serve(), 1, &[&place.admin.to_string()]);
}

#[test]
fn a_data_folder_that_cannot_be_made_is_named() {
    let place = Place::new();
    // A file in the way refuses even root, whom permissions do not stop.
    let file = place.data();
    fs::write(&file, "in the way").expect("the temporary folder can be written");

    assert_refused(&mut place.serve(), 1, &[&file.display().to_string()]);

    assert_eq!(
        fs::read_to_string(&file).expect("it is still there"),
        "in the way"
    );
}

#[test]
fn a_folder_of_something_else_is_named_and_left_alone() {
    let place = Place::new();
    fs::create_dir(place.data()).expect("the temporary folder can be written");
    fs::write(place.data().join("holiday.jpg"), "not ours").expect("the folder can be written");

    assert_refused(
        &mut place.serve(),
        2,
        &[&place.data().display().to_string()],
    );

    let names: Vec<_> = fs::read_dir(place.data())
        .expect("it is there")
        .map(|entry| entry.expect("listed"))
        .collect();
    assert_eq!(names.len(), 1, "nothing was added");
}

#[test]
fn a_second_node_on_the_same_folder_is_refused_and_the_first_serves_on() {
    let first = Place::new();
    let node = first.start();
    let second = Place::new();

    let mut serve = tidewire();
    serve.arg("serve").arg("--data").arg(first.data());
    serve.args([
        "--mqtt",
        &second.mqtt.to_string(),
        "--admin",
        &second.admin.to_string(),
        "--cluster",
        "127.0.0.1:0",
    ]);
    assert_refused(&mut serve, 1, &[&first.data().display().to_string()]);

    node.get("/health/ready");
}

#[test]
fn a_number_of_nodes_out_of_range_is_refused_before_anything_starts() {
    assert_refused(tidewire().args(["demo", "--nodes", "6"]), 2, &["--nodes"]);
}

#[test]
fn a_kafka_without_a_port_is_refused_before_anything_starts() {
    for word in ["demo", "serve"] {
        let place = Place::new();
        let mut command = tidewire();
        command.arg(word).args(["--kafka", "somewhere", "--data"]);
        assert_refused(command.arg(place.data()), 2, &["somewhere"]);
        assert!(is_empty(&place.data()), "nothing was written");
    }
}

#[test]
fn a_listener_beyond_loopback_needs_a_word_of_permission() {
    let place = Place::new();
    let address = format!("0.0.0.0:{}", place.mqtt.port());

    let mut serve = tidewire();
    serve
        .arg("serve")
        .arg("--data")
        .arg(place.data())
        .args(["--mqtt", &address]);
    assert_refused(
        serve.args(["--admin", &place.admin.to_string()]),
        2,
        &[&address, "--allow-anonymous"],
    );
}

#[test]
fn a_query_to_no_node_ends_with_4() {
    let place = Place::new();
    let admin = format!("http://{}", place.admin);

    assert_refused(
        tidewire().args(["query", "car42", "--admin", &admin]),
        4,
        &[&place.admin.to_string()],
    );
}
