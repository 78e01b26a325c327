//! Raft groups of a node: their log, their state files, and the machines that they replicate.

mod machine;
pub mod raft;
mod machines;
mod stored;

pub use machine::{Damaged, Machine};
pub use machines::*;
pub use stored::*;
