//! Which replicas are to run on this node.

use std::collections::{BTreeMap, BTreeSet};

use cluster_core::{Group, Leftover, Meta, NodeId, RaftId, Recovered};

use super::message::{Prepare, Prepared};

/// What is to be done about a replica of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    /// Start it. A new one may lie on no disk yet.
    Start {
        group: Group,
        replica: RaftId,
        is_new: bool,
    },
    /// Have what lies on disk go on as this one, which may have been done.
    Recover { group: Group, recovered: Recovered },
    /// Stop it and delete what it has on disk, then say so.
    Remove(Leftover),
    /// Tell meta that it is gone.
    Gone(Leftover),
}

/// What was ordered so far. Holds a row for each group at most.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosted {
    /// Announced by the leaders of groups, which may know more than this node's meta.
    announced: BTreeMap<Group, (RaftId, u64)>,
    started: BTreeMap<Group, RaftId>,
    /// Whose removal was ordered.
    removed: BTreeSet<Leftover>,
    /// That the node has deleted.
    deleted: BTreeSet<Leftover>,
    /// That meta was told of, or is being told.
    telling: BTreeSet<Leftover>,
}

impl Hosted {
    /// A group's leader is about to make a replica of this node a learner. `running` is the
    /// replica of that group that runs here.
    pub(super) fn handle_prepare(
        &mut self,
        prepare: Prepare,
        me: NodeId,
        meta: Option<&Meta>,
        running: Option<RaftId>,
    ) -> Prepared {
        let Prepare {
            group,
            replica,
            version,
        } = prepare;
        if let Some(meta) = meta.filter(|meta| meta.index() >= version)
            && !wanted(meta, me).contains(&(group, replica))
        {
            return Prepared::Unwanted;
        }
        if running == Some(replica) {
            return Prepared::Ready;
        }
        let known = self.announced.get(&group);
        if known.is_none_or(|(_, known)| *known < version) {
            self.announced.insert(group, (replica, version));
        }
        Prepared::NotYet
    }

    /// The node has deleted a replica.
    pub(super) fn handle_deleted(&mut self, leftover: Leftover) {
        self.deleted.insert(leftover);
    }

    /// Meta was told, or could not be and is told again. That this node's meta shows it is not waited
    /// for: its replica may be the one that is gone.
    pub(super) fn handle_gone(&mut self, leftover: Leftover, is_told: bool) {
        if !is_told {
            self.telling.remove(&leftover);
        }
    }

    /// What is to be done that was not ordered yet, given what runs. `is_recent` says whether this
    /// node's meta shows the present run of the node: an older one may want what has been deleted
    /// since, and not know what runs.
    pub(super) fn poll_orders(
        &mut self,
        me: NodeId,
        meta: Option<&Meta>,
        is_recent: bool,
        running: &BTreeMap<Group, RaftId>,
    ) -> Vec<Order> {
        let index = meta.map_or(0, Meta::index);
        self.announced.retain(|_, (_, version)| *version > index);
        let meta = meta.filter(|_| is_recent);
        let leftovers: BTreeSet<Leftover> = meta
            .map(|meta| meta.leftovers(me).collect())
            .unwrap_or_default();
        let mut orders = Vec::new();
        let placed = meta.map(|meta| wanted(meta, me)).unwrap_or_default();
        let recovered = recovered(meta, me, &placed);
        let mut strays = self.strays(me, meta.is_some(), &placed, running);
        // What survived is no stray: another is made of it.
        strays.retain(|stray| {
            let survivor = recovered.get(&stray.group).map(|recovered| recovered.from);
            survivor != Some(stray.replica)
        });
        self.removed
            .retain(|order| leftovers.contains(order) || strays.contains(order));
        for stray in strays.difference(&leftovers) {
            if self.removed.insert(*stray) {
                orders.push(Order::Remove(*stray));
            }
        }
        self.deleted.retain(|leftover| leftovers.contains(leftover));
        self.telling.retain(|leftover| leftovers.contains(leftover));
        for leftover in &leftovers {
            // A later replica of the group may have taken its place on disk.
            let is_other = running
                .get(&leftover.group)
                .is_some_and(|replica| *replica != leftover.replica);
            if is_other || self.deleted.contains(leftover) {
                if self.telling.insert(*leftover) {
                    orders.push(Order::Gone(*leftover));
                }
            } else if self.removed.insert(*leftover) {
                orders.push(Order::Remove(*leftover));
            }
        }
        let announced = self.announced.iter().map(|(group, (id, _))| (*group, *id));
        self.started.retain(|group, id| {
            let is_made = recovered.get(group).is_some_and(|of| of.replica == *id);
            is_made || running.get(group).is_none_or(|running| running == id)
        });
        for (group, replica) in placed.into_iter().chain(announced) {
            let recovered = recovered.get(&group).filter(|of| of.replica == replica);
            let survivor = recovered.map(|recovered| recovered.from);
            // Both would lie in the same place.
            let is_taken = running
                .get(&group)
                .is_some_and(|there| Some(*there) != survivor)
                || leftovers.iter().any(|leftover| leftover.group == group);
            if is_taken || self.started.get(&group) == Some(&replica) {
                continue;
            }
            self.started.insert(group, replica);
            if let Some(recovered) = recovered.copied() {
                orders.push(Order::Recover { group, recovered });
                continue;
            }
            let is_placed = meta.is_some_and(|meta| meta.replica(group, me) == Some(replica));
            orders.push(Order::Start {
                group,
                replica,
                is_new: !is_placed,
            });
        }
        orders
    }

    /// What runs though meta wants it nowhere: an older meta did, before it came up to the present.
    fn strays(
        &self,
        node: NodeId,
        is_recent: bool,
        placed: &BTreeSet<(Group, RaftId)>,
        running: &BTreeMap<Group, RaftId>,
    ) -> BTreeSet<Leftover> {
        let is_stray = |(group, replica): (&Group, &RaftId)| {
            let announced = self.announced.get(group).map(|(announced, _)| announced);
            is_recent && !placed.contains(&(*group, *replica)) && announced != Some(replica)
        };
        let strays = running.iter().filter(|row| is_stray(*row));
        strays
            .map(|(&group, &replica)| Leftover {
                node,
                group,
                replica,
            })
            .collect()
    }
}

/// Of the wanted replicas those that a recovery has made, or is to make.
fn recovered(
    meta: Option<&Meta>,
    me: NodeId,
    wanted: &BTreeSet<(Group, RaftId)>,
) -> BTreeMap<Group, Recovered> {
    let Some(meta) = meta else {
        return BTreeMap::new();
    };
    let made = wanted.iter().filter_map(|(group, replica)| {
        let recovered = meta.recovery_of(*group, me)?;
        (recovered.replica == *replica).then_some((*group, recovered))
    });
    made.collect()
}

/// The replicas of a node that are members, or are to be: of a group that is being moved the one of
/// the move, which is another one only where the present one is lost.
fn wanted(meta: &Meta, me: NodeId) -> BTreeSet<(Group, RaftId)> {
    let layout = meta.layout();
    let moving = layout.moves.iter().filter(|(_, row)| !row.is_aborted);
    let moving = moving.filter_map(|(group, row)| Some((*group, *row.replicas.get(&me)?)));
    let placed = layout.replicas.iter();
    let placed = placed.filter_map(|(group, nodes)| Some((*group, *nodes.get(&me)?)));
    let mut wanted: BTreeMap<Group, RaftId> = placed.collect();
    wanted.extend(moving);
    wanted.into_iter().collect()
}
