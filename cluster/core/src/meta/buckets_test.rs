//! Who owns buckets, and when one stays where it is.

use std::num::NonZeroU16;

use super::*;
use crate::deal;

pub(super) struct Log {
    pub(super) meta: Meta,
    index: u64,
}

impl Log {
    /// A cluster of one node with eight buckets.
    pub(super) fn founded() -> Self {
        let mut log = Self {
            meta: Meta::default(),
            index: 0,
        };
        log.apply(&MetaCommand::Found(Found {
            node: NodeId(1),
            folder: FolderId(1),
            shards: NonZeroU16::new(1).unwrap(),
            buckets: NonZeroU16::new(8).unwrap(),
            level: FeatureLevel(1),
        }));
        log.begin(1);
        log
    }

    pub(super) fn apply(&mut self, command: &MetaCommand) -> MetaAnswer {
        self.index += 1;
        self.meta.apply(self.index, WallMs(self.index), command)
    }

    pub(super) fn begin(&mut self, node: u32) {
        let begin = MetaCommand::Begin(Begin {
            node: NodeId(node),
            folder: FolderId(u128::from(node)),
            start: StartCount(1),
            address: String::new(),
            level: FeatureLevel(1),
        });
        assert!(matches!(self.apply(&begin), MetaAnswer::Begun { .. }));
    }

    pub(super) fn join(&mut self, node: u32) {
        let joined = self.apply(&MetaCommand::Join(Join {
            node: Some(NodeId(node)),
            folder: FolderId(u128::from(node)),
            level: FeatureLevel(1),
        }));
        assert_eq!(joined, MetaAnswer::Joined { node: NodeId(node) });
    }

    pub(super) fn claim(&self, bucket: u16) -> BucketClaim {
        let bucket = BucketId(bucket);
        let epoch = self.meta.bucket(bucket).unwrap().epoch;
        BucketClaim { bucket, epoch }
    }

    pub(super) fn take(&mut self, node: u32, claims: Vec<BucketClaim>) -> MetaAnswer {
        let node = NodeId(node);
        self.apply(&MetaCommand::TakeBuckets { node, claims })
    }

    pub(super) fn hold(&mut self, node: u32, claims: Vec<BucketClaim>) {
        let node = NodeId(node);
        let answer = self.apply(&MetaCommand::HoldRows { node, claims });
        assert_eq!(answer, MetaAnswer::Done);
    }

    pub(super) fn owner(&self, bucket: u16) -> u32 {
        self.meta.bucket(BucketId(bucket)).unwrap().owner.0
    }

    /// Everybody takes what it should; how many each owns then.
    pub(super) fn deal(&mut self) -> Vec<usize> {
        for (node, claims) in deal(&self.meta) {
            self.take(node.0, claims);
        }
        assert_eq!(deal(&self.meta), BTreeMap::new(), "once is enough");
        let owned = |node| (0..8).filter(|bucket| self.owner(*bucket) == node).count();
        (1..=3).map(owned).collect()
    }
}

#[test]
fn whoever_says_first_that_it_takes_rows_keeps_the_bucket() {
    let mut log = Log::founded();
    log.join(2);
    let (held, taken) = (log.claim(3), log.claim(4));

    log.hold(1, vec![held]);
    log.take(2, vec![held, taken]);
    // The founder had not heard of it.
    log.hold(1, vec![taken]);

    assert_eq!((log.owner(3), log.owner(4)), (1, 2));
    assert!(log.meta.holds_rows(BucketId(3)));
    assert!(!log.meta.holds_rows(BucketId(4)));
}

#[test]
fn a_claim_of_an_epoch_that_is_past_counts_for_nothing_although_the_owner_is_the_same() {
    let mut log = Log::founded();
    log.join(2);
    let old = log.claim(0);
    let claims = vec![old];
    log.take(2, claims);
    let claims = vec![log.claim(0)];
    log.take(1, claims);

    log.hold(1, vec![old]);
    log.take(2, vec![old]);

    assert_eq!(log.owner(0), 1);
    assert!(!log.meta.holds_rows(BucketId(0)));
}

#[test]
fn a_bucket_with_rows_is_assigned_to_nobody_else() {
    let mut log = Log::founded();
    log.join(2);
    let claim = log.claim(0);
    log.hold(1, vec![claim]);

    let assigned = log.apply(&MetaCommand::Assign {
        bucket: BucketId(0),
        expected: claim.epoch,
        owner: NodeId(2),
    });

    let refusal = Refusal::Invalid("the bucket holds rows");
    assert_eq!(assigned, MetaAnswer::Refused(refusal));
}

#[test]
fn who_is_no_member_or_leaves_takes_nothing() {
    let mut log = Log::founded();
    log.join(2);
    log.apply(&MetaCommand::Drain {
        node: NodeId(2),
        is_leaving: true,
    });
    let claim = log.claim(0);

    let leaving = Refusal::Leaving(NodeId(2));
    assert_eq!(log.take(2, vec![claim]), MetaAnswer::Refused(leaving));
    let stranger = Refusal::NoMember(NodeId(9));
    assert_eq!(log.take(9, vec![claim]), MetaAnswer::Refused(stranger));
    assert_eq!(log.owner(0), 1);
}

#[test]
fn empty_buckets_are_dealt_evenly_to_members_that_have_come() {
    let mut log = Log::founded();
    assert_eq!(log.deal(), [8, 0, 0]);
    log.join(2);
    assert_eq!(log.deal(), [8, 0, 0], "it has no epoch yet");
    log.begin(2);
    assert_eq!(log.deal(), [4, 4, 0]);
    log.join(3);
    log.begin(3);
    assert_eq!(log.deal(), [3, 3, 2]);
}

#[test]
fn buckets_with_rows_stay_and_count_where_they_are() {
    let mut log = Log::founded();
    let claims = (0..6).map(|bucket| log.claim(bucket)).collect();
    log.hold(1, claims);
    for node in 2..=3 {
        log.join(node);
        log.begin(node);
    }

    assert_eq!(log.deal().iter().sum::<usize>(), 8);

    assert!((0..6).all(|bucket| log.owner(bucket) == 1));
    assert!((6..8).all(|bucket| log.owner(bucket) != 1));
}

/// Says that a member stores no telemetry.
fn says_that_it_stores_nothing(log: &mut Log, node: u32) {
    let offer = Offer {
        stores: false,
        ..Offer::default()
    };
    let node = NodeId(node);
    let said = log.apply(&MetaCommand::Offer { node, offer });
    assert_eq!(said, MetaAnswer::Done);
}

#[test]
fn a_member_that_stores_nothing_gets_no_bucket_and_gives_those_that_it_has() {
    let mut log = Log::founded();
    (2..=3).for_each(|node| log.join(node));
    (2..=3).for_each(|node| log.begin(node));
    log.deal();
    says_that_it_stores_nothing(&mut log, 1);
    assert_eq!(log.deal(), [0, 4, 4]);
    says_that_it_stores_nothing(&mut log, 3);
    assert_eq!(log.deal(), [0, 8, 0]);
    // Who drains beside them still gives all: somebody has to have them.
    let (node, is_leaving) = (NodeId(2), true);
    log.apply(&MetaCommand::Drain { node, is_leaving });
    assert_eq!(log.deal(), [4, 0, 4]);
}

#[test]
fn rows_go_neither_to_nor_from_a_member_that_stores_nothing() {
    let mut log = Log::founded();
    let claims = (0..8).map(|bucket| log.claim(bucket)).collect();
    log.hold(1, claims);
    (2..=3).for_each(|node| log.join(node));
    (2..=3).for_each(|node| log.begin(node));
    says_that_it_stores_nothing(&mut log, 3);
    let moves = crate::deal_moves(&log.meta);
    assert_eq!(moves.keys().map(|node| node.0).collect::<Vec<_>>(), [2]);
    says_that_it_stores_nothing(&mut log, 1);
    assert!(
        crate::deal_moves(&log.meta).is_empty(),
        "no store gives them"
    );
}
