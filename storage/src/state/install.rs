//! Makes a whole state file beside the one in use, and puts it in its place in one step.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::open_file::OpenFile;
use super::row::Changes;
use super::{Applied, Error, StateFile};
use crate::fs::{File, Fs};

/// Bytes of rows written together.
const BATCH_BYTES: usize = 4 << 20;
/// What is added to the file's name while it is made.
const UNFINISHED: &str = ".new";

/// A state file that is being made. Dropping it leaves the one in use as it is.
#[derive(Debug)]
pub struct Installation<'a> {
    state: &'a StateFile,
    draft: Draft,
}

impl<'a> Installation<'a> {
    pub(super) fn new(state: &'a StateFile) -> Result<Self, Error> {
        let draft = state.draft()?;
        Ok(Self { state, draft })
    }

    /// Puts a row. Blocks on the disk now and then.
    ///
    /// # Errors
    /// The file in use is unchanged; this one is worthless.
    pub fn put(&mut self, kind: u8, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.draft.put(kind, key, value)
    }

    /// Makes the rows durable and puts them in the place of the file in use, whole or not at all;
    /// snapshots go on with what they show. Blocks on the disk.
    ///
    /// # Errors
    /// The file in use is unchanged, or after [`Error::Failed`] unknown.
    pub fn finish(self, applied: &Applied) -> Result<(), Error> {
        self.state.adopt(self.draft, applied)
    }
}

/// A state file that is being made under another name, for [`StateFile::adopt`]. A file has one at
/// most. Dropped, it is removed with the next one, or when the file is opened again.
#[derive(Debug)]
pub struct Draft {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    path_new: PathBuf,
    config: super::Config,
    file: Arc<dyn File>,
    open: OpenFile,
    rows: Changes,
    /// While it lives no other draft of the file is made: they have one name.
    pub(super) token: Arc<()>,
}

impl Draft {
    pub(super) fn new(fs: Arc<dyn Fs>, path: &Path, config: &super::Config) -> Result<Self, Error> {
        let path_new = unfinished(path);
        remove_unfinished(&*fs, path)?;
        let file = fs.create(&path_new)?;
        let open = OpenFile::create(&path_new, Arc::clone(&file), config)?;
        Ok(Self {
            fs,
            path: path.to_owned(),
            path_new,
            config: config.clone(),
            file,
            open,
            rows: Changes::default(),
            token: Arc::default(),
        })
    }

    /// Puts a row. Blocks on the disk now and then.
    ///
    /// # Errors
    /// The draft is worthless.
    pub fn put(&mut self, kind: u8, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.rows.put(kind, key, value);
        if self.rows.bytes() < BATCH_BYTES {
            return Ok(());
        }
        self.write()
    }

    fn write(&mut self) -> Result<(), Error> {
        let rows = std::mem::take(&mut self.rows);
        self.open.write(redb::Durability::None, &rows, None)
    }

    /// Makes it durable, gives it its name, and opens it under that.
    pub(super) fn finish(mut self, applied: Option<&Applied>) -> Result<OpenFile, Error> {
        let rows = std::mem::take(&mut self.rows);
        self.open
            .write(redb::Durability::Immediate, &rows, applied)?;
        self.open.close()?;
        self.file
            .sync_data()
            .map_err(|error| failed(&self.path_new, &error))?;
        self.fs.rename(&self.path_new, &self.path)?;
        let folder = super::folder(&self.path);
        self.fs
            .sync_dir(folder)
            .map_err(|error| failed(&self.path, &error))?;
        OpenFile::open(&*self.fs, &self.path, &self.config)
    }
}

/// An error after which nothing is known about the disk.
fn failed(path: &Path, error: &crate::fs::Error) -> Error {
    Error::Failed {
        path: path.to_owned(),
        what: error.to_string(),
    }
}

/// Removes a file that was being made when the process ended.
pub(super) fn remove_unfinished(fs: &dyn Fs, path: &Path) -> Result<(), Error> {
    let path = unfinished(path);
    if fs.exists(&path)? {
        fs.unlink(&path)?;
    }
    Ok(())
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED);
    name.into()
}
