//! The Raft groups of a node: each replicates a [`Machine`](crate::Machine), all of them share one
//! log.

mod async_runtime;
mod attempt;
mod blocking;
mod catch_up;
mod codec;
mod config;
mod control;
mod copies;
mod driver;
mod failure;
mod group;
mod hold;
mod log_store;
mod marker;
mod members;
mod network;
mod node;
mod receiving;
mod recovery;
mod replica;
mod rows;
mod sending;
mod serving;
mod start;
mod state_machine;
mod traffic;
mod transfer;
mod types;
mod wire;

#[cfg(test)]
mod bench_test;
#[cfg(test)]
mod bytes_bench_test;
#[cfg(test)]
mod codec_test;
#[cfg(test)]
mod crash_test;
#[cfg(test)]
mod full_disk_test;
#[cfg(test)]
mod group_crash_test;
#[cfg(test)]
mod members_bench_test;
#[cfg(test)]
mod members_chaos_test;
#[cfg(test)]
mod members_test;
#[cfg(test)]
mod node_test;
#[cfg(test)]
mod recovery_test;
#[cfg(test)]
mod session_crash_test;
#[cfg(test)]
mod suite_test;
#[cfg(test)]
mod test_machine;
#[cfg(test)]
mod test_members;
#[cfg(test)]
mod test_node;
#[cfg(test)]
mod test_shard;
#[cfg(test)]
mod wire_test;

pub use config::RaftConfig;
pub use control::{Boxed, Claim, ControlError, GroupControl, Leader};
pub use failure::{CloseError, Fatal, OpenError};
pub use group::{Group, GroupStatus, Unproposed};
pub use hold::HoldLimits;
pub use members::{CHANNELS, RemoveError};
pub use node::{RaftNode, StateCounters};
pub use recovery::Recovery;
pub use traffic::{Traffic, Way};
#[doc(hidden)]
pub use wire::reread;
