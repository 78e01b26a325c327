//! The stores of stopped nodes, as the check scans them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bridge::StoppedNode;
use serde::Deserialize;
use storage::fs::{FolderLock, Fs, RealFs};
use storage::tsdb::{self, Tsdb};
use tempfile::TempDir;

use super::Error;
use super::check::{Store, StoredPoint};

/// Is the store in the data folder of a lone node that does not run.
#[derive(Debug)]
pub(super) struct Scanned(StoppedNode);

impl Scanned {
    /// Opens the store and takes into its head, in memory, what only the log holds.
    pub(super) fn open(data: &Path) -> Result<Self, Error> {
        StoppedNode::open(data)
            .map(Self)
            .map_err(|error| Error::Failed(error.to_string()))
    }
}

impl Store for Scanned {
    fn for_each_point(&self, each: &mut dyn FnMut(StoredPoint<'_>)) -> Result<(), Error> {
        scan(self.0.tsdb(), each)
    }
}

/// Are the stores of all nodes of a cluster, of which none runs: their segments alone. What a log
/// holds may be another node's to store, so everything must be sealed.
#[derive(Debug)]
pub(super) struct Sealed(Vec<Segments>);

#[derive(Debug)]
struct Segments {
    tsdb: Tsdb,
    _copy: TempDir,
    /// No node may start on the folder meanwhile.
    _lock: Box<dyn FolderLock>,
}

impl Sealed {
    /// Opens copies of the stores in these data folders.
    pub(super) fn open(data: impl IntoIterator<Item = PathBuf>) -> Result<Self, Error> {
        let stores = data.into_iter().map(|data| {
            Segments::open(&data)
                .map_err(|what| Error::Failed(format!("{}: {what}", data.display())))
        });
        stores.collect::<Result<_, _>>().map(Self)
    }
}

/// What a node fixed when it created its folder, as far as it matters here.
#[derive(Deserialize)]
struct Identity {
    buckets: u16,
}

impl Segments {
    fn open(data: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(data.join("node.json"))
            .map_err(|error| format!("node.json: {error}"))?;
        let identity: Identity =
            serde_json::from_str(&text).map_err(|error| format!("node.json: {error}"))?;
        let lock = RealFs.lock(data).map_err(|error| error.to_string())?;
        let store = data.join("tsdb");
        if !store.is_dir() {
            return Err("the node has no store: tsdb is missing".to_owned());
        }
        // Opening a store mends and tidies it, which is not the check's to do.
        let copy = copy(&store).map_err(|error| format!("a copy of its store: {error}"))?;
        let config = tsdb::Config {
            buckets: identity.buckets,
            ..tsdb::Config::default()
        };
        let tsdb =
            Tsdb::open(Arc::new(RealFs), copy.path(), config).map_err(|error| error.to_string())?;
        Ok(Self {
            tsdb,
            _copy: copy,
            _lock: lock,
        })
    }
}

/// Copies a folder of files into a temporary one, without the notes of a disk under strain.
///
/// # Errors
/// A file cannot be read or written.
pub fn copy(folder: &Path) -> io::Result<TempDir> {
    let copy = tempfile::tempdir()?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && !storage::fs::is_note(&entry.file_name()) {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name()))?;
        }
    }
    Ok(copy)
}

impl Store for Sealed {
    fn for_each_point(&self, each: &mut dyn FnMut(StoredPoint<'_>)) -> Result<(), Error> {
        self.0.iter().try_for_each(|one| scan(&one.tsdb, each))
    }
}

fn scan(tsdb: &Tsdb, each: &mut dyn FnMut(StoredPoint<'_>)) -> Result<(), Error> {
    let scanned = tsdb.scan_raw(|point| {
        each(StoredPoint {
            device: point.device.as_str(),
            ts_ms: point.ts_ms,
            metric: point.metric,
            value: point.value,
        });
    });
    scanned.map_err(|error| Error::Failed(error.to_string()))
}
