//! What checks this repository: the words of `cargo xtask`, and what tests of other crates share with them.
//!
//! This crate has no dependencies, so that it builds in seconds on a bare machine and can say what is missing there.

pub mod words;

mod outcomes;
mod run;
mod tally;
mod target;
mod test;
mod tools;

pub mod kafka;
pub mod ports;
pub mod skip;

pub use skip::skip;

#[cfg(test)]
mod scratch;
