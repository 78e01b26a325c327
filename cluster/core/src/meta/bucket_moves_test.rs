//! Moves of buckets that hold rows.

use super::buckets_test::Log;
use super::*;
use crate::{deal, deal_moves};

impl Log {
    /// Three members that run; of the eight buckets of the first this many hold rows.
    fn of_three(with_rows: u16) -> Self {
        let mut log = Self::founded();
        let claims = (0..with_rows).map(|bucket| log.claim(bucket)).collect();
        log.hold(1, claims);
        for node in 2..=3 {
            log.join(node);
            log.begin(node);
        }
        log
    }

    fn move_bucket(&mut self, claim: BucketClaim, to: u32) -> MetaAnswer {
        let to = NodeId(to);
        self.apply(&MetaCommand::MoveBucket { claim, to })
    }

    fn moved(&mut self, claim: BucketClaim, to: u32) -> MetaAnswer {
        let to = NodeId(to);
        self.apply(&MetaCommand::BucketMoved { claim, to })
    }

    fn drain(&mut self, node: u32, is_leaving: bool) {
        let node = NodeId(node);
        let drained = self.apply(&MetaCommand::Drain { node, is_leaving });
        assert_eq!(drained, MetaAnswer::Done);
    }

    fn moving_to(&self, bucket: u16) -> Option<u32> {
        self.meta.moving_to(BucketId(bucket)).map(|node| node.0)
    }

    /// Everybody takes what it should until there is nothing more; how many each owns then, and how
    /// many moves that took.
    fn settle(&mut self) -> (Vec<usize>, usize) {
        for (node, claims) in deal(&self.meta) {
            self.take(node.0, claims);
        }
        let mut moves = 0;
        loop {
            let dealt = deal_moves(&self.meta);
            if dealt.is_empty() {
                break;
            }
            for (node, claim) in &dealt {
                assert_eq!(self.move_bucket(*claim, node.0), MetaAnswer::Done);
            }
            assert_eq!(deal_moves(&self.meta), BTreeMap::new(), "one at a time");
            for (node, claim) in dealt {
                let claim = self.claim(claim.bucket.0);
                assert_eq!(self.moved(claim, node.0), MetaAnswer::Done);
                moves += 1;
            }
        }
        let owned = |node| (0..8).filter(|bucket| self.owner(*bucket) == node).count();
        ((1..=3).map(owned).collect(), moves)
    }
}

#[test]
fn a_bucket_with_rows_has_another_owner_once_all_of_it_is_there() {
    let mut log = Log::of_three(1);
    let before = log.claim(0);

    assert_eq!(log.move_bucket(before, 2), MetaAnswer::Done);
    assert_eq!((log.owner(0), log.moving_to(0)), (1, Some(2)));
    let moving = log.claim(0);
    assert!(moving.epoch > before.epoch);
    assert_eq!(log.moved(moving, 2), MetaAnswer::Done);

    assert_eq!((log.owner(0), log.moving_to(0)), (2, None));
    assert!(log.claim(0).epoch > moving.epoch);
    assert!(log.meta.holds_rows(BucketId(0)));
}

#[test]
fn what_was_copied_under_an_epoch_that_is_past_makes_nobody_an_owner() {
    let mut log = Log::of_three(1);
    log.move_bucket(log.claim(0), 2);
    let given_up = log.claim(0);
    let changed = |log: &Log| {
        let current = log.claim(0).epoch;
        MetaAnswer::Refused(Refusal::Changed { current })
    };

    // To its owner: the move is given up.
    assert_eq!(log.move_bucket(given_up, 1), MetaAnswer::Done);
    assert_eq!(log.moving_to(0), None);
    assert_eq!(log.moved(given_up, 2), changed(&log));
    log.move_bucket(log.claim(0), 2);
    let turned = log.claim(0);
    // Another takes over.
    assert_eq!(log.move_bucket(turned, 3), MetaAnswer::Done);
    assert_eq!(log.moved(turned, 2), changed(&log));
    assert_eq!(log.moved(log.claim(0), 2), changed(&log), "it is not to it");
    assert_eq!(log.move_bucket(turned, 2), changed(&log));
    assert_eq!((log.owner(0), log.moving_to(0)), (1, Some(3)));
}

#[test]
fn a_move_that_there_is_not_is_given_up_without_a_trace() {
    let mut log = Log::of_three(1);
    let before = log.claim(0);

    assert_eq!(log.move_bucket(before, 1), MetaAnswer::Done);

    assert_eq!(log.claim(0), before);
}

#[test]
fn only_a_member_that_stays_gets_a_bucket_and_only_one_with_rows() {
    let mut log = Log::of_three(1);
    log.drain(3, true);
    let refused = |refusal| MetaAnswer::Refused(refusal);

    let claim = log.claim(0);
    assert_eq!(
        log.move_bucket(claim, 3),
        refused(Refusal::Leaving(NodeId(3)))
    );
    assert_eq!(
        log.move_bucket(claim, 9),
        refused(Refusal::NoMember(NodeId(9)))
    );
    assert_eq!(
        log.move_bucket(log.claim(1), 2),
        refused(Refusal::Invalid("the bucket holds no rows"))
    );
    assert_eq!(log.claim(0), claim);
}

#[test]
fn one_move_begins_at_a_node_and_one_ends_there_at_a_time() {
    let mut log = Log::of_three(3);
    let busy = |node| {
        MetaAnswer::Refused(Refusal::Busy {
            node: NodeId(node),
            limit: BUCKET_MOVES_PER_NODE_MAX,
        })
    };
    log.move_bucket(log.claim(0), 2);

    assert_eq!(log.move_bucket(log.claim(1), 3), busy(1));
    log.moved(log.claim(0), 2);
    assert_eq!(log.move_bucket(log.claim(1), 3), MetaAnswer::Done);
    assert_eq!(log.move_bucket(log.claim(0), 3), busy(3));
    assert_eq!(log.move_bucket(log.claim(0), 1), MetaAnswer::Done, "back");
}

#[test]
fn who_is_to_get_a_bucket_is_not_forgotten() {
    let mut log = Log::of_three(1);
    log.move_bucket(log.claim(0), 2);
    log.drain(2, true);
    let epoch = log.meta.member(NodeId(2)).unwrap().epoch.unwrap();
    let reason = EndReason::Stopped;
    log.apply(&MetaCommand::End { epoch, reason });
    let leave = MetaCommand::Leave { node: NodeId(2) };

    let needed = MetaAnswer::Refused(Refusal::StillNeeded(NodeId(2)));
    assert_eq!(log.apply(&leave), needed);
    log.move_bucket(log.claim(0), 1);
    assert_eq!(log.apply(&leave), MetaAnswer::Done);
}

#[test]
fn buckets_with_rows_go_one_by_one_to_who_has_room() {
    let mut log = Log::of_three(8);
    let (mut owned, moves) = log.settle();
    owned.sort_unstable();
    assert_eq!((owned, moves), (vec![2, 3, 3], 5));
    assert_eq!(log.settle().1, 0, "once is enough");
}

#[test]
fn those_without_rows_go_first_and_those_with_rows_only_beyond_the_bound() {
    let mut log = Log::of_three(4);
    let (owned, moves) = log.settle();
    assert_eq!(owned.iter().max(), Some(&3));
    assert_eq!(moves, 1);
}

#[test]
fn a_node_that_is_to_leave_gives_up_all_and_one_that_is_kept_after_all_gets_some_again() {
    let mut log = Log::of_three(8);
    log.settle();
    log.drain(1, true);
    assert_eq!(log.settle(), (vec![0, 4, 4], 3));
    log.drain(1, false);
    assert_eq!(log.settle(), (vec![2, 3, 3], 2));
}

#[test]
fn nothing_is_moved_from_a_node_that_does_not_run() {
    let mut log = Log::of_three(8);
    let epoch = log.meta.member(NodeId(1)).unwrap().epoch.unwrap();
    let reason = EndReason::Dead;
    log.apply(&MetaCommand::End { epoch, reason });
    assert_eq!(deal_moves(&log.meta), BTreeMap::new());
    log.drain(1, true);
    assert_eq!(deal_moves(&log.meta), BTreeMap::new());
}
