//! A node that stops hands over what it leads, so that nobody has to miss it first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cluster_core::{BootMs, Group as GroupName, LAG_MAX, RaftId};
use tokio::sync::oneshot;

use super::driver::{Done, Runtime};

/// Leaderships that are handed over at once.
const UNDER_WAY_MAX: usize = 8;
/// How long a group is left alone after a transfer that failed, in milliseconds.
const RETRY_MS: u64 = 500;

/// What a node that stops has handed over. Holds a row for each group that it leads.
#[derive(Debug, Default)]
pub(super) struct Handover {
    is_begun: bool,
    under_way: BTreeSet<GroupName>,
    failed: BTreeMap<GroupName, BootMs>,
    /// Are told once nothing is led here that another could lead.
    waiting: Vec<oneshot::Sender<()>>,
}

impl Handover {
    /// The node stops; from now on it is to lead nothing.
    pub(super) fn begin(&mut self, done: oneshot::Sender<()>) {
        self.is_begun = true;
        self.waiting.push(done);
    }

    /// Whether the node stops.
    pub(super) fn is_begun(&self) -> bool {
        self.is_begun
    }

    pub(super) fn handle_transfer(&mut self, group: GroupName, is_done: bool, now: BootMs) {
        self.under_way.remove(&group);
        if !is_done {
            self.failed.insert(group, now);
        }
    }

    /// Of the groups that are led here and have another voter that may lead, each with one that can
    /// at once, those to be transferred now.
    fn poll_transfers(
        &mut self,
        led: &BTreeMap<GroupName, Option<RaftId>>,
        now: BootMs,
    ) -> Vec<(GroupName, RaftId)> {
        self.failed.retain(|_, at| now.since_ms(*at) < RETRY_MS);
        if led.is_empty() && self.under_way.is_empty() {
            // Who waits no longer has given up.
            for done in self.waiting.drain(..) {
                let _ = done.send(());
            }
        }
        let able = led.iter().filter_map(|(group, to)| Some((*group, (*to)?)));
        let room = UNDER_WAY_MAX.saturating_sub(self.under_way.len());
        let due = able.filter(|(group, _)| {
            !self.under_way.contains(group) && !self.failed.contains_key(group)
        });
        let due: Vec<_> = due.take(room).collect();
        self.under_way.extend(due.iter().map(|(group, _)| *group));
        due
    }
}

impl Runtime {
    pub(super) fn hand_over(&mut self, now: BootMs) {
        if !self.handover.is_begun() {
            return;
        }
        let led = self.own.keys().filter_map(|group| {
            let others = self.successors(*group)?;
            (!others.is_empty()).then(|| (*group, self.first_able(*group, &others)))
        });
        let led: BTreeMap<GroupName, Option<RaftId>> = led.collect();
        for (group, to) in self.handover.poll_transfers(&led, now) {
            let Some(control) = self.inner.control(group) else {
                self.handover.handle_transfer(group, false, now);
                continue;
            };
            let inner = Arc::clone(&self.inner);
            self.tasks.spawn(async move {
                let transferred = control.transfer(to).await;
                match &transferred {
                    Ok(()) => inner.counters.handovers_total.add(1),
                    Err(error) => tracing::warn!(?group, %error, "a leadership stays here"),
                }
                Done::HandedOver(group, transferred.is_ok())
            });
        }
    }

    /// The other voters of a group that may lead it, in placement order.
    pub(super) fn successors(&self, group: GroupName) -> Option<Vec<RaftId>> {
        let control = self.inner.control(group)?;
        let nodes = control.nodes();
        let ids = self.voters_in_order(group, &*control).into_iter();
        let ids = ids.filter(|node| self.up.contains_key(node) && !self.stopping.contains(node));
        let ids = ids.filter_map(|node| nodes.iter().find(|(_, at)| **at == node));
        Some(ids.map(|(id, _)| *id).collect())
    }

    /// The first that has nearly all of the group's log, unless its members change.
    fn first_able(&self, group: GroupName, others: &[RaftId]) -> Option<RaftId> {
        let control = self.inner.control(group)?;
        let membership = control.membership();
        if !membership.is_committed || membership.joint.is_some() {
            return None;
        }
        let lags = control.lags();
        let is_close = |id: &&RaftId| lags.get(id).is_some_and(|lag| *lag < LAG_MAX);
        others.iter().find(is_close).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster_core::ShardId;

    const T0: BootMs = BootMs(1_000);

    fn led(count: u16, to: Option<u64>) -> BTreeMap<GroupName, Option<RaftId>> {
        let shards = (0..count).map(|shard| GroupName::Shard(ShardId(shard)));
        shards.map(|shard| (shard, to.map(RaftId))).collect()
    }

    #[test]
    fn eight_are_under_way_and_who_waits_is_told_once_nothing_is_left() {
        let mut handover = Handover::default();
        let (done, mut told) = oneshot::channel();
        handover.begin(done);

        assert_eq!(handover.poll_transfers(&led(10, Some(2)), T0).len(), 8);
        assert!(handover.poll_transfers(&led(10, Some(2)), T0).is_empty());
        for shard in 0..8 {
            handover.handle_transfer(GroupName::Shard(ShardId(shard)), shard != 0, T0);
        }
        // The one that failed waits; two were not tried yet.
        let left = |handover: &mut Handover, ms| {
            let mut left = led(10, Some(2));
            left.retain(|group, _| !(1..8).contains(&shard_of(*group)));
            handover.poll_transfers(&left, T0.plus_ms(ms))
        };
        assert_eq!(left(&mut handover, 0).len(), 2);
        assert_eq!(left(&mut handover, 499), []);
        let again = left(&mut handover, 500);
        assert_eq!(again, [(GroupName::Shard(ShardId(0)), RaftId(2))]);
        for shard in [0, 8, 9] {
            assert!(told.try_recv().is_err());
            handover.handle_transfer(GroupName::Shard(ShardId(shard)), true, T0);
        }
        handover.poll_transfers(&led(0, None), T0);
        assert_eq!(told.try_recv(), Ok(()));
    }

    #[test]
    fn a_group_whose_others_are_behind_is_waited_for() {
        let mut handover = Handover::default();
        let (done, mut told) = oneshot::channel();
        handover.begin(done);

        assert_eq!(handover.poll_transfers(&led(1, None), T0), []);
        assert!(told.try_recv().is_err());
        assert_eq!(handover.poll_transfers(&led(1, Some(3)), T0).len(), 1);
    }

    fn shard_of(group: GroupName) -> u16 {
        match group {
            GroupName::Shard(ShardId(shard)) => shard,
            _ => unreachable!("only shards are led here"),
        }
    }
}
