//! The consistent-hash ring: in which order a group would choose nodes.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use hashring::HashRing;

use crate::{BucketId, Group, NodeId, ShardId};

/// Points of each node on the ring. With 3 nodes the largest share of the ring is then 1.08 times
/// the mean.
const POINTS: u32 = 200;

/// Nodes on a ring of hashes. Equal nodes give equal walks, on every machine and in every build.
#[derive(Clone, Debug)]
pub struct Ring {
    ring: HashRing<Point>,
    nodes: usize,
}

/// One point of a node.
#[derive(Clone, Copy, Debug)]
struct Point {
    node: NodeId,
    point: u32,
}

impl Hash for Point {
    /// Fixed bytes in one write: what the standard library feeds to a hasher for a struct or a
    /// slice (lengths, widths) is no stable format.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut bytes = [b'n', 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[1..5].copy_from_slice(&self.node.0.to_be_bytes());
        bytes[5..].copy_from_slice(&self.point.to_be_bytes());
        state.write(&bytes);
    }
}

/// Where a group stands on the ring.
struct Place(Group);

impl Hash for Place {
    /// Fixed bytes in one write, of another length than those of points.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (kind, shard) = match self.0 {
            Group::Meta => (1, 0),
            Group::Routes => (2, 0),
            Group::Shard(ShardId(shard)) => (3, shard),
        };
        let [high, low] = shard.to_be_bytes();
        state.write(&[b'g', kind, high, low]);
    }
}

/// Where a bucket stands on the ring.
struct BucketPlace(BucketId);

impl Hash for BucketPlace {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [high, low] = self.0.0.to_be_bytes();
        state.write(&[b'g', 4, high, low]);
    }
}

impl Ring {
    /// The ring of these nodes; their order and repeats change nothing.
    pub fn new(nodes: impl IntoIterator<Item = NodeId>) -> Self {
        let nodes: BTreeSet<NodeId> = nodes.into_iter().collect();
        let points = |&node: &NodeId| (0..POINTS).map(move |point| Point { node, point });
        let mut ring = HashRing::new();
        // Points of equal hash stay in this order: the sort is stable.
        ring.batch_add(nodes.iter().flat_map(points).collect());
        Self {
            ring,
            nodes: nodes.len(),
        }
    }

    /// Every node once, in the order in which the ring brings them from the group's place on.
    pub fn walk(&self, group: Group) -> Vec<NodeId> {
        self.walk_from(&Place(group))
    }

    /// Every node once, in the order in which the ring brings them from the bucket's place on.
    pub fn walk_of_bucket(&self, bucket: BucketId) -> Vec<NodeId> {
        self.walk_from(&BucketPlace(bucket))
    }

    fn walk_from(&self, place: &impl Hash) -> Vec<NodeId> {
        let points = self.ring.get_with_replicas(place, self.ring.len());
        let mut walk = Vec::with_capacity(self.nodes);
        let mut seen = BTreeSet::new();
        for Point { node, .. } in points.unwrap_or_default() {
            if seen.insert(node) {
                walk.push(node);
                if walk.len() == self.nodes {
                    break;
                }
            }
        }
        walk
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn shard(shard: u16) -> Group {
        Group::Shard(ShardId(shard))
    }

    #[test]
    fn a_walk_is_the_same_on_every_machine_and_in_every_build() {
        let ring = Ring::new((1..=5).map(NodeId));
        let walk = |group| ring.walk(group).iter().map(|n| n.0).collect::<Vec<_>>();

        // Written down once: another order would move replicas of every cluster.
        let groups = [Group::Meta, Group::Routes, shard(0), shard(1), shard(31)];
        // Written down once: another order would move replicas of every cluster.
        let golden = [
            [2, 3, 1, 4, 5],
            [3, 4, 2, 5, 1],
            [3, 2, 1, 5, 4],
            [1, 5, 3, 2, 4],
            [2, 3, 1, 4, 5],
        ];
        assert_eq!(groups.map(walk), golden);
    }

    #[test]
    fn a_walk_names_every_node_once_and_an_empty_ring_none() {
        let ring = Ring::new([7, 3, 7, 11].map(NodeId));
        for group in (0..100).map(shard) {
            let mut walk = ring.walk(group);
            walk.sort_unstable();
            assert_eq!(walk, [3, 7, 11].map(NodeId));
        }
        assert_eq!(Ring::new([]).walk(Group::Meta), []);
    }

    #[test]
    fn another_node_changes_no_order_of_the_others() {
        let (three, four) = (Ring::new((1..4).map(NodeId)), Ring::new((1..5).map(NodeId)));
        for group in (0..100).map(shard) {
            let mut walk = four.walk(group);
            walk.retain(|node| node.0 < 4);
            assert_eq!(walk, three.walk(group));
        }
    }

    #[test]
    fn nodes_come_first_about_equally_often() {
        let ring = Ring::new((1..=4).map(NodeId));
        let mut firsts = BTreeMap::<NodeId, u32>::new();
        for group in (0..4_000).map(shard) {
            *firsts.entry(ring.walk(group)[0]).or_default() += 1;
        }
        assert!(
            firsts.values().all(|n| (800..1_250).contains(n)),
            "{firsts:?}"
        );
    }
}
