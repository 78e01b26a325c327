//! A real disk that is slow, and that a start finds as after a power cut: a process that was killed
//! alone loses nothing that the kernel has, so without this no kill shows who promised too early.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Error, File, FolderLock, Fs, LockError, RealFs};

/// What a file's note is called: how many of its bytes are synced.
const NOTE_END: &str = ".synced";

/// The real file system under a strain. Databases (`*.redb`) are only slow: they are written in
/// place, and see to what a crash leaves of them themselves.
///
/// Beside each file lies a note of how far it was synced. A process that opens the file for the first
/// time finds zeros behind that.
#[derive(Debug, Clone)]
pub struct FrailFs {
    sync_delay: Duration,
    cuts: bool,
    notes: Arc<Mutex<BTreeMap<PathBuf, Arc<Note>>>>,
}

#[derive(Debug)]
struct Note {
    written: AtomicU64,
    file: Arc<dyn File>,
}

impl FrailFs {
    /// A disk whose syncs take so much longer, and, with `cuts`, whose unsynced bytes are gone at the
    /// next start.
    #[must_use]
    pub fn new(sync_delay: Duration, cuts: bool) -> Self {
        Self {
            sync_delay,
            cuts,
            notes: Arc::default(),
        }
    }

    fn notes(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Arc<Note>>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_noted(&self, path: &Path) -> bool {
        self.cuts && path.extension().is_none_or(|end| end != "redb")
    }

    fn frail(&self, file: Arc<dyn File>, note: Option<Arc<Note>>) -> Arc<dyn File> {
        Arc::new(FrailFile {
            file,
            note,
            sync_delay: self.sync_delay,
        })
    }

    /// Cuts what a run before had not synced.
    fn found(&self, path: &Path, file: &dyn File) -> Result<Arc<Note>, Error> {
        let mut notes = self.notes();
        if let Some(note) = notes.get(path) {
            return Ok(Arc::clone(note));
        }
        let (place, len) = (note_of(path), file.len()?);
        let noted = match RealFs.exists(&place)? {
            true => synced(&RealFs.read(&place)?).min(len),
            // Made before there were notes: all of it counts.
            false => {
                RealFs.create(&place)?;
                len
            }
        };
        if noted < len {
            file.set_len(noted)?;
            file.set_len(len)?;
        }
        let note = Arc::new(Note {
            written: AtomicU64::new(noted),
            file: RealFs.open(&place)?,
        });
        note.write(noted)?;
        notes.insert(path.to_owned(), Arc::clone(&note));
        Ok(note)
    }
}

/// Whether a file of this name is such a note: it is no part of the folder in which it lies.
#[must_use]
pub fn is_note(name: &OsStr) -> bool {
    name.as_encoded_bytes().ends_with(NOTE_END.as_bytes())
}

impl Note {
    fn write(&self, synced: u64) -> Result<(), Error> {
        self.file.write_at(0, &synced.to_le_bytes())
    }
}

fn note_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(NOTE_END);
    name.into()
}

/// A note that was never written says that nothing was synced.
fn synced(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl Fs for FrailFs {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        let file = RealFs.create(path)?;
        if !self.is_noted(path) {
            return Ok(self.frail(file, None));
        }
        let place = note_of(path);
        if RealFs.exists(&place)? {
            RealFs.unlink(&place)?;
        }
        let note = Arc::new(Note {
            written: AtomicU64::new(0),
            file: RealFs.create(&place)?,
        });
        self.notes().insert(path.to_owned(), Arc::clone(&note));
        Ok(self.frail(file, Some(note)))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        let file = RealFs.open(path)?;
        let note = match self.is_noted(path) {
            true => Some(self.found(path, &*file)?),
            false => None,
        };
        Ok(self.frail(file, note))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        RealFs.rename(from, to)?;
        if !self.is_noted(from) || !RealFs.exists(&note_of(from))? {
            return Ok(());
        }
        let note = self.notes().remove(from);
        if !self.is_noted(to) {
            return RealFs.unlink(&note_of(from));
        }
        RealFs.rename(&note_of(from), &note_of(to))?;
        if let Some(note) = note {
            self.notes().insert(to.to_owned(), note);
        }
        Ok(())
    }

    fn unlink(&self, path: &Path) -> Result<(), Error> {
        RealFs.unlink(path)?;
        if self.is_noted(path) && RealFs.exists(&note_of(path))? {
            self.notes().remove(path);
            RealFs.unlink(&note_of(path))?;
        }
        Ok(())
    }

    fn sync_dir(&self, folder: &Path) -> Result<(), Error> {
        RealFs.sync_dir(folder)
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>, Error> {
        let mut names = RealFs.list(folder)?;
        names.retain(|name| !is_note(name.as_ref()));
        Ok(names)
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
struct FrailFile {
    file: Arc<dyn File>,
    note: Option<Arc<Note>>,
    sync_delay: Duration,
}

impl File for FrailFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_at(offset, bytes)?;
        if let Some(note) = &self.note {
            let end = offset + bytes.len() as u64;
            note.written.fetch_max(end, Ordering::SeqCst);
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        self.file.read_at(offset, buffer)
    }

    #[expect(clippy::disallowed_methods, reason = "a slow disk is waited for")]
    fn sync_data(&self) -> Result<(), Error> {
        let written = self
            .note
            .as_ref()
            .map(|note| note.written.load(Ordering::SeqCst));
        if !self.sync_delay.is_zero() {
            std::thread::sleep(self.sync_delay);
        }
        self.file.sync_data()?;
        match (&self.note, written) {
            (Some(note), Some(written)) => note.write(written),
            _ => Ok(()),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn run(folder: &Path, on: impl FnOnce(&FrailFs, &Path)) {
        let fs = FrailFs::new(Duration::ZERO, true);
        on(&fs, &folder.join("log"));
    }

    #[test]
    fn a_start_finds_what_was_synced_and_zeros_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        run(folder.path(), |fs, path| {
            let log = fs.create(&path.with_extension("new")).unwrap();
            log.preallocate(0, 8).unwrap();
            log.write_at(0, b"kept").unwrap();
            log.sync_data().unwrap();
            log.write_at(4, b"gone").unwrap();
            fs.rename(&path.with_extension("new"), path).unwrap();
            // In the run that wrote it, it is there.
            assert_eq!(fs.read(path).unwrap(), b"keptgone");
        });

        run(folder.path(), |fs, path| {
            assert_eq!(fs.read(path).unwrap(), b"kept\0\0\0\0");
            assert_eq!(fs.list(folder.path()).unwrap(), ["log"]);
            fs.unlink(path).unwrap();
        });

        assert_eq!(RealFs.list(folder.path()).unwrap().len(), 0);
    }

    #[test]
    fn a_database_has_no_note_also_when_it_was_made_under_another_name() {
        let folder = tempfile::tempdir().unwrap();
        let made = folder.path().join("rows.redb.new");
        run(folder.path(), |fs, _| {
            fs.create(&made).unwrap().write_at(0, b"rows").unwrap();
            fs.rename(&made, &folder.path().join("rows.redb")).unwrap();
        });

        assert_eq!(RealFs.list(folder.path()).unwrap(), ["rows.redb"]);
        run(folder.path(), |fs, _| {
            let rows = fs.read(&folder.path().join("rows.redb")).unwrap();
            assert_eq!(rows, b"rows");
        });
    }

    #[test]
    fn what_was_there_before_there_were_notes_counts() {
        let folder = tempfile::tempdir().unwrap();
        let old = RealFs.create(&folder.path().join("log")).unwrap();
        old.write_at(0, b"old").unwrap();

        run(folder.path(), |fs, path| {
            let log = fs.open(path).unwrap();
            log.write_at(3, b"er").unwrap();
        });

        run(folder.path(), |fs, path| {
            assert_eq!(fs.read(path).unwrap(), b"old\0\0");
        });
    }
}
