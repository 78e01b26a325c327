//! How far this node knew the shards: what a connection that it accepted then may replace.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::{BootMs, ShardId};

/// How often a sample is taken, in milliseconds.
pub const SIGHTING_MS: u64 = 100;
/// How long a sample is kept, in milliseconds: as long as a CONNECT and its session may take.
pub const SIGHTINGS_KEPT_MS: u64 = 10_000;

/// Samples that are kept at most.
const SIGHTINGS_MAX: usize = (SIGHTINGS_KEPT_MS / SIGHTING_MS) as usize + 1;

/// Remembers how far each shard was applied, as this node knew it at times past.
///
/// Connections of different nodes are in no order. So a CONNECT that lay unread at a node while its
/// client connected to another one, subscribed and was answered, could end what that one was
/// promised: by the time it is read, the node's replica knows the newer ownership, and names it. A
/// node may therefore replace only what it knew when it accepted the connection
/// (`docs/adr/009`). Ownership epochs rise with what a shard applies, so that is one comparison.
#[derive(Clone, Debug, Default)]
pub struct Sightings {
    samples: VecDeque<(BootMs, Arc<Sighting>)>,
}

/// How far the shards were applied at one time, as one node knew it.
///
/// The unit is that of ownership epochs (`session::Durable::index`), not that of Raft's log. A
/// shard that is missing was not known at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighting(BTreeMap<ShardId, u64>);

impl Sightings {
    /// Whether a sample is to be taken.
    pub fn is_due(&self, now: BootMs) -> bool {
        let last = self.samples.back();
        last.is_none_or(|(at, _)| now.since_ms(*at) >= SIGHTING_MS)
    }

    /// Takes a sample: how far each shard is applied, as far as this node knows, by its own replica
    /// or by what a peer told. Does nothing before one is due.
    pub fn handle_applied(
        &mut self,
        shards: impl IntoIterator<Item = (ShardId, u64)>,
        now: BootMs,
    ) {
        if !self.is_due(now) {
            return;
        }
        // The last one that is too old is still what was known then, if no later one follows it.
        let is_old = |at: BootMs| now.since_ms(at) > SIGHTINGS_KEPT_MS;
        while self.samples.get(1).is_some_and(|(at, _)| is_old(*at))
            || self.samples.len() >= SIGHTINGS_MAX
        {
            self.samples.pop_front();
        }
        let sample = Sighting(shards.into_iter().collect());
        self.samples.push_back((now, Arc::new(sample)));
    }

    /// What was known when a connection was accepted at this time: the last sample before it. One
    /// of which nothing is known any longer, or was not yet, may replace nothing.
    pub fn at(&self, accepted: BootMs) -> Arc<Sighting> {
        let mut samples = self.samples.iter().rev();
        let found = samples.find(|(at, _)| *at <= accepted);
        found
            .map(|(_, sample)| Arc::clone(sample))
            .unwrap_or_default()
    }
}

impl Sighting {
    /// Whether a connection may replace a session of this shard whose ownership epoch is `epoch`;
    /// where there is no session, it may begin one. Else the client is refused with 0x88 (3.1.1: 3)
    /// and comes again.
    pub fn may_replace(&self, shard: ShardId, epoch: Option<u64>) -> bool {
        let known = self.0.get(&shard).copied().unwrap_or(0);
        epoch.is_none_or(|epoch| epoch <= known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: ShardId = ShardId(3);

    fn sampled(until_ms: u64) -> Sightings {
        let mut sightings = Sightings::default();
        for ms in 0..=until_ms {
            // The shard applies an entry each millisecond.
            sightings.handle_applied([(S, ms)], BootMs(ms));
        }
        sightings
    }

    /// The highest epoch that a connection may replace which was accepted then.
    fn reach(sightings: &Sightings, accepted_ms: u64) -> u64 {
        let sighting = sightings.at(BootMs(accepted_ms));
        let epochs = (0..100_000).take_while(|epoch| sighting.may_replace(S, Some(*epoch)));
        epochs.last().unwrap_or(0)
    }

    #[test]
    fn a_connection_replaces_what_was_known_before_it_was_accepted_and_nothing_later() {
        let sightings = sampled(5_000);

        assert_eq!(reach(&sightings, 1_000), 1_000);
        assert_eq!(reach(&sightings, 1_099), 1_000, "the older sample counts");
        assert_eq!(reach(&sightings, 9_999), 5_000);
    }

    #[test]
    fn where_there_is_no_session_one_may_begin() {
        let sightings = Sightings::default();

        assert!(sightings.at(BootMs(5)).may_replace(S, None));
        assert!(!sightings.at(BootMs(5)).may_replace(S, Some(1)));
        assert!(
            !sampled(300)
                .at(BootMs(300))
                .may_replace(ShardId(4), Some(1))
        );
    }

    #[test]
    fn samples_of_ten_seconds_are_kept_and_no_more() {
        let mut sightings = sampled(60_000);

        assert!(sightings.samples.len() <= SIGHTINGS_MAX);
        assert_eq!(reach(&sightings, 50_100), 50_100);
        assert_eq!(reach(&sightings, 40_000), 0, "too long ago");
        // Nothing was sampled during a pause: what comes after it replaces what was known before.
        assert_eq!(reach(&sightings, 90_000), 60_000);
        sightings.handle_applied([(S, 70_000)], BootMs(90_001));
        assert_eq!(reach(&sightings, 90_000), 60_000);
        assert_eq!(reach(&sightings, 90_001), 70_000);
        sightings.handle_applied([(S, 71_000)], BootMs(110_002));
        sightings.handle_applied([(S, 72_000)], BootMs(110_102));
        assert_eq!(sightings.samples.len(), 3);
    }
}
