//! How the lanes stand, for people and metrics.

use super::lane::Lane;
use super::{Contact, Delivery, Policy};

/// Counts of a topic since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) accepted: u64,
    pub(crate) delivered: u64,
    pub(crate) spooled: u64,
    pub(crate) drained: u64,
    pub(crate) shed_age: u64,
    pub(crate) shed_quota: u64,
    pub(crate) poisoned: u64,
    pub(crate) failed: u64,
    pub(crate) went_away: u64,
}

/// Says how a topic stands.
#[derive(Clone, Debug)]
pub(crate) struct TopicState {
    pub(crate) policy: Policy,
    pub(crate) counts: Counts,
    pub(crate) contact: Contact,
    pub(crate) inflight_records: u64,
    pub(crate) inflight_bytes: u64,
    pub(crate) waiting_records: u64,
    /// Spooled and not confirmed by Kafka.
    pub(crate) spool_records: u64,
    pub(crate) is_spool_full: bool,
    pub(crate) lanes_away: u64,
}

impl Delivery {
    /// Is how a topic stands.
    pub(crate) fn state(&self, topic: u16) -> TopicState {
        let of = &self.topics[usize::from(topic)];
        let sum = |count: fn(&Lane) -> u64| of.lanes.iter().map(count).sum();
        TopicState {
            policy: of.policy,
            counts: of.counts,
            contact: of.contact.clone(),
            inflight_records: sum(|at| at.inflight.len() as u64),
            inflight_bytes: sum(|at| at.inflight_bytes),
            waiting_records: sum(|at| (at.waiting.len() + at.held.len()) as u64),
            spool_records: sum(|at| at.spool.end - at.spool.delivered.min(at.spool.end)),
            is_spool_full: of.full_until_ms.is_some(),
            lanes_away: sum(|at| u64::from(at.away)),
        }
    }

    /// Whether a topic's records go through the spool even while Kafka is there.
    pub(crate) fn spools_always(&self, topic: u16) -> bool {
        self.topics[usize::from(topic)].policy.spools_always
    }
}
