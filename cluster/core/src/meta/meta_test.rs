//! The meta group's state, entry by entry.

use std::num::NonZeroU16;

use super::*;

const FOLDER: FolderId = FolderId(0xa1);

struct Log {
    meta: Meta,
    index: u64,
}

impl Log {
    fn founded() -> Self {
        let mut log = Self {
            meta: Meta::default(),
            index: 0,
        };
        let answer = log.apply(&found(4));
        assert_eq!(answer, MetaAnswer::Joined { node: NodeId(1) });
        log
    }

    fn apply(&mut self, command: &MetaCommand) -> MetaAnswer {
        self.index += 1;
        self.meta
            .apply(self.index, WallMs(1_000 * self.index), command)
    }

    fn begin(&mut self, start: u64) -> NodeEpoch {
        match self.apply(&begin(FOLDER, start)) {
            MetaAnswer::Begun { epoch } => epoch,
            other => panic!("not begun: {other:?}"),
        }
    }

    fn effects(&mut self) -> Vec<MetaEffect> {
        std::iter::from_fn(|| self.meta.poll_effect()).collect()
    }
}

fn found(shards: u16) -> MetaCommand {
    MetaCommand::Found(Found {
        node: NodeId(1),
        folder: FOLDER,
        shards: NonZeroU16::new(shards).unwrap(),
        buckets: NonZeroU16::new(8).unwrap(),
        level: FeatureLevel(3),
    })
}

fn begin(folder: FolderId, start: u64) -> MetaCommand {
    MetaCommand::Begin(Begin {
        node: NodeId(1),
        folder,
        start: StartCount(start),
        address: "127.0.0.1:7000".to_owned(),
        level: FeatureLevel(3),
    })
}

fn join(node: Option<u32>, folder: u128) -> MetaCommand {
    MetaCommand::Join(Join {
        node: node.map(NodeId),
        folder: FolderId(folder),
        level: FeatureLevel(3),
    })
}

fn end(epoch: NodeEpoch) -> MetaCommand {
    MetaCommand::End {
        epoch,
        reason: EndReason::Dead,
    }
}

#[test]
fn the_founder_holds_every_shard_and_bucket() {
    let log = Log::founded();

    assert_eq!(log.meta.shards(), 4);
    assert!(log.meta.is_lone());
    for shard in (0..4).map(ShardId) {
        let row = log.meta.shard(shard).unwrap();
        assert_eq!(row.placement.leader(), Some(NodeId(1)));
    }
    for bucket in (0..8).map(BucketId) {
        assert_eq!(log.meta.bucket(bucket).unwrap().owner, NodeId(1));
    }
    assert_eq!(log.meta.shard(ShardId(4)), None);
}

#[test]
fn founding_again_is_a_repeat_only_with_the_same_numbers() {
    let mut log = Log::founded();

    assert_eq!(log.apply(&found(4)), MetaAnswer::Joined { node: NodeId(1) });
    let other = log.apply(&found(8));
    let refusal = Refusal::Founded {
        shards: 4,
        buckets: 8,
    };
    assert_eq!(other, MetaAnswer::Refused(refusal));
}

#[test]
fn device_templates_are_fixed_with_the_numbers() {
    let with = |templates: &[&str]| {
        let MetaCommand::Found(found) = found(4) else {
            unreachable!("it founds");
        };
        let templates = Templates::parse(templates).unwrap();
        MetaCommand::FoundWith { found, templates }
    };
    let founded = MetaAnswer::Joined { node: NodeId(1) };
    let refused = MetaAnswer::Refused(Refusal::Founded {
        shards: 4,
        buckets: 8,
    });
    let first = with(&["cmd/{client_id}/#"]);
    for (command, others) in [
        (&first, [&found(4), &with(&["cfg/{client_id}/#"])]),
        (&found(4), [&first, &found(8)]),
    ] {
        let (meta, index) = (Meta::default(), 0);
        let mut log = Log { meta, index };
        assert_eq!(log.apply(command), founded);
        assert_eq!(log.apply(command), founded, "a repeat");
        let templates = log.meta.templates().clone();
        for other in others {
            assert_eq!(log.apply(other), refused);
        }
        assert_eq!(*log.meta.templates(), templates);
        assert_eq!(templates.is_empty(), *command == found(4));
    }
}

#[test]
fn a_start_on_its_own_folder_ends_the_old_epoch_in_the_entry_that_begins_the_new_one() {
    let mut log = Log::founded();
    let old = log.begin(1);
    log.effects();

    let new = log.begin(2);

    assert!(new > old);
    assert_eq!(log.meta.standing(old), Standing::Ended);
    assert_eq!(log.meta.standing(new), Standing::Current);
    let node = NodeId(1);
    let expected = [
        MetaEffect::Ended {
            node,
            epoch: old,
            reason: EndReason::Restarted,
        },
        MetaEffect::Begun { node, epoch: new },
    ];
    assert_eq!(log.effects(), expected);
}

#[test]
fn a_repeated_begin_is_answered_as_the_first_was() {
    let mut log = Log::founded();
    let epoch = log.begin(1);

    assert_eq!(log.begin(1), epoch);
    log.apply(&end(epoch));
    assert_eq!(log.begin(1), epoch);
    assert_eq!(log.meta.standing(epoch), Standing::Ended);
}

#[test]
fn a_begin_delayed_from_an_earlier_start_ends_no_later_epoch() {
    let mut log = Log::founded();
    let epoch = log.begin(5);

    let answer = log.apply(&begin(FOLDER, 4));

    assert!(matches!(
        answer,
        MetaAnswer::Refused(Refusal::OldStart { .. })
    ));
    assert_eq!(log.meta.standing(epoch), Standing::Current);
}

#[test]
fn another_folder_cannot_end_the_epoch_of_a_node() {
    let mut log = Log::founded();
    let epoch = log.begin(1);

    let answer = log.apply(&begin(FolderId(7), 9));

    assert_eq!(answer, MetaAnswer::Refused(Refusal::OtherFolder(NodeId(1))));
    assert_eq!(log.meta.standing(epoch), Standing::Current);
}

#[test]
fn epochs_rise_over_a_recovery_that_loses_the_log() {
    let mut log = Log::founded();
    for _ in 0..20 {
        log.apply(&begin(FOLDER, 1));
    }
    let before = log.begin(2);
    let recover = MetaCommand::Recover {
        group: Group::Meta,
        expected: Incarnation(0),
    };
    // The state that a person accepts knows less; its log goes on at a lower index.
    let mut recovered = Log::founded();

    let answer = recovered.apply(&recover);
    let again = recovered.apply(&recover);

    let incarnation = Incarnation(1);
    assert_eq!(answer, MetaAnswer::Recovered { incarnation });
    assert_eq!(again, answer);
    assert!(recovered.begin(3) > before);
}

#[test]
fn a_joining_node_gets_the_lowest_number_never_used() {
    let mut log = Log::founded();

    let joined = |node| MetaAnswer::Joined { node: NodeId(node) };
    assert_eq!(log.apply(&join(Some(3), 30)), joined(3));
    assert_eq!(log.apply(&join(None, 20)), joined(2));
    assert_eq!(log.apply(&join(None, 20)), joined(2));
    assert_eq!(
        log.apply(&MetaCommand::Leave { node: NodeId(2) }),
        MetaAnswer::Done
    );
    assert_eq!(log.apply(&join(None, 40)), joined(4));
    assert_eq!(
        log.apply(&join(Some(2), 50)),
        MetaAnswer::Refused(Refusal::OtherFolder(NodeId(2)))
    );
}

#[test]
fn a_node_that_runs_or_holds_something_does_not_leave() {
    let mut log = Log::founded();
    log.apply(&join(None, 20));

    let leave = MetaCommand::Leave { node: NodeId(1) };
    let refused = MetaAnswer::Refused(Refusal::StillNeeded(NodeId(1)));
    assert_eq!(log.apply(&leave), refused);
}

#[test]
fn a_row_of_the_map_is_replaced_only_by_who_has_read_it() {
    let mut log = Log::founded();
    log.apply(&join(None, 20));
    let group = Group::Shard(ShardId(0));
    let version = |log: &Log| log.meta.shard(ShardId(0)).unwrap().version;
    let placement = |voters: &[u32]| Placement {
        voters: voters.iter().copied().map(NodeId).collect(),
        learners: Vec::new(),
    };
    log.apply(&MetaCommand::StartMove(StartMove {
        group,
        expected: 1,
        to: placement(&[1, 2]),
        renewed: None,
    }));
    let expected = log.meta.goal(group).unwrap().version;
    log.apply(&MetaCommand::EndMove { group, expected });
    let read = version(&log);
    let place = |voters: &[u32], expected| MetaCommand::Place {
        shard: ShardId(0),
        expected,
        placement: placement(voters),
    };

    assert_eq!(log.apply(&place(&[2, 1], read)), MetaAnswer::Done);
    // A repeat, then somebody who read the old row.
    assert_eq!(log.apply(&place(&[2, 1], read)), MetaAnswer::Done);
    assert!(matches!(
        log.apply(&place(&[1, 2], read)),
        MetaAnswer::Refused(Refusal::Changed { .. })
    ));
    let row = log.meta.shard(ShardId(0)).unwrap().clone();
    assert_eq!(row.placement.leader(), Some(NodeId(2)));
    for other in [&[2][..], &[2, 9], &[1, 1]] {
        let answer = log.apply(&place(other, row.version));
        assert!(
            matches!(answer, MetaAnswer::Refused(Refusal::Invalid(_))),
            "{other:?}"
        );
    }
}

#[test]
fn a_bucket_changes_hands_under_a_new_epoch() {
    let mut log = Log::founded();
    log.apply(&join(None, 20));
    let old = log.meta.bucket(BucketId(3)).unwrap();
    let assign = MetaCommand::Assign {
        bucket: BucketId(3),
        expected: old.epoch,
        owner: NodeId(2),
    };

    assert_eq!(log.apply(&assign), MetaAnswer::Done);

    let new = log.meta.bucket(BucketId(3)).unwrap();
    assert_eq!(new.owner, NodeId(2));
    assert!(new.epoch > old.epoch);
}

#[test]
fn the_level_rises_only_as_far_as_every_member_understands() {
    let mut log = Log::founded();
    let raise = |level| MetaCommand::RaiseLevel {
        level: FeatureLevel(level),
    };

    assert!(matches!(
        log.apply(&raise(4)),
        MetaAnswer::Refused(Refusal::MemberBehind { .. })
    ));
    assert_eq!(log.apply(&raise(2)), MetaAnswer::Done);
    assert_eq!(log.meta.level(), FeatureLevel(3));
    let low = MetaCommand::Join(Join {
        node: None,
        folder: FolderId(77),
        level: FeatureLevel(2),
    });
    assert!(matches!(
        log.apply(&low),
        MetaAnswer::Refused(Refusal::LevelTooLow { .. })
    ));
}

#[test]
fn nothing_can_be_done_before_the_cluster_is_founded() {
    let mut meta = Meta::default();

    let answer = meta.apply(1, WallMs(0), &join(None, 1));

    assert_eq!(answer, MetaAnswer::Refused(Refusal::NotFounded));
}

#[test]
fn a_restored_meta_answers_as_the_one_before() {
    let mut log = Log::founded();
    let ended = log.begin(1);
    let epoch = log.begin(2);
    log.apply(&MetaCommand::Recover {
        group: Group::Meta,
        expected: Incarnation(0),
    });
    let state = log.meta.state();

    let mut restored = Meta::restore(
        state.clone(),
        Some(log.meta.layout().clone()),
        None,
        BTreeMap::new(),
        log.meta.templates().clone(),
    );

    assert_eq!(restored.state(), state);
    assert_eq!(restored.poll_effect(), None);
    assert_eq!(restored.standing(ended), Standing::Ended);
    assert_eq!(restored.node_of(epoch), Some(NodeId(1)));
    // A repeat, an old start, a new one under the raised incarnation.
    for start in [2, 1, 3] {
        log.index += 1;
        let (index, command) = (log.index, begin(FOLDER, start));
        let answer = restored.apply(index, WallMs(0), &command);
        assert_eq!(answer, log.meta.apply(index, WallMs(0), &command));
    }
    assert_eq!(restored.state(), log.meta.state());
}
