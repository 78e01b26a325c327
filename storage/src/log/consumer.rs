//! Reads assigned partitions in the order of the physical log.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::record::{Record, StoredRecord};
use super::state::{Next, Readable};
use super::{AssignError, PollError, Start};
use crate::fs::Fs;
use crate::journal::{self, Frame, FrameReader, Position, ReadError};

/// Bytes of frames after which a poll returns although it found nothing for this consumer.
const SCAN_BYTES_MAX: usize = 8 << 20;

/// Reads assigned partitions in the order of the physical log. It sees fsynced records only.
///
/// It holds no part of the log alive: after [`close`](super::EmbeddedLog::close) it reads what is
/// there and then finds nothing more.
pub struct Consumer {
    readable: Arc<Readable>,
    reader: FrameReader,
    /// The next offset wanted of each partition; `None`: not assigned.
    wanted: Vec<Option<u64>>,
    position: Position,
    /// The frame being read and the place in it.
    open: Option<(Arc<Frame>, usize)>,
    /// Nudges that have ended a wait.
    nudges: u64,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Consumer {
    pub(super) fn new(
        readable: Arc<Readable>,
        fs: Arc<dyn Fs>,
        folder: &Path,
        config: &journal::Config,
    ) -> Self {
        let (partitions, position) = {
            let state = readable.state();
            (state.ends.len(), state.end)
        };
        Self {
            readable,
            reader: FrameReader::new(fs, folder, config),
            wanted: vec![None; partitions],
            position,
            open: None,
            nudges: 0,
        }
    }

    /// Replaces the assignment; the next poll begins at the starts. A partition named twice counts
    /// with its last start.
    ///
    /// # Errors
    /// The assignment is unchanged.
    pub fn assign(&mut self, starts: Vec<Start>) -> Result<(), AssignError> {
        let mut wanted = vec![None; self.wanted.len()];
        let state = self.readable.state();
        for start in starts {
            state.check(&start)?;
            wanted[usize::from(start.partition)] = Some(start.offset);
        }
        drop(state);
        self.wanted = wanted;
        self.seek();
        Ok(())
    }

    /// The next offset that a poll would give of each assigned partition, `(partition, offset)`.
    #[must_use]
    pub fn positions(&self) -> Vec<(u16, u64)> {
        (0..=u16::MAX)
            .zip(&self.wanted)
            .filter_map(|(partition, wanted)| Some((partition, (*wanted)?)))
            .collect()
    }

    /// Whether everything fsynced has been passed: a poll that gave nothing may else have come
    /// through a long stretch without a record for this consumer.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.open.is_none() && self.position >= self.readable.state().end
    }

    /// Waits up to `timeout` for records and returns those at hand, up to about `bytes_max` of keys
    /// and payloads (at least one record if there is any). Empty after the timeout, when the log is
    /// closed, when a long stretch of the log held nothing for this consumer, or after
    /// [`EmbeddedLog::nudge`](super::EmbeddedLog::nudge).
    ///
    /// # Errors
    /// The position is unchanged.
    pub fn poll(
        &mut self,
        bytes_max: usize,
        timeout: Duration,
    ) -> Result<Vec<StoredRecord>, PollError> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let (records, at_end) = self.scan(bytes_max)?;
            if !records.is_empty() || !at_end || self.readable.state().closed {
                return Ok(records);
            }
            // Without a deadline the wait ends only by records or the close.
            let left = deadline.map_or(Duration::MAX, |at| {
                at.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return Ok(records);
            }
            if self.readable.wait(self.position, left, &mut self.nudges) {
                return Ok(records);
            }
        }
    }

    /// Gives what is at hand, and whether the end of the log was reached.
    fn scan(&mut self, bytes_max: usize) -> Result<(Vec<StoredRecord>, bool), PollError> {
        let before = (self.position, self.open.clone(), self.wanted.clone());
        let mut found = Found {
            records: Vec::new(),
            bytes: 0,
            bytes_max: bytes_max.max(1),
        };
        let scanned = self.scan_into(&mut found);
        match scanned {
            Ok(at_end) => Ok((found.records, at_end)),
            Err(error) => {
                (self.position, self.open, self.wanted) = before;
                Err(error)
            }
        }
    }

    fn scan_into(&mut self, found: &mut Found) -> Result<bool, PollError> {
        let mut scanned = 0;
        loop {
            let Some((frame, place)) = self.open.take() else {
                match self.next_frame()? {
                    Some(frame) => {
                        scanned += frame.bytes();
                        self.open = Some((frame, 0));
                        continue;
                    }
                    None => return Ok(true),
                }
            };
            match self.take_from(&frame, place, found)? {
                Some(place) => {
                    self.open = Some((frame, place));
                    return Ok(false);
                }
                None => self.position = frame.next,
            }
            if found.is_full() || scanned >= SCAN_BYTES_MAX {
                return Ok(false);
            }
        }
    }

    /// Takes the wanted records of a frame from a place on; gives the place where it had to stop.
    fn take_from(
        &mut self,
        frame: &Frame,
        place: usize,
        found: &mut Found,
    ) -> Result<Option<usize>, PollError> {
        let mut place = place;
        for (behind, entry) in frame.entries_from(place) {
            if found.is_full() {
                return Ok(Some(place));
            }
            place = behind;
            let partition = entry.tag as u16;
            let Some(Some(wanted)) = self.wanted.get_mut(usize::from(partition)) else {
                continue;
            };
            if entry.number < *wanted {
                continue;
            }
            if entry.number > *wanted {
                return Err(PollError::Damaged(format!(
                    "partition {partition} goes on with offset {} instead of {wanted} at {}",
                    entry.number, frame.position
                )));
            }
            *wanted += 1;
            let record = Record::decode(partition, &entry.payload).map_err(PollError::Damaged)?;
            found.push(StoredRecord {
                offset: entry.number,
                record,
            });
        }
        Ok(None)
    }

    fn next_frame(&mut self) -> Result<Option<Arc<Frame>>, PollError> {
        let mut sought = false;
        loop {
            let next = self.readable.state().next(self.position);
            match next {
                Next::End => return Ok(None),
                Next::Cached(frame) => return Ok(Some(frame)),
                Next::OnDisk { position, end } => match self.reader.read(position, end) {
                    Ok(frame) => return Ok(Some(frame)),
                    // Released between the look and the read: look again.
                    Err(ReadError::Removed { .. }) if !sought => {}
                    Err(error) => return Err(PollError::Damaged(error.to_string())),
                },
                Next::Released if sought => return Err(PollError::Released),
                Next::Released => {}
            }
            // What was released may have been read by this consumer, or be none of its own.
            self.check_released()?;
            self.seek();
            sought = true;
        }
    }

    fn check_released(&self) -> Result<(), PollError> {
        let state = self.readable.state();
        let lacks = |(partition, wanted): (usize, &Option<u64>)| {
            wanted.is_some_and(|wanted| wanted < state.start(partition))
        };
        if self.wanted.iter().enumerate().any(lacks) {
            return Err(PollError::Released);
        }
        Ok(())
    }

    /// Goes to the earliest position of what is wanted.
    fn seek(&mut self) {
        let state = self.readable.state();
        let positions = self.wanted.iter().enumerate();
        self.position = positions
            .filter_map(|(partition, wanted)| Some(state.position_of(partition, (*wanted)?)))
            .min()
            .unwrap_or(state.end);
        drop(state);
        self.open = None;
    }
}

struct Found {
    records: Vec<StoredRecord>,
    bytes: usize,
    bytes_max: usize,
}

impl Found {
    fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max
    }

    fn push(&mut self, stored: StoredRecord) {
        // A record costs something even without bytes, so that the count is bounded, too.
        self.bytes += stored.record.stored_bytes();
        self.records.push(stored);
    }
}
