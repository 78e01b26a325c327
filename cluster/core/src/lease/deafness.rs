//! Which of two nodes goes on when they do not hear each other.

use std::collections::{BTreeMap, BTreeSet};

use super::DEAF_MS;
use crate::{BootMs, EpochView, NodeEpoch, Standing};

/// Pairs of epochs that do not hear each other, as their renewals say.
///
/// A pair counts as deaf while neither names the other: what goes one way only is heard. After
/// [`DEAF_MS`] the one that leads fewer shards loses (among equals the later epoch), and goes on
/// losing until they hear each other or one of them ends, however leaderships move meanwhile: else
/// both would lose in turn. Who loses already makes nobody else lose. Holds a row for each pair of
/// members at most.
#[derive(Clone, Debug, Default)]
pub(super) struct Deafness {
    latest: BTreeMap<NodeEpoch, Heard>,
    deaf: BTreeMap<(NodeEpoch, NodeEpoch), Deaf>,
}

#[derive(Clone, Debug)]
struct Heard {
    heard: BTreeSet<NodeEpoch>,
    leads: u16,
}

#[derive(Clone, Copy, Debug)]
struct Deaf {
    since: BootMs,
    loser: Option<NodeEpoch>,
}

impl Deafness {
    /// An epoch that has not ended says whom it hears and how many shards it leads.
    pub(super) fn handle_heard(
        &mut self,
        epoch: NodeEpoch,
        heard: &BTreeSet<NodeEpoch>,
        leads: u16,
        epochs: &EpochView,
        now: BootMs,
    ) {
        let heard = heard.clone();
        self.latest.insert(epoch, Heard { heard, leads });
        // An epoch may ask before this leader has applied its beginning.
        let has_ended = |epoch: &NodeEpoch| epochs.standing(*epoch) == Standing::Ended;
        self.latest.retain(|epoch, _| !has_ended(epoch));
        self.deaf.retain(|(a, b), _| !has_ended(a) && !has_ended(b));
        let others: Vec<NodeEpoch> = self.latest.keys().copied().collect();
        for other in others {
            if other == epoch {
                continue;
            }
            let pair = (epoch.min(other), epoch.max(other));
            if self.hears(epoch, other) || self.hears(other, epoch) {
                self.deaf.remove(&pair);
                continue;
            }
            let deaf = self.deaf.entry(pair).or_insert(Deaf {
                since: now,
                loser: None,
            });
            let is_due = now.since_ms(deaf.since) >= DEAF_MS;
            if is_due && self.loses_to(pair.0).is_none() && self.loses_to(pair.1).is_none() {
                let loser = self.loser(pair);
                self.deaf
                    .entry(pair)
                    .and_modify(|deaf| deaf.loser = Some(loser));
            }
        }
    }

    /// For whom an epoch gets no lease.
    pub(super) fn loses_to(&self, epoch: NodeEpoch) -> Option<NodeEpoch> {
        let mut lost = self
            .deaf
            .iter()
            .filter(|(_, deaf)| deaf.loser == Some(epoch));
        lost.next()
            .map(|((a, b), _)| if *a == epoch { *b } else { *a })
    }

    /// An epoch has ended.
    pub(super) fn handle_ended(&mut self, epoch: NodeEpoch) {
        self.latest.remove(&epoch);
        self.deaf.retain(|(a, b), _| *a != epoch && *b != epoch);
    }

    fn hears(&self, epoch: NodeEpoch, other: NodeEpoch) -> bool {
        self.latest[&epoch].heard.contains(&other)
    }

    fn loser(&self, (a, b): (NodeEpoch, NodeEpoch)) -> NodeEpoch {
        if self.latest[&a].leads < self.latest[&b].leads {
            a
        } else {
            b
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: BootMs = BootMs(50_000);
    const A: NodeEpoch = NodeEpoch(4);
    const B: NodeEpoch = NodeEpoch(6);
    const C: NodeEpoch = NodeEpoch(8);

    struct Cluster {
        deafness: Deafness,
        epochs: EpochView,
        now: BootMs,
    }

    impl Cluster {
        fn new() -> Self {
            Self {
                deafness: Deafness::default(),
                epochs: EpochView {
                    index: 9,
                    begun: C,
                    current: [A, B, C].into(),
                },
                now: T0,
            }
        }

        /// All renew, a second later: whom each hears, and what it leads.
        fn renew(&mut self, all: &[(NodeEpoch, &[NodeEpoch], u16)]) -> Vec<NodeEpoch> {
            self.now = self.now.plus_ms(1_000);
            for (epoch, heard, leads) in all {
                let heard = heard.iter().copied().collect();
                self.deafness
                    .handle_heard(*epoch, &heard, *leads, &self.epochs, self.now);
            }
            let losers = all.iter().map(|(epoch, ..)| *epoch);
            losers
                .filter(|e| self.deafness.loses_to(*e).is_some())
                .collect()
        }
    }

    #[test]
    fn with_one_link_cut_one_node_loses_after_five_seconds_and_stays_the_loser() {
        let mut cluster = Cluster::new();
        let cut: [(NodeEpoch, &[NodeEpoch], u16); 3] =
            [(A, &[C], 10), (B, &[C], 12), (C, &[A, B], 10)];
        for _ in 0..5 {
            assert_eq!(cluster.renew(&cut), []);
        }
        assert_eq!(cluster.renew(&cut), [A]);
        // Its shards are led elsewhere by now; then it is the other that leads fewer.
        assert_eq!(
            cluster.renew(&[(A, &[C], 9), (B, &[C], 3), (C, &[A, B], 20)]),
            [A]
        );
        assert_eq!(
            cluster.renew(&[(A, &[C], 9), (B, &[A, C], 3), (C, &[A, B], 20)]),
            []
        );
    }

    #[test]
    fn what_is_heard_one_way_is_not_deaf_and_a_pause_begins_anew() {
        let mut cluster = Cluster::new();
        for second in 0..20 {
            let heard: &[NodeEpoch] = if second % 4 == 0 { &[A] } else { &[] };
            assert_eq!(cluster.renew(&[(A, &[], 1), (B, heard, 2)]), []);
        }
    }

    #[test]
    fn among_equals_the_later_epoch_loses() {
        let mut cluster = Cluster::new();
        for _ in 0..5 {
            cluster.renew(&[(A, &[], 4), (B, &[], 4)]);
        }
        assert_eq!(cluster.renew(&[(A, &[], 4), (B, &[], 4)]), [B]);
    }

    #[test]
    fn a_node_that_nobody_hears_makes_one_lose_not_two() {
        let mut cluster = Cluster::new();
        let alone: [(NodeEpoch, &[NodeEpoch], u16); 3] = [(A, &[], 5), (B, &[C], 9), (C, &[B], 9)];
        for _ in 0..5 {
            cluster.renew(&alone);
        }
        assert_eq!(cluster.renew(&alone), [A]);
    }

    #[test]
    fn an_epoch_that_ended_makes_nobody_lose() {
        let mut cluster = Cluster::new();
        for _ in 0..6 {
            cluster.renew(&[(A, &[], 1), (B, &[], 2)]);
        }
        assert_eq!(cluster.deafness.loses_to(A), Some(B));

        cluster.deafness.handle_ended(B);

        assert_eq!(cluster.deafness.loses_to(A), None);
    }
}
