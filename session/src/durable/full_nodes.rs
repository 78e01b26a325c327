//! Nodes whose sessions are handed out nothing for a while.

use std::collections::{BTreeMap, BTreeSet};

use mqtt::{ClientId, Filter};

use super::Durable;
use crate::NodeEpoch;

/// Who waits until a node takes more. Nothing of it is replicated.
#[derive(Debug, Default)]
pub(super) struct FullNodes {
    /// At most the sessions of the shard wait at each; one that has moved on since goes on there.
    sessions: BTreeMap<NodeEpoch, BTreeSet<ClientId>>,
    /// Groups of which no member was found that may be handed anything. At most those of the shard.
    groups: BTreeSet<Filter>,
}

impl FullNodes {
    pub(super) fn is_full(&self, node_epoch: NodeEpoch) -> bool {
        self.sessions.contains_key(&node_epoch)
    }

    /// Has a session wait if its node is full; says whether it is.
    pub(super) fn holds(&mut self, node_epoch: NodeEpoch, client: &ClientId) -> bool {
        let waiting = self.sessions.get_mut(&node_epoch);
        let is_full = waiting.is_some();
        if let Some(waiting) = waiting
            && !waiting.contains(client)
        {
            waiting.insert(client.clone());
        }
        is_full
    }

    /// Has a group wait for any node, if one is full.
    pub(super) fn hold_group(&mut self, filter: &Filter) {
        if !self.sessions.is_empty() {
            self.groups.insert(filter.clone());
        }
    }

    /// The node has ended: its sessions are handed out elsewhere.
    pub(super) fn end(&mut self, node_epoch: NodeEpoch) {
        self.sessions.remove(&node_epoch);
    }
}

impl Durable {
    /// What is on its way to this node fills its room: nothing more of queues is handed out for
    /// connections there until [`Self::handle_room`]. Groups hand theirs to members elsewhere. What
    /// was handed out before is not lost, so nothing of it is handed out again.
    ///
    /// Like all of what is handed out, forgotten by [`Self::handle_lead`] and [`Self::handle_follow`].
    pub fn handle_full(&mut self, node_epoch: NodeEpoch) {
        if self.leads {
            self.full.sessions.entry(node_epoch).or_default();
        }
    }

    /// The node has room again: its sessions go on behind what they were handed last.
    pub fn handle_room(&mut self, node_epoch: NodeEpoch) {
        let waiting = self.full.sessions.remove(&node_epoch);
        for client in waiting.into_iter().flatten() {
            self.make_ready(&client);
        }
        for filter in std::mem::take(&mut self.full.groups) {
            self.make_group_ready(&filter);
        }
    }
}
