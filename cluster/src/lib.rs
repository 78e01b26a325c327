//! Raft groups of a node: their log, their state files, and the machines that they replicate.

mod machine;
mod machines;
pub mod raft;
mod stored;

pub use machine::{Damaged, Machine};
pub use machines::*;
pub use stored::*;
