//! Who lost a session of late to a newer connection.

use std::collections::VecDeque;

use super::DurableEffect;
use crate::WallMs;

/// Takeovers that a replica knows of, beside those that are still to be told. Further ones go by the
/// oldest.
const KNOWN_MAX: usize = 1_024;
/// How long after a takeover a new leader tells of it again. An election, and another one after it, is
/// over by then; whoever lives on after it is refused by its epoch.
const TOLD_AGAIN_MS: u64 = 30_000;

/// Holds the last takeovers, in their order. Every replica has them, so that whoever leads next tells
/// what the leader before may not have told.
#[derive(Debug, Default)]
pub(super) struct Takeovers {
    known: VecDeque<(WallMs, DurableEffect)>,
    /// How many of them, the last ones, are still to be told.
    untold: usize,
}

impl Takeovers {
    /// A connection lost its session, at this shard time.
    pub(super) fn add(&mut self, at: WallMs, takeover: DurableEffect, leads: bool) {
        self.known.push_back((at, takeover));
        if leads {
            self.untold += 1;
        }
        if self.known.len() > KNOWN_MAX && self.untold < self.known.len() {
            self.known.pop_front();
        }
    }

    /// This replica leads: whoever lost a session a short time before `now` is told, perhaps again.
    pub(super) fn lead(&mut self, now: WallMs) {
        let is_recent =
            |(at, _): &&(WallMs, DurableEffect)| now.0.saturating_sub(at.0) <= TOLD_AGAIN_MS;
        self.untold = self.known.iter().rev().take_while(is_recent).count();
    }

    /// Another replica leads, or none.
    pub(super) fn follow(&mut self) {
        self.untold = 0;
    }

    /// The next one to be told.
    pub(super) fn next(&mut self) -> Option<DurableEffect> {
        let at = self.known.len().checked_sub(self.untold)?;
        let (_, takeover) = self.known.get(at)?;
        self.untold -= 1;
        Some(takeover.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConnectionId, Epoch, NodeEpoch};

    fn takeover(n: u64) -> DurableEffect {
        DurableEffect::TakenOver {
            client: "c".try_into().expect("an id"),
            node_epoch: NodeEpoch(1),
            connection: ConnectionId(n),
            epoch: Epoch(n),
        }
    }

    fn told(takeovers: &mut Takeovers) -> Vec<DurableEffect> {
        std::iter::from_fn(|| takeovers.next()).collect()
    }

    #[test]
    fn a_leader_tells_each_once_and_its_follower_all_recent_ones_once_it_leads() {
        let (mut leader, mut follower) = (Takeovers::default(), Takeovers::default());
        for n in 0..3 {
            let at = WallMs(n * TOLD_AGAIN_MS);
            leader.add(at, takeover(n), true);
            follower.add(at, takeover(n), false);
            assert_eq!(told(&mut leader), [takeover(n)]);
            assert_eq!(told(&mut follower), []);
        }

        follower.lead(WallMs(2 * TOLD_AGAIN_MS));

        assert_eq!(told(&mut follower), [takeover(1), takeover(2)]);
        follower.lead(WallMs(2 * TOLD_AGAIN_MS));
        follower.follow();
        assert_eq!(told(&mut follower), []);
    }

    #[test]
    fn what_is_not_told_yet_is_kept_whatever_the_limit() {
        let mut takeovers = Takeovers::default();
        let count = KNOWN_MAX as u64 + 10;
        for n in 0..count {
            takeovers.add(WallMs(0), takeover(n), true);
        }
        let all: Vec<_> = (0..count).map(takeover).collect();
        assert_eq!(told(&mut takeovers), all);

        takeovers.add(WallMs(0), takeover(count), true);
        takeovers.lead(WallMs(0));
        assert_eq!(told(&mut takeovers).len(), KNOWN_MAX + 10);
    }
}
