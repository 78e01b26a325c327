//! Whom a node hears, and what it tells the others.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cluster_core::{BootMs, Meta, NodeEpoch, NodeId, SuspicionEffect};

use super::driver::{Done, Runtime};
use super::event::MemberEvent;
use super::inner::neighbour;
use super::message::{Empty, HEARS, Message, PING, Ping};
use crate::link::{Ask, Channel, Lane};

/// How often a node pings, in milliseconds.
const PING_MS: u64 = 300;
/// How soon after a ping another one may tell that leaderships have changed, in milliseconds: who
/// leads is waited for.
const PING_NEWS_MS: u64 = 50;
/// Bytes of the answer to a ping.
const PING_ANSWER_BYTES_MAX: u32 = 16;
/// How long a peer may take to say whom it hears.
const HEARS_DEADLINE: Duration = Duration::from_millis(500);

impl Runtime {
    pub(super) fn handle_members(&mut self, meta: &Meta, before: Option<&Meta>) {
        let me = self.inner.me;
        if let Some(links) = &self.inner.links {
            let gone = before.iter().flat_map(|before| before.members());
            for (node, _) in gone.filter(|(node, _)| meta.member(*node).is_none() && *node != me) {
                links.remove_peer(node);
                self.members.remove(&node);
            }
            links.set_level(meta.level());
        }
        if meta.member(me).is_none() {
            // A replica that begins does not know of this node yet.
            if before.is_some_and(|before| before.member(me).is_some()) {
                self.say(MemberEvent::Removed);
            }
            return;
        }
        let others = meta.members().filter(|(node, _)| *node != me);
        self.members = others
            .map(|(node, member)| (node, neighbour(member)))
            .collect();
        self.link_with_members();
        let is_same = before.is_some_and(|before| {
            let row = |(node, member): (NodeId, &cluster_core::Member)| (node, neighbour(member));
            before.members().map(row).eq(meta.members().map(row))
                && before.layout().leaving == meta.layout().leaving
        });
        if !is_same {
            self.say(MemberEvent::Members);
        }
    }

    pub(super) fn link_with_members(&mut self) {
        let now = self.inner.now();
        let nodes = self.members.keys().copied().chain([self.inner.me]);
        let nodes: BTreeSet<NodeId> = nodes.collect();
        self.suspicion.handle_members(&nodes, now);
        self.claims.handle_members(|node| nodes.contains(&node));
        self.runs.retain(|node, _| nodes.contains(node));
        self.stopping.retain(|node| nodes.contains(node));
        self.refused.retain(|node, _| nodes.contains(node));
        let Some(links) = &self.inner.links else {
            return;
        };
        for (node, member) in &self.members {
            links.learn(*node, member.folder, member.start);
            if !member.address.is_empty() {
                links.set_peer(*node, &member.address);
            }
        }
    }

    /// Takes a peer's ping.
    pub(super) fn handle_ping(&mut self, from: NodeId, ping: Ping, now: BootMs) {
        if !self.members.contains_key(&from) {
            return;
        }
        self.inner.counters.pings_received_total.add(1);
        self.suspicion
            .handle_ping(from, ping.start, ping.heard, now);
        self.runs.insert(from, (ping.start, ping.epoch));
        if ping.is_stopping {
            self.stopping.insert(from);
        } else {
            self.stopping.remove(&from);
        }
        self.refused.remove(&from);
        self.claims.handle_claims(from, ping.claims, now);
    }

    pub(super) fn watch_peers(&mut self, now: BootMs) {
        let statuses = self.inner.links.as_ref().map(|links| links.statuses());
        for status in statuses.iter().flatten() {
            let (node, refused) = (status.node, status.connects_refused);
            let told = self.refused.entry(node).or_insert(refused);
            for _ in *told..refused.min(told.saturating_add(2)) {
                self.suspicion.handle_refused(node);
            }
            *told = refused;
        }
        self.suspicion.handle_timeout(now);
        while let Some(effect) = self.suspicion.poll_effect() {
            match effect {
                SuspicionEffect::Ask(silent) => self.ask_others(silent),
                SuspicionEffect::Suspected(node) => {
                    self.inner.counters.suspicions_total.add(1);
                    tracing::warn!(%node, "no quorum hears the node");
                    self.say(MemberEvent::Suspected(node));
                    self.handle_leader_gone(node, now);
                }
                SuspicionEffect::Cleared(node) => {
                    tracing::info!(%node, "the node is heard again");
                }
                SuspicionEffect::Restarted(node) => {
                    // It is heard anew from here on, however short the pause was.
                    self.up.remove(&node);
                    self.handle_leader_gone(node, now);
                }
            }
        }
        let heard = self.suspicion.heard(now);
        let heard = |node: &NodeId| heard.contains(node) && self.runs.contains_key(node);
        self.up.retain(|node, _| heard(node));
        let new = self.members.keys().copied();
        let new = new.filter(|node| heard(node) && !self.up.contains_key(node));
        for node in new.collect::<Vec<_>>() {
            self.up.insert(node, now);
            self.inner.raft.handle_up(node);
            self.say(MemberEvent::Up(node));
        }
    }

    /// Asks every other peer whom it hears.
    fn ask_others(&mut self, silent: NodeId) {
        for &node in self.members.keys().filter(|node| **node != silent) {
            let inner = Arc::clone(&self.inner);
            self.tasks.spawn(async move {
                let asked = inner.ask_for::<Ping>(node, HEARS, Empty.encode(), HEARS_DEADLINE);
                match asked.await {
                    Ok(ping) => Done::Heard(node, ping),
                    // It is silent too, which its missing pings show.
                    Err(_) => Done::Nothing,
                }
            });
        }
    }

    /// Whom this node hears, itself too.
    pub(super) fn hears(&self, node: NodeId) -> bool {
        node == self.inner.me || self.up.contains_key(&node)
    }

    /// Whether any node is suspected.
    pub(super) fn suspects_any(&self) -> bool {
        let mut nodes = self.members.keys();
        nodes.any(|node| self.suspicion.is_suspected(*node))
    }

    /// The epochs of the peers that are heard.
    pub(super) fn epochs_heard(&self) -> BTreeSet<NodeEpoch> {
        let heard = self.up.keys();
        let runs = heard.filter_map(|node| self.runs.get(node));
        runs.filter_map(|(_, epoch)| *epoch).collect()
    }

    pub(super) fn ping(&mut self, now: BootMs) {
        let pause_ms = if self.has_news { PING_NEWS_MS } else { PING_MS };
        if self.pinged.is_some_and(|at| now.since_ms(at) < pause_ms) {
            return;
        }
        self.pinged = Some(now);
        self.has_news = false;
        let Some(links) = &self.inner.links else {
            return;
        };
        let payload = self.own_ping(now).encode();
        for node in self.members.keys() {
            let Some(peer) = links.peer(*node) else {
                continue;
            };
            let ask = Ask {
                channel: Channel {
                    kind: PING,
                    group: 0,
                },
                payload: payload.clone(),
                reply_bytes_max: PING_ANSWER_BYTES_MAX,
                deadline: HEARS_DEADLINE,
            };
            // Whether it arrives the peer finds out.
            if peer.send(Lane::Control, ask).is_ok() {
                self.inner.counters.pings_sent_total.add(1);
            }
        }
    }

    /// What this node would ping now.
    pub(super) fn own_ping(&self, now: BootMs) -> Ping {
        Ping {
            epoch: self.tenure.epoch(),
            start: self.inner.start,
            is_stopping: self.handover.is_begun(),
            claims: self.own.clone(),
            heard: self.suspicion.heard(now),
        }
    }

    pub(super) fn is_suspected(&self, node: NodeId) -> bool {
        self.suspicion.is_suspected(node)
    }
}
