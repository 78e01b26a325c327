//! The file system of the machine.

use std::fs;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Error, File, FolderLock, Fs, LOCK_FILE, LockError, Operation};

/// The file system of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealFs;

impl Fs for RealFs {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        let inner = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|source| Error::new(Operation::Create, path, source))?;
        Ok(RealFile::shared(path, inner))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        let inner = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|source| Error::new(Operation::Open, path, source))?;
        Ok(RealFile::shared(path, inner))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        fs::rename(from, to).map_err(|source| Error::new(Operation::Rename, from, source))
    }

    fn unlink(&self, path: &Path) -> Result<(), Error> {
        fs::remove_file(path).map_err(|source| Error::new(Operation::Unlink, path, source))
    }

    fn sync_dir(&self, folder: &Path) -> Result<(), Error> {
        fs::File::open(folder)
            .and_then(|handle| handle.sync_all())
            .map_err(|source| Error::new(Operation::SyncDir, folder, source))
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>, Error> {
        let names = || -> io::Result<Vec<String>> {
            fs::read_dir(folder)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        };
        let mut names = names().map_err(|source| Error::new(Operation::List, folder, source))?;
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> Result<bool, Error> {
        path.try_exists()
            .map_err(|source| Error::new(Operation::Stat, path, source))
    }

    fn create_dir_all(&self, folder: &Path) -> Result<(), Error> {
        let refused = |source| Error::new(Operation::CreateDir, folder, source);
        let mut missing = Vec::new();
        let mut above = Some(folder);
        while let Some(at) = above.filter(|at| !at.as_os_str().is_empty()) {
            if at.try_exists().map_err(refused)? {
                break;
            }
            missing.push(at);
            above = at.parent();
        }
        fs::create_dir_all(folder).map_err(refused)?;
        // A folder's own name is an entry of the one above it.
        for made in missing.into_iter().rev() {
            let parent = made
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
                .unwrap_or(Path::new("."));
            self.sync_dir(parent)?;
        }
        Ok(())
    }

    fn lock(&self, folder: &Path) -> Result<Box<dyn FolderLock>, LockError> {
        let path = folder.join(LOCK_FILE);
        let refused = |source| Error::new(Operation::Lock, &path, source);
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(refused)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut text = String::new();
                // The holder may be writing its number at this moment: then it stays unnamed.
                let pid = match file.read_to_string(&mut text) {
                    Ok(_) => text.trim().parse().ok(),
                    Err(_) => None,
                };
                return Err(LockError::Held {
                    folder: folder.to_owned(),
                    pid,
                });
            }
            Err(fs::TryLockError::Error(source)) => return Err(refused(source).into()),
        }
        let mut sign = || -> io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        sign().map_err(refused)?;
        Ok(Box::new(RealLock { _file: file }))
    }
}

/// The kernel's advisory lock goes with the descriptor.
#[derive(Debug)]
struct RealLock {
    _file: fs::File,
}

impl FolderLock for RealLock {}

#[derive(Debug)]
struct RealFile {
    path: PathBuf,
    inner: fs::File,
}

impl RealFile {
    fn shared(path: &Path, inner: fs::File) -> Arc<dyn File> {
        Arc::new(Self {
            path: path.to_owned(),
            inner,
        })
    }

    fn refused(&self, operation: Operation) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::new(operation, &self.path, source)
    }
}

impl File for RealFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.inner
            .write_all_at(bytes, offset)
            .map_err(self.refused(Operation::Write))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self
                .inner
                .read_at(&mut buffer[filled..], offset + filled as u64)
            {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.refused(Operation::Read)(source)),
            }
        }
        Ok(filled)
    }

    fn sync_data(&self) -> Result<(), Error> {
        self.inner
            .sync_data()
            .map_err(self.refused(Operation::SyncData))
    }

    fn preallocate(&self, offset: u64, len: u64) -> Result<(), Error> {
        use rustix::fs::{FallocateFlags, fallocate};
        match fallocate(&self.inner, FallocateFlags::empty(), offset, len) {
            Ok(()) => Ok(()),
            // tmpfs, ZFS and network file systems may not know it: a longer file is then all we get.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                let end = offset + len;
                if self.len()? < end {
                    self.set_len(end)?;
                }
                Ok(())
            }
            Err(error) => Err(self.refused(Operation::Preallocate)(error.into())),
        }
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.inner
            .set_len(len)
            .map_err(self.refused(Operation::SetLen))
    }

    fn len(&self) -> Result<u64, Error> {
        Ok(self
            .inner
            .metadata()
            .map_err(self.refused(Operation::Stat))?
            .len())
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
