//! The log of one actor while it runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::{Event, What};

/// Events of a run, at most: 512 MB. When a quarter of it is left, publishers send nothing new.
pub const EVENTS_MAX: u64 = 16 << 20;

/// Counts the events of all actors.
#[derive(Debug, Default)]
pub struct Budget {
    taken: AtomicU64,
}

impl Budget {
    /// Returns true when what is under way may still be recorded, but nothing new should begin.
    #[must_use]
    pub fn is_scarce(&self) -> bool {
        self.taken.load(Ordering::Relaxed) >= EVENTS_MAX / 4 * 3
    }

    /// Returns the events that there was no room for.
    #[must_use]
    pub fn unrecorded(&self) -> u64 {
        self.taken
            .load(Ordering::Relaxed)
            .saturating_sub(EVENTS_MAX)
    }

    fn take(&self) -> bool {
        self.taken.fetch_add(1, Ordering::Relaxed) < EVENTS_MAX
    }
}

/// Records what an actor does and sees; clones share the record.
#[derive(Clone, Debug)]
pub struct Log {
    events: Arc<Mutex<Vec<Event>>>,
    budget: Arc<Budget>,
    start: Instant,
}

impl Log {
    /// Begins a record.
    #[must_use]
    pub fn new(start: Instant, budget: Arc<Budget>) -> Self {
        Self {
            events: Arc::default(),
            budget,
            start,
        }
    }

    /// Records what happens now.
    pub fn record(&self, what: What) {
        if self.budget.take() {
            let at_us = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.lock().push(Event { at_us, what });
        }
    }

    /// Returns a copy of what was recorded so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.lock().clone()
    }

    /// A push that panicked for want of memory leaves the events before it whole.
    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{End, Stray};

    #[test]
    fn what_is_recorded_comes_back_in_order() {
        let log = Log::new(Instant::now(), Arc::default());
        let first = What::Connected {
            session_present: true,
        };
        let second = What::Ended {
            why: End::Cut,
            reason: 0,
        };
        log.record(first);
        log.record(second);
        let events = log.events();
        assert_eq!([events[0].what, events[1].what], [first, second]);
        assert!(events[0].at_us <= events[1].at_us);
    }

    #[test]
    fn beyond_the_budget_events_are_counted_and_not_kept() {
        let budget = Arc::new(Budget::default());
        budget.taken.store(EVENTS_MAX - 1, Ordering::Relaxed);
        let log = Log::new(Instant::now(), Arc::clone(&budget));
        assert!(budget.is_scarce());
        for _ in 0..3 {
            log.record(What::Stray {
                stray: Stray::Packet,
                detail: 0,
            });
        }
        assert_eq!((log.events().len(), budget.unrecorded()), (1, 2));
    }
}
