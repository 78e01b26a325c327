//! A disk in memory that crashes, tears, fills up, fails and rots, by a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::{Error, File, FolderLock, Fs, LockError, Operation};

/// A sector is what a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// A model of a machine's page cache and disk, for tests. Clones are the same machine.
///
/// - Written bytes reach the disk at [`File::sync_data`]. At a [`crash`](FaultFs::crash) a random
///   subset of the 512-byte sectors written since then survives, and the length may or may not.
/// - Creates, renames and unlinks reach the disk at [`Fs::sync_dir`]. At a crash a random prefix or
///   a random subset of those since then survives; one rename is atomic. New folders are durable
///   at once, as [`Fs::create_dir_all`] promises.
/// - A failed `sync_data` behaves as Linux does: what was not synced counts as clean afterwards, so
///   that a second `sync_data` succeeds without having written it.
#[derive(Debug, Clone)]
pub struct FaultFs {
    disk: Arc<Mutex<Disk>>,
}

/// A fault to happen once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The operation that fails; `None` for any.
    pub operation: Option<Operation>,
    /// A part of the path it must concern; empty for any.
    pub path: String,
    /// How many such operations pass before.
    pub skip: u64,
    /// How it fails.
    pub kind: FaultKind,
}

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// An input/output error; nothing was done.
    Io,
    /// No space left; nothing was done.
    NoSpace,
    /// An input/output error after half of a write was done.
    TornWrite,
}

impl FaultFs {
    /// An empty disk whose crashes are drawn from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::over(Disk {
            random: SmallRng::seed_from_u64(seed),
            inodes: Vec::new(),
            names: BTreeMap::new(),
            names_synced: BTreeMap::new(),
            names_pending: Vec::new(),
            folders: BTreeSet::from([PathBuf::from("/")]),
            locks: BTreeSet::new(),
            operations: 0,
            freeze_at: None,
            frozen: false,
            faults: Vec::new(),
            bytes_limit: None,
        })
    }

    fn over(disk: Disk) -> Self {
        Self {
            disk: Arc::new(Mutex::new(disk)),
        }
    }

    /// Lets a fault happen.
    pub fn inject(&self, fault: Fault) {
        self.disk().faults.push(fault);
    }

    /// Takes back the faults that have not happened.
    pub fn heal(&self) {
        self.disk().faults.clear();
    }

    /// Lets the disk be full once all files together hold this many bytes; `None` for no limit.
    pub fn limit_bytes(&self, bytes: Option<u64>) {
        self.disk().bytes_limit = bytes;
    }

    /// Bytes that all files hold together, as [`limit_bytes`](Self::limit_bytes) counts them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.disk().bytes()
    }

    /// How many operations were asked for so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// Stops the machine before the operation of this number (counted as
    /// [`operations`](Self::operations) does): it and all later ones fail and change nothing.
    pub fn freeze_at(&self, operation: u64) {
        self.disk().freeze_at = Some(operation);
    }

    /// Whether the machine has stopped.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.disk().frozen
    }

    /// Flips one bit of a file, on the disk and in the page cache.
    ///
    /// # Panics
    /// If there is no such byte.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) {
        let mut disk = self.disk();
        let inode = *disk.names.get(path).expect("the file exists");
        let at = usize::try_from(offset).expect("files of tests are small");
        let inode = &mut disk.inodes[inode];
        inode.cached[at] ^= 1 << bit;
        if let Some(byte) = inode.synced.get_mut(at) {
            *byte ^= 1 << bit;
        }
    }

    /// Flips one bit of a file, drawn from the seed, on the disk and in the page cache; returns the
    /// offset of its byte.
    ///
    /// # Panics
    /// If there is no such file, or it is empty.
    #[must_use]
    pub fn rot(&self, path: &Path) -> u64 {
        let (offset, bit) = {
            let mut disk = self.disk();
            let inode = *disk.names.get(path).expect("the file exists");
            let len = disk.inodes[inode].cached.len() as u64;
            (
                disk.random.random_range(0..len),
                disk.random.random_range(0..8),
            )
        };
        self.flip_bit(path, offset, bit);
        offset
    }

    /// Power is lost: the machine stops, and what its disk held comes back as a new one.
    #[must_use]
    pub fn crash(&self) -> Self {
        let mut disk = self.disk();
        disk.frozen = true;
        let seed = disk.random.random();
        let mut random = SmallRng::seed_from_u64(seed);
        let names = disk.names_after_crash(&mut random);
        let mut inodes = Vec::new();
        let names: BTreeMap<PathBuf, usize> = names
            .into_iter()
            .map(|(path, inode)| {
                let bytes = disk.inodes[inode].after_crash(&mut random);
                inodes.push(Inode::synced(bytes));
                (path, inodes.len() - 1)
            })
            .collect();
        Self::over(Disk {
            random,
            inodes,
            names_synced: names.clone(),
            names,
            names_pending: Vec::new(),
            folders: disk.folders.clone(),
            locks: BTreeSet::new(),
            operations: 0,
            freeze_at: None,
            frozen: false,
            faults: Vec::new(),
            bytes_limit: disk.bytes_limit,
        })
    }

    /// The process dies, the machine lives: what was written stays in the page cache, synced or
    /// not; its locks go. The old handles fail from now on.
    #[must_use]
    pub fn kill(&self) -> Self {
        self.disk().frozen = true;
        self.copy()
    }

    /// Another machine with the same disk and page cache, without locks, limits of time or faults.
    #[must_use]
    pub fn copy(&self) -> Self {
        let mut disk = self.disk();
        let seed = disk.random.random();
        Self::over(Disk {
            random: SmallRng::seed_from_u64(seed),
            inodes: disk.inodes.clone(),
            names: disk.names.clone(),
            names_synced: disk.names_synced.clone(),
            names_pending: disk.names_pending.clone(),
            folders: disk.folders.clone(),
            locks: BTreeSet::new(),
            operations: 0,
            freeze_at: None,
            frozen: false,
            faults: Vec::new(),
            bytes_limit: disk.bytes_limit,
        })
    }

    /// Draws from this seed from now on, so that a copy does not depend on how many were made.
    pub fn reseed(&self, seed: u64) {
        self.disk().random = SmallRng::seed_from_u64(seed);
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        // A test that panicked elsewhere leaves the model whole: no method panics half-way.
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, path: &Path, inode: usize) -> Arc<dyn File> {
        Arc::new(FaultFile {
            fs: self.clone(),
            path: path.to_owned(),
            inode,
        })
    }
}

#[derive(Debug)]
struct Disk {
    random: SmallRng,
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    names_synced: BTreeMap<PathBuf, usize>,
    names_pending: Vec<NameChange>,
    folders: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    operations: u64,
    freeze_at: Option<u64>,
    frozen: bool,
    faults: Vec<Fault>,
    bytes_limit: Option<u64>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf, usize),
    Unlink(PathBuf),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Create(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            Self::Unlink(path) => {
                names.remove(path);
            }
        }
    }

    fn folder(&self) -> Option<&Path> {
        match self {
            Self::Create(path, _) | Self::Rename(_, path, _) | Self::Unlink(path) => path.parent(),
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Inode {
    cached: Vec<u8>,
    synced: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl Inode {
    fn synced(bytes: Vec<u8>) -> Self {
        Self {
            cached: bytes.clone(),
            synced: bytes,
            dirty: BTreeSet::new(),
        }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        if self.cached.len() < end {
            self.cached.resize(end, 0);
        }
        self.cached[offset..end].copy_from_slice(bytes);
        self.dirty
            .extend(offset / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES);
    }

    fn sync(&mut self) {
        self.synced.resize(self.cached.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            Self::copy_sector(&self.cached, &mut self.synced, sector);
        }
    }

    fn copy_sector(from: &[u8], to: &mut Vec<u8>, sector: usize) {
        let start = sector * SECTOR_BYTES;
        let end = (start + SECTOR_BYTES).min(from.len());
        if start >= end {
            return;
        }
        if to.len() < end {
            to.resize(end, 0);
        }
        to[start..end].copy_from_slice(&from[start..end]);
    }

    fn after_crash(&self, random: &mut SmallRng) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        let luck = Luck::draw(random, self.dirty.len());
        if luck.survives(random, 0) {
            bytes.resize(self.cached.len(), 0);
        }
        for (nth, sector) in self.dirty.iter().enumerate() {
            if luck.survives(random, nth) {
                Self::copy_sector(&self.cached, &mut bytes, *sector);
            }
        }
        bytes
    }
}

/// What becomes of things not synced, in the order in which they were done or lie.
enum Luck {
    None,
    All,
    First(usize),
    Some,
}

impl Luck {
    fn draw(random: &mut SmallRng, things: usize) -> Self {
        match random.random_range(0..8) {
            0 => Self::None,
            1 => Self::All,
            2 | 3 => Self::First(random.random_range(0..=things)),
            _ => Self::Some,
        }
    }

    fn survives(&self, random: &mut SmallRng, nth: usize) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::First(count) => nth < *count,
            Self::Some => random.random(),
        }
    }
}

impl Disk {
    /// Counts the operation and says whether it fails, and how.
    fn enter(&mut self, operation: Operation, path: &Path) -> Result<(), Error> {
        let number = self.operations;
        self.operations += 1;
        if self.freeze_at.is_some_and(|at| number >= at) {
            self.frozen = true;
        }
        let fails = |source| Err(Error::new(operation, path, source));
        if self.frozen {
            return fails(io::Error::other("the machine has stopped"));
        }
        let text = path.to_string_lossy();
        let due = self.faults.iter_mut().position(|fault| {
            let matches = fault.operation.is_none_or(|wanted| wanted == operation)
                && text.contains(&fault.path);
            if matches && fault.skip > 0 {
                fault.skip -= 1;
                return false;
            }
            matches
        });
        match due.map(|index| self.faults.remove(index).kind) {
            None => Ok(()),
            Some(FaultKind::NoSpace) => fails(io::ErrorKind::StorageFull.into()),
            Some(FaultKind::Io) => fails(io::Error::other("input/output error (injected)")),
            Some(FaultKind::TornWrite) => fails(torn()),
        }
    }

    fn bytes(&self) -> u64 {
        let linked: BTreeSet<usize> = self.names.values().copied().collect();
        linked
            .into_iter()
            .map(|inode| self.inodes[inode].cached.len() as u64)
            .sum()
    }

    /// How far a file may grow towards `end`.
    fn end_allowed(&self, inode: usize, end: usize) -> usize {
        let len = self.inodes[inode].cached.len();
        let Some(limit) = self.bytes_limit.filter(|_| end > len) else {
            return end;
        };
        let room =
            usize::try_from(limit.saturating_sub(self.bytes())).expect("limits of tests are small");
        end.min(len + room)
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.names_pending.push(change);
    }

    fn names_after_crash(&self, random: &mut SmallRng) -> BTreeMap<PathBuf, usize> {
        let mut names = self.names_synced.clone();
        let luck = Luck::draw(random, self.names_pending.len());
        for (nth, change) in self.names_pending.iter().enumerate() {
            if luck.survives(random, nth) {
                change.apply(&mut names);
            }
        }
        names
    }
}

fn torn() -> io::Error {
    io::Error::new(io::ErrorKind::WriteZero, "half written (injected)")
}

impl Fs for FaultFs {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        let mut disk = self.disk();
        disk.enter(Operation::Create, path)?;
        let fails = |kind: io::ErrorKind| Err(Error::new(Operation::Create, path, kind.into()));
        if disk.names.contains_key(path) {
            return fails(io::ErrorKind::AlreadyExists);
        }
        if !path
            .parent()
            .is_some_and(|folder| disk.folders.contains(folder))
        {
            return fails(io::ErrorKind::NotFound);
        }
        disk.inodes.push(Inode::default());
        let inode = disk.inodes.len() - 1;
        disk.change(NameChange::Create(path.to_owned(), inode));
        Ok(self.handle(path, inode))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        let mut disk = self.disk();
        disk.enter(Operation::Open, path)?;
        match disk.names.get(path) {
            Some(inode) => Ok(self.handle(path, *inode)),
            None => Err(Error::new(
                Operation::Open,
                path,
                io::ErrorKind::NotFound.into(),
            )),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let mut disk = self.disk();
        disk.enter(Operation::Rename, from)?;
        let Some(inode) = disk.names.get(from).copied() else {
            return Err(Error::new(
                Operation::Rename,
                from,
                io::ErrorKind::NotFound.into(),
            ));
        };
        disk.change(NameChange::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    fn unlink(&self, path: &Path) -> Result<(), Error> {
        let mut disk = self.disk();
        disk.enter(Operation::Unlink, path)?;
        if !disk.names.contains_key(path) {
            return Err(Error::new(
                Operation::Unlink,
                path,
                io::ErrorKind::NotFound.into(),
            ));
        }
        disk.change(NameChange::Unlink(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, folder: &Path) -> Result<(), Error> {
        let mut disk = self.disk();
        disk.enter(Operation::SyncDir, folder)?;
        let pending = std::mem::take(&mut disk.names_pending);
        for change in pending {
            if change.folder() == Some(folder) {
                change.apply(&mut disk.names_synced);
            } else {
                disk.names_pending.push(change);
            }
        }
        Ok(())
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>, Error> {
        let mut disk = self.disk();
        disk.enter(Operation::List, folder)?;
        if !disk.folders.contains(folder) {
            return Err(Error::new(
                Operation::List,
                folder,
                io::ErrorKind::NotFound.into(),
            ));
        }
        let mut names: Vec<String> = disk
            .names
            .keys()
            .chain(disk.folders.iter())
            .filter(|path| path.parent() == Some(folder))
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> Result<bool, Error> {
        let mut disk = self.disk();
        disk.enter(Operation::Stat, path)?;
        Ok(disk.names.contains_key(path) || disk.folders.contains(path))
    }

    fn create_dir_all(&self, folder: &Path) -> Result<(), Error> {
        let mut disk = self.disk();
        disk.enter(Operation::CreateDir, folder)?;
        let made = folder.ancestors().map(Path::to_owned);
        disk.folders.extend(made);
        Ok(())
    }

    fn lock(&self, folder: &Path) -> Result<Box<dyn FolderLock>, LockError> {
        let mut disk = self.disk();
        disk.enter(Operation::Lock, folder)?;
        if !disk.locks.insert(folder.to_owned()) {
            return Err(LockError::Held {
                folder: folder.to_owned(),
                pid: Some(std::process::id()),
            });
        }
        Ok(Box::new(FaultLock {
            fs: self.clone(),
            folder: folder.to_owned(),
        }))
    }
}

#[derive(Debug)]
struct FaultLock {
    fs: FaultFs,
    folder: PathBuf,
}

impl FolderLock for FaultLock {}

impl Drop for FaultLock {
    fn drop(&mut self) {
        self.fs.disk().locks.remove(&self.folder);
    }
}

#[derive(Debug)]
struct FaultFile {
    fs: FaultFs,
    path: PathBuf,
    inode: usize,
}

impl FaultFile {
    fn no_space(&self, operation: Operation) -> Error {
        Error::new(operation, &self.path, io::ErrorKind::StorageFull.into())
    }
}

fn position(offset: u64) -> usize {
    usize::try_from(offset).expect("files of tests are small")
}

impl File for FaultFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut disk = self.fs.disk();
        let offset = position(offset);
        if let Err(error) = disk.enter(Operation::Write, &self.path) {
            if error.kind() == io::ErrorKind::WriteZero {
                disk.inodes[self.inode].write(offset, &bytes[..bytes.len() / 2]);
            }
            return Err(error);
        }
        let allowed = disk.end_allowed(self.inode, offset + bytes.len());
        let fits = allowed.saturating_sub(offset).min(bytes.len());
        disk.inodes[self.inode].write(offset, &bytes[..fits]);
        if fits < bytes.len() {
            return Err(self.no_space(Operation::Write));
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut disk = self.fs.disk();
        disk.enter(Operation::Read, &self.path)?;
        let cached = &disk.inodes[self.inode].cached;
        let start = position(offset).min(cached.len());
        let count = buffer.len().min(cached.len() - start);
        buffer[..count].copy_from_slice(&cached[start..start + count]);
        Ok(count)
    }

    fn sync_data(&self) -> Result<(), Error> {
        let mut disk = self.fs.disk();
        let entered = disk.enter(Operation::SyncData, &self.path);
        let frozen = disk.frozen;
        let inode = &mut disk.inodes[self.inode];
        match entered {
            Ok(()) => {
                inode.sync();
                Ok(())
            }
            Err(error) => {
                if !frozen {
                    // Linux marks the pages clean although they were not written.
                    inode.dirty.clear();
                }
                Err(error)
            }
        }
    }

    fn preallocate(&self, offset: u64, len: u64) -> Result<(), Error> {
        let mut disk = self.fs.disk();
        disk.enter(Operation::Preallocate, &self.path)?;
        let end = position(offset + len);
        if disk.end_allowed(self.inode, end) < end {
            return Err(self.no_space(Operation::Preallocate));
        }
        let cached = &mut disk.inodes[self.inode].cached;
        if cached.len() < end {
            cached.resize(end, 0);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        let mut disk = self.fs.disk();
        disk.enter(Operation::SetLen, &self.path)?;
        let len = position(len);
        if disk.end_allowed(self.inode, len) < len {
            return Err(self.no_space(Operation::SetLen));
        }
        let inode = &mut disk.inodes[self.inode];
        let before = inode.cached.len();
        inode.cached.resize(len, 0);
        inode.dirty.retain(|sector| sector * SECTOR_BYTES < len);
        // Where the file was longer once, the zeros must reach the disk like any bytes.
        let stale = before / SECTOR_BYTES..len.min(inode.synced.len()).div_ceil(SECTOR_BYTES);
        inode.dirty.extend(stale);
        Ok(())
    }

    fn len(&self) -> Result<u64, Error> {
        let mut disk = self.fs.disk();
        disk.enter(Operation::Stat, &self.path)?;
        Ok(disk.inodes[self.inode].cached.len() as u64)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
