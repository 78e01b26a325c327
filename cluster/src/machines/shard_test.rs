use bytes::Bytes;
use cluster_core::{Attempt, Body, EpochView, LogTime, NodeEpoch, WallMs};
use mqtt::{ClientId, Templates};
use rand::Rng;
use session::{
    Answer, Command, ConnectionId, Delivery, DurableEffect, Epoch, Identity, Limits, Open,
};

use super::kept_test::{Kept, crashes_change_nothing, harmed_rows_are_named, restored};
use super::shard_commands_test::Leader;
use crate::{
    Machine, Outcome, ShardConfig, ShardEntry, ShardItem, ShardMachine, decode_message,
    message_row_key,
};

/// Small, so that the bounds are met.
fn config() -> ShardConfig {
    ShardConfig {
        limits: Limits {
            sessions: 3,
            queue_messages: 6,
            sent_ahead: 1,
            subscriptions: 3,
            q2_open: 2,
            retained_messages: 3,
            tombstones: 2,
            tombstone_s: 20,
            outbox_routes: 8,
            outbox_wills: 3,
            replay_s: 5,
            origins: 3,
            origin_s: 60,
            payload_cache_bytes: 600,
            ..Limits::default()
        },
        templates: Templates::parse(["t/{client_id}"]).expect("a template"),
    }
}

#[test]
fn a_crash_changes_nothing_of_a_shard() {
    let mut deliveries_made = 0;
    for seed in 0..150 {
        let mut leader = Leader::default();
        let (mut crashed, mut spared) = crashes_change_nothing::<ShardMachine>(
            &config(),
            seed,
            |rng, _, machine| leader.entry(rng, machine),
            |rng, kept| {
                // What is handed out, and what is in memory, decides nothing.
                for _ in 0..rng.random_range(0..6) {
                    let _ = deliver(kept);
                }
            },
        );
        if seed % 10 == 0 {
            harmed_rows_are_named::<ShardMachine>(&config(), &spared.rows(), seed);
        }
        assert_eq!(crashed.machine.receiver(), spared.machine.receiver());
        let counters = spared.machine.durable().counters();
        assert_eq!(crashed.machine.durable().counters(), counters);
        assert_eq!(crashed.machine.durable().unflushed_bytes(), 0);
        let delivered = deliveries(&mut crashed);
        assert_eq!(delivered, deliveries(&mut spared));
        deliveries_made += delivered.len();
        assert_eq!(crashed.machine.durable().counters(), counters);
        assert!(crashed.machine.changes().is_empty());
    }
    assert!(deliveries_made > 50, "{deliveries_made} deliveries");
}

fn open(client: &str, expected: Option<u64>, connection: u64) -> Command {
    let client = ClientId::try_from(client).unwrap();
    Command::Open(Box::new(Open {
        identity: Identity(client.text().clone()),
        client,
        expected_epoch: expected.map(Epoch),
        node_epoch: session::NodeEpoch(5),
        connection: ConnectionId(connection),
        clean_start: false,
        persistent: true,
        expiry_s: 100,
        receive_maximum: 10,
        will: None,
    }))
}

fn item(n: u64, command: Command) -> ShardItem {
    ShardItem::Item {
        epoch: NodeEpoch(5),
        attempt: Attempt(0),
        n,
        body: Body::Item(command),
    }
}

fn entry(items: Vec<ShardItem>) -> Vec<u8> {
    let time = LogTime {
        time: WallMs(1_000),
        wall: Some(WallMs(1_500)),
    };
    ShardEntry { time, items }.encode()
}

fn epochs(index: u64, current: u64) -> ShardItem {
    ShardItem::Epochs(EpochView {
        index,
        begun: NodeEpoch(current),
        current: [NodeEpoch(current)].into(),
    })
}

fn opened(epoch: u64) -> Outcome {
    Outcome::Applied(Answer::Opened {
        epoch: Epoch(epoch),
        incarnation: Epoch(epoch),
        session_present: false,
    })
}

#[test]
fn ownerships_of_one_entry_have_numbers_of_their_own() {
    let mut kept = Kept::<ShardMachine>::new(config());
    let two = entry(vec![
        item(0, open("a", None, 1)),
        item(1, open("b", None, 2)),
    ]);

    let answers = kept.machine.apply(70, &two).unwrap();
    assert_eq!(answers, [opened(1), opened(2)]);

    let more = entry(vec![item(2, open("c", None, 3))]);
    let answers = kept.machine.apply(71, &more).unwrap();
    assert_eq!(answers, [opened(3)]);
}

#[test]
fn a_repeat_is_answered_as_the_first_and_a_gap_with_what_is_wanted() {
    let mut kept = Kept::<ShardMachine>::new(config());
    kept.apply(&entry(vec![item(0, open("a", None, 1))]));
    kept.flush();
    kept.crash();

    let answers = kept.machine.apply(
        2,
        &entry(vec![
            item(0, open("a", None, 1)),
            item(2, open("b", None, 2)),
            item(1, open("c", None, 3)),
        ]),
    );

    let gap = Outcome::Gap { next: 1 };
    assert_eq!(answers.unwrap(), [opened(1), gap, opened(2)]);
    let client = |text| ClientId::try_from(text).unwrap();
    assert_eq!(kept.machine.durable().epoch(&client("b")), None);
}

#[test]
fn the_end_of_an_epoch_ends_its_stream_and_disconnects_its_sessions() {
    let mut kept = Kept::<ShardMachine>::new(config());
    // The state names the epoch, and no stream does: the leader itself opened the session.
    kept.apply(&entry(vec![ShardItem::Duty(open("a", None, 1))]));
    assert_eq!(kept.machine.durable().node_epochs().count(), 1);
    assert_eq!(kept.machine.durable().next_deadline(), None);

    kept.apply(&entry(vec![epochs(9, 6)]));

    assert_eq!(kept.machine.durable().node_epochs().count(), 0);
    let expiry = session::WallMs(101_000);
    assert_eq!(kept.machine.durable().next_deadline(), Some(expiry));
    let late = entry(vec![item(0, open("a", Some(1), 2))]);
    let answers = kept.machine.apply(3, &late).unwrap();
    assert_eq!(answers, [Outcome::Ended]);
}

#[test]
fn an_entry_that_cannot_be_read_changes_nothing() {
    let mut kept = Kept::<ShardMachine>::new(config());
    let mut damaged = entry(vec![item(0, open("a", None, 1)), epochs(9, 6)]);
    damaged.pop();

    let error = kept.machine.apply(1, &damaged).unwrap_err();

    assert_eq!(error.to_string(), "entry of a shard: ends 1 bytes early");
    assert!(kept.machine.changes().is_empty());
    assert_eq!(kept.machine.durable().sessions(), 0);
}

#[test]
fn the_row_of_the_streams_has_these_bytes() {
    let mut kept = Kept::<ShardMachine>::new(config());
    kept.apply(&entry(vec![epochs(9, 5), item(0, open("a", None, 1))]));

    kept.flush();

    let golden = [
        &b"\x01\x09\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x01\0\0\0\x05\0\0\0\0\0\0\0"[..],
        b"\x01\0\0\0\x05\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x01\xdc\x05\0\0\0\0\0\0",
    ]
    .concat();
    assert_eq!(kept.value(1, b"").unwrap(), golden);
    let kinds: Vec<u8> = kept.rows().iter().map(|row| row.kind).collect();
    assert_eq!(kinds, [1, 2, 3]);
}

#[test]
fn a_damaged_row_of_a_shard_is_named() {
    let mut kept = Kept::<ShardMachine>::new(config());
    kept.apply(&entry(vec![item(0, open("a", None, 1))]));
    kept.flush();
    let error = |harm: &dyn Fn(&mut Vec<storage::state::Row>)| {
        let mut rows = kept.rows();
        harm(&mut rows);
        let error = restored::<ShardMachine>(&config(), rows).unwrap_err();
        error.to_string()
    };

    assert_eq!(
        error(&|rows| rows[2].value.truncate(3)),
        r#"row 3 "a\x00" of a shard: ends 1 bytes early"#
    );
    assert_eq!(
        error(&|rows| rows[1].value = Bytes::from_static(b"\x02")),
        r#"row 2 "" of a shard: version 2 is unknown, 1 is the newest known"#
    );
    assert!(error(&|rows| rows.push(rows[2].clone())).starts_with(r#"row 3 "a\x00" of a shard: "#));
}

#[test]
fn payloads_are_not_read_at_a_start() {
    let mut kept = Kept::<ShardMachine>::new(config());
    kept.apply(&entry(vec![item(0, open("a", None, 1))]));
    kept.flush();
    let mut rows = kept.rows();
    let (kind, key) = message_row_key(session::MessageId(3));
    rows.push(storage::state::Row {
        kind,
        key: key.into(),
        value: Bytes::from_static(b"no message"),
    });
    rows.sort_by(|a, b| (a.kind, &a.key).cmp(&(b.kind, &b.key)));

    assert!(restored::<ShardMachine>(&config(), rows).is_ok());
}

/// Takes an effect; a message that is to be loaded comes from its row. Returns what is delivered,
/// or `None` if nothing was to be done.
fn deliver(kept: &mut Kept<ShardMachine>) -> Option<Option<Delivery>> {
    if !kept.machine.durable().leads() {
        kept.machine.durable_mut().handle_lead();
    }
    let message = match kept.machine.durable_mut().poll_effect()? {
        DurableEffect::Load { message } => message,
        DurableEffect::Deliver(delivery) => return Some(Some(delivery)),
        _ => return Some(None),
    };
    let (kind, key) = message_row_key(message);
    let value = kept.value(kind, &key);
    let durable = kept.machine.durable_mut();
    match value {
        Some(value) => {
            let loaded = decode_message(message, &value).unwrap();
            durable.handle_loaded(message, loaded.into());
        }
        // An effect may outlive the need for its message, and then the row too.
        None => {
            durable.handle_not_found(message);
            let again = DurableEffect::Load { message };
            assert_ne!(durable.poll_effect(), Some(again), "needed, and nowhere");
        }
    }
    Some(None)
}

/// All that a machine delivers after a start, by session and sequence.
fn deliveries(kept: &mut Kept<ShardMachine>) -> Vec<Delivery> {
    kept.crash();
    let effects = std::iter::from_fn(|| deliver(kept));
    let mut deliveries: Vec<Delivery> = effects.flatten().collect();
    deliveries.sort_by(|a, b| (&a.client, a.seq).cmp(&(&b.client, b.seq)));
    deliveries
}
