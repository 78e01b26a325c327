//! Chaos: a cluster of real processes, a workload with a recorded history, faults by a scenario, and
//! checkers of what was promised.
//!
//! [`workload`] lets clients of the crate's own publish and receive, [`history`] is what each of them did
//! and saw, [`checkers`] compare it with what was promised.

#![forbid(unsafe_code)]

mod client;

pub mod checkers;
pub mod history;
pub mod workload;
