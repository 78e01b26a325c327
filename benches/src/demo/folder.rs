//! The folder of a demo: where its parts lie, and the record of how it went.
//!
//! | name | what |
//! |---|---|
//! | `demo.json` | [`Record`], written at the start and again at the end |
//! | `ledger` | what was sent and acknowledged, see [`crate::ledger`] |
//! | `node-1` | data folder of the first node; `node-2` and so on of the others |
//! | `node-1.toml`, `node-1.log` | its configuration, and what it wrote to standard error |

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use crate::pairs;

/// Version of [`Record`].
const VERSION: u32 = 1;

/// Is where the messages of a demo went instead of into the node's own log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// Addresses of its brokers.
    pub bootstrap: String,
    /// The topic, of this demo alone.
    pub topic: String,
}

/// Says what several nodes did beside storing points.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterRecord {
    /// The node that was killed.
    pub killed: Option<u32>,
    /// Seconds from the kill until every living node named another leader for every shard; at most
    /// 600 ms too long, for that is how old their answers may be.
    pub led_again_s: Option<f64>,
    /// Seconds from the new start of the killed node until it said that it is ready.
    pub ready_again_s: Option<f64>,
    /// Acknowledged points that the nodes did not answer, whichever of them was asked.
    pub lost_in_answers: u64,
    /// Messages through sessions, and what became of them.
    pub sessions: pairs::Summary,
}

/// Says how a demo went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Version of this record.
    pub version: u32,
    /// Number of nodes.
    pub nodes: u32,
    /// Number of devices.
    pub devices: u32,
    /// Seed of the run.
    pub seed: u64,
    /// Absent: through the node's embedded log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<Kafka>,
    /// True when the demo reached its end, so that ledger and counters are whole; through Kafka
    /// also that the store had sealed everything, so that the folder alone says what it has.
    pub complete: bool,
    /// Acknowledged points per second.
    pub points_per_s: f64,
    /// 99th percentile from PUBLISH to PUBACK in milliseconds.
    pub p99_ms: f64,
    /// Connections made after one that was lost.
    pub reconnects: u64,
    /// Bytes of merged blocks per point, if anything was merged.
    pub bytes_per_point: Option<f64>,
    /// Points that the node counted as new, for each of its processes (one, or two with
    /// `--kill`; what the first counted is read shortly before it is killed). After a restart a
    /// node counts rows again that no segment held, so the counts are not a sum. Of several nodes
    /// it is one count: the sum over all of them, with the greater one of a node that was killed.
    pub points_counted_as_new: Vec<u64>,
    /// What concerns several nodes; absent for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterRecord>,
}

impl Record {
    /// Creates the record of a demo that begins.
    #[must_use]
    pub fn new(nodes: u32, devices: u32, seed: u64) -> Self {
        Self {
            version: VERSION,
            nodes,
            devices,
            seed,
            ..Self::default()
        }
    }
}

/// Is the folder of a demo.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Names the folder without touching it.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Takes a folder for a new demo: creates it, or takes it if it is empty.
    ///
    /// # Errors
    /// [`Error::Usage`] when it holds something or cannot be created.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let cannot = |error: io::Error| Error::Usage(format!("--data {}: {error}", path.display()));
        std::fs::create_dir_all(path).map_err(cannot)?;
        if std::fs::read_dir(path).map_err(cannot)?.next().is_some() {
            return Err(Error::Usage(format!(
                "--data {}: the folder is not empty; name another, or check the demo in it with demo --check",
                path.display()
            )));
        }
        // The node is started with other paths relative to nothing: make this one absolute.
        Ok(Self {
            path: path.canonicalize().map_err(cannot)?,
        })
    }

    /// Returns the path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of the ledger.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.path.join("ledger")
    }

    /// Returns the data folder of a node; numbers begin at 1.
    #[must_use]
    pub fn node_data(&self, node: u32) -> PathBuf {
        self.path.join(format!("node-{node}"))
    }

    /// Returns the path of a node's configuration.
    #[must_use]
    pub fn node_config(&self, node: u32) -> PathBuf {
        self.path.join(format!("node-{node}.toml"))
    }

    /// Returns the path of what a node logs.
    #[must_use]
    pub fn node_log(&self, node: u32) -> PathBuf {
        self.path.join(format!("node-{node}.log"))
    }

    fn record_path(&self) -> PathBuf {
        self.path.join("demo.json")
    }

    /// Reads the record.
    ///
    /// # Errors
    /// [`Error::Usage`] when there is none, [`Error::Failed`] when it cannot be read.
    pub fn read_record(&self) -> Result<Record, Error> {
        let path = self.record_path();
        let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Usage(format!(
                "{}: not the folder of a demo, for it has no demo.json",
                self.path.display()
            )),
            _ => Error::Failed(format!("{}: {error}", path.display())),
        })?;
        let record: Record = serde_json::from_str(&text)
            .map_err(|error| Error::Failed(format!("{}: {error}", path.display())))?;
        if record.version != VERSION {
            return Err(Error::Failed(format!(
                "{}: version {}, this program reads version {VERSION}",
                path.display(),
                record.version
            )));
        }
        Ok(record)
    }

    /// Writes the record in place of the one before, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn write_record(&self, record: &Record) -> Result<(), Error> {
        let path = self.record_path();
        let beside = path.with_extension("json.new");
        let text = serde_json::to_string_pretty(record)
            .expect("a record has string keys and finite numbers only");
        std::fs::write(&beside, text)
            .and_then(|()| std::fs::rename(&beside, &path))
            .map_err(|error| Error::Failed(format!("{}: {error}", path.display())))
    }
}
