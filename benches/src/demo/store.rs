//! The store of a stopped node, read as it lies: its segments, and the log's records that no
//! segment holds yet.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use storage::fs::{Fs, RealFs};
use storage::log::{self, EmbeddedLog, Incarnation, Start, StoredRecord};
use storage::tsdb::{self, Tsdb};
use telemetry::payload::Decoder;
use telemetry::{DeviceId, Stamp};

use super::Error;
use super::check::{Store, StoredPoint};

/// Bytes of records taken from the log at once.
const READ_BYTES: usize = 4 << 20;

/// Reads in a row that may give nothing although records are due; each passes 8 MiB of the log.
const EMPTY_READS_MAX: u32 = 100_000;

/// What a node fixed when it created its folder, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Identity {
    buckets: u16,
}

/// Is the store in the data folder of a node that does not run.
#[derive(Debug)]
pub(super) struct StoppedNode {
    tsdb: Tsdb,
    path: PathBuf,
}

impl StoppedNode {
    /// Opens the store and takes into its head, in memory, what only the log holds. As at a start
    /// of the node, a torn tail of the log is cut, and files that no manifest names are deleted;
    /// nothing is sealed or merged.
    pub(super) fn open(data: &Path) -> Result<Self, Error> {
        let identity = data.join("node.json");
        let failed = |what: String| Error::Failed(format!("{}: {what}", data.display()));
        let text = std::fs::read_to_string(&identity)
            .map_err(|error| Error::Failed(format!("{}: {error}", identity.display())))?;
        let Identity { buckets } = serde_json::from_str(&text)
            .map_err(|error| Error::Failed(format!("{}: {error}", identity.display())))?;
        let path = data.join("tsdb");
        if !path.is_dir() {
            return Err(failed("the node has no store: tsdb is missing".to_owned()));
        }
        let fs: Arc<dyn Fs> = Arc::new(RealFs);
        // Neither merges nor seals happen here, so their sizes do not matter.
        let config = tsdb::Config {
            buckets,
            ..tsdb::Config::default()
        };
        let tsdb = Tsdb::open(Arc::clone(&fs), &path, config)
            .map_err(|error| failed(error.to_string()))?;
        let store = Self { tsdb, path };
        let log = data.join("log");
        if log.is_dir() {
            store.replay(fs, &log, buckets)?;
        }
        Ok(store)
    }

    fn replay(&self, fs: Arc<dyn Fs>, path: &Path, buckets: u16) -> Result<(), Error> {
        let failed = |what: String| Error::Failed(format!("{}: {what}", path.display()));
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
                .find(|stored| stored.partition == partition)
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
    fn take(&self, stored: &StoredRecord, decoder: &mut Decoder) -> Result<(), Error> {
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

    fn failed(&self, error: &tsdb::Error) -> Error {
        Error::Failed(format!("{}: {error}", self.path.display()))
    }
}

impl Store for StoppedNode {
    fn for_each_point(&self, each: &mut dyn FnMut(StoredPoint<'_>)) -> Result<(), Error> {
        self.tsdb
            .scan_raw(|point| {
                each(StoredPoint {
                    device: point.device.as_str(),
                    ts_ms: point.ts_ms,
                    metric: point.metric,
                    value: point.value,
                });
            })
            .map_err(|error| self.failed(&error))
    }
}
