//! The lease as every acknowledgement asks for it.

use std::sync::atomic::{AtomicU64, Ordering};

use cluster_core::BootMs;

/// Until when this node may promise anything; asked without a lock, by any thread.
///
/// It is held only by an epoch that serves: its lease lasts, and its routes are as far as
/// [`cluster_core::Entering`] wants. A lone node's lasts for ever.
#[derive(Debug, Default)]
pub struct LeaseView {
    /// In milliseconds of the node's clock; 0 for never.
    until_ms: AtomicU64,
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

    pub(super) fn set(&self, until: Option<BootMs>) {
        let until_ms = until.map_or(0, |until| until.0);
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
        view.set(Some(BootMs(10)));
        assert!(view.is_held(9));
        assert!(!view.is_held(10));
        view.set(None);
        assert!(!view.is_held(9));
    }
}
