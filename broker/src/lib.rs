//! Listeners, connection actors, router, session shards' hosts and the admin HTTP of one node.
//!
//! In the order in which a PUBLISH meets them: a [`listener`] deals a socket that [`admission`]
//! lets pass to an [`io`] thread; there a connection actor runs it through `mqtt` and `session`; its fan-out
//! matches the [`routes`] and puts batches on their way to other connections, to session
//! [`shard`]s and to the telemetry line of `bridge`. [`Node`] starts, wires and stops all of it.

mod admission;
mod buckets;
pub mod config;
mod control;
mod counters;
mod data_folder;
mod defects;
mod drain;
mod environment;
mod exits;
mod homes;
mod http;
mod ids;
mod io;
mod listener;
mod membership;
mod memory;
mod node;
mod peers;
mod rebalance;
mod references;
mod routes;
mod shard;
mod trace;
mod views;

pub use self::defects::Defects;
pub use cluster::control::ControlKind;
pub use config::{Config, ConfigError};
pub use data_folder::FolderError;
pub use environment::{Environment, Fatal, OnFatal};
pub use membership::MembershipError;
pub use node::{Node, StartError};
