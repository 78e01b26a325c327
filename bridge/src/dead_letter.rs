//! Dead letters: messages that could not be stored, or not whole, with the reason and the original
//! bytes, in a log of their own (folder `dlq`).

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use storage::fs::Fs;
use storage::log::{self, EmbeddedLog, Reason, Record, Start, StoredRecord};

use crate::counters::DeadLetterReason;

/// Version of the stored form.
const VERSION: u8 = 1;
/// Bytes of the stored form before the reason's text.
const HEADER_BYTES: usize = 20;
/// Greatest length of the reason's text in bytes; a longer one is cut.
const TEXT_BYTES_MAX: usize = 4096;
/// Bytes collected before they are appended.
const PENDING_BYTES: usize = 1 << 20;
/// Bytes read at once while the log is scanned at the start.
const SCAN_BYTES: usize = 1 << 20;
/// Pause before an append is tried again that the disk had no room for.
const RETRY: Duration = Duration::from_millis(100);

/// Is one dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Why it is one.
    pub reason: DeadLetterReason,
    /// The reason in words, naming the metric or value.
    pub text: String,
    /// Incarnation of the log that the message stands in.
    pub incarnation: u64,
    /// Its partition there.
    pub partition: u16,
    /// Its offset there.
    pub offset: u64,
    /// The device id.
    pub device: Bytes,
    /// The payload, untouched.
    pub payload: Bytes,
}

impl DeadLetter {
    /// Reads a record of the dead-letter log.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn decode(record: &Record) -> Result<Self, String> {
        let bytes = &record.payload;
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err("a dead letter is cut off".to_owned());
        };
        let [
            version,
            reason,
            t0,
            t1,
            incarnation @ ..,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
        ] = *header;
        if version != VERSION {
            return Err(format!(
                "a dead letter has version {version}, this program reads {VERSION}"
            ));
        }
        let reason = DeadLetterReason::from_number(reason)
            .ok_or_else(|| format!("a dead letter has the unknown reason {reason}"))?;
        let text_len = usize::from(u16::from_le_bytes([t0, t1]));
        let Some((text, _)) = rest.split_at_checked(text_len) else {
            return Err("a dead letter is cut off".to_owned());
        };
        let offset = header.last_chunk::<8>().expect("the header is longer");
        Ok(Self {
            reason,
            text: String::from_utf8_lossy(text).into_owned(),
            incarnation: u64::from_le_bytes(incarnation),
            partition: record.partition,
            offset: u64::from_le_bytes(*offset),
            device: record.key.clone(),
            payload: bytes.slice(HEADER_BYTES + text_len..),
        })
    }
}

fn encode(source: &StoredRecord, incarnation: u64, reason: DeadLetterReason, text: &str) -> Record {
    let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
    let payload = &source.record.payload;
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + text.len() + payload.len());
    bytes.put_u8(VERSION);
    bytes.put_u8(reason.number());
    bytes.put_u16_le(text.len() as u16);
    bytes.put_u64_le(incarnation);
    bytes.put_u64_le(source.offset);
    bytes.put_slice(text.as_bytes());
    bytes.put_slice(payload);
    Record {
        payload: bytes.freeze(),
        ..source.record.clone()
    }
}

/// Says why dead letters cannot be kept; offsets that pass them must not be committed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeadLetterError {
    #[error("dead letters: {0}")]
    Log(String),
    /// The line is being stopped.
    #[error("stopped while dead letters waited for room")]
    Stopped,
}

/// Keeps dead letters, each once.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    log: EmbeddedLog,
    /// By partition: name of the source log and the highest source offset that is kept.
    kept: Vec<Option<(u32, u64)>>,
    pending: Vec<Record>,
    pending_bytes: usize,
    stop: Arc<AtomicBool>,
}

impl DeadLetters {
    /// Opens the log and looks up which source offsets it holds already.
    pub(crate) fn open(
        fs: Arc<dyn Fs>,
        folder: &Path,
        config: log::Config,
        stop: Arc<AtomicBool>,
        on_fatal: impl FnOnce(log::Fatal) + Send + 'static,
    ) -> Result<Self, DeadLetterError> {
        let failed = |error: &dyn std::fmt::Display| DeadLetterError::Log(error.to_string());
        let log = EmbeddedLog::open(fs, folder, config, on_fatal).map_err(|e| failed(&e))?;
        let kept = vec![None; usize::from(log.partitions())];
        let mut letters = Self {
            log,
            kept,
            pending: Vec::new(),
            pending_bytes: 0,
            stop,
        };
        let ends = letters.log.ends();
        let begin = |partition| Start {
            partition,
            offset: letters.log.start(partition),
            incarnation: None,
        };
        let starts: Vec<Start> = (0..letters.log.partitions()).map(begin).collect();
        let mut positions: Vec<u64> = starts.iter().map(|start| start.offset).collect();
        let mut consumer = letters.log.consumer();
        consumer.assign(starts).map_err(|e| failed(&e))?;
        while positions
            .iter()
            .zip(&ends)
            .any(|(position, end)| position < end)
        {
            let records = consumer
                .poll(SCAN_BYTES, Duration::from_secs(1))
                .map_err(|e| failed(&e))?;
            for StoredRecord { offset, record } in records {
                let letter = DeadLetter::decode(&record).map_err(|e| failed(&e))?;
                positions[usize::from(record.partition)] = offset + 1;
                letters.keep(letter.partition, letter.incarnation, letter.offset);
            }
        }
        Ok(letters)
    }

    /// Notes that a source offset is kept; false when it was before.
    fn keep(&mut self, partition: u16, incarnation: u64, offset: u64) -> bool {
        let log = (incarnation >> 32) as u32;
        let kept = &mut self.kept[usize::from(partition)];
        if kept.is_some_and(|(of, highest)| of == log && offset <= highest) {
            return false;
        }
        *kept = Some((log, offset));
        true
    }

    /// Takes a dead letter; false when a replay brings it again. It is durable after
    /// [`DeadLetters::flush`]. Records of a partition must come in the order of their offsets.
    pub(crate) fn put(
        &mut self,
        source: &StoredRecord,
        incarnation: u64,
        reason: DeadLetterReason,
        text: &str,
    ) -> Result<bool, DeadLetterError> {
        if !self.keep(source.record.partition, incarnation, source.offset) {
            return Ok(false);
        }
        let record = encode(source, incarnation, reason, text);
        self.pending_bytes += record.key.len() + record.payload.len();
        self.pending.push(record);
        if self.pending_bytes >= PENDING_BYTES {
            self.flush()?;
        }
        Ok(true)
    }

    /// Makes durable what was taken. Waits for room on a full disk.
    pub(crate) fn flush(&mut self) -> Result<(), DeadLetterError> {
        while !self.pending.is_empty() {
            if self.try_flush()? {
                break;
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(DeadLetterError::Stopped);
            }
            std::thread::park_timeout(RETRY);
        }
        self.pending.clear();
        self.pending_bytes = 0;
        Ok(())
    }

    /// True when all is durable, false when there was no room.
    fn try_flush(&mut self) -> Result<bool, DeadLetterError> {
        let (done, result) = crossbeam_channel::bounded(1);
        let completion = move |appended| {
            // The receiver waits below until it hears.
            done.send(appended).expect("the one receiver waits");
        };
        if let Err(refused) = self.log.append(self.pending.clone(), completion) {
            return match refused.reason {
                Reason::Full => Ok(false),
                Reason::OverLimit => {
                    let newest = self
                        .pending
                        .iter()
                        .map(|r| r.received_ms)
                        .max()
                        .unwrap_or(0);
                    self.release(newest);
                    Ok(false)
                }
                Reason::Closed => Err(DeadLetterError::Log(refused.reason.to_string())),
            };
        }
        match result.recv() {
            Ok(Ok(())) => Ok(true),
            Ok(Err(log::AppendError::NoSpace)) => Ok(false),
            Ok(Err(error)) => Err(DeadLetterError::Log(error.to_string())),
            Err(_) => Err(DeadLetterError::Log(
                "the log ended without an answer".to_owned(),
            )),
        }
    }

    /// Nothing reads dead letters but people, so all of them count as read and go by age and size.
    pub(crate) fn release(&self, now_ms: i64) {
        let ends: Vec<(u16, u64)> = (0..).zip(self.log.ends()).collect();
        self.log.release(&ends, now_ms);
    }

    pub(crate) fn close(&self) {
        self.log.close();
    }
}

/// Shares the dead letters between restarts of the writer.
pub(crate) type SharedDeadLetters = Arc<Mutex<DeadLetters>>;
