//! The lease as every acknowledgement asks for it.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use cluster_core::BootMs;

/// Until when this node may promise anything; asked without a lock, by any thread.
///
/// It is held only by an epoch that serves: its lease lasts, and its routes are as far as
/// [`cluster_core::Entering`] wants. A lone node's lasts for ever.
#[derive(Debug, Default)]
pub struct LeaseView {
    /// In milliseconds of the node's clock; 0 for never.
    until_ms: AtomicU64,
    grants: AtomicU16,
}

impl LeaseView {
    /// Whether the node may promise anything at this time of its clock
    /// ([`runtime::Clock::mono_ms`], which is read just before).
    pub fn is_held(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms()
    }

    /// The end of the lease in milliseconds of the node's clock: 0 if none is held, the maximum
    /// for a lone node.
    pub fn until_ms(&self) -> u64 {
        self.until_ms.load(Ordering::Acquire)
    }

    /// How often the node got a lease that it did not have before, wrapping. Another number than
    /// before: it was without one meanwhile, and whoever it served may be served elsewhere. Asked
    /// after [`Self::is_held`], it is that of the lease that was held.
    pub fn grants(&self) -> u16 {
        self.grants.load(Ordering::Acquire)
    }

    /// Called by one thread, at this time of the node's clock.
    pub(super) fn set(&self, until: Option<BootMs>, now: BootMs) {
        let until_ms = until.map_or(0, |until| until.0);
        if until_ms > now.0 && !self.is_held(now.0) {
            self.grants.fetch_add(1, Ordering::Release);
        }
        self.until_ms.store(until_ms, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_held_before_its_end_and_not_at_it() {
        let view = LeaseView::default();
        assert!(!view.is_held(0));
        view.set(Some(BootMs(10)), BootMs(0));
        assert!(view.is_held(9));
        assert!(!view.is_held(10));
        view.set(None, BootMs(5));
        assert!(!view.is_held(9));
    }

    #[test]
    fn a_lease_that_follows_one_that_was_over_is_another_one() {
        let view = LeaseView::default();
        view.set(Some(BootMs(10)), BootMs(0));
        let first = view.grants();
        view.set(Some(BootMs(19)), BootMs(9));
        assert_eq!(view.grants(), first, "it was never without");

        view.set(Some(BootMs(30)), BootMs(19));
        assert_eq!(view.grants(), first + 1, "it had run out");
        view.set(Some(BootMs(30)), BootMs(20));
        view.set(None, BootMs(21));
        view.set(None, BootMs(22));
        view.set(Some(BootMs(40)), BootMs(23));
        assert_eq!(view.grants(), first + 2, "it was given up");
    }
}
