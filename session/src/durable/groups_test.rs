use std::num::NonZeroU32;
use std::sync::Arc;

use mqtt::{QoS, ReasonCode, SubscribeOptions};

use super::durable_test::{Shard, client, filter, message};
use super::{DurableEffect, GroupDelivery, Limits, MembershipRow};
use crate::{
    Answer, Close, Command, ConnectionId, Enqueue, Epoch, GroupSeq, Member, Membership, NodeEpoch,
    Open, Owner, Subs, Subscription, Unsubs, WallMs, WillFate,
};

const SHARED: &str = "$share/g/t/#";
/// Of every client.
const RECEIVE_MAXIMUM: usize = 10;

/// A shard that is the home of its own sessions' groups.
struct Home {
    shard: Shard,
    /// Where who opens is connected.
    node_epoch: NodeEpoch,
    delivered: Vec<GroupDelivery>,
    routes: Vec<(String, bool)>,
}

impl Home {
    fn new() -> Self {
        Self {
            shard: Shard::new(Limits::default()),
            node_epoch: NodeEpoch(1),
            delivered: Vec::new(),
            routes: Vec::new(),
        }
    }

    /// Carries everything out.
    fn settle(&mut self) {
        loop {
            let effects = self.shard.effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    DurableEffect::Membership(row) => self.tell(row),
                    DurableEffect::DeliverShared(delivery) => self.delivered.push(delivery),
                    DurableEffect::Route(row) => {
                        self.routes.push((row.filter.to_string(), row.wanted));
                    }
                    _ => {}
                }
            }
        }
    }

    fn tell(&mut self, row: MembershipRow) {
        let version = row.version;
        let command = Command::Membership(Box::new(row.to_command(0)));
        self.shard.apply(&command);
        self.shard.apply(&Command::MembershipDone { version });
    }

    fn open(&mut self, name: &str, connection: u64, persistent: bool, expiry_s: u32) -> Epoch {
        let expected = self.shard.durable.epoch(&client(name));
        let open = Open {
            persistent,
            expiry_s,
            node_epoch: self.node_epoch,
            ..super::durable_test::open(name, connection, expected)
        };
        match self.shard.apply(&Command::Open(Box::new(open))) {
            Answer::Opened { epoch, .. } => {
                self.settle();
                epoch
            }
            other => panic!("not opened: {other:?}"),
        }
    }

    fn join(&mut self, name: &str, connection: u64, persistent: bool) -> Epoch {
        let expiry_s = if persistent { 3_600 } else { 0 };
        let epoch = self.open(name, connection, persistent, expiry_s);
        self.subscribe(name, epoch, QoS::ExactlyOnce);
        epoch
    }

    fn subscribe(&mut self, name: &str, epoch: Epoch, qos: QoS) {
        let options = SubscribeOptions {
            qos,
            ..SubscribeOptions::default()
        };
        let id = NonZeroU32::new(7);
        let subs = Subs {
            client: client(name),
            epoch,
            filters: vec![(filter(SHARED), Subscription { options, id })],
        };
        let answer = self.shard.apply(&Command::Subs(Box::new(subs)));
        let Answer::Subscribed(results) = answer else {
            panic!("not subscribed: {answer:?}");
        };
        assert!(!results[0].reason.is_error() && results[0].membership > 0);
        self.settle();
    }

    fn leave(&mut self, name: &str, epoch: Epoch) -> ReasonCode {
        let unsubs = Unsubs {
            client: client(name),
            epoch,
            filters: vec![filter(SHARED)],
        };
        let answer = self.shard.apply(&Command::Unsubs(Box::new(unsubs)));
        self.settle();
        match answer {
            Answer::Unsubscribed(results) => results[0].reason,
            other => panic!("not unsubscribed: {other:?}"),
        }
    }

    fn close(&mut self, name: &str, epoch: Epoch) {
        self.shard.apply(&Command::Close(Close {
            client: client(name),
            epoch,
            will: WillFate::Discard,
            expiry_s: None,
        }));
        self.settle();
    }

    fn publish(&mut self, payload: &str) -> u32 {
        let mut message = (*message("t/1", QoS::ExactlyOnce)).clone();
        message.payload = payload.to_owned().into();
        let answer = self.shard.apply(&Command::Enqueue(Enqueue {
            message: Arc::new(message),
            origin: None,
        }));
        self.settle();
        match answer {
            Answer::Enqueued { taken, .. } => taken,
            other => panic!("not enqueued: {other:?}"),
        }
    }

    fn ack(&mut self, acked: GroupSeq) {
        self.shard.apply(&Command::GroupAck(vec![acked]));
        self.settle();
    }

    /// Connection, payload and DUP of what was delivered since this was asked last.
    fn take(&mut self) -> Vec<(u64, String, bool)> {
        let one = |d: GroupDelivery| {
            let payload = String::from_utf8(d.message.payload.to_vec()).expect("a text");
            (d.connection.0, payload, d.dup)
        };
        self.delivered.drain(..).map(one).collect()
    }
}

fn got(connection: u64, payload: &str, dup: bool) -> (u64, String, bool) {
    (connection, payload.to_owned(), dup)
}

#[test]
fn what_a_member_on_a_full_node_is_not_handed_another_one_gets() {
    let mut home = Home::new();
    home.join("a", 1, true);
    home.node_epoch = NodeEpoch(2);
    home.join("b", 2, true);

    home.shard.durable.handle_full(NodeEpoch(1));
    home.publish("1");
    home.publish("2");
    assert_eq!(home.take(), [got(2, "1", false), got(2, "2", false)]);
    home.shard.durable.handle_full(NodeEpoch(2));
    home.publish("3");
    home.publish("4");
    assert_eq!(home.take(), []);

    home.shard.durable.handle_room(NodeEpoch(1));
    home.settle();
    assert_eq!(home.take(), [got(1, "3", false), got(1, "4", false)]);
}

#[test]
fn members_take_turns_and_who_has_less_gets_more() {
    let mut home = Home::new();
    home.join("a", 1, true);
    home.join("b", 2, false);
    for payload in ["1", "2", "3", "4"] {
        assert_eq!(home.publish(payload), 1);
    }
    let delivered = home.delivered.clone();
    let of = |connection: u64| {
        let one = |d: &&GroupDelivery| d.connection.0 == connection;
        delivered.iter().filter(one).collect::<Vec<_>>()
    };
    assert_eq!((of(1).len(), of(2).len()), (2, 2));
    // QoS 2 is not granted, and the identifier is that of the subscription.
    assert!(
        delivered
            .iter()
            .all(|d| d.qos == QoS::AtLeastOnce && !d.dup)
    );
    let ids = |d: &GroupDelivery| d.subscription_ids.first().map(|id| id.get());
    assert!(delivered.iter().all(|d| ids(d) == Some(7)));

    for one in of(1) {
        home.ack(one.group_seq.clone());
    }
    home.take();
    home.publish("5");
    home.publish("6");
    assert_eq!(home.take(), [got(1, "5", false), got(1, "6", false)]);
}

#[test]
fn what_a_member_did_not_acknowledge_goes_to_the_next_with_dup() {
    let mut home = Home::new();
    let a = home.join("a", 1, true);
    home.publish("1");
    home.publish("2");
    let first = home.delivered[0].group_seq.clone();
    home.join("b", 2, false);
    home.ack(first);
    home.take();

    home.close("a", a);
    assert_eq!(home.take(), [got(2, "2", true)]);
    home.publish("3");
    assert_eq!(home.take(), [got(2, "3", false)]);
}

#[test]
fn a_taken_over_member_gets_what_its_old_connection_had_again() {
    let mut home = Home::new();
    home.join("a", 1, true);
    home.publish("1");
    home.take();

    home.open("a", 9, true, 3_600);
    assert_eq!(home.take(), [got(9, "1", true)]);
}

#[test]
fn while_only_persistent_members_are_away_messages_wait() {
    let mut home = Home::new();
    let a = home.join("a", 1, true);
    let b = home.join("b", 2, false);
    home.close("a", a);
    home.close("b", b);
    assert_eq!(home.publish("1"), 1);
    assert_eq!(home.take(), []);

    home.open("a", 3, true, 3_600);
    assert_eq!(home.take(), [got(3, "1", false)]);
}

#[test]
fn with_its_last_member_a_group_ends_and_its_route_is_withdrawn() {
    let mut home = Home::new();
    let a = home.join("a", 1, true);
    assert_eq!(home.routes, [("t/#".to_owned(), true)]);
    home.publish("1");
    let old = home.delivered[0].group_seq.clone();
    home.take();

    assert_eq!(home.leave("a", a), ReasonCode::Success);
    assert_eq!(home.leave("a", a), ReasonCode::NoSubscriptionExisted);
    assert_eq!(home.routes.last(), Some(&("t/#".to_owned(), false)));
    assert_eq!(home.publish("2"), 0);
    let counters = home.shard.durable.counters();
    assert_eq!((counters.queue_messages, counters.queue_bytes), (0, 0));

    // Another group of the name: what was sent before acknowledges nothing of it.
    home.subscribe("a", a, QoS::AtLeastOnce);
    home.publish("3");
    home.ack(old);
    assert_eq!(home.shard.durable.counters().queue_messages, 1);
}

#[test]
fn a_session_that_ends_leaves_its_groups() {
    let mut home = Home::new();
    home.join("a", 1, true);
    home.publish("1");
    home.take();
    // Clean start: the old session's membership goes, and with it what waited.
    let expected = home.shard.durable.epoch(&client("a"));
    let open = Open {
        clean_start: true,
        ..super::durable_test::open("a", 2, expected)
    };
    home.shard.apply(&Command::Open(Box::new(open)));
    home.settle();
    assert_eq!(home.take(), []);
    assert_eq!(home.publish("2"), 0);
    assert_eq!(home.routes.last(), Some(&("t/#".to_owned(), false)));
}

#[test]
fn a_membership_begun_anew_before_the_group_heard_of_its_end_begins_anew() {
    let mut home = Home::new();
    let a = home.join("a", 1, true);
    home.publish("1");
    home.take();
    for command in [
        Command::Unsubs(Box::new(Unsubs {
            client: client("a"),
            epoch: a,
            filters: vec![filter(SHARED)],
        })),
        Command::Subs(Box::new(Subs {
            client: client("a"),
            epoch: a,
            filters: vec![(filter(SHARED), Subscription::default())],
        })),
    ] {
        home.shard.apply(&command);
    }
    home.settle();
    assert_eq!(home.take(), []);
    assert_eq!(home.shard.durable.counters().queue_messages, 0);
}

#[test]
fn the_end_of_a_node_returns_what_its_members_had() {
    let mut home = Home::new();
    home.join("a", 1, true);
    home.publish("1");
    home.take();
    let node_epoch = NodeEpoch(1);
    home.shard.apply(&Command::NodeGone { node_epoch });
    home.settle();
    assert_eq!(home.take(), []);
    let counters = home.shard.durable.counters();
    assert_eq!(counters.queue_messages, 1);
}

#[test]
fn a_message_for_a_session_and_a_group_is_held_once() {
    let mut home = Home::new();
    let a = home.join("a", 1, true);
    home.shard.subscribe("a", a, &["t/1"]);
    home.settle();
    assert_eq!(home.publish("1"), 2);
    let rows = home.shard.durable.take_rows();
    let messages = rows.iter();
    let messages = messages.filter(|(key, _)| matches!(key, super::RowKey::Message(_)));
    assert_eq!(messages.count(), 1);
    // One route for both: it goes with the last of them.
    home.leave("a", a);
    assert!(
        home.routes
            .iter()
            .all(|(filter, wanted)| filter != "t/1" || *wanted)
    );
}

#[test]
fn a_group_without_qos_stores_nothing_and_takes_turns() {
    let mut home = Home::new();
    for (name, connection) in [("a", 1), ("b", 2)] {
        let epoch = home.open(name, connection, false, 0);
        home.subscribe(name, epoch, QoS::AtMostOnce);
    }
    assert_eq!(home.publish("1"), 0);
    let topic = "t/1".try_into().expect("a topic");
    let mut next = || {
        let members = home
            .shard
            .durable
            .next_qos0_members(&topic, QoS::AtLeastOnce);
        members
            .into_iter()
            .map(|m| m.connection.0)
            .collect::<Vec<_>>()
    };
    assert_eq!((next(), next(), next()), (vec![1], vec![2], vec![1]));
}

#[test]
fn a_member_has_no_more_unacknowledged_than_its_window() {
    let mut home = Home::new();
    let a = home.open("a", 1, true, 3_600);
    home.subscribe("a", a, QoS::AtLeastOnce);
    for number in 0..200 {
        home.publish(&number.to_string());
    }
    let window = Limits::default().group_window;
    assert_eq!(home.delivered.len(), window.min(RECEIVE_MAXIMUM));
    let first = home.delivered[0].group_seq.clone();
    home.ack(first);
    assert_eq!(home.delivered.len(), 1 + window.min(RECEIVE_MAXIMUM));
}

#[test]
fn an_expired_message_that_nobody_was_sent_goes() {
    let mut home = Home::new();
    let a = home.join("a", 1, true);
    home.close("a", a);
    let mut expiring = (*message("t/1", QoS::AtLeastOnce)).clone();
    expiring.expiry = Some(home.shard.durable.time().plus_s(1));
    home.shard.apply(&Command::Enqueue(Enqueue {
        message: Arc::new(expiring),
        origin: None,
    }));
    let at = home.shard.durable.next_deadline().expect("it expires");
    let due = home.shard.durable.due(at, 10);
    assert!(matches!(due[..], [Command::ExpireGroup { .. }]));
    let index = home.shard.durable.index() + 1;
    home.shard.durable.apply(index, WallMs(at.0), &due[0]);
    assert_eq!(home.shard.durable.counters().dropped_expired, 1);
    assert_eq!(home.shard.durable.counters().queue_messages, 0);
}

#[test]
fn a_late_repeat_of_a_membership_brings_no_member_back() {
    let mut home = Home::new();
    let a = home.join("a", 1, true);
    let late = Membership {
        source: 0,
        version: 1,
        filter: filter(SHARED),
        client: client("a"),
        member: Some(Member {
            joined: Epoch(2),
            owner: None,
            subscription: Subscription::default(),
            persistent: true,
        }),
    };
    home.leave("a", a);
    let late = Command::Membership(Box::new(late));
    let answer = home.shard.apply(&late);
    assert_eq!(answer, home.shard.durable.answer_repeat(&late));
    assert!(home.shard.durable.groups.is_empty());
}

/// Tells the home shard of a member whose session lives in another shard.
fn tell_of(home: &mut Home, version: u64, name: &str, persistent: bool) {
    let member = Member {
        joined: Epoch(version),
        owner: Some(Owner {
            node_epoch: NodeEpoch(5),
            connection: ConnectionId(version),
            epoch: Epoch(version),
            receive_maximum: 10,
        }),
        subscription: Subscription {
            options: SubscribeOptions {
                qos: QoS::AtLeastOnce,
                ..SubscribeOptions::default()
            },
            id: None,
        },
        persistent,
    };
    let membership = Membership {
        source: 9,
        version,
        filter: filter(SHARED),
        client: client(name),
        member: Some(member),
    };
    let command = Command::Membership(Box::new(membership));
    home.shard.apply(&command);
    home.settle();
}

#[test]
fn with_a_node_its_clean_members_leave_and_its_persistent_ones_are_away() {
    let mut home = Home::new();
    tell_of(&mut home, 1, "a", false);
    home.publish("1");
    let node_epoch = NodeEpoch(5);
    home.shard.apply(&Command::NodeGone { node_epoch });
    assert!(home.shard.durable.groups.is_empty());
    // What was on its way when the node ended seats nobody who is gone.
    tell_of(&mut home, 2, "b", false);
    assert!(home.shard.durable.groups.is_empty());
    tell_of(&mut home, 3, "c", true);
    assert_eq!(home.publish("2"), 1);
    home.take();
    assert_eq!(home.publish("3"), 1);
    assert_eq!(home.take(), []);
    let counters = home.shard.durable.counters();
    assert_eq!((counters.groups, counters.group_members), (1, 1));
}
