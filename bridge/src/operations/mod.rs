//! What an operator asks of the bridge, and tells it.

pub(crate) mod letters;
mod replay;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use admin::bridge::{
    Contact, DeadLetters, Kafka, Lag, LetterQuestion, LogSizes, PartitionLag, Reading, Status,
    Store, Topic,
};

use crate::counters::DeadLetterReason;
use crate::kafka::delivery::{self, Policy, TopicState};
use crate::kafka::sender::SenderState;
use crate::line::Telemetry;
use letters::{Cursor, Found, Letter, Newest, Place, Span, read_own};
pub(crate) use replay::Replays;

/// Longest time for reading this node's own letters, in milliseconds.
const OWN_TIME_MAX_MS: u64 = 2_000;

/// Says why what an operator asked for was not done; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    /// There is no Kafka to hold.
    #[error("no Kafka: telemetry goes to the embedded log, which cannot be paused")]
    NoKafka,
    /// The id names no letter.
    #[error(
        "{0:?} is no id of a dead letter; ids are kafka:PARTITION:OFFSET or node:PARTITION:OFFSET"
    )]
    Id(String),
    /// The reason is none.
    #[error("{0:?} is no reason of a dead letter; reasons are {known}", known = reasons())]
    Reason(String),
    /// The place to go on from is none.
    #[error("after: {0:?} is not what an earlier answer said")]
    After(String),
    /// Too many letters, or none.
    #[error("limit: {limit} letters; 1 to {max} can be asked for", max = admin::bridge::LETTERS_MAX)]
    Limit {
        /// What was asked for.
        limit: usize,
    },
    /// The letter is not there.
    #[error("there is no dead letter {0}; it may be older than what is kept")]
    NoSuchLetter(String),
    /// The letter is in Kafka, which is away.
    #[error("the dead letter is in Kafka: {0}")]
    Away(String),
    /// The letter's message cannot be sent.
    #[error("the letter cannot be sent again: {0}")]
    Unsendable(String),
    /// Another replay is under way.
    #[error("another replay is under way; try again when it has ended")]
    Busy,
    /// This node's dead letters cannot be read.
    #[error("{0}")]
    Letters(String),
    /// The line is shut down.
    #[error("the telemetry line is shut down")]
    Stopped,
}

fn reasons() -> String {
    DeadLetterReason::ALL
        .map(DeadLetterReason::label)
        .join(", ")
}

impl Telemetry {
    /// Is how the bridge stands; Kafka's side as published up to 200 ms ago.
    #[must_use]
    pub fn bridge_status(&self) -> Status {
        let kafka = self.running.kafka.as_ref();
        let kafka = kafka.map(|handle| shown(handle.state()));
        let log = kafka.is_none().then(|| self.log_sizes());
        Status::new(kafka, log, self.store())
    }

    fn log_sizes(&self) -> LogSizes {
        let log = &self.running.context.log;
        LogSizes {
            partitions: log.partitions(),
            records: log.ends().iter().sum(),
            unread_records: self.lags().iter().map(|one| one.lag).sum(),
            disk_bytes: log.disk_bytes(),
            inflight_bytes: self.ingest.counts().inflight_bytes,
        }
    }

    fn store(&self) -> Store {
        let context = &self.running.context;
        let source = context.log.source();
        let stopped = context
            .source_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let reading = match (stopped, context.log.unreadable()) {
            (Some(reason), _) => Reading::Stopped { reason },
            (None, Some(reason)) => Reading::Waiting { reason },
            (None, None) => Reading::Reading,
        };
        Store {
            source: (source != crate::kafka::NO_SOURCE).then(|| source.to_owned()),
            reading,
        }
    }

    /// Holds the way to Kafka, or lets it go on: while held, streams do as when Kafka is away.
    ///
    /// # Errors
    /// Without Kafka, and when the line is shut down.
    pub async fn pause(&self, paused: bool) -> Result<(), OperationError> {
        let handle = self.running.kafka.clone().ok_or(OperationError::NoKafka)?;
        let told = tokio::task::spawn_blocking(move || handle.pause(paused)).await;
        if told.is_ok_and(|is_heard| is_heard) {
            tracing::info!(paused, "an operator has paused or resumed the bridge");
            return Ok(());
        }
        Err(OperationError::Stopped)
    }

    /// Is what the store has not processed, and what Kafka has not confirmed.
    #[must_use]
    pub fn lag(&self) -> Lag {
        let partitions = self.lags();
        let state = self.running.kafka.as_ref().map(|handle| handle.state());
        let topics = state.map_or_else(Vec::new, |state| state.topics);
        let spooled: BTreeMap<String, u64> = topics
            .into_iter()
            .filter(|(_, state, _)| state.spool_records > 0)
            .map(|(topic, state, _)| (topic, state.spool_records))
            .collect();
        Lag {
            store: self.store(),
            total: partitions.iter().map(|one| one.lag).sum(),
            partitions,
            spooled,
        }
    }

    /// Is what only this node is known to have: records of its log that the owners of their buckets
    /// have not sealed, or, with Kafka, those that Kafka has not confirmed.
    #[must_use]
    pub fn unstored_records(&self) -> u64 {
        if let Some(reader) = &self.running.reader {
            return reader.unreleased();
        }
        let state = self.running.kafka.as_ref().map(|handle| handle.state());
        let topics = state.map_or_else(Vec::new, |state| state.topics);
        let left = topics.iter().map(|(_, state, _)| {
            state.spool_records + state.inflight_records + state.waiting_records
        });
        left.sum()
    }

    /// How far this node's log was read: by its writer, or by the node that owns the bucket.
    fn position(&self, partition: u16) -> u64 {
        let context = &self.running.context;
        let row = context
            .table
            .borrow()
            .as_ref()
            .and_then(|table| table.row(partition));
        let owner = row.map_or(context.node, |row| row.owner);
        let reader = self.running.reader.as_ref();
        match reader.filter(|_| owner != context.node) {
            None => context.progress.position(context.log.id(), partition),
            Some(reader) => {
                let asked = reader.progress().remove(&owner);
                let next = asked.and_then(|asked| asked.get(&partition).copied());
                next.unwrap_or(0)
            }
        }
    }

    /// Is what of this node's log was not read yet. A topic is everybody's log: of that each node has the
    /// partitions that it owns to account for.
    pub(crate) fn lags(&self) -> Vec<PartitionLag> {
        let context = &self.running.context;
        let table = context.table.borrow().clone();
        let is_anothers = |partition| {
            let row = table.as_ref().and_then(|table| table.row(partition));
            row.is_some_and(|row| row.owner != context.node)
        };
        let is_accounted = |partition| self.running.reader.is_some() || !is_anothers(partition);
        let of = |(partition, end): (u16, u64)| {
            let position = self.position(partition);
            PartitionLag {
                partition,
                end,
                position,
                lag: end.saturating_sub(position),
            }
        };
        let ends = (0..).zip(context.log.ends());
        ends.filter(|(partition, _)| is_accounted(*partition))
            .map(of)
            .collect()
    }

    /// Reads dead letters, newest first: those of the store, which with Kafka lie in its topic
    /// `….dlq`, and those of this node's own log. With Kafka away the latter are still given, and
    /// `partial` says so. Takes some seconds at most; questions wait for each other.
    ///
    /// # Errors
    /// [`OperationError`] naming the value.
    pub async fn dead_letters(
        &self,
        question: &LetterQuestion,
    ) -> Result<DeadLetters, OperationError> {
        let limit = question.limit.unwrap_or(admin::bridge::LETTERS_DEFAULT);
        let newest = asked(limit, question.reason.as_deref(), question.after.as_deref())?;
        let turn = Arc::clone(&self.replays.reading).lock_owned().await;
        let found = self.collect(newest, turn).await?;
        Ok(DeadLetters {
            letters: found.letters.iter().map(Letter::shown).collect(),
            remaining: found.remaining,
            next: found.next.map(|next| next.to_string()),
            partial: found.partial,
        })
    }

    /// Reads both places; `turn` is given back when that is done, even if nobody waits any more.
    async fn collect(
        &self,
        mut newest: Newest,
        turn: tokio::sync::OwnedMutexGuard<()>,
    ) -> Result<Found, OperationError> {
        let context = Arc::clone(&self.running.context);
        let letters = self.running.letters.clone();
        let read = move || {
            let clock = &*context.clock;
            let topic = context.log.letter_topic();
            let source = topic.as_ref().map(|topic| topic.source.as_str());
            let until_ms = clock.mono_ms() + OWN_TIME_MAX_MS;
            let has_time = || clock.mono_ms() < until_ms;
            let own = read_own(&letters, source, Span::Newest, &has_time, |letter| {
                newest.offer(letter);
            });
            let own = own.map_err(|error| OperationError::Letters(error.to_string()))?;
            let elsewhere =
                topic.map(|topic| topic.read(Span::Newest, clock, |one| newest.offer(one)));
            let elsewhere = elsewhere.and_then(|read| {
                read.unwrap_or_else(|away| {
                    Some(format!("the letters in Kafka are not here: {away}"))
                })
            });
            let partial: Vec<String> = own.into_iter().chain(elsewhere).collect();
            let partial = (!partial.is_empty()).then(|| partial.join("; "));
            drop(turn);
            Ok(newest.found(partial))
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|_| OperationError::Stopped)?
    }

    /// Reads one letter.
    async fn letter(
        &self,
        text: &str,
        turn: tokio::sync::OwnedMutexGuard<()>,
    ) -> Result<Letter, OperationError> {
        let id: letters::LetterId = text
            .parse()
            .map_err(|()| OperationError::Id(text.to_owned()))?;
        let context = Arc::clone(&self.running.context);
        let letters = self.running.letters.clone();
        let none = OperationError::NoSuchLetter(text.to_owned());
        let read = move || {
            let topic = context.log.letter_topic();
            let (partition, offset) = (id.partition, id.offset);
            let span = Span::One { partition, offset };
            let mut found = None;
            let each = |letter: &Letter| found = Some(letter.clone());
            match (id.place, topic) {
                (Place::Node, topic) => {
                    let source = topic.as_ref().map(|topic| topic.source.as_str());
                    read_own(&letters, source, span, &|| true, each)
                        .map_err(|error| OperationError::Letters(error.to_string()))?;
                }
                (Place::Kafka, Some(topic)) => {
                    let unread = topic.read(span, &*context.clock, each);
                    if let Some(reason) = unread.map_err(OperationError::Away)? {
                        return Err(OperationError::Away(reason));
                    }
                }
                (Place::Kafka, None) => {}
            }
            drop(turn);
            found.ok_or(none)
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|_| OperationError::Stopped)?
    }
}

/// Checks what was asked for.
fn asked(
    limit: usize,
    reason: Option<&str>,
    after: Option<&str>,
) -> Result<Newest, OperationError> {
    if !(1..=admin::bridge::LETTERS_MAX).contains(&limit) {
        return Err(OperationError::Limit { limit });
    }
    let is_known = |text: &&str| DeadLetterReason::ALL.iter().any(|one| one.label() == *text);
    if let Some(unknown) = reason.filter(|reason| !is_known(reason)) {
        return Err(OperationError::Reason(unknown.to_owned()));
    }
    let before: Option<Cursor> = match after {
        None => None,
        Some(text) => Some(
            text.parse()
                .map_err(|()| OperationError::After(text.to_owned()))?,
        ),
    };
    Ok(Newest::new(limit, reason.map(str::to_owned), before))
}

fn shown(state: SenderState) -> Kafka {
    Kafka {
        paused: state.is_paused,
        producers_rebuilt: state.rebuilt,
        topics: state.topics.into_iter().map(topic).collect(),
    }
}

fn topic((topic, state, spool_bytes): (String, TopicState, u64)) -> Topic {
    let counts = state.counts;
    let shed = [("age", counts.shed_age), ("quota", counts.shed_quota)];
    Topic {
        topic,
        mode: mode_of(state.policy).to_owned(),
        contact: match state.contact {
            delivery::Contact::Unknown => Contact::Unknown,
            delivery::Contact::Good => Contact::Good,
            delivery::Contact::Refused(reason) => Contact::Refused { reason },
        },
        lanes_away: state.lanes_away,
        went_away: counts.went_away,
        accepted: counts.accepted,
        inflight_records: state.inflight_records,
        inflight_bytes: state.inflight_bytes,
        waiting_records: state.waiting_records,
        delivered: counts.delivered,
        spooled: counts.spooled,
        drained: counts.drained,
        shed: shed
            .map(|(reason, count)| (reason.to_owned(), count))
            .into(),
        poisoned: counts.poisoned,
        failed: counts.failed,
        spool_records: state.spool_records,
        spool_bytes,
        spool_full: state.is_spool_full,
    }
}

fn mode_of(policy: Policy) -> &'static str {
    if policy.settles_at_once {
        "memory"
    } else if policy.spools_always {
        "disk"
    } else if policy.spools {
        "log"
    } else {
        "kafka"
    }
}
