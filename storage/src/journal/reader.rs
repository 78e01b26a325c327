//! Reads frames back from segments, checked.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{self, Frame, Header, Invalid, Kind};
use super::segment::{self, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::{Config, Position};
use crate::fs::{self, File, Fs};

/// Bytes asked of the disk at once, so that a scan of small frames is not a call for each.
const READ_AHEAD_BYTES: usize = 128 << 10;

/// Reads the frames of a journal from disk, beside its writer. Every call blocks.
#[derive(Debug)]
pub struct FrameReader {
    fs: Arc<dyn Fs>,
    folder: PathBuf,
    owner: [u8; 4],
    open: Option<SegmentReader>,
}

/// Why a frame cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file system does not give it.
    #[error(transparent)]
    Fs(#[from] fs::Error),
    /// Its segment was removed.
    #[error("segment {sequence} in {} was removed", folder.display())]
    Removed {
        /// The journal's folder.
        folder: PathBuf,
        /// The segment's number.
        sequence: u64,
    },
    /// It is not as it was written.
    #[error("{} is damaged at offset {offset}: {cause}", file.display())]
    Damaged {
        /// The segment's file.
        file: PathBuf,
        /// Bytes from its beginning.
        offset: u64,
        /// What is wrong.
        cause: String,
    },
}

impl FrameReader {
    /// A reader of the journal in `folder`.
    #[must_use]
    pub fn new(fs: Arc<dyn Fs>, folder: &Path, config: &Config) -> Self {
        Self {
            fs,
            folder: folder.to_owned(),
            owner: config.owner,
            open: None,
        }
    }

    /// Reads the frame at `position`, which ends at or before `end` in the same segment. Frames that
    /// are not the owner's entries come back empty.
    ///
    /// # Errors
    /// The reader can be used on.
    pub fn read(&mut self, position: Position, end: u64) -> Result<Arc<Frame>, ReadError> {
        let segment = match &mut self.open {
            Some(open) if open.header.sequence == position.segment => open,
            open => open.insert(SegmentReader::open(
                &*self.fs,
                &self.folder,
                position.segment,
                self.owner,
            )?),
        };
        let damaged = |file: &dyn File, cause: String| ReadError::Damaged {
            file: file.path().to_owned(),
            offset: position.offset,
            cause,
        };
        match segment.frame(position.offset, end)? {
            Ok(found) => Ok(found.into_frame(position)),
            Err(invalid) => Err(damaged(&*segment.file, invalid.to_string())),
        }
    }
}

/// A frame as it was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) header: Header,
    pub(super) body: Bytes,
    pub(super) next_offset: u64,
}

impl Found {
    pub(super) fn into_frame(self, position: Position) -> Arc<Frame> {
        let next = Position {
            segment: position.segment,
            offset: self.next_offset,
        };
        match self.header.kind {
            Kind::Entries => Frame::new(position, next, self.body, self.header.entries),
            Kind::Preamble | Kind::Close => Frame::new(position, next, Bytes::new(), 0),
        }
    }
}

/// One segment open for reading.
#[derive(Debug)]
pub(super) struct SegmentReader {
    pub(super) file: Arc<dyn File>,
    pub(super) header: SegmentHeader,
    buffer: Vec<u8>,
    buffer_at: u64,
}

impl SegmentReader {
    pub(super) fn open(
        fs: &dyn Fs,
        folder: &Path,
        sequence: u64,
        owner: [u8; 4],
    ) -> Result<Self, ReadError> {
        let path = segment::path(folder, sequence);
        let file = match fs.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ReadError::Removed {
                    folder: folder.to_owned(),
                    sequence,
                });
            }
            opened => opened?,
        };
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = file.read_at(0, &mut bytes)?;
        let header = SegmentHeader::read(&bytes[..read]).and_then(|header| {
            if header.owner != owner {
                return Err(format!(
                    "it belongs to the journal `{}`, not to `{}`",
                    header.owner.escape_ascii(),
                    owner.escape_ascii()
                ));
            }
            if header.sequence != sequence {
                return Err(format!("it says it is segment {}", header.sequence));
            }
            Ok(header)
        });
        match header {
            Ok(header) => Ok(Self {
                file,
                header,
                buffer: Vec::new(),
                buffer_at: 0,
            }),
            Err(cause) => Err(ReadError::Damaged {
                file: path,
                offset: 0,
                cause,
            }),
        }
    }

    /// Reads the frame at `offset` that ends at or before `end`.
    pub(super) fn frame(
        &mut self,
        offset: u64,
        end: u64,
    ) -> Result<Result<Found, Invalid>, fs::Error> {
        let salt = self.header.salt;
        let head = self.bytes(offset, frame::HEADER_BYTES as u64, end)?;
        let header = match Header::read(head) {
            Ok(header) => header,
            Err(invalid) => return Ok(Err(invalid)),
        };
        let next_offset = offset + header.frame_bytes();
        if next_offset > end {
            return Ok(Err(Invalid::Short));
        }
        let bytes = self.bytes(offset, header.frame_bytes(), end)?;
        Ok(header.body(salt, bytes).map(|body| Found {
            header,
            body,
            next_offset,
        }))
    }

    /// Up to `len` bytes at `offset`, fewer where the file or the range up to `end` ends.
    pub(super) fn bytes(&mut self, offset: u64, len: u64, end: u64) -> Result<&[u8], fs::Error> {
        let len = len.min(end.saturating_sub(offset)) as usize;
        let held_to = self.buffer_at + self.buffer.len() as u64;
        if offset < self.buffer_at || offset + len as u64 > held_to {
            let ahead = (end.saturating_sub(offset)).min(READ_AHEAD_BYTES as u64) as usize;
            self.buffer.clear();
            self.buffer.resize(len.max(ahead), 0);
            self.buffer_at = offset;
            let read = self.file.read_at(offset, &mut self.buffer);
            self.buffer.truncate(*read.as_ref().unwrap_or(&0));
            read?;
        }
        let start = ((offset - self.buffer_at) as usize).min(self.buffer.len());
        let to = (start + len).min(self.buffer.len());
        Ok(&self.buffer[start..to])
    }
}
