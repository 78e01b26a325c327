//! Time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Tells the time, so that a test can.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch; may step in either direction.
    fn wall_ms(&self) -> u64;
    /// Milliseconds since a fixed moment of this process; never goes back.
    fn mono_ms(&self) -> u64;
    /// Whether something is known to keep the wall clock right.
    fn is_synchronised(&self) -> bool {
        true
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64)
    }

    fn mono_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }
}

/// A clock that stands still until it is told to go on; clones share it.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    wall_ms: Arc<AtomicU64>,
    mono_ms: Arc<AtomicU64>,
}

impl ManualClock {
    /// Starts at this wall time and at monotonic zero.
    pub fn at(wall_ms: u64) -> Self {
        let clock = Self::default();
        clock.wall_ms.store(wall_ms, Ordering::Relaxed);
        clock
    }

    /// Moves both clocks on.
    pub fn advance_ms(&self, ms: u64) {
        self.wall_ms.fetch_add(ms, Ordering::Relaxed);
        self.mono_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Steps the wall clock alone, as an administrator or a bad time server does.
    pub fn set_wall_ms(&self, wall_ms: u64) {
        self.wall_ms.store(wall_ms, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn wall_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::Relaxed)
    }

    fn mono_ms(&self) -> u64 {
        self.mono_ms.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_the_wall_clock_leaves_the_monotonic_clock_alone() {
        let clock = ManualClock::at(1_000);
        clock.advance_ms(5);
        clock.set_wall_ms(10);
        assert_eq!((clock.wall_ms(), clock.mono_ms()), (10, 5));
    }
}
