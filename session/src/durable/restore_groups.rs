//! The groups of a shard made of their rows.

use mqtt::Filter;

use super::groups::plain;
use super::restore::is_queued;
use super::{Durable, GroupsRow, QueuePlace, QueuedRow, RestoreError, Row, RowKey};
use crate::Epoch;

impl Durable {
    /// Takes a row of a group, whichever comes first: that of the group itself, of a member, of
    /// a message.
    pub(super) fn restore_group_row(&mut self, row: Row) -> Result<(), RestoreError> {
        match row {
            Row::Group(filter, row) => {
                let group = self.groups.of.entry(filter.clone()).or_default();
                if group.incarnation != Epoch(0) {
                    return Err(RestoreError::Twice(RowKey::Group(filter)));
                }
                group.restore(&row);
            }
            Row::Member(filter, client, member) => {
                let group = self.groups.of.entry(filter.clone()).or_default();
                if group.member(&client).is_some() {
                    return Err(RestoreError::Twice(RowKey::Member(filter, client)));
                }
                group.seat(&client, member);
            }
            Row::GroupQueued(filter, place, row) => self.restore_shared(filter, place, row)?,
            other => unreachable!("no row of a group: {other:?}"),
        }
        Ok(())
    }

    fn restore_shared(
        &mut self,
        filter: Filter,
        place: QueuePlace,
        row: QueuedRow,
    ) -> Result<(), RestoreError> {
        let is_held = matches!(place, QueuePlace::Held(_));
        if is_held || !is_queued(place, &row) {
            return Err(RestoreError::Group(RowKey::GroupQueued(filter, place)));
        }
        self.payloads.restore(row.message);
        let group = self.groups.of.entry(filter).or_default();
        group.queue.restore(place, row);
        Ok(())
    }

    /// Checks that groups, members and memberships belong together, and derives what no row says.
    pub(super) fn restore_groups(&mut self, row: GroupsRow) -> Result<(), RestoreError> {
        let next = row.memberships + 1;
        for (client, filter, version, is_member) in self.shares.all() {
            let key = || RowKey::Membership(client.clone(), filter.clone());
            if version >= next {
                let (key, number) = (key(), version);
                return Err(RestoreError::NotGiven { key, number, next });
            }
            if is_member && !self.sessions.contains_key(client) {
                return Err(RestoreError::Group(key()));
            }
        }
        self.shares.count_from(row.memberships);
        self.groups.count_from(row.applied);
        let filters: Vec<Filter> = self.groups.of.keys().cloned().collect();
        for filter in filters {
            self.restore_group(&filter)?;
        }
        Ok(())
    }

    fn restore_group(&mut self, filter: &Filter) -> Result<(), RestoreError> {
        if !self.outbox.is_wanted(&plain(filter)) {
            return Err(RestoreError::Route(plain(filter)));
        }
        let Some(group) = self.groups.of.get_mut(filter) else {
            return Ok(());
        };
        if group.is_empty() || group.incarnation == Epoch(0) {
            return Err(RestoreError::Group(RowKey::Group(filter.clone())));
        }
        let key = |place| RowKey::GroupQueued(filter.clone(), place);
        group.queue.restored(key)?;
        self.counters.queue_messages += group.queue.len() as u64;
        self.counters.queue_bytes += group.queue.bytes() as u64;
        group.deadline = group.queue.expiry_min();
        if let Some(at) = group.deadline {
            self.groups.deadlines.insert((at, filter.clone()));
        }
        self.groups.trie.insert(filter, filter.clone(), ());
        Ok(())
    }
}
