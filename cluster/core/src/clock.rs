//! The time that a leader writes into its group's entries.

use crate::{BootMs, WallMs};

/// How far wall time may run apart from `CLOCK_BOOTTIME` between two readings, or from the median
/// of the peers, in milliseconds.
pub const CLOCK_APART_MS: u64 = 2_000;
/// How long a clock that stepped is not believed, in milliseconds.
pub const CLOCK_DISTRUST_MS: u64 = 600_000;

/// The time of an entry, and what it says of the wall clock. The group's state keeps that of its
/// last entry; [`Self::default`] is that of a new group.
///
/// The two drift apart, and stay so: what a wall clock leaps by is no time that passed, and a
/// deadline that began before the leap would come too early by as much. So the leap goes into
/// `wall`, whose distance to `time` says it, instead of into `time`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogTime {
    /// The group's time: never back, and never on by more than passed.
    pub time: WallMs,
    /// What the wall clock showed at `time`; `None` while none is believed. From it a later
    /// leader learns how long the group had none.
    pub wall: Option<WallMs>,
}

/// Makes of a node's clocks a time that never goes back and never leaps: errors lengthen what
/// waits for a deadline, they never shorten it.
///
/// While it leads only `CLOCK_BOOTTIME` counts. The wall clock tells a leader that begins how much
/// passed since the last entry, if it was believed then and is believed now. If not, the pause
/// counts as nothing, for good: what begins afterwards is stamped without it.
#[derive(Clone, Debug)]
pub struct LogClock {
    /// The last time given, or applied.
    last: LogTime,
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
    pub time: LogTime,
    /// Whether what this time makes due may be proposed.
    pub may_expire: bool,
}

impl LogClock {
    /// The clock of a leadership that begins with the time of the group's last entry; every entry
    /// of its log has to be applied. A new group begins with what is read now, synchronised or
    /// not, since nothing better is known. Every step from now on is seen.
    pub fn new(last: LogTime, now: ClockReading) -> Self {
        let mut clock = Self {
            last,
            last_at: now.boot,
            seen: (now.boot, now.wall),
            stepped: None,
        };
        if last == LogTime::default() {
            clock.last.time = now.wall;
        }
        match last.wall {
            // Now or never: with the first stamp the clock may have stepped.
            Some(wall) if clock.is_believed(now) => {
                clock.pass(now.wall.0.saturating_sub(wall.0));
            }
            _ => clock.last.wall = clock.is_believed(now).then_some(now.wall),
        }
        clock
    }

    /// The time that was given last, or with which the leadership began.
    pub fn last(&self) -> LogTime {
        self.last
    }

    /// The time of an entry that is proposed now.
    pub fn stamp(&mut self, reading: ClockReading) -> Stamped {
        self.watch(reading);
        // Standing still while no clock is believed would shorten what begins meanwhile by as
        // much, once time goes on.
        self.pass(reading.boot.since_ms(self.last_at));
        self.last_at = reading.boot;
        let is_believed = self.is_believed(reading);
        let is_lone = reading.apart_ms.is_none();
        self.last.wall = match self.last.wall {
            _ if !is_believed => None,
            // Leaders in turn, each a little apart, would add it all up.
            Some(wall) if !is_lone => Some(wall),
            _ => Some(reading.wall),
        };
        Stamped {
            time: self.last,
            // A lone node that nothing synchronises has no better time to wait for.
            may_expire: is_believed || (is_lone && !reading.is_synchronised),
        }
    }

    fn pass(&mut self, ms: u64) {
        let later = |at: WallMs| WallMs(at.0.saturating_add(ms));
        self.last = LogTime {
            time: later(self.last.time),
            wall: self.last.wall.map(later),
        };
    }

    fn is_believed(&self, reading: ClockReading) -> bool {
        let agrees = match reading.apart_ms {
            Some(ms) => ms <= CLOCK_APART_MS,
            None => reading.is_synchronised,
        };
        agrees && self.stepped.is_none()
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
