//! The machine's monotonic clock, the same for all processes.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Returns nanoseconds of `CLOCK_MONOTONIC`.
#[must_use]
pub(super) fn now_ns() -> u64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Monotonic);
    tv_sec.cast_unsigned() * 1_000_000_000 + tv_nsec.cast_unsigned()
}

/// Returns a duration as the kernel takes it.
#[must_use]
pub(super) fn timespec(ns: u64) -> Timespec {
    Timespec {
        tv_sec: (ns / 1_000_000_000).cast_signed(),
        tv_nsec: (ns % 1_000_000_000).cast_signed(),
    }
}
