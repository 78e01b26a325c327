use std::collections::BTreeMap;

use mqtt::{PacketId, QoS, Templates};

use super::durable_test::{Shard, client};
use super::{Durable, DurableEffect, Limits, MembershipRow, Row, RowKey};
use crate::{Answer, Command, Epoch};

const FLOOR: u64 = 1 << 48;

/// One session with two filters, of which the routes have been told, and a queued message.
fn shard() -> (Shard, Epoch) {
    let mut shard = Shard::new(Limits::default());
    let epoch = shard.open("c", 1);
    shard.subscribe("c", epoch, &["a", "b", "$share/g/s"]);
    let last = shard.routes().last().expect("two rows").2;
    shard.apply(&Command::RoutesDone { version: last });
    shard.enqueue("a", QoS::AtLeastOnce, None);
    (shard, epoch)
}

fn q2_in(shard: &mut Shard, epoch: Epoch, id: u16) -> Answer {
    shard.apply(&Command::Q2In {
        client: client("c"),
        epoch,
        packet_id: PacketId::new(id).expect("not 0"),
    })
}

#[test]
fn every_number_goes_on_above_all_that_lost_entries_may_have_given() {
    let (mut shard, epoch) = shard();

    shard.durable.handle_recovered(FLOOR);
    shard.durable.handle_lead();

    assert!(shard.durable.index() >= FLOOR && shard.durable.route_version() > FLOOR);
    let effects = shard.effects();
    let mut told = BTreeMap::new();
    for effect in effects {
        match effect {
            DurableEffect::Route(row) => {
                told.insert(row.filter.to_string(), row.version);
            }
            DurableEffect::Membership(row) => {
                told.insert(row.filter.to_string(), row.version);
            }
            other => panic!("nobody is connected: {other:?}"),
        }
    }
    let filters: Vec<&str> = told.keys().map(String::as_str).collect();
    assert_eq!(filters, ["$share/g/s", "a", "b"], "every row is told anew");
    assert!(told.values().all(|version| *version > FLOOR), "{told:?}");
    let next = shard.open("c", 2);
    assert!(next > Epoch(FLOOR) && next > epoch);
}

#[test]
fn who_was_connected_has_lost_the_session_and_gets_what_waits_once_it_is_back() {
    let (mut shard, epoch) = shard();

    shard.durable.handle_recovered(FLOOR);
    shard.durable.handle_lead();

    let refused = shard.subscribe("c", epoch, &["late"]);
    let current = Some(Epoch(FLOOR));
    assert_eq!(refused, Answer::WrongEpoch { current });
    shard.effects();
    shard.open("c", 2);
    let deliveries = shard.effects();
    let is_delivery = |effect: &&DurableEffect| matches!(effect, DurableEffect::Deliver(_));
    assert_eq!(deliveries.iter().filter(is_delivery).count(), 1);
}

#[test]
fn an_exchange_that_is_open_keeps_its_number_and_a_new_one_takes_none_that_was_lost() {
    let (mut shard, epoch) = shard();
    let known = q2_in(&mut shard, epoch, 7);
    let Answer::Q2In { n, .. } = known else {
        panic!("a number: {known:?}");
    };

    shard.durable.handle_recovered(FLOOR);

    let epoch = shard.open("c", 2);
    let again = q2_in(&mut shard, epoch, 7);
    assert!(
        matches!(again, Answer::Q2In { n: m, .. } if m == n),
        "{again:?}"
    );
    let new = q2_in(&mut shard, epoch, 8);
    assert!(
        matches!(new, Answer::Q2In { n, .. } if n >= FLOOR),
        "{new:?}"
    );
}

#[test]
fn a_recovered_state_is_the_same_made_of_its_rows() {
    let (mut shard, epoch) = shard();
    q2_in(&mut shard, epoch, 7);
    let mut file: BTreeMap<RowKey, Row> = BTreeMap::new();
    let mut flush = |shard: &mut Shard| {
        for (key, row) in shard.durable.take_rows() {
            match row {
                Some(row) => file.insert(key, row),
                None => file.remove(&key),
            };
        }
        shard.durable.handle_flushed();
        file.clone()
    };
    flush(&mut shard);
    shard.durable.handle_recovered(FLOOR);
    let file = flush(&mut shard);

    let rows = file.values().cloned();
    let restored = Durable::restore(Limits::default(), Templates::default(), rows);

    let mut restored = restored.expect("the rows agree");
    assert_eq!(restored.index(), shard.durable.index());
    assert_eq!(restored.route_version(), shard.durable.route_version());
    assert_eq!(
        restored.membership_version(),
        shard.durable.membership_version()
    );
    assert_eq!(restored.epoch(&client("c")), Some(Epoch(FLOOR)));
    restored.handle_lead();
    shard.durable.handle_lead();
    // For which versions a membership is told is no part of the state.
    let stored = |effect: DurableEffect| match effect {
        DurableEffect::Membership(row) => {
            DurableEffect::Membership(MembershipRow { since: 0, ..row })
        }
        other => other,
    };
    let effects = std::iter::from_fn(|| restored.poll_effect()).map(stored);
    let expected: Vec<_> = shard.effects().into_iter().map(stored).collect();
    assert_eq!(effects.collect::<Vec<_>>(), expected);
}

#[test]
#[should_panic(expected = "goes on above")]
fn a_floor_below_what_was_given_is_refused() {
    let (mut shard, _) = shard();
    shard.durable.handle_recovered(FLOOR);
    shard.durable.handle_recovered(FLOOR);
}
