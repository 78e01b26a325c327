use std::collections::{BTreeMap, BTreeSet};

use cluster_core::{
    Begin, FeatureLevel, FolderId, Group, Hello, Incarnation, MEMBERS_MAX, MetaAnswer, MetaCommand,
    NodeEpoch, NodeId, NotGranted, Placement, RaftId, Refusal, Renewal, RenewalId, ShardId,
    StartCount,
};

use super::message::*;
use crate::link::{self, RefusalCode};

fn ping() -> Ping {
    Ping {
        epoch: Some(NodeEpoch(0x0102)),
        start: StartCount(3),
        is_stopping: true,
        claims: BTreeMap::from([(
            Group::Shard(ShardId(5)),
            Claim {
                term: 6,
                applied: 7,
                reached: 9,
            },
        )]),
        heard: BTreeSet::from([NodeId(8)]),
    }
}

fn joined(members: u32) -> Joined {
    let member = |node: u32| Neighbour {
        folder: FolderId(node.into()),
        start: StartCount(2),
        address: format!("10.0.0.{node}:1"),
    };
    Joined {
        node: NodeId(9),
        cluster: FolderId(1),
        level: FeatureLevel(1),
        shards: 32,
        buckets: 64,
        members: (1..=members).map(|n| (NodeId(n), member(n))).collect(),
    }
}

fn joined_with(members: u32) -> JoinAnswer {
    JoinAnswer::JoinedWith {
        joined: joined(members),
        templates: mqtt::Templates::parse(["cmd/{client_id}/#"]).unwrap(),
    }
}

fn renewal() -> Renewal {
    Renewal {
        epoch: NodeEpoch(1),
        id: RenewalId(2),
        meta_applied: 3,
        routes_applied: 4,
        heard: BTreeSet::from([NodeEpoch(5)]),
        leads: 6,
    }
}

fn roundtrips<T: Message + PartialEq + std::fmt::Debug>(messages: Vec<T>) {
    for message in messages {
        let bytes = message.encode();
        assert_eq!(T::decode(&bytes).unwrap(), message);
        // Every shorter one, and every longer one, is refused.
        for length in 0..bytes.len() {
            assert!(T::decode(&bytes[..length]).is_err(), "{length} B");
        }
        let longer = [&bytes[..], &[0]].concat();
        let why = T::decode(&longer).unwrap_err();
        assert!(why.to_string().contains("behind its end"), "{why}");
        let mut other = bytes.to_vec();
        other[0] = 2;
        let why = T::decode(&other).unwrap_err();
        assert_eq!(
            why.to_string(),
            format!("{}: version 2 is unknown, 1 is the newest known", T::NAME)
        );
    }
}

#[test]
fn a_ping_has_these_bytes() {
    let bytes = [
        &[1][..],                     // version
        &[1, 2, 1, 0, 0, 0, 0, 0, 0], // epoch
        &[3, 0, 0, 0, 0, 0, 0, 0],    // start
        &[1],                         // stopping
        &[1, 0, 0, 0, 3, 5, 0],       // one claim: shard 5
        &[6, 0, 0, 0, 0, 0, 0, 0],    // term
        &[7, 0, 0, 0, 0, 0, 0, 0],    // applied
        &[9, 0, 0, 0, 0, 0, 0, 0],    // reached
        &[1, 0, 0, 0, 8, 0, 0, 0],    // one peer
    ]
    .concat();
    assert_eq!(ping().encode(), bytes);
}

#[test]
fn the_templates_of_a_cluster_follow_what_a_new_member_has_to_know() {
    let JoinAnswer::JoinedWith { joined, .. } = joined_with(0) else {
        panic!("of another kind");
    };
    let without = JoinAnswer::Joined(joined).encode();
    let templates = b"\x01\0\0\0\x11\0\0\0cmd/{client_id}/#";
    let bytes = [&[1, 4], &without[2..], templates].concat();
    assert_eq!(joined_with(0).encode(), bytes);
}

#[test]
fn every_message_is_the_same_after_the_wire_and_no_part_of_it_is_one() {
    roundtrips(vec![ping(), Ping::default()]);
    roundtrips(vec![renewal()]);
    roundtrips(vec![
        RenewalAnswer::Granted { meta_seen: 9 },
        RenewalAnswer::Refused(NotGranted::Ended),
        RenewalAnswer::Refused(NotGranted::Ending),
        RenewalAnswer::Refused(NotGranted::RoutesBehind),
        RenewalAnswer::Refused(NotGranted::Deaf(NodeEpoch(4))),
        RenewalAnswer::NotLeader(None),
        RenewalAnswer::NotLeader(Some(NodeId(2))),
    ]);
    roundtrips(vec![MetaCommand::Leave { node: NodeId(2) }]);
    let answers = [
        MetaAnswer::Done,
        MetaAnswer::Joined { node: NodeId(1) },
        MetaAnswer::Begun {
            epoch: NodeEpoch(2),
        },
        MetaAnswer::Recovered {
            incarnation: Incarnation(3),
        },
    ];
    let answers = answers.into_iter().map(ProposeAnswer::Applied);
    let others = [
        ProposeAnswer::NotLeader(Some(NodeId(1))),
        ProposeAnswer::Unknown,
        ProposeAnswer::Busy,
    ];
    roundtrips(answers.chain(others).collect());
    roundtrips(vec![Hello {
        cluster: Some(FolderId(1)),
        node: None,
        folder: FolderId(2),
        level: FeatureLevel(3),
    }]);
    roundtrips(vec![
        JoinAnswer::Joined(joined(3)),
        joined_with(1),
        JoinAnswer::Refused(link::Refusal::new(RefusalCode::Member, 1_u8, 2_u8)),
        JoinAnswer::NotLeader(None),
    ]);
    roundtrips(vec![Prepare {
        group: Group::Meta,
        replica: RaftId(1),
        version: 2,
    }]);
    roundtrips(vec![Prepared::Ready, Prepared::NotYet, Prepared::Unwanted]);
    roundtrips(vec![
        ReadAnswer::Index(1),
        ReadAnswer::NotLeader(None),
        ReadAnswer::Failed,
    ]);
    roundtrips(vec![Empty]);
}

#[test]
fn a_refusal_of_meta_keeps_its_words() {
    let (node, level) = (NodeId(4), FeatureLevel(1));
    let refusals = [
        Refusal::NotFounded,
        Refusal::NotLost {
            alive: 2,
            voters: 3,
        },
        Refusal::Founded {
            shards: 1,
            buckets: 2,
        },
        Refusal::OtherFolder(node),
        Refusal::FolderTaken(node),
        Refusal::NoMember(node),
        Refusal::OldStart {
            node,
            asked: StartCount(1),
            known: StartCount(2),
        },
        Refusal::LevelTooLow {
            asked: level,
            level,
        },
        Refusal::MemberBehind { node, level },
        Refusal::Changed { current: 1 },
        Refusal::Moving { version: 1 },
        Refusal::Busy { node, limit: 2 },
        Refusal::Leaving(node),
        Refusal::OtherCluster { asked: 1, known: 2 },
        Refusal::Invalid("no such shard"),
        Refusal::StillNeeded(node),
        Refusal::Full {
            what: "the number of members",
            limit: MEMBERS_MAX,
        },
    ];
    let answers = refusals.map(|why| ProposeAnswer::Applied(MetaAnswer::Refused(why)));
    roundtrips(answers.to_vec());

    // Words that are not known here are told apart from none.
    let other = ProposeAnswer::Applied(MetaAnswer::Refused(Refusal::Invalid("of tomorrow")));
    let read = ProposeAnswer::decode(&other.encode()).unwrap();
    let expected = Refusal::Invalid("what another version says of it");
    assert_eq!(read, ProposeAnswer::Applied(MetaAnswer::Refused(expected)));
}

#[test]
fn meta_refuses_in_no_other_words_than_the_wire_knows() {
    let sources = [
        include_str!("../../core/src/meta/mod.rs"),
        include_str!("../../core/src/meta/buckets.rs"),
        include_str!("../../core/src/meta/layout.rs"),
    ];
    let mut found = 0;
    for source in sources {
        for marker in ["Refusal::Invalid(\"", "full(\""] {
            for part in source.split(marker).skip(1) {
                let words = part.split('"').next().unwrap();
                let refusal = Refusal::Invalid(Box::leak(words.to_owned().into_boxed_str()));
                let answer = ProposeAnswer::Applied(MetaAnswer::Refused(refusal));
                assert_eq!(ProposeAnswer::decode(&answer.encode()).unwrap(), answer);
                found += 1;
            }
        }
    }
    assert!(found >= 14, "{found} wordings");
}

#[test]
fn what_exceeds_a_bound_is_refused() {
    let members = MEMBERS_MAX as u32 + 1;
    let mut long = ping();
    long.heard = (0..members).map(NodeId).collect();
    let why = Ping::decode(&long.encode()).unwrap_err();
    assert_eq!(why.to_string(), "a ping: 257 peers of a ping, 256 at most");
    let mut long = ping();
    let claim = Claim::default();
    long.claims = (0..131)
        .map(|n| (Group::Shard(ShardId(n)), claim))
        .collect();
    assert!(Ping::decode(&long.encode()).is_err());
    let mut long = renewal();
    long.heard = (0..u64::from(members)).map(NodeEpoch).collect();
    assert!(Renewal::decode(&long.encode()).is_err());
    let all = JoinAnswer::Joined(joined(MEMBERS_MAX as u32));
    assert_eq!(JoinAnswer::decode(&all.encode()).unwrap(), all);
    let long = JoinAnswer::Joined(joined(members));
    assert!(JoinAnswer::decode(&long.encode()).is_err());
    let long = MetaCommand::Begin(Begin {
        node: NodeId(1),
        folder: FolderId(1),
        start: StartCount(1),
        address: "x".repeat(257),
        level: FeatureLevel(1),
    });
    assert!(MetaCommand::decode(&long.encode()).is_err());
    let long = MetaCommand::Place {
        shard: ShardId(1),
        expected: 1,
        placement: Placement {
            voters: vec![NodeId(1); 257],
            learners: Vec::new(),
        },
    };
    assert!(MetaCommand::decode(&long.encode()).is_err());
}

#[test]
fn the_longest_answers_have_room() {
    let mut all = joined(MEMBERS_MAX as u32);
    for member in all.members.values_mut() {
        member.address = "x".repeat(256);
    }
    let texts = (0..8).map(|n| format!("{n}/{{client_id}}/{}", "x".repeat(114)));
    let all = JoinAnswer::JoinedWith {
        joined: all,
        templates: mqtt::Templates::parse(texts).unwrap(),
    };
    let bytes = all.encode().len();
    assert!(bytes <= JOIN_ANSWER_BYTES_MAX as usize, "{bytes} B");
    assert!(bytes <= link::ADMISSION_BYTES_MAX as usize);
    let mut long = ping();
    long.heard = (0..MEMBERS_MAX as u32).map(NodeId).collect();
    let claim = Claim::default();
    long.claims = (0..130)
        .map(|n| (Group::Shard(ShardId(n)), claim))
        .collect();
    let bytes = long.encode().len();
    assert!(bytes <= ANSWER_BYTES_MAX as usize, "{bytes} B");
}

/// One of each kind, as a request or a reply.
fn samples() -> Vec<(u16, bool, Vec<u8>)> {
    let all = JoinAnswer::Joined(joined(3)).encode();
    let begin = MetaCommand::Begin(Begin {
        node: NodeId(1),
        folder: FolderId(1),
        start: StartCount(1),
        address: "10.0.0.1:1".to_owned(),
        level: FeatureLevel(1),
    });
    let refused = ProposeAnswer::Applied(MetaAnswer::Refused(Refusal::Full {
        what: "the number of members",
        limit: 3,
    }));
    let hello = Hello {
        cluster: None,
        node: Some(NodeId(1)),
        folder: FolderId(2),
        level: FeatureLevel(3),
    };
    let prepare = Prepare {
        group: Group::Routes,
        replica: RaftId(1),
        version: 2,
    };
    let samples = [
        (PING, false, ping().encode()),
        (PING, true, Empty.encode()),
        (HEARS, false, Empty.encode()),
        (HEARS, true, ping().encode()),
        (RENEW, false, renewal().encode()),
        (
            RENEW,
            true,
            RenewalAnswer::Granted { meta_seen: 1 }.encode(),
        ),
        (PROPOSE, false, begin.encode()),
        (PROPOSE, true, refused.encode()),
        (JOIN, false, hello.encode()),
        (JOIN, true, all),
        (JOIN, true, joined_with(2).encode()),
        (PREPARE, false, prepare.encode()),
        (PREPARE, true, Prepared::Ready.encode()),
        (READ_ROUTES, false, Empty.encode()),
        (READ_ROUTES, true, ReadAnswer::Index(1).encode()),
    ];
    let samples = samples.into_iter();
    samples
        .map(|(kind, reply, bytes)| (kind, reply, bytes.to_vec()))
        .collect()
}

#[test]
fn every_channel_kind_has_its_messages_and_no_other() {
    for (kind, is_reply, bytes) in samples() {
        assert!(CHANNELS.contains(&kind));
        assert_eq!(rewritten(kind, is_reply, &bytes).unwrap(), bytes);
    }
    assert!(rewritten(39, false, &[1]).is_err());
    assert!(rewritten(16, false, &[1]).is_err());
}

proptest::proptest! {
    /// There is one form of every message: what is not refused is written again as it came.
    #[test]
    fn harmed_bytes_are_refused_or_another_message(
        which in 0_usize..15,
        harm in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), 0_u8..=255), 1..4),
        cut in proptest::prelude::any::<proptest::sample::Index>(),
    ) {
        let (kind, is_reply, mut bytes) = samples().swap_remove(which);
        for (at, value) in harm {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
            if let Ok(written) = rewritten(kind, is_reply, bytes) {
                proptest::prop_assert_eq!(&written[..], bytes);
            }
        }
    }

    #[test]
    fn garbage_is_refused_and_takes_no_memory(
        kind in 30_u16..50,
        is_reply: bool,
        bytes in proptest::collection::vec(0_u8..=255, 0..300),
    ) {
        for bytes in [bytes.clone(), [&[1][..], &bytes].concat()] {
            if let Ok(written) = rewritten(kind, is_reply, &bytes) {
                proptest::prop_assert_eq!(&written[..], &bytes[..]);
            }
        }
    }
}
