//! Reads this node's log for the owners of buckets on other nodes.
//!
//! One thread for all of them. A question that finds nothing waits for records, up to [`WAIT`]; of
//! each node one waits, a later one takes its place.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError};
use runtime::Clock;
use storage::log::{AssignError, Consumer, EmbeddedLog, Incarnation, Start, WakerGuard};
use tokio::sync::watch;

use super::exchange::{Pull, PullBucket, Pulled, Wanted};
use super::{Reply, Table};
use crate::log::Position;

/// Longest wait for a record.
pub(super) const WAIT: Duration = Duration::from_secs(1);
/// Bytes of records in one answer: the last one may exceed it.
const RECORD_BYTES_MAX: u32 = 1 << 20;
/// Bytes of an answer: records of a few bytes weigh half as much again, and the last one may be as
/// long as a packet.
pub(super) const REPLY_BYTES_MAX: u32 = 4 << 20;
/// Polls for one answer that may find nothing: each passes 8 MiB of the log.
const POLLS_MAX: usize = 8;
/// Questions that wait for the thread: more than nodes, of which each has one under way.
const QUESTIONS_MAX: usize = 512;

/// Answers pulls. Dropped, its thread ends.
pub(crate) struct Reader {
    events: Sender<Event>,
    asked: Arc<Mutex<Progress>>,
    log: EmbeddedLog,
    _readable: WakerGuard,
}

/// By node, then by bucket: the first offset that it has not got.
type Progress = BTreeMap<u32, BTreeMap<u16, u64>>;

enum Event {
    Pull(u32, Pull, Reply),
    /// There may be more to read.
    Readable,
}

struct Thread {
    log: EmbeddedLog,
    table: watch::Receiver<Option<Arc<Table>>>,
    clock: Arc<dyn Clock>,
    asked: Arc<Mutex<Progress>>,
    owners: BTreeMap<u32, Owner>,
}

/// What is kept of a node that asks.
struct Owner {
    consumer: Consumer,
    waiting: Option<Waiting>,
}

/// A question without an answer.
struct Waiting {
    pull: Pull,
    reply: Reply,
    until_ms: u64,
}

impl Reader {
    /// Starts the thread. `readable` is called whenever the log has grown.
    pub(crate) fn start(
        log: EmbeddedLog,
        table: watch::Receiver<Option<Arc<Table>>>,
        clock: Arc<dyn Clock>,
        readable: impl Fn() + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let (events, receive) = crossbeam_channel::bounded(QUESTIONS_MAX);
        let wake = events.clone();
        let readable = log.on_readable(move || {
            // A full channel wakes the thread as well; without a thread nobody reads.
            drop(wake.try_send(Event::Readable));
            readable();
        });
        let asked: Arc<Mutex<Progress>> = Arc::default();
        let thread = Thread {
            log: log.clone(),
            table,
            clock,
            asked: Arc::clone(&asked),
            owners: BTreeMap::new(),
        };
        std::thread::Builder::new()
            .name("log-reader".to_owned())
            .spawn(move || thread.run(&receive))?;
        Ok(Self {
            events,
            asked,
            log,
            _readable: readable,
        })
    }

    /// Takes a question; it is answered later, or its reply dropped.
    pub(crate) fn pull(&self, from: u32, pull: Pull, reply: Reply) {
        if let Err(TrySendError::Full(_)) = self.events.try_send(Event::Pull(from, pull, reply)) {
            tracing::warn!(from, "too many nodes ask for records at once");
        }
    }

    /// The first offset of a bucket that is still there.
    pub(crate) fn start_of(&self, bucket: u16) -> u64 {
        self.log.start(bucket)
    }

    /// Records that their owners have not sealed, as far as they have said.
    pub(crate) fn unreleased(&self) -> u64 {
        self.log.unreleased()
    }

    /// Bytes of a record, on the average.
    pub(crate) fn mean_record_bytes(&self) -> u64 {
        self.log.mean_record_bytes()
    }

    /// How far each node has got with its buckets.
    pub(crate) fn progress(&self) -> Progress {
        lock(&self.asked).clone()
    }
}

fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Thread {
    fn run(mut self, events: &Receiver<Event>) {
        loop {
            let waits = self.owners.values().filter_map(|one| one.waiting.as_ref());
            let next_ms = waits.map(|one| one.until_ms).min();
            let event = match next_ms {
                None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(until_ms) => {
                    let left_ms = until_ms.saturating_sub(self.clock.mono_ms());
                    events.recv_timeout(Duration::from_millis(left_ms))
                }
            };
            match event {
                Ok(event) => self.handle(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // What has gathered meanwhile is looked at once.
            while let Ok(event) = events.try_recv() {
                self.handle(event);
            }
            self.answer_waiting();
        }
    }

    fn handle(&mut self, event: Event) {
        let Event::Pull(from, pull, reply) = event else {
            return;
        };
        let until_ms = self.clock.mono_ms() + WAIT.as_millis() as u64;
        let mut owned = pull.clone();
        owned
            .buckets
            .retain(|one| is_owned(self.table.borrow().as_deref(), from, one));
        release(&self.log, &owned, self.clock.wall_ms());
        note(&self.log, &self.asked, from, &owned);
        let owner = self.owners.entry(from).or_insert_with(|| Owner {
            consumer: self.log.consumer(),
            waiting: None,
        });
        // One that waited is of a puller that waits no more.
        owner.waiting = Some(Waiting {
            pull,
            reply,
            until_ms,
        });
    }

    fn answer_waiting(&mut self) {
        let now_ms = self.clock.mono_ms();
        let table = self.table.borrow().clone();
        for (from, owner) in &mut self.owners {
            let Some(waiting) = owner.waiting.take() else {
                continue;
            };
            let table = table.as_deref();
            let mut pull = waiting.pull.clone();
            pull.buckets.retain(|one| is_owned(table, *from, one));
            let (pulled, is_whole) = read(&self.log, &mut owner.consumer, &pull);
            let is_empty =
                pulled.records.is_empty() && pulled.signs.is_empty() && pulled.refused.is_empty();
            if is_empty && is_whole && now_ms < waiting.until_ms {
                owner.waiting = Some(waiting);
            } else {
                (waiting.reply)(pulled.encode());
            }
        }
    }
}

/// Whether this node knows the bucket as the asking node's, under the same ownership. One of the two
/// may be behind; the puller asks again.
fn is_owned(table: Option<&Table>, from: u32, one: &PullBucket) -> bool {
    let row = table.and_then(|table| table.row(one.bucket));
    row.is_some_and(|row| row.owner == from && row.epoch == one.epoch)
}

/// What owners have sealed need not be kept for them.
fn release(log: &EmbeddedLog, pull: &Pull, now_ms: u64) {
    let own = log.incarnation().get();
    let is_own = |position: &Position| position.incarnation >> 32 == own >> 32;
    let sealed = pull.buckets.iter().filter_map(|one| {
        let sealed = one.sealed.filter(is_own)?;
        Some((one.bucket, sealed.offset))
    });
    let sealed: Vec<(u16, u64)> = sealed.collect();
    if !sealed.is_empty() {
        log.release(&sealed, now_ms as i64);
    }
}

fn note(log: &EmbeddedLog, asked: &Mutex<Progress>, from: u32, pull: &Pull) {
    let mut asked = lock(asked);
    let progress = asked.entry(from).or_default();
    progress.clear();
    progress.extend(pull.buckets.iter().map(|one| {
        let next = match one.wanted {
            Wanted::From(position) => position.offset,
            Wanted::All | Wanted::Sign => log.start(one.bucket),
        };
        (one.bucket, next)
    }));
}

/// Reads what is there now; false if it has not come to the log's end, and has found nothing.
fn read(log: &EmbeddedLog, consumer: &mut Consumer, pull: &Pull) -> (Pulled, bool) {
    let ends = log.ends();
    let end_of = |bucket: u16| ends.get(usize::from(bucket)).copied().unwrap_or(0);
    let mut pulled = Pulled {
        incarnation: log.incarnation().get(),
        ends: pull
            .buckets
            .iter()
            .map(|one| (one.bucket, end_of(one.bucket)))
            .collect(),
        ..Pulled::default()
    };
    let mut starts = Vec::new();
    for one in &pull.buckets {
        let (offset, incarnation) = match one.wanted {
            Wanted::Sign => {
                if end_of(one.bucket) > log.start(one.bucket) {
                    pulled.signs.push(one.bucket);
                }
                continue;
            }
            Wanted::All => (log.start(one.bucket), None),
            Wanted::From(Position {
                incarnation,
                offset,
            }) => (offset, Some(Incarnation::new(incarnation))),
        };
        starts.push(Start {
            partition: one.bucket,
            offset,
            incarnation,
        });
    }
    place(consumer, starts, &mut pulled.refused);
    let bytes_max = pull.bytes_max.min(RECORD_BYTES_MAX) as usize;
    for _ in 0..POLLS_MAX {
        match consumer.poll(bytes_max, Duration::ZERO) {
            Ok(records) => pulled.records = records,
            Err(error) => {
                tracing::error!(%error, "the log cannot be read for another node");
                let why = error.to_string();
                let all = consumer.positions().into_iter();
                let all = all.map(|(bucket, _)| (bucket, why.clone()));
                pulled.refused.extend(all);
                place(consumer, Vec::new(), &mut pulled.refused);
            }
        }
        if !pulled.records.is_empty() || consumer.is_at_end() {
            return (pulled, true);
        }
    }
    (pulled, false)
}

/// Has the consumer read from there, unless it does already; what it cannot read is left out.
fn place(consumer: &mut Consumer, mut starts: Vec<Start>, refused: &mut Vec<(u16, String)>) {
    starts.sort_unstable_by_key(|start| start.partition);
    let as_positions = |starts: &[Start]| {
        let positions = starts.iter().map(|start| (start.partition, start.offset));
        positions.collect::<Vec<_>>()
    };
    // It came there by reading, so that they are good.
    if consumer.positions() == as_positions(&starts) {
        return;
    }
    while let Err(error) = consumer.assign(starts.clone()) {
        let partition = partition_of(&error);
        let before = starts.len();
        starts.retain(|start| Some(start.partition) != partition);
        tracing::warn!(%error, "an owner cannot read its bucket here");
        if let Some(partition) = partition {
            refused.push((partition, error.to_string()));
        }
        if starts.len() == before {
            starts.clear();
        }
    }
}

fn partition_of(error: &AssignError) -> Option<u16> {
    match error {
        AssignError::AheadOfEnd { partition, .. }
        | AssignError::BeforeStart { partition, .. }
        | AssignError::OtherLog { partition, .. }
        | AssignError::NoPartition { partition, .. } => Some(*partition),
        _ => None,
    }
}

#[cfg(test)]
#[path = "reader_test.rs"]
mod reader_test;
