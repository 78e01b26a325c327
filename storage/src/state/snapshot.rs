//! A view of a state file that later changes do not touch.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use redb::{ReadOnlyTable, ReadableDatabase};

use super::open_file::{OpenFile, ROWS};
use super::row::{self, Row};
use super::{Applied, Error};

/// The rows as they were at one moment. It copies nothing, but pins the pages that are changed
/// meanwhile: the file grows while it lives. Reading blocks on the disk.
#[derive(Debug)]
pub struct Snapshot {
    rows: ReadOnlyTable<&'static [u8], &'static [u8]>,
    applied: Option<Applied>,
    /// The database stays open for as long as it is read.
    open: Arc<OpenFile>,
}

impl Snapshot {
    pub(super) fn of(open: Arc<OpenFile>) -> Result<Self, Error> {
        let read = || -> Result<_, redb::Error> {
            let transaction = open.database.begin_read()?;
            Ok((transaction.open_table(ROWS)?, transaction))
        };
        let (rows, transaction) = read().map_err(|error| open.error(&error))?;
        let applied = open.read_applied(&transaction)?;
        Ok(Self {
            rows,
            applied,
            open,
        })
    }

    /// The last entry whose changes it holds.
    #[must_use]
    pub fn applied(&self) -> Option<&Applied> {
        self.applied.as_ref()
    }

    /// The value of a row.
    ///
    /// # Errors
    /// When the disk does not give what was written.
    pub fn get(&self, kind: u8, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let key = row::stored_key(kind, key);
        let stored = self
            .rows
            .get_owned(key.as_slice())
            .map_err(|error| self.open.error(&error.into()))?;
        let Some(stored) = stored else {
            return Ok(None);
        };
        let value = row::unseal(&key, stored.value()).ok_or_else(|| self.open.damaged_row(&key))?;
        Ok(Some(Bytes::copy_from_slice(value)))
    }

    /// All rows, ordered by kind and key.
    ///
    /// # Errors
    /// When the disk does not give what was written.
    pub fn rows(&self) -> Result<Rows, Error> {
        self.rows_between(Bound::Unbounded, Bound::Unbounded)
    }

    /// The rows of a kind from this key on, ordered by key.
    ///
    /// # Errors
    /// When the disk does not give what was written.
    pub fn rows_of(&self, kind: u8, from: &[u8]) -> Result<Rows, Error> {
        let first = row::stored_key(kind, from);
        let behind = kind.checked_add(1).map(|next| [next]);
        let behind = match &behind {
            Some(next) => Bound::Excluded(&next[..]),
            None => Bound::Unbounded,
        };
        self.rows_between(Bound::Included(&first), behind)
    }

    fn rows_between(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<Rows, Error> {
        let range = self
            .rows
            .range_owned::<&[u8]>((from, to))
            .map_err(|error| self.open.error(&error.into()))?;
        Ok(Rows {
            range,
            open: Arc::clone(&self.open),
        })
    }
}

/// Rows in order. After an error it gives nothing that can be relied on.
pub struct Rows {
    range: redb::OwnedRange<&'static [u8], &'static [u8]>,
    open: Arc<OpenFile>,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows").finish_non_exhaustive()
    }
}

impl Iterator for Rows {
    type Item = Result<Row, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let (key, stored) = match self.range.next()? {
            Ok(row) => row,
            Err(error) => return Some(Err(self.open.error(&error.into()))),
        };
        let (key, stored) = (key.value(), stored.value());
        let Some((value, (kind, name))) = row::unseal(key, stored).zip(key.split_first()) else {
            return Some(Err(self.open.damaged_row(key)));
        };
        Some(Ok(Row {
            kind: *kind,
            key: Bytes::copy_from_slice(name),
            value: Bytes::copy_from_slice(value),
        }))
    }
}
