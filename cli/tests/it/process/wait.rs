//! Waiting for a condition that another process brings about.

use std::time::{Duration, Instant};

/// Far beyond anything that should happen, so that a busy machine fails no test; a passing test never waits for it.
const DEADLINE: Duration = Duration::from_secs(120);

/// The pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks again and again until `look` finds something.
///
/// # Panics
/// When nothing was found before the deadline, naming `what` was waited for.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} for {what}");
        pause_for(PAUSE);
    }
}

/// Lets time pass: for a pace, or for an outage of another process that is to last.
#[expect(
    clippy::disallowed_methods,
    reason = "other processes bring the condition about and tell nobody"
)]
pub(crate) fn pause_for(time: Duration) {
    std::thread::sleep(time);
}
