use cluster_core::{
    Begin, BucketClaim, BucketId, EndReason, FeatureLevel, FolderId, Found, Group, Incarnation,
    Join, Leftover, MetaCommand, NodeEpoch, NodeId, Offer, Pin, Placement, RaftId, RecoverShard,
    ShardId, StartCount, StartMove, WallMs,
};
use rand::Rng;
use rand::rngs::StdRng;

use super::kept_test::{Kept, crashes_change_nothing, harmed_rows_are_named, restored};
use crate::{MetaEntry, MetaMachine};

fn command(rng: &mut StdRng, count: usize) -> MetaCommand {
    let node = NodeId(rng.random_range(1..4));
    let folder = FolderId(u128::from(node.0));
    let level = FeatureLevel(rng.random_range(1..4));
    let shard = ShardId(rng.random_range(0..3));
    let expected = rng.random_range(0..count as u64 + 2);
    let group = [Group::Meta, Group::Routes, Group::Shard(shard)][rng.random_range(0..3)];
    let claims = (0..2)
        .map(|bucket| BucketClaim {
            bucket: BucketId(bucket),
            epoch: if rng.random() { 1 } else { expected },
        })
        .collect();
    let claim = BucketClaim {
        bucket: BucketId(rng.random_range(0..2)),
        epoch: if rng.random() { 1 } else { expected },
    };
    match rng.random_range(0..30) {
        _ if count == 0 && rng.random() => MetaCommand::Found(found()),
        _ if count == 0 => found_with(),
        0 => MetaCommand::Found(found()),
        1 => MetaCommand::Join(Join {
            node: rng.random_bool(0.5).then_some(node),
            folder,
            level,
        }),
        2..5 => MetaCommand::Begin(Begin {
            node,
            folder,
            start: StartCount(count as u64 / 3),
            address: format!("10.0.0.{}:7000", node.0),
            level,
        }),
        5 => MetaCommand::End {
            epoch: NodeEpoch(expected),
            reason: EndReason::Dead,
        },
        6 => MetaCommand::Leave { node },
        7 => MetaCommand::Place {
            shard,
            expected: if count < 20 { 1 } else { expected },
            placement: Placement {
                voters: vec![node],
                learners: Vec::new(),
            },
        },
        8 => MetaCommand::Assign {
            bucket: BucketId(shard.0),
            expected: 1,
            owner: node,
        },
        9 => MetaCommand::Recover {
            group: Group::Shard(shard),
            expected: Incarnation(0),
        },
        10..15 => MetaCommand::StartMove(StartMove {
            group,
            expected: if group == Group::Shard(shard) { 1 } else { 0 },
            to: placement(rng),
            renewed: rng.random_bool(0.2).then_some(node),
        }),
        15..17 => MetaCommand::EndMove {
            group,
            expected: rng.random_range(0..count as u64 + 2),
        },
        17 => MetaCommand::AbortMove { group, expected },
        18 => MetaCommand::Removed(Leftover {
            node,
            group,
            replica: RaftId(node.0.into()),
        }),
        19 => MetaCommand::TakeBuckets { node, claims },
        20 => MetaCommand::HoldRows { node, claims },
        21 | 22 => MetaCommand::MoveBucket { claim, to: node },
        23 => MetaCommand::BucketMoved { claim, to: node },
        24 => MetaCommand::Offer {
            node,
            offer: Offer {
                stores: rng.random(),
                server: format!("n{}", node.0),
            },
        },
        25 => MetaCommand::Pin(Pin {
            shard,
            expected,
            from: node,
            to: NodeId(rng.random_range(1..4)),
        }),
        26 => MetaCommand::Unpin { shard },
        27 | 28 => MetaCommand::RecoverShard(RecoverShard {
            shard,
            expected: if rng.random_bool(0.5) { 1 } else { expected },
            node,
        }),
        _ => MetaCommand::Drain {
            node,
            is_leaving: rng.random(),
        },
    }
}

fn placement(rng: &mut StdRng) -> Placement {
    let first = rng.random_range(0..3);
    let nodes = (0..rng.random_range(1..4)).map(|n| NodeId((first + n) % 3 + 1));
    let mut voters: Vec<NodeId> = nodes.collect();
    let learners = if voters.len() == 2 {
        voters.split_off(1)
    } else {
        Vec::new()
    };
    Placement { voters, learners }
}

fn found() -> Found {
    Found {
        node: NodeId(1),
        folder: FolderId(1),
        shards: 3.try_into().unwrap(),
        buckets: 2.try_into().unwrap(),
        level: FeatureLevel(1),
    }
}

fn found_with() -> MetaCommand {
    let templates = mqtt::Templates::parse(["c/{client_id}", "d/{client_id}/#"]).unwrap();
    MetaCommand::FoundWith {
        found: found(),
        templates,
    }
}

fn entry(time: u64, command: MetaCommand) -> Vec<u8> {
    let time = WallMs(time);
    MetaEntry { time, command }.encode()
}

#[test]
fn a_crash_changes_nothing_of_meta() {
    let (mut moved, mut held, mut owned, mut moving, mut offered) = (0, 0, 0, 0, 0);
    let mut recovered = 0;
    for seed in 0..60 {
        let (crashed, spared) = crashes_change_nothing::<MetaMachine>(
            &(),
            seed,
            |rng, count, _| {
                let command = command(rng, count);
                entry(count as u64 * 10, command)
            },
            |_, _| {},
        );
        harmed_rows_are_named::<MetaMachine>(&(), &spared.rows(), seed);
        let (crashed, spared) = (crashed.machine, spared.machine);
        assert_eq!(crashed.meta().state(), spared.meta().state());
        assert_eq!(crashed.meta().layout(), spared.meta().layout());
        assert_eq!(crashed.meta().holding(), spared.meta().holding());
        assert_eq!(crashed.meta().templates(), spared.meta().templates());
        owned += usize::from(!crashed.meta().templates().is_empty());
        assert_eq!(crashed.meta().moving(), spared.meta().moving());
        assert_eq!(crashed.meta().pins(), spared.meta().pins());
        assert_eq!(crashed.meta().offers(), spared.meta().offers());
        assert_eq!(crashed.meta().recovered(), spared.meta().recovered());
        recovered += crashed.meta().recovered().len();
        offered += crashed.meta().offers().len();
        held += crashed.meta().holding().len();
        moving += crashed.meta().moving().len();
        moved += usize::from(!crashed.meta().is_layout_plain());
        assert_eq!(crashed.meta().epochs(), spared.meta().epochs());
    }
    assert!(moved > 30, "only {moved} seeds moved anything");
    assert!(held > 30, "only {held} buckets hold rows");
    assert!(offered > 30, "only {offered} members offer anything");
    assert!(recovered > 0, "no seed recovered a shard");
    assert!(moving > 5, "only {moving} buckets are being moved");
    assert!((10..50).contains(&owned), "{owned} seeds have templates");
}

#[test]
fn the_layout_of_more_than_a_lone_node_has_these_bytes() {
    let mut kept = Kept::<MetaMachine>::new(());
    let apply = |kept: &mut Kept<MetaMachine>, command| kept.apply(&entry(9, command));
    apply(
        &mut kept,
        MetaCommand::Found(Found {
            shards: 1.try_into().unwrap(),
            ..found()
        }),
    );
    apply(
        &mut kept,
        MetaCommand::Join(Join {
            node: None,
            folder: FolderId(2),
            level: FeatureLevel(1),
        }),
    );
    kept.flush();
    assert_eq!(kept.value(2, b""), None, "as in a folder of a lone node");
    apply(
        &mut kept,
        MetaCommand::StartMove(StartMove {
            group: Group::Shard(ShardId(0)),
            expected: 1,
            to: Placement {
                voters: vec![NodeId(1)],
                learners: vec![NodeId(2)],
            },
            renewed: None,
        }),
    );
    apply(
        &mut kept,
        MetaCommand::Drain {
            node: NodeId(2),
            is_leaving: true,
        },
    );
    kept.flush();

    let alone = b"\x01\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let replica = b"\x01\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0";
    let golden = [
        &b"\x01\x02\0\0\0"[..],
        b"\x01",
        alone,
        b"\x02",
        alone,
        b"\x03\0\0\0\x01",
        replica,
        b"\x02",
        replica,
        b"\x03\0\0",
        replica,
        // The move: to where, its replicas, not given up, the entry that wrote it.
        b"\x01\0\0\0\x03\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x02\0\0\0",
        b"\x02\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\x03\0\0\x01\0\0\0",
        b"\0\x03\0\0\0\0\0\0\0",
        b"\0\0\0\0\x01\0\0\0\x02\0\0\0",
    ]
    .concat();
    assert_eq!(kept.value(2, b"").unwrap(), golden);
}

#[test]
fn the_row_of_meta_has_these_bytes() {
    let mut kept = Kept::<MetaMachine>::new(());
    kept.apply(&entry(
        9,
        MetaCommand::Found(Found {
            shards: 1.try_into().unwrap(),
            buckets: 1.try_into().unwrap(),
            ..found()
        }),
    ));
    kept.apply(&entry(
        10,
        MetaCommand::Begin(Begin {
            node: NodeId(1),
            folder: FolderId(1),
            start: StartCount(4),
            address: "a:1".to_owned(),
            level: FeatureLevel(1),
        }),
    ));
    kept.apply(&entry(
        11,
        MetaCommand::Recover {
            group: Group::Routes,
            expected: Incarnation(0),
        },
    ));

    kept.flush();

    let folder = b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let golden = [
        &b"\x01\x03\0\0\0\0\0\0\0\x0b\0\0\0\0\0\0\0"[..],
        b"\x01",
        folder,
        b"\x01\0\x01\0\x01\0",
        b"\x01\0\0\0\x01\0\0\0",
        folder,
        b"\x03\0\0\0a:1\x01\0\x01\x02\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0",
        b"\x01\x04\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0",
        b"\x01\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0",
        b"\x01\0\0\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0",
        b"\x01\0\0\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0",
        b"\x01\0\0\0\x02\x01\0",
    ]
    .concat();
    assert_eq!(kept.value(1, b"").unwrap(), golden);
    assert_eq!(kept.value(3, b"").unwrap(), b"\x01\0\0\0\0"[..]);
    assert_eq!(kept.rows().len(), 2);
}

#[test]
fn a_damaged_row_of_meta_is_named() {
    let mut kept = Kept::<MetaMachine>::new(());
    kept.apply(&entry(9, MetaCommand::Found(found())));
    kept.flush();
    let mut rows = kept.rows();
    rows[0].value.truncate(20);

    let error = restored::<MetaMachine>(&(), rows.clone()).unwrap_err();
    assert_eq!(error.what, "row 1 \"\" of meta");

    rows[0].kind = 9;
    let error = restored::<MetaMachine>(&(), rows.clone()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "row 9 \"\" of meta: tag 9 is no kind of row"
    );
    rows[0].kind = 2;
    let error = restored::<MetaMachine>(&(), rows).unwrap_err();
    assert!(
        error.to_string().starts_with("row 2 \"\" of meta: "),
        "{error}"
    );
}

#[test]
fn the_buckets_that_hold_rows_are_a_row_of_these_bytes() {
    let mut kept = Kept::<MetaMachine>::new(());
    kept.apply(&entry(9, MetaCommand::Found(found())));
    let claim = |bucket| BucketClaim {
        bucket: BucketId(bucket),
        epoch: 1,
    };
    let claims = vec![claim(1)];
    let node = NodeId(1);
    kept.apply(&entry(9, MetaCommand::HoldRows { node, claims }));

    kept.flush();

    assert_eq!(kept.value(3, b"").unwrap(), b"\x01\x01\0\0\0\x01\0"[..]);
}

#[test]
fn the_buckets_that_are_being_moved_are_a_row_of_these_bytes_once_there_was_one() {
    let mut kept = Kept::<MetaMachine>::new(());
    let folder = FolderId(2);
    let level = FeatureLevel(1);
    let node = None;
    kept.apply(&entry(9, MetaCommand::Found(found())));
    kept.apply(&entry(
        9,
        MetaCommand::Join(Join {
            node,
            folder,
            level,
        }),
    ));
    let bucket = BucketId(1);
    let claim = |epoch| BucketClaim { bucket, epoch };
    let (node, claims) = (NodeId(1), vec![claim(1)]);
    kept.apply(&entry(9, MetaCommand::HoldRows { node, claims }));
    kept.flush();
    assert_eq!(kept.value(5, b""), None, "as in a folder from before");
    let moves = |epoch, to| MetaCommand::MoveBucket {
        claim: claim(epoch),
        to: NodeId(to),
    };

    kept.apply(&entry(9, moves(1, 2)));
    kept.flush();

    let golden = &b"\x01\x01\0\0\0\x01\0\x02\0\0\0"[..];
    assert_eq!(kept.value(5, b"").unwrap(), golden);
    for (at, harm) in [(5, 0), (7, 1), (7, 9)] {
        let mut rows = kept.rows();
        let row = rows.iter_mut().find(|row| row.kind == 5).unwrap();
        let mut value = row.value.to_vec();
        value[at] = harm;
        row.value = value.into();
        let error = restored::<MetaMachine>(&(), rows).unwrap_err().to_string();
        assert!(error.starts_with("row 5 \"\" of meta: "), "{error}");
    }

    kept.apply(&entry(9, moves(4, 1)));
    kept.flush();

    assert_eq!(kept.value(5, b"").unwrap(), b"\x01\0\0\0\0"[..]);
}

#[test]
fn pins_and_offers_are_rows_of_these_bytes_once_there_was_one() {
    let mut kept = Kept::<MetaMachine>::new(());
    let shard = ShardId(1);
    kept.apply(&entry(9, MetaCommand::Found(found())));
    for node in 2..=4 {
        let node = NodeId(node);
        let (folder, level) = (FolderId(node.0.into()), FeatureLevel(1));
        let join = MetaCommand::Join(Join {
            node: Some(node),
            folder,
            level,
        });
        kept.apply(&entry(9, join));
        let (start, address) = (StartCount(1), String::new());
        let begin = MetaCommand::Begin(Begin {
            node,
            folder,
            start,
            address,
            level,
        });
        kept.apply(&entry(9, begin));
    }
    let to = Placement {
        voters: [1, 2, 3].map(NodeId).into(),
        learners: Vec::new(),
    };
    let group = Group::Shard(shard);
    let start = StartMove {
        group,
        expected: 1,
        to,
        renewed: None,
    };
    kept.apply(&entry(9, MetaCommand::StartMove(start)));
    let expected = 8;
    kept.apply(&entry(9, MetaCommand::EndMove { group, expected }));
    kept.flush();
    assert_eq!((kept.value(6, b""), kept.value(7, b"")), (None, None));

    let pin = Pin {
        shard,
        expected: 9,
        from: NodeId(2),
        to: NodeId(4),
    };
    kept.apply(&entry(9, MetaCommand::Pin(pin)));
    let offer = Offer {
        stores: false,
        server: "n4".to_owned(),
    };
    let node = NodeId(4);
    kept.apply(&entry(9, MetaCommand::Offer { node, offer }));
    kept.flush();

    let pins = &b"\x01\x01\0\0\0\x01\0\x03\0\0\0\x01\0\0\0\x03\0\0\0\x04\0\0\0"[..];
    assert_eq!(kept.value(6, b"").unwrap(), pins);
    let offers = &b"\x01\x01\0\0\0\x04\0\0\0\0\x02\0\0\0n4"[..];
    assert_eq!(kept.value(7, b"").unwrap(), offers);
    // A shard that there is not, a node that is no member.
    for (kind, at, harm) in [(6, 5, 9), (6, 11, 9), (7, 5, 9)] {
        let mut rows = kept.rows();
        let row = rows.iter_mut().find(|row| row.kind == kind).unwrap();
        let mut value = row.value.to_vec();
        value[at] = harm;
        row.value = value.into();
        let error = restored::<MetaMachine>(&(), rows).unwrap_err().to_string();
        assert!(error.starts_with(&format!("row {kind} ")), "{error}");
    }

    kept.apply(&entry(9, MetaCommand::Unpin { shard }));
    kept.flush();
    assert_eq!(kept.value(6, b"").unwrap(), b"\x01\0\0\0\0"[..]);
}

#[test]
fn a_state_that_was_written_before_anybody_said_so_holds_rows_in_all_buckets() {
    let mut kept = Kept::<MetaMachine>::new(());
    kept.apply(&entry(9, MetaCommand::Found(found())));
    kept.flush();
    let mut rows = kept.rows();
    rows.retain(|row| row.kind != 3);

    let machine = restored::<MetaMachine>(&(), rows).unwrap();

    let all: Vec<BucketId> = machine.meta().holding().iter().copied().collect();
    assert_eq!(all, [BucketId(0), BucketId(1)]);
}

#[test]
fn the_device_templates_are_a_row_of_these_bytes() {
    let mut kept = Kept::<MetaMachine>::new(());
    let command = entry(9, found_with());
    let golden = [
        &b"\x02\0\0\0"[..],
        b"\x0d\0\0\0c/{client_id}",
        b"\x0f\0\0\0d/{client_id}/#",
    ]
    .concat();
    assert_eq!(
        &command[command.len() - golden.len()..],
        golden,
        "and the entry's end"
    );
    kept.apply(&command);
    kept.flush();

    assert_eq!(
        kept.value(4, b"").unwrap(),
        [&b"\x01"[..], &golden].concat()
    );

    // It stands behind the state of a cluster, and there are some.
    let rows = kept.rows();
    let alone = rows.iter().filter(|row| row.kind == 4).cloned().collect();
    assert!(restored::<MetaMachine>(&(), alone).is_err());
    let mut none = rows;
    none.last_mut().unwrap().value = b"\x01\0\0\0\0"[..].into();
    assert!(restored::<MetaMachine>(&(), none).is_err());
}

#[test]
fn a_cluster_that_was_founded_without_templates_has_no_row_of_them() {
    let mut kept = Kept::<MetaMachine>::new(());
    kept.apply(&entry(9, MetaCommand::Found(found())));
    kept.flush();
    assert_eq!(kept.value(4, b""), None);
    let machine = restored::<MetaMachine>(&(), kept.rows()).unwrap();
    assert!(machine.meta().templates().is_empty());
}
