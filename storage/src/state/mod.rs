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
pub use install::{Draft, Installation};
pub use policy::FlushPolicy;
pub use row::{Changes, Row};
pub use snapshot::{Rows, Snapshot};

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use redb::Durability;

use crate::fs::{File, Fs};
use crate::raft::LogId;
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
    /// What is wrong with it is known to it; none while it is opened again.
    open: Option<Arc<OpenFile>>,
    file: Arc<dyn File>,
    applied: Option<Applied>,
    flushed: Option<Applied>,
    /// Of the draft that there is.
    draft: Weak<()>,
}

/// Readings of one call; each but the first follows another file in the place of the one before.
const READINGS_MAX: usize = 4;

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
                file: open.file(),
                open: Some(Arc::new(open)),
                flushed: applied.clone(),
                applied,
                draft: Weak::new(),
            }),
        })
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        // It is only ever replaced whole.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn database(&self) -> Result<Arc<OpenFile>, Error> {
        let open = self.current().open.clone();
        open.ok_or_else(|| self.closed())
    }

    fn closed(&self) -> Error {
        Error::Closed {
            path: self.path.clone(),
        }
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
    /// The changes are not taken. After [`Error::NoSpace`] nothing is until the file was opened
    /// again: [`StateFile::reopen`]; after [`Error::Failed`] nothing is any more.
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
        let open = self.database()?;
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
            self.database()?
                .write(Durability::Immediate, &Changes::default(), None)?;
        }
        self.current().flushed.clone_from(&applied);
        Ok(applied)
    }

    /// Opens the file once more after [`Error::NoSpace`]: it is as it was flushed last, and what
    /// was applied since is to be applied again. The flush that was refused may have been whole all
    /// the same; then it counts. Reads the whole file and checks it; nothing is read meanwhile.
    ///
    /// # Errors
    /// [`Error::NoSpace`]: the file stays closed, to be opened again later. After any other the
    /// process is to end.
    pub fn reopen(&self) -> Result<(), Error> {
        let (before, file) = {
            let mut current = self.current();
            (current.open.take(), Arc::clone(&current.file))
        };
        if before.is_some_and(|open| open.has_failed()) {
            return Err(Error::Failed {
                path: self.path.clone(),
                what: "the disk has failed before".to_owned(),
            });
        }
        let open = OpenFile::again(&self.path, file, &self.config)?;
        let applied = open.read_applied(&open.begin_read()?)?;
        let mut current = self.current();
        if applied != current.flushed && applied != current.applied {
            return Err(Error::Damaged {
                path: self.path.clone(),
                what: "it was flushed further than it goes".to_owned(),
            });
        }
        current.applied.clone_from(&applied);
        current.flushed = applied;
        current.open = Some(Arc::new(open));
        Ok(())
    }

    /// Whether [`StateFile::reopen`] is to come before anything else.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.current().open.is_none()
    }

    /// The value of a row.
    ///
    /// # Errors
    /// As [`StateFile::read`].
    pub fn get(&self, kind: u8, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.read(|snapshot| snapshot.get(kind, key))
    }

    /// Reads from a view of the rows as they are now; anew if the file was opened again meanwhile.
    ///
    /// # Errors
    /// When the disk does not give what was written; [`Error::may_pass`] where the file is to be
    /// opened again first.
    pub fn read<T>(&self, read: impl Fn(&Snapshot) -> Result<T, Error>) -> Result<T, Error> {
        let mut reading = 1;
        loop {
            let open = self.database()?;
            let result = Snapshot::of(Arc::clone(&open)).and_then(|snapshot| read(&snapshot));
            let is_current = |current: &Arc<OpenFile>| Arc::ptr_eq(current, &open);
            let is_over = reading == READINGS_MAX
                || result.is_ok()
                || self.current().open.as_ref().is_some_and(is_current);
            if is_over {
                return result;
            }
            reading += 1;
        }
    }

    /// A view of the rows as they are now. It gives errors once the file was opened again.
    ///
    /// # Errors
    /// When the disk does not give what was written; [`Error::may_pass`] where the file is to be
    /// opened again first.
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        Snapshot::of(self.database()?)
    }

    /// Removes the file at `path`, and one that was being made for it, if they are there; durable
    /// when it returns. Who has it open reads on.
    ///
    /// # Errors
    /// Some of it may be there still: to be removed again.
    pub fn remove(fs: &dyn Fs, path: &Path) -> Result<(), Error> {
        if !fs.exists(folder(path))? {
            return Ok(());
        }
        install::remove_unfinished(fs, path)?;
        if fs.exists(path)? {
            fs.unlink(path)?;
        }
        Ok(fs.sync_dir(folder(path))?)
    }

    /// Begins a file that will replace this one: a snapshot that comes from elsewhere.
    ///
    /// # Errors
    /// This file is unchanged.
    pub fn install(&self) -> Result<Installation<'_>, Error> {
        Installation::new(self)
    }

    /// Begins a file that may take the place of this one later; as [`StateFile::install`], but held
    /// apart from this one.
    ///
    /// # Errors
    /// This file is unchanged; [`Error::Drafted`] while there is another.
    pub fn draft(&self) -> Result<Draft, Error> {
        let mut current = self.current();
        if current.draft.strong_count() > 0 {
            return Err(Error::Drafted {
                path: self.path.clone(),
            });
        }
        let draft = Draft::new(Arc::clone(&self.fs), &self.path, &self.config)?;
        current.draft = Arc::downgrade(&draft.token);
        Ok(draft)
    }

    /// Makes the rows of a draft of this file durable and puts them in its place; as
    /// [`Installation::finish`].
    ///
    /// # Errors
    /// As [`Installation::finish`].
    pub fn adopt(&self, draft: Draft, applied: &Applied) -> Result<(), Error> {
        let open = draft.finish(Some(applied))?;
        self.replace(open, applied);
        Ok(())
    }

    fn replace(&self, open: OpenFile, applied: &Applied) {
        let mut current = self.current();
        current.file = open.file();
        current.open = Some(Arc::new(open));
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
