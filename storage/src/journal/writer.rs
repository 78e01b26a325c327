//! The writer thread: collects what waits, writes it as one group, fsyncs once, completes all.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::frame::{self, ALIGNMENT, BODY_BYTES_TARGET, ENTRY_HEADER_BYTES, HEADER_BYTES, Kind};
use super::recovery::{self, OpenError, Tail};
use super::remover::Remover;
use super::segment::{self, SegmentHeader, SegmentStart};
use super::{
    AppendError, Batch, Config, Done, Fatal, Frame, Layout, Position, Room, Shared, WhenFull,
};
use crate::fs::{self, File, FolderLock, Fs};
use crate::turns::{Turn, Turns};

/// What a submission costs beside its entries, so that a limit in bytes also bounds their number.
pub(super) const SUBMISSION_BYTES: usize = 256;
/// Bytes of entries after which a group is closed although more waits.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// How long the writer waits for space before it asks the disk again.
const SPACE_RETRY_DELAY: Duration = Duration::from_millis(100);

pub(super) enum Command {
    Append(Submission),
    Close,
}

/// A batch, its callback, and the room it takes. `done` is called exactly once, by whoever drops it
/// if by nobody else.
pub(super) struct Submission {
    batch: Batch,
    done: Option<Done>,
    room: Option<Room>,
}

impl Submission {
    pub(super) fn new(batch: Batch, done: Done, room: Room) -> Self {
        Self {
            batch,
            done: Some(done),
            room: Some(room),
        }
    }

    fn complete(mut self, result: Result<(), AppendError>) {
        // The room is free before the callback: it may append again.
        self.room = None;
        if let Some(done) = self.done.take() {
            done(result);
        }
    }
}

impl Drop for Submission {
    fn drop(&mut self) {
        self.room = None;
        if let Some(done) = self.done.take() {
            done(Err(AppendError::Failed));
        }
    }
}

/// The loops of a journal that is open, and how they are asked.
pub(super) struct Loops<L> {
    pub(super) commands: Sender<Command>,
    pub(super) drops: Sender<()>,
    queue: Receiver<Command>,
    drops_asked: Receiver<()>,
    writer: Writer<L>,
    remover: Remover,
    lock: Box<dyn FolderLock>,
}

/// Recovers the journal.
pub(super) fn open<L: Layout>(
    fs: Arc<dyn Fs>,
    folder: &Path,
    config: &Config,
    mut layout: L,
    shared: Arc<Shared>,
    on_fatal: Box<dyn FnOnce(Fatal) + Send>,
) -> Result<Loops<L>, OpenError> {
    fs.create_dir_all(folder)?;
    // Before the first byte is written: nothing is to be left in a folder that is not ours.
    recovery::segments(&*fs, folder)?;
    let lock = fs.lock(folder)?;
    recovery::remove_unfinished(&*fs, folder)?;
    let sequences = recovery::segments(&*fs, folder)?;
    let tail = recovery::recover(&*fs, folder, config, &sequences, &mut layout)?;

    let mut place = Place {
        fs: Arc::clone(&fs),
        folder: folder.to_owned(),
        owner: config.owner,
        reserve_bytes: u64::from(config.reserve_bytes.min(config.segment_bytes)),
        random: config
            .seed
            .map_or_else(SmallRng::from_os_rng, SmallRng::seed_from_u64),
    };
    let first_sequence = tail.as_ref().map_or(1, |tail| tail.first_sequence);
    let tail = match tail {
        None => {
            let name: u32 = place.random.random_range(1..=u32::MAX);
            place.begin(1, u64::from(name) << 32 | 1, 0, &mut layout)?
        }
        Some(tail) if tail.torn => place.begin(
            tail.sequence + 1,
            tail.incarnation + 1,
            tail.end,
            &mut layout,
        )?,
        Some(tail) => tail,
    };

    let (commands, queue) = command_queue();
    let (drops, drops_asked) = crossbeam_channel::bounded(1);
    shared.active.store(tail.sequence, Ordering::Release);
    let remover = Remover {
        fs,
        folder: folder.to_owned(),
        first: first_sequence,
        shared: Arc::clone(&shared),
    };
    let segment_bytes = config.segment_bytes as usize;
    let writer = Writer {
        place,
        config: config.clone(),
        group_bytes_max: GROUP_BYTES_MAX.min(segment_bytes / 4),
        layout,
        shared,
        tail,
        buffer: Vec::new(),
        backlog: VecDeque::new(),
        unclosed: false,
        on_fatal: Some(on_fatal),
    };
    Ok(Loops {
        commands,
        drops,
        queue,
        drops_asked,
        writer,
        remover,
        lock,
    })
}

impl<L: Layout> Loops<L> {
    /// Runs them on threads; the writer's ends last.
    pub(super) fn start(self, name: &str) -> Result<JoinHandle<()>, OpenError> {
        let Self {
            drops,
            queue,
            drops_asked,
            mut writer,
            remover,
            lock,
            ..
        } = self;
        // It ends when the journal's handle, and with it its channel, is gone or closed.
        let remover = thread::Builder::new()
            .name(format!("{name}-remover"))
            .spawn(move || remover.run(&drops_asked))
            .map_err(OpenError::Thread)?;
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                if catch_unwind(AssertUnwindSafe(|| writer.run(&queue))).is_err() {
                    writer.fail("the writer thread panicked");
                }
                drop(queue);
                writer.shared.stopping.store(true, Ordering::Release);
                // If it is full, a signal is under way.
                let _ = drops.try_send(());
                if remover.join().is_err() {
                    tracing::error!("the thread that removes segments panicked");
                }
                writer.layout.closed();
                end_of_ownership(lock);
            })
            .map_err(OpenError::Thread)
    }

    /// Lets them take turns.
    pub(super) fn take_turns(self, turns: &Turns) {
        turns.add(WriterTurn {
            open: Some((self.writer, self.queue, self.lock)),
        });
        turns.add(RemoverTurn {
            remover: Some(self.remover),
            asked: self.drops_asked,
        });
    }
}

type OpenWriter<L> = (Writer<L>, Receiver<Command>, Box<dyn FolderLock>);

/// The writer where it has no thread. Until the journal is closed it holds the folder.
struct WriterTurn<L> {
    open: Option<OpenWriter<L>>,
}

impl<L: Layout> Turn for WriterTurn<L> {
    fn take(&mut self) -> bool {
        let Some((writer, queue, _)) = &mut self.open else {
            return false;
        };
        if writer.backlog.is_empty() && queue.is_empty() {
            return false;
        }
        let (group, more) = writer.collect(queue);
        if writer.handle_group(group, queue) && more {
            return true;
        }
        let Some((mut writer, _, lock)) = self.open.take() else {
            return true;
        };
        writer.shared.stopping.store(true, Ordering::Release);
        writer.end();
        writer.layout.closed();
        end_of_ownership(lock);
        true
    }
}

/// The remover where it has no thread.
struct RemoverTurn {
    /// None after an error.
    remover: Option<Remover>,
    asked: Receiver<()>,
}

impl Turn for RemoverTurn {
    fn take(&mut self) -> bool {
        let is_asked = self.remover.is_some() && self.asked.try_recv().is_ok();
        if is_asked {
            self.remover.take_if(|remover| !remover.turn());
        }
        is_asked
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "bounded in bytes: a command is sent only with the room taken by Journal::reserve"
)]
fn command_queue() -> (Sender<Command>, Receiver<Command>) {
    crossbeam_channel::unbounded()
}

/// Lets the folder go, when nothing of this journal can touch it any more.
fn end_of_ownership(lock: Box<dyn FolderLock>) {
    drop(lock);
}

/// Makes segments in a folder.
struct Place {
    fs: Arc<dyn Fs>,
    folder: PathBuf,
    owner: [u8; 4],
    reserve_bytes: u64,
    random: SmallRng,
}

impl Place {
    /// Makes a segment; it bears its name only once its header and preamble are durable, so a
    /// segment with a damaged header was damaged later.
    fn begin<L: Layout>(
        &mut self,
        sequence: u64,
        incarnation: u64,
        previous_end: u64,
        layout: &mut L,
    ) -> Result<Tail, fs::Error> {
        let header = SegmentHeader {
            owner: self.owner,
            sequence,
            incarnation,
            salt: self.random.random(),
            previous_end,
        };
        let mut bytes = header.write().to_vec();
        let mut preamble = Vec::new();
        layout.preamble(incarnation, &mut preamble);
        frame::write(&mut bytes, Kind::Preamble, &preamble, 0, 0, header.salt);
        let reserved = self.reserve_bytes.max(bytes.len() as u64);

        let unfinished = segment::unfinished_path(&self.folder, sequence);
        if self.fs.exists(&unfinished)? {
            self.fs.unlink(&unfinished)?;
        }
        let file = self.fs.create(&unfinished)?;
        file.preallocate(0, reserved)?;
        file.write_at(0, &bytes)?;
        file.sync_data()?;
        let path = segment::path(&self.folder, sequence);
        let named = || -> Result<Arc<dyn File>, fs::Error> {
            self.fs.rename(&unfinished, &path)?;
            self.fs.sync_dir(&self.folder)?;
            self.fs.open(&path)
        };
        let file = named().map_err(never_no_space)?;

        let first_offset = bytes.len() as u64;
        layout.segment_started(&SegmentStart {
            sequence,
            incarnation,
            first_offset,
            previous_end,
        });
        Ok(Tail {
            file,
            first_sequence: sequence,
            sequence,
            incarnation,
            salt: header.salt,
            first_offset,
            end: first_offset,
            reserved,
            torn: false,
        })
    }
}

struct Writer<L> {
    place: Place,
    config: Config,
    group_bytes_max: usize,
    layout: L,
    shared: Arc<Shared>,
    tail: Tail,
    /// The group being written.
    buffer: Vec<u8>,
    /// What came while the writer waited for space; before what is in the queue.
    backlog: VecDeque<Submission>,
    /// Whether something was written since the last close.
    unclosed: bool,
    on_fatal: Option<Box<dyn FnOnce(Fatal) + Send>>,
}

/// What keeps a group from being written.
enum Trouble {
    /// Nothing was written and the journal can go on.
    NoSpace,
    Fatal(String),
}

impl From<fs::Error> for Trouble {
    fn from(error: fs::Error) -> Self {
        Self::Fatal(error.to_string())
    }
}

impl<L: Layout> Writer<L> {
    fn run(&mut self, queue: &Receiver<Command>) {
        let mut open = true;
        while open {
            let (group, more) = self.collect(queue);
            open = self.handle_group(group, queue) && more;
        }
        self.end();
    }

    fn end(&mut self) {
        // Only a close while it waited for space leaves something here: its order is broken.
        for submission in self.backlog.drain(..) {
            submission.complete(Err(AppendError::NoSpace));
        }
        self.close();
    }

    /// Waits for a submission and takes those behind it up to the size of a group; false: closed.
    fn collect(&mut self, queue: &Receiver<Command>) -> (Vec<Submission>, bool) {
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(submission) = self.backlog.pop_front() {
            bytes += submission.batch.bytes();
            group.push(submission);
            if bytes >= self.group_bytes_max {
                return (group, true);
            }
        }
        // Without a sender nothing can come any more: that is a close, too.
        let mut next = match group.is_empty() {
            true => Some(queue.recv().unwrap_or(Command::Close)),
            false => queue.try_recv().ok(),
        };
        while let Some(command) = next {
            match command {
                Command::Append(submission) => {
                    bytes += submission.batch.bytes();
                    group.push(submission);
                }
                Command::Close => return (group, false),
            }
            if bytes >= self.group_bytes_max {
                break;
            }
            next = queue.try_recv().ok();
        }
        (group, true)
    }

    /// Writes a group and completes it; false: the journal was closed meanwhile.
    fn handle_group(&mut self, group: Vec<Submission>, queue: &Receiver<Command>) -> bool {
        let mut waiting = Waiting(group);
        let mut open = true;
        let result = loop {
            match self.write_group(&mut waiting) {
                Ok(()) => break Ok(()),
                Err(Trouble::NoSpace) => {
                    if self.config.when_full == WhenFull::Wait && open {
                        open = self.wait_for_space(queue);
                        continue;
                    }
                    tracing::warn!("no space left for the journal");
                    break Err(AppendError::NoSpace);
                }
                Err(Trouble::Fatal(cause)) => {
                    self.fail(&cause);
                    break Err(AppendError::Failed);
                }
            }
        };
        self.shared.waits_for_space.store(false, Ordering::Relaxed);
        waiting.complete(result);
        open
    }

    /// Takes what comes, until it is time to ask the disk for space again; false: closed.
    fn wait_for_space(&mut self, queue: &Receiver<Command>) -> bool {
        if !self.shared.waits_for_space.swap(true, Ordering::Relaxed) {
            tracing::warn!("no space left for the journal: nothing is acknowledged until there is");
        }
        match queue.recv_timeout(SPACE_RETRY_DELAY) {
            Ok(Command::Append(submission)) => {
                self.backlog.push_back(submission);
                true
            }
            Err(RecvTimeoutError::Timeout) => true,
            Ok(Command::Close) | Err(RecvTimeoutError::Disconnected) => false,
        }
    }

    fn write_group(&mut self, waiting: &mut Waiting) -> Result<(), Trouble> {
        if self.shared.latched.load(Ordering::Acquire) {
            return Err(Trouble::Fatal("the disk has failed before".to_owned()));
        }
        let bytes: usize = waiting.0.iter().map(|part| part.batch.bytes()).sum();
        let entries: usize = waiting.0.iter().map(|part| part.batch.len()).sum();
        if entries == 0 {
            return Ok(());
        }
        self.make_room(group_bytes_bound(bytes))?;
        let frames = self.build(waiting);
        self.tail.file.write_at(self.tail.end, &self.buffer)?;
        let frames = self.sync(frames, waiting)?;
        self.tail.end += self.buffer.len() as u64;
        self.unclosed = true;
        self.count(bytes, entries);
        if !frames.is_empty() {
            self.layout.synced(frames);
        }
        Ok(())
    }

    fn sync(
        &mut self,
        mut frames: Vec<Arc<Frame>>,
        waiting: &mut Waiting,
    ) -> Result<Vec<Arc<Frame>>, Trouble> {
        let defects = self.config.defects;
        if defects.read_before_fsync {
            self.layout.synced(mem::take(&mut frames));
        }
        if defects.acknowledge_before_fsync {
            waiting.complete(Ok(()));
        }
        self.tail.file.sync_data()?;
        Ok(frames)
    }

    /// Rolls to a new segment and reserves space, so that a full disk shows before anything is
    /// numbered or written.
    fn make_room(&mut self, bytes: u64) -> Result<(), Trouble> {
        let full = self.tail.end + bytes > u64::from(self.config.segment_bytes);
        if full && self.tail.end > self.tail.first_offset {
            self.roll()?;
        }
        let end = self.tail.end + bytes;
        if end > self.tail.reserved {
            let reserved = end.max(self.tail.reserved + self.place.reserve_bytes);
            self.tail
                .file
                .preallocate(self.tail.reserved, reserved - self.tail.reserved)
                .map_err(before_writing)?;
            self.tail.reserved = reserved;
        }
        Ok(())
    }

    fn roll(&mut self) -> Result<(), Trouble> {
        let next = self
            .place
            .begin(
                self.tail.sequence + 1,
                self.tail.incarnation,
                self.tail.end,
                &mut self.layout,
            )
            .map_err(before_writing)?;
        let full = mem::replace(&mut self.tail, next);
        self.shared
            .active
            .store(self.tail.sequence, Ordering::Release);
        // The next segment says where this one ends: the rest of it means nothing, it only takes
        // space.
        if let Err(error) = full.file.set_len(full.end) {
            tracing::warn!(%error, "cannot give back the reserved end of a segment");
        }
        Ok(())
    }

    /// Lays the entries out as frames, in the buffer and for readers.
    fn build(&mut self, waiting: &Waiting) -> Vec<Arc<Frame>> {
        self.buffer.clear();
        let mut frames = Vec::new();
        let mut body = Vec::new();
        let mut entries = 0;
        for part in &waiting.0 {
            let mut rest = part.batch.body();
            while !rest.is_empty() {
                let room = BODY_BYTES_TARGET.saturating_sub(body.len());
                let (bytes, fitting) = frame::entries_fitting(rest, room);
                if bytes > room && !body.is_empty() {
                    frames.push(self.build_frame(mem::take(&mut body), mem::take(&mut entries)));
                    continue;
                }
                body.extend_from_slice(&rest[..bytes]);
                entries += fitting;
                rest = &rest[bytes..];
            }
        }
        if entries > 0 {
            frames.push(self.build_frame(body, entries));
        }
        frames
    }

    fn build_frame(&mut self, mut body: Vec<u8>, entries: u32) -> Arc<Frame> {
        frame::number_entries(&mut body, |tag| self.layout.number(tag));
        let position = self.place_in_buffer();
        frame::write(
            &mut self.buffer,
            Kind::Entries,
            &body,
            entries,
            self.tail.end,
            self.tail.salt,
        );
        Frame::new(position, self.place_in_buffer(), Bytes::from(body), entries)
    }

    fn place_in_buffer(&self) -> Position {
        Position {
            segment: self.tail.sequence,
            offset: self.tail.end + self.buffer.len() as u64,
        }
    }

    fn count(&self, bytes: usize, entries: usize) {
        let shared = &self.shared;
        let payloads = (bytes - entries * ENTRY_HEADER_BYTES) as u64;
        shared.entries.fetch_add(entries as u64, Ordering::Relaxed);
        shared.entry_bytes.fetch_add(payloads, Ordering::Relaxed);
        let written = self.buffer.len() as u64;
        shared.written_bytes.fetch_add(written, Ordering::Relaxed);
        shared.groups.fetch_add(1, Ordering::Relaxed);
        shared
            .group_entries_max
            .fetch_max(entries as u64, Ordering::Relaxed);
    }

    /// The latch: from here on everything is refused.
    fn fail(&mut self, cause: &str) {
        self.shared.latched.store(true, Ordering::Release);
        if let Some(on_fatal) = self.on_fatal.take() {
            tracing::error!(cause, "the journal cannot go on");
            on_fatal(Fatal {
                cause: cause.to_owned(),
            });
        }
    }

    /// Marks the end, so that damage to the last group is told from a torn tail.
    fn close(&mut self) {
        if !self.unclosed || self.shared.latched.load(Ordering::Acquire) {
            return;
        }
        match self.write_close() {
            Ok(()) => self.unclosed = false,
            Err(Trouble::NoSpace) => tracing::warn!("no space left to mark the journal's end"),
            Err(Trouble::Fatal(cause)) => self.fail(&cause),
        }
    }

    fn write_close(&mut self) -> Result<(), Trouble> {
        self.buffer.clear();
        let (end, salt) = (self.tail.end, self.tail.salt);
        frame::write(&mut self.buffer, Kind::Close, &[], 0, end, salt);
        self.make_room(self.buffer.len() as u64)?;
        self.tail.file.write_at(self.tail.end, &self.buffer)?;
        self.tail.file.sync_data()?;
        self.tail.end += self.buffer.len() as u64;
        Ok(())
    }
}

/// The new segment may bear its name and so end the one before: going on there would lose what is
/// written, even if only space was missing.
fn never_no_space(error: fs::Error) -> fs::Error {
    fs::Error {
        source: io::Error::other(error.source),
        ..error
    }
}

/// A full disk found before a byte of the group was written leaves the journal as it was.
fn before_writing(error: fs::Error) -> Trouble {
    if error.is_no_space() {
        Trouble::NoSpace
    } else {
        error.into()
    }
}

/// The most bytes that entries of so many bytes take as frames: any two neighbours exceed the
/// target together, and a body that does not shrink is stored as it is.
fn group_bytes_bound(bytes: usize) -> u64 {
    let frames = 2 * bytes / BODY_BYTES_TARGET + 2;
    (bytes + frames * (HEADER_BYTES + ALIGNMENT as usize)) as u64
}

/// Submissions whose callbacks are due.
struct Waiting(Vec<Submission>);

impl Waiting {
    fn complete(&mut self, result: Result<(), AppendError>) {
        for submission in self.0.drain(..) {
            submission.complete(result);
        }
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Append(_) => "Append",
            Self::Close => "Close",
        })
    }
}
