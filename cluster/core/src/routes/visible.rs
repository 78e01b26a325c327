//! How far all nodes see the routes: what a SUBACK waits for.

use std::collections::{BTreeMap, VecDeque};

use super::Source;
use crate::{NodeEpoch, RouteVersion};

/// Follows which entries of the routes group every node has applied whose epoch has not ended.
///
/// There is no timeout: a node that does not follow holds SUBACKs back until its epoch ends,
/// because a publish acknowledged there would miss the subscriber.
#[derive(Clone, Debug, Default)]
pub struct Visible {
    /// What each node whose epoch has not ended has applied.
    nodes: BTreeMap<NodeEpoch, u64>,
    /// Entries that not all have applied, and what each brought. Bounded by the distance that a
    /// node may lag and still hold its lease.
    entries: VecDeque<(u64, Source, RouteVersion)>,
    sources: BTreeMap<Source, RouteVersion>,
    effects: VecDeque<(Source, RouteVersion)>,
}

impl Visible {
    /// An epoch began; it sees nothing yet.
    pub fn handle_begun(&mut self, epoch: NodeEpoch) {
        self.nodes.entry(epoch).or_default();
    }

    /// An epoch ended: nobody waits for it any longer.
    pub fn handle_ended(&mut self, epoch: NodeEpoch) {
        self.nodes.remove(&epoch);
        self.sources.remove(&Source::Node(epoch));
        self.advance();
    }

    /// A node has this entry, and all before, in the trie that it matches publishes with.
    /// Reports of epochs that are not known to run are ignored.
    pub fn handle_applied(&mut self, epoch: NodeEpoch, index: u64) {
        if let Some(applied) = self.nodes.get_mut(&epoch) {
            *applied = index.max(*applied);
            self.advance();
        }
    }

    /// The group applied an entry ([`super::RoutesEffect::Applied`]).
    pub fn handle_entry(&mut self, source: Source, version: RouteVersion, index: u64) {
        self.entries.push_back((index, source, version));
        self.advance();
    }

    /// The next source of which more is seen by all, and up to which version.
    pub fn poll_visible(&mut self) -> Option<(Source, RouteVersion)> {
        self.effects.pop_front()
    }

    /// The highest version of a source that all nodes see.
    pub fn version(&self, source: Source) -> RouteVersion {
        let version = self.sources.get(&source).copied();
        version.unwrap_or_default()
    }

    fn advance(&mut self) {
        let all = self.nodes.values().copied().min().unwrap_or(0);
        while let Some(&(index, source, version)) = self.entries.front() {
            if index > all {
                return;
            }
            self.entries.pop_front();
            let seen = self.sources.entry(source).or_default();
            if version > *seen {
                *seen = version;
                self.effects.push_back((source, version));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ShardId;

    const SHARD: Source = Source::Shard(ShardId(3));

    fn with_nodes(epochs: &[u64]) -> Visible {
        let mut visible = Visible::default();
        for epoch in epochs {
            visible.handle_begun(NodeEpoch(*epoch));
        }
        visible
    }

    #[test]
    fn a_row_is_visible_once_every_node_has_applied_its_entry() {
        let mut visible = with_nodes(&[1, 2]);

        visible.handle_entry(SHARD, RouteVersion(7), 10);
        visible.handle_applied(NodeEpoch(1), 12);
        visible.handle_applied(NodeEpoch(2), 9);
        assert_eq!(visible.poll_visible(), None);

        visible.handle_applied(NodeEpoch(2), 10);
        assert_eq!(visible.poll_visible(), Some((SHARD, RouteVersion(7))));
        assert_eq!(visible.version(SHARD), RouteVersion(7));
    }

    #[test]
    fn the_end_of_an_epoch_releases_what_waited_for_it() {
        let mut visible = with_nodes(&[1, 2]);
        visible.handle_entry(SHARD, RouteVersion(7), 10);
        visible.handle_applied(NodeEpoch(1), 10);

        visible.handle_ended(NodeEpoch(2));

        assert_eq!(visible.poll_visible(), Some((SHARD, RouteVersion(7))));
    }

    #[test]
    fn a_late_report_of_an_ended_epoch_holds_nothing_back() {
        let mut visible = with_nodes(&[1, 2]);
        visible.handle_ended(NodeEpoch(2));

        visible.handle_applied(NodeEpoch(2), 1);
        visible.handle_applied(NodeEpoch(1), 10);
        visible.handle_entry(SHARD, RouteVersion(7), 10);

        assert_eq!(visible.version(SHARD), RouteVersion(7));
    }

    #[test]
    fn nothing_is_visible_while_no_node_runs() {
        let mut visible = with_nodes(&[]);

        visible.handle_entry(SHARD, RouteVersion(7), 10);

        assert_eq!(visible.version(SHARD), RouteVersion(0));
    }
}
