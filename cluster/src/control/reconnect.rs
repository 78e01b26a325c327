//! When to open a session with which node.

use std::collections::BTreeMap;

use cluster_core::NodeId;
use runtime::Random;

use crate::link::{Backoff, BackoffLimits};

/// Bounds of the pause between two attempts.
const PAUSES: BackoffLimits = BackoffLimits {
    first_ms: 200,
    longest_ms: 5_000,
};
/// How long a session may take to become ready, in milliseconds; then it is opened again.
const READY_WAIT_MS: u64 = 5_000;

/// Sessions with the peers. Of two nodes the lower number opens, so that there is one and not two.
#[derive(Debug)]
pub(super) struct Reconnect {
    own: NodeId,
    random: Random,
    peers: BTreeMap<NodeId, Peer>,
}

#[derive(Debug)]
struct Peer {
    backoff: Backoff,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be opened from then on.
    Away { retry_ms: u64 },
    /// Being opened; not ready by then, it counts as lost.
    Opening { until_ms: u64 },
    /// Ready since then.
    Up { since_ms: u64 },
}

impl Reconnect {
    pub(super) fn new(own: NodeId, random: Random) -> Self {
        Self {
            own,
            random,
            peers: BTreeMap::new(),
        }
    }

    /// These are the peers now.
    pub(super) fn handle_peers(&mut self, now_ms: u64, peers: impl IntoIterator<Item = NodeId>) {
        let own = self.own;
        let wanted: Vec<_> = peers.into_iter().filter(|peer| *peer > own).collect();
        self.peers.retain(|peer, _| wanted.contains(peer));
        for peer in wanted {
            self.peers.entry(peer).or_insert_with(|| Peer {
                backoff: Backoff::new(PAUSES),
                state: State::Away { retry_ms: now_ms },
            });
        }
    }

    /// A peer to open a session with now, if there is one; it counts as being opened.
    pub(super) fn poll_dial(&mut self, now_ms: u64) -> Option<NodeId> {
        for (node, peer) in &mut self.peers {
            match peer.state {
                State::Opening { until_ms } if until_ms <= now_ms => {
                    peer.pause(now_ms, &mut self.random);
                }
                State::Away { retry_ms } if retry_ms <= now_ms => {
                    let until_ms = now_ms + READY_WAIT_MS;
                    peer.state = State::Opening { until_ms };
                    return Some(*node);
                }
                State::Away { .. } | State::Opening { .. } | State::Up { .. } => {}
            }
        }
        None
    }

    pub(super) fn handle_ready(&mut self, now_ms: u64, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.state = State::Up { since_ms: now_ms };
        }
    }

    /// The session, or the attempt at one, has ended.
    pub(super) fn handle_ended(&mut self, now_ms: u64, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        if let State::Up { since_ms } = peer.state {
            peer.backoff.handle_ended(now_ms.saturating_sub(since_ms));
        }
        peer.pause(now_ms, &mut self.random);
    }
}

impl Peer {
    fn pause(&mut self, now_ms: u64, random: &mut Random) {
        let retry_ms = now_ms + self.backoff.next_ms(random);
        self.state = State::Away { retry_ms };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(own: u32, peers: &[u32]) -> Reconnect {
        let mut reconnect = Reconnect::new(NodeId(own), Random::seeded(1));
        reconnect.handle_peers(0, peers.iter().copied().map(NodeId));
        reconnect
    }

    #[test]
    fn the_lower_number_opens() {
        let mut reconnect = of(2, &[1, 3]);
        assert_eq!(reconnect.poll_dial(0), Some(NodeId(3)));
        assert_eq!(reconnect.poll_dial(0), None);
    }

    #[test]
    fn what_ends_is_opened_again_after_a_pause_that_grows() {
        let mut reconnect = of(1, &[2]);
        let mut now_ms = 0;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert_eq!(reconnect.poll_dial(now_ms), Some(NodeId(2)));
            reconnect.handle_ended(now_ms, NodeId(2));
            assert_eq!(reconnect.poll_dial(now_ms), None, "there is a pause");
            let retry = (now_ms..).find(|now_ms| match reconnect.peers[&NodeId(2)].state {
                State::Away { retry_ms } => retry_ms <= *now_ms,
                State::Opening { .. } | State::Up { .. } => panic!("it is away"),
            });
            pauses.push(retry.unwrap() - now_ms);
            now_ms = retry.unwrap();
        }
        assert!(pauses[0] <= PAUSES.first_ms && pauses.iter().all(|it| *it <= PAUSES.longest_ms));
        assert!(pauses.iter().any(|pause| *pause > 1_000), "{pauses:?}");
    }

    #[test]
    fn a_session_that_does_not_become_ready_is_opened_again() {
        let mut reconnect = of(1, &[2]);
        assert_eq!(reconnect.poll_dial(0), Some(NodeId(2)));
        assert_eq!(reconnect.poll_dial(READY_WAIT_MS - 1), None);
        assert_eq!(reconnect.poll_dial(READY_WAIT_MS), None, "it is paused");
        let later = READY_WAIT_MS + PAUSES.first_ms;
        assert_eq!(reconnect.poll_dial(later), Some(NodeId(2)));
        reconnect.handle_ready(later, NodeId(2));
        assert_eq!(reconnect.poll_dial(later + 10 * READY_WAIT_MS), None);
    }

    #[test]
    fn a_peer_that_leaves_is_forgotten() {
        let mut reconnect = of(1, &[2, 3]);
        reconnect.handle_peers(1, [NodeId(3)]);
        assert_eq!(reconnect.poll_dial(1), Some(NodeId(3)));
        assert_eq!(reconnect.poll_dial(1), None);
    }
}
