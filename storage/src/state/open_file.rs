//! The redb database in a state file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use redb::{Builder, Database, Durability, ReadableDatabase, TableDefinition};

use super::row::{self, Changes};
use super::{Applied, Config, Error};
use crate::backend::Backend;
use crate::fs::{File, Fs};
use crate::raft::LogId;

/// Rows by kind and key.
pub(super) const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
/// What is said about the file as a whole.
const FILE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("file");
/// The key in [`FILE`] of the versions.
const VERSIONS: &str = "versions";
/// The key in [`FILE`] of the last applied entry; absent if there is none.
const APPLIED: &str = "applied";

/// The version of how rows are stored.
const FORMAT_VERSION: u32 = 1;

/// An open database.
#[derive(Debug)]
pub(super) struct OpenFile {
    path: PathBuf,
    file: Arc<dyn File>,
    pub(super) database: Database,
    /// Whether the disk failed in a way that does not pass.
    has_failed: AtomicBool,
}

impl OpenFile {
    pub(super) fn create(path: &Path, file: Arc<dyn File>, config: &Config) -> Result<Self, Error> {
        let open = Self::of(path, file, config)?;
        let create = || -> Result<(), redb::Error> {
            let mut transaction = open.database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            transaction.open_table(ROWS)?;
            let versions = [FORMAT_VERSION, config.version]
                .map(u32::to_le_bytes)
                .concat();
            transaction.open_table(FILE)?.insert(
                VERSIONS,
                row::seal(VERSIONS.as_bytes(), &versions).as_slice(),
            )?;
            transaction.commit()?;
            Ok(())
        };
        create().map_err(|error| open.error(&error))?;
        Ok(open)
    }

    pub(super) fn open(fs: &dyn Fs, path: &Path, config: &Config) -> Result<Self, Error> {
        let file = fs.open(path)?;
        // redb takes an empty file for a new database; this one was never empty.
        if file.is_empty()? {
            return Err(Error::Damaged {
                path: path.to_owned(),
                what: "the file is empty".to_owned(),
            });
        }
        Self::again(path, file, config)
    }

    /// Opens the same file once more, by the descriptor that there is: as it was flushed last.
    /// The database before is to have failed, or it would go on writing.
    pub(super) fn again(path: &Path, file: Arc<dyn File>, config: &Config) -> Result<Self, Error> {
        let open = Self::of(path, file, config)?;
        open.check_versions(config)?;
        Ok(open)
    }

    pub(super) fn file(&self) -> Arc<dyn File> {
        Arc::clone(&self.file)
    }

    /// Whether an error has come that does not pass.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    fn of(path: &Path, file: Arc<dyn File>, config: &Config) -> Result<Self, Error> {
        let open = || {
            Builder::new()
                .set_cache_size(config.cache_bytes)
                .set_check_integrity_on_open(true)
                .create_with_backend(Backend(Arc::clone(&file)))
        };
        // redb may panic over bytes that nobody wrote; here they come from outside.
        let opened = catch_unwind(AssertUnwindSafe(open)).map_err(|panic| Error::Damaged {
            path: path.to_owned(),
            what: message(&*panic),
        })?;
        let database = opened.map_err(|error| Error::of(path, &error.into()))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            database,
            has_failed: AtomicBool::new(false),
        })
    }

    fn check_versions(&self, config: &Config) -> Result<(), Error> {
        let transaction = self.begin_read()?;
        let stored = self.read_file_row(&transaction, VERSIONS)?;
        let stored = stored.as_deref().and_then(|bytes| bytes.first_chunk::<8>());
        let Some(&[a, b, c, d, e, f, g, h]) = stored else {
            return Err(Error::Foreign {
                path: self.path.clone(),
                what: "it says no version".to_owned(),
            });
        };
        let found = [[a, b, c, d], [e, f, g, h]].map(u32::from_le_bytes);
        for (found, expected) in found.into_iter().zip([FORMAT_VERSION, config.version]) {
            if found != expected {
                return Err(Error::Version {
                    path: self.path.clone(),
                    found,
                    expected,
                });
            }
        }
        Ok(())
    }

    pub(super) fn begin_read(&self) -> Result<redb::ReadTransaction, Error> {
        self.database
            .begin_read()
            .map_err(|error| self.error(&error.into()))
    }

    pub(super) fn read_applied(
        &self,
        transaction: &redb::ReadTransaction,
    ) -> Result<Option<Applied>, Error> {
        let Some(stored) = self.read_file_row(transaction, APPLIED)? else {
            return Ok(None);
        };
        match LogId::read(&stored) {
            Some(id) => Ok(Some(Applied {
                id,
                opaque: stored.slice(LogId::BYTES..),
            })),
            None => Err(self.damaged_row(APPLIED.as_bytes())),
        }
    }

    fn read_file_row(
        &self,
        transaction: &redb::ReadTransaction,
        key: &str,
    ) -> Result<Option<Bytes>, Error> {
        let table = transaction
            .open_table(FILE)
            .map_err(|error| self.error(&error.into()))?;
        let stored = table
            .get_owned(key)
            .map_err(|error| self.error(&error.into()))?;
        let Some(stored) = stored else {
            return Ok(None);
        };
        let value = row::unseal(key.as_bytes(), stored.value());
        let value = value.ok_or_else(|| self.damaged_row(key.as_bytes()))?;
        Ok(Some(Bytes::copy_from_slice(value)))
    }

    /// One transaction.
    pub(super) fn write(
        &self,
        durability: Durability,
        changes: &Changes,
        applied: Option<&Applied>,
    ) -> Result<(), Error> {
        let write = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(durability)?;
            if !changes.is_empty() {
                let mut rows = transaction.open_table(ROWS)?;
                for (key, value) in &changes.rows {
                    match value {
                        Some(value) => drop(rows.insert(key.as_slice(), value.as_slice())?),
                        None => drop(rows.remove(key.as_slice())?),
                    }
                }
            }
            if let Some(applied) = applied {
                let mut stored = Vec::with_capacity(LogId::BYTES + applied.opaque.len());
                applied.id.write(&mut stored);
                stored.extend_from_slice(&applied.opaque);
                transaction
                    .open_table(FILE)?
                    .insert(APPLIED, row::seal(APPLIED.as_bytes(), &stored).as_slice())?;
            }
            transaction.commit()?;
            Ok(())
        };
        write().map_err(|error| self.error(&error))
    }

    pub(super) fn close(self) -> Result<(), Error> {
        let Self { path, database, .. } = self;
        database
            .close()
            .map_err(|error| Error::of(&path, &error.into()))
    }

    pub(super) fn error(&self, error: &redb::Error) -> Error {
        let error = Error::of(&self.path, error);
        if !error.may_pass() {
            self.has_failed.store(true, Ordering::Release);
        }
        error
    }

    pub(super) fn damaged_row(&self, key: &[u8]) -> Error {
        Error::Damaged {
            path: self.path.clone(),
            what: format!("the checksum of row `{}` differs", key.escape_ascii()),
        }
    }
}

/// What a panic said.
fn message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "the database panicked".to_owned())
}
