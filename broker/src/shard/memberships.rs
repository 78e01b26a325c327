//! The memberships of a shard's clients on their way to the groups' home shards, and what waits
//! for them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use session::{Command, MembershipRow};

use super::host::{Hosted, ShardHost};
use super::stream::Wired;
use super::{ShardItem, ShardMessage};
use crate::ids::shard_of;

/// Rows that the outbox gave out, until it has heard that they are done: at most as many as wait
/// in the outbox.
#[derive(Debug, Default)]
pub(super) struct Memberships {
    /// Not sent yet: a start hands rows out before every shard has its host.
    held: VecDeque<MembershipRow>,
    /// Sent and not answered: versions, with the lowest that each stands for.
    under_way: BTreeMap<u64, u64>,
    /// Answered, and not known to have left the outbox.
    done: BTreeSet<u64>,
    /// The highest version that was handed out.
    told: u64,
}

impl Memberships {
    /// Takes a row of the outbox.
    pub(super) fn handle_row(&mut self, row: MembershipRow) {
        self.told = self.told.max(row.version);
        self.under_way.insert(row.version, row.since);
        self.held.push_back(row);
    }

    /// The home shard has the row.
    fn handle_seated(&mut self, version: u64) {
        if self.under_way.remove(&version).is_some() {
            self.done.insert(version);
        }
    }

    /// The row has left the outbox.
    pub(super) fn handle_done(&mut self, version: u64) {
        self.done.remove(&version);
    }

    /// Whether the home shard has the row of this version, or one that replaced it; 0 is none.
    pub(super) fn is_seated(&self, version: u64) -> bool {
        let stands_for = |(last, since): (&u64, &u64)| (*since..=*last).contains(&version);
        version <= self.told && !self.under_way.range(version..).any(stands_for)
    }
}

impl ShardHost {
    /// Sends what the outbox gave out, in its order.
    pub(super) fn send_memberships(&self, hosted: &mut Hosted) {
        if hosted.memberships.held.is_empty() || !self.shards.are_started() {
            return;
        }
        let shards = self.shards.len();
        let shards = std::num::NonZeroU32::new(u32::from(shards)).expect("this shard is one");
        for row in hosted.memberships.held.drain(..) {
            let home = shard_of(&row.filter, shards);
            let item = ShardItem::Member(Box::new(row.to_command(self.shard)));
            self.shards.tell(home, ShardMessage::Batch(vec![item]));
        }
    }

    /// The home shard and the routes have the membership of this version.
    pub(super) fn seated(&self, hosted: &mut Hosted, version: u64) {
        hosted.memberships.handle_seated(version);
        self.membership_done(hosted, version);
        self.let_go(hosted);
    }

    /// What was to leave the outbox by an entry that may be lost is to leave it again.
    pub(super) fn repeat_memberships_done(&self, hosted: &mut Hosted) {
        for version in hosted.memberships.done.clone() {
            self.membership_done(hosted, version);
        }
    }

    fn membership_done(&self, hosted: &mut Hosted, version: u64) {
        let done = Wired::Duty(Command::MembershipDone { version });
        hosted.stream.duty(done, self.boot());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(version: u64, since: u64) -> MembershipRow {
        MembershipRow {
            version,
            since,
            filter: "$share/g/t".try_into().expect("a filter"),
            client: "c".try_into().expect("a client id"),
            member: None,
        }
    }

    #[test]
    fn a_row_waits_for_its_own_answer_and_for_that_of_its_successor() {
        let mut memberships = Memberships::default();
        assert!(memberships.is_seated(0));
        assert!(!memberships.is_seated(1), "not handed out");
        memberships.handle_row(row(1, 1));
        memberships.handle_row(row(2, 2));
        memberships.handle_row(row(4, 3));

        memberships.handle_seated(2);
        let seated = |memberships: &Memberships| {
            let all = (1..=5).filter(|version| memberships.is_seated(*version));
            all.collect::<Vec<_>>()
        };
        assert_eq!(seated(&memberships), [2]);
        memberships.handle_seated(4);
        assert_eq!(seated(&memberships), [2, 3, 4]);
        memberships.handle_seated(1);
        assert_eq!(seated(&memberships), [1, 2, 3, 4]);
    }
}
