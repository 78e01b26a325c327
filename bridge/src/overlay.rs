//! A file system whose changes stay in memory: the store of a stopped node is opened, recovered and
//! replayed through it without a change on disk.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use storage::fs::{Error, File, FolderLock, Fs, LockError, Operation};

/// Greatest size of a file that is copied into memory for a change: the manifest, or the log's
/// newest segment.
const COPY_BYTES_MAX: u64 = 1 << 30;

/// Lies over another file system, which it only reads; it takes folders there, so that nobody
/// changes them meanwhile.
#[derive(Debug)]
pub(crate) struct Overlay {
    below: Arc<dyn Fs>,
    /// Names that were changed: a file, or `None` for one that was removed.
    names: Mutex<BTreeMap<PathBuf, Option<Arc<Copied>>>>,
}

impl Overlay {
    pub(crate) fn over(below: Arc<dyn Fs>) -> Self {
        Self {
            below,
            names: Mutex::default(),
        }
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Option<Arc<Copied>>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(operation: Operation, path: &Path, kind: io::ErrorKind) -> Error {
    Error {
        operation,
        path: path.to_owned(),
        source: kind.into(),
    }
}

impl Fs for Overlay {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        if self.exists(path)? {
            return Err(refused(
                Operation::Create,
                path,
                io::ErrorKind::AlreadyExists,
            ));
        }
        let file = Arc::new(Copied::new(path, Content::Own(Vec::new())));
        self.names()
            .insert(path.to_owned(), Some(Arc::clone(&file)));
        Ok(file)
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        if let Some(changed) = self.names().get(path) {
            return match changed {
                Some(file) => Ok(Arc::clone(file) as Arc<dyn File>),
                None => Err(refused(Operation::Open, path, io::ErrorKind::NotFound)),
            };
        }
        let below = self.below.open(path)?;
        let file = Arc::new(Copied::new(path, Content::Below(below)));
        self.names()
            .insert(path.to_owned(), Some(Arc::clone(&file)));
        Ok(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        self.open(from)?;
        let mut names = self.names();
        let file = names.insert(from.to_owned(), None).flatten();
        names.insert(to.to_owned(), file);
        Ok(())
    }

    fn unlink(&self, path: &Path) -> Result<(), Error> {
        if !self.exists(path)? {
            return Err(refused(Operation::Unlink, path, io::ErrorKind::NotFound));
        }
        self.names().insert(path.to_owned(), None);
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> Result<(), Error> {
        Ok(())
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>, Error> {
        let mut listed = self.below.list(folder)?;
        for (path, file) in self
            .names()
            .iter()
            .filter(|(path, _)| path.parent() == Some(folder))
        {
            let Some(name) = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
            else {
                continue;
            };
            listed.retain(|other| *other != name);
            if file.is_some() {
                listed.push(name);
            }
        }
        listed.sort_unstable();
        Ok(listed)
    }

    fn exists(&self, path: &Path) -> Result<bool, Error> {
        match self.names().get(path) {
            Some(changed) => Ok(changed.is_some()),
            None => self.below.exists(path),
        }
    }

    fn create_dir_all(&self, folder: &Path) -> Result<(), Error> {
        if self.below.exists(folder)? {
            return Ok(());
        }
        Err(refused(
            Operation::CreateDir,
            folder,
            io::ErrorKind::ReadOnlyFilesystem,
        ))
    }

    fn lock(&self, folder: &Path) -> Result<Box<dyn FolderLock>, LockError> {
        self.below.lock(folder)
    }
}

#[derive(Debug)]
struct Copied {
    path: PathBuf,
    content: Mutex<Content>,
}

#[derive(Debug)]
enum Content {
    /// Not changed so far.
    Below(Arc<dyn File>),
    Own(Vec<u8>),
}

impl Copied {
    fn new(path: &Path, content: Content) -> Self {
        Self {
            path: path.to_owned(),
            content: Mutex::new(content),
        }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies the file into memory if that has not been done, and changes it there.
    fn change(
        &self,
        operation: Operation,
        change: impl FnOnce(&mut Vec<u8>) -> Option<()>,
    ) -> Result<(), Error> {
        let mut content = self.content();
        if let Content::Below(file) = &*content {
            let len = file.len()?;
            if len > COPY_BYTES_MAX {
                return Err(refused(operation, &self.path, io::ErrorKind::FileTooLarge));
            }
            let mut bytes = vec![0; len as usize];
            let read = file.read_at(0, &mut bytes)?;
            bytes.truncate(read);
            *content = Content::Own(bytes);
        }
        let Content::Own(bytes) = &mut *content else {
            unreachable!("copied above")
        };
        change(bytes).ok_or_else(|| refused(operation, &self.path, io::ErrorKind::FileTooLarge))
    }
}

/// The end of a range, if a copy may be so long.
fn end_of(offset: u64, len: u64) -> Option<usize> {
    let end = offset
        .checked_add(len)
        .filter(|end| *end <= COPY_BYTES_MAX)?;
    usize::try_from(end).ok()
}

impl File for Copied {
    fn write_at(&self, offset: u64, written: &[u8]) -> Result<(), Error> {
        self.change(Operation::Write, |bytes| {
            let end = end_of(offset, written.len() as u64)?;
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[offset as usize..end].copy_from_slice(written);
            Some(())
        })
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        match &*self.content() {
            Content::Below(file) => file.read_at(offset, buffer),
            Content::Own(bytes) => {
                let start = usize::try_from(offset)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                let read = buffer.len().min(bytes.len() - start);
                buffer[..read].copy_from_slice(&bytes[start..start + read]);
                Ok(read)
            }
        }
    }

    fn sync_data(&self) -> Result<(), Error> {
        Ok(())
    }

    fn preallocate(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.change(Operation::Preallocate, |bytes| {
            let end = end_of(offset, len)?;
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            Some(())
        })
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.change(Operation::SetLen, |bytes| {
            bytes.resize(end_of(0, len)?, 0);
            Some(())
        })
    }

    fn len(&self) -> Result<u64, Error> {
        match &*self.content() {
            Content::Below(file) => file.len(),
            Content::Own(bytes) => Ok(bytes.len() as u64),
        }
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::fs::FaultFs;

    #[test]
    fn changes_are_seen_above_and_not_below() {
        let below = FaultFs::new(0);
        below.create_dir_all(Path::new("/d")).expect("creates");
        for name in ["/d/kept", "/d/changed", "/d/removed", "/d/renamed"] {
            let file = below.create(Path::new(name)).expect("creates");
            file.write_at(0, b"old").expect("writes");
        }
        let above = Overlay::over(Arc::new(below.clone()));

        let changed = above.open(Path::new("/d/changed")).expect("opens");
        changed.write_at(2, b"NEW").expect("writes");
        above.unlink(Path::new("/d/removed")).expect("unlinks");
        above
            .rename(Path::new("/d/renamed"), Path::new("/d/z"))
            .expect("renames");
        above.create(Path::new("/d/fresh")).expect("creates");

        let names = above.list(Path::new("/d")).expect("lists");
        assert_eq!(names, ["changed", "fresh", "kept", "z"]);
        assert_eq!(
            above.read(Path::new("/d/changed")).expect("reads"),
            b"olNEW"
        );
        assert_eq!(above.read(Path::new("/d/z")).expect("reads"), b"old");
        assert!(above.open(Path::new("/d/removed")).is_err());
        let names = below.list(Path::new("/d")).expect("lists");
        assert_eq!(names, ["changed", "kept", "removed", "renamed"]);
        assert_eq!(below.read(Path::new("/d/changed")).expect("reads"), b"old");
    }
}
