//! The lease as its holder knows it.

use std::collections::VecDeque;

use super::{LEASE_MS, RENEW_MS};
use crate::{BootMs, NodeEpoch};

/// Renewals that are remembered without an answer; the oldest is forgotten first, its lease would
/// be over.
const RENEWALS_MAX: usize = (LEASE_MS / RENEW_MS) as usize + 1;

/// Names a renewal of one node epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RenewalId(pub u64);

/// The lease of one node epoch.
#[derive(Clone, Debug)]
pub struct Lease {
    epoch: NodeEpoch,
    state: State,
    renewals: VecDeque<(RenewalId, BootMs)>,
    ids: u64,
    /// When the next renewal is due.
    next: BootMs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody else could end the epoch.
    Lone,
    /// Held before this time.
    Until(BootMs),
    /// Meta's log has ended the epoch.
    Ended,
}

impl Lease {
    /// The lease of an epoch that has just begun. A lone node holds it always, others not until
    /// it is granted.
    pub fn new(epoch: NodeEpoch, is_lone: bool, now: BootMs) -> Self {
        let state = if is_lone {
            State::Lone
        } else {
            State::Until(now)
        };
        Self {
            epoch,
            state,
            renewals: VecDeque::new(),
            ids: 0,
            next: now,
        }
    }

    /// Whether the node may promise anything now.
    pub fn is_held(&self, now: BootMs) -> bool {
        match self.state {
            State::Lone => true,
            State::Until(until) => now < until,
            State::Ended => false,
        }
    }

    /// The epoch whose lease it is.
    pub fn epoch(&self) -> NodeEpoch {
        self.epoch
    }

    /// When the lease ends unless it is renewed; `None` when no time ends it.
    pub fn until(&self) -> Option<BootMs> {
        match self.state {
            State::Until(until) => Some(until),
            State::Lone | State::Ended => None,
        }
    }

    /// The next renewal to send, if one is due.
    pub fn poll_renewal(&mut self, now: BootMs) -> Option<RenewalId> {
        if !matches!(self.state, State::Until(_)) || now < self.next {
            return None;
        }
        self.ids += 1;
        let id = RenewalId(self.ids);
        if self.renewals.len() >= RENEWALS_MAX {
            self.renewals.pop_front();
        }
        self.renewals.push_back((id, now));
        self.next = now.plus_ms(RENEW_MS);
        Some(id)
    }

    /// When [`Self::poll_renewal`] will have one.
    pub fn deadline(&self) -> Option<BootMs> {
        matches!(self.state, State::Until(_)).then_some(self.next)
    }

    /// Meta's leader granted a renewal: the lease lasts from when that was sent, however long the
    /// answer took.
    pub fn handle_granted(&mut self, id: RenewalId) {
        let found = self.renewals.iter().position(|(known, _)| *known == id);
        let Some((_, sent)) = found.and_then(|at| self.renewals.get(at)).copied() else {
            return;
        };
        // An earlier one that is granted later would shorten it.
        self.renewals.retain(|(known, _)| *known > id);
        if let State::Until(until) = &mut self.state {
            *until = sent.plus_ms(LEASE_MS);
        }
    }

    /// Meta has another leader: it is asked at once, for it does not know of the lease.
    pub fn handle_leader(&mut self, now: BootMs) {
        self.next = now;
    }

    /// A second member came, or the last other one left. A node that is no longer alone counts as
    /// granted now, for it was meta's leader and grants nobody's end before
    /// [`super::END_AFTER_MS`].
    pub fn handle_members(&mut self, is_lone: bool, now: BootMs) {
        match (self.state, is_lone) {
            (State::Until(_), true) => self.state = State::Lone,
            (State::Lone, false) => {
                self.state = State::Until(now.plus_ms(LEASE_MS));
                self.next = now;
            }
            _ => {}
        }
    }

    /// Meta's log has ended the epoch: it never serves again.
    pub fn handle_ended(&mut self) {
        self.state = State::Ended;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: BootMs = BootMs(10_000);
    const EPOCH: NodeEpoch = NodeEpoch(4);

    #[test]
    fn a_lone_node_always_holds_it_until_its_epoch_ends() {
        let mut lease = Lease::new(EPOCH, true, T0);

        assert!(lease.is_held(BootMs(u64::MAX)));
        assert_eq!(lease.poll_renewal(T0), None);
        lease.handle_ended();
        assert!(!lease.is_held(T0));
    }

    #[test]
    fn it_lasts_from_the_sending_of_the_renewal_not_from_the_answer() {
        let mut lease = Lease::new(EPOCH, false, T0);
        assert!(!lease.is_held(T0));
        let id = lease.poll_renewal(T0).unwrap();

        lease.handle_granted(id);

        assert!(lease.is_held(T0.plus_ms(2_999)));
        assert!(!lease.is_held(T0.plus_ms(3_000)));
    }

    #[test]
    fn an_answer_that_comes_late_never_shortens_it() {
        let mut lease = Lease::new(EPOCH, false, T0);
        let first = lease.poll_renewal(T0).unwrap();
        let later = T0.plus_ms(500);
        let second = lease.poll_renewal(later).unwrap();

        lease.handle_granted(second);
        lease.handle_granted(first);

        assert_eq!(lease.until(), Some(later.plus_ms(3_000)));
    }

    #[test]
    fn it_renews_every_half_second_and_at_once_with_a_new_leader() {
        let mut lease = Lease::new(EPOCH, false, T0);
        assert!(lease.poll_renewal(T0).is_some());
        assert_eq!(lease.poll_renewal(T0.plus_ms(499)), None);
        assert_eq!(lease.deadline(), Some(T0.plus_ms(500)));

        lease.handle_leader(T0.plus_ms(100));

        assert!(lease.poll_renewal(T0.plus_ms(100)).is_some());
    }

    #[test]
    fn a_node_that_is_joined_by_another_begins_to_renew() {
        let mut lease = Lease::new(EPOCH, true, T0);

        lease.handle_members(false, T0);

        assert!(lease.is_held(T0.plus_ms(2_999)));
        assert!(!lease.is_held(T0.plus_ms(3_000)));
        assert!(lease.poll_renewal(T0).is_some());
        lease.handle_members(true, T0.plus_ms(9_000));
        assert!(lease.is_held(T0.plus_ms(9_000)));
    }

    #[test]
    fn an_ended_epoch_is_never_granted_again() {
        let mut lease = Lease::new(EPOCH, false, T0);
        let id = lease.poll_renewal(T0).unwrap();
        lease.handle_ended();

        lease.handle_granted(id);
        lease.handle_members(true, T0);

        assert!(!lease.is_held(T0));
        assert_eq!(lease.deadline(), None);
    }
}
