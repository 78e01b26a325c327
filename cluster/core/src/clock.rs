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
    seen: (BootMs, WallMs),
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
    /// The clock of a leadership that begins with the group's time `last`, 0 for a new group: that
    /// begins with what is read now, synchronised or not, since nothing better is known and it
    /// would leap later. Every step from now on is seen.
    pub fn new(last: WallMs, now: ClockReading) -> Self {
        Self {
            last: if last == WallMs(0) { now.wall } else { last },
            last_at: now.boot,
            seen: (now.boot, now.wall),
            stepped: None,
        }
    }

    /// The time of an entry that is proposed now.
    pub fn stamp(&mut self, reading: ClockReading) -> Stamped {
        self.watch(reading);
        let is_apart = reading.apart_ms.is_some_and(|ms| ms > CLOCK_APART_MS);
        let is_believed = !is_apart && self.stepped.is_none();
        let is_lone = reading.apart_ms.is_none();
        let time = if is_believed && (reading.is_synchronised || !is_lone) {
            self.last.max(reading.wall)
        } else {
            // Nothing says what time it is, but how much of it passed is known. Standing still
            // instead would shorten what begins meanwhile by as much, once time goes on.
            let passed = reading.boot.since_ms(self.last_at);
            WallMs(self.last.0.saturating_add(passed))
        };
        self.last = time;
        self.last_at = reading.boot;
        Stamped {
            time,
            // A lone node that nothing synchronises has no better time to wait for.
            may_expire: is_believed || (is_lone && !reading.is_synchronised),
        }
    }

    fn watch(&mut self, reading: ClockReading) {
        let (boot, wall) = self.seen;
        let expected = wall.0.saturating_add(reading.boot.since_ms(boot));
        if reading.wall.0.abs_diff(expected) > CLOCK_APART_MS {
            self.stepped = Some(reading.boot);
        }
        self.seen = (reading.boot, reading.wall);
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
        let mut clock = LogClock::new(WallMs(T0), reading(0, T0));

        assert_eq!(clock.stamp(reading(0, T0 + 5)), given(T0 + 5));
        assert_eq!(clock.stamp(reading(100, T0 + 105)), given(T0 + 105));
        assert_eq!(clock.stamp(reading(200, T0 + 50)), given(T0 + 105));
    }

    #[test]
    fn a_clock_that_stepped_goes_on_by_the_time_that_passed_and_makes_nothing_due() {
        let mut clock = LogClock::new(WallMs(T0), reading(0, T0));
        clock.stamp(reading(0, T0));

        let leapt = clock.stamp(reading(1_000, T0 + 7_200_000));

        assert_eq!(leapt.time, WallMs(T0 + 1_000));
        assert!(!leapt.may_expire);
        // It steps back: that is another step.
        assert!(!clock.stamp(reading(2_000, T0 + 2_000)).may_expire);
        let later = CLOCK_DISTRUST_MS + 2_000;
        assert_eq!(clock.stamp(reading(later, T0 + later)), given(T0 + later));
    }

    #[test]
    fn without_synchronisation_a_lone_node_goes_on_by_the_time_that_passed() {
        let unsynchronised = |boot, wall| ClockReading {
            is_synchronised: false,
            ..reading(boot, wall)
        };
        let mut clock = LogClock::new(WallMs(T0), unsynchronised(500, 0));

        assert_eq!(clock.stamp(unsynchronised(1_500, 0)), given(T0 + 1_000));
        let leapt = clock.stamp(unsynchronised(2_500, T0 * 2));
        assert_eq!(leapt, given(T0 + 2_000));
    }

    #[test]
    fn a_new_group_begins_with_the_time_that_is_read() {
        let now = ClockReading {
            is_synchronised: false,
            ..reading(500, T0)
        };
        let mut clock = LogClock::new(WallMs(0), now);

        assert_eq!(clock.stamp(now), given(T0));
    }

    #[test]
    fn a_clock_apart_from_its_peers_is_not_believed() {
        let mut clock = LogClock::new(WallMs(T0), reading(0, T0));
        let apart = |ms| ClockReading {
            apart_ms: Some(ms),
            ..reading(10, T0 + 10)
        };

        let refused = clock.stamp(ClockReading {
            wall: WallMs(T0 * 2),
            ..apart(2_001)
        });
        assert_eq!((refused.time, refused.may_expire), (WallMs(T0 + 10), false));
    }
}
