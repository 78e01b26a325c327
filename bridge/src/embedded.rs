//! The embedded log behind the log trait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use storage::log::{Consumer, EmbeddedLog, Incarnation, Reason, Start, StoredRecord};

use crate::log::{
    Append, AppendError, Consume, Log, LogId, Outcome, Ports, Position, ReadError, Submission,
    memory_bytes,
};
use crate::room::Room;

/// Is this node's own log, used when no Kafka is configured.
#[derive(Debug)]
pub(crate) struct Embedded {
    log: EmbeddedLog,
    node: u32,
    ports: Ports,
    room: Arc<Room>,
}

impl Embedded {
    pub(crate) fn new(
        log: EmbeddedLog,
        node: u32,
        ports: Ports,
        inflight_bytes_limit: u64,
    ) -> Self {
        Self {
            log,
            node,
            ports,
            room: Arc::new(Room::new(inflight_bytes_limit)),
        }
    }
}

impl Append for Embedded {
    fn append(&self, submission: Submission) -> Result<(), (AppendError, Submission)> {
        let Submission {
            records,
            tickets,
            port,
        } = submission;
        let bytes: u64 = records.iter().map(memory_bytes).sum();
        // Taken out again when the log refuses, so they cannot live in the closure alone.
        let tickets = Arc::new(Mutex::new(tickets));
        let done = {
            let (ports, room) = (self.ports.clone(), Arc::clone(&self.room));
            let taken = Arc::clone(&tickets);
            move |result: Result<(), storage::log::AppendError>| {
                let outcome = match result {
                    Ok(()) => Outcome::Durable,
                    Err(error) => {
                        tracing::warn!(%error, "records were not made durable");
                        Outcome::NotDurable
                    }
                };
                room.release(bytes);
                let tickets = take(&taken).into_iter().flatten().collect();
                ports.settle(port, outcome, tickets);
                room.wake();
            }
        };
        self.log.append(records, done).map_err(|refused| {
            let error = match refused.reason {
                Reason::Full => AppendError::Full,
                Reason::OverLimit => {
                    self.room.close();
                    AppendError::OverLimit
                }
                Reason::Closed => AppendError::Closed,
            };
            let submission = Submission {
                records: refused.records,
                tickets: take(&tickets),
                port,
            };
            (error, submission)
        })
    }

    fn room(&self) -> &Room {
        &self.room
    }
}

fn take<T: Default>(slot: &Mutex<T>) -> T {
    std::mem::take(&mut slot.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Name of this node's embedded log in the store's offsets.
pub(crate) const SOURCE: &str = "log";
/// What stands before the number of another node in the name of its log there.
const SOURCE_OF_NODE: &str = "log@";

impl Log for Embedded {
    fn source(&self) -> &str {
        SOURCE
    }

    fn id(&self) -> LogId {
        LogId(self.node)
    }

    fn is_one_of_many(&self) -> bool {
        true
    }

    fn name_of(&self, log: LogId) -> String {
        if log == self.id() {
            return SOURCE.to_owned();
        }
        format!("{SOURCE_OF_NODE}{}", log.0)
    }

    fn log_of(&self, name: &str) -> Option<LogId> {
        if name == SOURCE {
            return Some(self.id());
        }
        let number = name.strip_prefix(SOURCE_OF_NODE)?.parse().ok();
        number.map(LogId).filter(|log| *log != self.id())
    }

    fn name_of_peer(&self, peer: u32, name: &str) -> Option<String> {
        let log = match name.strip_prefix(SOURCE_OF_NODE) {
            Some(number) => number.parse().ok()?,
            None => (name == SOURCE).then_some(peer)?,
        };
        Some(self.name_of(LogId(log)))
    }

    fn unread(&self) -> Vec<bool> {
        let ends = (0..).zip(self.log.ends());
        ends.map(|(partition, end)| end > self.log.start(partition))
            .collect()
    }

    fn is_behind(&self, _: u16) -> bool {
        false
    }

    fn partitions(&self) -> u16 {
        self.log.partitions()
    }

    fn incarnation(&self) -> u64 {
        self.log.incarnation().get()
    }

    fn consume(&self, from: &[Option<Position>]) -> Result<Box<dyn Consume>, ReadError> {
        let starts = (0..self.log.partitions()).map(|partition| {
            match from.get(usize::from(partition)).copied().flatten() {
                Some(Position {
                    incarnation,
                    offset,
                }) => Start {
                    partition,
                    offset,
                    incarnation: Some(Incarnation::new(incarnation)),
                },
                None => Start {
                    partition,
                    offset: self.log.start(partition),
                    incarnation: None,
                },
            }
        });
        let starts: Vec<Start> = starts.collect();
        let mut consumer = self.log.consumer();
        consumer
            .assign(starts.clone())
            .map_err(|error| ReadError(error.to_string()))?;
        let starts = starts.into_iter();
        Ok(Box::new(EmbeddedConsumer {
            consumer: Mutex::new(consumer),
            starts: starts.map(|start| (start.partition, start)).collect(),
        }))
    }

    fn ends(&self) -> Vec<u64> {
        self.log.ends()
    }

    fn release(&self, offsets: &[(u16, u64)], now_ms: i64) {
        self.log.release(offsets, now_ms);
        self.room.reopen();
    }

    fn disk_bytes(&self) -> u64 {
        self.log.metrics().disk_bytes
    }

    fn close(&self) {
        self.log.close();
    }
}

struct EmbeddedConsumer {
    /// The mutex is never contended; it makes the consumer movable whatever it holds.
    consumer: Mutex<Consumer>,
    /// Where each partition is to be read from that is not being read.
    starts: BTreeMap<u16, Start>,
}

impl Consume for EmbeddedConsumer {
    fn poll(
        &mut self,
        bytes_max: usize,
        timeout: Duration,
    ) -> Result<Vec<StoredRecord>, ReadError> {
        let consumer = self.consumer.get_mut();
        let consumer = consumer.unwrap_or_else(PoisonError::into_inner);
        consumer
            .poll(bytes_max, timeout)
            .map_err(|error| ReadError(error.to_string()))
    }

    fn assign(&mut self, taken: &BTreeSet<u16>, _: &BTreeSet<u16>) -> Result<(), ReadError> {
        let consumer = self.consumer.get_mut();
        let consumer = consumer.unwrap_or_else(PoisonError::into_inner);
        for (partition, offset) in consumer.positions() {
            if let Some(start) = self.starts.get_mut(&partition) {
                // It came there by reading, so that the incarnation is the log's.
                start.offset = offset;
                start.incarnation = None;
            }
        }
        let wanted = taken.iter();
        let wanted = wanted.filter_map(|partition| self.starts.get(partition).copied());
        consumer
            .assign(wanted.collect())
            .map_err(|error| ReadError(error.to_string()))
    }
}
