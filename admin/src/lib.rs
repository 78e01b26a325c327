//! Types of the admin API and its client.

pub mod query;

pub mod bridge;
pub mod client;
pub mod cluster;
pub mod health;
pub mod memory;
pub mod node;
pub mod parameters;
pub mod question;
pub mod retained;
pub mod session;
pub mod shard;
pub mod sub;
pub mod time;
pub mod trace;
pub mod tsdb;

use serde::{Deserialize, Serialize};

/// What the admin API answers with a status of 400 and above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What is wrong, naming the value, and what to do.
    pub error: String,
}
