//! The embedded log behind the log trait.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use storage::log::{Consumer, EmbeddedLog, Incarnation, Reason, Start, StoredRecord};

use crate::log::{
    Append, AppendError, Consume, Log, Outcome, Ports, Position, ReadError, Submission,
    memory_bytes,
};
use crate::room::Room;

/// Is this node's own log, used when no Kafka is configured.
#[derive(Debug)]
pub(crate) struct Embedded {
    log: EmbeddedLog,
    ports: Ports,
    room: Arc<Room>,
}

impl Embedded {
    pub(crate) fn new(log: EmbeddedLog, ports: Ports, inflight_bytes_limit: u64) -> Self {
        Self {
            log,
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

/// Name of the embedded log in the store's offsets.
pub(crate) const SOURCE: &str = "log";

impl Log for Embedded {
    fn source(&self) -> &str {
        SOURCE
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
        let mut consumer = self.log.consumer();
        consumer
            .assign(starts.collect())
            .map_err(|error| ReadError(error.to_string()))?;
        Ok(Box::new(EmbeddedConsumer(Mutex::new(consumer))))
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

/// The mutex is never contended; it makes the consumer movable whatever it holds.
struct EmbeddedConsumer(Mutex<Consumer>);

impl Consume for EmbeddedConsumer {
    fn poll(
        &mut self,
        bytes_max: usize,
        timeout: Duration,
    ) -> Result<Vec<StoredRecord>, ReadError> {
        let consumer = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        consumer
            .poll(bytes_max, timeout)
            .map_err(|error| ReadError(error.to_string()))
    }
}
