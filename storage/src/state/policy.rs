//! When the state file is to be flushed.

use std::time::Duration;

/// Says when the state file is to be flushed: a value that is told what happens. Times are those of
/// any clock that never goes back, as distances from a fixed moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlushPolicy {
    /// A flush is due once this many bytes of the log were applied since the last one.
    pub log_bytes: u64,
    /// A flush is due once the oldest change since the last one is this old.
    pub age: Duration,
    unflushed_bytes: u64,
    oldest: Option<Duration>,
}

impl Default for FlushPolicy {
    fn default() -> Self {
        Self::new(32 << 20, Duration::from_mins(1))
    }
}

impl FlushPolicy {
    /// A policy of these limits, for a file that was just flushed.
    #[must_use]
    pub const fn new(log_bytes: u64, age: Duration) -> Self {
        Self {
            log_bytes,
            age,
            unflushed_bytes: 0,
            oldest: None,
        }
    }

    /// Entries of so many bytes of the log were applied.
    pub fn handle_applied(&mut self, bytes: u64, now: Duration) {
        self.unflushed_bytes = self.unflushed_bytes.saturating_add(bytes);
        self.oldest.get_or_insert(now);
    }

    /// Everything that was applied is flushed.
    pub fn handle_flushed(&mut self) {
        self.unflushed_bytes = 0;
        self.oldest = None;
    }

    /// Whether a flush is due.
    #[must_use]
    pub fn is_due(&self, now: Duration) -> bool {
        self.oldest.is_some()
            && (self.unflushed_bytes >= self.log_bytes
                || self.due_at().is_some_and(|due| due <= now))
    }

    /// When a flush becomes due by age; `None` if nothing was applied since the last one.
    #[must_use]
    pub fn due_at(&self) -> Option<Duration> {
        self.oldest.map(|oldest| oldest.saturating_add(self.age))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_is_due_by_bytes_or_by_the_age_of_the_oldest_change() {
        let mut policy = FlushPolicy::default();
        assert!(!policy.is_due(at(1_000_000)), "nothing was applied");

        policy.handle_applied(1, at(100));
        policy.handle_applied(1, at(150));
        assert!(!policy.is_due(at(159)));
        assert!(policy.is_due(at(160)));
        assert_eq!(policy.due_at(), Some(at(160)));

        policy.handle_flushed();
        assert!(!policy.is_due(at(160)));
        policy.handle_applied((32 << 20) - 1, at(200));
        assert!(!policy.is_due(at(200)));
        policy.handle_applied(1, at(200));
        assert!(policy.is_due(at(200)));
    }
}
