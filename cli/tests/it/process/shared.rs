//! A shared subscription of two stock clients: they share the load, and `kill -9` of the node loses nothing of it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use xtask::skip::outside;

use super::node::{Node, Place};
use super::wait::until;
use super::wire::{self, V5, Wire};

/// Messages that are published one after the other before the kill, under way at the kill (within the window that the
/// node announces), and after it.
const BEFORE: u16 = 200;
const UNDER_WAY: u16 = 30;
const AFTER: u16 = 100;
/// Acknowledgements of those under way that are awaited before the kill.
const ACKED: u16 = 10;

#[test]
fn two_members_share_the_load_and_kill_9_loses_nothing_acknowledged() {
    for program in ["mosquitto_sub", "stdbuf"] {
        if outside("shared subscriptions", program, "mosquitto-clients").is_none() {
            return;
        }
    }
    let place = Place::new();
    let node = place.start();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let members = ["mqttv5", "mqttv311"].map(|version| {
        let output = folder.path().join(version);
        Member::subscribe(&place, version, output)
    });
    let counts = || members.each_ref().map(|member| member.got().len());

    let mut publisher = Wire::connect(place.mqtt, V5, "publisher").expect("the node is ready");
    let mut acked: BTreeSet<u16> = BTreeSet::new();
    for number in 1..=BEFORE {
        publish_acked(&mut publisher, number);
        acked.insert(number);
    }
    until("both to have all", || {
        is_all(&members, &acked).then_some(())
    });
    let [one, other] = counts();
    let all = usize::from(BEFORE);
    assert_eq!(one + other, all, "each message goes to one member");
    assert!(one.min(other) >= all / 4, "{one} and {other}");

    // Once with the members there, who come back by themselves, once with both away.
    let next = publish_to_the_kill(node, publisher, BEFORE + 1, &mut acked);
    let node = place.start();
    let mut publisher = Wire::connect(place.mqtt, V5, "publisher").expect("the node is ready");
    for number in next..next + AFTER {
        publish_acked(&mut publisher, number);
        acked.insert(number);
    }
    until("the members to have what was acknowledged", || {
        is_all(&members, &acked).then_some(())
    });
    let members = members.map(Member::into_output);
    let next = publish_to_the_kill(node, publisher, next + AFTER, &mut acked);
    let node = place.start();
    let [one, other] = members;
    let members = [
        Member::subscribe(&place, "mqttv5", one),
        Member::subscribe(&place, "mqttv311", other),
    ];
    until("the members to have what came while both were away", || {
        is_all(&members, &acked).then_some(())
    });

    // A member that ends without a word leaves the rest to the other.
    let [lost, other] = members;
    lost.into_output();
    let mut publisher = Wire::connect(place.mqtt, V5, "publisher").expect("the node is ready");
    let rest: BTreeSet<u16> = (next..next + 20).collect();
    for number in &rest {
        publish_acked(&mut publisher, *number);
    }
    until("the other member to have the rest", || {
        rest.is_subset(&other.numbers()).then_some(())
    });
    node.terminate();
    assert_eq!(node.ended().code(), Some(0));
}

/// Kills the node while messages are under way, some of them acknowledged; returns the next number.
fn publish_to_the_kill(
    node: Node<'_>,
    mut publisher: Wire,
    first: u16,
    acked: &mut BTreeSet<u16>,
) -> u16 {
    let next = first + UNDER_WAY;
    for number in first..next {
        publisher.send(&publish(number)).expect("the node reads");
    }
    for number in first..first + ACKED {
        let puback = publisher.read().expect("a PUBACK");
        assert_eq!((puback.first, puback.id()), (0x40, number));
        acked.insert(number);
    }
    node.kill_9();
    next
}

fn publish(number: u16) -> Vec<u8> {
    wire::publish(V5, "t/1", number, number.to_string().as_bytes())
}

fn publish_acked(publisher: &mut Wire, number: u16) {
    let payload = number.to_string();
    publisher
        .publish_acked(V5, "t/1", number, payload.as_bytes())
        .expect("the node answers");
}

fn is_all(members: &[Member], acked: &BTreeSet<u16>) -> bool {
    let [one, other] = members else {
        panic!("two members");
    };
    let together: BTreeSet<u16> = one.numbers().union(&other.numbers()).copied().collect();
    acked.is_subset(&together)
}

/// A stock client with a persistent session that shares a filter; it connects again by itself.
struct Member {
    child: Child,
    output: PathBuf,
}

impl Member {
    /// Starts it and waits for its SUBACK.
    fn subscribe(place: &Place, version: &str, output: PathBuf) -> Self {
        let port = place.mqtt.port().to_string();
        let mut client = Command::new("stdbuf");
        client.args(["-oL", "mosquitto_sub", "-d", "-F", "MESSAGE %p"]);
        client.args(["-h", "127.0.0.1", "-p", &port, "-V", version]);
        client.args(["-c", "-i", version, "-q", "1", "-t", "$share/g/t/#"]);
        if version == "mqttv5" {
            client.args(["-x", "3600"]);
        }
        let file = File::options().create(true).append(true).open(&output);
        let file = file.expect("the temporary folder can be written");
        let subacks = || {
            let text = fs::read_to_string(&output).unwrap_or_default();
            let lines = text.lines();
            lines.filter(|line| line.starts_with("Subscribed")).count()
        };
        let before = subacks();
        let child = client
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(Stdio::null())
            .spawn()
            .expect("the client was found");
        until("a SUBACK", || (subacks() > before).then_some(()));
        Self { child, output }
    }

    /// What it got, in order, but for a line that is half written.
    fn got(&self) -> Vec<u16> {
        let text = fs::read_to_string(&self.output).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let numbers = whole.lines().filter_map(|line| {
            let number = line.strip_prefix("MESSAGE ")?;
            number.parse().ok()
        });
        numbers.collect()
    }

    fn numbers(&self) -> BTreeSet<u16> {
        self.got().into_iter().collect()
    }

    /// Ends it without a word; what it wrote stays.
    fn into_output(mut self) -> PathBuf {
        self.end();
        self.output.clone()
    }

    fn end(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.child.kill().expect("it runs");
            self.child.wait().expect("a killed child can be waited for");
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.end();
    }
}
