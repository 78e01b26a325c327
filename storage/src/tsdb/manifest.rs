//! The manifest: which segments are live, and from where the log is replayed. One redb file;
//! each change is one durable transaction.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Builder, Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use rkyv::{Archive, Deserialize, Serialize};

use super::envelope::{self, EnvelopeError, Stored};
use super::error::Error;
use crate::backend::Backend;
use crate::fs::{File, Fs};

/// File name of the manifest.
pub(super) const FILE: &str = "manifest.redb";
/// Its name while it is being created.
pub(super) const FILE_NEW: &str = "manifest.new";

const STORE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("store");
const SEGMENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("segments");
const OFFSETS: TableDefinition<'_, (&str, u16), &[u8]> = TableDefinition::new("offsets");
/// There once a bucket has changed hands.
const BUCKETS: TableDefinition<'_, u16, &[u8]> = TableDefinition::new("buckets");

/// Key of the one row of [`STORE`].
const STORE_KEY: &str = "store";

/// redb keeps pages in memory; the manifest has a few hundred rows.
const CACHE_BYTES: usize = 1 << 20;

/// Is what the manifest says about the store as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(super) struct StoreV1 {
    pub(super) buckets: u16,
}

impl Stored for StoreV1 {
    const KIND: u8 = 1;
    const VERSION: u8 = 1;
}

/// The same once [`BUCKETS`] says something: a program that does not know that table would take rows
/// for living that are dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(super) struct StoreV2 {
    pub(super) buckets: u16,
}

impl Stored for StoreV2 {
    const KIND: u8 = 1;
    const VERSION: u8 = 2;
}

/// Is what the manifest says about one live segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(super) struct SegmentV1 {
    pub(super) id: u64,
    pub(super) level: u32,
    pub(super) blocks: u64,
    pub(super) rows: u64,
    pub(super) points: u64,
    pub(super) block_bytes: u64,
    pub(super) bytes: u64,
    pub(super) ts_min_ms: i64,
    pub(super) ts_max_ms: i64,
}

impl Stored for SegmentV1 {
    const KIND: u8 = 2;
    const VERSION: u8 = 1;
}

/// Is the replay offset of one partition of one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(super) struct OffsetV1 {
    pub(super) incarnation: u64,
    pub(super) offset: u64,
}

impl Stored for OffsetV1 {
    const KIND: u8 = 3;
    const VERSION: u8 = 1;
}

/// Is what the manifest says about a bucket that has changed hands, or is about to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(super) struct BucketV1 {
    pub(super) standing: u8,
    pub(super) epoch: u64,
    pub(super) dead_upto: u64,
}

impl Stored for BucketV1 {
    const KIND: u8 = 4;
    const VERSION: u8 = 1;
}

/// Is the place in a log from which a start goes on reading: everything before it is in segments.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReplayOffset {
    /// Name of the log.
    pub source: String,
    /// Partition of the log.
    pub partition: u16,
    /// The log's incarnation under which the offset was read.
    pub incarnation: u64,
    /// First offset not yet stored.
    pub offset: u64,
}

/// Is one change of the manifest; it becomes durable whole or not at all.
#[derive(Debug, Default)]
pub(super) struct Change<'a> {
    pub(super) add: &'a [SegmentV1],
    pub(super) remove: &'a [u64],
    pub(super) offsets: &'a [ReplayOffset],
    /// A bucket whose replay offsets go, before others come.
    pub(super) forget: Option<u16>,
    pub(super) buckets: &'a [(u16, BucketV1)],
}

#[derive(Debug)]
pub(super) struct Manifest {
    path: PathBuf,
    database: Database,
    /// The number of buckets.
    store: StoreV1,
}

impl Manifest {
    /// Creates the manifest under another name and renames it, so that a crash leaves a whole one
    /// or none.
    pub(super) fn create(fs: &dyn Fs, folder: &Path, store: StoreV1) -> Result<(), Error> {
        let new = folder.join(FILE_NEW);
        if fs.exists(&new)? {
            fs.unlink(&new)?;
        }
        let file = fs.create(&new)?;
        let manifest = Self {
            path: new.clone(),
            database: database(&new, Arc::clone(&file))?,
            store,
        };
        manifest.write(|transaction| {
            transaction
                .open_table(STORE)?
                .insert(STORE_KEY, envelope::seal(&store).as_slice())?;
            transaction.open_table(SEGMENTS)?;
            transaction.open_table(OFFSETS)?;
            Ok(())
        })?;
        drop(manifest);
        file.sync_data()?;
        fs.rename(&new, &folder.join(FILE))?;
        fs.sync_dir(folder)?;
        Ok(())
    }

    pub(super) fn open(fs: &dyn Fs, folder: &Path) -> Result<Self, Error> {
        let path = folder.join(FILE);
        let file = fs.open(&path)?;
        // redb takes an empty file for a new database; this one was never empty.
        if file.is_empty()? {
            return Err(Error::Damaged {
                path,
                offset: 0,
                what: "the file is empty".to_owned(),
            });
        }
        let database = database(&path, file)?;
        let store = StoreV1 { buckets: 0 };
        let mut manifest = Self {
            path,
            database,
            store,
        };
        manifest.store = manifest.read_store()?;
        Ok(manifest)
    }

    pub(super) fn store(&self) -> StoreV1 {
        self.store
    }

    fn read_store(&self) -> Result<StoreV1, Error> {
        let read = || -> Result<Option<Vec<u8>>, redb::Error> {
            let table = self.database.begin_read()?.open_table(STORE)?;
            Ok(table.get(STORE_KEY)?.map(|value| value.value().to_vec()))
        };
        let bytes = read().map_err(|error| self.failed(&error))?;
        let bytes = bytes.ok_or_else(|| self.foreign("it has no store row"))?;
        let store = match envelope::open::<StoreV1>(&bytes) {
            Err(EnvelopeError::Version { .. }) => {
                let store = envelope::open::<StoreV2>(&bytes);
                store.map(|StoreV2 { buckets }| StoreV1 { buckets })
            }
            store => store,
        };
        store.map_err(|error| self.unreadable(&error))
    }

    /// What is said of buckets; nothing before one has changed hands.
    pub(super) fn buckets(&self) -> Result<Vec<(u16, BucketV1)>, Error> {
        let read = || -> Result<Vec<(u16, Vec<u8>)>, redb::Error> {
            let table = match self.database.begin_read()?.open_table(BUCKETS) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            let rows = table.iter()?.map(|row| {
                let (bucket, value) = row?;
                Ok((bucket.value(), value.value().to_vec()))
            });
            rows.collect()
        };
        let rows = read().map_err(|error| self.failed(&error))?;
        let row = |(bucket, bytes): (u16, Vec<u8>)| {
            let row = envelope::open(&bytes).map_err(|error| self.unreadable(&error))?;
            Ok((bucket, row))
        };
        rows.into_iter().map(row).collect()
    }

    pub(super) fn segments(&self) -> Result<Vec<SegmentV1>, Error> {
        let read = || -> Result<Vec<Vec<u8>>, redb::Error> {
            let table = self.database.begin_read()?.open_table(SEGMENTS)?;
            table
                .iter()?
                .map(|row| Ok(row?.1.value().to_vec()))
                .collect()
        };
        let rows = read().map_err(|error| self.failed(&error))?;
        rows.iter()
            .map(|bytes| envelope::open(bytes).map_err(|error| self.unreadable(&error)))
            .collect()
    }

    pub(super) fn offsets(&self) -> Result<Vec<ReplayOffset>, Error> {
        type Row = (String, u16, Vec<u8>);
        let read = || -> Result<Vec<Row>, redb::Error> {
            let table = self.database.begin_read()?.open_table(OFFSETS)?;
            let rows = table.iter()?.map(|row| {
                let (key, value) = row?;
                let (source, partition) = key.value();
                Ok((source.to_owned(), partition, value.value().to_vec()))
            });
            rows.collect()
        };
        let rows = read().map_err(|error| self.failed(&error))?;
        rows.into_iter()
            .map(|(source, partition, bytes)| {
                let OffsetV1 {
                    incarnation,
                    offset,
                } = envelope::open(&bytes).map_err(|error| self.unreadable(&error))?;
                Ok(ReplayOffset {
                    source,
                    partition,
                    incarnation,
                    offset,
                })
            })
            .collect()
    }

    /// Makes a change durable.
    pub(super) fn commit(&self, change: &Change<'_>) -> Result<(), Error> {
        self.write(|transaction| {
            let mut segments = transaction.open_table(SEGMENTS)?;
            for id in change.remove {
                let removed = segments.remove(id)?;
                assert!(
                    removed.is_some(),
                    "segment {id} to be replaced stands in the manifest"
                );
            }
            for segment in change.add {
                let held = segments.insert(segment.id, envelope::seal(segment).as_slice())?;
                assert!(
                    held.is_none(),
                    "segment number {} is given once",
                    segment.id
                );
            }
            let mut offsets = transaction.open_table(OFFSETS)?;
            if let Some(bucket) = change.forget {
                offsets.retain(|(_, partition), _| partition != bucket)?;
            }
            for at in change.offsets {
                let row = OffsetV1 {
                    incarnation: at.incarnation,
                    offset: at.offset,
                };
                offsets.insert(
                    (at.source.as_str(), at.partition),
                    envelope::seal(&row).as_slice(),
                )?;
            }
            if change.buckets.is_empty() {
                return Ok(());
            }
            let StoreV1 { buckets } = self.store;
            transaction
                .open_table(STORE)?
                .insert(STORE_KEY, envelope::seal(&StoreV2 { buckets }).as_slice())?;
            let mut table = transaction.open_table(BUCKETS)?;
            for (bucket, row) in change.buckets {
                table.insert(bucket, envelope::seal(row).as_slice())?;
            }
            Ok(())
        })
    }

    fn write(
        &self,
        fill: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), Error> {
        let write = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            fill(&transaction)?;
            transaction.commit()?;
            Ok(())
        };
        write().map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &redb::Error) -> Error {
        Error::Manifest {
            path: self.path.clone(),
            what: error.to_string(),
        }
    }

    pub(super) fn damaged(&self, what: String) -> Error {
        Error::Damaged {
            path: self.path.clone(),
            offset: 0,
            what,
        }
    }

    fn foreign(&self, what: &str) -> Error {
        Error::Foreign {
            path: self.path.clone(),
            what: what.to_owned(),
        }
    }

    fn unreadable(&self, error: &EnvelopeError) -> Error {
        match error {
            EnvelopeError::Version { found, expected } => Error::Version {
                path: self.path.clone(),
                found: u16::from(*found),
                expected: u16::from(*expected),
            },
            EnvelopeError::Damaged(_) => Error::Damaged {
                path: self.path.clone(),
                offset: 0,
                what: error.to_string(),
            },
        }
    }
}

fn database(path: &Path, file: Arc<dyn File>) -> Result<Database, Error> {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
        .create_with_backend(Backend(file))
        .map_err(|error| match error {
            redb::DatabaseError::Storage(redb::StorageError::Io(ref io))
                if io.kind() == io::ErrorKind::InvalidData =>
            {
                Error::Foreign {
                    path: path.to_owned(),
                    what: "no redb database".to_owned(),
                }
            }
            other => Error::Manifest {
                path: path.to_owned(),
                what: other.to_string(),
            },
        })
}
