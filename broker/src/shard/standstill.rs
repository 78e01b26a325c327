//! Whether this node may have stood still for so long that another one leads.

use cluster_core::BootMs;

/// An election begins 900 ms after the last word of a leader; who was away for less still leads.
const STOOD_STILL_MS: u64 = 800;
/// How long after that a leader is in doubt. What it has not read yet tells it within this time if there is
/// another.
const DOUBT_MS: u64 = 1_000;

/// Doubts a leadership after a pause of the process: what goes past the log goes by it alone.
#[derive(Debug)]
pub(super) struct Standstill {
    looked: BootMs,
    doubted_until: BootMs,
}

impl Standstill {
    pub(super) fn new(now: BootMs) -> Self {
        Self {
            looked: now,
            doubted_until: now,
        }
    }

    /// Is to be called several times in [`STOOD_STILL_MS`].
    pub(super) fn handle_tick(&mut self, now: BootMs) {
        if now.since_ms(self.looked) >= STOOD_STILL_MS {
            self.doubted_until = now.plus_ms(DOUBT_MS);
        }
        self.looked = now;
    }

    /// Whether another node may lead, unknown to this one.
    pub(super) fn is_in_doubt(&self, now: BootMs) -> bool {
        now < self.doubted_until || now.since_ms(self.looked) >= STOOD_STILL_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_seen_before_the_next_tick_and_doubted_for_a_while_after_it() {
        let at = BootMs;
        let mut standstill = Standstill::new(at(10_000));
        for ms in (10_250..12_000).step_by(250) {
            standstill.handle_tick(at(ms));
            assert!(!standstill.is_in_doubt(at(ms)));
        }

        assert!(
            standstill.is_in_doubt(at(16_000)),
            "what waited comes before the tick"
        );
        standstill.handle_tick(at(16_001));
        assert!(standstill.is_in_doubt(at(17_000)));
        standstill.handle_tick(at(16_500));
        standstill.handle_tick(at(17_001));
        assert!(!standstill.is_in_doubt(at(17_001)));
    }
}
