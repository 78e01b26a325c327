//! Which leadership goes back to its preferred node next.

use std::collections::BTreeMap;

use cluster_core::{BootMs, Group, RaftId};

/// The least time between two transfers of this node, in milliseconds.
const PAUSE_MS: u64 = 100;
/// How long a group is left alone after a transfer that did not show, in milliseconds.
const RETRY_MS: u64 = 5_000;
/// How long a node has to be heard before it gets anything back, in milliseconds: a node that
/// comes and goes would stop its shards each time.
pub(super) const STEADY_MS: u64 = 5_000;

/// Leaders return one by one. Holds a row for each group that was asked for lately.
#[derive(Clone, Debug, Default)]
pub(super) struct Returns {
    last: Option<BootMs>,
    asked: BTreeMap<Group, BootMs>,
}

impl Returns {
    /// The next transfer, of those that are due: groups led here whose preferred node is steady,
    /// with its replica. None are due while any node is suspected.
    pub(super) fn poll_transfer(
        &mut self,
        mut due: impl Iterator<Item = (Group, RaftId)>,
        now: BootMs,
    ) -> Option<(Group, RaftId)> {
        self.asked.retain(|_, at| now.since_ms(*at) < RETRY_MS);
        if self.last.is_some_and(|last| now.since_ms(last) < PAUSE_MS) {
            return None;
        }
        let next = due.find(|(group, _)| !self.asked.contains_key(group))?;
        self.last = Some(now);
        self.asked.insert(next.0, now);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_returns_each_pause_and_none_is_asked_for_twice_at_once() {
        let mut returns = Returns::default();
        let due = [(Group::Meta, RaftId(1)), (Group::Routes, RaftId(2))];
        let mut poll = |ms| returns.poll_transfer(due.into_iter(), BootMs(ms));
        assert_eq!(poll(1_000), Some(due[0]));
        assert_eq!(poll(1_099), None);
        assert_eq!(poll(1_100), Some(due[1]));
        assert_eq!(poll(1_200), None);
        assert_eq!(poll(5_999), None);
        assert_eq!(poll(6_000), Some(due[0]));
    }
}
