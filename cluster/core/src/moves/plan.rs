//! Which moves are to begin, at meta's leader.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Group, MOVES_PER_NODE_MAX, Meta, MetaCommand, NodeId, NodeState, Placement, StartMove, VOTERS,
    wanted, wanted_pinned,
};

/// What meta's leader proposes to bring the groups closer to where they should be: moves as far
/// as the bounds allow, groups of fewest voters first, and another order of voters where only the
/// preferred leader is another.
///
/// To be asked again whenever a member comes, goes, begins or ends an epoch, and whenever a move
/// ends. It keeps nothing: a proposal that is lost, or overtaken, is made again or refused.
/// Nothing is moved to a node without an epoch, and no shard to one that has no replica of meta and of
/// the routes yet: it would know neither its peers nor what to answer, and a move that hangs there
/// would keep those from it. At most one proposal for each group.
pub fn plan(meta: &Meta) -> Vec<MetaCommand> {
    let layout = meta.layout();
    let nodes = meta.node_states();
    let today: BTreeMap<Group, Placement> = meta
        .placements()
        .map(|(group, row)| {
            let moving = layout.moves.get(&group).filter(|row| !row.is_aborted);
            let placement = moving.map_or(&row.placement, |moving| &moving.to);
            (group, placement.clone())
        })
        .collect();
    let wanted = wanted_pinned(&nodes, &today, meta.pins());
    let by_those_that_run = wanted_of_serving(&nodes, &today);
    let mut rows: Vec<_> = meta.placements().collect();
    rows.sort_by_key(|(group, row)| (row.placement.voters.len(), *group));
    let mut busy = layout.busy();
    let nodes_of = |group| {
        let row = meta.placement(group);
        row.map_or_else(BTreeSet::new, |row| row.placement.nodes().collect())
    };
    let informed: BTreeSet<NodeId> = &nodes_of(Group::Meta) & &nodes_of(Group::Routes);
    let mut commands = Vec::new();
    for (group, row) in rows {
        let is_shard = matches!(group, Group::Shard(_));
        let is_there = |node: &NodeId| {
            let is_lost = row.placement.nodes().any(|n| n == *node);
            let is_fit = !is_shard || informed.contains(node);
            is_lost || nodes.get(node) == Some(&NodeState::Serving) && is_fit
        };
        // A shard that lacks replicas waits for no node that is away, when others could have them.
        let waits = !touched(&row.placement, &wanted[&group])
            .iter()
            .all(is_there);
        let lacks = row.placement.voters.len() < VOTERS && is_shard;
        let told;
        let to = match by_those_that_run.get(&group) {
            Some(others) if waits && lacks => others,
            // Nor does a node that runs wait for the others until it learns who they are.
            _ if waits && !is_shard => {
                told = with_learners(&row.placement, &nodes);
                &told
            }
            _ => &wanted[&group],
        };
        if layout.moves.contains_key(&group) || row.placement == *to {
            continue;
        }
        let expected = row.version;
        if row.placement.has_roles_of(to) {
            // Meta and routes are led by whoever leads them.
            if let Group::Shard(shard) = group {
                commands.push(MetaCommand::Place {
                    shard,
                    expected,
                    placement: to.clone(),
                });
            }
            continue;
        }
        let touched = touched(&row.placement, to);
        let has_room = |node: &NodeId| {
            busy.get(node)
                .is_none_or(|moves| *moves < MOVES_PER_NODE_MAX)
        };
        if touched.iter().all(|node| has_room(node) && is_there(node)) {
            for node in touched {
                *busy.entry(node).or_default() += 1;
            }
            commands.push(MetaCommand::StartMove(StartMove {
                group,
                expected,
                to: to.clone(),
                renewed: None,
            }));
        }
    }
    commands
}

/// What a group has, and learners at all other nodes that run.
fn with_learners(placement: &Placement, nodes: &BTreeMap<NodeId, NodeState>) -> Placement {
    let mut all = placement.clone();
    let serving = nodes
        .iter()
        .filter(|(_, state)| **state == NodeState::Serving);
    let missing = serving.filter(|(node, _)| placement.nodes().all(|known| known != **node));
    all.learners.extend(missing.map(|(node, _)| *node));
    all
}

/// Where the groups should be, if whoever is away were no member; nowhere if that are all.
fn wanted_of_serving(
    nodes: &BTreeMap<NodeId, NodeState>,
    today: &BTreeMap<Group, Placement>,
) -> BTreeMap<Group, Placement> {
    let serving = nodes
        .iter()
        .filter(|(_, state)| **state == NodeState::Serving);
    let serving: BTreeMap<NodeId, NodeState> = serving.map(|(n, state)| (*n, *state)).collect();
    match serving.is_empty() {
        true => BTreeMap::new(),
        false => wanted(&serving, today),
    }
}

/// Nodes that gain or lose a replica.
fn touched(from: &Placement, to: &Placement) -> BTreeSet<NodeId> {
    let nodes = |placement: &Placement| placement.nodes().collect::<BTreeSet<_>>();
    &nodes(from) ^ &nodes(to)
}
