//! This node's own epoch: begun, entered, leased, ended.

use cluster_core::{
    BootMs, Entering, EnteringEffect, EpochView, Lease, NodeEpoch, RenewalId, Rising, Standing,
    StartCount,
};

/// What this node has of an epoch, as a value.
#[derive(Debug)]
pub(super) struct Tenure(Phase);

#[derive(Debug)]
enum Phase {
    /// Meta is to be asked for an epoch for this start.
    Wanted(StartCount),
    /// It is being asked.
    Asked(StartCount),
    /// Meta gave none, or ended the last: what is to be done next others decide.
    Without,
    Begun(Begun),
}

#[derive(Debug)]
struct Begun {
    epoch: NodeEpoch,
    lease: Lease,
    /// There once this node's meta has applied the epoch's beginning.
    entering: Option<Entering>,
    /// How far the routes are that this node matches publishes with.
    routes_applied: u64,
    was_serving: bool,
}

impl Tenure {
    pub(super) fn new(start: StartCount) -> Self {
        Self(Phase::Wanted(start))
    }

    fn begun(&self) -> Option<&Begun> {
        match &self.0 {
            Phase::Begun(begun) => Some(begun),
            _ => None,
        }
    }

    fn begun_mut(&mut self) -> Option<&mut Begun> {
        match &mut self.0 {
            Phase::Begun(begun) => Some(begun),
            _ => None,
        }
    }

    fn of(&mut self, epoch: NodeEpoch) -> Option<&mut Begun> {
        self.begun_mut().filter(|begun| begun.epoch == epoch)
    }

    /// The epoch that has not ended.
    pub(super) fn epoch(&self) -> Option<NodeEpoch> {
        self.begun().map(|begun| begun.epoch)
    }

    /// Whether this node's meta has applied the epoch's beginning, and with it whatever was decided
    /// before this run.
    pub(super) fn is_seen(&self) -> bool {
        self.begun().is_some_and(|begun| begun.entering.is_some())
    }

    /// Whether the epoch waits for nothing any more.
    pub(super) fn is_entered(&self) -> bool {
        let entering = self.begun().and_then(|begun| begun.entering.as_ref());
        entering.is_some_and(Entering::is_serving)
    }

    /// A start was counted after the last epoch ended. Ignored while there is an epoch, or one is
    /// asked for.
    pub(super) fn handle_start(&mut self, start: StartCount) {
        if matches!(self.0, Phase::Without) {
            self.0 = Phase::Wanted(start);
        }
    }

    /// The start for which meta is to be asked.
    pub(super) fn poll_begin(&mut self) -> Option<StartCount> {
        let Phase::Wanted(start) = self.0 else {
            return None;
        };
        self.0 = Phase::Asked(start);
        Some(start)
    }

    /// Meta gave an epoch. The lease has to be asked for; whether the node is alone its own
    /// meta says, once it has applied this.
    pub(super) fn handle_begun(&mut self, epoch: NodeEpoch, now: BootMs) {
        self.0 = Phase::Begun(Begun {
            epoch,
            lease: Lease::new(epoch, false, now),
            entering: None,
            routes_applied: 0,
            was_serving: false,
        });
    }

    /// Meta did not answer: it is asked again.
    pub(super) fn handle_unanswered(&mut self) {
        if let Phase::Asked(start) = self.0 {
            self.0 = Phase::Wanted(start);
        }
    }

    /// Meta gives no epoch.
    pub(super) fn handle_refused(&mut self) {
        self.0 = Phase::Without;
    }

    /// This node's meta shows these epochs; `ended` have been current before. Gives the own epoch
    /// if it is among the ended ones.
    pub(super) fn handle_epochs(
        &mut self,
        epochs: &EpochView,
        ended: &[NodeEpoch],
        is_lone: bool,
        now: BootMs,
    ) -> Option<NodeEpoch> {
        let begun = self.begun_mut()?;
        match epochs.standing(begun.epoch) {
            Standing::Unknown => return None,
            Standing::Ended => return self.handle_ended(),
            Standing::Current => {}
        }
        // An older view could show this node alone after others have come.
        begun.lease.handle_members(is_lone, now);
        let (epoch, routes_applied) = (begun.epoch, begun.routes_applied);
        let entering = begun.entering.get_or_insert_with(|| {
            let index = Rising::count_of(epoch.0);
            let mut entering = Entering::new(epoch, index, epochs.current.iter().copied());
            entering.handle_routes_applied(routes_applied);
            entering
        });
        for ended in ended {
            entering.handle_ended(*ended);
        }
        None
    }

    /// The epoch has ended; gives it, once.
    pub(super) fn handle_ended(&mut self) -> Option<NodeEpoch> {
        let epoch = self.epoch()?;
        self.0 = Phase::Without;
        Some(epoch)
    }

    /// Meta has another leader.
    pub(super) fn handle_meta_leader(&mut self, now: BootMs) {
        if let Some(begun) = self.begun_mut() {
            begun.lease.handle_leader(now);
        }
    }

    /// The next renewal to send.
    pub(super) fn poll_renewal(&mut self, now: BootMs) -> Option<(NodeEpoch, RenewalId)> {
        let begun = self.begun_mut()?;
        Some((begun.epoch, begun.lease.poll_renewal(now)?))
    }

    /// Meta's leader granted a renewal.
    pub(super) fn handle_granted(&mut self, epoch: NodeEpoch, id: RenewalId, meta_seen: u64) {
        if let Some(begun) = self.of(epoch) {
            begun.lease.handle_granted(id);
            if let Some(entering) = &mut begun.entering {
                entering.handle_meta_seen(meta_seen);
            }
        }
    }

    /// The routes that this node matches publishes with are applied up to here.
    pub(super) fn handle_routes_applied(&mut self, index: u64) {
        if let Some(begun) = self.begun_mut() {
            begun.routes_applied = index;
            if let Some(entering) = &mut begun.entering {
                entering.handle_routes_applied(index);
            }
        }
    }

    /// Whether the leader of the routes is to be asked how far they are, for this epoch.
    pub(super) fn poll_read(&mut self) -> Option<NodeEpoch> {
        let begun = self.begun_mut()?;
        let EnteringEffect::ReadRoutes = begun.entering.as_mut()?.poll_effect()?;
        Some(begun.epoch)
    }

    /// It has answered, or not.
    pub(super) fn handle_routes_read(&mut self, epoch: NodeEpoch, index: Option<u64>) {
        let Some(begun) = self.of(epoch) else {
            return;
        };
        if let Some(entering) = &mut begun.entering {
            match index {
                Some(index) => entering.handle_routes_read(index),
                None => entering.handle_read_failed(),
            }
        }
    }

    /// The epoch that serves from now on, once.
    pub(super) fn poll_serving(&mut self) -> Option<NodeEpoch> {
        let is_entered = self.is_entered();
        let begun = self.begun_mut()?;
        let is_new = is_entered && !std::mem::replace(&mut begun.was_serving, is_entered);
        is_new.then_some(begun.epoch)
    }

    /// Until when the node may promise anything.
    pub(super) fn until(&self) -> Option<BootMs> {
        let begun = self.begun().filter(|_| self.is_entered())?;
        if begun.lease.is_held(BootMs(u64::MAX)) {
            return Some(BootMs(u64::MAX));
        }
        begun.lease.until()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: BootMs = BootMs(50_000);
    const OWN: NodeEpoch = NodeEpoch(9);
    const OTHER: NodeEpoch = NodeEpoch(4);

    fn view(index: u64, begun: u64, current: &[NodeEpoch]) -> EpochView {
        EpochView {
            index,
            begun: NodeEpoch(begun),
            current: current.iter().copied().collect(),
        }
    }

    fn begun() -> Tenure {
        let mut tenure = Tenure::new(StartCount(3));
        assert_eq!(tenure.poll_begin(), Some(StartCount(3)));
        assert_eq!(tenure.poll_begin(), None);
        tenure.handle_begun(OWN, T0);
        tenure
    }

    #[test]
    fn nothing_is_promised_before_the_routes_are_as_far_as_all_others_have_seen_the_beginning() {
        let mut tenure = begun();
        let (_, id) = tenure.poll_renewal(T0).unwrap();
        tenure.handle_granted(OWN, id, 20);
        assert_eq!(tenure.until(), None, "its own meta does not show it yet");
        assert_eq!(tenure.poll_read(), None);

        tenure.handle_epochs(&view(9, 9, &[OTHER, OWN]), &[], false, T0);
        assert_eq!(tenure.poll_read(), None, "the other has not seen it");
        let (_, id) = tenure.poll_renewal(T0.plus_ms(500)).unwrap();
        tenure.handle_granted(OWN, id, 9);
        assert_eq!(tenure.poll_read(), Some(OWN));
        tenure.handle_routes_applied(29);
        tenure.handle_routes_read(OWN, Some(30));
        assert_eq!((tenure.until(), tenure.poll_serving()), (None, None));

        tenure.handle_routes_applied(30);
        assert_eq!(tenure.poll_serving(), Some(OWN));
        assert_eq!(tenure.poll_serving(), None);
        assert_eq!(tenure.until(), Some(T0.plus_ms(3_500)));
    }

    #[test]
    fn an_epoch_that_has_ended_is_not_waited_for_and_a_failed_read_is_repeated() {
        let mut tenure = begun();
        tenure.handle_epochs(&view(9, 9, &[OTHER, OWN]), &[], false, T0);
        tenure.handle_epochs(&view(10, 9, &[OWN]), &[OTHER], false, T0);
        assert_eq!(tenure.poll_read(), Some(OWN));
        tenure.handle_routes_read(OWN, None);
        assert_eq!(tenure.poll_read(), Some(OWN));
    }

    #[test]
    fn a_node_that_is_alone_needs_no_renewal_until_another_joins() {
        let mut tenure = begun();
        // A view from before the epoch says nothing of it.
        tenure.handle_epochs(&view(8, 4, &[OTHER]), &[], true, T0);
        assert_eq!(tenure.until(), None);
        tenure.handle_epochs(&view(9, 9, &[OWN]), &[], true, T0);
        assert_eq!(tenure.poll_read(), Some(OWN));
        tenure.handle_routes_read(OWN, Some(0));
        assert_eq!(tenure.until(), Some(BootMs(u64::MAX)));
        assert_eq!(tenure.poll_renewal(T0.plus_ms(9_000)), None);

        let joined = T0.plus_ms(10_000);
        tenure.handle_epochs(&view(10, 9, &[OWN]), &[], false, joined);
        assert_eq!(tenure.until(), Some(joined.plus_ms(3_000)));
        assert!(tenure.poll_renewal(joined).is_some());
    }

    #[test]
    fn an_epoch_that_meta_has_ended_promises_nothing_and_another_start_begins_the_next() {
        let mut tenure = begun();
        tenure.handle_start(StartCount(4));
        assert_eq!(tenure.poll_begin(), None, "it has an epoch");
        let ended = tenure.handle_epochs(&view(11, 9, &[OTHER]), &[OWN], false, T0);
        assert_eq!(ended, Some(OWN));
        assert_eq!((tenure.handle_ended(), tenure.epoch()), (None, None));
        assert_eq!((tenure.until(), tenure.poll_begin()), (None, None));
        // What was asked for it before comes too late.
        tenure.handle_granted(OWN, RenewalId(1), 11);
        assert_eq!(tenure.until(), None);

        tenure.handle_start(StartCount(4));
        assert_eq!(tenure.poll_begin(), Some(StartCount(4)));
        tenure.handle_unanswered();
        assert_eq!(tenure.poll_begin(), Some(StartCount(4)));
        tenure.handle_refused();
        assert_eq!(tenure.poll_begin(), None);
    }
}
