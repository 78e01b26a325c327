//! What one broker does, with every client at another node.

use std::collections::BTreeSet;

use super::client::Client;
use super::nodes::{Cluster, NODES};
use crate::process::sessions::DEFAULTS;

const SESSION_TAKEN_OVER: u8 = 0x8E;

#[test]
fn a_message_reaches_clients_of_every_node_whatever_its_qos_and_their_session() {
    let cluster = Cluster::new(DEFAULTS);
    let _nodes = cluster.start();
    let addresses = cluster.mqtt();
    let mut publishers = addresses.map(|at| Client::connect(at, &format!("p{at}"), false));
    let mut subscribers = Vec::new();
    for (at, address) in addresses.into_iter().enumerate() {
        for is_lasting in [true, false] {
            let id = format!("s{at}{is_lasting}");
            let mut subscriber = Client::connect(address, &id, is_lasting);
            subscriber.subscribe("all/#", 2);
            subscribers.push((id, subscriber));
        }
    }

    for (from, publisher) in publishers.iter_mut().enumerate() {
        for qos in 0..=2 {
            publisher.publish(&format!("all/{from}"), qos, "hello");
            for (id, subscriber) in &mut subscribers {
                let message = subscriber.next();
                assert_eq!(message.topic, format!("all/{from}"), "{id}");
                assert_eq!(message.qos, qos, "{id} from {from}");
            }
        }
    }
    for (_, subscriber) in &mut subscribers {
        subscriber.assert_silent();
    }
}

#[test]
fn a_session_goes_on_at_another_node_and_is_taken_over_there() {
    let cluster = Cluster::new(DEFAULTS);
    let _nodes = cluster.start();
    let [one, two, three] = cluster.mqtt();
    let mut publisher = Client::connect(three, "publisher", false);
    let mut subscriber = Client::connect(one, "subscriber", true);
    subscriber.subscribe("t", 2);
    subscriber.disconnect();

    publisher.publish("t", 1, "away");
    let mut subscriber = Client::connect(two, "subscriber", true);
    assert!(subscriber.is_resumed);
    assert_eq!(subscriber.next().payload, "away");

    let mut successor = Client::connect(three, "subscriber", true);
    assert!(successor.is_resumed);
    assert_eq!(subscriber.reason_of_end(), SESSION_TAKEN_OVER);
    publisher.publish("t", 2, "moved");
    let mut message = successor.next();
    if message.payload == "away" {
        // Its PUBACK may have come too late to be recorded under the old ownership.
        assert!(message.dup);
        message = successor.next();
    }
    assert_eq!(message.payload, "moved");
    successor.assert_silent();
}

#[test]
fn retained_messages_and_wills_are_those_of_the_whole_cluster() {
    let cluster = Cluster::new(DEFAULTS);
    let _nodes = cluster.start();
    let addresses = cluster.mqtt();
    let mut publishers = addresses.map(|at| Client::connect(at, &format!("p{at}"), false));
    for (at, publisher) in publishers.iter_mut().enumerate() {
        publisher.retain(&format!("kept/{at}"), "value");
    }
    let [one, two, three] = &mut publishers;
    two.retain("kept/0", "newer");
    three.retain("kept/1", "");
    let expected = [("kept/0", "newer"), ("kept/2", "value")];
    for (at, address) in addresses.into_iter().enumerate() {
        let mut reader = Client::connect(address, &format!("reader{at}"), at == 0);
        reader.subscribe("kept/#", 1);
        let kept: BTreeSet<_> = (0..expected.len())
            .map(|_| reader.next())
            .map(|message| (message.topic, message.payload))
            .collect();
        let expected = expected.map(|(topic, value)| (topic.to_owned(), value.to_owned()));
        assert_eq!(kept, expected.into(), "node {}", at + 1);
        reader.assert_silent();
    }

    one.subscribe("wills/#", 1);
    for (at, address) in addresses.into_iter().enumerate() {
        let topic = format!("wills/{at}");
        let testator = Client::with_will(address, &topic.replace('/', "-"), at == 0, Some(&topic));
        // A session would keep the will back no longer than its delay, which is none.
        drop(testator);
        assert_eq!(one.next().topic, topic);
    }
}

#[test]
fn a_shared_group_has_members_on_all_nodes_and_each_message_once() {
    const MESSAGES: usize = 60;
    let cluster = Cluster::new(DEFAULTS);
    let _nodes = cluster.start();
    let addresses = cluster.mqtt();
    let mut members = Vec::new();
    for (at, address) in addresses.into_iter().enumerate() {
        let mut member = Client::connect(address, &format!("member{at}"), at != 0);
        member.subscribe("$share/group/work", 1);
        members.push(member);
    }
    let mut publisher = Client::connect(addresses[1], "publisher", false);

    // Read on threads, since nobody knows whom the group picks.
    let (tell, taken) = std::sync::mpsc::sync_channel(MESSAGES);
    for (at, mut member) in members.into_iter().enumerate() {
        let tell = tell.clone();
        std::thread::spawn(move || while tell.send((at, member.next().payload)).is_ok() {});
    }
    for number in 0..MESSAGES {
        publisher.publish("work", 1, &number.to_string());
    }
    let taken: Vec<(usize, String)> = taken.iter().take(MESSAGES).collect();

    let messages: BTreeSet<&String> = taken.iter().map(|(_, message)| message).collect();
    assert_eq!(messages.len(), MESSAGES, "each message goes to one member");
    let who: BTreeSet<usize> = taken.iter().map(|(at, _)| *at).collect();
    assert_eq!(who.len(), NODES, "each member has some");
}
