//! Which nodes are suspected: silent here, and heard by no quorum.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{BootMs, NodeId, StartCount};

/// How long a peer is silent before the others are asked, in milliseconds; up to
/// [`SILENT_JITTER_MS`] is added.
pub const SILENT_MS: u64 = 1_200;
/// What is added at most to [`SILENT_MS`], so that nodes do not ask all at once, in milliseconds.
pub const SILENT_JITTER_MS: u64 = 300;
/// How long what a peer said of the others counts, in milliseconds.
const REPORT_MS: u64 = SILENT_MS + SILENT_JITTER_MS;
/// Connections refused in a row after which a peer counts as silent.
const REFUSED_MAX: u32 = 2;

/// What one node hears of its peers, and what they say of one another.
///
/// *Suspected* is not *dead*: a suspicion starts elections and is harmless when it is wrong. It ends
/// no epoch, removes nothing and lets no SUBACK go; that does meta's log alone
/// ([`crate::Grants::poll_end`]). Holds a row for each member.
#[derive(Clone, Debug)]
pub struct Suspicion {
    me: NodeId,
    silent_ms: u64,
    peers: BTreeMap<NodeId, Peer>,
    suspected: BTreeSet<NodeId>,
    effects: VecDeque<SuspicionEffect>,
}

#[derive(Clone, Debug)]
struct Peer {
    /// When it was last heard, or became a peer.
    heard: BootMs,
    start: Option<StartCount>,
    refused: u32,
    /// Whom it hears, as it said last.
    report: Option<(BootMs, BTreeSet<NodeId>)>,
    /// Whether the others were asked since it fell silent.
    was_asked: bool,
}

/// Work for the node's driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuspicionEffect {
    /// A peer is silent: ask the others whom they hear, at once.
    Ask(NodeId),
    /// No quorum hears it: elections begin in the groups that it may lead.
    Suspected(NodeId),
    /// It is heard again: leaders send it what it misses.
    Cleared(NodeId),
    /// It is another run of it: whatever it led before, it leads no longer.
    Restarted(NodeId),
}

impl Suspicion {
    /// The suspicions of node `me`; `jitter_ms` is random, at most [`SILENT_JITTER_MS`].
    pub fn new(me: NodeId, jitter_ms: u64) -> Self {
        Self {
            me,
            silent_ms: SILENT_MS + jitter_ms.min(SILENT_JITTER_MS),
            peers: BTreeMap::new(),
            suspected: BTreeSet::new(),
            effects: VecDeque::new(),
        }
    }

    /// The members of the cluster are these. A new one counts as heard now.
    pub fn handle_members(&mut self, members: &BTreeSet<NodeId>, now: BootMs) {
        self.peers.retain(|node, _| members.contains(node));
        self.suspected.retain(|node| members.contains(node));
        for node in members.iter().filter(|node| **node != self.me) {
            self.peers.entry(*node).or_insert(Peer {
                heard: now,
                start: None,
                refused: 0,
                report: None,
                was_asked: false,
            });
        }
    }

    /// A peer's ping came: which run of it this is, and whom it hears. Its epoch would not do: a
    /// node that led meta begins none before meta has another leader.
    pub fn handle_ping(
        &mut self,
        from: NodeId,
        start: StartCount,
        hears: BTreeSet<NodeId>,
        now: BootMs,
    ) {
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        let is_other = peer
            .start
            .replace(start)
            .is_some_and(|known| known != start);
        peer.heard = now;
        peer.refused = 0;
        peer.was_asked = false;
        peer.report = Some((now, hears));
        if is_other {
            self.effects.push_back(SuspicionEffect::Restarted(from));
        }
        if self.suspected.remove(&from) {
            self.effects.push_back(SuspicionEffect::Cleared(from));
        }
    }

    /// A connection to a peer was refused: its process is not there.
    pub fn handle_refused(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.refused = peer.refused.saturating_add(1);
        }
    }

    /// Finds who has fallen silent, and whom no quorum hears. To be called after each ping and
    /// every 100 ms.
    pub fn handle_timeout(&mut self, now: BootMs) {
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        for node in nodes {
            if self.suspected.contains(&node) || self.hears(node, now) {
                continue;
            }
            let peer = self.peers.get_mut(&node).expect("listed just before");
            if !std::mem::replace(&mut peer.was_asked, true) {
                self.effects.push_back(SuspicionEffect::Ask(node));
            }
            if 2 * self.deaf_to(node, now) > self.peers.len() + 1 {
                self.suspected.insert(node);
                self.effects.push_back(SuspicionEffect::Suspected(node));
            }
        }
    }

    /// Whom this node hears: what its own pings say.
    pub fn heard(&self, now: BootMs) -> BTreeSet<NodeId> {
        let peers = self.peers.keys().copied();
        peers.filter(|node| self.hears(*node, now)).collect()
    }

    /// Whether no quorum hears a node.
    pub fn is_suspected(&self, node: NodeId) -> bool {
        self.suspected.contains(&node)
    }

    /// The next thing to do. To be drained after each event.
    pub fn poll_effect(&mut self) -> Option<SuspicionEffect> {
        self.effects.pop_front()
    }

    fn hears(&self, node: NodeId, now: BootMs) -> bool {
        self.peers.get(&node).is_some_and(|peer| {
            peer.refused < REFUSED_MAX && now.since_ms(peer.heard) < self.silent_ms
        })
    }

    /// How many nodes do not hear it: this one, and peers that said so just now.
    fn deaf_to(&self, node: NodeId, now: BootMs) -> usize {
        let others = self.peers.iter().filter(|(peer, _)| **peer != node);
        let deaf = others.filter(|(_, peer)| {
            let report = peer.report.as_ref();
            report
                .is_some_and(|(at, hears)| now.since_ms(*at) < REPORT_MS && !hears.contains(&node))
        });
        1 + deaf.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: BootMs = BootMs(10_000);
    const ME: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    fn of(nodes: &[u32]) -> Suspicion {
        let mut suspicion = Suspicion::new(ME, 0);
        suspicion.handle_members(&set(nodes), T0);
        suspicion
    }

    fn set(nodes: &[u32]) -> BTreeSet<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    fn effects(suspicion: &mut Suspicion, now: BootMs) -> Vec<SuspicionEffect> {
        suspicion.handle_timeout(now);
        std::iter::from_fn(|| suspicion.poll_effect()).collect()
    }

    #[test]
    fn a_silent_node_is_suspected_once_a_quorum_does_not_hear_it() {
        let mut all = of(&[1, 2, 3]);
        let at = |ms| T0.plus_ms(ms);
        all.handle_ping(C, StartCount(5), set(&[1, 2]), at(1_000));
        assert_eq!(effects(&mut all, at(1_199)), []);

        // The other still hears it: no election.
        assert_eq!(effects(&mut all, at(1_200)), [SuspicionEffect::Ask(B)]);
        assert_eq!(effects(&mut all, at(1_300)), [], "asked already");
        assert_eq!(all.heard(at(1_300)), set(&[3]));
        all.handle_ping(C, StartCount(5), set(&[1]), at(1_300));
        assert_eq!(
            effects(&mut all, at(1_300)),
            [SuspicionEffect::Suspected(B)]
        );
        assert!(all.is_suspected(B) && !all.is_suspected(C));

        all.handle_ping(B, StartCount(4), set(&[1, 3]), at(2_000));
        assert_eq!(effects(&mut all, at(2_000)), [SuspicionEffect::Cleared(B)]);
    }

    #[test]
    fn a_node_that_is_cut_off_suspects_nobody() {
        let mut all = of(&[1, 2, 3, 4, 5]);
        all.handle_ping(B, StartCount(4), set(&[1]), T0);
        all.handle_ping(C, StartCount(5), set(&[1]), T0);
        let later = T0.plus_ms(60_000);

        let asks: Vec<_> = (2..=5).map(|n| SuspicionEffect::Ask(NodeId(n))).collect();
        assert_eq!(effects(&mut all, later), asks);
        assert_eq!(
            effects(&mut all, later.plus_ms(60_000)),
            [],
            "what was said is old"
        );
    }

    #[test]
    fn of_two_nodes_the_other_is_suspected_by_no_majority() {
        let mut both = of(&[1, 2]);
        assert_eq!(
            effects(&mut both, T0.plus_ms(5_000)),
            [SuspicionEffect::Ask(B)]
        );
    }

    #[test]
    fn a_node_whose_process_is_not_there_is_silent_at_once() {
        let mut all = of(&[1, 2, 3]);
        all.handle_ping(C, StartCount(5), set(&[1]), T0);
        all.handle_refused(B);
        assert_eq!(effects(&mut all, T0), []);

        all.handle_refused(B);

        let expected = [SuspicionEffect::Ask(B), SuspicionEffect::Suspected(B)];
        assert_eq!(effects(&mut all, T0), expected);
    }

    #[test]
    fn a_restart_shows_in_the_ping_though_nobody_suspected_the_node() {
        let mut all = of(&[1, 2]);
        all.handle_ping(B, StartCount(4), set(&[1]), T0);
        all.handle_ping(B, StartCount(4), set(&[1]), T0);
        assert_eq!(effects(&mut all, T0), []);

        all.handle_ping(B, StartCount(9), set(&[1]), T0);

        assert_eq!(effects(&mut all, T0), [SuspicionEffect::Restarted(B)]);
    }

    #[test]
    fn who_is_no_member_is_neither_heard_nor_suspected() {
        let mut all = of(&[1, 2, 3]);
        all.handle_members(&set(&[1, 3]), T0);
        all.handle_ping(B, StartCount(4), set(&[]), T0);
        all.handle_refused(B);

        assert_eq!(all.heard(T0), set(&[3]));
        assert_eq!(effects(&mut all, T0), []);
    }
}
