//! The Raft groups of a node: each replicates a [`Machine`](crate::Machine), all of them share one
//! log.

mod catch_up;
mod codec;
mod driver;
mod failure;
mod group;
mod log_store;
mod network;
mod node;
mod replica;
mod state_machine;
mod types;

#[cfg(test)]
mod bench_test;
#[cfg(test)]
mod crash_test;
#[cfg(test)]
mod full_disk_test;
#[cfg(test)]
mod node_test;
#[cfg(test)]
mod session_crash_test;
#[cfg(test)]
mod suite_test;
#[cfg(test)]
mod test_machine;
#[cfg(test)]
mod test_node;

pub use failure::{CloseError, Fatal, OpenError};
pub use group::{Group, GroupStatus, Unproposed};
pub use node::{RaftConfig, RaftNode, StateCounters};
