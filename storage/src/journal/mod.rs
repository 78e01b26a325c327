//! The journal: append-only segments of checksummed frames, one writer thread, group fsync.
//!
//! It knows nothing of what it carries: an entry is a tag (a partition, a Raft group), a number that
//! the [`Layout`] of its owner gives on the writer thread, and bytes. `docs/formats/journal.md`
//! describes the bytes and what is assumed of the disk.

mod batch;
mod frame;
mod reader;
mod recovery;
mod remover;
mod segment;
mod writer;

pub use batch::{Batch, ENTRY_BYTES_MAX};
pub use frame::{Entry, Frame};
pub use reader::{FrameReader, ReadError};
pub use recovery::OpenError;
pub use segment::SegmentStart;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::Sender;

use crate::fs::Fs;
use crate::turns::Turns;
use writer::{Command, Submission};

/// How a journal is cut and bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Four letters that say whose journal it is; another owner's folder is refused.
    pub owner: [u8; 4],
    /// Names the writer thread.
    pub name: &'static str,
    /// A segment is closed when the next group would make it longer than this many bytes.
    pub segment_bytes: u32,
    /// Bytes reserved on disk ahead of the writer, so that an fsync need not journal a new length.
    pub reserve_bytes: u32,
    /// Bytes waiting for the writer thread, above which appends are refused.
    pub queue_bytes_limit: usize,
    /// What happens when the disk is full.
    pub when_full: WhenFull,
    /// Where the salts of segments and the name of a new journal come from; `None`: the system.
    pub seed: Option<u64>,
    /// Sabotage; see [`Defects`].
    pub defects: Defects,
}

impl Config {
    /// The defaults, for an owner.
    #[must_use]
    pub fn new(owner: [u8; 4], name: &'static str) -> Self {
        Self {
            owner,
            name,
            segment_bytes: 16 << 20,
            reserve_bytes: 2 << 20,
            queue_bytes_limit: 64 << 20,
            when_full: WhenFull::Refuse,
            seed: None,
            defects: Defects::default(),
        }
    }
}

/// What the writer thread does with a group for which the disk has no space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// Refuses it with [`AppendError::NoSpace`] and goes on with the next: entries are independent.
    #[default]
    Refuse,
    /// Keeps it and everything behind it, in order and not acknowledged, and tries again until
    /// there is space: an entry means something only behind the one before. A close refuses what
    /// waits.
    Wait,
}

/// Mistakes to make on purpose, so that the crash tests can show that they would be found. No
/// configuration file reaches them; the default makes none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Defects {
    /// Completes appends before the fsync.
    pub acknowledge_before_fsync: bool,
    /// Shows frames to readers before the fsync.
    pub read_before_fsync: bool,
}

/// Where a frame lies. Positions order frames as they were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The segment's number.
    pub segment: u64,
    /// Bytes from the beginning of its file.
    pub offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment, self.offset)
    }
}

/// What the owner of a journal adds to it. While the journal is opened the `recover_*` calls come
/// from the opening thread, afterwards all calls come from the writer thread: they must not block.
pub trait Layout: Send + 'static {
    /// A segment found on disk, with the preamble that this layout once wrote.
    ///
    /// # Errors
    /// Says what is wrong with the preamble; the journal is not opened.
    fn recover_segment(&mut self, start: &SegmentStart, preamble: &[u8]) -> Result<(), String>;

    /// A frame found on disk, in the order of writing, behind the segment it lies in.
    ///
    /// # Errors
    /// Says what is wrong with its entries; the journal is not opened.
    fn recover_frame(&mut self, frame: &Frame) -> Result<(), String>;

    /// Writes what a new segment begins with: the state before its first entry.
    fn preamble(&mut self, incarnation: u64, out: &mut Vec<u8>);

    /// A new segment lies durably on disk.
    fn segment_started(&mut self, start: &SegmentStart);

    /// Gives the next entry of this tag its number.
    fn number(&mut self, tag: u32) -> u64;

    /// These frames are durable: readers may see them. Comes before their completions.
    fn synced(&mut self, frames: Vec<Arc<Frame>>);

    /// The writer thread has ended: nothing will come after this.
    fn closed(&mut self);
}

/// Called once, on the writer thread: entries are durable, or they are not.
pub type Done = Box<dyn FnOnce(Result<(), AppendError>) + Send>;

/// Why entries were not made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The disk is full; nothing was written, the same entries may be appended again.
    #[error("no space left on the disk")]
    NoSpace,
    /// The disk failed or the journal was closed first: nothing is known about these entries.
    #[error("the disk failed or the journal was closed")]
    Failed,
}

/// Why an append took nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The writer thread is behind.
    #[error("the journal's queue is full")]
    Full,
    /// The journal was closed or its disk failed.
    #[error("the journal is closed")]
    Closed,
}

/// The disk failed: nothing more is acknowledged, the process is to end.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the journal cannot go on: {cause}")]
pub struct Fatal {
    /// What happened, with the file.
    pub cause: String,
}

/// Counters since opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Entries fsynced.
    pub entries: u64,
    /// Bytes of their payloads.
    pub entry_bytes: u64,
    /// Bytes written, after compression.
    pub written_bytes: u64,
    /// Groups written, each with one fsync.
    pub groups: u64,
    /// Entries of the largest group.
    pub group_entries_max: u64,
    /// Bytes waiting for the writer thread now.
    pub queued_bytes: u64,
    /// Whether the writer waits for space on the disk now; see [`WhenFull::Wait`].
    pub waits_for_space: bool,
}

#[derive(Debug, Default)]
struct Shared {
    latched: AtomicBool,
    queued_bytes: AtomicUsize,
    entries: AtomicU64,
    entry_bytes: AtomicU64,
    written_bytes: AtomicU64,
    groups: AtomicU64,
    group_entries_max: AtomicU64,
    drop_before: AtomicU64,
    /// The segment being written.
    active: AtomicU64,
    stopping: AtomicBool,
    waits_for_space: AtomicBool,
}

/// A journal that is open for writing. Dropping it does what [`Journal::close`] does.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    queue_bytes_limit: usize,
    commands: Sender<Command>,
    drops: Sender<()>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Journal {
    /// Opens the journal in `folder`, creating both if absent; recovers what a crash left and tells
    /// the layout of everything found. `on_fatal` is called at most once, on the writer thread.
    ///
    /// Blocks while every frame on disk is checked.
    ///
    /// # Errors
    /// Nothing was changed, except that a torn tail may have been cut.
    pub fn open<L: Layout>(
        fs: Arc<dyn Fs>,
        folder: &Path,
        config: &Config,
        layout: L,
        on_fatal: impl FnOnce(Fatal) + Send + 'static,
    ) -> Result<Self, OpenError> {
        Self::open_with(fs, folder, config, layout, on_fatal, None)
    }

    /// As [`Journal::open`], but where there are `turns`, its loops are added to them instead of
    /// running on threads: then a close is done by the next turns.
    pub(crate) fn open_with<L: Layout>(
        fs: Arc<dyn Fs>,
        folder: &Path,
        config: &Config,
        layout: L,
        on_fatal: impl FnOnce(Fatal) + Send + 'static,
        turns: Option<&Turns>,
    ) -> Result<Self, OpenError> {
        let shared = Arc::new(Shared::default());
        let on_fatal = Box::new(on_fatal);
        let loops = writer::open(fs, folder, config, layout, Arc::clone(&shared), on_fatal)?;
        let (commands, drops) = (loops.commands.clone(), loops.drops.clone());
        let writer = match turns {
            None => Some(loops.start(config.name)?),
            Some(turns) => {
                loops.take_turns(turns);
                None
            }
        };
        Ok(Self {
            shared,
            queue_bytes_limit: config.queue_bytes_limit,
            commands,
            drops,
            writer: Mutex::new(writer),
        })
    }

    /// Makes room in the queue for a batch of up to about this many bytes; never blocks.
    ///
    /// # Errors
    /// No room was taken.
    pub fn reserve(&self, bytes: usize) -> Result<Room, Refusal> {
        let (before, room) = self.take_room(bytes)?;
        // An empty queue takes anything, else a batch above the limit could never be written.
        if before > 0 && before.saturating_add(room.bytes) > self.queue_bytes_limit {
            return Err(Refusal::Full);
        }
        Ok(room)
    }

    /// Makes room for a batch of up to about this many bytes, however full the queue is: for the
    /// small entries without which what waits cannot go on, whose number the caller bounds.
    ///
    /// # Errors
    /// [`Refusal::Closed`] only; no room was taken.
    pub fn reserve_beyond_limit(&self, bytes: usize) -> Result<Room, Refusal> {
        self.take_room(bytes).map(|(_, room)| room)
    }

    fn take_room(&self, bytes: usize) -> Result<(usize, Room), Refusal> {
        let shared = &self.shared;
        if shared.latched.load(Ordering::Acquire) || shared.stopping.load(Ordering::Acquire) {
            return Err(Refusal::Closed);
        }
        let bytes = bytes.saturating_add(writer::SUBMISSION_BYTES);
        let before = shared.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
        let room = Room {
            shared: Arc::clone(shared),
            bytes,
        };
        Ok((before, room))
    }

    /// Queues a batch for the writer thread; never blocks. `done` is called once, on the writer
    /// thread, when its entries are fsynced or never will be. The appends of one thread keep their
    /// order. An empty batch completes behind those before it.
    pub fn append(&self, room: Room, batch: Batch, done: Done) {
        let submission = Submission::new(batch, done, room);
        // A journal that has ended drops the submission, which calls `done` with an error.
        drop(self.commands.send(Command::Append(submission)));
    }

    /// Removes the segments before this number, on a thread of its own; the one being written is
    /// never removed. A crash may leave some of them.
    pub fn drop_before(&self, segment: u64) {
        self.shared.drop_before.fetch_max(segment, Ordering::AcqRel);
        // A full channel holds a signal that will be seen after the store above.
        let _ = self.drops.try_send(());
    }

    /// Counters since opening.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            entries: load(&self.shared.entries),
            entry_bytes: load(&self.shared.entry_bytes),
            written_bytes: load(&self.shared.written_bytes),
            groups: load(&self.shared.groups),
            group_entries_max: load(&self.shared.group_entries_max),
            queued_bytes: self.shared.queued_bytes.load(Ordering::Relaxed) as u64,
            waits_for_space: self.shared.waits_for_space.load(Ordering::Relaxed),
        }
    }

    /// Bytes waiting for the writer thread.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.shared.queued_bytes.load(Ordering::Acquire) as u64
    }

    /// Writes what was queued before, fsyncs, ends the threads and lets the folder go; blocks until
    /// then (not on the writer thread itself, where it only asks for it).
    pub fn close(&self) {
        drop(self.commands.send(Command::Close));
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(writer) = writer else { return };
        if writer.thread().id() == std::thread::current().id() {
            return;
        }
        if writer.join().is_err() {
            // The writer has said so through `on_fatal`.
            tracing::error!("the journal's writer thread has panicked");
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

/// Room taken in the queue; given back when dropped.
#[derive(Debug)]
pub struct Room {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared
            .queued_bytes
            .fetch_sub(self.bytes, Ordering::AcqRel);
    }
}
