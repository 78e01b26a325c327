//! Giving each item its nodes under a bound on what a node may have.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::NodeId;

/// Items (shards) and the nodes that have them, as many as each needs, no node more than its
/// limit.
///
/// Keeps what it is given as far as the bounds allow. An item whose walk meets only full nodes
/// makes one of them pass another item on (an augmenting path), so it fails only where no
/// assignment exists.
#[derive(Debug)]
pub(super) struct Bounded {
    /// The nodes that each item may have, the best first.
    walks: Vec<Vec<NodeId>>,
    held: Vec<BTreeSet<NodeId>>,
    load: BTreeMap<NodeId, usize>,
    /// Nodes that each item needs.
    need: usize,
    /// Items that a node may have.
    limit: usize,
}

/// How a node gets an item: which one, and who passes it on, if it is not given anew.
type Came = (usize, Option<NodeId>);

impl Bounded {
    /// Items that have these nodes today, as far as their walks name them.
    pub(super) fn new(
        walks: Vec<Vec<NodeId>>,
        today: Vec<BTreeSet<NodeId>>,
        need: usize,
        limit: usize,
    ) -> Self {
        let mut bounded = Self {
            held: vec![BTreeSet::new(); walks.len()],
            load: BTreeMap::new(),
            walks,
            need,
            limit,
        };
        for (item, nodes) in today.into_iter().enumerate() {
            for node in nodes {
                if bounded.walks[item].contains(&node) {
                    bounded.give(item, node);
                }
            }
        }
        bounded
    }

    /// Takes from items what they have too much and from nodes what exceeds their limit, where
    /// `is_dear` last of all, then gives each item what it lacks.
    ///
    /// None if no assignment keeps to the limit.
    pub(super) fn settle(
        mut self,
        is_dear: impl Fn(usize, NodeId) -> bool,
    ) -> Option<Vec<BTreeSet<NodeId>>> {
        for item in 0..self.held.len() {
            let mut nodes: Vec<NodeId> = self.held[item].iter().copied().collect();
            nodes.sort_by_key(|node| {
                let rank = Reverse(self.rank(item, *node));
                (is_dear(item, *node), !self.is_over(*node), rank)
            });
            let excess = nodes.len().saturating_sub(self.need);
            for node in nodes.into_iter().take(excess) {
                self.take(item, node);
            }
        }
        let nodes: Vec<NodeId> = self.load.keys().copied().collect();
        for node in nodes {
            self.relieve(node, &is_dear)?;
        }
        for item in 0..self.held.len() {
            while self.held[item].len() < self.need {
                self.add(item)?;
            }
        }
        Some(self.held)
    }

    /// Has a node pass on what it has too much: what it comes last for, to who comes first.
    fn relieve(&mut self, node: NodeId, is_dear: impl Fn(usize, NodeId) -> bool) -> Option<()> {
        let mut items = self.items_of(node);
        items.sort_by_key(|item| (is_dear(*item, node), Reverse(self.rank(*item, node))));
        for item in items {
            if !self.is_over(node) {
                return Some(());
            }
            if let Some(to) = self.first_free(item) {
                self.take(item, node);
                self.give(item, to);
            }
        }
        while self.is_over(node) {
            let reached = [(node, None)].into();
            self.pass(&self.path(reached)?);
        }
        Some(())
    }

    /// Gives an item one node more.
    fn add(&mut self, item: usize) -> Option<()> {
        if let Some(node) = self.first_free(item) {
            self.give(item, node);
            return Some(());
        }
        let others = self.walks[item].iter();
        let others = others.filter(|node| !self.held[item].contains(node));
        let reached = others.map(|node| (*node, Some((item, None)))).collect();
        self.pass(&self.path(reached)?);
        Some(())
    }

    fn first_free(&self, item: usize) -> Option<NodeId> {
        let is_free = |node: &&NodeId| !self.held[item].contains(node) && self.has_room(**node);
        self.walks[item].iter().find(is_free).copied()
    }

    /// The shortest way from the nodes that are `reached` to one that has room, from its end: each
    /// node passes one item on.
    fn path(&self, mut reached: BTreeMap<NodeId, Option<Came>>) -> Option<Vec<(Came, NodeId)>> {
        let mut queue: VecDeque<NodeId> = reached.keys().copied().collect();
        while let Some(node) = queue.pop_front() {
            if self.has_room(node) {
                return Some(trace(&reached, node));
            }
            for item in self.items_of(node) {
                for to in &self.walks[item] {
                    if !self.held[item].contains(to) && !reached.contains_key(to) {
                        reached.insert(*to, Some((item, Some(node))));
                        queue.push_back(*to);
                    }
                }
            }
        }
        None
    }

    fn pass(&mut self, path: &[(Came, NodeId)]) {
        for ((item, from), to) in path {
            if let Some(from) = from {
                self.take(*item, *from);
            }
            self.give(*item, *to);
        }
    }

    fn items_of(&self, node: NodeId) -> Vec<usize> {
        let items = 0..self.held.len();
        items
            .filter(|item| self.held[*item].contains(&node))
            .collect()
    }

    fn is_over(&self, node: NodeId) -> bool {
        self.load.get(&node).copied().unwrap_or(0) > self.limit
    }

    fn has_room(&self, node: NodeId) -> bool {
        self.load.get(&node).copied().unwrap_or(0) < self.limit
    }

    fn rank(&self, item: usize, node: NodeId) -> Option<usize> {
        self.walks[item].iter().position(|n| *n == node)
    }

    fn give(&mut self, item: usize, node: NodeId) {
        let is_new = self.held[item].insert(node);
        assert!(is_new, "item {item} was given node {node} twice");
        *self.load.entry(node).or_default() += 1;
    }

    fn take(&mut self, item: usize, node: NodeId) {
        let was_held = self.held[item].remove(&node);
        assert!(was_held, "item {item} does not have node {node}");
        *self.load.get_mut(&node).expect("it has the item") -= 1;
    }
}

/// Goes back from the node that has room to where the way began.
fn trace(reached: &BTreeMap<NodeId, Option<Came>>, end: NodeId) -> Vec<(Came, NodeId)> {
    let mut path = Vec::new();
    let mut to = end;
    while let Some(came @ (_, from)) = reached[&to] {
        path.push((came, to));
        match from {
            Some(from) => to = from,
            None => break,
        }
    }
    path
}
