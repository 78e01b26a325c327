//! The door to the file system, and what is behind it: the real one, that counted or under
//! strain, and a model of a disk that crashes.

mod counting;
mod fault;
mod frail;
mod real;

pub use counting::{CountingFs, Written};
pub use fault::{Fault, FaultFs, FaultKind, SECTOR_BYTES};
pub use frail::{FrailFs, is_note};
pub use real::RealFs;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file system as the storage code sees it. Every call blocks; call it from disk threads.
///
/// A change to a directory (create, rename, unlink) is durable only after [`Fs::sync_dir`] of its
/// folder, written bytes only after [`File::sync_data`].
pub trait Fs: Send + Sync + fmt::Debug {
    /// Creates a new empty file for reading and writing.
    ///
    /// # Errors
    /// `AlreadyExists` if the path is taken.
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, Error>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    fn open(&self, path: &Path) -> Result<Arc<dyn File>, Error>;

    /// Renames a file within its folder, replacing what bears the new name.
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error>;

    /// Removes a file. Open handles go on working.
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    fn unlink(&self, path: &Path) -> Result<(), Error>;

    /// Makes the entries of a folder durable.
    ///
    /// # Errors
    /// After an error nothing is known about what is durable: do not retry, end.
    fn sync_dir(&self, folder: &Path) -> Result<(), Error>;

    /// Lists the names in a folder (files and folders), sorted; names that are not UTF-8 are lossy.
    ///
    /// # Errors
    /// `NotFound` if there is no such folder.
    fn list(&self, folder: &Path) -> Result<Vec<String>, Error>;

    /// Whether a file or folder bears this name.
    ///
    /// # Errors
    /// When the file system cannot tell.
    fn exists(&self, path: &Path) -> Result<bool, Error>;

    /// Creates a folder and those above it, and makes their names durable. Existing ones are left.
    ///
    /// # Errors
    /// When the file system refuses.
    fn create_dir_all(&self, folder: &Path) -> Result<(), Error>;

    /// Takes the folder for this process by its file [`LOCK_FILE`], until the guard is dropped or
    /// the process ends, however it ends.
    ///
    /// # Errors
    /// [`LockError::Held`] if another process (or another guard here) has it.
    fn lock(&self, folder: &Path) -> Result<Box<dyn FolderLock>, LockError>;

    /// Reads a whole file.
    ///
    /// # Errors
    /// As [`Fs::open`] and [`File::read_at`].
    fn read(&self, path: &Path) -> Result<Vec<u8>, Error> {
        let file = self.open(path)?;
        let len = usize::try_from(file.len()?).expect("a file read whole fits the address space");
        let mut bytes = vec![0; len];
        let read = file.read_at(0, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }
}

/// The name of the file by which a process owns a folder.
pub const LOCK_FILE: &str = "LOCK";

/// An open file. Positions are explicit, so a handle can be shared between threads.
pub trait File: Send + Sync + fmt::Debug {
    /// Writes all of `bytes` at `offset`, growing the file if need be. Not durable before
    /// [`File::sync_data`].
    ///
    /// # Errors
    /// After an error any part of `bytes` may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error>;

    /// Fills `buffer` from `offset`; returns how many bytes there were before the end of the file.
    ///
    /// # Errors
    /// When the disk does not give them.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error>;

    /// Makes all bytes written so far, and the length, durable (`fdatasync`).
    ///
    /// # Errors
    /// After an error the kernel may have forgotten the bytes: never retry, end the process.
    fn sync_data(&self) -> Result<(), Error>;

    /// Reserves space for `offset .. offset + len`, growing the file; new bytes read as zero.
    ///
    /// # Errors
    /// `StorageFull` when the space is not there; the bytes already written are untouched.
    fn preallocate(&self, offset: u64, len: u64) -> Result<(), Error>;

    /// Cuts or grows (with zeros) the file.
    ///
    /// # Errors
    /// When the file system refuses.
    fn set_len(&self, len: u64) -> Result<(), Error>;

    /// The length in bytes.
    ///
    /// # Errors
    /// When the file system cannot tell.
    fn len(&self) -> Result<u64, Error>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// When the file system cannot tell.
    fn is_empty(&self) -> Result<bool, Error> {
        Ok(self.len()? == 0)
    }

    /// Writes at the end and returns where that was. For one writer only: two would overlap.
    ///
    /// # Errors
    /// As [`File::write_at`].
    fn append(&self, bytes: &[u8]) -> Result<u64, Error> {
        let offset = self.len()?;
        self.write_at(offset, bytes)?;
        Ok(offset)
    }

    /// The path under which the file was opened.
    fn path(&self) -> &Path;
}

/// Holds a folder for this process; dropping it lets the folder go.
pub trait FolderLock: Send + Sync + fmt::Debug {}

/// What was asked of the file system; names operations in errors and in injected faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`Fs::create`].
    Create,
    /// [`Fs::open`].
    Open,
    /// [`Fs::rename`].
    Rename,
    /// [`Fs::unlink`].
    Unlink,
    /// [`Fs::sync_dir`].
    SyncDir,
    /// [`Fs::list`].
    List,
    /// [`Fs::exists`] and [`File::len`].
    Stat,
    /// [`Fs::create_dir_all`].
    CreateDir,
    /// [`Fs::lock`].
    Lock,
    /// [`File::write_at`].
    Write,
    /// [`File::read_at`].
    Read,
    /// [`File::sync_data`].
    SyncData,
    /// [`File::preallocate`].
    Preallocate,
    /// [`File::set_len`].
    SetLen,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Open => "open",
            Self::Rename => "rename",
            Self::Unlink => "unlink",
            Self::SyncDir => "sync folder",
            Self::List => "list",
            Self::Stat => "stat",
            Self::CreateDir => "create folder",
            Self::Lock => "lock",
            Self::Write => "write",
            Self::Read => "read",
            Self::SyncData => "sync",
            Self::Preallocate => "reserve space for",
            Self::SetLen => "set the length of",
        })
    }
}

/// What the file system refused, and where.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {source}", path.display())]
pub struct Error {
    /// What was asked.
    pub operation: Operation,
    /// Of which file or folder.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: io::Error,
}

impl Error {
    pub(crate) fn new(operation: Operation, path: &Path, source: io::Error) -> Self {
        Self {
            operation,
            path: path.to_owned(),
            source,
        }
    }

    /// The kind of the operating system's answer.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Whether space or quota was missing: the one trouble that may pass.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(
            self.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }
}

/// Why a folder could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("folder {} is in use by {}: stop it, or use another folder", folder.display(), holder(*pid))]
    Held {
        /// The folder.
        folder: PathBuf,
        /// The process that has it, if its file says so.
        pid: Option<u32>,
    },
    /// The lock file cannot be made or opened.
    #[error(transparent)]
    Fs(#[from] Error),
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}
