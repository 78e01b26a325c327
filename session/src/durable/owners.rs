//! Which node epochs own sessions.

use std::collections::BTreeMap;

use crate::NodeEpoch;

/// Connected sessions by the node epoch of their owner.
#[derive(Debug, Default)]
pub(super) struct Owners(BTreeMap<NodeEpoch, usize>);

impl Owners {
    pub(super) fn add(&mut self, node_epoch: NodeEpoch) {
        *self.0.entry(node_epoch).or_default() += 1;
    }

    pub(super) fn remove(&mut self, node_epoch: NodeEpoch) {
        let sessions = self.0.get_mut(&node_epoch);
        let sessions = sessions.expect("a connected session was counted");
        *sessions -= 1;
        if *sessions == 0 {
            self.0.remove(&node_epoch);
        }
    }

    /// Connected sessions.
    pub(super) fn sessions(&self) -> usize {
        self.0.values().sum()
    }

    pub(super) fn node_epochs(&self) -> impl Iterator<Item = NodeEpoch> {
        self.0.keys().copied()
    }
}
