//! Chaos: a cluster of real processes, a workload with a recorded history, faults by a scenario, and
//! checkers of what was promised.

#![forbid(unsafe_code)]
