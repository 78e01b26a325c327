use std::sync::Arc;

use mqtt::{ClientId, Filter, QoS, ReasonCode, SubscribeOptions, Templates};

use super::{Durable, DurableEffect, Limits};
use crate::{
    Acks, Answer, Close, Command, ConnectionId, Enqueue, Epoch, Identity, Message, NodeEpoch, Open,
    Origin, OriginKind, Replay, Retain, Retained, Seq, Stamp, Subs, Subscription, Unsubs, WallMs,
    WillFate,
};

pub(super) struct Shard {
    pub(super) durable: Durable,
    time: WallMs,
}

impl Shard {
    pub(super) fn new(limits: Limits) -> Self {
        Self::with_templates(limits, Templates::default())
    }

    pub(super) fn with_templates(limits: Limits, templates: Templates) -> Self {
        let mut durable = Durable::with_templates(limits, templates);
        durable.handle_lead();
        Self {
            durable,
            time: WallMs(1_000_000),
        }
    }

    pub(super) fn apply(&mut self, command: &Command) -> Answer {
        let index = self.durable.index() + 1;
        self.durable.apply(index, self.time, command)
    }

    pub(super) fn open(&mut self, name: &str, connection: u64) -> Epoch {
        let open = open(name, connection, self.durable.epoch(&client(name)));
        match self.apply(&Command::Open(Box::new(open))) {
            Answer::Opened { epoch, .. } => epoch,
            other => panic!("not opened: {other:?}"),
        }
    }

    pub(super) fn subscribe(&mut self, name: &str, epoch: Epoch, filters: &[&str]) -> Answer {
        let options = SubscribeOptions {
            qos: QoS::ExactlyOnce,
            ..SubscribeOptions::default()
        };
        let subscription = Subscription { options, id: None };
        let answer = self.apply(&Command::Subs(Box::new(Subs {
            client: client(name),
            epoch,
            filters: filters.iter().map(|f| (filter(f), subscription)).collect(),
        })));
        for f in filters {
            self.apply(&Command::Replay(Box::new(Replay {
                client: client(name),
                epoch,
                filter: filter(f),
                rows: Vec::new(),
            })));
        }
        answer
    }

    pub(super) fn enqueue(&mut self, topic: &str, qos: QoS, origin: Option<Origin>) -> Answer {
        self.apply(&Command::Enqueue(Enqueue {
            message: message(topic, qos),
            origin: origin.map(Box::new),
        }))
    }

    pub(super) fn effects(&mut self) -> Vec<DurableEffect> {
        std::iter::from_fn(|| self.durable.poll_effect()).collect()
    }

    pub(super) fn routes(&mut self) -> Vec<(String, bool, u64)> {
        let routes = self
            .effects()
            .into_iter()
            .filter_map(|effect| match effect {
                DurableEffect::Route(row) => {
                    Some((row.filter.to_string(), row.wanted, row.version))
                }
                _ => None,
            });
        routes.collect()
    }
}

pub(super) fn client(name: &str) -> ClientId {
    name.try_into().expect("a client id")
}

pub(super) fn filter(text: &str) -> Filter {
    text.try_into().expect("a filter")
}

pub(super) fn message(topic: &str, qos: QoS) -> Arc<Message> {
    Arc::new(Message {
        topic: topic.try_into().expect("a topic"),
        payload: "m".into(),
        qos,
        retain: false,
        properties: None,
        publisher: None,
        received: WallMs(0),
        expiry: None,
    })
}

pub(super) fn open(name: &str, connection: u64, expected_epoch: Option<Epoch>) -> Open {
    Open {
        client: client(name),
        identity: Identity(name.try_into().expect("text")),
        expected_epoch,
        node_epoch: NodeEpoch(1),
        connection: ConnectionId(connection),
        clean_start: false,
        persistent: true,
        expiry_s: 60,
        receive_maximum: 10,
        will: None,
    }
}

pub(super) fn origin(incarnation: u64, n: u64, floor: u64) -> Option<Origin> {
    Some(Origin {
        client: client("p"),
        kind: OriginKind::Session,
        incarnation: Epoch(incarnation),
        n,
        floor,
    })
}

fn is_repeat(answer: &Answer) -> bool {
    matches!(answer, Answer::Enqueued { repeat: true, .. })
}

#[test]
fn a_connection_unseats_no_later_one_of_its_node_whatever_it_expects() {
    let mut shard = Shard::new(Limits::default());
    let later = shard.open("c", 8);

    let late = open("c", 7, Some(later));
    let answer = shard.apply(&Command::Open(Box::new(late.clone())));
    assert_eq!(answer, Answer::Refused(ReasonCode::ServerUnavailable));
    // Another node's connections are in no order with these; the count of connections wraps.
    let elsewhere = Open {
        node_epoch: NodeEpoch(2),
        ..late
    };
    let answer = shard.apply(&Command::Open(Box::new(elsewhere)));
    assert!(matches!(answer, Answer::Opened { .. }), "{answer:?}");
    assert!(ConnectionId(u64::from(u32::MAX)).is_older_than(ConnectionId(3)));
    assert!(!ConnectionId(3).is_older_than(ConnectionId(u64::from(u32::MAX))));
    assert!(!ConnectionId(3).is_older_than(ConnectionId(3)));
}

#[test]
fn an_open_with_another_expected_epoch_changes_nothing() {
    let mut shard = Shard::new(Limits::default());
    let epoch = shard.open("a", 1);

    let delayed = Command::Open(Box::new(open("a", 2, None)));
    let answer = shard.apply(&delayed);

    let current = Some(epoch);
    assert_eq!(answer, Answer::WrongEpoch { current });
    assert_eq!(shard.durable.epoch(&client("a")), current);
}

#[test]
fn a_repeated_open_is_answered_as_the_first_was() {
    let mut shard = Shard::new(Limits::default());
    shard.open("a", 1);
    let second = open("a", 2, shard.durable.epoch(&client("a")));
    let command = Command::Open(Box::new(second));
    let first_answer = shard.apply(&command);

    let again = shard.apply(&command);

    assert_eq!(again, first_answer);
    assert!(matches!(
        again,
        Answer::Opened {
            session_present: true,
            ..
        }
    ));
}

#[test]
fn an_ended_ownership_commits_nothing() {
    let mut shard = Shard::new(Limits::default());
    let old = shard.open("a", 1);
    shard.subscribe("a", old, &["t"]);
    shard.enqueue("t", QoS::ExactlyOnce, None);
    let new = shard.open("a", 2);
    let client = client("a");
    let epoch = old;
    let packet_id = mqtt::PacketId::MIN;
    let seq = Seq(0);
    let stale = [
        Command::Q2In {
            client: client.clone(),
            epoch,
            packet_id,
        },
        Command::Q2Out {
            client: client.clone(),
            epoch,
            packet_id,
        },
        Command::Rec {
            client: client.clone(),
            epoch,
            seq,
        },
        Command::Close(Close {
            client: client.clone(),
            epoch,
            will: WillFate::Keep,
            expiry_s: None,
        }),
        Command::Unsubs(Box::new(Unsubs {
            client: client.clone(),
            epoch,
            filters: vec![filter("t")],
        })),
    ];

    for command in &stale {
        let current = Some(new);
        assert_eq!(shard.apply(command), Answer::WrongEpoch { current });
    }
    let seqs = vec![seq];
    shard.apply(&Command::Ack(vec![Acks {
        client,
        epoch,
        seqs,
    }]));

    assert_eq!(shard.durable.counters().queue_messages, 1);
}

#[test]
fn expire_ends_only_a_session_still_disconnected_under_that_epoch() {
    let mut shard = Shard::new(Limits::default());
    let first = shard.open("a", 1);
    let expire = |epoch| Command::Expire {
        client: client("a"),
        incarnation: first,
        epoch,
    };
    let close = |epoch| {
        Command::Close(Close {
            client: client("a"),
            epoch,
            will: WillFate::Keep,
            expiry_s: None,
        })
    };
    shard.apply(&close(first));
    shard.time = shard.time.plus_s(59);
    shard.apply(&expire(first));
    assert_eq!(shard.durable.sessions(), 1, "its time has not come");
    let second = shard.open("a", 2);
    shard.apply(&close(second));
    shard.time = shard.time.plus_s(60);
    shard.apply(&expire(first));
    assert_eq!(shard.durable.sessions(), 1, "it was owned since");

    shard.apply(&expire(second));

    assert_eq!(shard.durable.sessions(), 0);
    assert_eq!(shard.durable.next_deadline(), None);
}

#[test]
fn shard_time_never_goes_back() {
    let mut shard = Shard::new(Limits::default());
    shard.open("a", 1);
    shard.time = WallMs(5);

    shard.open("b", 2);

    assert_eq!(shard.durable.time(), WallMs(1_000_000));
}

#[test]
fn only_the_first_and_last_subscriber_of_a_filter_write_a_route_row() {
    let mut shard = Shard::new(Limits::default());
    let a = shard.open("a", 1);
    let b = shard.open("b", 2);
    shard.subscribe("a", a, &["t"]);
    let answer = shard.subscribe("b", b, &["t"]);
    assert_eq!(shard.routes(), [("t".to_owned(), true, 1)]);
    let Answer::Subscribed(results) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(results[0].version, 1, "the row that the second waits for");

    for (name, epoch) in [("a", a), ("b", b)] {
        shard.apply(&Command::Unsubs(Box::new(Unsubs {
            client: client(name),
            epoch,
            filters: vec![filter("t")],
        })));
    }

    assert_eq!(shard.routes(), [("t".to_owned(), false, 2)]);
}

#[test]
fn the_outbox_keeps_one_row_a_filter_until_the_routes_have_it() {
    let mut shard = Shard::new(Limits::default());
    let epoch = shard.open("a", 1);
    for _ in 0..3 {
        shard.subscribe("a", epoch, &["t"]);
        shard.apply(&Command::Unsubs(Box::new(Unsubs {
            client: client("a"),
            epoch,
            filters: vec![filter("t")],
        })));
    }
    assert_eq!(shard.durable.counters().outbox_routes, 1);
    assert_eq!(shard.routes(), [("t".to_owned(), false, 6)]);
    assert_eq!(shard.routes(), [], "told once");

    shard.durable.handle_lead();
    assert_eq!(shard.routes().len(), 1, "told again by a new leader");
    shard.apply(&Command::RoutesDone { version: 6 });
    shard.durable.handle_lead();

    assert_eq!(shard.routes(), []);
    assert_eq!(shard.durable.counters().outbox_routes, 0);
}

#[test]
fn the_end_of_a_session_withdraws_its_routes_and_queue() {
    let mut shard = Shard::new(Limits::default());
    let epoch = shard.open("a", 1);
    shard.subscribe("a", epoch, &["t", "u"]);
    shard.enqueue("t", QoS::AtLeastOnce, None);
    shard.routes();

    shard.apply(&Command::Close(Close {
        client: client("a"),
        epoch,
        will: WillFate::Keep,
        expiry_s: Some(0),
    }));

    let withdrawn = shard.routes();
    assert_eq!(withdrawn.len(), 2);
    assert!(withdrawn.iter().all(|(_, wanted, _)| !wanted));
    let counters = shard.durable.counters();
    assert_eq!((counters.queue_messages, counters.queue_bytes), (0, 0));
    assert_eq!(counters.dropped_session_end, 1);
}

#[test]
fn repeats_of_a_qos_2_message_are_dropped_by_their_origin() {
    let mut shard = Shard::new(Limits::default());
    let epoch = shard.open("a", 1);
    shard.subscribe("a", epoch, &["t"]);
    let qos = QoS::ExactlyOnce;

    let first = shard.enqueue("t", qos, origin(5, 0, 0));
    let repeat = shard.enqueue("t", qos, origin(5, 0, 0));
    let next = shard.enqueue("t", qos, origin(5, 1, 1));
    let below_floor = shard.enqueue("t", qos, origin(5, 0, 0));
    let newer = shard.enqueue("t", qos, origin(6, 0, 0));
    let older = shard.enqueue("t", qos, origin(5, 9, 0));

    let answers = [first, repeat, next, below_floor, newer, older];
    let repeats = answers.map(|answer| is_repeat(&answer));
    assert_eq!(repeats, [false, true, false, true, false, true]);
    assert_eq!(shard.durable.counters().queue_messages, 3);
}

#[test]
fn q2_in_answers_a_repeat_with_its_number_and_bounds_the_open_ones() {
    let limits = Limits {
        q2_open: 2,
        ..Limits::default()
    };
    let mut shard = Shard::new(limits);
    let epoch = shard.open("a", 1);
    let id = |id| mqtt::PacketId::new(id).expect("above 0");
    let q2_in = |packet_id| Command::Q2In {
        client: client("a"),
        epoch,
        packet_id,
    };

    let first = shard.apply(&q2_in(id(7)));
    let second = shard.apply(&q2_in(id(8)));
    let repeat = shard.apply(&q2_in(id(7)));
    let third = shard.apply(&q2_in(id(9)));
    shard.apply(&Command::Q2Out {
        client: client("a"),
        epoch,
        packet_id: id(7),
    });
    let again = shard.apply(&q2_in(id(7)));

    assert_eq!(first, Answer::Q2In { n: 0, floor: 0 });
    assert_eq!(second, Answer::Q2In { n: 1, floor: 0 });
    assert_eq!(repeat, first);
    let full = ReasonCode::ReceiveMaximumExceeded;
    assert_eq!(third, Answer::Refused(full));
    assert_eq!(again, Answer::Q2In { n: 2, floor: 1 });
}

#[test]
fn a_lower_stamp_of_the_same_publisher_is_refused_even_after_a_deletion() {
    let mut shard = Shard::new(Limits::default());
    let mut retain = |publisher: &str, seq, delete: bool| {
        let stamp = Stamp {
            publisher: Some(client(publisher)),
            epoch: Epoch(1),
            seq,
        };
        let mut retain = Retain::of(&message("t", QoS::AtLeastOnce), stamp);
        if delete {
            retain.message = None;
        }
        shard.apply(&Command::Retain(retain))
    };

    let answers = [
        retain("a", 5, false),
        retain("a", 4, false),
        retain("b", 0, false),
        retain("a", 6, true),
        retain("a", 5, false),
        retain("a", 7, false),
    ];

    let (stored, older) = (
        Answer::Retained(Retained::Stored),
        Answer::Retained(Retained::Older),
    );
    let expected = [&stored, &older, &stored, &stored, &older, &stored];
    assert_eq!(answers.each_ref(), expected);
}

#[test]
fn a_full_retained_store_refuses_new_topics_and_still_replaces() {
    let limits = Limits {
        retained_messages: 1,
        ..Limits::default()
    };
    let mut shard = Shard::new(limits);
    let mut retain = |topic| {
        let stamp = Stamp {
            publisher: None,
            epoch: Epoch(0),
            seq: 0,
        };
        let retain = Retain::of(&message(topic, QoS::AtLeastOnce), stamp);
        shard.apply(&Command::Retain(retain))
    };

    let answers = [retain("a"), retain("b"), retain("a")];

    let (stored, full) = (
        Answer::Retained(Retained::Stored),
        Answer::Retained(Retained::Full),
    );
    assert_eq!(answers.each_ref(), [&stored, &full, &stored]);
    assert_eq!(shard.durable.counters().retained_full, 1);
}

#[test]
fn a_replay_that_does_not_come_is_given_up_after_its_time() {
    let mut shard = Shard::new(Limits::default());
    let epoch = shard.open("a", 1);
    let options = SubscribeOptions {
        qos: QoS::AtLeastOnce,
        ..SubscribeOptions::default()
    };
    let subscription = Subscription { options, id: None };
    shard.apply(&Command::Subs(Box::new(Subs {
        client: client("a"),
        epoch,
        filters: vec![(filter("t"), subscription)],
    })));
    shard.enqueue("t", QoS::AtLeastOnce, None);
    let is_delivery = |e: &DurableEffect| matches!(e, DurableEffect::Deliver(_));
    assert!(!shard.effects().iter().any(is_delivery));
    assert_eq!(shard.durable.due(shard.time.plus_s(4), 10), []);

    shard.time = shard.time.plus_s(5);
    for command in shard.durable.due(shard.time, 10) {
        shard.apply(&command);
    }

    assert!(shard.effects().iter().any(is_delivery));
    assert_eq!(shard.durable.counters().replays_missed, 1);
}

#[test]
fn an_ended_node_epoch_may_not_open_again() {
    let mut shard = Shard::new(Limits::default());
    shard.open("a", 1);
    let node_epoch = NodeEpoch(1);

    shard.apply(&Command::NodeGone { node_epoch });
    let answer = shard.apply(&Command::Open(Box::new(open("b", 2, None))));

    assert_eq!(answer, Answer::Refused(ReasonCode::ServerUnavailable));
}

#[test]
fn a_session_of_another_identity_is_refused() {
    let mut shard = Shard::new(Limits::default());
    let epoch = shard.open("a", 1);
    let mut other = open("a", 2, Some(epoch));
    other.identity = Identity("mallory".try_into().expect("text"));

    let answer = shard.apply(&Command::Open(Box::new(other)));

    assert_eq!(answer, Answer::OtherIdentity);
    assert_eq!(shard.durable.epoch(&client("a")), Some(epoch));
}

#[test]
fn equal_logs_give_equal_effects_and_answers() {
    let run = || {
        let mut shard = Shard::new(Limits::default());
        let mut seen = Vec::new();
        for number in 0..200_u64 {
            let name = format!("c{}", number * 7919 % 50);
            let epoch = shard.open(&name, number);
            let answer = shard.subscribe(&name, epoch, &["t/#", &format!("t/{}", number % 3)]);
            let queued = shard.enqueue(&format!("t/{}", number % 3), QoS::AtLeastOnce, None);
            seen.push(format!("{answer:?} {queued:?} {:?}", shard.effects()));
        }
        seen
    };

    assert_eq!(run(), run());
}
