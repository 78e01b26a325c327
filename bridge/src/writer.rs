//! The writer: reads the log, fills the head, seals it together with the log's offsets.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runtime::Clock;
use runtime::ractor::{Actor, ActorProcessingErr, ActorRef};
use storage::log::StoredRecord;
use storage::tsdb::{BucketMark, ReplayOffset, Tsdb};

use crate::buckets::{Places, Pulls, Share, Table};
use crate::counters::Counters;
use crate::dead_letter::{DeadLetterError, DeadLetters, SharedDeadLetters};
use crate::line::{Fatal, OnFatal};
use crate::log::{Consume, Log, LogId, Position, ReadError};
use crate::processor::Processor;
use crate::progress::Progress;

/// Bytes of records taken from the log at once.
pub(crate) const POLL_BYTES: usize = 1 << 20;
/// The same while messages per second are limited, so that one group is not a second's worth.
const PACED_POLL_BYTES: usize = 64 << 10;
/// Longest wait for records, so that the head's age is seen.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// How often the log is told the time while nothing is sealed.
const RELEASE_INTERVAL_MS: u64 = 10_000;

/// Is all that a writer needs; it outlives a writer that panics.
pub(crate) struct WriterContext {
    pub(crate) log: Arc<dyn Log>,
    /// This node, and which buckets are its own.
    pub(crate) node: u32,
    pub(crate) table: tokio::sync::watch::Receiver<Option<Arc<Table>>>,
    /// What is pulled from the logs of other nodes.
    pub(crate) pulls: Arc<Pulls>,
    pub(crate) tsdb: Tsdb,
    pub(crate) dead_letters: SharedDeadLetters,
    pub(crate) progress: Arc<Progress>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) head_bytes_limit: u64,
    pub(crate) head_age_max_ms: u64,
    /// Messages taken per second at most.
    pub(crate) messages_per_s_max: Option<u32>,
    /// Set to end the writer after what it is doing.
    pub(crate) stop: Arc<AtomicBool>,
    /// Asked for a seal now: the number of the last request, and of the last one done.
    pub(crate) seal_asked: AtomicU64,
    pub(crate) seal_done: tokio::sync::watch::Sender<u64>,
    /// Wakes the merge thread.
    pub(crate) sealed: crossbeam_channel::Sender<()>,
    /// Whether the writer is within the store, whose broken invariants end the process.
    pub(crate) in_store: AtomicBool,
    pub(crate) on_fatal: OnFatal,
    /// Why the store cannot go on reading Kafka, for a person to decide; the broker serves on.
    pub(crate) source_error: Mutex<Option<String>>,
}

/// Says why a writer cannot go on.
#[derive(Debug)]
pub(crate) enum WriterError {
    Fatal(Fatal),
    /// What the log has is not what the store knows.
    Source(ReadError),
    Stopped,
}

impl From<DeadLetterError> for WriterError {
    fn from(error: DeadLetterError) -> Self {
        match error {
            DeadLetterError::Stopped => Self::Stopped,
            DeadLetterError::Log(_) => Self::Fatal(Fatal(error.to_string())),
        }
    }
}

fn fatal(error: &dyn std::fmt::Display) -> WriterError {
    WriterError::Fatal(Fatal(error.to_string()))
}

/// Where a store goes on reading, by log and partition.
pub(crate) type Positions = BTreeMap<LogId, Places>;

/// Gives the store's replay offsets as positions in logs of this kind.
pub(crate) fn positions_of(tsdb: &Tsdb, log: &dyn Log) -> Result<Positions, String> {
    let (partitions, name) = (log.partitions(), log.source());
    let mut positions = Positions::new();
    for at in tsdb.replay_offsets().map_err(|error| error.to_string())? {
        let id = log.log_of(&at.source);
        let id = id.filter(|_| at.partition < partitions).ok_or_else(|| {
            let (source, partition) = (&at.source, at.partition);
            format!(
                "the store was filled from {source:?} (partition {partition}), this node is to fill it \
                 from {name:?}: a store has one source"
            )
        })?;
        let position = Position {
            incarnation: at.incarnation,
            offset: at.offset,
        };
        positions
            .entry(id)
            .or_default()
            .insert(at.partition, position);
    }
    Ok(positions)
}

/// The positions in a log, by partition. Of a bucket that has changed hands and is not taken, none: its
/// owner may have let the log go on meanwhile.
pub(crate) fn positions_in(
    log: &dyn Log,
    positions: &Positions,
    marks: &BTreeMap<u16, BucketMark>,
    taken: &BTreeSet<u16>,
) -> Vec<Option<Position>> {
    let places = positions.get(&log.id());
    let counts = |partition: &u16| !marks.contains_key(partition) || taken.contains(partition);
    let place = |partition| {
        let places = places.filter(|_| counts(&partition))?;
        places.get(&partition).copied()
    };
    (0..log.partitions()).map(place).collect()
}

/// Says how a writer goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    AsBefore,
    /// From the store's offsets: a bucket has come with its own.
    Anew,
}

/// How far one log was read.
struct Feed {
    incarnation: u64,
    /// By partition, the next offset.
    positions: Vec<u64>,
    /// The same as far as it is sealed.
    committed: Vec<u64>,
}

impl Feed {
    fn new(partitions: u16, places: Option<&Places>) -> Self {
        let offset = |partition| {
            let place = places.and_then(|places| places.get(&partition));
            place.map_or(0, |place| place.offset)
        };
        let positions: Vec<u64> = (0..partitions).map(offset).collect();
        Self {
            incarnation: 0,
            committed: positions.clone(),
            positions,
        }
    }
}

struct Writer<'a> {
    context: &'a WriterContext,
    consumer: Box<dyn Consume>,
    processor: Processor,
    feeds: BTreeMap<LogId, Feed>,
    table: tokio::sync::watch::Receiver<Option<Arc<Table>>>,
    /// The buckets whose records are taken.
    buckets: BTreeSet<u16>,
    /// How buckets stood that have changed hands when that was found.
    marks: Arc<BTreeMap<u16, BucketMark>>,
    /// Since when the log is ahead of the store's offsets, by the monotonic clock.
    ahead_since_ms: Option<u64>,
    released_at_ms: u64,
    /// When the limit of messages per second lets the next ones in, by the monotonic clock.
    not_before_ms: u64,
}

impl WriterContext {
    fn run(&self) -> Result<(), WriterError> {
        let mut writer = self.start()?;
        while !self.stop.load(Ordering::Acquire) {
            if writer.turn()? == Next::Anew {
                writer = self.start()?;
            }
        }
        Ok(())
    }

    /// Begins where the store's offsets say, with an empty head.
    fn start(&self) -> Result<Writer<'_>, WriterError> {
        self.tsdb.clear_head();
        // In this order: what the table gives this node is marked before, and its offsets come with
        // the mark.
        let mut table = self.table.clone();
        let known = table.borrow_and_update().clone();
        let marks = self.tsdb.marks();
        let from = positions_of(&self.tsdb, &*self.log).map_err(|error| fatal(&error))?;
        let share = known.as_ref().map(|table| self.share(table, &marks));
        let taken = share.map_or_else(BTreeSet::new, |share| share.taken);
        let own = positions_in(&*self.log, &from, &marks, &taken);
        let consumer = self.log.consume(&own).map_err(WriterError::Source)?;
        let mut writer = Writer {
            context: self,
            consumer,
            processor: Processor::new(self.tsdb.clone(), Arc::clone(&self.counters)),
            feeds: BTreeMap::new(),
            table,
            buckets: taken,
            marks,
            ahead_since_ms: None,
            released_at_ms: self.clock.mono_ms(),
            not_before_ms: 0,
        };
        let partitions = self.log.partitions();
        let logs = from.iter().map(|(log, places)| (*log, Some(places)));
        for (log, places) in std::iter::once((self.log.id(), None)).chain(logs) {
            let feed = Feed::new(partitions, places);
            self.progress.set(log, &feed.positions);
            writer.feeds.insert(log, feed);
        }
        // What was found to be taken is read from there; what has come since begins a run of its own.
        match known {
            Some(known) => writer.take_share(&known)?,
            // Nothing is this node's before the table says so.
            None => {
                let nothing = BTreeSet::new();
                let assigned = writer.consumer.assign(&nothing, &nothing);
                assigned.map_err(WriterError::Source)?;
            }
        }
        self.pulls.begin(from);
        Ok(writer)
    }

    fn share(&self, table: &Table, marks: &BTreeMap<u16, BucketMark>) -> Share {
        Share::of(table, self.node, marks)
    }

    fn dead_letters(&self) -> MutexGuard<'_, DeadLetters> {
        self.dead_letters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the calls in which a panic means a broken invariant of the store.
    fn in_store<T>(&self, call: impl FnOnce() -> T) -> T {
        self.in_store.store(true, Ordering::Relaxed);
        let result = call();
        self.in_store.store(false, Ordering::Relaxed);
        result
    }
}

impl Writer<'_> {
    fn turn(&mut self) -> Result<Next, WriterError> {
        let asked = self.context.seal_asked.load(Ordering::Acquire);
        if self.assign()? == Next::Anew {
            return Ok(Next::Anew);
        }
        if let Some(bytes_max) = self.pace()
            && self.read(bytes_max)? == Next::Anew
        {
            return Ok(Next::Anew);
        }
        let is_asked = *self.context.seal_done.borrow() < asked;
        if self.is_due() || is_asked {
            self.seal()?;
            self.context.seal_done.send_replace(asked);
        }
        self.release_by_age();
        Ok(Next::AsBefore)
    }

    /// Takes what was pulled, if there is something, and what this node's log has.
    fn read(&mut self, bytes_max: usize) -> Result<Next, WriterError> {
        let context = self.context;
        let mut wait = POLL_WAIT;
        if let Some(pulled) = context.pulls.next() {
            wait = Duration::ZERO;
            // Who pulled it may have seen a later table; what is not this node's by that stays there.
            if self.assign()? == Next::Anew {
                return Ok(Next::Anew);
            }
            self.take(pulled.log, pulled.incarnation, &pulled.records)?;
            self.count_pace(pulled.records.len());
        }
        let records = self.consumer.poll(bytes_max, wait);
        let records = records.map_err(WriterError::Source)?;
        if !records.is_empty() {
            self.take(context.log.id(), context.log.incarnation(), &records)?;
            self.count_pace(records.len());
        }
        Ok(Next::AsBefore)
    }

    /// Does what the table says now, if it has changed, or a bucket has come or gone.
    fn assign(&mut self) -> Result<Next, WriterError> {
        let is_news = self.table.has_changed().unwrap_or(false)
            || !Arc::ptr_eq(&self.context.tsdb.marks(), &self.marks);
        if !is_news {
            return Ok(Next::AsBefore);
        }
        // The table first: what it gives this node is marked before.
        let table = self.table.borrow_and_update().clone();
        self.marks = self.context.tsdb.marks();
        let Some(table) = table else {
            return Ok(Next::AsBefore);
        };
        let share = self.context.share(&table, &self.marks);
        if share.has_come(&self.buckets, &self.marks) {
            // With all that was read sealed, nothing is read twice.
            self.seal()?;
            return Ok(Next::Anew);
        }
        self.take_share(&table)?;
        Ok(Next::AsBefore)
    }

    /// Takes the records of its buckets and of no others; freezes and drops those that go.
    fn take_share(&mut self, table: &Table) -> Result<(), WriterError> {
        let context = self.context;
        let Share {
            taken,
            frozen,
            dropped,
            missing,
        } = context.share(table, &self.marks);
        self.buckets = taken;
        context.pulls.set_taken(&self.buckets);
        for bucket in missing {
            tracing::error!(bucket, "a bucket of this node is not in its store");
        }
        if !frozen.is_empty() {
            tracing::info!(?frozen, "buckets with rows are about to go to other nodes");
            self.seal_and_freeze(&frozen)?;
        }
        for (bucket, epoch) in dropped {
            tracing::info!(bucket, "another node has the bucket: it is dropped here");
            context
                .in_store(|| context.tsdb.drop_bucket(bucket, epoch))
                .map_err(|error| fatal(&error))?;
        }
        let empty = table.empty_of(context.node);
        let empty = empty.map(|claim| claim.bucket).collect();
        let assigned = self.consumer.assign(&self.buckets, &empty);
        assigned.map_err(WriterError::Source)
    }

    /// Takes records of a log, each once: what was pulled again is passed over.
    ///
    /// # Panics
    /// If one is missing between them and those before.
    fn take(
        &mut self,
        log: LogId,
        incarnation: u64,
        records: &[StoredRecord],
    ) -> Result<(), WriterError> {
        let context = self.context;
        let partitions = context.log.partitions();
        let feed = self.feeds.entry(log);
        feed.or_insert_with(|| Feed::new(partitions, None))
            .incarnation = incarnation;
        let is_pulled = log != context.log.id();
        for source in records {
            let bucket = source.record.partition;
            if !self.buckets.contains(&bucket) {
                assert!(is_pulled, "bucket {bucket} is not this node's");
                // Whoever takes it next reads it from where the store was frozen.
                continue;
            }
            let position = self.feeds[&log].positions[usize::from(bucket)];
            if is_pulled && source.offset < position {
                continue;
            }
            assert!(
                !is_pulled || position == 0 || source.offset == position,
                "offset {} of bucket {bucket} follows {position}",
                source.offset
            );
            let complaint = context
                .in_store(|| self.processor.process(source))
                .map_err(|error| fatal(&error))?;
            if let Some(complaint) = complaint {
                let mut letters = context.dead_letters();
                let (reason, text) = (complaint.reason, &complaint.text);
                if letters.put(source, incarnation, reason, text)? {
                    context.counters.dead_letter(reason);
                }
            }
            let feed = self.feeds.get_mut(&log).expect("entered above");
            feed.positions[usize::from(bucket)] = source.offset + 1;
            // A head that one poll overfills is sealed within it.
            if context.tsdb.head_bytes() >= 2 * context.head_bytes_limit {
                self.seal()?;
            }
        }
        context.dead_letters().flush()?;
        self.ahead_since_ms
            .get_or_insert_with(|| context.clock.mono_ms());
        context.progress.set(log, &self.feeds[&log].positions);
        Ok(())
    }

    /// Waits for the limit of messages per second, but not longer than for a poll; how many bytes to
    /// take, none while it lets nothing in.
    fn pace(&self) -> Option<usize> {
        if self.context.messages_per_s_max.is_none() {
            return Some(POLL_BYTES);
        }
        let clock = &self.context.clock;
        let early_ms = self.not_before_ms.saturating_sub(clock.mono_ms());
        std::thread::park_timeout(Duration::from_millis(early_ms).min(POLL_WAIT));
        (self.not_before_ms <= clock.mono_ms()).then_some(PACED_POLL_BYTES)
    }

    fn count_pace(&mut self, messages: usize) {
        if let Some(max) = self.context.messages_per_s_max {
            let begin_ms = self.not_before_ms.max(self.context.clock.mono_ms());
            self.not_before_ms = begin_ms + messages as u64 * 1_000 / u64::from(max.max(1));
        }
    }

    fn is_due(&self) -> bool {
        let context = self.context;
        let age_ms = |since| context.clock.mono_ms().saturating_sub(since);
        self.ahead_since_ms
            .is_some_and(|since| age_ms(since) >= context.head_age_max_ms)
            || context.tsdb.head_bytes() >= context.head_bytes_limit
    }

    /// Makes the head and the offsets durable in one step. Dead letters of records before the
    /// offsets are durable first.
    fn seal(&mut self) -> Result<(), WriterError> {
        self.seal_and_freeze(&[])
    }

    /// The same, and these buckets are frozen under these epochs.
    fn seal_and_freeze(&mut self, frozen: &[(u16, u64)]) -> Result<(), WriterError> {
        let context = self.context;
        context.dead_letters().flush()?;
        let mut offsets = Vec::new();
        for (log, feed) in &self.feeds {
            let moved = (0_u16..).zip(feed.positions.iter().zip(&feed.committed));
            let moved = moved.filter(|(_, (position, committed))| position > committed);
            offsets.extend(moved.map(|(partition, (&offset, _))| ReplayOffset {
                source: context.log.name_of(*log),
                partition,
                incarnation: feed.incarnation,
                offset,
            }));
        }
        if !offsets.is_empty() || !frozen.is_empty() {
            context
                .in_store(|| context.tsdb.seal_and_freeze(&offsets, frozen))
                .map_err(|error| fatal(&error))?;
            self.note_sealed();
            // A full channel means that the merge thread is to be woken anyway.
            if let Err(crossbeam_channel::TrySendError::Disconnected(())) =
                context.sealed.try_send(())
            {
                return Err(WriterError::Stopped);
            }
        }
        self.ahead_since_ms = None;
        self.release();
        Ok(())
    }

    /// Everything that was read is in segments now.
    fn note_sealed(&mut self) {
        for (log, feed) in &mut self.feeds {
            let moved = (0_u16..).zip(feed.positions.iter().zip(&feed.committed));
            for (partition, (&offset, _)) in moved.filter(|(_, (to, from))| to > from) {
                let position = Position {
                    incarnation: feed.incarnation,
                    offset,
                };
                self.context.pulls.note_sealed(*log, partition, position);
            }
            feed.committed.clone_from(&feed.positions);
        }
    }

    fn release_by_age(&mut self) {
        if self
            .context
            .clock
            .mono_ms()
            .saturating_sub(self.released_at_ms)
            >= RELEASE_INTERVAL_MS
        {
            self.release();
        }
    }

    fn release(&mut self) {
        let context = self.context;
        let now_ms = context.clock.wall_ms() as i64;
        // Of other buckets their owners say how far they are.
        let committed = &self.feeds[&context.log.id()].committed;
        let committed = (0_u16..).zip(committed.iter().copied());
        let committed: Vec<(u16, u64)> = committed
            .filter(|(partition, _)| self.buckets.contains(partition))
            .collect();
        context.log.release(&committed, now_ms);
        context.dead_letters().release(now_ms);
        self.released_at_ms = context.clock.mono_ms();
    }
}

/// Supervises the writer's thread as a ractor actor.
pub(crate) struct StoreWriter {
    pub(crate) context: Arc<WriterContext>,
}

/// Says how the writer's thread ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Stopped,
    Panicked(String),
}

impl runtime::ractor::Message for Ended {}

impl Actor for StoreWriter {
    type Msg = Ended;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, me: ActorRef<Ended>, (): ()) -> Result<(), ActorProcessingErr> {
        let context = Arc::clone(&self.context);
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || report(&me, run_caught(&context)))?;
        Ok(())
    }

    async fn handle(
        &self,
        me: ActorRef<Ended>,
        ended: Ended,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match ended {
            Ended::Stopped => {
                me.stop(None);
                Ok(())
            }
            Ended::Panicked(reason) => {
                Counters::add(&self.context.counters.writer_restarts, 1_u64);
                Err(reason.into())
            }
        }
    }
}

/// Sends the end of a thread to its actor; one that is gone needs it no more.
pub(crate) fn report(actor: &ActorRef<Ended>, ended: Ended) {
    if actor.cast(ended).is_err() {
        tracing::debug!("the thread outlived its actor");
    }
}

fn run_caught(context: &WriterContext) -> Ended {
    match catch_unwind(AssertUnwindSafe(|| context.run())) {
        Ok(Ok(()) | Err(WriterError::Stopped)) => Ended::Stopped,
        Ok(Err(WriterError::Fatal(error))) => {
            (context.on_fatal)(error);
            Ended::Stopped
        }
        Ok(Err(WriterError::Source(error))) => {
            if context.log.source() == crate::embedded::SOURCE {
                (context.on_fatal)(Fatal(error.to_string()));
                return Ended::Stopped;
            }
            // Kafka keeps what is acknowledged, so the broker serves on; a person decides.
            tracing::error!(%error, "the store has stopped reading");
            *context
                .source_error
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            Ended::Stopped
        }
        Err(panic) => {
            let reason = panic_text(&*panic);
            if context.in_store.swap(false, Ordering::Relaxed) {
                (context.on_fatal)(Fatal(format!("a broken invariant of the store: {reason}")));
                return Ended::Stopped;
            }
            Ended::Panicked(reason)
        }
    }
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without text")
        .to_owned()
}
