//! Which states are being copied to other nodes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cluster_core::NodeId;
use storage::raft::GroupId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The copies of a node's groups; one at a time to each other node.
#[derive(Default)]
pub(super) struct Copies {
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    last: u64,
    /// One for each node that was ever copied to.
    turns: BTreeMap<NodeId, Arc<Semaphore>>,
    /// By number: the group, and the last entry that the copy holds.
    under_way: BTreeMap<u64, (GroupId, u64)>,
}

impl Copies {
    /// Begins a copy, if none is under way to this node.
    pub(super) fn begin(
        self: &Arc<Self>,
        node: NodeId,
        group: GroupId,
        upto: u64,
    ) -> Option<Copying> {
        let permit = self.turn_of(node).try_acquire_owned().ok()?;
        let mut open = self.open();
        open.last += 1;
        let number = open.last;
        open.under_way.insert(number, (group, upto));
        Some(Copying {
            copies: Arc::clone(self),
            number,
            _permit: permit,
        })
    }

    /// Waits until no copy is under way to this node.
    pub(super) async fn turn(&self, node: NodeId) {
        // It is never closed.
        let _ = self.turn_of(node).acquire().await;
    }

    /// The entry behind which the log of a group is needed once its copies are over.
    pub(super) fn lowest(&self, group: GroupId) -> Option<u64> {
        let open = self.open();
        let of_group = open.under_way.values().filter(|(of, _)| *of == group);
        of_group.map(|(_, upto)| *upto).min()
    }

    fn turn_of(&self, node: NodeId) -> Arc<Semaphore> {
        let mut open = self.open();
        let turn = open.turns.entry(node);
        Arc::clone(turn.or_insert_with(|| Arc::new(Semaphore::new(1))))
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A copy under way, until it is dropped.
pub(super) struct Copying {
    copies: Arc<Copies>,
    number: u64,
    _permit: OwnedSemaphorePermit,
}

impl Copying {
    /// Never given twice by this run of the process.
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.copies.open().under_way.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_copy_at_a_time_goes_to_a_node_and_holds_the_log_of_its_group() {
        let copies = Arc::new(Copies::default());
        let (group, other) = (GroupId(1), GroupId(2));
        let first = copies.begin(NodeId(2), group, 7).unwrap();
        assert!(copies.begin(NodeId(2), other, 9).is_none());
        let beside = copies.begin(NodeId(3), group, 5).unwrap();
        assert_ne!(first.number(), beside.number());
        assert_eq!(copies.lowest(group), Some(5));
        assert_eq!(copies.lowest(other), None);

        let waiting = copies.turn(NodeId(2));
        drop((first, beside));
        waiting.await;

        assert_eq!(copies.lowest(group), None);
        assert!(copies.begin(NodeId(2), other, 9).is_some());
    }
}
