//! Whether a shard's log takes anything, and what may wait for it until it does.

use cluster_core::BootMs;

/// How long something waits and nothing gets into the log before the shard counts as stuck
/// (SEMANTICS, Sessions: a shard without a leader).
const STUCK_AFTER_MS: u64 = 5_000;
/// How long before the limit in bytes holds: a connection of which something is not taken ends by
/// its settle deadline, even if the log goes on before.
const FULL_AFTER_MS: u64 = 10_000;

/// A value that is told what waits. What waits is bounded by the windows of the connections for as
/// long as the log takes something now and then; in a stuck shard they end and come again, so
/// there a limit in bytes holds.
#[derive(Debug)]
pub(super) struct Backlog {
    bytes_limit: u64,
    /// Since when something waits and the log takes nothing; none while nothing waits.
    since: Option<BootMs>,
    is_full: bool,
}

/// What is wrong with a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Blocked {
    /// Its log has taken nothing for a while: who connects is refused.
    pub(super) is_stuck: bool,
    /// And so much waits that nothing more is taken.
    pub(super) is_full: bool,
}

impl Backlog {
    pub(super) fn new(bytes_limit: u64) -> Self {
        Self {
            bytes_limit,
            since: None,
            is_full: false,
        }
    }

    /// The log took something.
    pub(super) fn handle_moved(&mut self) {
        self.since = None;
    }

    /// What is wrong while so many bytes wait; `is_idle` if nothing waits at all.
    pub(super) fn blocked(&mut self, is_idle: bool, bytes: u64, now: BootMs) -> Blocked {
        let since = (!is_idle).then(|| self.since.unwrap_or(now));
        self.since = since;
        let waits = |ms| since.is_some_and(|since| now >= since.plus_ms(ms));
        // Half of it must have gone, or single messages would come and go at the limit.
        let limit = match self.is_full {
            true => self.bytes_limit / 2,
            false => self.bytes_limit,
        };
        self.is_full = waits(FULL_AFTER_MS) && bytes > limit;
        Blocked {
            is_stuck: waits(STUCK_AFTER_MS),
            is_full: self.is_full,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootMs {
        BootMs(seconds * 1_000)
    }

    const FREE: Blocked = Blocked {
        is_stuck: false,
        is_full: false,
    };
    const STUCK: Blocked = Blocked {
        is_stuck: true,
        is_full: false,
    };
    const FULL: Blocked = Blocked {
        is_stuck: true,
        is_full: true,
    };

    #[test]
    fn a_log_that_takes_something_now_and_then_bounds_nothing() {
        let mut backlog = Backlog::new(100);
        assert_eq!(backlog.blocked(false, 1_000, at(0)), FREE);
        assert_eq!(backlog.blocked(false, 1_000, at(4)), FREE);
        backlog.handle_moved();
        assert_eq!(backlog.blocked(false, 1_000, at(5)), FREE);
        assert_eq!(backlog.blocked(true, 0, at(9)), FREE);
        // However long nothing was asked of it.
        assert_eq!(backlog.blocked(false, 1_000, at(60)), FREE);
        assert_eq!(backlog.blocked(false, 1_000, at(64)), FREE);
    }

    #[test]
    fn a_stuck_shard_is_full_at_its_limit_until_half_has_gone() {
        let mut backlog = Backlog::new(100);
        assert_eq!(backlog.blocked(false, 1, at(0)), FREE);
        assert_eq!(backlog.blocked(false, 101, at(5)), STUCK);
        assert_eq!(backlog.blocked(false, 100, at(10)), STUCK);
        assert_eq!(backlog.blocked(false, 101, at(10)), FULL);
        assert_eq!(backlog.blocked(false, 51, at(11)), FULL);
        assert_eq!(backlog.blocked(false, 50, at(11)), STUCK);
        assert_eq!(backlog.blocked(false, 51, at(11)), STUCK);

        assert_eq!(backlog.blocked(false, 101, at(11)), FULL);
        backlog.handle_moved();
        assert_eq!(backlog.blocked(false, 101, at(12)), FREE);
    }
}
