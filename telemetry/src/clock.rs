//! The clock guard: which event times are believed.

/// How far before its receipt a row may lie: 30 days, in milliseconds.
pub const PAST_MAX_MS: i64 = 30 * 24 * 60 * 60 * 1000;

/// How far after its receipt a row may lie: 60 seconds, in milliseconds.
pub const FUTURE_MAX_MS: i64 = 60 * 1000;

/// Checks an event time against the time of receipt, both in milliseconds since the Unix epoch.
///
/// Seconds and microseconds mistaken for milliseconds fall outside. A time outside is never
/// replaced by the receive time: a re-send could not meet it.
///
/// # Errors
/// [`Implausible`] when `ts_ms` is outside −30 d … +60 s of `received_ms` (the bounds are inside).
pub fn check(ts_ms: i64, received_ms: i64) -> Result<(), Implausible> {
    let plausible =
        received_ms.saturating_sub(PAST_MAX_MS)..=received_ms.saturating_add(FUTURE_MAX_MS);
    if plausible.contains(&ts_ms) {
        Ok(())
    } else {
        Err(Implausible { ts_ms, received_ms })
    }
}

/// An event time too far from the time of receipt; the row was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ts {ts_ms} is outside -30 d to +60 s of the receive time {received_ms}")]
pub struct Implausible {
    /// The event time, milliseconds since the Unix epoch.
    pub ts_ms: i64,
    /// The time of receipt, milliseconds since the Unix epoch.
    pub received_ms: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    #[test]
    fn both_bounds_are_inside() {
        assert!(check(NOW - PAST_MAX_MS, NOW).is_ok());
        assert!(check(NOW + FUTURE_MAX_MS, NOW).is_ok());
        assert!(check(NOW - PAST_MAX_MS - 1, NOW).is_err());
        assert!(check(NOW + FUTURE_MAX_MS + 1, NOW).is_err());
    }

    #[test]
    fn seconds_and_microseconds_are_outside() {
        assert!(check(NOW / 1000, NOW).is_err());
        assert!(check(NOW * 1000, NOW).is_err());
        assert!(check(0, NOW).is_err());
    }

    #[test]
    fn extreme_times_do_not_overflow() {
        assert!(check(i64::MIN, i64::MAX).is_err());
        assert!(check(i64::MAX, i64::MIN).is_err());
        assert!(check(i64::MAX, i64::MAX).is_ok());
        assert!(check(i64::MIN, i64::MIN).is_ok());
    }
}
