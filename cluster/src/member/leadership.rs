//! Who leads what, and for which groups this node stands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cluster_core::{BootMs, Group as GroupName, NodeId, RaftId, SHARDS_MAX, ShardId};

use super::claims::Leaders;
use super::driver::{Done, Runtime};
use super::elections::Voters;
use super::groups::group_of;
use super::message::Claim;
use crate::raft::GroupControl;

impl Runtime {
    /// The groups whose replica runs here.
    pub(super) fn running(&self) -> Vec<(GroupName, Arc<dyn GroupControl>)> {
        let shards = self.meta.as_ref().map_or(SHARDS_MAX, |meta| meta.shards());
        let shards = (0..shards).map(|shard| GroupName::Shard(ShardId(shard)));
        let groups = [GroupName::Meta, GroupName::Routes]
            .into_iter()
            .chain(shards);
        groups
            .filter_map(|group| Some((group, self.inner.control(group)?)))
            .collect()
    }

    pub(super) fn know_leaders(&mut self, now: BootMs) {
        let me = self.inner.me;
        let own = self.own_claims();
        self.has_news |= terms(&own) != terms(&self.own);
        self.own = own;
        self.claims.handle_claims(me, self.own.clone(), now);
        let suspicion = &self.suspicion;
        let leaders = self
            .claims
            .leaders(|node| suspicion.is_suspected(node), now);
        for (group, leading) in &leaders {
            self.led.insert(*group, leading.node);
            if let GroupName::Shard(shard) = group {
                self.heard.insert(*shard, leading.heard);
            }
        }
        let known = self.inner.leaders.load();
        if !led_alike(&known, &leaders) {
            self.shown = None;
        }
        let meta_leader = |leaders: &Leaders| {
            let leading = leaders.get(&GroupName::Meta)?;
            Some((leading.node, leading.term))
        };
        let is_new =
            meta_leader(&leaders).is_some() && meta_leader(&known) != meta_leader(&leaders);
        if is_new {
            self.tenure.handle_meta_leader(now);
        }
        if **known != leaders {
            self.inner.leaders.store(Arc::new(leaders));
        }
    }

    /// What is led here, as far as this node hears enough voters to commit anything.
    fn own_claims(&self) -> BTreeMap<GroupName, Claim> {
        let mut own = BTreeMap::new();
        for claim in self.inner.raft.claims() {
            let control = self.inner.raft.control(claim.group);
            let (Some(group), Some(control)) = (group_of(claim.group), control) else {
                continue;
            };
            let (membership, nodes) = (control.membership(), control.nodes());
            let hears = |id: &&RaftId| nodes.get(id).is_some_and(|node| self.hears(*node));
            let is_quorum =
                |voters: &BTreeSet<RaftId>| 2 * voters.iter().filter(hears).count() > voters.len();
            if is_quorum(&membership.voters) && membership.joint.as_ref().is_none_or(is_quorum) {
                let claim = Claim {
                    term: claim.term,
                    applied: claim.applied,
                    reached: claim.reached,
                };
                own.insert(group, claim);
            }
        }
        own
    }

    pub(super) fn elect(&mut self, now: BootMs) {
        let leaders = self.inner.leaders.load();
        let mut voters = BTreeMap::new();
        let mut controls = BTreeMap::new();
        for (group, control) in self.running() {
            let membership = control.membership();
            // Who stops leaves it to the others, as long as there are any.
            let is_left = self.handover.is_begun()
                && self
                    .successors(group)
                    .is_some_and(|others| !others.is_empty());
            if membership.is_voter(control.replica()) && !is_left {
                let group_voters = Voters {
                    nodes: self.voters_in_order(group, &*control),
                    yields_until: control.yields_until(),
                };
                voters.insert(group, group_voters);
                controls.insert(group, control);
            }
        }
        let (up, stopping) = (&self.up, &self.stopping);
        let stands = self.elections.handle_timeout(
            self.inner.me,
            &voters,
            &leaders,
            |node| up.contains_key(&node) && !stopping.contains(&node),
            &mut self.random,
            now,
        );
        for group in stands {
            self.inner.counters.elections_total.add(1);
            tracing::debug!(?group, "stands for election");
            let control = Arc::clone(&controls[&group]);
            self.tasks.spawn(async move {
                control.elect().await;
                Done::Nothing
            });
        }
    }

    /// The nodes that vote in a group, in placement order.
    pub(super) fn voters_in_order(
        &self,
        group: GroupName,
        control: &dyn GroupControl,
    ) -> Vec<NodeId> {
        let membership = control.membership();
        let nodes = control.nodes().into_iter();
        let nodes = nodes.filter(|(id, _)| membership.is_voter(*id));
        let mut nodes: Vec<NodeId> = nodes.map(|(_, node)| node).collect();
        let row = self.meta.as_ref().and_then(|meta| meta.placement(group));
        let placed = row.map_or(&[][..], |row| &row.placement.voters);
        nodes.sort_by_key(|node| {
            let place = placed.iter().position(|placed| placed == node);
            (place.unwrap_or(usize::MAX), *node)
        });
        nodes
    }

    /// Whatever a node led has no leader now, unless somebody claims it.
    pub(super) fn handle_leader_gone(&mut self, node: NodeId, now: BootMs) {
        for (group, control) in self.running() {
            let known = control.leader().map(|leader| leader.node);
            if known == Some(node) || self.led.get(&group) == Some(&node) {
                self.elections.handle_gone(group, now);
            }
        }
    }
}

/// What is claimed, apart from how far it is applied.
fn terms(claims: &BTreeMap<GroupName, Claim>) -> BTreeMap<GroupName, u64> {
    let terms = claims.iter().map(|(group, claim)| (*group, claim.term));
    terms.collect()
}

/// Whether the same nodes lead, in the same terms.
fn led_alike(one: &Leaders, other: &Leaders) -> bool {
    let who = |leaders: &Leaders| {
        let who = leaders.iter();
        let who = who.map(|(group, leading)| (*group, leading.node, leading.term));
        who.collect::<Vec<_>>()
    };
    who(one) == who(other)
}
