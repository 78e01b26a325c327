//! The time that a leader writes into its group's entries.

use crate::{BootMs, WallMs};

/// How far wall time may run apart from `CLOCK_BOOTTIME` between two readings, or from the median
/// of the peers, in milliseconds.
pub const CLOCK_APART_MS: u64 = 2_000;
/// How long a clock that stepped is not believed, in milliseconds.
pub const CLOCK_DISTRUST_MS: u64 = 600_000;

/// Makes of a node's clocks a time that never goes back and never leaps: errors lengthen what
/// waits for a deadline, they never shorten it.
#[derive(Clone, Debug)]
pub struct LogClock {
    /// The last time given, or applied.
    last: WallMs,
    /// When that was, here.
    last_at: BootMs,
    seen: Option<(BootMs, WallMs)>,
    stepped: Option<BootMs>,
}

/// What a node knows of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// `CLOCK_BOOTTIME`.
    pub boot: BootMs,
    /// The wall clock.
    pub wall: WallMs,
    /// Whether the kernel says that something synchronises the wall clock.
    pub is_synchronised: bool,
    /// How far it is from the median of the peers' clocks; `None` for a lone node.
    pub apart_ms: Option<u64>,
}

/// A time for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamped {
    /// The time; at least that of every entry before.
    pub time: WallMs,
    /// Whether what this time makes due may be proposed.
    pub may_expire: bool,
}

impl LogClock {
    /// The clock of a leadership that begins with the group's time `last`.
    pub fn new(last: WallMs, now: BootMs) -> Self {
        Self {
            last,
            last_at: now,
            seen: None,
            stepped: None,
        }
    }

    /// The time of an entry that is proposed now.
    pub fn stamp(&mut self, reading: ClockReading) -> Stamped {
        self.watch(reading);
        let is_apart = reading.apart_ms.is_some_and(|ms| ms > CLOCK_APART_MS);
        let is_lone_and_free = reading.apart_ms.is_none() && !reading.is_synchronised;
        let time = if is_lone_and_free {
            // Nothing says what time it is, but how much of it passed is known.
            let passed = reading.boot.since_ms(self.last_at);
            WallMs(self.last.0.saturating_add(passed))
        } else if is_apart || self.stepped.is_some() {
            return Stamped {
                time: self.last,
                may_expire: false,
            };
        } else {
            self.last.max(reading.wall)
        };
        self.last = time;
        self.last_at = reading.boot;
        Stamped {
            time,
            may_expire: true,
        }
    }

    fn watch(&mut self, reading: ClockReading) {
        if let Some((boot, wall)) = self.seen {
            let by_boot = reading.boot.since_ms(boot);
            let is_steady = reading.wall.0.abs_diff(wall.0.saturating_add(by_boot));
            if is_steady > CLOCK_APART_MS {
                self.stepped = Some(reading.boot);
            }
        }
        self.seen = Some((reading.boot, reading.wall));
        let is_over = |at: &mut BootMs| reading.boot.since_ms(*at) >= CLOCK_DISTRUST_MS;
        self.stepped.take_if(is_over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: u64 = 1_700_000_000_000;

    fn reading(boot: u64, wall: u64) -> ClockReading {
        ClockReading {
            boot: BootMs(boot),
            wall: WallMs(wall),
            is_synchronised: true,
            apart_ms: None,
        }
    }

    fn given(time: u64) -> Stamped {
        Stamped {
            time: WallMs(time),
            may_expire: true,
        }
    }

    #[test]
    fn a_synchronised_clock_is_believed_but_never_goes_back() {
        let mut clock = LogClock::new(WallMs(T0), BootMs(0));

        assert_eq!(clock.stamp(reading(0, T0 + 5)), given(T0 + 5));
        assert_eq!(clock.stamp(reading(100, T0 + 105)), given(T0 + 105));
        assert_eq!(clock.stamp(reading(200, T0 + 50)), given(T0 + 105));
    }

    #[test]
    fn a_clock_that_stepped_gives_the_last_time_and_makes_nothing_due() {
        let mut clock = LogClock::new(WallMs(T0), BootMs(0));
        clock.stamp(reading(0, T0));

        let leapt = clock.stamp(reading(1_000, T0 + 7_200_000));

        assert_eq!(leapt.time, WallMs(T0));
        assert!(!leapt.may_expire);
        // It steps back: that is another step.
        assert!(!clock.stamp(reading(2_000, T0 + 2_000)).may_expire);
        let later = CLOCK_DISTRUST_MS + 2_000;
        assert_eq!(clock.stamp(reading(later, T0 + later)), given(T0 + later));
    }

    #[test]
    fn without_synchronisation_a_lone_node_goes_on_by_the_time_that_passed() {
        let mut clock = LogClock::new(WallMs(T0), BootMs(500));
        let unsynchronised = |boot, wall| ClockReading {
            is_synchronised: false,
            ..reading(boot, wall)
        };

        assert_eq!(clock.stamp(unsynchronised(1_500, 0)), given(T0 + 1_000));
        let leapt = clock.stamp(unsynchronised(2_500, T0 * 2));
        assert_eq!(leapt, given(T0 + 2_000));
    }

    #[test]
    fn a_clock_apart_from_its_peers_is_not_believed() {
        let mut clock = LogClock::new(WallMs(T0), BootMs(0));
        let apart = |ms| ClockReading {
            apart_ms: Some(ms),
            ..reading(10, T0 + 10)
        };

        assert!(!clock.stamp(apart(2_001)).may_expire);
        assert_eq!(clock.stamp(apart(2_000)), given(T0 + 10));
    }
}
