//! mosquitto's command line clients, in both versions of the protocol.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::node::{Node, Place, run, tidewire};
use xtask::skip::outside;

const VERSIONS: [&str; 2] = ["mqttv311", "mqttv5"];

/// Both clients, or nothing after the test was reported as skipped.
struct Clients<'a> {
    place: &'a Place,
}

impl<'a> Clients<'a> {
    fn find(place: &'a Place) -> Option<Self> {
        for program in ["mosquitto_pub", "mosquitto_sub"] {
            outside("stock clients", program, "mosquitto-clients")?;
        }
        Some(Self { place })
    }

    /// Publishes and fails unless the client is content.
    fn publish(&self, version: &str, arguments: &[&str]) {
        let mut client = Command::new("mosquitto_pub");
        self.address(&mut client, version);
        let (code, _, stderr) = run(client.args(arguments));
        assert_eq!(code, Some(0), "mosquitto_pub {arguments:?}: {stderr}");
    }

    /// Starts a subscriber and returns once its SUBACK has come.
    fn subscribe(&self, version: &str, arguments: &[&str]) -> Subscriber {
        // Without a terminal the client would keep its lines back until it ends.
        let mut client = Command::new("stdbuf");
        client.args(["-oL", "mosquitto_sub", "-d", "-F", "MESSAGE %t %q %r %p"]);
        client.args(["-W", PATIENCE_S]);
        self.address(&mut client, version);
        let mut child = client
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the client was found above");
        let stdout = child.stdout.take().expect("it was piped");
        let mut subscriber = Subscriber {
            child,
            lines: BufReader::new(stdout).lines(),
            early: VecDeque::new(),
        };
        // A session that is resumed may get its messages before the SUBACK.
        while let Some(message) = subscriber.line(|line| {
            let subscribed = line.starts_with("Subscribed").then_some(None);
            subscribed.or_else(|| message(line).map(Some))
        }) {
            subscriber.early.push_back(message);
        }
        subscriber
    }

    fn address(&self, client: &mut Command, version: &str) {
        let port = self.place.mqtt.port().to_string();
        client
            .args(["-h", "127.0.0.1", "-p", &port, "-V", version])
            .stdin(Stdio::null());
    }
}

/// Seconds after which a subscriber gives up, so that a message that never comes fails its test.
const PATIENCE_S: &str = "60";

/// A running subscriber, killed when dropped.
struct Subscriber {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Messages that came before the SUBACK.
    early: VecDeque<String>,
}

impl Subscriber {
    /// The next message as `topic qos retained payload`.
    fn message(&mut self) -> String {
        let early = self.early.pop_front();
        early.unwrap_or_else(|| self.line(message))
    }

    fn line<T>(&mut self, mut found: impl FnMut(&str) -> Option<T>) -> T {
        loop {
            let line = self
                .lines
                .next()
                .expect("the subscriber still runs")
                .expect("its output is text");
            if let Some(found) = found(&line) {
                return found;
            }
        }
    }

    /// Ends the client without a DISCONNECT.
    fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // It may have ended by itself after the wanted number of messages.
        if let Ok(None) = self.child.try_wait() {
            self.child.kill().expect("it runs");
            self.child.wait().expect("a killed child can be waited for");
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.end();
    }
}

/// The message that a line of the subscriber tells of.
fn message(line: &str) -> Option<String> {
    line.strip_prefix("MESSAGE ").map(str::to_owned)
}

fn started(place: &Place) -> Option<(Node<'_>, Clients<'_>)> {
    let clients = Clients::find(place)?;
    Some((place.start(), clients))
}

#[test]
fn stock_clients_talk_at_every_qos_across_versions() {
    let place = Place::new();
    let Some((_node, clients)) = started(&place) else {
        return;
    };
    for from in VERSIONS {
        for to in VERSIONS {
            for qos in ["0", "1", "2"] {
                let mut subscriber = clients.subscribe(to, &["-t", "hall/+", "-q", qos]);

                clients.publish(from, &["-t", "hall/lamp", "-q", qos, "-m", "on and off"]);

                assert_eq!(
                    subscriber.message(),
                    format!("hall/lamp {qos} 0 on and off"),
                    "{from} to {to}"
                );
            }
        }
    }
}

#[test]
fn the_lower_qos_of_publisher_and_subscription_is_delivered() {
    let place = Place::new();
    let Some((_node, clients)) = started(&place) else {
        return;
    };
    let mut subscriber = clients.subscribe("mqttv5", &["-t", "hall/lamp", "-q", "1"]);

    clients.publish("mqttv5", &["-t", "hall/lamp", "-q", "2", "-m", "a"]);
    clients.publish("mqttv5", &["-t", "hall/lamp", "-q", "0", "-m", "b"]);

    assert_eq!(subscriber.message(), "hall/lamp 1 0 a");
    assert_eq!(subscriber.message(), "hall/lamp 0 0 b");
}

#[test]
fn a_retained_message_awaits_subscribers_until_it_is_cleared() {
    let place = Place::new();
    let Some((_node, clients)) = started(&place) else {
        return;
    };
    for version in VERSIONS {
        clients.publish(version, &["-t", "hall/door", "-q", "1", "-r", "-m", "open"]);
        let mut late = clients.subscribe(version, &["-t", "hall/#", "-q", "1"]);
        assert_eq!(late.message(), "hall/door 1 1 open");

        clients.publish(version, &["-t", "hall/door", "-q", "1", "-r", "-n"]);

        let mut later = clients.subscribe(version, &["-t", "hall/#", "-q", "1"]);
        clients.publish(
            version,
            &["-t", "hall/mark", "-q", "1", "-m", "nothing came before"],
        );
        assert_eq!(later.message(), "hall/mark 1 0 nothing came before");
    }
}

#[test]
fn the_will_of_a_killed_client_is_published_and_that_of_a_parting_one_is_not() {
    let place = Place::new();
    let Some((_node, clients)) = started(&place) else {
        return;
    };
    for version in VERSIONS {
        let mut watcher = clients.subscribe(version, &["-t", "will/#", "-q", "2"]);
        let will = [
            "--will-topic",
            "will/a",
            "--will-payload",
            "gone",
            "--will-qos",
            "2",
        ];

        clients.publish(
            version,
            &[&will[..], &["-t", "will/b", "-m", "parting"]].concat(),
        );
        clients
            .subscribe(version, &[&will[..], &["-t", "x"]].concat())
            .kill();

        assert_eq!(watcher.message(), "will/b 0 0 parting");
        assert_eq!(watcher.message(), "will/a 2 0 gone");
    }
}

#[test]
fn a_subscriber_of_everything_sees_every_topic_but_the_servers_own() {
    let place = Place::new();
    let Some((_node, clients)) = started(&place) else {
        return;
    };
    for version in VERSIONS {
        let mut subscriber = clients.subscribe(version, &["-t", "#", "-q", "1"]);

        clients.publish(version, &["-t", "a", "-q", "1", "-m", "1"]);
        clients.publish(version, &["-t", "/", "-q", "1", "-m", "2"]);
        clients.publish(version, &["-t", "$hidden/a", "-q", "1", "-m", "3"]);
        clients.publish(version, &["-t", "a/b/c", "-q", "1", "-m", "4"]);

        let messages = [
            subscriber.message(),
            subscriber.message(),
            subscriber.message(),
        ];
        assert_eq!(messages, ["a 1 0 1", "/ 1 0 2", "a/b/c 1 0 4"]);
    }
}

#[test]
fn a_persistent_session_keeps_what_came_while_its_client_was_away() {
    let place = Place::new();
    let Some((_node, clients)) = started(&place) else {
        return;
    };
    for version in VERSIONS {
        let id = format!("sleeper-{version}");
        let mut session = vec!["-c", "-i", &id, "-t", "queue/#", "-q", "1"];
        if version == "mqttv5" {
            session.extend(["-x", "3600"]);
        }
        clients.subscribe(version, &session).kill();

        for payload in ["1", "2", "3"] {
            clients.publish(version, &["-t", "queue/x", "-q", "1", "-m", payload]);
        }

        let mut awake = clients.subscribe(version, &session);
        let messages = [awake.message(), awake.message(), awake.message()];
        assert_eq!(
            messages,
            ["queue/x 1 0 1", "queue/x 1 0 2", "queue/x 1 0 3"]
        );
    }
}

#[test]
fn telemetry_from_a_stock_client_is_printed_by_query() {
    let place = Place::new();
    let Some((_node, clients)) = started(&place) else {
        return;
    };
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_millis();
    let payload = format!(r#"{{"ts":{now},"metrics":{{"battery":81.5,"speed":30}}}}"#);

    clients.publish(
        "mqttv5",
        &["-t", "fleet/car42/telemetry", "-q", "1", "-m", &payload],
    );

    let admin = format!("http://{}", place.admin);
    let query = ["query", "car42", "--metric", "battery", "--admin", &admin];
    let (code, table, stderr) = run(tidewire().args(query));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        table.contains("battery") && table.contains("81.5") && !table.contains("speed"),
        "{table}"
    );
    let (code, json, stderr) = run(tidewire().args(query).args(["--output", "json"]));
    assert_eq!(code, Some(0), "{stderr}");
    let json: serde_json::Value = serde_json::from_str(&json).expect("the answer is JSON");
    assert_eq!(
        json,
        serde_json::json!({"rows": [{"ts": now as u64, "metrics": {"battery": 81.5}}], "partial": false})
    );
}
