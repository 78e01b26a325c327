//! Carrying the memberships of a shard's clients to the home shards of their groups.

use std::collections::{BTreeMap, VecDeque};

use crate::{BootMs, DRAIN_RETRY_MS};

/// Executes the membership rows of one shard's outbox while its node leads it.
///
/// As of [`crate::Drain`], what it holds is a copy. Rows go out in order of their versions, once a
/// leadership: the numbered streams to the home shards lose none. It holds at most as many rows
/// as the outbox.
#[derive(Clone, Debug)]
pub struct Memberships<R> {
    leads: bool,
    /// To be sent, in order.
    rows: VecDeque<(u64, R)>,
    /// Handed in and not answered: versions, with the lowest that each stands for.
    under_way: BTreeMap<u64, u64>,
    /// Answered, and still in the outbox as far as is known: when that is to be said next.
    done: BTreeMap<u64, BootMs>,
    /// The highest version that was ever handed in or said to be done. It outlives leaderships: what
    /// another leader brought to its end is handed in no more, and answers may still wait for it.
    told: u64,
}

/// Work for the leader of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipEffect<R> {
    /// Commit the row in the group's home shard; once that has answered and the routes have the
    /// version of its answer, [`Memberships::handle_seated`].
    Send(R),
    /// Propose to the shard that the row is done; comes again until
    /// [`Memberships::handle_done`].
    Done {
        /// The row's version.
        version: u64,
    },
}

impl<R> Default for Memberships<R> {
    fn default() -> Self {
        Self {
            leads: false,
            rows: VecDeque::new(),
            under_way: BTreeMap::new(),
            done: BTreeMap::new(),
            told: 0,
        }
    }
}

impl<R> Memberships<R> {
    /// This node leads the shard, and is about to hand every row in again
    /// ([`crate::DrainEffect::Resume`]): what was handed in before could overtake older rows. All
    /// of that before anything else is asked: until then a row that waits would count as seated.
    pub fn handle_lead(&mut self) {
        self.handle_follow();
        self.leads = true;
    }

    /// Every row that waits has been handed in again: what is older than `last`, the version of the
    /// last row, and was not among them is done. This node may not have seen that happen.
    pub fn handle_resumed(&mut self, last: u64) {
        self.told = self.told.max(last);
    }

    /// Another node leads, or none.
    pub fn handle_follow(&mut self) {
        *self = Self {
            told: self.told,
            ..Self::default()
        };
    }

    /// A row of the outbox, which stands for all from `since` on. Ignored while this node does
    /// not lead.
    pub fn handle_row(&mut self, version: u64, since: u64, row: R) {
        if self.leads {
            self.told = self.told.max(version);
            self.under_way.insert(version, since);
            self.rows.push_back((version, row));
        }
    }

    /// The home shard has the row, and the routes have the group's filter.
    pub fn handle_seated(&mut self, version: u64) {
        if self.under_way.remove(&version).is_some() {
            self.done.insert(version, BootMs(0));
        }
    }

    /// The row has left the outbox, whoever proposed that, leader or not.
    pub fn handle_done(&mut self, version: u64) {
        self.told = self.told.max(version);
        self.under_way.remove(&version);
        self.done.remove(&version);
    }

    /// Whether the home shard has the row of this version, or one that replaced it; 0 is none.
    /// Only a leader knows.
    pub fn is_seated(&self, version: u64) -> bool {
        let stands_for = |(last, since): (&u64, &u64)| (*since..=*last).contains(&version);
        let is_under_way = self.under_way.range(version..).any(stands_for);
        version == 0 || (self.leads && version <= self.told && !is_under_way)
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self, now: BootMs) -> Option<MembershipEffect<R>> {
        if let Some((_, row)) = self.rows.pop_front() {
            return Some(MembershipEffect::Send(row));
        }
        let (&version, at) = self.done.iter_mut().find(|(_, at)| **at <= now)?;
        *at = now.plus_ms(DRAIN_RETRY_MS);
        Some(MembershipEffect::Done { version })
    }

    /// Whether nothing is left to do.
    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty() && self.done.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: BootMs = BootMs(1);

    fn leading() -> Memberships<&'static str> {
        let mut memberships = Memberships::default();
        memberships.handle_lead();
        memberships
    }

    #[test]
    fn what_another_leader_brought_to_its_end_counts_as_seated() {
        let mut memberships = leading();
        memberships.handle_row(7, 6, "waits");
        assert!(!memberships.is_seated(8), "nobody has said so yet");

        memberships.handle_resumed(8);

        let seated = (1..=9).filter(|version| memberships.is_seated(*version));
        assert_eq!(seated.collect::<Vec<_>>(), [1, 2, 3, 4, 5, 8]);
    }

    #[test]
    fn a_row_waits_for_its_own_answer_and_for_that_of_its_successor() {
        let mut memberships = leading();
        assert!(memberships.is_seated(0));
        assert!(!memberships.is_seated(1), "not handed in");
        memberships.handle_row(1, 1, "a");
        memberships.handle_row(2, 2, "b");
        memberships.handle_row(4, 3, "c");

        memberships.handle_seated(2);
        let seated = |memberships: &Memberships<_>| {
            let all = (1..=5).filter(|version| memberships.is_seated(*version));
            all.collect::<Vec<_>>()
        };
        assert_eq!(seated(&memberships), [2]);
        memberships.handle_seated(4);
        assert_eq!(seated(&memberships), [2, 3, 4]);
        memberships.handle_seated(1);
        assert_eq!(seated(&memberships), [1, 2, 3, 4]);
    }

    #[test]
    fn rows_go_in_order_and_are_said_to_be_done_until_they_are() {
        let mut memberships = leading();
        memberships.handle_row(1, 1, "a");
        memberships.handle_row(2, 2, "b");
        let send = |row| Some(MembershipEffect::Send(row));
        assert_eq!(memberships.poll_effect(T0), send("a"));
        assert_eq!(memberships.poll_effect(T0), send("b"));
        assert_eq!(memberships.poll_effect(T0), None);

        memberships.handle_seated(1);
        let done = Some(MembershipEffect::Done { version: 1 });
        assert_eq!(memberships.poll_effect(T0), done);
        assert_eq!(memberships.poll_effect(T0), None);
        let later = T0.plus_ms(DRAIN_RETRY_MS);
        assert_eq!(memberships.poll_effect(later), done);
        memberships.handle_done(1);
        assert!(!memberships.is_empty());
        memberships.handle_seated(2);
        memberships.handle_done(2);
        assert!(memberships.is_empty());
    }

    #[test]
    fn what_came_before_the_lead_is_not_sent() {
        let mut memberships = Memberships::default();
        memberships.handle_row(5, 5, "new");
        memberships.handle_lead();
        memberships.handle_row(4, 4, "old");
        memberships.handle_row(5, 5, "new");
        let mut sent = Vec::new();
        while let Some(MembershipEffect::Send(row)) = memberships.poll_effect(T0) {
            sent.push(row);
        }
        assert_eq!(sent, ["old", "new"]);
        memberships.handle_follow();
        assert!(memberships.is_empty());
    }

    #[test]
    fn what_another_leader_brought_to_its_end_is_waited_for_no_longer() {
        let mut memberships = leading();
        memberships.handle_row(5, 5, "a");
        memberships.handle_follow();
        assert!(!memberships.is_seated(5), "only a leader knows");
        assert!(memberships.is_seated(0));
        // The other leader seated and removed it, so it is not handed in again.
        memberships.handle_lead();
        assert!(memberships.is_seated(5));

        // If it stands in the outbox still, it is.
        memberships.handle_lead();
        memberships.handle_row(5, 5, "a");
        assert!(!memberships.is_seated(5));
        memberships.handle_done(5);
        assert!(
            memberships.is_seated(5),
            "a former leader's proposal was applied"
        );
        assert!(memberships.is_empty());
    }

    #[test]
    fn a_row_that_was_done_while_this_node_followed_counts_as_handed_in() {
        let mut memberships = Memberships::default();
        memberships.handle_row(5, 5, "a");
        memberships.handle_done(5);
        assert!(!memberships.is_seated(5));

        memberships.handle_lead();

        assert!(memberships.is_seated(5));
        assert!(!memberships.is_seated(6), "nobody has seen it");
    }
}
