//! What a node epoch waits for before it serves.

use std::collections::BTreeMap;

use crate::NodeEpoch;

/// The way of a new epoch to its first CONNACK.
///
/// First every epoch that has not ended knows of it, so that SUBACKs from then on wait for it too;
/// then it reads how far the routes are and applies them up to there. Else a SUBACK sent between
/// the two, which did not wait for this node, would miss what is published here.
#[derive(Clone, Debug)]
pub struct Entering {
    epoch: NodeEpoch,
    /// Index in meta's log that began the epoch.
    begun: u64,
    /// Epochs that have not ended, and how far each has applied meta.
    nodes: BTreeMap<NodeEpoch, u64>,
    phase: Phase,
    routes_applied: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Announced,
    /// The routes group is to be asked, or asked again.
    Asking,
    Asked,
    /// The routes have to be applied up to here.
    Following(u64),
    Serving,
}

/// Work for the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnteringEffect {
    /// Ask the leader of the routes group for its committed index (ReadIndex); then
    /// [`Entering::handle_routes_read`] or [`Entering::handle_read_failed`].
    ReadRoutes,
}

impl Entering {
    /// The way of `epoch`, begun at index `begun` of meta, while `current` have not ended.
    pub fn new(epoch: NodeEpoch, begun: u64, current: impl IntoIterator<Item = NodeEpoch>) -> Self {
        let nodes = current.into_iter().map(|epoch| (epoch, 0)).collect();
        let mut entering = Self {
            epoch,
            begun,
            nodes,
            phase: Phase::Announced,
            routes_applied: 0,
        };
        // It has applied its own beginning.
        entering.handle_meta_applied(epoch, begun);
        entering
    }

    /// Another node has applied meta up to here.
    pub fn handle_meta_applied(&mut self, epoch: NodeEpoch, index: u64) {
        if let Some(applied) = self.nodes.get_mut(&epoch) {
            *applied = index.max(*applied);
            self.advance();
        }
    }

    /// Meta's leader says that every epoch that has not ended has applied meta up to here
    /// ([`crate::GrantsEffect::Grant`]).
    pub fn handle_meta_seen(&mut self, index: u64) {
        if index >= self.begun {
            self.nodes.clear();
            self.advance();
        }
    }

    /// An epoch ended: it is not waited for.
    pub fn handle_ended(&mut self, epoch: NodeEpoch) {
        self.nodes.remove(&epoch);
        self.advance();
    }

    /// The routes group had committed up to here when it was asked.
    pub fn handle_routes_read(&mut self, committed: u64) {
        if self.phase == Phase::Asked {
            self.phase = Phase::Following(committed);
            self.advance();
        }
    }

    /// The routes group did not answer: it is asked again.
    pub fn handle_read_failed(&mut self) {
        if self.phase == Phase::Asked {
            self.phase = Phase::Asking;
        }
    }

    /// This node matches publishes with routes applied up to here.
    pub fn handle_routes_applied(&mut self, index: u64) {
        self.routes_applied = index.max(self.routes_applied);
        self.advance();
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<EnteringEffect> {
        if self.phase != Phase::Asking {
            return None;
        }
        self.phase = Phase::Asked;
        Some(EnteringEffect::ReadRoutes)
    }

    /// Whether the node may serve, given that it holds its lease.
    pub fn is_serving(&self) -> bool {
        self.phase == Phase::Serving
    }

    /// The epoch.
    pub fn epoch(&self) -> NodeEpoch {
        self.epoch
    }

    fn advance(&mut self) {
        let all_know = self.nodes.values().all(|applied| *applied >= self.begun);
        if self.phase == Phase::Announced && all_know {
            self.phase = Phase::Asking;
        }
        if let Phase::Following(committed) = self.phase
            && self.routes_applied >= committed
        {
            self.phase = Phase::Serving;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: NodeEpoch = NodeEpoch(9);
    const OTHER: NodeEpoch = NodeEpoch(4);

    #[test]
    fn a_lone_node_serves_once_it_has_applied_its_routes() {
        let mut entering = Entering::new(NEW, 9, [NEW]);

        assert_eq!(entering.poll_effect(), Some(EnteringEffect::ReadRoutes));
        assert_eq!(entering.poll_effect(), None);
        entering.handle_routes_read(30);
        entering.handle_routes_applied(29);
        assert!(!entering.is_serving());
        entering.handle_routes_applied(30);
        assert!(entering.is_serving());
    }

    #[test]
    fn the_routes_are_read_only_after_every_other_node_knows_of_the_epoch() {
        let mut entering = Entering::new(NEW, 9, [OTHER, NEW]);
        entering.handle_meta_applied(OTHER, 8);
        assert_eq!(entering.poll_effect(), None);

        entering.handle_meta_applied(OTHER, 9);

        assert_eq!(entering.poll_effect(), Some(EnteringEffect::ReadRoutes));
    }

    #[test]
    fn what_meta_s_leader_has_heard_of_all_counts_for_each() {
        let mut entering = Entering::new(NEW, 9, [OTHER, NEW]);
        entering.handle_meta_seen(8);
        assert_eq!(entering.poll_effect(), None);

        entering.handle_meta_seen(9);

        assert_eq!(entering.poll_effect(), Some(EnteringEffect::ReadRoutes));
    }

    #[test]
    fn an_epoch_that_ends_is_not_waited_for() {
        let mut entering = Entering::new(NEW, 9, [OTHER, NEW]);

        entering.handle_ended(OTHER);

        assert_eq!(entering.poll_effect(), Some(EnteringEffect::ReadRoutes));
    }

    #[test]
    fn a_read_that_failed_is_repeated_and_an_unasked_one_does_not_count() {
        let mut entering = Entering::new(NEW, 9, [OTHER, NEW]);
        entering.handle_routes_read(0);
        assert!(!entering.is_serving());
        entering.handle_meta_applied(OTHER, 9);
        entering.poll_effect();

        entering.handle_read_failed();

        assert_eq!(entering.poll_effect(), Some(EnteringEffect::ReadRoutes));
    }
}
