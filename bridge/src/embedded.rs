//! The embedded log behind the log trait.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use storage::log::{Consumer, EmbeddedLog, Incarnation, Reason, Record, Start, StoredRecord};

use crate::log::{AppendError, Appended, Consume, Log, Position, ReadError};

/// Is this node's own log, used when no Kafka is configured.
#[derive(Debug)]
pub(crate) struct Embedded {
    log: EmbeddedLog,
}

impl Embedded {
    pub(crate) fn new(log: EmbeddedLog) -> Self {
        Self { log }
    }
}

impl Log for Embedded {
    fn partitions(&self) -> u16 {
        self.log.partitions()
    }

    fn incarnation(&self) -> u64 {
        self.log.incarnation().get()
    }

    fn append(
        &self,
        records: Vec<Record>,
        appended: Appended,
    ) -> Result<(), (AppendError, Vec<Record>)> {
        let done = move |result: Result<(), storage::log::AppendError>| {
            if let Err(error) = &result {
                tracing::warn!(%error, "records were not made durable");
            }
            appended(result.is_ok());
        };
        self.log.append(records, done).map_err(|refused| {
            let error = match refused.reason {
                Reason::Full => AppendError::Full,
                Reason::OverLimit => AppendError::OverLimit,
                Reason::Closed => AppendError::Closed,
            };
            (error, refused.records)
        })
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
