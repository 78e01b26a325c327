//! The sender: the thread that carries out what [`Delivery`] decides.
//!
//! It owns the producer and the spools. Io threads hand it records through a bounded channel;
//! reports and the ends of appends come through an inbox that is emptied at every turn.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender as ChannelSender, TrySendError};
use runtime::Clock;

use super::delivery::{
    Contact, Delivery, Failure, Limits, Poisoned, Policy, SlotId, SpoolWork, TopicState,
};
use super::message;
use super::producer::{Outgoing, Producer, SendError};
use super::settings::Settings;
use super::spool::Spool;
use crate::dead_letter::DeadLetter;
use crate::line::{Fatal, OnFatal};
use crate::log::{Append, AppendError, Outcome, PortId, Ports, Submission, Ticket};
use crate::room::Room;

/// Batches that may wait for the sender's thread; their bytes are bounded by the rooms.
const COMMANDS_MAX: usize = 4_096;
/// Commands taken in one turn.
const TURN_COMMANDS_MAX: usize = 1_024;
/// Longest sleep of the sender.
const TICK: Duration = Duration::from_millis(20);
/// How often the state is published and spools are released, in milliseconds.
const PUBLISH_INTERVAL_MS: u64 = 200;
/// Pause before a producer that failed for good is replaced.
const REBUILD_MS: u64 = 500;
/// Longest time that a stop waits for Kafka to confirm what no spool may take.
const STOP_WAIT_MS: u64 = 8_000;

/// Says what a topic carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cargo {
    /// Device messages.
    Telemetry,
    /// Dead letters, whose records are in the stored form of [`DeadLetter`].
    DeadLetters,
}

/// Is a topic as the sender is told of it.
pub(crate) struct TopicSpec {
    pub(crate) name: String,
    pub(crate) policy: Policy,
    pub(crate) cargo: Cargo,
    pub(crate) partitions: u16,
    /// Its spool and how that stands; none for a topic that never spools.
    pub(crate) spool: Option<(Spool, Vec<(u64, u64)>)>,
    pub(crate) room: Arc<Room>,
    /// Where delivery reports are told to those who read the topic here.
    pub(crate) watch: Option<Arc<super::watch::Watch>>,
}

struct Topic {
    name: String,
    cargo: Cargo,
    spool: Option<Spool>,
    room: Arc<Room>,
    watch: Option<Arc<super::watch::Watch>>,
    /// Whether it was said that partitions are away.
    is_away_told: bool,
}

/// Is what the sender is asked for.
enum Command {
    Records {
        topic: u16,
        submission: Submission,
    },
    Contact {
        topic: u16,
        contact: Contact,
    },
    /// Answered once the state says so.
    Pause {
        paused: bool,
        done: ChannelSender<()>,
    },
    Wake,
    Stop,
}

/// What other threads leave for the sender.
#[derive(Debug, Default)]
struct Inbox {
    spooled: Mutex<Vec<(u16, bool)>>,
}

/// Is how the sender stands, as last published.
#[derive(Clone, Debug, Default)]
pub(crate) struct SenderState {
    pub(crate) topics: Vec<(String, TopicState, u64)>,
    pub(crate) is_paused: bool,
    pub(crate) rebuilt: u64,
}

/// Says by partition whether the spool of a topic holds what Kafka has not confirmed.
#[derive(Debug)]
pub(crate) struct Backlog(Vec<AtomicBool>);

impl Backlog {
    pub(crate) fn new(partitions: u16) -> Self {
        Self((0..partitions).map(|_| AtomicBool::new(false)).collect())
    }

    pub(crate) fn is_there(&self, partition: u16) -> bool {
        let flag = self.0.get(usize::from(partition));
        flag.is_some_and(|flag| flag.load(Ordering::Acquire))
    }
}

/// Talks to the sender's thread; cloning it is cheap.
#[derive(Clone)]
pub(crate) struct Handle {
    commands: ChannelSender<Command>,
    state: Arc<Mutex<SenderState>>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    /// Tells what Kafka says of a topic. Blocks while the sender has much to do.
    pub(crate) fn contact(&self, topic: u16, contact: Contact) {
        self.tell(Command::Contact { topic, contact });
    }

    /// Holds Kafka's side, or lets it go on; false when the sender has ended. Blocks until the
    /// state says so.
    pub(crate) fn pause(&self, paused: bool) -> bool {
        let (done, is_done) = crossbeam_channel::bounded(1);
        self.tell(Command::Pause { paused, done });
        is_done.recv().is_ok()
    }

    /// Settles what can be settled and ends the thread.
    pub(crate) fn stop(&self) {
        self.tell(Command::Stop);
    }

    fn tell(&self, command: Command) {
        if self.commands.send(command).is_err() {
            tracing::debug!("the sender has ended");
        }
    }

    /// Is the state as last published.
    pub(crate) fn state(&self) -> SenderState {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clone()
    }
}

/// Is one topic of Kafka as the broker's side sees it.
#[derive(Debug)]
pub(crate) struct KafkaOutlet {
    pub(crate) topic: u16,
    pub(crate) room: Arc<Room>,
    pub(crate) handle: Handle,
    /// Set once the sender takes nothing more.
    pub(crate) closed: Arc<AtomicBool>,
}

impl Append for KafkaOutlet {
    fn append(&self, submission: Submission) -> Result<(), (AppendError, Submission)> {
        if self.closed.load(Ordering::Acquire) {
            return Err((AppendError::Closed, submission));
        }
        let topic = self.topic;
        let command = Command::Records { topic, submission };
        let (error, command) = match self.handle.commands.try_send(command) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(command)) => (AppendError::Full, command),
            Err(TrySendError::Disconnected(command)) => (AppendError::Closed, command),
        };
        match command {
            Command::Records { submission, .. } => Err((error, submission)),
            _ => unreachable!("the channel gives back what it was given"),
        }
    }

    fn room(&self) -> &Room {
        &self.room
    }
}

/// Is all that the sender's thread begins with.
pub(crate) struct Start {
    pub(crate) settings: Settings,
    pub(crate) message_bytes_max: u32,
    pub(crate) topics: Vec<TopicSpec>,
    pub(crate) ports: Ports,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) on_fatal: OnFatal,
    /// Takes the records that Kafka will never take; what it has no room for stays and is offered
    /// again.
    pub(crate) letters: ChannelSender<Poisoned>,
    /// How many of them are durable since the sender looked last.
    pub(crate) kept: Arc<AtomicU64>,
}

/// Starts the sender's thread.
///
/// # Errors
/// When the machine gives no thread.
pub(crate) fn start(
    start: Start,
    backlog: Option<(u16, Arc<Backlog>)>,
) -> std::io::Result<(Handle, std::thread::JoinHandle<()>)> {
    let (commands, queue) = crossbeam_channel::bounded(COMMANDS_MAX);
    let handle = Handle {
        commands,
        state: Arc::default(),
    };
    let state = Arc::clone(&handle.state);
    let wake = handle.commands.clone();
    let on_fatal = Arc::clone(&start.on_fatal);
    let thread = std::thread::Builder::new()
        .name("kafka-sender".to_owned())
        .spawn(move || {
            // What is in its memory cannot be told any more after a panic; nothing of it was
            // acknowledged, and the next life sends the spools.
            let run = std::panic::AssertUnwindSafe(|| {
                Sender::new(start, wake, state, backlog).run(&queue);
            });
            if std::panic::catch_unwind(run).is_err() {
                on_fatal(Fatal("the sender to Kafka panicked".to_owned()));
            }
        })?;
    Ok((handle, thread))
}

struct Sender {
    delivery: Delivery,
    topics: Vec<Topic>,
    producer: Option<Producer>,
    rebuild_at_ms: u64,
    rebuilt: u64,
    settings: Settings,
    message_bytes_max: u32,
    inbox: Arc<Inbox>,
    wake: ChannelSender<Command>,
    ports: Ports,
    clock: Arc<dyn Clock>,
    on_fatal: OnFatal,
    letters: ChannelSender<Poisoned>,
    kept: Arc<AtomicU64>,
    /// Waits for room among the letters.
    poisoned: Vec<Poisoned>,
    state: Arc<Mutex<SenderState>>,
    backlog: Option<(u16, Arc<Backlog>)>,
    published_ms: u64,
}

impl Sender {
    fn new(
        start: Start,
        wake: ChannelSender<Command>,
        state: Arc<Mutex<SenderState>>,
        backlog: Option<(u16, Arc<Backlog>)>,
    ) -> Self {
        let mut delivery = Delivery::new(Limits {
            away_after_ms: start.settings.away_after.as_millis() as u64,
            producer_bytes: start.settings.producer_bytes_limit,
            spool_age_ms: i64::try_from(start.settings.spool_age_max.as_millis())
                .unwrap_or(i64::MAX),
        });
        let mut topics = Vec::new();
        for spec in start.topics {
            let empty = vec![(0, 0); usize::from(spec.partitions)];
            let (spool, stands) = match spec.spool {
                Some((spool, stands)) => (Some(spool), stands),
                None => (None, empty),
            };
            delivery.topic(spec.policy, &stands);
            topics.push(Topic {
                name: spec.name,
                cargo: spec.cargo,
                spool,
                room: spec.room,
                watch: spec.watch,
                is_away_told: false,
            });
        }
        Self {
            delivery,
            topics,
            producer: None,
            rebuild_at_ms: 0,
            rebuilt: 0,
            settings: start.settings,
            message_bytes_max: start.message_bytes_max,
            inbox: Arc::default(),
            wake,
            ports: start.ports,
            clock: start.clock,
            on_fatal: start.on_fatal,
            letters: start.letters,
            kept: start.kept,
            poisoned: Vec::new(),
            state,
            backlog,
            published_ms: 0,
        }
    }

    fn run(mut self, commands: &Receiver<Command>) {
        // Who asks at once is not told that there is no topic.
        self.publish();
        let mut stop_at_ms = None;
        loop {
            match commands.recv_timeout(TICK) {
                Ok(command) => self.take(command, &mut stop_at_ms),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            for command in commands.try_iter().take(TURN_COMMANDS_MAX) {
                self.take(command, &mut stop_at_ms);
            }
            self.turn();
            let is_over = |at| self.clock.mono_ms() >= at || self.is_settled();
            if stop_at_ms.is_some_and(is_over) {
                break;
            }
        }
        self.end();
    }

    fn take(&mut self, command: Command, stop_at_ms: &mut Option<u64>) {
        let now_ms = self.clock.mono_ms();
        match command {
            Command::Records { topic, submission } => {
                self.delivery.handle_records(topic, submission, now_ms);
            }
            Command::Contact { topic, contact } => self.delivery.handle_contact(topic, contact),
            Command::Pause { paused, done } => {
                self.delivery.handle_pause(paused);
                self.publish();
                if done.try_send(()).is_err() {
                    tracing::debug!("who paused or resumed waits no more");
                }
            }
            Command::Wake => {}
            Command::Stop => *stop_at_ms = Some(now_ms + STOP_WAIT_MS),
        }
    }

    /// Whether nobody waits for anything that may still be settled.
    fn is_settled(&self) -> bool {
        let is_empty = |topic: &Topic| topic.room.bytes() == 0;
        self.topics.iter().all(is_empty) && self.poisoned.is_empty()
    }

    fn turn(&mut self) {
        let now_ms = self.clock.mono_ms();
        self.keep_producer(now_ms);
        self.take_reports(now_ms);
        let spooled = {
            let inbox = &self.inbox.spooled;
            std::mem::take(&mut *inbox.lock().unwrap_or_else(PoisonError::into_inner))
        };
        for (topic, is_durable) in spooled {
            self.delivery.handle_spooled(topic, is_durable, now_ms);
            if is_durable {
                self.release(topic);
            }
        }
        self.delivery.handle_timeout(now_ms);
        self.produce(now_ms);
        for topic in 0..self.topics.len() as u16 {
            self.work_spool(topic, now_ms);
        }
        self.produce(now_ms);
        self.tell_letters();
        self.tell_backlog();
        self.settle();
        if now_ms >= self.published_ms + PUBLISH_INTERVAL_MS {
            self.published_ms = now_ms;
            self.publish();
        }
    }

    /// Makes a producer when there is none, and takes one away that can never send again.
    fn keep_producer(&mut self, now_ms: u64) {
        if let Some(reason) = self.producer.as_ref().and_then(Producer::fatal) {
            tracing::warn!(
                reason,
                "Kafka's producer failed for good; a new one sends what was not confirmed"
            );
            // What it confirmed before it failed counts.
            self.take_reports(now_ms);
            if let Some(producer) = self.producer.take() {
                producer.discard();
            }
            self.delivery.handle_producer_lost(now_ms);
            self.rebuilt += 1;
            self.rebuild_at_ms = now_ms + REBUILD_MS;
        }
        if self.producer.is_some() || now_ms < self.rebuild_at_ms {
            return;
        }
        let wake = self.wake.clone();
        let wake = Box::new(move || {
            // A full channel means that the sender is awake.
            drop(wake.try_send(Command::Wake));
        });
        match Producer::new(&self.settings, self.message_bytes_max, wake) {
            Ok(producer) => {
                self.producer = Some(producer);
                self.delivery.handle_producer();
            }
            Err(error) => {
                tracing::error!(%error, "no producer for Kafka; trying again");
                self.rebuild_at_ms = now_ms + 10 * REBUILD_MS;
            }
        }
    }

    fn take_reports(&mut self, now_ms: u64) {
        let Some(producer) = &self.producer else {
            return;
        };
        for report in producer.take_reports() {
            match report.result {
                Ok(offset) => {
                    let (slot, topic) = self.delivery.slot(report.slot);
                    if let Some(watch) = &self.topics[usize::from(topic)].watch {
                        watch.note_end(slot.record.partition, offset + 1);
                    }
                    self.delivery.handle_confirmed(report.slot, now_ms);
                }
                Err(failure) => self.delivery.handle_failed(report.slot, failure, now_ms),
            }
        }
    }

    fn produce(&mut self, now_ms: u64) {
        let Some(producer) = &self.producer else {
            return;
        };
        while let Some(id) = self.delivery.poll_produce() {
            match send(producer, &self.delivery, &self.topics, id) {
                Ok(()) => {}
                Err(SendError::Full) => {
                    self.delivery.handle_queue_full(id);
                    return;
                }
                Err(SendError::Failed(failure)) => {
                    self.delivery.handle_failed(id, failure, now_ms);
                }
            }
        }
    }

    fn work_spool(&mut self, topic: u16, now_ms: u64) {
        while let Some(work) = self.delivery.poll_spool(topic, now_ms) {
            let of = &mut self.topics[usize::from(topic)];
            let spool = of
                .spool
                .as_mut()
                .expect("a topic without spool spools nothing");
            match work {
                SpoolWork::Append { slots, mark } => {
                    let record = |id: &SlotId| self.delivery.slot(*id).0.record.clone();
                    let records = slots.iter().map(record).collect();
                    let (inbox, wake) = (Arc::clone(&self.inbox), self.wake.clone());
                    let done = move |is_durable| {
                        inbox
                            .spooled
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push((topic, is_durable));
                        // A full channel means that the sender is awake.
                        drop(wake.try_send(Command::Wake));
                    };
                    if let Err(reason) = spool.append(records, mark.as_deref(), done) {
                        tracing::debug!(topic = of.name, %reason, "the spool took nothing");
                        self.delivery.handle_spooled(topic, false, now_ms);
                    }
                }
                SpoolWork::Read { from } => {
                    let from: Vec<(u16, u64)> =
                        from.iter().map(|&(lane, next, _)| (lane, next)).collect();
                    match spool.read(&from) {
                        Ok(records) => {
                            let is_empty = records.is_empty();
                            let now = (now_ms, self.clock.wall_ms() as i64);
                            self.delivery.handle_read(topic, records, now);
                            if is_empty {
                                return;
                            }
                        }
                        Err(error) => {
                            let name = &of.name;
                            (self.on_fatal)(Fatal(format!("the spool of {name}: {error}")));
                            return;
                        }
                    }
                }
            }
        }
    }

    fn release(&self, topic: u16) {
        if !self.delivery.may_mark() {
            return;
        }
        if let Some(spool) = &self.topics[usize::from(topic)].spool {
            spool.release(self.delivery.delivered(topic));
        }
    }

    fn tell_letters(&mut self) {
        self.delivery
            .handle_kept(self.kept.swap(0, Ordering::AcqRel));
        self.poisoned.extend(self.delivery.take_poisoned());
        while let Some(poisoned) = self.poisoned.pop() {
            if let Err(refused) = self.letters.try_send(poisoned) {
                self.poisoned.push(refused.into_inner());
                return;
            }
        }
    }

    /// Tells the ports, one call for all that a turn settled for one of them.
    fn settle(&mut self) {
        let mut settled = self.delivery.take_settled();
        // Stable: the tickets of a port keep their order.
        settled.sort_by_key(|(port, _, _)| *port);
        for group in settled.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let (port, outcome, _) = group[0];
            let tickets: Vec<Ticket> = group.iter().map(|(_, _, ticket)| *ticket).collect();
            self.ports.settle(port, outcome, tickets);
        }
        for (topic, of) in (0..).zip(&self.topics) {
            let bytes = self.delivery.take_released(topic);
            if bytes > 0 {
                of.room.release(bytes);
                of.room.wake();
            }
        }
    }

    fn publish(&mut self) {
        self.tell_away();
        let of = |(topic, of): (u16, &Topic)| {
            let disk = of.spool.as_ref().map_or(0, Spool::disk_bytes);
            (of.name.clone(), self.delivery.state(topic), disk)
        };
        let published = SenderState {
            topics: (0..).zip(&self.topics).map(of).collect(),
            is_paused: self.delivery.is_paused(),
            rebuilt: self.rebuilt,
        };
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = published;
    }

    /// Says in the log when a topic's partitions go to the spool and when all are back. Not in mode
    /// `disk`, whose records always go there.
    fn tell_away(&mut self) {
        for (topic, of) in (0..).zip(&mut self.topics) {
            let state = self.delivery.state(topic);
            let is_away = state.lanes_away > 0 && !self.delivery.spools_always(topic);
            if is_away == of.is_away_told {
                continue;
            }
            of.is_away_told = is_away;
            let (name, partitions) = (&of.name, state.lanes_away);
            if is_away {
                tracing::warn!(
                    topic = name,
                    partitions,
                    "Kafka is away: the spool takes over"
                );
            } else {
                tracing::info!(topic = name, "Kafka is back: the spool is empty");
            }
        }
    }

    /// Comes before anybody hears that a record is settled: a question that follows must see it.
    fn tell_backlog(&self) {
        if let Some((topic, backlog)) = &self.backlog {
            for (flag, is_there) in backlog.0.iter().zip(self.delivery.backlog(*topic)) {
                flag.store(is_there, Ordering::Release);
            }
        }
    }

    /// What was not settled stays so: its sender sends it again.
    fn end(mut self) {
        for topic in 0..self.topics.len() as u16 {
            let of = &self.topics[usize::from(topic)];
            let Some(spool) = &of.spool else { continue };
            let mark: Vec<u64> = self.delivery.delivered(topic).collect();
            let mark = self.delivery.may_mark().then_some(&mark[..]);
            if let Err(reason) = spool.append(Vec::new(), mark, |_| {}) {
                tracing::warn!(topic = of.name, %reason, "the last mark was not written");
            }
            spool.close();
        }
        if let Some(producer) = self.producer.take() {
            producer.discard();
        }
        self.topics.iter().for_each(|topic| topic.room.stop());
    }
}

fn send(
    producer: &Producer,
    delivery: &Delivery,
    topics: &[Topic],
    id: SlotId,
) -> Result<(), SendError> {
    let (slot, topic) = delivery.slot(id);
    let (record, topic) = (&slot.record, &topics[usize::from(topic)]);
    let (headers, payload) = match topic.cargo {
        Cargo::Telemetry => (message::headers_of(record), record.payload.clone()),
        Cargo::DeadLetters => {
            let letter = DeadLetter::decode(record).map_err(|error| {
                // It was encoded by this program.
                SendError::Failed(Failure::Poison(error))
            })?;
            (letter.headers(message::headers_of(record)), letter.payload)
        }
    };
    let outgoing = Outgoing {
        partition: record.partition,
        key: &record.key,
        payload: &payload,
        timestamp_ms: record.received_ms,
        headers,
    };
    producer.send(&topic.name, id, outgoing)
}

/// Settles a record that was kept as a dead letter.
pub(crate) fn settle_letter(ports: &Ports, ticket: Option<(PortId, Ticket)>) {
    if let Some((port, ticket)) = ticket {
        ports.settle(port, Outcome::Durable, vec![ticket]);
    }
}
