//! What readers may see of the log: ends, segments with their sparse index, the tail cache.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::record::Record;
use super::{AssignError, Incarnation, Start};
use crate::journal::{Frame, Position, SegmentStart};

/// A mark of the sparse index follows after this many bytes of a segment.
const MARK_BYTES: u64 = 1 << 20;

/// Everything shared between the writer thread and readers.
pub(super) struct Readable {
    state: Mutex<State>,
    grown: Condvar,
    wakers: Mutex<Vec<(u64, Waker)>>,
    waker_ids: AtomicU64,
    /// Bytes of segments on disk; read by producers without the lock.
    pub(super) disk_bytes: AtomicU64,
}

type Waker = Arc<dyn Fn() + Send + Sync>;

pub(super) struct State {
    pub(super) ends: Vec<u64>,
    pub(super) incarnation: Incarnation,
    /// Where each known incarnation began.
    pub(super) begins: Vec<(Incarnation, Vec<u64>)>,
    pub(super) segments: VecDeque<Segment>,
    /// Behind the last frame that may be read.
    pub(super) end: Position,
    pub(super) cache: TailCache,
    /// Replay offsets told by `release`.
    pub(super) read: Vec<u64>,
    pub(super) closed: bool,
    /// How often those who wait were to look elsewhere.
    pub(super) nudges: u64,
    /// Records that are or were readable since the opening, and their bytes.
    pub(super) records: u64,
    pub(super) record_bytes: u64,
}

pub(super) struct Segment {
    sequence: u64,
    first_offset: u64,
    /// Behind its last readable frame.
    end: u64,
    /// First offset of each partition in it.
    bases: Box<[u64]>,
    marks: Vec<Mark>,
    newest_ms: i64,
}

struct Mark {
    offset: u64,
    /// First offset of each partition at or behind this place.
    bases: Box<[u64]>,
}

/// The newest frames, held in memory.
pub(super) struct TailCache {
    frames: VecDeque<Arc<Frame>>,
    pub(super) bytes: usize,
    bytes_limit: usize,
    /// Every frame at or behind this position is in the cache.
    complete_from: Position,
}

/// What a reader at a position is to do.
pub(super) enum Next {
    /// Everything readable was read.
    End,
    Cached(Arc<Frame>),
    /// Read the frame there, in a segment whose readable part ends at `end`.
    OnDisk {
        position: Position,
        end: u64,
    },
    Released,
}

impl Readable {
    pub(super) fn new(partitions: u16, tail_cache_bytes: usize) -> Arc<Self> {
        let zeros = vec![0; usize::from(partitions)];
        Arc::new(Self {
            state: Mutex::new(State {
                ends: zeros.clone(),
                incarnation: Incarnation::new(0),
                begins: Vec::new(),
                segments: VecDeque::new(),
                end: Position::default(),
                cache: TailCache {
                    frames: VecDeque::new(),
                    bytes: 0,
                    bytes_limit: tail_cache_bytes,
                    complete_from: Position::default(),
                },
                read: zeros,
                closed: false,
                nudges: 0,
                records: 0,
                record_bytes: 0,
            }),
            grown: Condvar::new(),
            wakers: Mutex::new(Vec::new()),
            waker_ids: AtomicU64::new(0),
            disk_bytes: AtomicU64::new(0),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A panic under this lock ends the process through the writer's `on_fatal`, or came from a
        // reader, who changes nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something lies behind `position`, the log is closed, the time is over, or there
    /// were more than `nudges`; whether it was that, and then how many they are now.
    pub(super) fn wait(&self, position: Position, timeout: Duration, nudges: &mut u64) -> bool {
        let nothing_new =
            |state: &mut State| !state.closed && state.end <= position && state.nudges == *nudges;
        let waited = self
            .grown
            .wait_timeout_while(self.state(), timeout, nothing_new);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(nudges, state.nudges) != state.nudges
    }

    /// Ends every wait once.
    pub(super) fn nudge(&self) {
        self.state().nudges += 1;
        self.grown.notify_all();
    }

    pub(super) fn add_waker(&self, waker: Waker) -> u64 {
        let id = self.waker_ids.fetch_add(1, Ordering::Relaxed);
        self.wakers().push((id, waker));
        id
    }

    pub(super) fn remove_waker(&self, id: u64) {
        self.wakers().retain(|(of, _)| *of != id);
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<(u64, Waker)>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wake(&self) {
        self.grown.notify_all();
        // Outside the lock, so that a waker may ask the log, or remove itself.
        let wakers: Vec<Waker> = self
            .wakers()
            .iter()
            .map(|(_, waker)| Arc::clone(waker))
            .collect();
        for waker in wakers {
            waker();
        }
    }
}

impl State {
    pub(super) fn start(&self, partition: usize) -> u64 {
        self.segments
            .front()
            .map_or(0, |segment| segment.bases[partition])
    }

    pub(super) fn check(&self, start: &Start) -> Result<(), AssignError> {
        let partition = usize::from(start.partition);
        let Some(&end) = self.ends.get(partition) else {
            return Err(AssignError::NoPartition {
                partition: start.partition,
                partitions: self.ends.len() as u16,
            });
        };
        let ahead = |end| AssignError::AheadOfEnd {
            partition: start.partition,
            start: start.offset,
            end,
        };
        if let Some(known) = start.incarnation {
            if !known.same_log(self.incarnation) {
                return Err(AssignError::OtherLog {
                    partition: start.partition,
                    known,
                    log: self.incarnation,
                });
            }
            if known > self.incarnation {
                return Err(ahead(end));
            }
            let lost_at = self.begins.iter().find(|(later, _)| *later > known);
            if let Some((_, ends)) = lost_at
                && start.offset > ends[partition]
            {
                return Err(ahead(ends[partition]));
            }
        }
        if start.offset > end {
            return Err(ahead(end));
        }
        let first = self.start(partition);
        if start.offset < first {
            return Err(AssignError::BeforeStart {
                partition: start.partition,
                start: start.offset,
                first,
            });
        }
        Ok(())
    }

    /// A position with no record of the partition at or above the offset before it.
    pub(super) fn position_of(&self, partition: usize, offset: u64) -> Position {
        if offset >= self.ends[partition] {
            return self.end;
        }
        let behind = self
            .segments
            .partition_point(|segment| segment.bases[partition] <= offset);
        let segment = &self.segments[behind.saturating_sub(1)];
        let behind = segment
            .marks
            .partition_point(|mark| mark.bases[partition] <= offset);
        let offset = match behind.checked_sub(1) {
            Some(mark) => segment.marks[mark].offset,
            None => segment.first_offset,
        };
        Position {
            segment: segment.sequence,
            offset,
        }
    }

    pub(super) fn next(&self, position: Position) -> Next {
        if position >= self.end {
            return Next::End;
        }
        if position >= self.cache.complete_from {
            return self
                .cache
                .first_from(position)
                .map_or(Next::End, Next::Cached);
        }
        let at = self
            .segments
            .partition_point(|segment| segment.sequence < position.segment);
        match self.segments.get(at) {
            Some(segment) if segment.sequence != position.segment => Next::Released,
            Some(segment) if position.offset < segment.end => Next::OnDisk {
                position,
                end: segment.end,
            },
            Some(_) => match self.segments.get(at + 1) {
                Some(next) => self.next(Position {
                    segment: next.sequence,
                    offset: next.first_offset,
                }),
                None => Next::End,
            },
            None => Next::End,
        }
    }

    pub(super) fn start_segment(&mut self, start: &SegmentStart) {
        if let Some(last) = self.segments.back_mut() {
            last.end = start.previous_end;
        }
        self.segments.push_back(Segment {
            sequence: start.sequence,
            first_offset: start.first_offset,
            end: start.first_offset,
            bases: self.ends.clone().into(),
            marks: Vec::new(),
            newest_ms: i64::MIN,
        });
        self.end = Position {
            segment: start.sequence,
            offset: start.first_offset,
        };
        self.note_incarnation(Incarnation::new(start.incarnation));
    }

    fn note_incarnation(&mut self, incarnation: Incarnation) {
        if incarnation != self.incarnation {
            self.incarnation = incarnation;
            self.begins.push((incarnation, self.ends.clone()));
        }
    }

    /// Takes a frame behind the last one.
    pub(super) fn add_frame(&mut self, frame: &Frame) -> Result<(), String> {
        let segment = self
            .segments
            .back_mut()
            .expect("frames come behind the start of their segment");
        let marked = segment
            .marks
            .last()
            .map_or(segment.first_offset, |mark| mark.offset);
        if frame.position.offset >= marked + MARK_BYTES {
            segment.marks.push(Mark {
                offset: frame.position.offset,
                bases: self.ends.clone().into(),
            });
        }
        for entry in frame.entries() {
            let end = usize::try_from(entry.tag)
                .ok()
                .and_then(|partition| self.ends.get_mut(partition))
                .ok_or_else(|| format!("a record names partition {}", entry.tag))?;
            if entry.number != *end {
                return Err(format!(
                    "partition {} goes on with offset {} instead of {end}",
                    entry.tag, entry.number
                ));
            }
            *end += 1;
            let record = Record::decode(entry.tag as u16, &entry.payload)?;
            segment.newest_ms = segment.newest_ms.max(record.received_ms);
            self.records += 1;
            self.record_bytes += record.stored_bytes() as u64;
        }
        segment.end = frame.next.offset;
        self.end = frame.next;
        Ok(())
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.end).sum()
    }

    /// Removes whole segments whose records are all read and due to go; gives the first that stays.
    pub(super) fn release(&mut self, replay_offsets: &[(u16, u64)], due: &Due) -> u64 {
        for (partition, offset) in replay_offsets {
            let partition = usize::from(*partition);
            let read = &mut self.read[partition];
            *read = (*read).max((*offset).min(self.ends[partition]));
        }
        let is_read = |next: &Segment| {
            let mut pairs = self.read.iter().zip(&next.bases);
            pairs.all(|(read, base)| read >= base)
        };
        // The bases of a segment are the ends of the one before.
        let read_segments = self
            .segments
            .iter()
            .skip(1)
            .take_while(|next| is_read(next))
            .count();
        let mut read_bytes: u64 = self
            .segments
            .iter()
            .take(read_segments)
            .map(|segment| segment.end)
            .sum();
        let mut disk_bytes = self.disk_bytes();
        for _ in 0..read_segments {
            let oldest = self.segments.front().expect("counted above");
            let goes = oldest.newest_ms < due.older_than_ms
                || read_bytes > due.read_bytes_max
                || disk_bytes >= due.disk_bytes_max;
            if !goes {
                break;
            }
            read_bytes -= oldest.end;
            disk_bytes -= oldest.end;
            self.segments.pop_front();
        }
        self.segments.front().map_or(0, |segment| segment.sequence)
    }
}

/// Which read segments are to go.
pub(super) struct Due {
    pub(super) older_than_ms: i64,
    pub(super) read_bytes_max: u64,
    pub(super) disk_bytes_max: u64,
}

impl TailCache {
    pub(super) fn push(&mut self, frame: Arc<Frame>) {
        self.bytes += frame.bytes();
        self.frames.push_back(frame);
        while self.bytes > self.bytes_limit {
            let Some(oldest) = self.frames.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes();
            self.complete_from = oldest.next;
        }
    }

    fn first_from(&self, position: Position) -> Option<Arc<Frame>> {
        let at = self
            .frames
            .partition_point(|frame| frame.position < position);
        self.frames.get(at).map(Arc::clone)
    }
}

impl Readable {
    /// Everything on disk is known: the cache begins here.
    pub(super) fn opened(&self) {
        let mut state = self.state();
        state.cache.complete_from = state.cache.complete_from.max(state.end);
        self.disk_bytes.store(state.disk_bytes(), Ordering::Release);
    }

    /// Removes what is due, from the index; gives the first segment that stays on disk.
    pub(super) fn release(&self, replay_offsets: &[(u16, u64)], due: &Due) -> u64 {
        let mut state = self.state();
        let first = state.release(replay_offsets, due);
        self.disk_bytes.store(state.disk_bytes(), Ordering::Release);
        first
    }
}
