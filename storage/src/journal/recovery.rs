//! Opening a journal: checks every frame, cuts the torn tail of the last segment, and makes sure
//! that what it found is on the disk and not only in the page cache.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::{self, HEADER_BYTES, Header, Invalid, Kind};
use super::reader::{ReadError, SegmentReader};
use super::segment::{self, SEGMENT_HEADER_BYTES, SegmentStart};
use super::{Config, Layout, Position};
use crate::fs::{self, File, Fs, LOCK_FILE, LockError};

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting that cannot work.
    #[error("{0}")]
    Config(String),
    /// Another process has the folder.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// The file system refuses.
    #[error(transparent)]
    Fs(#[from] fs::Error),
    /// The folder holds something else.
    #[error("folder {} is not a journal's: it holds `{name}`; use an empty folder", folder.display())]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// A file that is none of ours.
        name: String,
    },
    /// A segment between others is not there.
    #[error("folder {} lacks segment {sequence:016x}.seg", folder.display())]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// The number of the lost segment.
        sequence: u64,
    },
    /// Something that was fsynced is not as it was written.
    #[error("{} is damaged at offset {offset}: {cause}", file.display())]
    Damaged {
        /// The segment's file.
        file: PathBuf,
        /// Bytes from its beginning.
        offset: u64,
        /// What is wrong.
        cause: String,
    },
    /// The system gives no thread.
    #[error("cannot start the journal's threads: {0}")]
    Thread(std::io::Error),
}

impl From<ReadError> for OpenError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Fs(error) => Self::Fs(error),
            ReadError::Removed { folder, sequence } => Self::Missing { folder, sequence },
            ReadError::Damaged {
                file,
                offset,
                cause,
            } => Self::Damaged {
                file,
                offset,
                cause,
            },
        }
    }
}

/// Where a recovered journal goes on.
pub(super) struct Tail {
    pub(super) file: Arc<dyn File>,
    pub(super) first_sequence: u64,
    pub(super) sequence: u64,
    pub(super) incarnation: u64,
    pub(super) salt: u64,
    pub(super) first_offset: u64,
    pub(super) end: u64,
    /// Bytes of the last segment's file.
    pub(super) reserved: u64,
    /// Whether something behind `end` was cut: a new incarnation is due, in a new segment.
    pub(super) torn: bool,
}

/// Refuses a folder that holds anything that is not a journal's; gives the segments, ascending.
pub(super) fn segments(fs: &dyn Fs, folder: &Path) -> Result<Vec<u64>, OpenError> {
    let mut sequences = Vec::new();
    for name in fs.list(folder)? {
        let unfinished = name
            .strip_suffix(segment::UNFINISHED)
            .is_some_and(|name| segment::sequence_of(name).is_some());
        if let Some(sequence) = segment::sequence_of(&name) {
            sequences.push(sequence);
        } else if !unfinished && name != LOCK_FILE {
            return Err(OpenError::Foreign {
                folder: folder.to_owned(),
                name,
            });
        }
    }
    sequences.sort_unstable();
    Ok(sequences)
}

/// Removes segments that were being made when the process ended.
pub(super) fn remove_unfinished(fs: &dyn Fs, folder: &Path) -> Result<(), OpenError> {
    for name in fs.list(folder)? {
        if name.ends_with(segment::UNFINISHED) {
            fs.unlink(&folder.join(name))?;
        }
    }
    Ok(())
}

/// Reads everything, tells the layout, and gives the place to go on; `None` if there is no segment.
pub(super) fn recover<L: Layout>(
    fs: &dyn Fs,
    folder: &Path,
    config: &Config,
    sequences: &[u64],
    layout: &mut L,
) -> Result<Option<Tail>, OpenError> {
    let Some((&first_sequence, &last_sequence)) = sequences.first().zip(sequences.last()) else {
        return Ok(None);
    };
    for (expected, &sequence) in (first_sequence..).zip(sequences) {
        if sequence != expected {
            return Err(OpenError::Missing {
                folder: folder.to_owned(),
                sequence: expected,
            });
        }
    }
    let mut incarnation = 0;
    let mut previous_end = None;
    let mut reader = SegmentReader::open(fs, folder, first_sequence, config.owner)?;
    while reader.header.sequence < last_sequence {
        let next = SegmentReader::open(fs, folder, reader.header.sequence + 1, config.owner)?;
        let mut scan = Scan::new(reader, layout);
        scan.check_order(&mut incarnation, previous_end)?;
        scan.closed(next.header.previous_end)?;
        previous_end = Some(next.header.previous_end);
        reader = next;
    }
    let mut scan = Scan::new(reader, layout);
    scan.check_order(&mut incarnation, previous_end)?;
    let tail = scan.last(first_sequence)?;
    fs.sync_dir(folder)?;
    Ok(Some(tail))
}

/// Goes through one segment.
struct Scan<'l, L> {
    reader: SegmentReader,
    layout: &'l mut L,
    first_offset: u64,
    group_start: u64,
}

impl<'l, L: Layout> Scan<'l, L> {
    fn new(reader: SegmentReader, layout: &'l mut L) -> Self {
        Self {
            reader,
            layout,
            first_offset: 0,
            group_start: 0,
        }
    }

    fn damaged(&self, offset: u64, cause: &dyn fmt::Display) -> OpenError {
        OpenError::Damaged {
            file: self.reader.file.path().to_owned(),
            offset,
            cause: cause.to_string(),
        }
    }

    fn check_order(
        &self,
        incarnation: &mut u64,
        previous_end: Option<u64>,
    ) -> Result<(), OpenError> {
        let header = &self.reader.header;
        if header.incarnation < *incarnation {
            return Err(self.damaged(24, &"its incarnation is older than the segment's before"));
        }
        *incarnation = header.incarnation;
        match previous_end {
            Some(end) if end != header.previous_end => {
                Err(self.damaged(40, &"it names another end of the segment before"))
            }
            _ => Ok(()),
        }
    }

    /// Reads frames up to `end`; stops at the first that is invalid and says where and why.
    fn frames(&mut self, end: u64) -> Result<(u64, Option<Invalid>), OpenError> {
        let mut offset = SEGMENT_HEADER_BYTES as u64;
        while offset < end {
            let found = match self.reader.frame(offset, end)? {
                Ok(found) => found,
                Err(invalid) => return Ok((offset, Some(invalid))),
            };
            let next_offset = found.next_offset;
            self.group_start = found.header.group_start;
            let first = offset == SEGMENT_HEADER_BYTES as u64;
            match found.header.kind {
                Kind::Preamble if first => {
                    self.first_offset = next_offset;
                    let start = SegmentStart {
                        sequence: self.reader.header.sequence,
                        incarnation: self.reader.header.incarnation,
                        first_offset: next_offset,
                        previous_end: self.reader.header.previous_end,
                    };
                    self.layout
                        .recover_segment(&start, &found.body)
                        .map_err(|cause| self.damaged(offset, &cause))?;
                }
                Kind::Entries if !first => {
                    let position = Position {
                        segment: self.reader.header.sequence,
                        offset,
                    };
                    self.layout
                        .recover_frame(&found.into_frame(position))
                        .map_err(|cause| self.damaged(offset, &cause))?;
                }
                Kind::Close if !first => {}
                _ => return Err(self.damaged(offset, &"a frame of this kind cannot stand here")),
            }
            offset = next_offset;
        }
        Ok((offset, None))
    }

    fn closed(&mut self, end: u64) -> Result<(), OpenError> {
        match self.frames(end)? {
            (offset, Some(invalid)) => Err(self.damaged(offset, &invalid)),
            (offset, None) if offset != end || self.first_offset == 0 => {
                Err(self.damaged(offset, &"its frames do not fill it"))
            }
            _ => Ok(()),
        }
    }

    fn last(&mut self, first_sequence: u64) -> Result<Tail, OpenError> {
        let len = self.reader.file.len()?;
        let (end, invalid) = self.frames(len)?;
        // The first group of a segment was fsynced before the segment got its name.
        if self.first_offset == 0 {
            return Err(self.damaged(SEGMENT_HEADER_BYTES as u64, &"its preamble is gone"));
        }
        let torn = match invalid {
            None => false,
            // The magic and the version share a sector: this is no torn write.
            Some(invalid @ Invalid::Version(_)) => return Err(self.damaged(end, &invalid)),
            Some(invalid) => self.is_torn(end, len, invalid)?,
        };
        self.write_again(end)?;
        Ok(Tail {
            file: Arc::clone(&self.reader.file),
            first_sequence,
            sequence: self.reader.header.sequence,
            incarnation: self.reader.header.incarnation,
            salt: self.reader.header.salt,
            first_offset: self.first_offset,
            end,
            reserved: len,
            torn,
        })
    }

    /// Whether what lies from `end` on is a torn write (true), nothing (false), or damage to what
    /// had been fsynced (an error): a valid frame of a later group shows that.
    fn is_torn(&mut self, end: u64, len: u64, invalid: Invalid) -> Result<bool, OpenError> {
        let rest = self.reader.bytes(end, len - end, len)?.to_vec();
        if rest.iter().all(|byte| *byte == 0) {
            return Ok(false);
        }
        let salt = self.reader.header.salt;
        let later = (0..(rest.len() + 1).saturating_sub(HEADER_BYTES))
            .step_by(frame::ALIGNMENT as usize)
            .map(|at| &rest[at..])
            .filter(|bytes| frame::may_begin(bytes))
            .filter_map(|bytes| Some((Header::read(bytes).ok()?, bytes)))
            .any(|(header, bytes)| header.group_start > end && header.body(salt, bytes).is_ok());
        if later {
            return Err(self.damaged(end, &invalid));
        }
        tracing::warn!(
            file = %self.reader.file.path().display(),
            offset = end,
            "cut the torn tail of the journal"
        );
        Ok(true)
    }

    /// Writes the last group again and fsyncs. After a failed fsync the kernel may hold its bytes as
    /// clean pages that no later fsync would write; all earlier groups were fsynced with success.
    fn write_again(&mut self, end: u64) -> Result<(), OpenError> {
        let start = self.group_start;
        let group = self.reader.bytes(start, end - start, end)?.to_vec();
        self.reader.file.write_at(start, &group)?;
        self.reader.file.sync_data()?;
        Ok(())
    }
}
