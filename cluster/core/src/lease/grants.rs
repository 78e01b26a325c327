//! What meta's leader grants, and when it may let an epoch end.

use std::collections::{BTreeMap, VecDeque};

use super::{END_AFTER_MS, ROUTES_BEHIND_MS, RenewalId};
use crate::{BootMs, EpochView, NodeEpoch, Standing};

/// Commits of the routes group that are remembered: one each tenth of [`ROUTES_BEHIND_MS`].
const ROUTES_SAMPLES_MAX: usize = 16;
const ROUTES_SAMPLE_MS: u64 = ROUTES_BEHIND_MS / 10;

/// A node's request for its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Whose.
    pub epoch: NodeEpoch,
    /// Which.
    pub id: RenewalId,
    /// The routes index that the node has applied.
    pub routes_applied: u64,
}

/// Names a quorum round of the meta group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Round(pub u64);

/// Work for the host of meta's leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantsEffect {
    /// Begin a round that shows that this node leads (ReadIndex); then
    /// [`Grants::handle_round`].
    Round(Round),
    /// Tell the node.
    Grant {
        /// Whose.
        epoch: NodeEpoch,
        /// Which renewal.
        id: RenewalId,
    },
    /// Tell the node why not.
    Refuse {
        /// Whose.
        epoch: NodeEpoch,
        /// Which renewal.
        id: RenewalId,
        /// Why.
        why: NotGranted,
    },
}

/// Why a lease is not renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotGranted {
    /// The epoch has ended: the node closes all its connections and begins another.
    #[error("the epoch has ended")]
    Ended,
    /// The node's routes are too far behind.
    #[error("routes are more than 2 s behind")]
    RoutesBehind,
}

/// The leases granted by one leadership of meta.
#[derive(Clone, Debug)]
pub struct Grants {
    /// Before this a predecessor's grants may last.
    since: BootMs,
    granted: BTreeMap<NodeEpoch, BootMs>,
    /// Requests that the round under way began too early for; one an epoch.
    waiting: BTreeMap<NodeEpoch, Renewal>,
    round: Option<(Round, BTreeMap<NodeEpoch, Renewal>)>,
    rounds: u64,
    /// Commits of the routes group, ascending.
    routes: VecDeque<(BootMs, u64)>,
    effects: VecDeque<GrantsEffect>,
}

impl Grants {
    /// A leadership that begins: nothing is known of what the one before has granted.
    pub fn new(now: BootMs) -> Self {
        Self {
            since: now,
            granted: BTreeMap::new(),
            waiting: BTreeMap::new(),
            round: None,
            rounds: 0,
            routes: VecDeque::new(),
            effects: VecDeque::new(),
        }
    }

    /// The routes group has committed up to here.
    pub fn handle_routes(&mut self, committed: u64, now: BootMs) {
        let is_due = |(at, _): &(BootMs, u64)| now.since_ms(*at) >= ROUTES_SAMPLE_MS;
        if self.routes.back().is_none_or(is_due) {
            if self.routes.len() >= ROUTES_SAMPLES_MAX {
                self.routes.pop_front();
            }
            self.routes.push_back((now, committed));
        }
    }

    /// A node asks. It is answered after a round that begins from now on.
    pub fn handle_renewal(&mut self, renewal: Renewal, epochs: &EpochView, now: BootMs) {
        let why = if epochs.standing(renewal.epoch) == Standing::Ended {
            NotGranted::Ended
        } else if self.is_behind(renewal.routes_applied, now) {
            NotGranted::RoutesBehind
        } else {
            self.waiting.insert(renewal.epoch, renewal);
            return self.begin_round();
        };
        let Renewal { epoch, id, .. } = renewal;
        self.effects
            .push_back(GrantsEffect::Refuse { epoch, id, why });
    }

    /// A round has shown that this node still leads: grants what had been asked when it began.
    pub fn handle_round(&mut self, round: Round, epochs: &EpochView, now: BootMs) {
        let Some((_, asked)) = self.round.take_if(|(known, _)| *known == round) else {
            return;
        };
        for Renewal { epoch, id, .. } in asked.into_values() {
            if epochs.standing(epoch) == Standing::Ended {
                let why = NotGranted::Ended;
                self.effects
                    .push_back(GrantsEffect::Refuse { epoch, id, why });
                continue;
            }
            self.granted.insert(epoch, now);
            self.effects.push_back(GrantsEffect::Grant { epoch, id });
        }
        self.begin_round();
    }

    /// A round failed: its requests wait for the next one, which `handle_renewal` begins.
    pub fn handle_round_failed(&mut self, round: Round) {
        if let Some((_, asked)) = self.round.take_if(|(known, _)| *known == round) {
            for (epoch, renewal) in asked {
                self.waiting.entry(epoch).or_insert(renewal);
            }
        }
    }

    /// Whether every lease of the epoch is over, so that its end may be proposed.
    pub fn may_end(&self, epoch: NodeEpoch, now: BootMs) -> bool {
        let last = self.granted.get(&epoch).copied();
        now >= last.unwrap_or(self.since).plus_ms(END_AFTER_MS)
    }

    /// Meta's log has ended an epoch.
    pub fn handle_ended(&mut self, epoch: NodeEpoch) {
        self.granted.remove(&epoch);
        self.waiting.remove(&epoch);
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<GrantsEffect> {
        self.effects.pop_front()
    }

    fn begin_round(&mut self) {
        if self.round.is_some() || self.waiting.is_empty() {
            return;
        }
        self.rounds += 1;
        let round = Round(self.rounds);
        self.round = Some((round, std::mem::take(&mut self.waiting)));
        self.effects.push_back(GrantsEffect::Round(round));
    }

    fn is_behind(&self, applied: u64, now: BootMs) -> bool {
        let mut due = self.routes.iter();
        due.any(|(at, committed)| *committed > applied && now.since_ms(*at) > ROUTES_BEHIND_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: BootMs = BootMs(50_000);
    const A: NodeEpoch = NodeEpoch(4);
    const B: NodeEpoch = NodeEpoch(6);

    fn epochs(current: &[NodeEpoch]) -> EpochView {
        EpochView {
            index: 9,
            begun: B,
            current: current.iter().copied().collect(),
        }
    }

    fn renewal(epoch: NodeEpoch, id: u64) -> Renewal {
        Renewal {
            epoch,
            id: RenewalId(id),
            routes_applied: 100,
        }
    }

    fn grant(epoch: NodeEpoch, id: u64) -> GrantsEffect {
        let id = RenewalId(id);
        GrantsEffect::Grant { epoch, id }
    }

    fn effects(grants: &mut Grants) -> Vec<GrantsEffect> {
        std::iter::from_fn(|| grants.poll_effect()).collect()
    }

    #[test]
    fn a_request_waits_for_a_round_that_began_after_it() {
        let both = epochs(&[A, B]);
        let mut grants = Grants::new(T0);
        grants.handle_renewal(renewal(A, 1), &both, T0);
        assert_eq!(effects(&mut grants), [GrantsEffect::Round(Round(1))]);
        grants.handle_renewal(renewal(B, 1), &both, T0);

        grants.handle_round(Round(1), &both, T0);
        let expected = [grant(A, 1), GrantsEffect::Round(Round(2))];
        assert_eq!(effects(&mut grants), expected);

        grants.handle_round(Round(1), &both, T0);
        assert_eq!(effects(&mut grants), []);
        grants.handle_round(Round(2), &both, T0);
        assert_eq!(effects(&mut grants), [grant(B, 1)]);
    }

    #[test]
    fn a_failed_round_grants_nothing() {
        let both = epochs(&[A, B]);
        let mut grants = Grants::new(T0);
        grants.handle_renewal(renewal(A, 1), &both, T0);
        effects(&mut grants);

        grants.handle_round_failed(Round(1));
        grants.handle_round(Round(1), &both, T0);
        assert_eq!(effects(&mut grants), []);

        grants.handle_renewal(renewal(A, 2), &both, T0);
        assert_eq!(effects(&mut grants), [GrantsEffect::Round(Round(2))]);
        grants.handle_round(Round(2), &both, T0);
        assert_eq!(effects(&mut grants), [grant(A, 2)]);
    }

    #[test]
    fn an_epoch_ends_only_after_its_last_grant_is_over() {
        let both = epochs(&[A, B]);
        let mut grants = Grants::new(T0);
        let later = T0.plus_ms(10_000);
        grants.handle_renewal(renewal(A, 1), &both, later);
        grants.handle_round(Round(1), &both, later);

        assert!(!grants.may_end(A, later.plus_ms(3_499)));
        assert!(grants.may_end(A, later.plus_ms(3_500)));
        // Of B this leadership knows nothing: a predecessor may have granted until it began.
        assert!(!grants.may_end(B, T0.plus_ms(3_499)));
        assert!(grants.may_end(B, T0.plus_ms(3_500)));
    }

    #[test]
    fn an_ended_epoch_is_refused_even_if_it_ends_during_the_round() {
        let mut grants = Grants::new(T0);
        grants.handle_renewal(renewal(A, 1), &epochs(&[A, B]), T0);
        effects(&mut grants);

        grants.handle_round(Round(1), &epochs(&[B]), T0);
        grants.handle_renewal(renewal(A, 2), &epochs(&[B]), T0);

        let refuse = |id| GrantsEffect::Refuse {
            epoch: A,
            id: RenewalId(id),
            why: NotGranted::Ended,
        };
        assert_eq!(effects(&mut grants), [refuse(1), refuse(2)]);
    }

    #[test]
    fn a_node_that_does_not_follow_the_routes_loses_its_lease() {
        let both = epochs(&[A, B]);
        let mut grants = Grants::new(T0);
        grants.handle_routes(101, T0);

        grants.handle_renewal(renewal(A, 1), &both, T0.plus_ms(2_000));
        assert_eq!(effects(&mut grants), [GrantsEffect::Round(Round(1))]);
        grants.handle_renewal(renewal(A, 2), &both, T0.plus_ms(2_001));
        let refused = GrantsEffect::Refuse {
            epoch: A,
            id: RenewalId(2),
            why: NotGranted::RoutesBehind,
        };
        assert_eq!(effects(&mut grants), [refused]);
    }
}
