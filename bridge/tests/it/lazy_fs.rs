//! A disk on which the log's fsync is slow: it lets the store commit first, if the store has
//! anything to commit. A reader that is ahead of the fsync then stores what a crash takes away.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use storage::fs::{Error, FaultFs, File, FolderLock, Fs, LockError};

/// Turns that the log's fsync gives to the store before it goes on anyway.
const TURNS: u32 = 3_000;

#[derive(Debug)]
pub(crate) struct LazyFs {
    disk: FaultFs,
    manifest_syncs: Arc<AtomicU64>,
}

impl LazyFs {
    pub(crate) fn over(disk: &FaultFs) -> Self {
        Self {
            disk: disk.clone(),
            manifest_syncs: Arc::default(),
        }
    }

    fn wrap(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(LazyFile {
            file,
            disk: self.disk.clone(),
            syncs: Arc::clone(&self.manifest_syncs),
        })
    }
}

impl Fs for LazyFs {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        self.disk.create(path).map(|file| self.wrap(file))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        self.disk.open(path).map(|file| self.wrap(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        self.disk.rename(from, to)
    }

    fn unlink(&self, path: &Path) -> Result<(), Error> {
        self.disk.unlink(path)
    }

    fn sync_dir(&self, folder: &Path) -> Result<(), Error> {
        self.disk.sync_dir(folder)
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>, Error> {
        self.disk.list(folder)
    }

    fn exists(&self, path: &Path) -> Result<bool, Error> {
        self.disk.exists(path)
    }

    fn create_dir_all(&self, folder: &Path) -> Result<(), Error> {
        self.disk.create_dir_all(folder)
    }

    fn lock(&self, folder: &Path) -> Result<Box<dyn FolderLock>, LockError> {
        self.disk.lock(folder)
    }
}

#[derive(Debug)]
struct LazyFile {
    file: Arc<dyn File>,
    disk: FaultFs,
    syncs: Arc<AtomicU64>,
}

impl File for LazyFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_at(offset, bytes)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        self.file.read_at(offset, buffer)
    }

    fn sync_data(&self) -> Result<(), Error> {
        let path = self.file.path();
        if path.ends_with("tsdb/manifest.redb") {
            let synced = self.file.sync_data();
            self.syncs.fetch_add(1, Ordering::SeqCst);
            return synced;
        }
        if path.parent().is_some_and(|folder| folder.ends_with("log")) {
            let before = self.syncs.load(Ordering::SeqCst);
            let mut turns = 0;
            while turns < TURNS
                && self.syncs.load(Ordering::SeqCst) == before
                && !self.disk.is_frozen()
            {
                std::thread::yield_now();
                turns += 1;
            }
        }
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
