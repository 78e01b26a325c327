//! How a cluster is, and what to do about it: `GET /v1/cluster/health`, `GET /v1/cluster/safe-to-stop`.

use serde::{Deserialize, Serialize};

use crate::cluster::NodeReport;
use crate::parameters::{ParameterError, number, pairs, query_of};

/// What was looked at, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The node that has looked.
    pub node: u32,
    /// Findings, by what was looked at.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What it is about.
    pub about: String,
    /// How it is.
    pub state: State,
    /// Whether it is a matter of the cluster: members, leaders, replicas. Others are of the machines
    /// and of how they are set up.
    pub of_cluster: bool,
    /// What was found.
    pub found: String,
    /// What to do; empty if nothing.
    pub todo: String,
}

/// How something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it is to be.
    #[default]
    Good,
    /// It works, with less in reserve than there is to be.
    Warning,
    /// Something is not served.
    Broken,
}

/// Whether a node may be stopped without anybody but its own clients noticing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SafeToStop {
    /// The node.
    pub node: u32,
    /// Whether it may.
    pub safe: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// What is away with it, until it is back.
    pub notes: Vec<String>,
}

/// What a node says of itself for these questions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vitals {
    /// Version, clock, memory, restarts.
    pub report: NodeReport,
    /// Whether it may promise anything.
    pub has_lease: bool,
    /// What it may use of memory, in bytes.
    pub memory_limit_bytes: u64,
    /// What it leads, and how many entries other replicas are behind.
    pub led: Vec<Led>,
    /// Shards whose log takes nothing from it.
    pub stuck: Vec<u16>,
    /// Whether a log or a state file waits for space.
    pub disk_full: bool,
    /// Of the file system of its data folder.
    pub disk: Option<Disk>,
    /// Descriptors that its process may hold.
    pub files_limit: Option<u64>,
    /// What is wrong with its way to Kafka or into the log.
    pub bridge: Vec<String>,
    /// Records in its spool that Kafka has not confirmed.
    pub spooled: u64,
    /// Records of its log that owners of their buckets have not read, owner and records.
    pub unread: Vec<(u32, u64)>,
    /// Logs of other nodes that it cannot pull from, node and why.
    pub unpulled: Vec<(u32, String)>,
    /// Buckets of telemetry that hold rows here.
    pub buckets_with_rows: u32,
}

/// A group, by its leader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Led {
    /// `meta`, `routes`, or the number of a shard.
    pub group: String,
    /// Node and entries.
    pub lags: Vec<(u32, u64)>,
}

/// Room on a file system, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Free for the node.
    pub free_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
}

/// Which node is to be stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SafeToStopQuestion {
    /// The node that is asked unless said.
    pub node: Option<u32>,
}

impl SafeToStopQuestion {
    /// Reads a query string.
    ///
    /// # Errors
    /// [`ParameterError`] naming the parameter.
    pub fn parse(query: &str) -> Result<Self, ParameterError> {
        let mut asked = Self::default();
        for (name, value) in pairs(query)? {
            match name.as_str() {
                "node" => asked.node = Some(number("node", &value, 1..=u32::MAX)?),
                _ => {
                    let known = "node";
                    return Err(ParameterError::Unknown { name, known });
                }
            }
        }
        Ok(asked)
    }

    /// Writes the query string that [`Self::parse`] reads.
    pub fn to_query(self) -> String {
        query_of([("node", self.node.map(|node| node.to_string()))])
    }
}
