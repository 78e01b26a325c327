//! Chaos: a cluster of real processes, a workload with a recorded history, faults by a scenario, and
//! checkers of what was promised.
//!
//! [`history`] is what each client did and saw, [`checkers`] compare it with what was promised.

#![forbid(unsafe_code)]

pub mod checkers;
pub mod history;
