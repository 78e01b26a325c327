use std::collections::BTreeMap;
use std::sync::Arc;

use mqtt::{ClientId, PacketId, QoS, ReasonCode, Templates};

use super::durable_test::{Shard, client, filter, message, open, origin};
use super::payloads::Held;
use super::queue::Entry;
use super::{
    DeliveryStep, Durable, DurableEffect, Limits, QueuePlace, RestoreError, RouteState, Row, RowKey,
};
use crate::{
    Acks, Answer, Close, Command, Enqueue, Epoch, MessageId, NodeEpoch, Seq, Subs, Unsubs, WallMs,
    WillFate,
};

type File = BTreeMap<RowKey, Row>;

fn flush(shard: &mut Shard, file: &mut File) {
    for (key, row) in shard.durable.take_rows() {
        match row {
            Some(row) => file.insert(key, row),
            None => file.remove(&key),
        };
    }
    shard.durable.handle_flushed();
}

fn limits(payload_cache_bytes: usize) -> Limits {
    Limits {
        payload_cache_bytes,
        ..Limits::default()
    }
}

fn restored(limits: Limits, file: &File) -> Result<Durable, RestoreError> {
    Durable::restore(limits, Templates::default(), file.values().cloned())
}

fn enqueue(shard: &mut Shard, topic: &str, payload: &str) {
    let mut message = (*message(topic, QoS::ExactlyOnce)).clone();
    message.payload = payload.to_owned().into();
    shard.apply(&Command::Enqueue(Enqueue {
        message: Arc::new(message),
        origin: None,
    }));
}

/// A shard whose sessions, one for each name, have so many messages in the file and none in
/// memory; their payloads are their numbers.
fn stored(names: &[&str], messages: usize, limits: Limits) -> (Shard, File) {
    let mut shard = Shard::new(limits);
    let mut file = File::new();
    for (connection, name) in (1..).zip(names) {
        let epoch = shard.open(name, connection);
        shard.subscribe(name, epoch, &[name]);
    }
    for number in 0..messages {
        for name in names {
            enqueue(&mut shard, name, &number.to_string());
        }
    }
    flush(&mut shard, &mut file);
    shard.durable = restored(limits, &file).expect("the rows agree");
    shard.durable.handle_lead();
    (shard, file)
}

fn loads(effects: &[DurableEffect]) -> Vec<MessageId> {
    let load = |effect: &DurableEffect| match effect {
        DurableEffect::Load { message } => Some(*message),
        _ => None,
    };
    effects.iter().filter_map(load).collect()
}

fn answer_load(shard: &mut Shard, file: &File, id: MessageId) {
    let Some(Row::Message(_, message)) = file.get(&RowKey::Message(id)) else {
        panic!("message {id} is not in the file");
    };
    shard.durable.handle_loaded(id, Arc::clone(message));
}

/// Client and payload of what is delivered.
fn delivered(effects: &[DurableEffect]) -> Vec<(ClientId, String)> {
    let publish = |effect: &DurableEffect| match effect {
        DurableEffect::Deliver(delivery) => match &delivery.step {
            DeliveryStep::Publish { message, .. } => {
                let payload = String::from_utf8(message.payload.to_vec()).expect("a number");
                Some((delivery.client.clone(), payload))
            }
            DeliveryStep::Release => Some((delivery.client.clone(), "release".to_owned())),
        },
        _ => None,
    };
    effects.iter().filter_map(publish).collect()
}

#[test]
fn messages_are_read_ahead_once_and_delivered_in_order() {
    let (mut shard, file) = stored(&["a"], 40, Limits::default());

    let asked = loads(&shard.effects());
    assert_eq!(asked.len(), 32);
    enqueue(&mut shard, "a", "40");
    assert_eq!(shard.effects(), [], "asked once until it is answered");

    let mut payloads = Vec::new();
    for id in asked.iter().rev() {
        answer_load(&mut shard, &file, *id);
        let effects = shard.effects();
        payloads.extend(delivered(&effects));
        for id in loads(&effects) {
            answer_load(&mut shard, &file, id);
        }
    }
    payloads.extend(delivered(&shard.effects()));
    let in_order = (0..41).map(|number| (client("a"), number.to_string()));
    assert_eq!(payloads, in_order.collect::<Vec<_>>());
}

#[test]
fn sessions_that_find_too_many_loads_under_way_take_turns() {
    let names = ["a", "b", "c", "d"];
    let (mut shard, file) = stored(&names, 3, limits(0));
    let mut payloads = Vec::new();
    loop {
        let effects = shard.effects();
        payloads.extend(delivered(&effects));
        let asked = loads(&effects);
        assert!(asked.len() <= 1, "the cache holds none");
        let Some(id) = asked.first() else { break };
        answer_load(&mut shard, &file, *id);
    }
    assert_eq!(payloads.len(), 12);
    for name in names {
        let of_one = payloads.iter().filter(|(c, _)| *c == client(name));
        assert!(of_one.map(|(_, payload)| payload).eq(["0", "1", "2"]));
    }
}

#[test]
fn a_load_of_what_was_acknowledged_meanwhile_ends_without_it() {
    let (mut shard, mut file) = stored(&["a"], 1, limits(0));
    let asked = loads(&shard.effects());
    let epoch = shard.durable.epoch(&client("a")).expect("it is open");
    shard.apply(&Command::Ack(vec![Acks {
        client: client("a"),
        epoch,
        seqs: vec![Seq(0)],
    }]));
    flush(&mut shard, &mut file);
    assert_eq!(file.get(&RowKey::Message(asked[0])), None);

    shard.durable.handle_not_found(asked[0]);

    assert_eq!(shard.effects(), []);
}

#[test]
#[should_panic(expected = "is queued and its row is gone")]
fn a_queued_message_without_a_row_ends_the_shard() {
    let (mut shard, _) = stored(&["a"], 1, limits(0));
    let asked = loads(&shard.effects());
    shard.durable.handle_not_found(asked[0]);
}

#[test]
fn a_release_needs_no_payload() {
    let (mut shard, _) = stored(&["a"], 1, limits(0));
    let epoch = shard.durable.epoch(&client("a")).expect("it is open");
    shard.apply(&Command::Rec {
        client: client("a"),
        epoch,
        seq: Seq(0),
    });
    shard.open("a", 9);

    let effects = shard.effects();

    assert_eq!(loads(&effects), []);
    assert_eq!(delivered(&effects), [(client("a"), "release".to_owned())]);
}

#[test]
fn a_message_is_held_once_for_all_its_sessions() {
    let mut shard = Shard::new(Limits::default());
    let mut file = File::new();
    let names: Vec<String> = (0..1_000).map(|number| format!("c{number}")).collect();
    let epochs: Vec<Epoch> = (1..).zip(&names).map(|(n, c)| shard.open(c, n)).collect();
    for (name, epoch) in names.iter().zip(&epochs) {
        shard.subscribe(name, *epoch, &["t"]);
    }

    enqueue(&mut shard, "t", "payload");

    let bytes = shard.durable.unflushed_bytes();
    assert!((1..1_000).contains(&bytes), "{bytes}");
    flush(&mut shard, &mut file);
    assert_eq!(shard.durable.unflushed_bytes(), 0);
    let rows = |file: &File, is: fn(&RowKey) -> bool| file.keys().filter(|key| is(key)).count();
    assert_eq!(rows(&file, |key| matches!(key, RowKey::Message(_))), 1);
    assert_eq!(rows(&file, |key| matches!(key, RowKey::Queued(..))), 1_000);

    for (at, (name, epoch)) in names.iter().zip(&epochs).enumerate() {
        assert_eq!(rows(&file, |key| matches!(key, RowKey::Message(_))), 1);
        shard.apply(&Command::Ack(vec![Acks {
            client: client(name),
            epoch: *epoch,
            seqs: vec![Seq(0)],
        }]));
        if at % 300 == 0 || at == 999 {
            flush(&mut shard, &mut file);
        }
    }
    assert_eq!(rows(&file, |key| matches!(key, RowKey::Message(_))), 0);
    assert_eq!(rows(&file, |key| matches!(key, RowKey::Queued(..))), 0);
}

#[test]
fn what_came_and_went_between_two_flushes_leaves_nothing() {
    let mut shard = Shard::new(Limits::default());
    shard.durable.take_rows();
    let epoch = shard.open("a", 1);
    shard.subscribe("a", epoch, &["t"]);
    enqueue(&mut shard, "t", "payload");
    let mut close = Close {
        client: client("a"),
        epoch,
        will: WillFate::Keep,
        expiry_s: Some(0),
    };
    shard.apply(&Command::Close(close.clone()));
    close.epoch = shard.open("b", 2);
    let version = u64::MAX;
    shard.apply(&Command::RoutesDone { version });

    let keys: Vec<RowKey> = shard.durable.take_rows().into_iter().map(|r| r.0).collect();

    assert_eq!(keys, [RowKey::Head, RowKey::Session(client("b"))]);
    assert_eq!(shard.durable.take_rows(), []);
}

#[test]
fn rows_that_contradict_each_other_are_refused_by_name() {
    let (_, file) = stored(&["a", "b"], 2, Limits::default());
    let at = |seq| QueuePlace::Sequenced(Seq(seq));
    let queued = |seq| RowKey::Queued(client("a"), at(seq));
    let error = |change: &dyn Fn(&mut Vec<Row>)| {
        let mut rows: Vec<Row> = file.values().cloned().collect();
        change(&mut rows);
        Durable::restore(Limits::default(), Templates::default(), rows).err()
    };
    let without = |key: RowKey| error(&|rows| rows.retain(|row| file[&key] != *row));
    let doubled = |key: &RowKey| error(&|rows| rows.push(file[key].clone()));
    let Row::Queued(_, _, one) = file[&queued(0)].clone() else {
        panic!("no queued message");
    };
    let with = |place, row: &super::QueuedRow| {
        error(&|rows| rows.push(Row::Queued(client("a"), place, row.clone())))
    };

    assert_eq!(error(&|_| {}), None);
    assert_eq!(error(&|rows| rows.reverse()), None);
    assert_eq!(error(&Vec::clear), None);
    assert_eq!(without(RowKey::Head), Some(RestoreError::NoHead));
    let no_session = RestoreError::NoSession {
        client: client("a"),
        place: at(0),
    };
    assert_eq!(without(RowKey::Session(client("a"))), Some(no_session));
    for key in file.keys() {
        if !matches!(key, RowKey::Message(_)) {
            assert_eq!(doubled(key), Some(RestoreError::Twice(key.clone())));
        }
    }
    let not_given = RestoreError::NotGiven {
        key: queued(2),
        number: 2,
        next: 2,
    };
    assert_eq!(with(at(2), &one), Some(not_given));
    let place = QueuePlace::Held(0);
    let no_topic = RestoreError::Queued {
        client: client("a"),
        place,
    };
    assert_eq!(with(place, &one), Some(no_topic));
    let mut unknown = one;
    unknown.message = MessageId(99);
    let no_message = RestoreError::NotGiven {
        key: RowKey::Message(MessageId(99)),
        number: 99,
        next: 4,
    };
    assert_eq!(with(at(7), &unknown), Some(no_message));
    let route = RowKey::Route(filter("a"));
    assert_eq!(without(route), Some(RestoreError::Route(filter("a"))));
    let stale = error(&|rows| {
        let state = RouteState {
            version: 1,
            wanted: true,
            pending: false,
        };
        rows.push(Row::Route(filter("x"), state));
    });
    assert_eq!(stale, Some(RestoreError::Route(filter("x"))));
}

#[test]
fn a_repeat_is_answered_from_the_rows() {
    let mut shard = Shard::new(Limits::default());
    let first = Command::Open(Box::new(open("a", 1, None)));
    let opened = shard.apply(&first);
    let epoch = shard.durable.epoch(&client("a")).expect("it is open");
    let subs = Subs {
        client: client("a"),
        epoch,
        filters: vec![(filter("t"), crate::Subscription::default())],
    };
    let subs = Command::Subs(Box::new(subs));
    let subscribed = shard.apply(&subs);
    let q2_in = |id| Command::Q2In {
        client: client("a"),
        epoch,
        packet_id: PacketId::new(id).expect("not zero"),
    };
    let numbers = [shard.apply(&q2_in(3)), shard.apply(&q2_in(4))];
    let unsubs = Command::Unsubs(Box::new(Unsubs {
        client: client("a"),
        epoch,
        filters: vec![filter("t")],
    }));
    let repeat = |shard: &Shard, command: &Command| shard.durable.answer_repeat(command);

    assert_eq!(repeat(&shard, &first), opened);
    assert_eq!(repeat(&shard, &subs), subscribed);
    assert_eq!(repeat(&shard, &q2_in(3)), numbers[0]);
    assert_eq!(repeat(&shard, &q2_in(4)), numbers[1]);
    let refused = Answer::Refused(ReasonCode::ReceiveMaximumExceeded);
    assert_eq!(repeat(&shard, &q2_in(5)), refused);
    let unsubscribed = shard.apply(&unsubs);
    assert_eq!(repeat(&shard, &unsubs), unsubscribed);
    let again = repeat(
        &shard,
        &Command::Enqueue(Enqueue {
            message: message("t", QoS::ExactlyOnce),
            origin: origin(1, 0, 0).map(Box::new),
        }),
    );
    assert!(matches!(again, Answer::Enqueued { repeat: true, .. }));

    let newer = shard.open("a", 2);
    let current = Some(newer);
    for stale in [first, subs, unsubs, q2_in(3)] {
        let lost = Answer::WrongEpoch { current };
        assert_eq!(repeat(&shard, &stale), lost, "{stale:?}");
    }
}

#[test]
fn only_connected_sessions_name_their_node_epoch() {
    let mut shard = Shard::new(Limits::default());
    let named = |shard: &Shard| shard.durable.node_epochs().collect::<Vec<_>>();
    for (connection, (name, node)) in (1..).zip([("a", 3), ("b", 2), ("c", 3)]) {
        let mut open = open(name, connection, None);
        open.node_epoch = NodeEpoch(node);
        shard.apply(&Command::Open(Box::new(open)));
    }
    assert_eq!(named(&shard), [NodeEpoch(2), NodeEpoch(3)]);

    let close = |name: &str, epoch| {
        Command::Close(Close {
            client: client(name),
            epoch,
            will: WillFate::Keep,
            expiry_s: None,
        })
    };
    let epoch = shard.durable.epoch(&client("a")).expect("it is open");
    shard.apply(&close("a", epoch));
    assert_eq!(named(&shard), [NodeEpoch(2), NodeEpoch(3)]);
    // The other session of that node moves to node 1.
    shard.open("c", 9);
    assert_eq!(named(&shard), [NodeEpoch(1), NodeEpoch(2)]);
    let node_epoch = NodeEpoch(2);
    shard.apply(&Command::NodeGone { node_epoch });
    assert_eq!(named(&shard), [NodeEpoch(1)]);
}

/// Of a million queued messages each costs its entry, with room for half of one more, and its row
/// of the message table, whose nodes are half full.
#[test]
fn a_queued_message_whose_payload_is_away_costs_few_bytes() {
    let entry = size_of::<Entry>();
    let row = size_of::<MessageId>() + size_of::<Held>();
    assert!(entry <= 48, "{entry}");
    assert!(row <= 24, "{row}");
    assert!(entry + entry / 2 + 2 * row <= 120);
}

#[test]
fn shard_time_goes_on_after_a_restart() {
    let (mut shard, file) = stored(&["a"], 1, Limits::default());
    let time = shard.durable.time();
    assert_ne!(time, WallMs(0));
    let index = shard.durable.index() + 1;
    shard
        .durable
        .apply(index, WallMs(1), &Command::ExpireRetained);
    assert_eq!(shard.durable.time(), time);
    assert_eq!(file.len(), 5, "head, session, message twice, route");
}
