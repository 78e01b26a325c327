//! Time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Tells the time, so that a test can.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch; may step in either direction.
    fn wall_ms(&self) -> u64;
    /// Milliseconds since a fixed moment of this process; never goes back, and goes on while the
    /// machine is suspended (`CLOCK_BOOTTIME`): a lease that is over there must be over here.
    fn mono_ms(&self) -> u64;
    /// Whether something is known to keep the wall clock right.
    fn is_synchronised(&self) -> bool {
        true
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start_ms: u64,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self {
            start_ms: boot_ms(),
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
        boot_ms().saturating_sub(self.start_ms)
    }
}

/// Milliseconds since the machine was started, suspends included.
fn boot_ms() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let ms = u64::try_from(time.tv_nsec / 1_000_000).unwrap_or_default();
    seconds.saturating_mul(1_000).saturating_add(ms)
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
    fn the_clock_counts_from_the_start_of_the_machine_as_the_kernel_does() {
        // The kernel shows this very clock there, in hundredths of a second.
        let uptime_ms = || {
            let text = std::fs::read_to_string("/proc/uptime").expect("this system has one");
            let seconds = text.split_whitespace().next().expect("two numbers");
            (seconds.parse::<f64>().expect("a number") * 1_000.0) as u64
        };
        let (before, shown, after) = (uptime_ms(), boot_ms(), uptime_ms());
        assert!(
            (before..=after + 10).contains(&shown),
            "{before} {shown} {after}"
        );
        let clock = SystemClock::default();
        let first = clock.mono_ms();
        assert!(first < 60_000 && clock.mono_ms() >= first);
    }

    #[test]
    fn a_step_of_the_wall_clock_leaves_the_monotonic_clock_alone() {
        let clock = ManualClock::at(1_000);
        clock.advance_ms(5);
        clock.set_wall_ms(10);
        assert_eq!((clock.wall_ms(), clock.mono_ms()), (10, 5));
    }
}
