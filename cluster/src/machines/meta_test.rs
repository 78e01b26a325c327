use cluster_core::{
    Begin, BucketId, EndReason, FeatureLevel, FolderId, Found, Group, Incarnation, Join,
    MetaCommand, NodeEpoch, NodeId, Placement, ShardId, StartCount, WallMs,
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
    match rng.random_range(0..10) {
        _ if count == 0 => MetaCommand::Found(found()),
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
        _ => MetaCommand::Recover {
            group: Group::Shard(shard),
            expected: Incarnation(0),
        },
    }
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

fn entry(time: u64, command: MetaCommand) -> Vec<u8> {
    let time = WallMs(time);
    MetaEntry { time, command }.encode()
}

#[test]
fn a_crash_changes_nothing_of_meta() {
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
        assert_eq!(crashed.meta().epochs(), spared.meta().epochs());
    }
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
    assert_eq!(kept.rows().len(), 1);
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

    rows[0].kind = 2;
    let error = restored::<MetaMachine>(&(), rows).unwrap_err();
    assert_eq!(
        error.to_string(),
        "row 2 \"\" of meta: tag 2 is no kind of row"
    );
}
