//! The consumer side: one topic's partitions, read from the store's own offsets on.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use runtime::{Clock as _, SystemClock};
use storage::log::StoredRecord;

use super::brokers::{Brokers, COUNT_INTERVAL_MS};
use super::group::name_of;
use super::message::record_of;
use super::producer::client_log;
use super::settings::Settings;
use super::watch::{Watch, incarnation_of};
use crate::log::{Consume, Position, ReadError};

/// Bytes of the client's queue, one for all partitions, at which it fetches no more.
const PREFETCH_KBYTES: u32 = 4 << 10;
/// Most bytes of one answer, which may come on top of a queue that was almost full, from each of
/// Kafka's brokers: 6 MiB in all with one.
const FETCH_BYTES_MAX: u32 = 2 << 20;
/// Errors of the client that one poll passes over.
const ERRORS_MAX: u32 = 1_000;
/// Longest wait for one answer of Kafka at the first contact.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// How old a client is at least, in milliseconds, that does not reach Kafka, before another one tries.
const CLIENT_AGE_MIN_MS: u64 = 10_000;

/// Reads partitions by assignment, never as a member of a group: who reads what is decided by the
/// bucket table, and the truth about offsets is the store's.
pub(crate) struct KafkaConsumer {
    client: BaseConsumer<Context>,
    config: ClientConfig,
    clock: SystemClock,
    /// When the client was made, in milliseconds of the clock.
    since_ms: u64,
    topic: String,
    accept_gap: bool,
    /// By partition, where to go on.
    next: Vec<Option<Position>>,
    /// By partition, one past the last record that was given out or that the store had before; 0
    /// without any.
    reached: Vec<u64>,
    watch: Arc<Watch>,
    /// Whether the positions were compared with what Kafka has, and the partitions assigned.
    is_assigned: bool,
    /// The partitions that are read; none: all.
    wanted: Option<BTreeSet<u16>>,
    /// Whether other partitions are wanted than are assigned.
    is_changed: bool,
    /// Partitions that are not read, of which it is to be known whether there is any record.
    watched: BTreeSet<u16>,
}

struct Context {
    topic: String,
    watch: Arc<Watch>,
    /// By partition, up to where records were fetched when the client last counted. Everything
    /// below is in the client's queue or given out.
    fetched: Mutex<Vec<(u16, u64)>>,
    /// Whether an event that is no record was served: "no record" says then nothing of the queue.
    is_served: AtomicBool,
    /// Whether another second has passed.
    is_second: AtomicBool,
    brokers: Brokers,
}

impl Context {
    fn take_fetched(&self) -> Vec<(u16, u64)> {
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut fetched)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client_log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka");
    }

    fn stats(&self, statistics: Statistics) {
        self.is_served.store(true, Ordering::Release);
        self.is_second.store(true, Ordering::Release);
        self.brokers.note(&statistics);
        let Some(topic) = statistics.topics.get(&self.topic) else {
            return;
        };
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.clear();
        for (partition, one) in &topic.partitions {
            let Ok(partition) = u16::try_from(*partition) else {
                continue;
            };
            if let Ok(end) = u64::try_from(one.hi_offset) {
                self.watch.note_end(partition, end);
            }
            if let Ok(next) = u64::try_from(one.next_offset) {
                fetched.push((partition, next));
            }
        }
        let brokers = statistics.brokers.values();
        let is_up = |id| {
            brokers
                .clone()
                .any(|one| one.nodeid == id && one.state == "UP")
        };
        let mut partitions = topic.partitions.values().filter(|one| one.partition >= 0);
        if partitions.all(|one| is_up(one.leader)) {
            self.watch.note_error(None);
        }
    }
}

impl ConsumerContext for Context {}

fn client_of(
    config: &ClientConfig,
    topic: &str,
    watch: &Arc<Watch>,
) -> Result<BaseConsumer<Context>, ReadError> {
    let context = Context {
        topic: topic.to_owned(),
        watch: Arc::clone(watch),
        fetched: Mutex::new(Vec::new()),
        is_served: AtomicBool::new(false),
        is_second: AtomicBool::new(false),
        brokers: Brokers::default(),
    };
    let client = config.create_with_context(context);
    client.map_err(|error| ReadError(error.to_string()))
}

/// Is what the client had next.
enum Taken {
    Record(StoredRecord),
    /// Something that is noted.
    Error,
    Nothing,
}

/// Is where a partition is read from, and where it ended at that moment.
struct Start {
    position: Position,
    high: u64,
}

impl KafkaConsumer {
    /// Makes a consumer of as many partitions as `from` has; one without a position is read from
    /// its first record. Kafka need not be there: the positions are compared with what it has at
    /// the first contact, in [`Consume::poll`].
    ///
    /// # Errors
    /// When the settings make no client.
    pub(crate) fn new(
        settings: &Settings,
        topic: &str,
        node: u32,
        from: &[Option<Position>],
        watch: Arc<Watch>,
    ) -> Result<Self, ReadError> {
        let mut config = settings.client();
        config
            .set("group.id", name_of(node))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("allow.auto.create.topics", "false")
            .set("isolation.level", "read_committed")
            .set("check.crcs", "true")
            .set("queued.max.messages.kbytes", PREFETCH_KBYTES.to_string())
            .set("queued.min.messages", "10000")
            .set("fetch.max.bytes", FETCH_BYTES_MAX.to_string())
            // What a producer may send is nothing to a reader, but the client refuses a bigger one.
            .set("message.max.bytes", "1000000")
            .set("fetch.wait.max.ms", "100")
            // A full queue is emptied within milliseconds; the default pauses for a second.
            .set("fetch.queue.backoff.ms", "10")
            .set("statistics.interval.ms", COUNT_INTERVAL_MS);
        let clock = SystemClock::default();
        Ok(Self {
            client: client_of(&config, topic, &watch)?,
            config,
            clock,
            since_ms: clock.mono_ms(),
            topic: topic.to_owned(),
            accept_gap: settings.accept_gap,
            next: from.to_vec(),
            reached: from
                .iter()
                .map(|position| position.map_or(0, |position| position.offset))
                .collect(),
            watch,
            is_assigned: false,
            wanted: None,
            is_changed: false,
            watched: BTreeSet::new(),
        })
    }

    /// Compares the positions with what Kafka has and assigns the partitions; false when Kafka
    /// was not reached.
    fn assign(&mut self) -> Result<bool, ReadError> {
        match self.compare()? {
            Ok(starts) => {
                let mut assignment = TopicPartitionList::with_capacity(starts.len());
                for (partition, start) in self.wanted_of(&starts) {
                    let offset = i64::try_from(start.position.offset).unwrap_or(i64::MAX);
                    assignment
                        .add_partition_offset(&self.topic, partition.into(), Offset::Offset(offset))
                        .map_err(|error| ReadError(error.to_string()))?;
                }
                let assigned = self.client.assign(&assignment);
                assigned.map_err(|error| ReadError(error.to_string()))?;
                self.client.context().take_fetched();
                for (partition, start) in self.wanted_of(&starts) {
                    if start.position.offset >= start.high {
                        let reached = self.reached[usize::from(partition)];
                        self.watch.note_passed(partition, start.high, reached);
                    }
                }
                // From now on what retention deletes unread is a gap, also where nothing was read.
                let positions = self.wanted_of(&starts);
                let positions: Vec<_> = positions
                    .map(|(partition, start)| (partition, start.position))
                    .collect();
                for (partition, position) in positions {
                    self.next[usize::from(partition)] = Some(position);
                }
                self.is_assigned = true;
                self.is_changed = false;
                self.watch.note_compared();
                self.watch.note_error(None);
                Ok(true)
            }
            Err(away) => {
                tracing::debug!(topic = self.topic, away, "Kafka cannot be read");
                self.watch.note_error(Some(away));
                if self.clock.mono_ms().saturating_sub(self.since_ms) >= CLIENT_AGE_MIN_MS {
                    self.begin_client_anew()?;
                }
                Ok(false)
            }
        }
    }

    /// One client may be unable to reach a Kafka that others do: librdkafka asks for no metadata of a topic for
    /// `socket.timeout.ms` (60 s) when a request for them went down with a broker.
    fn begin_client_anew(&mut self) -> Result<(), ReadError> {
        self.client = client_of(&self.config, &self.topic, &self.watch)?;
        self.since_ms = self.clock.mono_ms();
        Ok(())
    }

    fn is_wanted(&self, partition: u16) -> bool {
        let wanted = self.wanted.as_ref();
        wanted.is_none_or(|wanted| wanted.contains(&partition))
    }

    fn wanted_of<'a>(&'a self, starts: &'a [Start]) -> impl Iterator<Item = (u16, &'a Start)> {
        let starts = (0_u16..).zip(starts);
        starts.filter(|(partition, _)| self.is_wanted(*partition))
    }

    /// The outer error is a position that is none of this topic; the inner says that Kafka was
    /// not reached.
    fn compare(&self) -> Result<Result<Vec<Start>, String>, ReadError> {
        let Some(cluster_id) = self.client.client().fetch_cluster_id(ANSWER_WAIT) else {
            return Ok(Err("Kafka is not reached".to_owned()));
        };
        let incarnation = incarnation_of(&cluster_id, &self.topic);
        let mut starts = Vec::with_capacity(self.next.len());
        for (partition, position) in (0_u16..).zip(&self.next) {
            let place = i32::from(partition);
            if !self.is_wanted(partition) && !self.watched.contains(&partition) {
                let position = Position {
                    incarnation,
                    offset: 0,
                };
                starts.push(Start { position, high: 0 });
                continue;
            }
            let marks = self
                .client
                .fetch_watermarks(&self.topic, place, ANSWER_WAIT);
            let (low, high) = match marks {
                Ok((low, high)) => (low.max(0) as u64, high.max(0) as u64),
                Err(error) => {
                    return Ok(Err(format!(
                        "{} partition {partition}: {error}",
                        self.topic
                    )));
                }
            };
            self.watch.note_end(partition, high);
            // What another node's store reads is its matter.
            let position = position.filter(|_| self.is_wanted(partition));
            let offset = self.offset_of(partition, position, incarnation, (low, high))?;
            let position = Position {
                incarnation,
                offset,
            };
            starts.push(Start { position, high });
        }
        self.watch.note_incarnation(incarnation);
        Ok(Ok(starts))
    }

    fn offset_of(
        &self,
        partition: u16,
        position: Option<Position>,
        incarnation: u64,
        (low, high): (u64, u64),
    ) -> Result<u64, ReadError> {
        let topic = &self.topic;
        let Some(position) = position else {
            return Ok(low);
        };
        let offset = position.offset;
        if position.incarnation >> 32 != incarnation >> 32 {
            return Err(ReadError(format!(
                "the store's offset {offset} of partition {partition} is of another log than topic {topic} of this Kafka"
            )));
        }
        if (low..=high).contains(&offset) {
            return Ok(offset);
        }
        if offset < low && self.accept_gap {
            tracing::warn!(
                topic,
                partition,
                offset,
                low,
                "records that the store never read are gone; going on behind them (kafka.accept_gap)"
            );
            return Ok(low);
        }
        Err(ReadError(if offset < low {
            format!(
                "topic {topic} partition {partition} begins at offset {low}, the store has read up to {offset}: \
                 Kafka's retention deleted records that the store never read; kafka.accept_gap = true goes on without them"
            )
        } else {
            format!(
                "topic {topic} partition {partition} ends at offset {high}, the store has read up to {offset}: \
                 the topic was made anew or has lost records"
            )
        }))
    }

    /// Takes what the client has, and waits at most once for something. What it reports meanwhile
    /// is noted and passed over: after an outage hundreds of errors stand before the first record.
    fn gather(&mut self, bytes_max: usize, wait: Option<Duration>) -> Vec<StoredRecord> {
        let (mut records, mut bytes, mut errors) = (Vec::new(), 0, 0);
        let (mut timeout, mut may_wait) = (Duration::ZERO, wait);
        while bytes < bytes_max && errors < ERRORS_MAX {
            let taken = self.take(timeout);
            timeout = Duration::ZERO;
            match taken {
                Taken::Record(record) => {
                    bytes += record.record.stored_bytes();
                    records.push(record);
                }
                Taken::Error => errors += 1,
                Taken::Nothing if records.is_empty() && self.is_assigned => match may_wait.take() {
                    Some(wait) => timeout = wait,
                    None => break,
                },
                Taken::Nothing => break,
            }
        }
        records
    }

    fn take(&mut self, timeout: Duration) -> Taken {
        let context = self.client.context();
        context.is_served.store(false, Ordering::Release);
        match self.client.poll(timeout) {
            None => {
                if !context.is_served.load(Ordering::Acquire) {
                    self.note_passed();
                }
                Taken::Nothing
            }
            Some(Ok(message)) => {
                let (offset, record) = record_of(&message);
                let position = Position {
                    incarnation: self.watch.incarnation(),
                    offset: offset + 1,
                };
                self.watch.note_end(record.partition, position.offset);
                let place = usize::from(record.partition);
                if let Some(reached) = self.reached.get_mut(place) {
                    *reached = position.offset;
                }
                if let Some(next) = self.next.get_mut(place) {
                    *next = Some(position);
                }
                Taken::Record(StoredRecord { offset, record })
            }
            Some(Err(error)) => {
                self.note(&error);
                Taken::Error
            }
        }
    }

    /// The client's queue is empty: what it had fetched at its last count was given out, and what
    /// is below that and was no record never comes.
    fn note_passed(&self) {
        for (partition, fetched) in self.client.context().take_fetched() {
            if let Some(reached) = self.reached.get(usize::from(partition)) {
                self.watch.note_passed(partition, fetched, *reached);
            }
        }
    }

    /// A broker that is away or a leader that moves is the client's to wait for. An offset that
    /// is not there any more is looked at again.
    fn note(&mut self, error: &KafkaError) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) {
            self.is_assigned = false;
        }
        if self.watch.note_error(Some(error.to_string())) {
            tracing::debug!(topic = self.topic, %error, "reading from Kafka");
        }
    }

    /// Looks once a second which of the watched partitions have a record.
    fn look(&self) {
        let is_due = self
            .client
            .context()
            .is_second
            .swap(false, Ordering::AcqRel);
        if self.watched.is_empty() || !is_due {
            return;
        }
        let mut asked = TopicPartitionList::with_capacity(self.watched.len());
        for partition in &self.watched {
            // The first record of any time; none is the end.
            let place = i32::from(*partition);
            let added = asked.add_partition_offset(&self.topic, place, Offset::Offset(0));
            if let Err(error) = added {
                tracing::debug!(%error, "a partition to be watched");
            }
        }
        match self.client.offsets_for_times(asked, ANSWER_WAIT) {
            Ok(found) => {
                let elements = found.elements();
                for one in elements.iter().filter(|one| one.error().is_ok()) {
                    let partition = u16::try_from(one.partition()).ok();
                    let offset = one.offset().to_raw();
                    let offset = offset.and_then(|offset| u64::try_from(offset).ok());
                    if let (Some(partition), Some(offset)) = (partition, offset) {
                        self.watch.note_end(partition, offset + 1);
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "partitions cannot be watched"),
        }
    }
}

impl Consume for KafkaConsumer {
    fn poll(
        &mut self,
        bytes_max: usize,
        timeout: Duration,
    ) -> Result<Vec<StoredRecord>, ReadError> {
        if self.is_assigned && self.client.context().brokers.are_forgotten() {
            tracing::warn!(
                topic = self.topic,
                "the client that reads from Kafka has forgotten all brokers; making another one"
            );
            self.begin_client_anew()?;
            self.is_assigned = false;
        }
        if !self.is_assigned {
            // Unread, what the client reports of an outage would pile up. An assignment drops what
            // the client has of the one before.
            let records = match self.is_changed {
                true => Vec::new(),
                false => self.gather(bytes_max, None),
            };
            if !records.is_empty() {
                return Ok(records);
            }
            if !self.assign()? {
                std::thread::park_timeout(timeout);
                return Ok(Vec::new());
            }
        }
        self.look();
        let records = self.gather(bytes_max, Some(timeout));
        if !records.is_empty() {
            self.watch.note_error(None);
        }
        Ok(records)
    }

    fn assign(&mut self, taken: &BTreeSet<u16>, watched: &BTreeSet<u16>) -> Result<(), ReadError> {
        self.watched.clone_from(watched);
        if self.wanted.as_ref() != Some(taken) {
            self.wanted = Some(taken.clone());
            self.is_changed = true;
            self.is_assigned = false;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "consumer_test.rs"]
mod tests;
