use mqtt::QoS;

use super::durable_test::{Shard, client, open};
use super::{Limits, SessionFilter};
use crate::{Close, Command, Epoch, NodeEpoch, WillFate};

fn shard_of(names: &[&str]) -> Shard {
    let mut shard = Shard::new(Limits::default());
    for name in names {
        shard.open(name, 1);
    }
    shard
}

fn close(shard: &mut Shard, name: &str, epoch: Epoch) {
    shard.apply(&Command::Close(Close {
        client: client(name),
        epoch,
        will: WillFate::Discard,
        expiry_s: None,
    }));
}

fn names(page: &super::SessionPage) -> Vec<&str> {
    page.rows.iter().map(|row| row.client.as_str()).collect()
}

#[test]
fn pages_follow_each_other_without_a_gap_or_a_repeat() {
    let shard = shard_of(&["a", "b1", "b2", "b3", "c"]);
    let wanted = SessionFilter {
        prefix: "b".into(),
        ..SessionFilter::default()
    };
    let page = |after: Option<&str>, limit| {
        let after = after.map(client);
        shard
            .durable
            .session_page(&wanted, after.as_ref(), limit, 100)
    };
    let first = page(None, 2);
    assert_eq!(names(&first), ["b1", "b2"]);
    assert_eq!(first.next, Some(client("b2")));
    let second = page(Some("b2"), 2);
    assert_eq!((names(&second), &second.next), (vec!["b3"], &None));
    // A cursor before the prefix, and one behind it.
    assert_eq!(names(&page(Some("a"), 9)), ["b1", "b2", "b3"]);
    assert_eq!(names(&page(Some("bz"), 9)), [""; 0]);
    // Exactly all of them: there is nothing behind.
    assert_eq!(page(None, 3).next, None);
}

#[test]
fn a_page_ends_after_so_many_looks_and_says_where_to_go_on() {
    let mut shard = shard_of(&["a", "b", "c", "d"]);
    let epoch = shard.durable.epoch(&client("d")).expect("it is open");
    close(&mut shard, "d", epoch);
    let away = SessionFilter {
        is_connected: Some(false),
        ..SessionFilter::default()
    };
    let first = shard.durable.session_page(&away, None, 9, 3);
    assert_eq!((names(&first), &first.next), (vec![], &Some(client("c"))));
    let next = shard.durable.session_page(&away, first.next.as_ref(), 9, 3);
    assert_eq!((names(&next), &next.next), (vec!["d"], &None));
}

#[test]
fn only_the_wanted_sessions_come() {
    let mut shard = shard_of(&["a"]);
    let mut other = open("o", 2, None);
    other.node_epoch = NodeEpoch(2);
    other.persistent = false;
    shard.apply(&Command::Open(Box::new(other)));
    let of = |wanted: SessionFilter| {
        let page = shard.durable.session_page(&wanted, None, 9, 9);
        names(&page).join(" ")
    };
    let all = SessionFilter::default;
    assert_eq!(of(all()), "a o");
    let is_persistent = Some(false);
    assert_eq!(
        of(SessionFilter {
            is_persistent,
            ..all()
        }),
        "o"
    );
    let node_epoch = Some(NodeEpoch(1));
    assert_eq!(
        of(SessionFilter {
            node_epoch,
            ..all()
        }),
        "a"
    );
}

#[test]
fn a_session_shows_what_waits_for_it_and_why() {
    let mut shard = Shard::new(Limits::default());
    let epoch = shard.open("s", 1);
    shard.subscribe("s", epoch, &["t/+", "t/#", "$share/g/t/x"]);
    shard.open("other", 2);
    close(&mut shard, "s", epoch);
    for _ in 0..3 {
        shard.enqueue("t/x", QoS::AtLeastOnce, None);
    }

    let details = shard.durable.session_details(&client("s"));
    let details = details.expect("it lasts");
    assert_eq!(details.view.queue_messages, 3);
    assert_eq!(details.view.subscriptions, 3);
    assert_eq!(details.subscriptions.len(), 3);
    assert!(details.view.disconnected.is_some() && details.oldest.is_some());
    let expires = details.view.expires.zip(details.view.disconnected);
    assert!(expires.is_some_and(|(at, since)| at == since.plus_s(60)));
    assert_eq!(shard.durable.session_details(&client("nobody")), None);

    let topic = "t/x".try_into().expect("a topic");
    let (rows, total) = shard.durable.recipients(&topic, 10).expect("few nodes");
    assert_eq!((rows.len(), total), (1, 1));
    assert_eq!((rows[0].client.as_str(), rows[0].node_epoch), ("s", None));
    let filters: Vec<&str> = rows[0].filters.iter().map(|(f, _)| f.as_str()).collect();
    assert_eq!(filters, ["t/+", "t/#"]);
    let (rows, total) = shard.durable.recipients(&topic, 0).expect("few nodes");
    assert_eq!((rows.len(), total), (0, 1));
}
