//! Whatever nodes say comes back from its bytes, and nothing else is taken for it.

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use cluster_core::{Attempt, Body, NodeEpoch, NodeId, RouteVersion, RoutesAnswer, Sent};
use mqtt::{ReasonCode, SubscriptionIds};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use session::{
    Answer, ConnectionId, Delivery, DeliveryStep, Epoch, GroupDelivery, GroupSeq, Retained, Seq,
    Subscribed, Unsubscribed,
};

use super::*;
use crate::Outcome;
use crate::stored::arbitrary::{client, filter, item, message, origin, qos, routes_command};

fn reason() -> impl Strategy<Value = ReasonCode> {
    any::<u8>().prop_filter_map("no reason code", |code| ReasonCode::try_from(code).ok())
}

fn subscription_ids() -> impl Strategy<Value = SubscriptionIds> {
    let id = (1_u32..=0x0fff_ffff).prop_map(|id| NonZeroU32::new(id).unwrap());
    vec(id, 0..3).prop_map(SubscriptionIds::from_vec)
}

fn epoch() -> impl Strategy<Value = Epoch> {
    any::<u64>().prop_map(Epoch)
}

fn answer() -> impl Strategy<Value = Answer> {
    let subscribed = (reason(), any::<u64>(), any::<bool>(), any::<u64>());
    let subscribed = subscribed.prop_map(|(reason, version, replay, membership)| Subscribed {
        reason,
        version,
        replay,
        membership,
    });
    let unsubscribed = (reason(), any::<u64>(), any::<u64>());
    let unsubscribed = unsubscribed.prop_map(|(reason, version, membership)| Unsubscribed {
        reason,
        version,
        membership,
    });
    let opened = (epoch(), epoch(), any::<bool>());
    let enqueued = (any::<u32>(), any::<u32>(), any::<bool>());
    prop_oneof![
        Just(Answer::Done),
        opened.prop_map(|(epoch, incarnation, session_present)| Answer::Opened {
            epoch,
            incarnation,
            session_present
        }),
        option::of(epoch()).prop_map(|current| Answer::WrongEpoch { current }),
        Just(Answer::OtherIdentity),
        reason().prop_map(Answer::Refused),
        vec(subscribed, 0..4).prop_map(Answer::Subscribed),
        vec(unsubscribed, 0..4).prop_map(Answer::Unsubscribed),
        enqueued.prop_map(|(taken, dropped, repeat)| Answer::Enqueued {
            taken,
            dropped,
            repeat
        }),
        any::<(u64, u64)>().prop_map(|(n, floor)| Answer::Q2In { n, floor }),
        any::<bool>().prop_map(|found| Answer::Q2Out { found }),
        any::<bool>().prop_map(|found| Answer::Rec { found }),
        prop_oneof![
            Just(Retained::Stored),
            Just(Retained::Older),
            Just(Retained::Full)
        ]
        .prop_map(Answer::Retained),
        any::<u64>().prop_map(|version| Answer::Membership { version }),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        8 => answer().prop_map(Outcome::Applied),
        1 => any::<u64>().prop_map(|next| Outcome::Gap { next }),
        1 => Just(Outcome::Ended),
    ]
}

prop_compose! {
    fn publish_step()(
        message in message(),
        qos in qos(),
        retain in any::<bool>(),
        subscription_ids in subscription_ids(),
        dup in any::<bool>(),
    ) -> DeliveryStep {
        let message = Arc::new(message);
        DeliveryStep::Publish { message, qos, retain, subscription_ids, dup }
    }
}

prop_compose! {
    fn delivery()(
        client in client(),
        epoch in epoch(),
        node_epoch in any::<u64>(),
        connection in any::<u64>(),
        seq in any::<u64>(),
        step in prop_oneof![publish_step(), Just(DeliveryStep::Release)],
    ) -> Delivery {
        Delivery {
            client,
            epoch,
            node_epoch: session::NodeEpoch(node_epoch),
            connection: ConnectionId(connection),
            seq: Seq(seq),
            step,
        }
    }
}

prop_compose! {
    fn group_delivery()(
        (filter, incarnation, seq) in (filter(), epoch(), any::<u64>()),
        (node_epoch, connection, epoch) in (any::<u64>(), any::<u64>(), epoch()),
        message in message(),
        (qos, retain, dup) in (qos(), any::<bool>(), any::<bool>()),
        subscription_ids in subscription_ids(),
    ) -> GroupDelivery {
        GroupDelivery {
            node_epoch: session::NodeEpoch(node_epoch),
            connection: ConnectionId(connection),
            epoch,
            group_seq: GroupSeq { filter, incarnation, seq: Seq(seq) },
            message: Arc::new(message),
            qos,
            retain,
            subscription_ids,
            dup,
        }
    }
}

fn letter() -> impl Strategy<Value = Letter> {
    let connection = || any::<u64>().prop_map(ConnectionId);
    let passing = (connection(), message(), any::<bool>(), subscription_ids());
    prop_oneof![
        delivery().prop_map(|one| Letter::Delivery(Box::new(one))),
        group_delivery().prop_map(|one| Letter::Shared(Box::new(one))),
        passing.prop_map(|(connection, message, retain, subscription_ids)| {
            let message = Arc::new(message);
            Letter::Passing {
                connection,
                message,
                retain,
                subscription_ids,
            }
        }),
        connection().prop_map(|connection| Letter::TakenOver { connection }),
        (message(), option::of(origin())).prop_map(|(message, origin)| Letter::Message {
            message: Arc::new(message),
            origin: origin.map(Box::new),
        }),
        any::<u64>().prop_map(|index| Letter::RoutesApplied { index }),
    ]
}

prop_compose! {
    fn letters()(
        (from, to) in any::<(u64, u64)>(),
        letters in vec((any::<u64>(), any::<u64>(), option::of(letter())), 0..4),
    ) -> Letters {
        let sent = |(n, attempt, letter): (_, _, Option<Letter>)| Sent {
            n,
            attempt: Attempt(attempt),
            body: letter.map_or(Body::Nop, Body::Item),
        };
        Letters {
            from: NodeEpoch(from),
            to: NodeEpoch(to),
            letters: letters.into_iter().map(sent).collect(),
        }
    }
}

/// It comes back, and no part of its bytes is taken for a whole, nor another version.
fn check<T: Said + PartialEq + std::fmt::Debug>(said: &T) {
    let bytes = said.encode();
    assert_eq!(&T::decode(&bytes).unwrap(), said);
    for len in 0..bytes.len() {
        assert!(T::decode(&bytes.slice(..len)).is_err(), "cut at {len}");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(T::decode(&longer.into()).is_err());
    let mut newer = bytes.to_vec();
    newer[0] = VERSION + 1;
    assert!(T::decode(&newer.into()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn items_come_back(items in vec(item(), 0..4)) {
        check(&Items { items });
    }

    #[test]
    fn outcomes_come_back(outcomes in vec(outcome(), 0..5)) {
        check(&ItemsReply::Landed(outcomes));
    }

    #[test]
    fn letters_come_back(letters in letters()) {
        check(&letters);
    }

    #[test]
    fn passing_messages_come_back(messages in vec(message(), 0..3)) {
        let messages = messages.into_iter().map(Arc::new).collect();
        check(&Passing { messages, retains: Vec::new() });
    }

    #[test]
    fn questions_and_their_answers_come_back(
        filters in vec(filter(), 0..3),
        rows in vec(vec(message(), 0..3), 0..3),
        (limit, bytes, is_whole) in (any::<u32>(), any::<u32>(), any::<bool>()),
        versions in vec(any::<u64>(), 0..4),
    ) {
        let after = rows.iter().flatten().next().map(|message| message.topic.clone());
        let wanted = |filter| WantedRetained { filter, limit, after: after.clone() };
        let wanted = filters.into_iter().map(wanted).collect();
        check(&RetainedRequest { wanted, reply_bytes: bytes });
        let of = |rows: Vec<_>| RetainedRows { rows: rows.into_iter().map(Arc::new).collect(), is_whole };
        let answers = rows.into_iter().map(of).collect();
        check(&RetainedReply { answers, needed_bytes: bytes });
        check(&Seated { versions });
    }

    #[test]
    fn an_answer_with_retained_messages_keeps_within_its_bytes(
        filters in vec(filter(), 1..4),
        rows in vec(message(), 0..6),
        reply_bytes in 0_u32..2_000,
    ) {
        let rows: Vec<_> = rows.into_iter().map(Arc::new).collect();
        let wanted = |filter| WantedRetained { filter, limit: 9, after: None };
        let wanted: Vec<_> = filters.into_iter().map(wanted).collect();
        let request = RetainedRequest { wanted, reply_bytes };
        let reply = RetainedReply::within(&request, |_| rows.clone());
        let got = reply.answers.iter().map(|answer| answer.rows.len()).sum::<usize>();
        if !reply.answers.is_empty() {
            prop_assert!(reply.encode().len() <= reply_bytes as usize);
        }
        let (last, whole) = match reply.answers.split_last() {
            Some((last, whole)) => (last.is_whole, whole),
            None => (true, &[][..]),
        };
        prop_assert!(whole.iter().all(|answer| answer.is_whole && answer.rows == rows));
        prop_assert_eq!(reply.needed_bytes > 0, got == 0 && !last);
        if reply.needed_bytes > 0 {
            let request = RetainedRequest { reply_bytes: reply.needed_bytes, ..request };
            let reply = RetainedReply::within(&request, |_| rows.clone());
            prop_assert!(!reply.answers[0].rows.is_empty());
            prop_assert!(reply.encode().len() <= request.reply_bytes as usize);
        }
    }

    #[test]
    fn rows_of_routes_come_back(command in routes_command(), version in any::<u64>()) {
        check(&RoutesRequest { command });
        let version = RouteVersion(version);
        check(&RoutesReply::Applied(RoutesAnswer::Done { version }));
        check(&RoutesReply::Applied(RoutesAnswer::Full { version }));
    }

    #[test]
    fn nothing_makes_a_reader_panic(bytes in vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let _ = (Items::decode(&bytes), ItemsReply::decode(&bytes), Letters::decode(&bytes));
        let _ = (RetainedReply::decode(&bytes), RoutesRequest::decode(&bytes));
    }
}

#[test]
fn replies_without_content_come_back() {
    check(&ItemsReply::NotLeading(Some(NodeId(7))));
    check(&ItemsReply::NotLeading(None));
    check(&ItemsReply::Unknown);
    check(&RoutesReply::Applied(RoutesAnswer::Ended));
    check(&RoutesReply::NotLeading(None));
    check(&RoutesReply::Unknown);
    check(&LettersReply::Taken { next: 9 });
    let attempt = Attempt(3);
    check(&LettersReply::Gap { attempt, next: 4 });
    check(&LettersReply::Stranger);
}

#[test]
fn these_are_the_bytes() {
    let reply = LettersReply::Gap {
        attempt: Attempt(3),
        next: 4,
    };
    let bytes = [1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(&reply.encode()[..], bytes);
    let letters = Letters {
        from: NodeEpoch(1),
        to: NodeEpoch(2),
        letters: vec![Sent {
            n: 5,
            attempt: Attempt(6),
            body: Body::Item(Letter::RoutesApplied { index: 7 }),
        }],
    };
    let word = |word: u8| [word, 0, 0, 0, 0, 0, 0, 0];
    let words = [word(1), word(2)].concat();
    let sent = [&word(5)[..], &word(6), &[1, 6], &word(7)].concat();
    let bytes = [&[1][..], &words, &[1, 0, 0, 0], &sent].concat();
    assert_eq!(&letters.encode()[..], bytes);
}
