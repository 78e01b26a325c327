//! The spool of one topic: what Kafka could not take yet, on this node's disk.
//!
//! It is the same component as the embedded log (segments of checksummed records), one partition
//! for each of the topic's and one more for marks: how far each partition was delivered. There is
//! no other ledger. A mark comes at most a second after what it says, so a crash sends that again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use storage::fs::Fs;
use storage::log::{self, Consumer, ContentType, EmbeddedLog, Record, Start, StoredRecord};

/// Bytes read from the spool at once.
const READ_BYTES: usize = 512 << 10;
/// Reads without a record before a wanted one counts as unreachable.
const EMPTY_READS_MAX: u32 = 10_000;

/// Is the spool of one topic.
#[derive(Debug)]
pub(crate) struct Spool {
    log: EmbeddedLog,
    consumer: Consumer,
    /// The topic's partitions; the one behind them holds the marks.
    partitions: u16,
}

/// Says what a spool may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpoolConfig {
    pub(crate) partitions: u16,
    pub(crate) segment_bytes: u32,
    pub(crate) bytes_limit: u64,
}

impl Spool {
    /// Opens or creates the spool in `folder` and says by partition what is delivered and where
    /// it ends. Blocks while every record is checked.
    ///
    /// # Errors
    /// When the folder is not a spool of so many partitions, or damaged.
    pub(crate) fn open(
        fs: Arc<dyn Fs>,
        folder: &Path,
        config: SpoolConfig,
        on_fatal: impl FnOnce(log::Fatal) + Send + 'static,
    ) -> Result<(Self, Vec<(u64, u64)>), String> {
        let partitions = config.partitions;
        let log_config = log::Config {
            partitions: partitions + 1,
            segment_bytes: config.segment_bytes,
            log_bytes_limit: config.bytes_limit,
            // What Kafka has needs no copy here.
            read_retention: Duration::ZERO,
            read_retention_bytes: 0,
            tail_cache_bytes: 4 << 20,
            ..log::Config::default()
        };
        let log = EmbeddedLog::open(fs, folder, log_config, on_fatal)
            .map_err(|error| error.to_string())?;
        let consumer = log.consumer();
        let mut spool = Self {
            log,
            consumer,
            partitions,
        };
        let marked = spool.last_mark()?.unwrap_or_default();
        let state = (0..partitions).map(|partition| {
            let (start, end) = (spool.log.start(partition), spool.log.end(partition));
            let delivered = marked.get(usize::from(partition)).copied().unwrap_or(0);
            (delivered.max(start).min(end), end)
        });
        let state = state.collect();
        Ok((spool, state))
    }

    fn last_mark(&mut self) -> Result<Option<Vec<u64>>, String> {
        let marks = self.partitions;
        let (mut next, end) = (self.log.start(marks), self.log.end(marks));
        let mut last = None;
        let mut empty_reads = 0;
        while next < end {
            let records = self.poll(&[(marks, next)])?;
            empty_reads = if records.is_empty() {
                empty_reads + 1
            } else {
                0
            };
            if empty_reads > EMPTY_READS_MAX {
                return Err("marks before the end cannot be reached".to_owned());
            }
            for StoredRecord { offset, record } in records {
                next = offset + 1;
                last = Some(decode_mark(record.payload)?);
            }
        }
        Ok(last)
    }

    /// Appends records, and a mark if there is one, with one fsync. `done` hears true once they
    /// are durable, false when the disk had no room; it is called on the log's thread.
    ///
    /// # Errors
    /// Nothing was taken: the spool is at its limit, or closed.
    pub(crate) fn append(
        &self,
        mut records: Vec<Record>,
        mark: Option<&[u64]>,
        done: impl FnOnce(bool) + Send + 'static,
    ) -> Result<(), log::Reason> {
        records.extend(mark.map(|mark| self.mark_record(mark)));
        let done = move |result: Result<(), log::AppendError>| {
            if let Err(error) = &result {
                tracing::warn!(%error, "records were not spooled");
            }
            done(result.is_ok());
        };
        self.log
            .append(records, done)
            .map_err(|refused| refused.reason)
    }

    fn mark_record(&self, delivered: &[u64]) -> Record {
        let mut payload = BytesMut::with_capacity(8 * delivered.len());
        delivered
            .iter()
            .for_each(|offset| payload.put_u64_le(*offset));
        Record {
            partition: self.partitions,
            key: Bytes::new(),
            payload: payload.freeze(),
            content_type: ContentType::Unspecified,
            received_ms: 0,
            node: 0,
            connection_epoch: 0,
            packet_seq: 0,
            retransmit: false,
            droppable: false,
        }
    }

    /// Reads fsynced records of the partitions from the offsets on, about [`READ_BYTES`] of them.
    ///
    /// # Errors
    /// When the spool is damaged.
    pub(crate) fn read(&mut self, from: &[(u16, u64)]) -> Result<Vec<(u64, Record)>, String> {
        let records = self.poll(from)?;
        let records = records.into_iter();
        Ok(records
            .map(|stored| (stored.offset, stored.record))
            .collect())
    }

    /// An assignment seeks and reads again what lies between, so it is made only when the
    /// consumer would not give what is wanted, or would give what is not.
    fn poll(&mut self, from: &[(u16, u64)]) -> Result<Vec<StoredRecord>, String> {
        let assigned = self.consumer.positions();
        let is_there = |wanted: &(u16, u64)| assigned.contains(wanted);
        let is_unwanted = |&(partition, next): &(u16, u64)| {
            next < self.log.end(partition) && !from.iter().any(|(wanted, _)| *wanted == partition)
        };
        if !from.iter().all(is_there) || assigned.iter().any(is_unwanted) {
            let start = |&(partition, offset): &(u16, u64)| Start {
                partition,
                offset,
                incarnation: None,
            };
            self.consumer
                .assign(from.iter().map(start).collect())
                .map_err(|error| error.to_string())?;
        }
        self.consumer
            .poll(READ_BYTES, Duration::ZERO)
            .map_err(|error| error.to_string())
    }

    /// Drops segments of which Kafka has everything; `delivered` is by partition.
    pub(crate) fn release(&self, delivered: impl Iterator<Item = u64>) {
        let mut offsets: Vec<(u16, u64)> = (0..self.partitions).zip(delivered).collect();
        // The last mark stays as long as its segment.
        let marks = self.log.end(self.partitions).saturating_sub(1);
        offsets.push((self.partitions, marks));
        self.log.release(&offsets, i64::MAX);
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.log.metrics().disk_bytes
    }

    pub(crate) fn close(&self) {
        self.log.close();
    }
}

fn decode_mark(mut bytes: Bytes) -> Result<Vec<u64>, String> {
    if !bytes.len().is_multiple_of(8) {
        return Err(format!("a mark of {} bytes is damaged", bytes.len()));
    }
    let mut delivered = Vec::with_capacity(bytes.len() / 8);
    while bytes.has_remaining() {
        delivered.push(bytes.get_u64_le());
    }
    Ok(delivered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{Rng as _, SeedableRng as _};
    use std::sync::mpsc::sync_channel;
    use storage::fs::FaultFs;

    fn open(fs: &FaultFs) -> (Spool, Vec<(u64, u64)>) {
        let config = SpoolConfig {
            partitions: 2,
            segment_bytes: 4_096,
            bytes_limit: 1 << 20,
        };
        let folder = Path::new("/spool");
        Spool::open(Arc::new(fs.clone()), folder, config, |fatal| {
            panic!("{fatal}")
        })
        .expect("the spool opens")
    }

    fn append(spool: &Spool, records: Vec<Record>, mark: Option<&[u64]>) {
        let (told, done) = sync_channel(1);
        let taken = spool.append(records, mark, move |ok| told.send(ok).expect("waits"));
        taken.expect("there is room");
        assert_eq!(done.recv(), Ok(true));
    }

    fn record(spool: &Spool, partition: u16, n: u64) -> Record {
        Record {
            partition,
            packet_seq: n,
            payload: incompressible(n),
            ..spool.mark_record(&[])
        }
    }

    fn incompressible(n: u64) -> Bytes {
        let mut random = SmallRng::seed_from_u64(n);
        (0..500).map(|_| random.random::<u8>()).collect()
    }

    #[test]
    fn a_spool_opens_where_its_last_mark_says() {
        let fs = FaultFs::new(0);
        let (spool, state) = open(&fs);
        assert_eq!(state, [(0, 0), (0, 0)]);
        let records = (0..6).map(|n| record(&spool, (n % 2) as u16, n));
        append(&spool, records.collect(), None);
        append(&spool, Vec::new(), Some(&[1, 0]));
        append(&spool, Vec::new(), Some(&[2, 1]));
        spool.close();
        drop(spool);

        let (mut spool, state) = open(&fs);

        assert_eq!(state, [(2, 3), (1, 3)]);
        let read = spool.read(&[(0, 2), (1, 1)]).expect("whole");
        let numbers: Vec<u64> = read.iter().map(|(_, record)| record.packet_seq).collect();
        assert_eq!(numbers, [3, 4, 5]);
    }

    #[test]
    fn what_is_delivered_leaves_the_disk_and_the_rest_is_read_on() {
        let fs = FaultFs::new(1);
        let (mut spool, _) = open(&fs);
        for n in 0..40 {
            let record = record(&spool, 0, n);
            append(&spool, vec![record], None);
        }
        let before = spool.disk_bytes();

        append(&spool, Vec::new(), Some(&[38, 0]));
        spool.release([38, 0].into_iter());
        assert!(spool.disk_bytes() < before, "whole segments went");
        spool.close();
        drop(spool);
        let (again, state) = open(&fs);
        spool = again;

        assert_eq!(state[0], (38, 40));
        assert_eq!(spool.read(&[(0, 38)]).expect("whole").len(), 2);
    }
}
