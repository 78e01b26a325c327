//! When this node stands for election.

use std::collections::BTreeMap;

use cluster_core::{BootMs, Group, NodeId};
use runtime::Random;

use super::claims::Leaders;

/// How long nobody claims a group before its voters stand, whatever Raft's metrics say, in
/// milliseconds.
pub(super) const UNCLAIMED_MS: u64 = 1_500;
/// How long each voter leaves to the one before it in placement order, in milliseconds; up to
/// [`TURN_JITTER_MS`] is added.
const TURN_MS: u64 = 300;
const TURN_JITTER_MS: u64 = 100;

/// How long after the lease of a leader that is gone its voters stand, in milliseconds: who heard it
/// last did so a little later than others, and votes for nobody until then.
const LEASE_MARGIN_MS: u64 = 20;

/// The groups that this node votes in and that want a leader. Holds a row for each of them.
///
/// Of a group without a leader the first live voter in placement order stands as soon as anybody may
/// vote for it, the next one a turn later, and so on, and round again until somebody claims it.
/// Raft's own rules (leases, pre-votes) decide who wins.
#[derive(Clone, Debug, Default)]
pub(super) struct Elections {
    wanting: BTreeMap<Group, Wanting>,
}

/// A group in which this node votes.
#[derive(Clone, Debug)]
pub(super) struct Voters {
    /// The nodes that vote, in placement order.
    pub(super) nodes: Vec<NodeId>,
    /// Until then this node's replica is not to stand: it has heard a leader, against whom nobody
    /// votes, or has voted for another, whose election may be under way.
    pub(super) yields_until: BootMs,
}

#[derive(Clone, Copy, Debug)]
struct Wanting {
    /// Since when nobody claims it.
    since: BootMs,
    /// When this node stands next, once it is certain that there is no leader.
    next: Option<BootMs>,
}

impl Elections {
    /// The leader of a group is gone: its voters do not wait for [`UNCLAIMED_MS`].
    pub(super) fn handle_gone(&mut self, group: Group, now: BootMs) {
        let wanting = self.wanting.entry(group).or_insert(Wanting {
            since: now,
            next: None,
        });
        wanting.since = BootMs(now.0.saturating_sub(UNCLAIMED_MS)).min(wanting.since);
    }

    /// The groups in which node `me` stands now, of those that it votes in. To be called every 100 ms
    /// and whenever who leads has changed.
    pub(super) fn handle_timeout(
        &mut self,
        me: NodeId,
        voters: &BTreeMap<Group, Voters>,
        leaders: &Leaders,
        is_live: impl Fn(NodeId) -> bool,
        random: &mut Random,
        now: BootMs,
    ) -> Vec<Group> {
        self.wanting
            .retain(|group, _| voters.contains_key(group) && !leaders.contains_key(group));
        let mut stands = Vec::new();
        for (
            &group,
            Voters {
                nodes,
                yields_until,
            },
        ) in voters
        {
            if leaders.contains_key(&group) {
                continue;
            }
            let wanting = self.wanting.entry(group).or_insert(Wanting {
                since: now,
                next: None,
            });
            let is_alone = nodes.iter().all(|node| *node == me);
            let is_yielding = now < yields_until.plus_ms(LEASE_MARGIN_MS);
            if !is_alone && (is_yielding || now.since_ms(wanting.since) < UNCLAIMED_MS) {
                // An attempt would be nothing, and those who stand next would do so at once.
                wanting.next = None;
                continue;
            }
            let live = nodes.iter().filter(|node| **node == me || is_live(**node));
            let live: Vec<&NodeId> = live.collect();
            let place = live.iter().position(|node| **node == me);
            let turns = |count: usize, random: &mut Random| {
                (0..count)
                    .map(|_| TURN_MS + random.below(TURN_JITTER_MS))
                    .sum()
            };
            let next = *wanting.next.get_or_insert_with(|| {
                let before = turns(place.unwrap_or_default(), random);
                now.plus_ms(before)
            });
            if now >= next {
                wanting.next = Some(now.plus_ms(turns(live.len().max(2), random)));
                stands.push(group);
            }
        }
        stands
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::claims::Leading;

    const T0: BootMs = BootMs(9_000);
    const G: Group = Group::Meta;

    struct Voter {
        me: NodeId,
        yields_until: BootMs,
        elections: Elections,
        random: Random,
    }

    impl Voter {
        fn new(me: u32) -> Self {
            Self {
                me: NodeId(me),
                yields_until: BootMs(0),
                elections: Elections::default(),
                random: Random::seeded(me.into()),
            }
        }

        fn stands(&mut self, leader: Option<u32>, live: &[u32], ms: u64) -> bool {
            let nodes = [2, 1, 3].map(NodeId).to_vec();
            let yields_until = self.yields_until;
            let voters = Voters {
                nodes,
                yields_until,
            };
            let voters = BTreeMap::from([(G, voters)]);
            let leading = |node| Leading {
                node: NodeId(node),
                term: 1,
                reached: 0,
                applied: 1,
                heard: T0,
            };
            let leaders = leader.map(|node| (G, leading(node))).into_iter().collect();
            let is_live = |node: NodeId| live.contains(&node.0);
            let stands = self.elections.handle_timeout(
                self.me,
                &voters,
                &leaders,
                is_live,
                &mut self.random,
                T0.plus_ms(ms),
            );
            !stands.is_empty()
        }

        /// When it stands, in steps of 100 ms.
        fn times(&mut self, live: &[u32], until: u64) -> Vec<u64> {
            let times = (0..=until / 100).map(|step| step * 100);
            times.filter(|ms| self.stands(None, live, *ms)).collect()
        }
    }

    #[test]
    fn a_group_that_nobody_claims_is_left_alone_for_a_while_then_each_stands_in_turn() {
        let mut times: Vec<Vec<u64>> = [2, 1, 3]
            .map(|me| Voter::new(me).times(&[1, 2, 3], 3_500))
            .into();
        let first: Vec<u64> = times.iter().map(|times| times[0]).collect();
        assert_eq!(first[0], 1_500);
        assert!((1_800..=1_900).contains(&first[1]), "{first:?}");
        assert!((2_100..=2_300).contains(&first[2]), "{first:?}");
        // And round again.
        let again = times.remove(0)[1];
        assert!((2_400..=2_700).contains(&again), "{again}");
    }

    #[test]
    fn a_leader_that_is_gone_is_replaced_at_once_and_who_is_not_live_has_no_turn() {
        let mut next = Voter::new(1);
        assert!(!next.stands(Some(2), &[1, 2, 3], 0));
        next.elections.handle_gone(G, T0.plus_ms(100));
        assert!(next.stands(None, &[1, 3], 100), "node 2 is first, and gone");

        let mut last = Voter::new(3);
        last.elections.handle_gone(G, T0.plus_ms(100));
        assert!(!last.stands(None, &[1, 3], 100));
        assert!(!last.stands(None, &[1, 3], 300));
        assert!(last.stands(None, &[1, 3], 500));
    }

    #[test]
    fn while_a_lease_lasts_nobody_stands_and_then_all_do_in_their_order() {
        let stands: Vec<u64> = [1, 3]
            .map(|me| {
                let mut voter = Voter::new(me);
                voter.yields_until = T0.plus_ms(1_000);
                voter.elections.handle_gone(G, T0);
                voter.times(&[1, 3], 2_000)[0]
            })
            .into();
        assert_eq!(stands[0], 1_100, "the margin is not over at 1 000");
        assert!((1_400..=1_500).contains(&stands[1]), "{stands:?}");

        // A leader that is heard again after all takes the next turn away.
        let mut last = Voter::new(3);
        last.elections.handle_gone(G, T0);
        assert!(!last.stands(None, &[1, 3], 0));
        last.yields_until = T0.plus_ms(1_500);
        assert!(!last.stands(None, &[1, 3], 500));
        assert!(
            !last.stands(None, &[1, 3], 1_600),
            "its turn is behind the first's"
        );
        assert!(last.stands(None, &[1, 3], 2_000));
    }

    #[test]
    fn once_somebody_claims_the_group_nobody_stands() {
        let mut voter = Voter::new(2);
        voter.elections.handle_gone(G, T0);
        assert!(voter.stands(None, &[1, 2, 3], 0));
        assert!(!voter.stands(Some(3), &[1, 2, 3], 100));
        assert!(!voter.stands(Some(3), &[1, 2, 3], 9_000));
        // From then on it is waited for anew.
        assert!(!voter.stands(None, &[1, 2, 3], 9_100));
        assert!(voter.stands(None, &[1, 2, 3], 10_600));
    }

    #[test]
    fn who_votes_alone_waits_for_nobody() {
        let mut alone = Elections::default();
        let voters = Voters {
            nodes: vec![NodeId(1)],
            // Its own leadership, before it was started again.
            yields_until: T0.plus_ms(1_000),
        };
        let voters = BTreeMap::from([(G, voters)]);
        let stands = alone.handle_timeout(
            NodeId(1),
            &voters,
            &Leaders::new(),
            |_| false,
            &mut Random::seeded(1),
            T0,
        );
        assert_eq!(stands, [G]);
    }
}
