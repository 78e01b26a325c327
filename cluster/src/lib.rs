//! Raft groups of a node: their log, their state files, and the machines that they replicate; and the
//! links between nodes.

pub mod control;
pub mod exchange;
pub mod link;
mod machine;
mod machines;
pub mod member;
pub mod raft;
mod stored;

pub use machine::{Damaged, Machine};
pub use machines::*;
pub use stored::*;
