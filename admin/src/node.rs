//! What a node says about itself: `GET /v1/node`.

use serde::{Deserialize, Serialize};

/// A node's number, version and addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Node number.
    pub node: u32,
    /// Version of the program.
    pub version: String,
    /// Where MQTT clients connect.
    pub mqtt: String,
    /// Where the admin API answers.
    pub admin: String,
    /// Session shards.
    pub shards: u16,
    /// Telemetry buckets.
    pub buckets: u16,
    /// Device-owned templates of the cluster; an older node names none.
    #[serde(default)]
    pub device_templates: Vec<String>,
    /// Whether topics are telemetry here.
    pub telemetry: bool,
}
