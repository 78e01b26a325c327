//! The store of a stopped node, read as it lies: its segments, and the records of its own log that
//! no segment of its own holds. Of several nodes each has a part: its store that of its buckets, and
//! its log what its clients sent last.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use admin::query::QueryAnswer;
use serde::Deserialize;
use storage::fs::{FolderLock, Fs, RealFs};
use storage::log::{self, EmbeddedLog, Incarnation, Start, StoredRecord};
use storage::tsdb::{self, Tsdb};
use telemetry::payload::Decoder;
use telemetry::{DeviceId, Stamp};

use crate::embedded::SOURCE;
use crate::overlay::Overlay;
use crate::query::{self, QueryError, QueryRequest};

/// Bytes of records taken from the log at once.
const READ_BYTES: usize = 4 << 20;

/// Reads in a row that may give nothing although records are due; each passes 8 MiB of the log.
const EMPTY_READS_MAX: u32 = 100_000;

/// Says that the folder of a stopped node cannot be read; names folder or file and the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {what}", path.display())]
pub struct StoppedError {
    path: PathBuf,
    what: String,
}

impl StoppedError {
    #[expect(
        clippy::needless_pass_by_value,
        reason = "errors come straight out of map_err"
    )]
    fn new(path: &Path, what: impl ToString) -> Self {
        Self {
            path: path.to_owned(),
            what: what.to_string(),
        }
    }
}

/// What a node fixed when it created its folder, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Identity {
    buckets: u16,
}

/// Is the store in the data folder of a node that does not run.
#[derive(Debug)]
pub struct StoppedNode {
    tsdb: Tsdb,
    path: PathBuf,
    buckets: u16,
    /// No node may start on the folder meanwhile.
    _lock: Box<dyn FolderLock>,
}

impl StoppedNode {
    /// Opens the store and takes into its head, in memory, what only the log holds. Nothing on
    /// disk is changed but the lock files; what a start of the node would recover is recovered in
    /// memory.
    ///
    /// # Errors
    /// Not the folder of a node, a node serves from it, or its files cannot be read.
    pub fn open(data: &Path) -> Result<Self, StoppedError> {
        let identity = data.join("node.json");
        let text = std::fs::read_to_string(&identity)
            .map_err(|error| StoppedError::new(&identity, error))?;
        let Identity { buckets } =
            serde_json::from_str(&text).map_err(|error| StoppedError::new(&identity, error))?;
        let path = data.join("tsdb");
        if !path.is_dir() {
            return Err(StoppedError::new(
                data,
                "the node has no store: tsdb is missing",
            ));
        }
        // Recovery and replay change files; those changes are for this process alone.
        let fs: Arc<dyn Fs> = Arc::new(Overlay::over(Arc::new(RealFs)));
        let lock = fs
            .lock(data)
            .map_err(|error| StoppedError::new(data, error))?;
        // Neither merges nor seals happen here, so their sizes do not matter.
        let config = tsdb::Config {
            buckets,
            ..tsdb::Config::default()
        };
        let tsdb = Tsdb::open(Arc::clone(&fs), &path, config)
            .map_err(|error| StoppedError::new(data, error))?;
        let store = Self {
            tsdb,
            path,
            buckets,
            _lock: lock,
        };
        let log = data.join("log");
        if log.is_dir() {
            store.replay(fs, &log, buckets)?;
        }
        Ok(store)
    }

    fn replay(&self, fs: Arc<dyn Fs>, path: &Path, buckets: u16) -> Result<(), StoppedError> {
        let failed = |what: String| StoppedError::new(path, what);
        let config = log::Config {
            partitions: buckets,
            ..log::Config::default()
        };
        let log = EmbeddedLog::open(fs, path, config, |fatal| {
            tracing::error!(%fatal, "the log of the stopped node failed");
        })
        .map_err(|error| failed(error.to_string()))?;
        let offsets = self
            .tsdb
            .replay_offsets()
            .map_err(|error| self.failed(&error))?;
        let starts = (0..buckets).map(|partition| {
            offsets
                .iter()
                .find(|stored| stored.partition == partition && stored.source == SOURCE)
                .map_or(
                    Start {
                        partition,
                        offset: log.start(partition),
                        incarnation: None,
                    },
                    |stored| Start {
                        partition,
                        offset: stored.offset,
                        incarnation: Some(Incarnation::new(stored.incarnation)),
                    },
                )
        });
        let mut consumer = log.consumer();
        consumer
            .assign(starts.collect())
            .map_err(|error| failed(error.to_string()))?;
        let mut decoder = Decoder::new();
        let ends = log.ends();
        let mut empty_reads = 0;
        loop {
            let behind = consumer
                .positions()
                .iter()
                .any(|(partition, next)| *next < ends[usize::from(*partition)]);
            if !behind {
                break;
            }
            let records = consumer
                .poll(READ_BYTES, Duration::ZERO)
                .map_err(|error| failed(error.to_string()))?;
            empty_reads = if records.is_empty() {
                empty_reads + 1
            } else {
                0
            };
            if empty_reads > EMPTY_READS_MAX {
                return Err(failed(
                    "records before its end cannot be reached".to_owned(),
                ));
            }
            for record in &records {
                self.take(record, &mut decoder)?;
            }
        }
        log.close();
        Ok(())
    }

    /// Takes a record as the node's writer does. What cannot be decoded is no point: the node
    /// puts it to its dead letters.
    fn take(&self, stored: &StoredRecord, decoder: &mut Decoder) -> Result<(), StoppedError> {
        let record = &stored.record;
        let Ok(device) = DeviceId::from_bytes(&record.key) else {
            return Ok(());
        };
        let Ok(decoded) = decoder.decode_json(&record.payload, record.received_ms) else {
            return Ok(());
        };
        let stamp = Stamp {
            received_ms: record.received_ms,
            node: record.node,
            sequence: stored.offset,
        };
        self.tsdb
            .insert(record.partition, &device, &decoded.row, stamp)
            .map_err(|error| self.failed(&error))?;
        Ok(())
    }

    fn failed(&self, error: &tsdb::Error) -> StoppedError {
        StoppedError::new(&self.path, error)
    }

    /// Is the hot store, its head filled from the log.
    pub fn tsdb(&self) -> &Tsdb {
        &self.tsdb
    }

    /// Answers a question; never partial, since nothing is on its way.
    ///
    /// # Errors
    /// [`QueryError::Device`], [`QueryError::Store`].
    pub fn query(&self, request: &QueryRequest) -> Result<QueryAnswer, QueryError> {
        let device = DeviceId::parse(&request.device)
            .map_err(|error| QueryError::Device(error.to_string()))?;
        let bucket = telemetry::bucket_of(device.as_bytes(), u32::from(self.buckets));
        query::read(&self.tsdb, bucket, &device, request)
            .map_err(|error| QueryError::Store(error.to_string()))
    }
}
