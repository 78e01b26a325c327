//! The state file of one shard: what its log amounts to, as rows of bytes, in one redb file.
//!
//! Changes are taken in memory with the entry that made them and reach the disk together at a
//! [`flush`](StateFile::flush), seldom and much; after a crash the file is as it was at the last
//! flush, and the log is replayed from there. `docs/formats/state-file.md` describes the bytes.

mod error;
mod install;
mod open_file;
mod policy;
mod row;
mod snapshot;

pub use error::Error;
pub use install::Installation;
pub use policy::FlushPolicy;
pub use row::{Changes, Row};
pub use snapshot::{Rows, Snapshot};

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use redb::Durability;

use crate::fs::Fs;
use crate::raft::LogId;
use install::Draft;
use open_file::OpenFile;

/// How a state file is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The version of what the rows mean, which is its owner's.
    pub version: u32,
    /// Bytes of pages in memory, changed ones among them.
    pub cache_bytes: usize,
    /// Sabotage; see [`Defects`].
    pub defects: Defects,
}

impl Config {
    /// The defaults, for a version.
    #[must_use]
    pub fn new(version: u32) -> Self {
        Self {
            version,
            cache_bytes: 16 << 20,
            defects: Defects::default(),
        }
    }
}

/// Mistakes to make on purpose, so that the crash tests can show that they would be found. No
/// configuration file reaches them; the default makes none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Defects {
    /// Answers a flush without having made anything durable.
    pub flush_without_fsync: bool,
    /// Takes the rows and the entry that made them in two transactions.
    pub rows_apart_from_applied: bool,
}

/// The last entry whose changes the rows hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Its name.
    pub id: LogId,
    /// What its owner keeps beside it, such as the membership as of that entry.
    pub opaque: Bytes,
}

/// The state file of one shard. Calls may come from any thread; those that change it are to come
/// from one. Every call blocks on the disk.
#[derive(Debug)]
pub struct StateFile {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    config: Config,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    open: Arc<OpenFile>,
    applied: Option<Applied>,
    flushed: Option<Applied>,
}

impl StateFile {
    /// Opens the file at `path`, creating it and its folder if they are absent. The folder is its
    /// owner's by some lock outside. Reads the whole file and checks it.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn open(fs: Arc<dyn Fs>, path: &Path, config: Config) -> Result<Self, Error> {
        fs.create_dir_all(folder(path))?;
        install::remove_unfinished(&*fs, path)?;
        let open = if fs.exists(path)? {
            // The rename that named it may not be durable yet.
            fs.sync_dir(folder(path))?;
            OpenFile::open(&*fs, path, &config)?
        } else {
            Draft::new(Arc::clone(&fs), path, &config)?.finish(None)?
        };
        let transaction = open.begin_read()?;
        let applied = open.read_applied(&transaction)?;
        drop(transaction);
        Ok(Self {
            fs,
            path: path.to_owned(),
            config,
            current: Mutex::new(Current {
                open: Arc::new(open),
                flushed: applied.clone(),
                applied,
            }),
        })
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        // It is only ever replaced whole.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn database(&self) -> Arc<OpenFile> {
        Arc::clone(&self.current().open)
    }

    /// The last entry whose changes it holds; after opening that of the last flush.
    #[must_use]
    pub fn applied(&self) -> Option<Applied> {
        self.current().applied.clone()
    }

    /// The last entry whose changes a crash leaves: the log may be purged up to it.
    #[must_use]
    pub fn flushed(&self) -> Option<Applied> {
        self.current().flushed.clone()
    }

    /// Takes changes together with the entry that made them, whole or not at all. They can be read
    /// at once, and are durable after the next flush.
    ///
    /// # Errors
    /// The changes are not taken; after [`Error::NoSpace`] and [`Error::Failed`] nothing is any more.
    ///
    /// # Panics
    /// If the entry does not lie behind the last one.
    pub fn apply(&self, changes: &Changes, applied: &Applied) -> Result<(), Error> {
        if let Some(before) = self.applied() {
            assert!(
                before.id.index < applied.id.index,
                "entry {} is applied behind {}",
                applied.id,
                before.id
            );
        }
        let open = self.database();
        if self.config.defects.rows_apart_from_applied {
            open.write(Durability::Immediate, changes, None)?;
            open.write(Durability::Immediate, &Changes::default(), Some(applied))?;
        } else {
            open.write(Durability::None, changes, Some(applied))?;
        }
        self.current().applied = Some(applied.clone());
        Ok(())
    }

    /// Makes everything taken so far durable; returns up to which entry.
    ///
    /// # Errors
    /// As [`StateFile::apply`].
    pub fn flush(&self) -> Result<Option<Applied>, Error> {
        let applied = self.applied();
        if applied == self.flushed() {
            return Ok(applied);
        }
        if !self.config.defects.flush_without_fsync {
            self.database()
                .write(Durability::Immediate, &Changes::default(), None)?;
        }
        self.current().flushed.clone_from(&applied);
        Ok(applied)
    }

    /// The value of a row.
    ///
    /// # Errors
    /// When the disk does not give what was written.
    pub fn get(&self, kind: u8, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.snapshot()?.get(kind, key)
    }

    /// A view of the rows as they are now.
    ///
    /// # Errors
    /// When the disk does not give what was written.
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        Snapshot::of(self.database())
    }

    /// Begins a file that will replace this one: a snapshot that comes from elsewhere.
    ///
    /// # Errors
    /// This file is unchanged.
    pub fn install(&self) -> Result<Installation<'_>, Error> {
        Installation::new(self)
    }

    fn replace(&self, open: OpenFile, applied: &Applied) {
        let mut current = self.current();
        current.open = Arc::new(open);
        current.applied = Some(applied.clone());
        current.flushed = Some(applied.clone());
    }
}

/// The folder of a file.
fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}
