//! Reads entries that have left the cache back from disk.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::index::Stretch;
use super::record::Record;
use super::shared::Shared;
use super::{GroupId, LogEntry};
use crate::fs::Fs;
use crate::journal::{self, Frame, FrameReader, Position};

/// Frames remembered, however small they are.
const FRAMES_MAX: usize = 64;
/// Readers kept, each with an open segment.
const READERS_MAX: usize = 4;

/// Why entries cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The disk does not give them, or not as they were written.
    #[error(transparent)]
    Journal(#[from] journal::ReadError),
    /// A frame is whole but holds something else.
    #[error("segment {segment:016x}.seg in {} has no entry {index} of group {group} at offset {offset}", folder.display())]
    Absent {
        /// The journal's folder.
        folder: PathBuf,
        /// The segment's number.
        segment: u64,
        /// Where the frame begins.
        offset: u64,
        /// The group.
        group: GroupId,
        /// The index of the entry.
        index: u64,
    },
    /// The log was changed again and again while it was read; the caller may try again.
    #[error("the log of group {0} was changed while it was read")]
    Changing(GroupId),
}

impl ReadError {
    /// Whether the segment is not there any more, because what it held was purged or copied.
    pub(super) fn is_removed(&self) -> bool {
        matches!(self, Self::Journal(journal::ReadError::Removed { .. }))
    }
}

/// Reads frames, and remembers some: catching up reads a frame in many small steps.
#[derive(Debug)]
pub(super) struct Reader {
    fs: Arc<dyn Fs>,
    folder: PathBuf,
    config: journal::Config,
    bytes_limit: usize,
    frames: Mutex<VecDeque<Arc<Frame>>>,
    readers: Mutex<Vec<FrameReader>>,
}

impl Reader {
    pub(super) fn new(
        fs: Arc<dyn Fs>,
        folder: &Path,
        config: &journal::Config,
        bytes_limit: usize,
    ) -> Self {
        Self {
            fs,
            folder: folder.to_owned(),
            config: config.clone(),
            bytes_limit,
            frames: Mutex::default(),
            readers: Mutex::default(),
        }
    }

    /// Reads the entries of a stretch. Blocks on the disk.
    pub(super) fn read(
        &self,
        group: GroupId,
        stretch: Stretch,
    ) -> Result<Vec<LogEntry>, ReadError> {
        let frame = self.frame(stretch)?;
        let absent = |index| ReadError::Absent {
            folder: self.folder.clone(),
            segment: stretch.place.position.segment,
            offset: stretch.place.position.offset,
            group,
            index,
        };
        let wanted = stretch.first..stretch.end();
        let mut found: Vec<Option<LogEntry>> = vec![None; stretch.count as usize];
        for entry in frame.entries().filter(|entry| entry.tag == group.0) {
            let (Record::Append(run) | Record::Copy(run)) =
                Record::read(&entry.payload).map_err(|_| absent(stretch.first))?
            else {
                continue;
            };
            // A frame may hold an entry, its truncation, and another one under its index: the last
            // one is meant.
            for entry in run
                .entries()
                .filter(|entry| wanted.contains(&entry.id.index))
            {
                let at = usize::try_from(entry.id.index - stretch.first).expect("within a frame");
                found[at] = Some(entry);
            }
        }
        (stretch.first..)
            .zip(found)
            .map(|(index, entry)| entry.ok_or_else(|| absent(index)))
            .collect()
    }

    /// Lets go of the segments that are open for later reads.
    pub(super) fn close_files(&self) {
        Shared::lock(&self.readers).clear();
    }

    fn frame(&self, stretch: Stretch) -> Result<Arc<Frame>, ReadError> {
        let position = stretch.place.position;
        if let Some(frame) = self.remembered(position) {
            return Ok(frame);
        }
        let reader = Shared::lock(&self.readers).pop();
        let mut reader = reader
            .unwrap_or_else(|| FrameReader::new(Arc::clone(&self.fs), &self.folder, &self.config));
        let end = position.offset + u64::from(stretch.place.bytes);
        let frame = reader.read(position, end)?;
        let mut readers = Shared::lock(&self.readers);
        if readers.len() < READERS_MAX {
            readers.push(reader);
        }
        drop(readers);
        self.remember(Arc::clone(&frame));
        Ok(frame)
    }

    fn remembered(&self, position: Position) -> Option<Arc<Frame>> {
        let mut frames = Shared::lock(&self.frames);
        let at = frames.iter().position(|frame| frame.position == position)?;
        let frame = frames.remove(at)?;
        frames.push_back(Arc::clone(&frame));
        Some(frame)
    }

    fn remember(&self, frame: Arc<Frame>) {
        let mut frames = Shared::lock(&self.frames);
        frames.push_back(frame);
        let mut bytes: usize = frames.iter().map(|frame| frame.bytes()).sum();
        while bytes > self.bytes_limit || frames.len() > FRAMES_MAX {
            let Some(oldest) = frames.pop_front() else {
                break;
            };
            bytes -= oldest.bytes();
        }
    }
}
