//! Who may connect, and how fast: a source over its rate, sockets that say nothing, many at once.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use xtask::skip::outside;

use super::http;
use super::node::{Node, Place, run, tidewire};
use super::wait::until;
use super::wire::{V5, V311, Wire, connect};

const REFUSED: &str = "tidewire_broker_connects_refused_total";

/// One connect a second for each source, so that the second one in a second is one too many.
const ONE_A_SECOND: &str = "[mqtt.admission]\nconnects_per_s_per_source = 1\n\
                            limit_loopback_sources = true\n";

/// How long something is watched that must not happen.
const LOOK: Duration = Duration::from_millis(200);

/// A place whose nodes are as this text says.
fn place(config: &str) -> Place {
    Place::new().with_config(&format!("no_telemetry = true\n{config}"))
}

/// Connects from this address of loopback; the CONNACK's code, 0 for success.
fn connect_from(last: u8, place: &Place, version: u8) -> io::Result<(u8, Wire)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::from(([127, 0, 0, last], 0)).into())?;
    socket.connect(&place.mqtt.into())?;
    let mut wire = Wire::over(TcpStream::from(socket))?;
    wire.send(&connect(version, &format!("from-{last}-{version}")))?;
    let connack = wire.read()?;
    assert_eq!(connack.first, 0x20, "{connack:?}");
    Ok((connack.body[1], wire))
}

/// How many the node has refused for this reason.
fn refused(node: &Node<'_>, reason: &str) -> u64 {
    let sample = format!("{REFUSED}{{reason=\"{reason}\"}} ");
    let metrics = node.get("/metrics");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&sample));
    let value = value.unwrap_or_else(|| panic!("no {sample}in {metrics}"));
    value.parse().expect("a count")
}

#[test]
fn a_source_over_its_rate_is_told_so_while_another_one_is_served() {
    let place = place(ONE_A_SECOND);
    let mut node = place.start();
    let (code, mut neighbour) = connect_from(9, &place, V311).expect("the node serves");
    assert_eq!(code, 0);

    // 0x9F: connection rate exceeded. 3.1.1 has nothing nearer than 3: server unavailable.
    for (version, expected) in [(V5, 0x9F), (V311, 3)] {
        let code = until("the source to be refused", || {
            let (code, _) = connect_from(2, &place, version).expect("an answer");
            (code != 0).then_some(code)
        });
        assert_eq!(code, expected, "protocol {version}");
        let (code, _) = connect_from(20 + version, &place, version).expect("an answer");
        assert_eq!(code, 0, "another source, protocol {version}");
    }

    assert!(neighbour.is_alive());
    assert!(refused(&node, "source_rate") >= 2);
    assert!(node.metric("tidewire_broker_connects_refused_told_total") >= 2.0);
    let lines = |node: &Node<'_>| {
        node.log()
            .matches("clients that connect are refused")
            .count()
    };
    until("the log to say so", || (lines(&node) > 0).then_some(()));
    node.assert_running();
}

#[test]
fn a_client_of_mqtt_5_reads_that_it_comes_too_often() {
    if outside("stock clients", "mosquitto_pub", "mosquitto-clients").is_none() {
        return;
    }
    let place = place(ONE_A_SECOND);
    let _node = place.start();
    let port = place.mqtt.port().to_string();

    let said = until("mosquitto_pub to be refused", || {
        let mut client = Command::new("mosquitto_pub");
        client.args(["-h", "127.0.0.1", "-p", &port, "-V", "mqttv5"]);
        client.args(["-t", "t", "-m", "x", "-q", "1"]);
        let (code, _, stderr) = run(client.stdin(Stdio::null()));
        (code != Some(0)).then_some(stderr)
    });

    assert!(said.contains("Connection rate exceeded"), "{said}");
}

#[test]
fn sockets_that_say_nothing_give_way_to_clients_that_connect() {
    let place = place("io_threads = 1\n[mqtt.admission]\nhandshakes_limit = 4\n");
    let node = place.start();
    let mut silent: Vec<Wire> = (0..20)
        .map(|_| Wire::open(place.mqtt).expect("the node listens"))
        .collect();

    for number in 0..10 {
        let id = format!("client-{number}");
        let mut client = Wire::connect(place.mqtt, V5, &id).expect("there is room for it");
        assert!(client.is_alive());
    }

    assert!(refused(&node, "silent") >= 16, "{}", node.get("/metrics"));
    assert_eq!(refused(&node, "handshakes"), 0);
    assert_eq!(silent[0].read_to_close(), [], "the oldest went first");
}

#[test]
fn more_than_may_open_at_a_time_are_connected_one_after_the_other() {
    // Fifty entries one after the other may take long on a busy machine.
    let place = place(
        "io_threads = 1\n[cluster]\nshards = 1\n[mqtt]\nconnect_timeout = \"60s\"\n\
         [mqtt.admission]\nopens_limit = 1\n",
    );
    let node = place.start();
    let mut clients: Vec<Wire> = (0..50)
        .map(|_| Wire::open(place.mqtt).expect("the node listens"))
        .collect();

    for (number, client) in clients.iter_mut().enumerate() {
        let bytes = connect(V311, &format!("client-{number}"));
        client.send(&bytes).expect("the connection is open");
    }

    for client in &mut clients {
        let connack = client.read().expect("an answer");
        assert_eq!((connack.first, connack.body[1]), (0x20, 0), "{connack:?}");
    }
    until("nobody to be connecting", || {
        let count = |name: &str| node.metric(&format!("tidewire_broker_{name}"));
        let left = ["handshakes", "opens_under_way", "opens_waiting"].map(count);
        (left == [0.0; 3]).then_some(())
    });
}

#[test]
fn admin_connections_beyond_their_limit_wait_for_one_that_ends() {
    let place = place("[admin]\nconnections_limit = 2\n");
    let node = place.start();
    let held: Vec<_> = (0..2)
        .map(|_| TcpStream::connect(place.admin).expect("the node listens"))
        .collect();
    let (sender, answers) = std::sync::mpsc::channel();
    let admin = place.admin;
    let asking = std::thread::spawn(move || {
        let answer = http::get(admin, "/health/live");
        sender.send(answer).expect("the test waits");
    });
    let early = answers.recv_timeout(LOOK);
    assert!(early.is_err(), "answered past the limit: {early:?}");

    drop(held);

    let answer = answers.recv().expect("the thread answers");
    assert_eq!(answer.expect("an answer").0, 200);
    asking.join().expect("no panic");
    assert!(node.get("/metrics").contains(REFUSED));
}

#[test]
fn a_storm_says_how_all_came_back_and_what_the_pairs_met() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("storm.md");
    let (ended, stdout, stderr) = run(tidewire().args([
        "bench",
        "storm",
        "--clients",
        "60",
        "--pairs",
        "4",
        "--rate",
        "40",
        "--for",
        "500ms",
        "--jitter",
        "300ms",
        "--folder",
        folder.path().to_str().expect("UTF-8"),
        "--markdown",
        page.to_str().expect("UTF-8"),
        "--json",
    ]));

    assert_eq!(ended, Some(0), "stdout: {stdout}\nstderr: {stderr}");
    let report: Value = serde_json::from_str(&stdout).expect("one object");
    let variants = report["variants"].as_array().expect("a list");
    let words: Vec<_> = variants.iter().map(|one| &one["variant"]).collect();
    assert_eq!(words, ["jitter", "no-jitter"]);
    for variant in variants {
        assert_eq!(variant["back"]["connected"], 60, "{variant}");
        assert_eq!(variant["back"]["sessions_missing"], 0, "{variant}");
        assert_eq!(variant["lost"], 0, "{variant}");
        assert_eq!(variant["sent"], variant["acked"], "{variant}");
        assert_eq!(variant["nodes"].as_array().map(Vec::len), Some(3));
        for time in ["before", "after"] {
            assert!(
                variant[time]["ack_p99_ms"].as_f64() > Some(0.0),
                "{variant}"
            );
        }
    }
    let text = std::fs::read_to_string(&page).expect("the page is written");
    assert!(text.contains("| clients back | 60 | 60 |"), "{text}");
    assert!(page.with_extension("png").is_file());
}

#[test]
fn clients_of_a_killed_node_come_back_to_the_others() {
    let (ended, stdout, stderr) = run(tidewire().args([
        "bench",
        "storm",
        "--kill",
        "--no-jitter",
        "--clients",
        "60",
        "--pairs",
        "4",
        "--rate",
        "40",
        "--for",
        "500ms",
        "--json",
    ]));

    assert_eq!(ended, Some(0), "stdout: {stdout}\nstderr: {stderr}");
    let report: Value = serde_json::from_str(&stdout).expect("one object");
    let variants = report["variants"].as_array().expect("a list");
    assert_eq!(variants.len(), 1);
    // On a busy machine another node may have lost its lease, and its clients with it.
    assert!(
        variants[0]["back"]["connected"].as_u64() >= Some(20),
        "{report}"
    );
    assert_eq!(variants[0]["lost"], 0, "{report}");
}
