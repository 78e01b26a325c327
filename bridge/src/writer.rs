//! The writer: reads the log, fills the head, seals it together with the log's offsets.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runtime::Clock;
use runtime::ractor::{Actor, ActorProcessingErr, ActorRef};
use storage::log::StoredRecord;
use storage::tsdb::{ReplayOffset, Tsdb};

use crate::counters::Counters;
use crate::dead_letter::{DeadLetterError, DeadLetters, SharedDeadLetters};
use crate::line::{Fatal, OnFatal};
use crate::log::{Consume, Log, Position, ReadError};
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

/// Gives the store's replay offsets as positions by partition.
pub(crate) fn positions_of(tsdb: &Tsdb, log: &dyn Log) -> Result<Vec<Option<Position>>, String> {
    let (partitions, name) = (log.partitions(), log.source());
    let mut positions = vec![None; usize::from(partitions)];
    for at in tsdb.replay_offsets().map_err(|error| error.to_string())? {
        let place = positions
            .get_mut(usize::from(at.partition))
            .filter(|_| at.source == name)
            .ok_or_else(|| {
                let (source, partition) = (&at.source, at.partition);
                format!(
                    "the store was filled from {source:?} (partition {partition}), this node is to fill it \
                     from {name:?}: a store has one source"
                )
            })?;
        *place = Some(Position {
            incarnation: at.incarnation,
            offset: at.offset,
        });
    }
    Ok(positions)
}

struct Writer<'a> {
    context: &'a WriterContext,
    consumer: Box<dyn Consume>,
    processor: Processor,
    positions: Vec<u64>,
    committed: Vec<u64>,
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
            writer.turn()?;
        }
        Ok(())
    }

    /// Begins where the store's offsets say, with an empty head.
    fn start(&self) -> Result<Writer<'_>, WriterError> {
        self.tsdb.clear_head();
        let from = positions_of(&self.tsdb, &*self.log).map_err(|error| fatal(&error))?;
        let consumer = self.log.consume(&from).map_err(WriterError::Source)?;
        let positions: Vec<u64> = from
            .iter()
            .map(|position| position.map_or(0, |position| position.offset))
            .collect();
        self.progress.set(&positions);
        Ok(Writer {
            context: self,
            consumer,
            processor: Processor::new(self.tsdb.clone(), Arc::clone(&self.counters)),
            committed: positions.clone(),
            positions,
            ahead_since_ms: None,
            released_at_ms: self.clock.mono_ms(),
            not_before_ms: 0,
        })
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
    fn turn(&mut self) -> Result<(), WriterError> {
        let asked = self.context.seal_asked.load(Ordering::Acquire);
        let records = match self.pace() {
            Some(bytes_max) => self.consumer.poll(bytes_max, POLL_WAIT),
            None => Ok(Vec::new()),
        };
        let records = records.map_err(WriterError::Source)?;
        if !records.is_empty() {
            self.take(&records)?;
            self.count_pace(records.len());
        }
        let is_asked = *self.context.seal_done.borrow() < asked;
        if self.is_due() || is_asked {
            self.seal()?;
            self.context.seal_done.send_replace(asked);
        }
        self.release_by_age();
        Ok(())
    }

    fn take(&mut self, records: &[StoredRecord]) -> Result<(), WriterError> {
        let context = self.context;
        let incarnation = context.log.incarnation();
        for source in records {
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
            self.positions[usize::from(source.record.partition)] = source.offset + 1;
            // A head that one poll overfills is sealed within it.
            if context.tsdb.head_bytes() >= 2 * context.head_bytes_limit {
                self.seal()?;
            }
        }
        context.dead_letters().flush()?;
        self.ahead_since_ms
            .get_or_insert_with(|| context.clock.mono_ms());
        context.progress.set(&self.positions);
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
        let context = self.context;
        context.dead_letters().flush()?;
        let incarnation = context.log.incarnation();
        let moved = (0..).zip(self.positions.iter().zip(&self.committed));
        let offsets: Vec<ReplayOffset> = moved
            .filter(|(_, (position, committed))| position > committed)
            .map(|(partition, (&offset, _))| ReplayOffset {
                source: context.log.source().to_owned(),
                partition,
                incarnation,
                offset,
            })
            .collect();
        if !offsets.is_empty() {
            context
                .in_store(|| context.tsdb.seal(&offsets))
                .map_err(|error| fatal(&error))?;
            self.committed.clone_from(&self.positions);
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
        let committed: Vec<(u16, u64)> = (0..).zip(self.committed.iter().copied()).collect();
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
