//! What meta's leader grants, and when it may let an epoch end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::deafness::Deafness;
use super::{END_AFTER_MS, ROUTES_BEHIND_MS, RenewalId};
use crate::{BootMs, EpochView, NodeEpoch, Standing};

/// Commits of the routes group that are remembered: one each tenth of [`ROUTES_BEHIND_MS`].
const ROUTES_SAMPLES_MAX: usize = 16;
const ROUTES_SAMPLE_MS: u64 = ROUTES_BEHIND_MS / 10;

/// A node's request for its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Whose.
    pub epoch: NodeEpoch,
    /// Which.
    pub id: RenewalId,
    /// The index of meta that the node has applied.
    pub meta_applied: u64,
    /// The routes index that the node has applied.
    pub routes_applied: u64,
    /// Epochs of the peers that it has heard since its last renewal; as many as there are members.
    pub heard: BTreeSet<NodeEpoch>,
    /// Shards that it leads.
    pub leads: u16,
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
        /// Every epoch that has not ended has said to have applied meta up to here; 0 while that is
        /// not known. For [`crate::Entering::handle_meta_seen`].
        meta_seen: u64,
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
    /// Its end was proposed by this leadership, which may not commit it: the node waits for what meta
    /// says. One that is cut off from all others leads until it hears of another leader, and proposes
    /// the end of its own epoch.
    #[error("the end of the epoch is proposed")]
    Ending,
    /// The node's routes are too far behind.
    #[error("routes are more than 2 s behind")]
    RoutesBehind,
    /// The node and another one have not heard each other for 5 s, and that one leads more shards.
    #[error("epochs {0} and this one do not hear each other")]
    Deaf(NodeEpoch),
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
    /// How far each epoch has said to have applied meta.
    meta_applied: BTreeMap<NodeEpoch, u64>,
    deafness: Deafness,
    /// Since when each current epoch is known to this leadership.
    known: BTreeMap<NodeEpoch, BootMs>,
    /// Epochs whose end was proposed: it may be committed at any time. Bounded by the current ones.
    ending: BTreeSet<NodeEpoch>,
    effects: VecDeque<GrantsEffect>,
}

impl Grants {
    /// A leadership that begins, once it has applied all that was committed before it: else an epoch
    /// could be granted whose end stands in the log. Nothing is known of what the one before has
    /// granted.
    pub fn new(now: BootMs) -> Self {
        Self {
            since: now,
            granted: BTreeMap::new(),
            waiting: BTreeMap::new(),
            round: None,
            rounds: 0,
            routes: VecDeque::new(),
            meta_applied: BTreeMap::new(),
            deafness: Deafness::default(),
            known: BTreeMap::new(),
            ending: BTreeSet::new(),
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
        let Renewal { epoch, id, .. } = renewal;
        if let Some(why) = self.over(epoch, epochs) {
            return self.refuse(epoch, id, why);
        }
        self.meta_applied.insert(epoch, renewal.meta_applied);
        let Renewal {
            leads, ref heard, ..
        } = renewal;
        self.deafness.handle_heard(epoch, heard, leads, epochs, now);
        if let Some(why) = self.refusal(&renewal, now) {
            return self.refuse(epoch, id, why);
        }
        self.waiting.insert(epoch, renewal);
        self.begin_round();
    }

    /// A round has shown that this node still leads: grants what had been asked when it began.
    pub fn handle_round(&mut self, round: Round, epochs: &EpochView, now: BootMs) {
        let Some((_, asked)) = self.round.take_if(|(known, _)| *known == round) else {
            return;
        };
        for Renewal { epoch, id, .. } in asked.into_values() {
            if let Some(why) = self.over(epoch, epochs) {
                self.refuse(epoch, id, why);
                continue;
            }
            self.granted.insert(epoch, now);
            let meta_seen = self.meta_seen(epoch, epochs);
            self.effects.push_back(GrantsEffect::Grant {
                epoch,
                id,
                meta_seen,
            });
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

    /// An epoch whose end is to be proposed: it has not ended, and every lease that it may have had
    /// is over. Whether its node is suspected plays no part. One that this leadership has known
    /// for less than that time has had no chance to renew, and is left alone. Not to be asked on a
    /// lone node ([`crate::Meta::is_lone`]), which renews nothing.
    ///
    /// From then on it is granted nothing: the proposal may be committed at any time, also when its
    /// proposer was told that it failed. It comes again until [`Self::handle_ended`].
    pub fn poll_end(&mut self, epochs: &EpochView, now: BootMs) -> Option<NodeEpoch> {
        self.known.retain(|epoch, _| epochs.current.contains(epoch));
        for epoch in &epochs.current {
            self.known.entry(*epoch).or_insert(now);
        }
        let is_old = |since: &BootMs| now >= since.plus_ms(END_AFTER_MS);
        let mut due = self.known.iter().filter(|(_, since)| is_old(since));
        let epoch = due.find(|(epoch, _)| self.may_end(**epoch, now));
        let epoch = epoch.map(|(epoch, _)| *epoch)?;
        self.ending.insert(epoch);
        Some(epoch)
    }

    /// Meta's log has ended an epoch.
    pub fn handle_ended(&mut self, epoch: NodeEpoch) {
        self.granted.remove(&epoch);
        self.waiting.remove(&epoch);
        self.meta_applied.remove(&epoch);
        self.known.remove(&epoch);
        self.ending.remove(&epoch);
        self.deafness.handle_ended(epoch);
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<GrantsEffect> {
        self.effects.pop_front()
    }

    fn over(&self, epoch: NodeEpoch, epochs: &EpochView) -> Option<NotGranted> {
        if epochs.standing(epoch) == Standing::Ended {
            return Some(NotGranted::Ended);
        }
        self.ending.contains(&epoch).then_some(NotGranted::Ending)
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

    fn refuse(&mut self, epoch: NodeEpoch, id: RenewalId, why: NotGranted) {
        self.effects
            .push_back(GrantsEffect::Refuse { epoch, id, why });
    }

    fn refusal(&self, renewal: &Renewal, now: BootMs) -> Option<NotGranted> {
        if self.is_behind(renewal.routes_applied, now) {
            return Some(NotGranted::RoutesBehind);
        }
        self.deafness.loses_to(renewal.epoch).map(NotGranted::Deaf)
    }

    /// How far every current epoch has applied meta, as far as this leader's view can say that:
    /// it must show the asking epoch, else one that began before that could be missing in it.
    fn meta_seen(&self, epoch: NodeEpoch, epochs: &EpochView) -> u64 {
        if epochs.standing(epoch) != Standing::Current {
            return 0;
        }
        let all = epochs.current.iter();
        let all = all.map(|epoch| self.meta_applied.get(epoch).copied().unwrap_or(0));
        all.min().unwrap_or(0)
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
            meta_applied: 0,
            routes_applied: 100,
            heard: [A, B].into(),
            leads: 1,
        }
    }

    fn grant(epoch: NodeEpoch, id: u64) -> GrantsEffect {
        GrantsEffect::Grant {
            epoch,
            id: RenewalId(id),
            meta_seen: 0,
        }
    }

    fn effects(grants: &mut Grants) -> Vec<GrantsEffect> {
        std::iter::from_fn(|| grants.poll_effect()).collect()
    }

    /// Seed 495 of the simulation with several nodes.
    #[test]
    fn an_epoch_whose_end_is_proposed_is_granted_nothing() {
        let both = epochs(&[A, B]);
        let mut grants = Grants::new(T0);
        assert_eq!(grants.poll_end(&both, T0), None);
        let later = T0.plus_ms(END_AFTER_MS);
        grants.handle_renewal(renewal(A, 1), &both, later);
        assert_eq!(effects(&mut grants), [GrantsEffect::Round(Round(1))]);
        grants.handle_renewal(renewal(B, 1), &both, later);
        grants.handle_round(Round(1), &both, later);
        effects(&mut grants);
        // B's round is under way.
        assert_eq!(grants.poll_end(&both, later), Some(B));

        grants.handle_round(Round(2), &both, later);
        grants.handle_renewal(renewal(B, 2), &both, later);

        let refused = |id, why| GrantsEffect::Refuse {
            epoch: B,
            id: RenewalId(id),
            why,
        };
        let ending = NotGranted::Ending;
        assert_eq!(
            effects(&mut grants),
            [refused(1, ending), refused(2, ending)]
        );
        assert_eq!(grants.poll_end(&both, later), Some(B), "until it has ended");

        grants.handle_ended(B);
        grants.handle_renewal(renewal(B, 3), &epochs(&[A]), later);
        assert_eq!(effects(&mut grants), [refused(3, NotGranted::Ended)]);
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

    #[test]
    fn a_grant_tells_how_far_every_epoch_has_applied_meta() {
        let both = epochs(&[A, B]);
        let mut grants = Grants::new(T0);
        let mut ask = |epoch, meta_applied, view: &EpochView| {
            let renewal = Renewal {
                meta_applied,
                ..renewal(epoch, meta_applied)
            };
            grants.handle_renewal(renewal, view, T0);
            let Some(GrantsEffect::Round(round)) = grants.poll_effect() else {
                panic!("no round begins");
            };
            grants.handle_round(round, view, T0);
            match grants.poll_effect() {
                Some(GrantsEffect::Grant { meta_seen, .. }) => meta_seen,
                other => panic!("not granted: {other:?}"),
            }
        };

        assert_eq!(ask(A, 12, &both), 0, "of B nothing is known");
        assert_eq!(ask(B, 9, &both), 9);
        assert_eq!(ask(A, 13, &both), 9);
        assert_eq!(ask(B, 15, &both), 13);
        // A leader that has not applied the beginning of B does not know who was there before.
        let early = EpochView {
            begun: A,
            ..epochs(&[A])
        };
        assert_eq!(ask(B, 16, &early), 0);
        assert_eq!(ask(B, 17, &epochs(&[B])), 17, "A has ended");
    }

    #[test]
    fn of_two_deaf_nodes_the_one_that_leads_fewer_shards_gets_no_lease() {
        let both = epochs(&[A, B]);
        let mut grants = Grants::new(T0);
        let mut answers = Vec::new();
        for second in 0..=6 {
            for (epoch, leads) in [(A, 3), (B, 7)] {
                let renewal = Renewal {
                    heard: BTreeSet::new(),
                    leads,
                    ..renewal(epoch, second)
                };
                let now = T0.plus_ms(second * 1_000);
                grants.handle_renewal(renewal, &both, now);
                while let Some(effect) = grants.poll_effect() {
                    match effect {
                        GrantsEffect::Round(round) => grants.handle_round(round, &both, now),
                        GrantsEffect::Grant { epoch, id, .. } => answers.push((epoch, id.0, true)),
                        GrantsEffect::Refuse { epoch, id, why } => {
                            assert_eq!((epoch, why), (A, NotGranted::Deaf(B)));
                            answers.push((epoch, id.0, false));
                        }
                    }
                }
            }
        }
        let refused: Vec<u64> = answers.iter().filter(|a| !a.2).map(|a| a.1).collect();
        assert_eq!(refused, [5, 6]);
        assert_eq!(answers.len(), 14);
    }

    #[test]
    fn an_epoch_without_a_lease_ends_and_one_that_has_just_begun_does_not() {
        let mut grants = Grants::new(T0);
        assert_eq!(grants.poll_end(&epochs(&[A]), T0.plus_ms(100)), None);
        grants.handle_renewal(renewal(A, 1), &epochs(&[A]), T0.plus_ms(1_000));
        grants.handle_round(Round(1), &epochs(&[A]), T0.plus_ms(1_000));
        let later = T0.plus_ms(4_400);
        assert_eq!(grants.poll_end(&epochs(&[A, B]), later), None);

        assert_eq!(
            grants.poll_end(&epochs(&[A, B]), T0.plus_ms(4_500)),
            Some(A)
        );
        grants.handle_ended(A);
        assert_eq!(grants.poll_end(&epochs(&[B]), later.plus_ms(3_499)), None);
        assert_eq!(
            grants.poll_end(&epochs(&[B]), later.plus_ms(3_500)),
            Some(B)
        );
    }

    #[test]
    fn a_new_leader_ends_nothing_before_its_predecessors_grants_are_over() {
        let mut grants = Grants::new(T0);
        let view = epochs(&[A]);

        assert_eq!(grants.poll_end(&view, T0), None);
        assert_eq!(grants.poll_end(&view, T0.plus_ms(3_499)), None);
        assert_eq!(grants.poll_end(&view, T0.plus_ms(3_500)), Some(A));
    }
}
