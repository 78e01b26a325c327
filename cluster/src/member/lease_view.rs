//! The lease as every acknowledgement asks for it.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use cluster_core::{BootMs, LEASE_MS, SHARDS_MAX, ShardId};

/// Until when this node may promise anything; asked without a lock, by any thread.
///
/// It is held only by an epoch that serves: its lease lasts, and its routes are as far as
/// [`cluster_core::Entering`] wants. A lone node's lasts for ever.
///
/// What the owner of a session is promised wants more: that the leader of the session's shard was heard within a lease
/// ([`Self::of`]). A node can keep its lease among those who make up meta and be cut off from those who make up the
/// shard, where the client may be connected by now (`docs/adr/013`).
#[derive(Debug)]
pub struct LeaseView {
    node: Tenable,
    /// Of each shard that there may be.
    shards: Box<[Tenable]>,
}

/// Something that may be held until a time, is lost, and may be had again.
#[derive(Debug, Default)]
pub struct Tenable {
    /// In milliseconds of the node's clock; 0 for never.
    until_ms: AtomicU64,
    grants: AtomicU16,
}

impl Tenable {
    /// Whether it is held at this time of the node's clock ([`runtime::Clock::mono_ms`], which is read just before).
    pub fn is_held(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms()
    }

    fn until_ms(&self) -> u64 {
        self.until_ms.load(Ordering::Acquire)
    }

    /// How often it was had after it had not been, wrapping. Another number than before: the node was without it
    /// meanwhile, and whoever it served may be served elsewhere. Asked after [`Self::is_held`], it is that of what was
    /// held.
    pub fn grants(&self) -> u16 {
        self.grants.load(Ordering::Acquire)
    }

    /// Called by one thread, at this time of the node's clock.
    fn set(&self, until: BootMs, now: BootMs) {
        if until > now && !self.is_held(now.0) {
            self.grants.fetch_add(1, Ordering::Release);
        }
        self.until_ms.store(until.0, Ordering::Release);
    }
}

impl Default for LeaseView {
    fn default() -> Self {
        let shards = std::iter::repeat_with(Tenable::default);
        Self {
            node: Tenable::default(),
            shards: shards.take(usize::from(SHARDS_MAX)).collect(),
        }
    }
}

impl LeaseView {
    /// Whether the node may promise anything at this time of its clock
    /// ([`runtime::Clock::mono_ms`], which is read just before).
    pub fn is_held(&self, now_ms: u64) -> bool {
        self.node.is_held(now_ms)
    }

    /// The end of the lease in milliseconds of the node's clock: 0 if none is held, the maximum
    /// for a lone node.
    pub fn until_ms(&self) -> u64 {
        self.node.until_ms()
    }

    /// What the node may promise to the owners of a shard's sessions: held while the lease is, and at most a lease after
    /// the shard's leader was heard.
    ///
    /// # Panics
    /// There is no such shard: [`SHARDS_MAX`] at most.
    pub fn of(&self, shard: ShardId) -> &Tenable {
        &self.shards[usize::from(shard.0)]
    }

    /// Called by one thread, at this time of the node's clock. `heard` says when a shard's leader was heard last.
    pub(super) fn set(
        &self,
        until: Option<BootMs>,
        heard: impl Fn(ShardId) -> Option<BootMs>,
        now: BootMs,
    ) {
        let until = until.unwrap_or(BootMs(0));
        self.node.set(until, now);
        for (shard, tenable) in (0..).map(ShardId).zip(&self.shards) {
            let is_lone = until == BootMs(u64::MAX);
            let heard_until = || heard(shard).map_or(BootMs(0), |at| at.plus_ms(LEASE_MS));
            let until = if is_lone {
                until
            } else {
                until.min(heard_until())
            };
            tenable.set(until, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: ShardId = ShardId(7);

    fn set(view: &LeaseView, until: Option<u64>, heard: Option<u64>, now: u64) {
        let heard = heard.map(BootMs);
        let of = |shard| heard.filter(|_| shard == S);
        view.set(until.map(BootMs), of, BootMs(now));
    }

    #[test]
    fn it_is_held_before_its_end_and_not_at_it() {
        let view = LeaseView::default();
        assert!(!view.is_held(0) && !view.of(S).is_held(0));
        set(&view, Some(10), Some(0), 0);
        assert!(view.is_held(9) && view.of(S).is_held(9));
        assert!(!view.is_held(10) && !view.of(S).is_held(10));
        set(&view, None, Some(5), 5);
        assert!(!view.is_held(9) && !view.of(S).is_held(9));
    }

    #[test]
    fn the_owners_of_a_shard_are_promised_nothing_a_lease_after_its_leader_was_heard() {
        let view = LeaseView::default();
        set(&view, Some(20_000), Some(10_000), 10_500);
        assert!(view.of(S).is_held(12_999) && !view.of(S).is_held(13_000));
        assert!(!view.of(ShardId(8)).is_held(12_999), "not heard at all");
        assert!(view.is_held(13_000), "others are");

        set(&view, Some(20_000), Some(12_000), 12_500);
        assert_eq!(view.of(S).grants(), 1, "it was never without");
        assert!(view.of(S).is_held(14_999));
        set(&view, Some(20_000), Some(15_000), 15_000);
        assert_eq!(view.of(S).grants(), 2);
        assert_eq!(view.of(ShardId(8)).grants(), 0);
    }

    #[test]
    fn a_lone_node_hears_nobody_and_promises_all() {
        let view = LeaseView::default();
        set(&view, Some(u64::MAX), None, 5);
        assert!(view.of(S).is_held(u64::MAX - 1) && view.of(ShardId(8)).is_held(0));
    }

    #[test]
    fn a_lease_that_follows_one_that_was_over_is_another_one() {
        let view = LeaseView::default();
        let grants = || view.of(S).grants();
        set(&view, Some(10), Some(0), 0);
        let first = grants();
        set(&view, Some(19), Some(0), 9);
        assert_eq!(grants(), first, "it was never without");

        set(&view, Some(30), Some(0), 19);
        assert_eq!(grants(), first + 1, "it had run out");
        set(&view, Some(30), Some(0), 20);
        set(&view, None, Some(0), 21);
        set(&view, None, Some(0), 22);
        set(&view, Some(40), Some(0), 23);
        assert_eq!(grants(), first + 2, "it was given up");
    }
}
