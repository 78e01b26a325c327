//! Writes a segment from its beginning to its end.

use std::path::Path;
use std::sync::Arc;

use telemetry::block::{self, EncodeError};
use telemetry::{DeviceId, Row, Schemas};

use super::format::{
    BlockEntry, FOOTER_BYTES, Footer, HEADER_BYTES, Header, PAGE_BYTES, PIECE_BYTES_MAX,
    PIECE_HEADER_BYTES, PageEntry, file_name,
};
use crate::fs::{File, Fs};
use crate::tsdb::error::Error;
use crate::tsdb::manifest::SegmentV1;

/// Bytes collected before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// Writes the blocks of a segment in their order. Memory is bounded by the buffer, one index page,
/// the directory (one key for each page) and the schemas.
#[derive(Debug)]
pub(in crate::tsdb) struct Writer {
    file: Arc<dyn File>,
    level: u32,
    /// What is not yet written; it begins at `flushed`.
    buffer: Vec<u8>,
    flushed: u64,
    schemas: Schemas,
    /// The page being filled.
    page: Vec<u8>,
    page_first: Option<(u16, DeviceId)>,
    directory: Vec<PageEntry>,
    last: Option<(u16, DeviceId, i64)>,
    footer: Footer,
}

/// Says whether a segment took a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tsdb) enum Pushed {
    Taken,
    /// The segment has no room for another schema: finish it and begin the next one.
    Full,
}

impl Writer {
    pub(in crate::tsdb) fn create(
        fs: &dyn Fs,
        folder: &Path,
        id: u64,
        level: u32,
    ) -> Result<Self, Error> {
        let file = fs.create(&folder.join(file_name(id)))?;
        let footer = Footer {
            id,
            ts_min_ms: i64::MAX,
            ts_max_ms: i64::MIN,
            ..Footer::default()
        };
        Ok(Self {
            file,
            level,
            buffer: Header { id, level }.encode().to_vec(),
            flushed: 0,
            schemas: Schemas::new(),
            page: Vec::new(),
            page_first: None,
            directory: Vec::new(),
            last: None,
            footer,
        })
    }

    /// Appends a block of one device.
    ///
    /// # Panics
    /// When the rows are none, not strictly ascending by time, more than fit a block, or when the
    /// block does not follow the one before it: a reader would not find it.
    pub(in crate::tsdb) fn push(
        &mut self,
        bucket: u16,
        device: &DeviceId,
        rows: &[Row],
    ) -> Result<Pushed, Error> {
        let (Some(first), Some(end)) = (rows.first(), rows.last()) else {
            panic!("a block has at least one row");
        };
        assert!(
            rows.windows(2).all(|pair| pair[0].ts_ms < pair[1].ts_ms),
            "rows ascend by time"
        );
        let key = (bucket, device.clone(), first.ts_ms);
        assert!(
            self.last.as_ref().is_none_or(|last| *last < key),
            "blocks ascend by key"
        );
        let encoded = match block::encode(rows, &mut self.schemas) {
            Ok(encoded) => encoded,
            Err(EncodeError::SchemasFull(_)) => return Ok(Pushed::Full),
            Err(error) => panic!("rows of a head or of blocks make a block: {error}"),
        };
        assert!(
            encoded.len() <= PIECE_BYTES_MAX as usize,
            "a block of bounded rows is bounded"
        );
        let entry = BlockEntry {
            bucket,
            device: device.clone(),
            ts_min_ms: first.ts_ms,
            ts_max_ms: end.ts_ms,
            rows: rows.len() as u32,
            offset: self.end(),
            len: encoded.len() as u32,
        };
        self.put(&encoded)?;
        self.index(&entry)?;
        self.last = Some((bucket, device.clone(), end.ts_ms));
        self.footer.blocks += 1;
        self.footer.rows += rows.len() as u64;
        self.footer.points += rows.iter().map(|row| row.len() as u64).sum::<u64>();
        self.footer.block_bytes += encoded.len() as u64;
        self.footer.ts_min_ms = self.footer.ts_min_ms.min(first.ts_ms);
        self.footer.ts_max_ms = self.footer.ts_max_ms.max(end.ts_ms);
        Ok(Pushed::Taken)
    }

    /// Writes index and footer and makes the file's bytes durable; its name is durable after the
    /// folder's sync, which is the caller's. `skip_sync` is sabotage, for tests.
    pub(in crate::tsdb) fn finish(mut self, skip_sync: bool) -> Result<SegmentV1, Error> {
        self.close_page()?;
        self.footer.schemas_offset = self.end();
        let schemas = self.schemas.to_bytes();
        self.footer.schemas_len = schemas.len() as u32;
        self.put(&schemas)?;
        self.footer.directory_offset = self.end();
        let mut directory = Vec::new();
        for page in &self.directory {
            page.encode(&mut directory);
        }
        self.footer.directory_len = directory.len() as u32;
        self.put(&directory)?;
        self.buffer.extend_from_slice(&self.footer.encode());
        self.flush()?;
        if !skip_sync {
            self.file.sync_data()?;
        }
        Ok(SegmentV1 {
            id: self.footer.id,
            level: self.level,
            blocks: self.footer.blocks,
            rows: self.footer.rows,
            points: self.footer.points,
            block_bytes: self.footer.block_bytes,
            bytes: self.flushed,
            ts_min_ms: self.footer.ts_min_ms,
            ts_max_ms: self.footer.ts_max_ms,
        })
    }

    fn end(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    fn index(&mut self, entry: &BlockEntry) -> Result<(), Error> {
        self.page_first
            .get_or_insert_with(|| (entry.bucket, entry.device.clone()));
        entry.encode(&mut self.page);
        if self.page.len() >= PAGE_BYTES {
            self.close_page()
        } else {
            Ok(())
        }
    }

    /// Writes the index page right behind its blocks, so that the index needs no memory.
    fn close_page(&mut self) -> Result<(), Error> {
        let Some((bucket, device)) = self.page_first.take() else {
            return Ok(());
        };
        let page = std::mem::take(&mut self.page);
        let entry = PageEntry {
            bucket,
            device,
            offset: self.end(),
            len: page.len() as u32,
        };
        self.directory.push(entry);
        self.put(&page)
    }

    fn put(&mut self, piece: &[u8]) -> Result<(), Error> {
        let len = (piece.len() as u32).to_le_bytes();
        let crc = crc32c::crc32c_append(crc32c::crc32c(&len), piece);
        self.buffer.extend_from_slice(&len);
        self.buffer.extend_from_slice(&crc.to_le_bytes());
        self.buffer.extend_from_slice(piece);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.file.write_at(self.flushed, &self.buffer)?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// The smallest file that can be one.
pub(super) const FILE_BYTES_MIN: u64 =
    (HEADER_BYTES + FOOTER_BYTES + 2 * PIECE_HEADER_BYTES) as u64;
