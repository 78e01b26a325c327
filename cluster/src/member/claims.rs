//! Who says of himself that he leads which group.

use std::collections::BTreeMap;

use cluster_core::{BootMs, Group, NodeId};

use super::message::Claim;

/// How long a claim counts after the ping that made it, in milliseconds: as long as a silent node
/// may go unnoticed.
const CLAIM_MS: u64 = 1_500;

/// Who leads a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leading {
    /// The node.
    pub node: NodeId,
    /// The term of its leadership.
    pub term: u64,
    /// The index that it had applied when it said so.
    pub applied: u64,
    /// How far its state was when it said so, [`crate::Machine::reached`].
    pub reached: u64,
    /// When it was heard to say so, by this node's clock.
    pub heard: BootMs,
}

/// The leaders of all groups that are led, as this node knows.
pub type Leaders = BTreeMap<Group, Leading>;

/// What each node claims, by its last ping; this node's own claims among them.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    by: BTreeMap<NodeId, (BootMs, BTreeMap<Group, Claim>)>,
}

impl Claims {
    /// A node claims these groups, and no other.
    pub(super) fn handle_claims(
        &mut self,
        node: NodeId,
        claims: BTreeMap<Group, Claim>,
        now: BootMs,
    ) {
        self.by.insert(node, (now, claims));
    }

    /// Only these nodes are members.
    pub(super) fn handle_members(&mut self, is_member: impl Fn(NodeId) -> bool) {
        self.by.retain(|node, _| is_member(*node));
    }

    /// Of each group the claim of the highest term, as far as it is fresh and its node is not
    /// suspected.
    pub(super) fn leaders(&self, is_suspected: impl Fn(NodeId) -> bool, now: BootMs) -> Leaders {
        let mut leaders = Leaders::new();
        for (&node, (at, claims)) in &self.by {
            if now.since_ms(*at) >= CLAIM_MS || is_suspected(node) {
                continue;
            }
            for (&group, claim) in claims {
                let term = claim.term;
                let leading = Leading {
                    node,
                    term,
                    applied: claim.applied,
                    reached: claim.reached,
                    heard: *at,
                };
                let known = leaders.entry(group).or_insert(leading);
                if known.term < term {
                    *known = leading;
                }
            }
        }
        leaders
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: BootMs = BootMs(9_000);

    fn claim(term: u64) -> BTreeMap<Group, Claim> {
        BTreeMap::from([(
            Group::Meta,
            Claim {
                term,
                applied: 7,
                reached: 7,
            },
        )])
    }

    #[test]
    fn of_several_who_claim_a_group_the_highest_term_leads() {
        let mut claims = Claims::default();
        claims.handle_claims(NodeId(1), claim(3), T0);
        claims.handle_claims(NodeId(2), claim(5), T0);
        claims.handle_claims(NodeId(3), claim(4), T0);

        let leader = |claims: &Claims, suspected: u32, ms| {
            let leaders = claims.leaders(|node| node.0 == suspected, T0.plus_ms(ms));
            leaders.get(&Group::Meta).map(|leading| leading.node.0)
        };
        assert_eq!(leader(&claims, 0, 1_499), Some(2));
        assert_eq!(leader(&claims, 2, 0), Some(3));
        assert_eq!(leader(&claims, 0, 1_500), None, "the claims are old");

        claims.handle_claims(NodeId(2), BTreeMap::new(), T0);
        assert_eq!(leader(&claims, 0, 0), Some(3), "it claims no longer");
        claims.handle_members(|node| node.0 < 3);
        assert_eq!(leader(&claims, 0, 0), Some(1));
    }
}
