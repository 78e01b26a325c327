//! Reads of the Raft log under which the log is changed, at the worst moment and every time.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tidewire_storage::fs::{Error, FaultFs, File, FolderLock, Fs, LockError};
use tidewire_storage::raft::{Config, GroupId, RaftLog};

use crate::raft::{ALL, FOLDER, append, entries, entry, segments, small, until};

const ONE: GroupId = GroupId(1);

type Hook = Box<dyn FnOnce() + Send>;

/// A disk that does something else before it opens a file.
#[derive(Clone)]
struct Meddling {
    fs: FaultFs,
    hook: Arc<Mutex<Option<Hook>>>,
}

impl fmt::Debug for Meddling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fs.fmt(f)
    }
}

impl Fs for Meddling {
    fn open(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        let hook = self.hook.lock().expect("unpoisoned").take();
        if let Some(hook) = hook {
            hook();
        }
        self.fs.open(path)
    }

    fn create(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        self.fs.create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        self.fs.rename(from, to)
    }

    fn unlink(&self, path: &Path) -> Result<(), Error> {
        self.fs.unlink(path)
    }

    fn sync_dir(&self, folder: &Path) -> Result<(), Error> {
        self.fs.sync_dir(folder)
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>, Error> {
        self.fs.list(folder)
    }

    fn exists(&self, path: &Path) -> Result<bool, Error> {
        self.fs.exists(path)
    }

    fn create_dir_all(&self, folder: &Path) -> Result<(), Error> {
        self.fs.create_dir_all(folder)
    }

    fn lock(&self, folder: &Path) -> Result<Box<dyn FolderLock>, LockError> {
        self.fs.lock(folder)
    }
}

fn open(config: &Config) -> (Meddling, Arc<RaftLog>) {
    let fs = Meddling {
        fs: FaultFs::new(1),
        hook: Arc::default(),
    };
    let log = RaftLog::open(Arc::new(fs.clone()), Path::new(FOLDER), config, |_| {});
    (fs, Arc::new(log.expect("an empty disk")))
}

fn uncached() -> Config {
    Config {
        cache_bytes_limit: 0,
        read_cache_bytes_limit: 0,
        ..small()
    }
}

#[test]
fn a_truncation_under_a_read_is_seen_whole() {
    let (fs, log) = open(&Config {
        segment_bytes: 1 << 20,
        ..uncached()
    });
    append(&log, ONE, &entries(1, 0..10));
    let meddler = Arc::clone(&log);
    *fs.hook.lock().expect("unpoisoned") = Some(Box::new(move || {
        meddler.truncate(ONE, 3).expect("open");
        append(&meddler, ONE, &entries(2, 3..6));
    }));

    let read = log.entries(ONE, ALL, usize::MAX).expect("readable");

    assert_eq!(read, [entries(1, 0..3), entries(2, 3..6)].concat());
}

#[test]
fn a_segment_that_is_removed_under_a_read_was_purged() {
    let (fs, log) = open(&uncached());
    for round in 0..10 {
        append(&log, ONE, &entries(1, round * 10..round * 10 + 10));
    }
    let (meddler, disk) = (Arc::clone(&log), fs.fs.clone());
    *fs.hook.lock().expect("unpoisoned") = Some(Box::new(move || {
        meddler.purge(ONE, entry(1, 95, 0).id).expect("open");
        let oldest = segments(&disk).remove(0);
        until("the oldest segment is removed", || {
            !segments(&disk).contains(&oldest)
        });
    }));

    let read = log.entries(ONE, ALL, usize::MAX).expect("readable");

    assert_eq!(read, entries(1, 96..100));
}
