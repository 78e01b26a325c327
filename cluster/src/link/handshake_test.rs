use bytes::BytesMut;
use cluster_core::{FeatureLevel, FolderId, NodeId, StartCount};

use super::greeting::*;
use super::handshake::*;
use super::lane::{Lane, LaneLimits};

fn identity(node: u32) -> NodeIdentity {
    NodeIdentity {
        cluster: ClusterId(0xc1),
        node: NodeId(node),
        folder: FolderId(0xf0 + u128::from(node)),
        start: StartCount(5),
        level: FeatureLevel(2),
        understood: FeatureLevel(3),
    }
}

fn hello(of: NodeIdentity, sought: u32) -> Hello {
    Hello {
        identity: of,
        lane: Lane::Requests,
        sought: NodeId(sought),
        nonce: 0xabcd,
    }
}

fn judge(hello: &Hello) -> Result<(), RefusalCode> {
    let mut roster = Roster::new(identity(1));
    roster.learn(NodeId(2), FolderId(0xf2), StartCount(5));
    let judged = roster.judge_hello(hello, None);
    judged.map_err(|refusal| refusal.code)
}

#[test]
fn a_member_is_let_in() {
    assert_eq!(judge(&hello(identity(2), 1)), Ok(()));
    assert_eq!(judge(&hello(identity(3), 1)), Ok(()), "not known yet");
}

#[test]
fn each_wrong_value_is_refused_by_its_name() {
    let with = |change: fn(&mut NodeIdentity)| {
        let mut of = identity(2);
        change(&mut of);
        judge(&hello(of, 1))
    };

    assert_eq!(
        with(|of| of.cluster = ClusterId(0)),
        Err(RefusalCode::Cluster)
    );
    assert_eq!(
        with(|of| of.understood = FeatureLevel(1)),
        Err(RefusalCode::Level)
    );
    assert_eq!(
        with(|of| of.level = FeatureLevel(4)),
        Err(RefusalCode::Level)
    );
    assert_eq!(with(|of| of.folder = FolderId(9)), Err(RefusalCode::Folder));
    assert_eq!(with(|of| of.start = StartCount(4)), Err(RefusalCode::Start));
    assert_eq!(with(|of| of.node = NodeId(1)), Err(RefusalCode::OwnNumber));
    assert_eq!(judge(&hello(identity(2), 7)), Err(RefusalCode::Node));
}

#[test]
fn levels_in_use_may_differ_while_each_understands_the_others() {
    let mut of = identity(2);
    of.level = FeatureLevel(3);
    assert_eq!(judge(&hello(of, 1)), Ok(()));
    of.level = FeatureLevel(1);
    assert_eq!(judge(&hello(of, 1)), Ok(()));
}

#[test]
fn a_run_is_past_once_a_later_one_was_seen_and_a_refused_one_was_not_seen() {
    let mut roster = Roster::new(identity(1));
    let mut run = identity(2);
    run.start = StartCount(7);
    let mut foreign = hello(run, 1);
    foreign.identity.start = StartCount(100);
    foreign.sought = NodeId(9);

    assert!(roster.judge_hello(&foreign, None).is_err());
    assert_eq!(roster.judge_hello(&hello(run, 1), None), Ok(()));
    assert_eq!(roster.judge_hello(&hello(run, 1), None), Ok(()), "again");
    run.start = StartCount(6);
    let refusal = roster.judge_hello(&hello(run, 1), None);

    assert_eq!(refusal, Err(Refusal::new(RefusalCode::Start, 6_u8, 7_u8)));
}

#[test]
fn a_removed_node_stays_out_whatever_is_learned_later() {
    let mut roster = Roster::new(identity(1));
    roster.remove(NodeId(2));
    roster.learn(NodeId(2), FolderId(0xf2), StartCount(9));

    let refusal = roster.judge_hello(&hello(identity(2), 1), None);

    assert_eq!(refusal.expect_err("out").code, RefusalCode::Removed);
}

#[test]
fn the_certificate_decides_who_a_node_is() {
    let mut roster = Roster::new(identity(1));
    let good = roster.judge_hello(&hello(identity(2), 1), Some(NodeId(2)));
    let bad = roster.judge_hello(&hello(identity(2), 1), Some(NodeId(3)));

    assert_eq!(good, Ok(()));
    assert_eq!(
        bad.expect_err("another's").to_string(),
        "node number 2 comes with the certificate of node 3"
    );
}

#[test]
fn numbers_beyond_the_bound_are_refused() {
    let mut roster = Roster::new(identity(1));
    for node in 2..2 + NODES_MAX as u32 {
        let judged = roster.judge_hello(&hello(identity(node), 1), None);
        assert_eq!(judged, Ok(()));
    }
    let refusal = roster.judge_hello(&hello(identity(5_000), 1), None);
    assert_eq!(refusal.expect_err("full").code, RefusalCode::Crowded);
    assert_eq!(
        roster.judge_hello(&hello(identity(2), 1), None),
        Ok(()),
        "known ones still come"
    );
}

#[test]
fn a_handshake_of_two_members_agrees() {
    let (mut one, mut two) = (Roster::new(identity(1)), Roster::new(identity(2)));
    let dialing = Dialing::new(hello(identity(1), 2));
    let mut sent = BytesMut::from(&Greeting::Hello(dialing.hello()).encode()[..]);

    let grant = LaneLimits::REQUESTS.grant;
    let met = answer(&mut sent, &mut two, None, |_| grant);
    let Ok(Some(Met::Member(heard, welcome))) = met else {
        panic!("{met:?}");
    };
    let mut sent = BytesMut::from(&Greeting::Welcome(welcome).encode()[..]);
    sent.extend_from_slice(b"frames");
    let welcomed = dialing
        .handle_bytes(&mut sent, &mut one, None)
        .expect("good")
        .expect("whole");

    assert_eq!(heard, dialing.hello());
    assert_eq!((welcomed, welcomed.grant), (welcome, grant));
    assert_eq!(&sent[..], b"frames", "what follows stays");
}

#[test]
fn the_answer_must_be_of_the_sought_node_to_this_very_hello() {
    let mut roster = Roster::new(identity(1));
    let dialing = Dialing::new(hello(identity(1), 2));
    let mut judge = |of: NodeIdentity, nonce: u128| {
        let welcome = Welcome {
            identity: of,
            nonce,
            grant: LaneLimits::BULK.grant,
        };
        let mut bytes = BytesMut::from(&Greeting::Welcome(welcome).encode()[..]);
        match dialing.handle_bytes(&mut bytes, &mut roster, None) {
            Err(Rejected::Ours(refusal)) => refusal.code,
            other => panic!("{other:?}"),
        }
    };

    assert_eq!(judge(identity(3), 0xabcd), RefusalCode::Node);
    assert_eq!(judge(identity(2), 0xabce), RefusalCode::Nonce);
}

#[test]
fn a_side_that_says_what_the_other_should_is_refused() {
    let hello = Greeting::Hello(hello(identity(2), 1)).encode();
    let dialing = Dialing::new(self::hello(identity(1), 2));
    let mut roster = Roster::new(identity(1));
    let mut bytes = BytesMut::from(&hello[..]);

    let outcome = dialing.handle_bytes(&mut bytes, &mut roster, None);

    assert!(
        matches!(outcome, Err(Rejected::Ours(refusal)) if refusal.code == RefusalCode::Garbage)
    );
}

#[test]
fn a_node_that_counts_another_start_of_itself_is_known_by_it() {
    let (mut one, mut two) = (Roster::new(identity(1)), Roster::new(identity(2)));
    let next = StartCount(identity(1).start.0 + 1);
    two.learn(NodeId(1), identity(1).folder, next);
    let refused = two.judge_hello(&hello(one.own(), 2), None).unwrap_err();
    assert_eq!(refused.code, RefusalCode::Start);

    one.set_start(next);
    one.set_start(StartCount(0));

    assert_eq!(two.judge_hello(&hello(one.own(), 2), None), Ok(()));
}
