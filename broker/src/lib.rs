//! Listeners, connection actors, router, session shards' hosts and the admin HTTP of one node.
//!
//! In the order in which a PUBLISH meets them: a [`listener`] deals an accepted socket to an
//! [`io`] thread; there a connection actor runs it through `mqtt` and `session`; its fan-out
//! matches the [`routes`] and puts batches on their way to other connections, to session
//! [`shard`]s and to the telemetry line of `bridge`. [`Node`] starts, wires and stops all of it.

pub mod config;
mod counters;
mod data_folder;
mod defects;
mod exits;
mod groups;
mod http;
mod ids;
mod io;
mod listener;
mod memory;
mod node;
mod routes;
mod shard;

pub use config::{Config, ConfigError};
pub use data_folder::FolderError;
pub use defects::Defects;
pub use groups::GroupsError;
pub use node::{Node, StartError};
