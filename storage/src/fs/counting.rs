//! A file system that counts what is written, and lets writers wait for each other, for benches.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Error, File, FolderLock, Fs, LockError, RealFs};

/// The real file system, and what was written through it. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct CountingFs {
    counts: Arc<Counts>,
}

/// What was written to files, or to some of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Bytes that [`File::write_at`] was given.
    pub bytes: u64,
    /// Calls of [`File::sync_data`].
    pub syncs: u64,
}

#[derive(Debug, Default)]
struct Counts {
    now: Mutex<Now>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Now {
    /// Of databases (`*.redb`), and of all other files.
    databases: Written,
    others: Written,
    is_held: bool,
    /// Calls of `sync_data` that wait.
    waiting: u64,
}

impl CountingFs {
    /// What was written to databases (`*.redb`).
    #[must_use]
    pub fn databases(&self) -> Written {
        self.now().databases
    }

    /// What was written to all other files.
    #[must_use]
    pub fn others(&self) -> Written {
        self.now().others
    }

    /// From now on nothing is synced: whoever syncs waits for [`release`](Self::release). What is
    /// handed to a writer that waits goes to the disk together.
    pub fn hold(&self) {
        self.now().is_held = true;
    }

    /// Waits until somebody syncs and is held.
    pub fn until_held(&self) {
        let mut now = self.now();
        while now.waiting == 0 {
            let waited = self.counts.changed.wait(now);
            now = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets go whoever waits.
    pub fn release(&self) {
        self.now().is_held = false;
        self.counts.changed.notify_all();
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.counts.now()
    }

    fn counting(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        let is_database = file.path().extension().is_some_and(|end| end == "redb");
        Arc::new(CountingFile {
            file,
            is_database,
            counts: Arc::clone(&self.counts),
        })
    }
}

impl Counts {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Now {
    fn of(&mut self, is_database: bool) -> &mut Written {
        match is_database {
            true => &mut self.databases,
            false => &mut self.others,
        }
    }
}

impl Fs for CountingFs {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        RealFs.create(path).map(|file| self.counting(file))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        RealFs.open(path).map(|file| self.counting(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        RealFs.rename(from, to)
    }

    fn unlink(&self, path: &Path) -> Result<(), Error> {
        RealFs.unlink(path)
    }

    fn sync_dir(&self, folder: &Path) -> Result<(), Error> {
        RealFs.sync_dir(folder)
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>, Error> {
        RealFs.list(folder)
    }

    fn exists(&self, path: &Path) -> Result<bool, Error> {
        RealFs.exists(path)
    }

    fn create_dir_all(&self, folder: &Path) -> Result<(), Error> {
        RealFs.create_dir_all(folder)
    }

    fn lock(&self, folder: &Path) -> Result<Box<dyn FolderLock>, LockError> {
        RealFs.lock(folder)
    }
}

#[derive(Debug)]
struct CountingFile {
    file: Arc<dyn File>,
    is_database: bool,
    counts: Arc<Counts>,
}

impl File for CountingFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.counts.now().of(self.is_database).bytes += bytes.len() as u64;
        self.file.write_at(offset, bytes)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        self.file.read_at(offset, buffer)
    }

    fn sync_data(&self) -> Result<(), Error> {
        let mut now = self.counts.now();
        now.of(self.is_database).syncs += 1;
        now.waiting += 1;
        self.counts.changed.notify_all();
        while now.is_held {
            let waited = self.counts.changed.wait(now);
            now = waited.unwrap_or_else(PoisonError::into_inner);
        }
        now.waiting -= 1;
        drop(now);
        self.file.sync_data()
    }

    fn preallocate(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.file.preallocate(offset, len)
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.file.set_len(len)
    }

    fn len(&self) -> Result<u64, Error> {
        self.file.len()
    }

    fn path(&self) -> &Path {
        self.file.path()
    }
}
