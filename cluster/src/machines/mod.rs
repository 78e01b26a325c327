//! The machines of the three sorts of groups: rules of the pure crates, between entries and rows.

#[cfg(test)]
mod kept_test;
mod meta;
#[cfg(test)]
mod meta_test;
mod routes;
#[cfg(test)]
mod routes_test;
mod shard;
#[cfg(test)]
mod shard_commands_test;
#[cfg(test)]
mod shard_test;

pub use meta::MetaMachine;
pub use routes::{RoutesConfig, RoutesMachine};
pub use shard::{Outcome, ShardConfig, ShardMachine};
