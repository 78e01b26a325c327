//! Where the groups should be: the hash ring, walked under a bound on the load of a node.
//!
//! The result is a wish. The table in meta is the truth; [`crate::moves`] bring one to the other,
//! a few at a time.

mod bounded;
mod buckets;
#[cfg(test)]
mod placement_test;
mod ring;

use std::collections::{BTreeMap, BTreeSet};

use bounded::Bounded;
pub use buckets::{deal, deal_moves};
pub use ring::Ring;

use crate::{Group, NodeId, Placement, ShardId};

/// Voters of a group where there are nodes enough.
pub const VOTERS: usize = 3;

/// What placement knows of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// It has an epoch.
    Serving,
    /// Its epoch has ended. It keeps its place, and no move to it begins: a node that is killed
    /// mostly comes back, and a person says when it does not.
    Away,
    /// It is to hold nothing any longer. Of meta and routes, by which it follows that, it stays a
    /// learner as long as it runs.
    Leaving,
    /// It is to leave, and does not run.
    Gone,
}

impl NodeState {
    /// Whether the node has a place on the ring.
    pub fn stays(self) -> bool {
        matches!(self, Self::Serving | Self::Away)
    }
}

/// Where each of today's groups should be, given the members.
///
/// On one node a group has one voter; on two one voter, where it has one today, and one learner;
/// on three and more three voters. With `n` nodes that stay, none holds more than
/// ⌈3·shards/n⌉ replicas of shards (two for each shard on two nodes), and from three nodes on none
/// is the preferred leader of more than ⌈shards/n⌉. On two nodes voters stay where they are: the
/// second node may come and go as long as nothing depends on it. Meta and routes are placed
/// likewise, and count for no bound; as every node serves by what they say, each node that is no
/// voter of theirs is a learner.
///
/// Replicas move only where a node leaves, a group lacks one, or a bound is exceeded. Equal
/// arguments give equal results on every node. If nobody stays, all is to stay as it is.
pub fn wanted(
    nodes: &BTreeMap<NodeId, NodeState>,
    today: &BTreeMap<Group, Placement>,
) -> BTreeMap<Group, Placement> {
    wanted_pinned(nodes, today, &BTreeMap::new())
}

/// [`wanted`], with shards whose replicas are to be on these nodes and no others, as an operator has
/// said. The others make room for them, so that the bounds hold; where no table keeps to a bound, it is
/// raised by as little as there is one.
///
/// A pin counts as long as it names as many nodes as a shard has replicas, and all of them stay.
pub fn wanted_pinned(
    nodes: &BTreeMap<NodeId, NodeState>,
    today: &BTreeMap<Group, Placement>,
    pins: &BTreeMap<ShardId, BTreeSet<NodeId>>,
) -> BTreeMap<Group, Placement> {
    let staying = nodes.iter().filter(|(_, state)| state.stays());
    let staying: BTreeSet<NodeId> = staying.map(|(node, _)| *node).collect();
    if staying.is_empty() {
        return today.clone();
    }
    let ring = Ring::new(staying.iter().copied());
    let is_shard = |group: &Group| matches!(group, Group::Shard(_));
    let (shards, others): (Vec<_>, Vec<_>) = today.iter().partition(|(group, _)| is_shard(group));
    let bounds = Bounds::of(staying.len(), shards.len());
    let mut wanted = place(&ring, &shards, bounds, pins);
    let mut system = everywhere(&ring, staying.len(), &others);
    for (group, placement) in &mut system {
        let held = today[group].nodes();
        let is_leaving = |node: &NodeId| nodes.get(node) == Some(&NodeState::Leaving);
        placement.learners.extend(held.filter(is_leaving));
    }
    wanted.extend(system);
    wanted
}

/// Placements of groups that every node needs: voters as of any group, all others are learners.
fn everywhere(
    ring: &Ring,
    nodes: usize,
    groups: &[(&Group, &Placement)],
) -> BTreeMap<Group, Placement> {
    let voters: Vec<(&Group, Placement)> = groups
        .iter()
        .map(|(group, today)| {
            let voters = today.voters.clone();
            let learners = Vec::new();
            (*group, Placement { voters, learners })
        })
        .collect();
    let voters: Vec<(&Group, &Placement)> = voters.iter().map(|(g, today)| (*g, today)).collect();
    let bounds = Bounds::of(nodes, groups.len()).open();
    let mut placed = place(ring, &voters, bounds, &BTreeMap::new());
    for (group, placement) in &mut placed {
        let mut learners = ring.walk(*group);
        learners.retain(|node| !placement.voters.contains(node));
        placement.learners = learners;
    }
    placed
}

/// How much a node may have.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    replicas_per_group: usize,
    replicas: usize,
    leaders: usize,
}

impl Bounds {
    fn of(nodes: usize, groups: usize) -> Self {
        let replicas_per_group = nodes.min(VOTERS);
        Self {
            replicas_per_group,
            replicas: (replicas_per_group * groups).div_ceil(nodes),
            leaders: if nodes < VOTERS {
                groups
            } else {
                groups.div_ceil(nodes)
            },
        }
    }

    /// The same without a limit on what a node has.
    fn open(self) -> Self {
        Self {
            replicas: usize::MAX,
            leaders: usize::MAX,
            ..self
        }
    }
}

fn place(
    ring: &Ring,
    groups: &[(&Group, &Placement)],
    bounds: Bounds,
    pins: &BTreeMap<ShardId, BTreeSet<NodeId>>,
) -> BTreeMap<Group, Placement> {
    let walks: Vec<Vec<NodeId>> = groups.iter().map(|(group, _)| ring.walk(**group)).collect();
    let today = |at: usize| groups[at].1;
    let held: Vec<BTreeSet<NodeId>> = (0..groups.len())
        .map(|at| today(at).nodes().collect())
        .collect();
    let needed = bounds.replicas_per_group;
    let pinned = |group: &Group| match group {
        Group::Shard(shard) => pins.get(shard).filter(|pin| pin.len() == needed),
        Group::Meta | Group::Routes => None,
    };
    let may_have = groups.iter().zip(&walks).map(|((group, _), walk)| {
        let is_there = |pin: &&BTreeSet<NodeId>| pin.iter().all(|node| walk.contains(node));
        match pinned(group).filter(is_there) {
            Some(pin) => {
                let nodes = walk.iter().filter(|node| pin.contains(node));
                nodes.copied().collect()
            }
            None => walk.clone(),
        }
    });
    let may_have: Vec<Vec<NodeId>> = may_have.collect();
    let held = least_bound(bounds.replicas, |limit| {
        Bounded::new(may_have.clone(), held.clone(), needed, limit)
            .settle(|at, node| today(at).leader() == Some(node))
    });
    let leaders = leaders(&walks, &held, groups, bounds);
    let placed = groups.iter().zip(walks).zip(held.iter().zip(leaders));
    placed
        .map(|(((group, _), walk), (held, leader))| {
            let others = walk.into_iter().filter(|node| held.contains(node));
            let others: Vec<NodeId> = others.filter(|node| *node != leader).collect();
            (**group, with_roles(leader, others))
        })
        .collect()
}

/// The preferred leader of each group: today's if it may be, else the first of the walk that
/// may, those with the group's log before others.
fn leaders(
    walks: &[Vec<NodeId>],
    held: &[BTreeSet<NodeId>],
    groups: &[(&Group, &Placement)],
    bounds: Bounds,
) -> Vec<NodeId> {
    let today = |at: usize| groups[at].1;
    let eligible = walks
        .iter()
        .zip(held)
        .enumerate()
        .map(|(at, (walk, held))| {
            let nodes = walk.iter().copied().filter(|node| held.contains(node));
            let (mut voters, others): (Vec<_>, Vec<_>) =
                nodes.partition(|node| today(at).voters.contains(node));
            voters.extend(others);
            voters
        });
    let eligible: Vec<Vec<NodeId>> = eligible.collect();
    let led = (0..groups.len()).map(|at| today(at).leader().into_iter().collect());
    let led: Vec<BTreeSet<NodeId>> = led.collect();
    let led = least_bound(bounds.leaders, |limit| {
        Bounded::new(eligible.clone(), led.clone(), 1, limit).settle(|_, _| false)
    });
    let led = led.into_iter();
    led.map(|mut one| one.pop_first().expect("each group has a leader"))
        .collect()
}

/// What comes of the lowest bound from this one on that leaves room for something. Without pins that is
/// the first.
fn least_bound<T>(bound: usize, mut settled: impl FnMut(usize) -> Option<T>) -> T {
    let mut bounds = bound..=usize::MAX;
    let found = bounds.find_map(&mut settled);
    found.expect("a bound of as many as there are leaves room")
}

fn with_roles(leader: NodeId, others: Vec<NodeId>) -> Placement {
    let mut placement = Placement {
        voters: vec![leader],
        learners: Vec::new(),
    };
    // Two voters would both be needed: one of two decides alone.
    if others.len() + 1 < VOTERS {
        placement.learners = others;
    } else {
        placement.voters.extend(others);
    }
    placement
}
