//! The simulated fleet, the demo and its checker.
