//! Where the memory of a node goes: `GET /v1/node/memory`.

use serde::{Deserialize, Serialize};

/// The plan of `memory_bytes_limit`, and what each part of it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The node.
    pub node: u32,
    /// What it may use, in bytes.
    pub limit_bytes: u64,
    /// Whether the configuration says so; else it is half of what machine and cgroup allow.
    pub is_configured: bool,
    /// Resident memory of the process; absent where the kernel does not say.
    pub resident_bytes: Option<u64>,
    /// Connections of clients, which are in no part.
    pub connections: u64,
    /// The parts.
    pub parts: Vec<Part>,
}

/// A part of the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What it is.
    pub part: String,
    /// What it holds now, in bytes, by account or by measured size a row; absent where nobody counts.
    pub used_bytes: Option<u64>,
    /// What it may hold; absent where only the number of rows bounds it.
    pub limit_bytes: Option<u64>,
    /// What happens at the limit.
    pub at_limit: String,
}
