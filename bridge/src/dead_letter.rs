//! Dead letters: messages that could not be stored, or not whole, with the reason and the original
//! bytes, in a log of their own (folder `dlq`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use rdkafka::message::OwnedHeaders;
use storage::fs::Fs;
use storage::log::{self, EmbeddedLog, Reason, Record, Start, StoredRecord};

use crate::counters::DeadLetterReason;
use crate::kafka::message::insert;

/// Version of the stored form.
const VERSION: u8 = 1;
/// Version of the stored form with a topic: its length (u16) and its bytes between the reason's
/// text and the payload.
const VERSION_TOPIC: u8 = 2;
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
    /// The topic of Kafka that refused it; absent for what the store could not take.
    pub topic: Option<String>,
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
        if version != VERSION && version != VERSION_TOPIC {
            return Err(format!(
                "a dead letter has version {version}, this program reads {VERSION} and {VERSION_TOPIC}"
            ));
        }
        let reason = DeadLetterReason::from_number(reason)
            .ok_or_else(|| format!("a dead letter has the unknown reason {reason}"))?;
        let text_len = usize::from(u16::from_le_bytes([t0, t1]));
        let cut_off = || "a dead letter is cut off".to_owned();
        let (text, rest) = rest.split_at_checked(text_len).ok_or_else(cut_off)?;
        let mut topic = None;
        let mut behind = HEADER_BYTES + text_len;
        if version == VERSION_TOPIC {
            let (len, rest) = rest.split_first_chunk::<2>().ok_or_else(cut_off)?;
            let len = usize::from(u16::from_le_bytes(*len));
            let name = rest.get(..len).ok_or_else(cut_off)?;
            topic = Some(String::from_utf8_lossy(name).into_owned());
            behind += 2 + len;
        }
        let offset = header.last_chunk::<8>().expect("the header is longer");
        Ok(Self {
            reason,
            text: String::from_utf8_lossy(text).into_owned(),
            incarnation: u64::from_le_bytes(incarnation),
            partition: record.partition,
            offset: u64::from_le_bytes(*offset),
            topic,
            device: record.key.clone(),
            payload: bytes.slice(behind..),
        })
    }
}

impl DeadLetter {
    /// Adds to a record's headers why it is a dead letter, and where it stood.
    pub(crate) fn headers(&self, headers: OwnedHeaders) -> OwnedHeaders {
        let headers = insert(headers, "tidewire-reason", self.reason.label().as_bytes());
        let headers = insert(headers, "tidewire-error", self.text.as_bytes());
        let partition = self.partition.to_string();
        let headers = insert(headers, "tidewire-partition", partition.as_bytes());
        let offset = self.offset.to_string();
        insert(headers, "tidewire-offset", offset.as_bytes())
    }
}

/// Puts a message into the stored form of a letter.
pub(crate) fn encode(
    source: &StoredRecord,
    incarnation: u64,
    reason: DeadLetterReason,
    text: &str,
    topic: Option<&str>,
) -> Record {
    let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
    let payload = &source.record.payload;
    let topic_bytes = topic.map_or(0, |topic| 2 + topic.len());
    let mut bytes =
        BytesMut::with_capacity(HEADER_BYTES + text.len() + topic_bytes + payload.len());
    bytes.put_u8(if topic.is_some() {
        VERSION_TOPIC
    } else {
        VERSION
    });
    bytes.put_u8(reason.number());
    bytes.put_u16_le(text.len() as u16);
    bytes.put_u64_le(incarnation);
    bytes.put_u64_le(source.offset);
    bytes.put_slice(text.as_bytes());
    if let Some(topic) = topic {
        // Kafka's names have up to 249 bytes.
        bytes.put_u16_le(topic.len() as u16);
        bytes.put_slice(topic.as_bytes());
    }
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

/// Is where dead letters are kept: a log of this node, or a topic of Kafka.
pub(crate) trait Keep: Send {
    /// Makes letters durable; false when there was no room, to be tried again.
    fn keep(&mut self, letters: &[Record]) -> Result<bool, DeadLetterError>;

    /// Drops what is older or more than is to be kept.
    fn release(&self, now_ms: i64);

    /// Ends it.
    fn close(&self);
}

/// Keeps letters in a log of this node.
#[derive(Debug)]
struct Local(EmbeddedLog);

impl Keep for Local {
    fn keep(&mut self, letters: &[Record]) -> Result<bool, DeadLetterError> {
        let (done, result) = crossbeam_channel::bounded(1);
        let completion = move |appended| {
            // The receiver waits below until it hears.
            done.send(appended).expect("the one receiver waits");
        };
        if let Err(refused) = self.0.append(letters.to_vec(), completion) {
            return match refused.reason {
                Reason::Full => Ok(false),
                Reason::OverLimit => {
                    let newest = letters.iter().map(|r| r.received_ms).max();
                    self.release(newest.unwrap_or(0));
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
    fn release(&self, now_ms: i64) {
        let ends: Vec<(u16, u64)> = (0..).zip(self.0.ends()).collect();
        self.0.release(&ends, now_ms);
    }

    fn close(&self) {
        self.0.close();
    }
}

/// Keeps dead letters, each once.
pub(crate) struct DeadLetters {
    keep: Box<dyn Keep>,
    /// By partition and name of the source log: the highest source offset that is kept. There are as
    /// many logs as nodes.
    kept: BTreeMap<(u16, u32), u64>,
    pending: Vec<Record>,
    pending_bytes: usize,
    stop: Arc<AtomicBool>,
}

impl std::fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetters")
            .field("pending_bytes", &self.pending_bytes)
            .finish_non_exhaustive()
    }
}

impl DeadLetters {
    /// Opens letters that are kept elsewhere. What a crash lets the source bring again is kept
    /// again.
    pub(crate) fn elsewhere(keep: Box<dyn Keep>, stop: Arc<AtomicBool>) -> Self {
        Self {
            keep,
            kept: BTreeMap::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            stop,
        }
    }

    /// Opens letters in `log` and looks up which source offsets it holds already.
    pub(crate) fn local(log: &EmbeddedLog, stop: Arc<AtomicBool>) -> Result<Self, DeadLetterError> {
        let mut letters = Self::elsewhere(Box::new(Local(log.clone())), stop);
        read_all(log, |_, letter| {
            // Incarnation 0: it never had an offset.
            if letter.incarnation != 0 {
                letters.keep(letter.partition, letter.incarnation, letter.offset);
            }
        })?;
        Ok(letters)
    }

    /// Notes that a source offset is kept; false when it was before.
    fn keep(&mut self, partition: u16, incarnation: u64, offset: u64) -> bool {
        let log = (incarnation >> 32) as u32;
        let highest = self.kept.get(&(partition, log));
        if highest.is_some_and(|highest| offset <= *highest) {
            return false;
        }
        self.kept.insert((partition, log), offset);
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
        let record = encode(source, incarnation, reason, text, None);
        self.pending_bytes += record.key.len() + record.payload.len();
        self.pending.push(record);
        if self.pending_bytes >= PENDING_BYTES {
            self.flush()?;
        }
        Ok(true)
    }

    /// Takes a record that a topic refused for good, so that it has no offset there.
    pub(crate) fn put_refused(
        &mut self,
        topic: &str,
        record: &Record,
        text: &str,
    ) -> Result<(), DeadLetterError> {
        let source = StoredRecord {
            offset: record.packet_seq,
            record: record.clone(),
        };
        let record = encode(&source, 0, DeadLetterReason::Refused, text, Some(topic));
        self.pending_bytes += record.key.len() + record.payload.len();
        self.pending.push(record);
        self.flush()
    }

    /// Takes letters in their stored form, as they were to be kept elsewhere, and makes them
    /// durable.
    pub(crate) fn put_encoded(&mut self, letters: &[Record]) -> Result<(), DeadLetterError> {
        self.pending.extend_from_slice(letters);
        self.flush()
    }

    /// Makes durable what was taken. Waits for room on a full disk.
    pub(crate) fn flush(&mut self) -> Result<(), DeadLetterError> {
        while !self.pending.is_empty() {
            if self.keep.keep(&self.pending)? {
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

    pub(crate) fn release(&self, now_ms: i64) {
        self.keep.release(now_ms);
    }

    pub(crate) fn close(&self) {
        self.keep.close();
    }
}

/// Opens the log of dead letters in `folder`.
pub(crate) fn open_log(
    fs: Arc<dyn Fs>,
    folder: &Path,
    config: log::Config,
    on_fatal: impl FnOnce(log::Fatal) + Send + 'static,
) -> Result<EmbeddedLog, DeadLetterError> {
    EmbeddedLog::open(fs, folder, config, on_fatal)
        .map_err(|error| DeadLetterError::Log(error.to_string()))
}

/// Reads every letter of a log with its own offset. Blocks on the disk.
pub(crate) fn read_all(
    log: &EmbeddedLog,
    mut each: impl FnMut(u64, DeadLetter),
) -> Result<(), DeadLetterError> {
    let begins: Vec<u64> = (0..log.partitions()).map(|at| log.start(at)).collect();
    read_between(log, &begins, &log.ends(), |stored| {
        let letter = DeadLetter::decode(&stored.record).map_err(DeadLetterError::Log)?;
        each(stored.offset, letter);
        Ok(true)
    })
}

/// Reads a log's records from one offset up to another, by partition, in the order in which they
/// were appended, until `each` says that it is enough. Blocks on the disk.
pub(crate) fn read_between(
    log: &EmbeddedLog,
    begins: &[u64],
    ends: &[u64],
    mut each: impl FnMut(&StoredRecord) -> Result<bool, DeadLetterError>,
) -> Result<(), DeadLetterError> {
    let failed = |error: &dyn std::fmt::Display| DeadLetterError::Log(error.to_string());
    let starts = (0_u16..).zip(begins).zip(ends);
    let starts: Vec<Start> = starts
        .filter(|((_, begin), end)| begin < end)
        .map(|((partition, begin), _)| Start {
            partition,
            offset: *begin,
            incarnation: None,
        })
        .collect();
    let mut positions = begins.to_vec();
    let mut consumer = log.consumer();
    consumer.assign(starts).map_err(|e| failed(&e))?;
    let is_behind = |positions: &[u64]| positions.iter().zip(ends).any(|(at, end)| at < end);
    while is_behind(&positions) {
        let records = consumer
            .poll(SCAN_BYTES, Duration::from_secs(1))
            .map_err(|e| failed(&e))?;
        for stored in records {
            let place = usize::from(stored.record.partition);
            let is_wanted = stored.offset < ends[place];
            positions[place] = stored.offset + 1;
            if is_wanted && !each(&stored)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Shares the dead letters between restarts of the writer.
pub(crate) type SharedDeadLetters = Arc<Mutex<DeadLetters>>;
