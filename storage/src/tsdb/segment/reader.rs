//! Reads a segment: one device's blocks by index, or all blocks in their order.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use telemetry::{DeviceId, Row, Schemas, block};

use super::format::{
    BlockEntry, FOOTER_BYTES, Footer, FrameError, HEADER_BYTES, Header, PIECE_BYTES_MAX,
    PIECE_HEADER_BYTES, PageEntry, VERSION, decode_all, file_name,
};
use super::writer::FILE_BYTES_MIN;
use crate::fs::{File, Fs};
use crate::tsdb::cache::Cache;
use crate::tsdb::error::Error;
use crate::tsdb::manifest::SegmentV1;

/// Is an open segment. When it was replaced by a merge, its file goes with the last reader.
#[derive(Debug)]
pub(in crate::tsdb) struct Segment {
    pub(in crate::tsdb) about: SegmentV1,
    fs: Arc<dyn Fs>,
    file: Arc<dyn File>,
    path: PathBuf,
    schemas: Schemas,
    directory: Vec<PageEntry>,
    replaced: AtomicBool,
}

impl Segment {
    /// Opens a file and checks it against what the manifest says.
    pub(in crate::tsdb) fn open(
        fs: &Arc<dyn Fs>,
        folder: &Path,
        about: SegmentV1,
    ) -> Result<Self, Error> {
        let path = folder.join(file_name(about.id));
        let file = fs.open(&path)?;
        let mut segment = Self {
            about,
            fs: Arc::clone(fs),
            file,
            path,
            schemas: Schemas::new(),
            directory: Vec::new(),
            replaced: AtomicBool::new(false),
        };
        segment.load()?;
        Ok(segment)
    }

    fn load(&mut self) -> Result<(), Error> {
        let len = self.file.len()?;
        if len != self.about.bytes || len < FILE_BYTES_MIN {
            let what = format!("it has {len} bytes, the manifest says {}", self.about.bytes);
            return Err(self.damaged(0, what));
        }
        let mut header = [0; HEADER_BYTES];
        self.read_exact(0, &mut header)?;
        let header = Header::decode(&header).map_err(|error| match error {
            FrameError::Foreign(what) => Error::Foreign {
                path: self.path.clone(),
                what: what.to_owned(),
            },
            FrameError::Version(found) => Error::Version {
                path: self.path.clone(),
                found,
                expected: VERSION,
            },
            FrameError::Damaged(what) => self.damaged(0, what),
        })?;
        let footer_offset = len - FOOTER_BYTES as u64;
        let mut footer = [0; FOOTER_BYTES];
        self.read_exact(footer_offset, &mut footer)?;
        let footer = Footer::decode(&footer).map_err(|what| self.damaged(footer_offset, what))?;
        let agree = header.id == self.about.id
            && header.level == self.about.level
            && footer.id == self.about.id
            && footer.rows == self.about.rows
            && footer.points == self.about.points;
        if !agree {
            return Err(self.damaged(
                footer_offset,
                "it is not the segment that the manifest names",
            ));
        }
        let schemas = self.piece(footer.schemas_offset, footer.schemas_len)?;
        self.schemas = Schemas::from_bytes(&schemas)
            .map_err(|error| self.damaged(footer.schemas_offset, error.to_string()))?;
        let directory = self.piece(footer.directory_offset, footer.directory_len)?;
        self.directory = decode_all(&directory, PageEntry::decode)
            .map_err(|what| self.damaged(footer.directory_offset, what))?;
        Ok(())
    }

    /// The blocks of a device in ascending order of time.
    pub(in crate::tsdb) fn blocks_of(
        &self,
        bucket: u16,
        device: &DeviceId,
        pages: &Cache<Vec<BlockEntry>>,
    ) -> Result<Vec<BlockEntry>, Error> {
        let key = (bucket, device);
        // The device may begin in the page before the first that begins with it.
        let first = self
            .directory
            .partition_point(|page| (page.bucket, &page.device) < key);
        let mut found = Vec::new();
        for page in self.directory.iter().skip(first.saturating_sub(1)) {
            if (page.bucket, &page.device) > key {
                break;
            }
            let entries = pages.get_or((self.about.id, page.offset), || {
                let entries = self.page(page)?;
                let weight = entries.len() * (size_of::<BlockEntry>() + 32) + 64;
                Ok::<_, Error>((entries, weight))
            })?;
            let from = entries.partition_point(|entry| (entry.bucket, &entry.device) < key);
            let own = entries[from..]
                .iter()
                .take_while(|entry| (entry.bucket, &entry.device) == key);
            found.extend(own.cloned());
        }
        Ok(found)
    }

    /// Decodes a block.
    pub(in crate::tsdb) fn rows(&self, entry: &BlockEntry) -> Result<Vec<Row>, Error> {
        let bytes = self.piece(entry.offset, entry.len)?;
        let rows = block::decode(&bytes, &self.schemas)
            .map_err(|error| self.damaged(entry.offset, error.to_string()))?;
        let as_indexed = rows.len() == entry.rows as usize
            && rows.first().is_some_and(|row| row.ts_ms == entry.ts_min_ms)
            && rows.last().is_some_and(|row| row.ts_ms == entry.ts_max_ms)
            && rows.windows(2).all(|pair| pair[0].ts_ms < pair[1].ts_ms);
        if !as_indexed {
            return Err(self.damaged(entry.offset, "the block is not what its index entry says"));
        }
        Ok(rows)
    }

    /// All blocks in the order of the file.
    pub(in crate::tsdb) fn entries(self: &Arc<Self>) -> Entries {
        Entries {
            segment: Arc::clone(self),
            page: 0,
            entries: Vec::new().into_iter(),
            failed: false,
        }
    }

    /// The blocks of one bucket, since the file is sorted one range of it; from those of a device on,
    /// if one is named.
    pub(in crate::tsdb) fn entries_from(
        self: &Arc<Self>,
        bucket: u16,
        device: Option<&DeviceId>,
    ) -> impl Iterator<Item = Result<BlockEntry, Error>> + use<> {
        let key = (bucket, device);
        let first = self
            .directory
            .partition_point(|page| (page.bucket, Some(&page.device)) < key);
        let entries = Entries {
            page: first.saturating_sub(1),
            ..self.entries()
        };
        let from = device.cloned();
        let before = move |entry: &Result<BlockEntry, Error>| {
            let is_before =
                |entry: &BlockEntry| (entry.bucket, Some(&entry.device)) < (bucket, from.as_ref());
            entry.as_ref().is_ok_and(is_before)
        };
        let within = move |entry: &Result<BlockEntry, Error>| {
            entry.as_ref().map_or(true, |entry| entry.bucket == bucket)
        };
        entries.skip_while(before).take_while(within)
    }

    /// Lets the file go with the last reader.
    pub(in crate::tsdb) fn replaced(&self) {
        self.replaced.store(true, Ordering::Release);
    }

    fn page(&self, page: &PageEntry) -> Result<Vec<BlockEntry>, Error> {
        let bytes = self.piece(page.offset, page.len)?;
        decode_all(&bytes, BlockEntry::decode).map_err(|what| self.damaged(page.offset, what))
    }

    fn piece(&self, offset: u64, len: u32) -> Result<Vec<u8>, Error> {
        if len > PIECE_BYTES_MAX {
            return Err(self.damaged(offset, "a length beyond every bound"));
        }
        let mut bytes = vec![0; PIECE_HEADER_BYTES + len as usize];
        self.read_exact(offset, &mut bytes)?;
        let (head, piece) = bytes.split_at(PIECE_HEADER_BYTES);
        let (stored_len, stored_crc) = head.split_at(4);
        if stored_len != len.to_le_bytes() {
            return Err(self.damaged(offset, "another length than its index says"));
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(stored_len), piece);
        if stored_crc != crc.to_le_bytes() {
            return Err(self.damaged(offset, "checksum"));
        }
        bytes.drain(..PIECE_HEADER_BYTES);
        Ok(bytes)
    }

    fn read_exact(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let read = self.file.read_at(offset, bytes)?;
        if read == bytes.len() {
            Ok(())
        } else {
            Err(self.damaged(offset, "the file ends early"))
        }
    }

    fn damaged(&self, offset: u64, what: impl Into<String>) -> Error {
        Error::Damaged {
            path: self.path.clone(),
            offset,
            what: what.into(),
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if self.replaced.load(Ordering::Acquire)
            && let Err(error) = self.fs.unlink(&self.path)
        {
            // The next start deletes what the manifest does not name.
            tracing::warn!(%error, "a replaced segment stays until the next start");
        }
    }
}

/// Gives the index entries of a segment, reading page by page.
#[derive(Debug)]
pub(in crate::tsdb) struct Entries {
    segment: Arc<Segment>,
    page: usize,
    entries: std::vec::IntoIter<BlockEntry>,
    failed: bool,
}

impl Iterator for Entries {
    type Item = Result<BlockEntry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.entries.next() {
                return Some(Ok(entry));
            }
            let page = self.segment.directory.get(self.page)?;
            if self.failed {
                return None;
            }
            match self.segment.page(page) {
                Ok(entries) => self.entries = entries.into_iter(),
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
            self.page += 1;
        }
    }
}
