//! Packets as they pass, and verbs that ask again and again.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};

use admin::trace::{Event, Line};

use super::client::Client;
use super::nodes::{Cluster, Nodes, ctl};
use crate::process::node::tidewire;
use crate::process::sessions::DEFAULTS;

/// A verb of `ctl` that goes on, killed when dropped.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(nodes: &Nodes<'_>, at: usize, words: &[&str]) -> Self {
        let admin = nodes.admin(at).to_string();
        let mut command = tidewire();
        command.args(["ctl", "--output", "json", "--admin", &admin]);
        let mut child = command
            .args(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program can be started");
        let stdout = child.stdout.take().expect("it was piped");
        Self {
            child,
            lines: BufReader::new(stdout).lines(),
        }
    }

    fn line(&mut self) -> String {
        let line = self.lines.next().expect("another line comes");
        line.expect("the line can be read")
    }

    fn traced(&mut self) -> Line {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    fn event(&mut self) -> Event {
        match self.traced() {
            Line::Event(event) => event,
            other => panic!("an event is awaited: {other:?}"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.child.kill().expect("it runs");
            self.child.wait().expect("a killed child can be waited for");
        }
    }
}

#[test]
fn the_packets_of_a_client_are_shown_from_the_node_where_it_is() {
    let cluster = Cluster::new(DEFAULTS);
    let nodes = cluster.start();
    let mut client = Client::connect(cluster.mqtt()[1], "car", true);
    client.subscribe("d/#", 1);
    let mut trace = Running::start(&nodes, 0, &["trace", "client", "car", "--events", "5"]);
    assert_eq!(trace.traced(), Line::Begin { node: 2 });

    let mut other = Client::connect(cluster.mqtt()[1], "other", true);
    other.publish("other", 1, "is not traced");
    client.publish("d/1", 1, "hello");
    assert_eq!(client.next().payload, "hello");
    client.disconnect();

    let mut seen: Vec<String> = (0..4)
        .map(|_| {
            let event = trace.event();
            assert_eq!(event.client, "car");
            let arrow = if event.from_client { "->" } else { "<-" };
            format!(
                "{arrow} {} {}",
                event.packet,
                event.topic.unwrap_or_default()
            )
        })
        .collect();
    assert_eq!(seen[0], "-> PUBLISH d/1");
    // PUBACK and the delivery come in any order.
    seen[1..].sort();
    assert_eq!(seen[1..], ["-> PUBACK ", "<- PUBACK ", "<- PUBLISH d/1"]);
    assert_eq!(trace.event().packet, "DISCONNECT");
    match trace.traced() {
        Line::End {
            because,
            shown,
            missed,
        } => {
            assert_eq!((because.as_str(), shown, missed), ("events", 5, 0));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(trace.child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn messages_of_topics_are_shown_from_publishers_and_to_subscribers() {
    let cluster = Cluster::new(DEFAULTS);
    let nodes = cluster.start();
    let address = cluster.mqtt()[0];
    let mut subscriber = Client::connect(address, "subscriber", false);
    subscriber.subscribe("#", 0);
    let words = ["trace", "topic", "d/+", "--for", "1h", "--rate", "1000"];
    let mut trace = Running::start(&nodes, 0, &words);
    assert_eq!(trace.traced(), Line::Begin { node: 1 });
    let mut publisher = Client::connect(address, "publisher", false);
    publisher.publish("e/1", 1, "not this");
    publisher.publish("d/1", 1, "but this");
    let (first, second) = (trace.event(), trace.event());
    assert_eq!(
        (first.client.as_str(), first.from_client),
        ("publisher", true)
    );
    assert_eq!(
        (second.client.as_str(), second.from_client),
        ("subscriber", false)
    );
    assert_eq!(second.payload_bytes, Some(8));

    // So many at a time; who leaves makes room.
    let more: Vec<Running> = (0..3)
        .map(|_| {
            let mut trace = Running::start(&nodes, 0, &words);
            assert_eq!(trace.traced(), Line::Begin { node: 1 });
            trace
        })
        .collect();
    let (code, _, error) = ctl(&nodes, 0, &words);
    assert!(
        code == Some(1) && error.contains("4 traces are under way"),
        "{error}"
    );
    drop(more);
    crate::process::wait::until("room for another trace", || {
        let words = ["trace", "topic", "d", "--for", "1s"];
        (ctl(&nodes, 0, &words).0 == Some(0)).then_some(())
    });
    let (code, _, error) = ctl(&nodes, 0, &["trace", "topic", "d/#/e"]);
    assert!(code == Some(2) && error.contains("d/#/e"), "{error}");
}

#[test]
fn a_verb_that_looks_asks_again_until_it_is_stopped() {
    let cluster = Cluster::new(DEFAULTS);
    let nodes = cluster.start();
    let mut watch = Running::start(&nodes, 0, &["--watch=1", "cluster", "status"]);
    for _ in 0..2 {
        let line = watch.line();
        assert!(line.starts_with("{\"node\":1"), "{line}");
    }
    let (code, _, error) = ctl(&nodes, 0, &["--watch", "client", "kick", "car"]);
    assert!(code == Some(2) && error.contains("only look"), "{error}");
}
