//! One timer for all connections of a thread.

use std::collections::VecDeque;

/// Names a timer's owner: the connection's slot, and its generation so that a timer of a
/// connection that ended reaches nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerKey {
    /// Slot of the owner.
    pub slot: u32,
    /// Generation of the slot.
    pub generation: u32,
}

/// A hashed timer wheel: setting and firing cost O(1), and nothing per idle connection but one
/// entry of 16 bytes. A timer fires at most one tick late and never early.
///
/// Timers are not cancelled: the owner that is fired too early, because its deadline has moved
/// since, sets the next one.
#[derive(Debug)]
pub struct Wheel {
    tick_ms: u64,
    /// Slot `i` holds what is due in tick `now_tick + i`, up to one turn ahead.
    slots: VecDeque<Vec<(TimerKey, u64)>>,
    now_tick: u64,
}

impl Wheel {
    /// A wheel of `ticks` ticks of `tick_ms` milliseconds that stands at `now_ms`.
    ///
    /// # Panics
    /// When `tick_ms` or `ticks` is 0.
    pub fn new(tick_ms: u64, ticks: usize, now_ms: u64) -> Self {
        assert!(tick_ms > 0 && ticks > 0, "a wheel needs ticks");
        let slots = std::iter::repeat_with(Vec::new).take(ticks).collect();
        Self {
            tick_ms,
            slots,
            now_tick: now_ms / tick_ms,
        }
    }

    /// Length of a tick in milliseconds.
    pub fn tick_ms(&self) -> u64 {
        self.tick_ms
    }

    /// Sets a timer for `at_ms`; one in the past fires at the next [`Wheel::advance`]. One that
    /// lies more than a turn ahead goes round as often as it must.
    pub fn set(&mut self, key: TimerKey, at_ms: u64) {
        let tick = at_ms.div_ceil(self.tick_ms);
        let ahead = tick.saturating_sub(self.now_tick + 1) as usize;
        let last = self.slots.len() - 1;
        self.slots[ahead.min(last)].push((key, at_ms));
    }

    /// Moves on to `now_ms` and hands out everything due by then, in no order that may matter.
    pub fn advance(&mut self, now_ms: u64, mut fire: impl FnMut(TimerKey)) {
        let target = now_ms / self.tick_ms;
        while self.now_tick < target {
            self.now_tick += 1;
            let due = self.slots.pop_front().unwrap_or_default();
            self.slots.push_back(Vec::new());
            for (key, at_ms) in due {
                if at_ms <= now_ms {
                    fire(key);
                } else {
                    self.set(key, at_ms);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(slot: u32) -> TimerKey {
        TimerKey {
            slot,
            generation: 0,
        }
    }

    fn fired(wheel: &mut Wheel, now_ms: u64) -> Vec<u32> {
        let mut slots = Vec::new();
        wheel.advance(now_ms, |key| slots.push(key.slot));
        slots
    }

    #[test]
    fn a_timer_fires_once_not_early_and_at_most_a_tick_late() {
        let mut wheel = Wheel::new(100, 8, 0);
        wheel.set(key(1), 250);
        assert_eq!(fired(&mut wheel, 249), [] as [u32; 0]);
        assert_eq!(fired(&mut wheel, 300), [1]);
        assert_eq!(fired(&mut wheel, 10_000), [] as [u32; 0]);
    }

    #[test]
    fn a_timer_further_than_a_turn_goes_round() {
        let mut wheel = Wheel::new(10, 4, 0);
        wheel.set(key(1), 1_005);
        let mut last = Vec::new();
        for now in (0..=1_000).step_by(10) {
            last = fired(&mut wheel, now);
            assert!(last.is_empty(), "fired at {now}");
        }
        assert_eq!(fired(&mut wheel, 1_010), [1]);
        assert!(last.is_empty());
    }

    #[test]
    fn a_timer_in_the_past_fires_at_the_next_tick() {
        let mut wheel = Wheel::new(10, 4, 1_000);
        wheel.set(key(1), 5);
        assert_eq!(fired(&mut wheel, 1_010), [1]);
    }

    #[test]
    fn a_long_pause_fires_everything_that_came_due() {
        let mut wheel = Wheel::new(10, 4, 0);
        for slot in 0..50 {
            wheel.set(key(slot), u64::from(slot) * 7);
        }
        let mut slots = fired(&mut wheel, 1_000);
        slots.sort_unstable();
        assert_eq!(slots, (0..50).collect::<Vec<_>>());
    }
}
