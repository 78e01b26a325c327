use std::collections::{BTreeMap, BTreeSet};

use mqtt::{QoS, Templates};
use proptest::prelude::*;

use super::durable_test::{Shard, client, filter, open};
use super::{Durable, DurableEffect, Limits, Row, RowKey};
use crate::{Answer, Command, Epoch, Identity, Member, Membership, Open, Subs, Unsubs};

fn templates() -> Templates {
    Templates::parse(["cmd/{client_id}/#"]).expect("a template")
}

fn shard() -> Shard {
    Shard::with_templates(Limits::default(), templates())
}

/// The versions that an answer waits for.
fn versions(answer: &Answer) -> Vec<u64> {
    match answer {
        Answer::Subscribed(all) => all.iter().map(|one| one.version).collect(),
        Answer::Unsubscribed(all) => all.iter().map(|one| one.version).collect(),
        other => panic!("no answer about subscriptions: {other:?}"),
    }
}

fn unsubs(name: &str, epoch: Epoch, filters: &[&str]) -> Command {
    Command::Unsubs(Box::new(Unsubs {
        client: client(name),
        epoch,
        filters: filters.iter().map(|text| filter(text)).collect(),
    }))
}

/// Opens a session of somebody whose identity is not bound to the client id.
fn open_as(shard: &mut Shard, identity: &str, name: &str) -> Epoch {
    let command = Open {
        identity: Identity(identity.try_into().expect("text")),
        ..open(name, 1, None)
    };
    match shard.apply(&Command::Open(Box::new(command))) {
        Answer::Opened { epoch, .. } => epoch,
        other => panic!("not opened: {other:?}"),
    }
}

fn queued(shard: &mut Shard, topic: &str) -> u32 {
    match shard.enqueue(topic, QoS::AtLeastOnce, None) {
        Answer::Enqueued { taken, .. } => taken,
        other => panic!("not enqueued: {other:?}"),
    }
}

fn none() -> Vec<(String, bool, u64)> {
    Vec::new()
}

#[test]
fn a_clients_own_filter_has_no_row_and_gets_what_it_matches() {
    let mut shard = shard();
    let epoch = shard.open("a", 1);

    // Narrower ones too: all of it goes to the shard of the client.
    let subscribed = shard.subscribe("a", epoch, &["cmd/a/#", "cmd/a/x"]);

    assert_eq!(versions(&subscribed), [0, 0]);
    assert_eq!(shard.routes(), none());
    assert_eq!(queued(&mut shard, "cmd/a/x"), 1);
    assert_eq!(queued(&mut shard, "cmd/b/x"), 0);
    let unsubscribed = shard.apply(&unsubs("a", epoch, &["cmd/a/#", "cmd/a/x"]));
    assert_eq!(versions(&unsubscribed), [0, 0]);
    assert_eq!(shard.routes(), none());
    assert_eq!(queued(&mut shard, "cmd/a/x"), 0);
}

#[test]
fn everybody_else_takes_a_row() {
    let mut shard = shard();
    let (a, b) = (shard.open("a", 1), shard.open("b", 2));
    let wide = shard.subscribe("a", a, &["cmd/#", "cmd/b/#"]);
    assert_eq!(versions(&wide), [1, 2]);
    assert_eq!(versions(&shard.subscribe("b", b, &["cmd/b/#"])), [0]);
    let row = |filter: &str, wanted, version| (filter.to_owned(), wanted, version);
    assert_eq!(
        shard.routes(),
        [row("cmd/#", true, 1), row("cmd/b/#", true, 2)]
    );

    // The row is of those who need it, whether the client itself comes or goes.
    shard.apply(&unsubs("b", b, &["cmd/b/#"]));
    shard.subscribe("b", b, &["cmd/b/#"]);
    assert_eq!(shard.routes(), none());
    let last = shard.apply(&unsubs("a", a, &["cmd/b/#"]));
    assert_eq!(versions(&last), [3]);
    assert_eq!(shard.routes(), [row("cmd/b/#", false, 3)]);
}

#[test]
fn an_identity_that_is_not_bound_to_the_client_id_takes_a_row() {
    let mut shard = shard();
    let epoch = open_as(&mut shard, "operator", "a");
    assert_eq!(versions(&shard.subscribe("a", epoch, &["cmd/a/#"])), [1]);
    assert_eq!(shard.routes(), [("cmd/a/#".to_owned(), true, 1)]);

    // The session's end withdraws it; the next one is of another.
    let clean = Open {
        clean_start: true,
        identity: Identity("operator".try_into().expect("text")),
        ..open("a", 2, Some(epoch))
    };
    shard.apply(&Command::Open(Box::new(clean)));
    assert_eq!(shard.routes(), [("cmd/a/#".to_owned(), false, 2)]);
}

#[test]
fn the_end_of_a_session_withdraws_no_row_that_it_did_not_have() {
    let mut shard = shard();
    let epoch = shard.open("a", 1);
    shard.subscribe("a", epoch, &["cmd/a/#", "t"]);
    assert_eq!(shard.routes().len(), 1);

    let clean = Open {
        clean_start: true,
        ..open("a", 2, Some(epoch))
    };
    shard.apply(&Command::Open(Box::new(clean)));

    assert_eq!(shard.routes(), [("t".to_owned(), false, 2)]);
}

#[test]
fn a_group_takes_a_row_whoever_else_has_the_filter() {
    let mut shard = shard();
    let epoch = shard.open("a", 1);
    shard.subscribe("a", epoch, &["cmd/a/#"]);
    let member = |version, member| {
        Command::Membership(Box::new(Membership {
            source: 0,
            version,
            client: client("a"),
            filter: filter("$share/g/cmd/a/#"),
            member,
        }))
    };
    let joins = Member {
        joined: Epoch(1),
        subscription: Default::default(),
        persistent: true,
        owner: None,
    };
    shard.apply(&member(1, Some(joins)));
    assert_eq!(shard.routes(), [("cmd/a/#".to_owned(), true, 1)]);

    shard.apply(&unsubs("a", epoch, &["cmd/a/#"]));
    assert_eq!(shard.routes(), none());
    shard.subscribe("a", epoch, &["cmd/a/#"]);
    shard.apply(&member(2, None));
    assert_eq!(shard.routes(), [("cmd/a/#".to_owned(), false, 2)]);
}

#[test]
fn a_repeat_waits_for_no_row_either() {
    let mut shard = shard();
    let (a, b) = (shard.open("a", 1), shard.open("b", 2));
    shard.subscribe("b", b, &["cmd/a/#"]);
    shard.subscribe("a", a, &["cmd/a/#"]);
    let subs = |name, epoch| {
        Command::Subs(Box::new(Subs {
            client: client(name),
            epoch,
            filters: vec![(filter("cmd/a/#"), Default::default())],
        }))
    };
    let repeat = |shard: &Shard, command| versions(&shard.durable.answer_repeat(&command));
    assert_eq!(repeat(&shard, subs("a", a)), [0]);
    assert_eq!(repeat(&shard, unsubs("a", a, &["cmd/a/#"])), [0]);
    assert_eq!(repeat(&shard, subs("b", b)), [1]);
}

#[test]
fn a_restored_shard_goes_on_under_its_templates_and_no_others() {
    let without = Templates::default;
    for (written, other) in [(templates(), without()), (without(), templates())] {
        let mut shard = Shard::with_templates(Limits::default(), written.clone());
        let epoch = shard.open("a", 1);
        shard.subscribe("a", epoch, &["cmd/a/#"]);
        let has_row = !shard.routes().is_empty();
        assert_eq!(has_row, written.is_empty());
        let rows = shard.durable.take_rows();
        let rows = || rows.iter().filter_map(|(_, row)| row.clone());

        let restored = Durable::restore(Limits::default(), other, rows());
        assert!(restored.is_err(), "whoever has a row is not known");
        let restored = Durable::restore(Limits::default(), written, rows());
        let mut restored = restored.expect("the rows agree");
        restored.handle_lead();
        let index = restored.index() + 1;
        let left = unsubs("a", epoch, &["cmd/a/#"]);
        let left = restored.apply(index, restored.time(), &left);
        assert_eq!(versions(&left), [2 * u64::from(has_row)]);
        let routes = std::iter::from_fn(|| restored.poll_effect());
        let is_route = |effect: &DurableEffect| matches!(effect, DurableEffect::Route(_));
        assert_eq!(routes.filter(is_route).count(), usize::from(has_row));
    }
}

const NAMES: [&str; 3] = ["a", "b", "c"];
const FILTERS: [&str; 5] = ["cmd/a/#", "cmd/b/x", "cmd/+/x", "cmd/c", "t"];

#[derive(Clone, Debug)]
enum Step {
    Open { who: usize, is_clean: bool },
    Subscribe { who: usize, filter: usize },
    Unsubscribe { who: usize, filter: usize },
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    let (who, filter) = (0..NAMES.len(), 0..FILTERS.len());
    let both = (who.clone(), filter);
    prop_oneof![
        1 => (who, any::<bool>()).prop_map(|(who, is_clean)| Step::Open { who, is_clean }),
        4 => both.clone().prop_map(|(who, filter)| Step::Subscribe { who, filter }),
        3 => both.prop_map(|(who, filter)| Step::Unsubscribe { who, filter }),
        1 => Just(Step::Restore),
    ]
}

proptest! {
    /// The routes want what somebody wants who is not the filter's owner, and nothing else.
    #[test]
    fn the_rows_are_those_of_subscribers_that_need_one(
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut shard = shard();
        // The identity of `c` is not its client id.
        let mut epochs = [shard.open("a", 1), shard.open("b", 1), open_as(&mut shard, "x", "c")];
        let mut wanted: BTreeSet<(usize, usize)> = BTreeSet::new();
        let mut routes: BTreeSet<String> = BTreeSet::new();
        let mut file: BTreeMap<RowKey, Row> = BTreeMap::new();
        for (connection, step) in (2..).zip(steps) {
            match step {
                Step::Open { who, is_clean } => {
                    let identity = ["a", "b", "x"][who];
                    let command = Open {
                        clean_start: is_clean,
                        identity: Identity(identity.try_into().expect("text")),
                        ..open(NAMES[who], connection, Some(epochs[who]))
                    };
                    let answer = shard.apply(&Command::Open(Box::new(command)));
                    let Answer::Opened { epoch, .. } = answer else {
                        panic!("not opened: {answer:?}");
                    };
                    epochs[who] = epoch;
                    wanted.retain(|(of, _)| !is_clean || *of != who);
                }
                Step::Subscribe { who, filter } => {
                    shard.subscribe(NAMES[who], epochs[who], &[FILTERS[filter]]);
                    wanted.insert((who, filter));
                }
                Step::Unsubscribe { who, filter } => {
                    shard.apply(&unsubs(NAMES[who], epochs[who], &[FILTERS[filter]]));
                    wanted.remove(&(who, filter));
                }
                Step::Restore => {
                    for (key, row) in shard.durable.take_rows() {
                        match row {
                            Some(row) => file.insert(key, row),
                            None => file.remove(&key),
                        };
                    }
                    let rows = file.values().cloned();
                    let restored = Durable::restore(Limits::default(), templates(), rows);
                    shard.durable = restored.expect("the rows agree");
                    shard.durable.handle_lead();
                }
            }
            for (filter, is_wanted, _) in shard.routes() {
                match is_wanted {
                    true => routes.insert(filter),
                    false => routes.remove(&filter),
                };
            }
            let owned = |(who, filter)| matches!((who, filter), (0, 0) | (1, 1));
            let needed = wanted.iter().copied().filter(|one| !owned(*one));
            let needed: BTreeSet<String> =
                needed.map(|(_, filter)| FILTERS[filter].to_owned()).collect();
            prop_assert_eq!(&routes, &needed);
        }
    }
}
