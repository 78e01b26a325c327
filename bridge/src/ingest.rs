//! The broker's side: batches of messages on their way into the log.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use storage::log::{ContentType, Record};

use crate::log::{AppendError, Log};
use crate::stream::StreamId;

/// Is one telemetry PUBLISH as the connection received it.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The rule that matched the topic.
    pub stream: StreamId,
    /// Device id, from [`crate::Streams::match_topic`].
    pub device: &'a str,
    /// The payload, untouched; shares memory with the packet until it is durable.
    pub payload: &'a Bytes,
    /// MQTT 5 Content Type as the PUBLISH named it, if it did.
    pub content_type: Option<&'a str>,
    /// Wall time of receipt in milliseconds since the Unix epoch. With the node and
    /// [`Self::packet_seq`] it is the stamp that decides between different values of one point.
    pub received_ms: i64,
    /// Ownership epoch of the connection.
    pub connection_epoch: u64,
    /// Number of the PUBLISH on its connection.
    pub packet_seq: u64,
    /// The DUP flag.
    pub retransmit: bool,
}

/// Is told once how a submitted batch ended. It runs on the log's thread and must only hand on
/// (send to a mailbox, wake a task); it must not block.
pub type Done = Box<dyn FnOnce(Outcome) + Send>;

/// Says how a submitted batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every message of the batch has what its stream's mode demands; PUBACK may leave.
    Durable,
    /// Nothing is promised about the batch: the disk was full, or the line was shut down, before
    /// it was durable. Acknowledge nothing; the messages may be submitted again while the line
    /// runs.
    NotDurable,
}

/// Says why a batch came back. Nothing of it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedReason {
    /// The bytes in flight are at their limit. Withhold and submit again when told
    /// ([`Ingest::notify_ready`]).
    #[error("telemetry in flight is at its limit in bytes")]
    Full,
    /// The log on disk is at `log_bytes_limit`. Withhold as for `Full`.
    #[error("the telemetry log is at its limit on disk")]
    OverLimit,
    /// The line is shut down; it will take nothing more.
    #[error("the telemetry line is shut down")]
    Stopped,
}

/// Gives a refused batch back, so that it can be submitted again as it is.
pub struct Refused {
    /// Why.
    pub reason: RefusedReason,
    /// The batch, whole.
    pub batch: Batch,
    /// Its completion, not called.
    pub done: Done,
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused")
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

/// Collects the messages that one turn of an io thread gave. Made by [`Ingest::batch`].
#[derive(Debug)]
pub struct Batch {
    node: u32,
    buckets: u32,
    /// Device ids: one allocation for all of a batch.
    devices: BytesMut,
    records: Vec<Record>,
    bytes: u64,
}

impl Batch {
    /// Adds a message; its device id is copied, its payload shared.
    ///
    /// # Panics
    /// When the device id is longer than 65 535 bytes; none comes so out of
    /// [`crate::Streams::match_topic`].
    pub fn push(&mut self, message: &Message<'_>) {
        assert!(
            message.device.len() <= usize::from(u16::MAX),
            "a device id fits a log record"
        );
        self.devices.extend_from_slice(message.device.as_bytes());
        self.bytes += message.device.len() as u64 + message.payload.len() as u64 + RECORD_BYTES;
        self.records.push(Record {
            partition: telemetry::bucket_of(message.device.as_bytes(), self.buckets),
            key: self.devices.split().freeze(),
            payload: message.payload.clone(),
            content_type: message
                .content_type
                .map_or(ContentType::Unspecified, content_type_of),
            received_ms: message.received_ms,
            node: self.node,
            connection_epoch: message.connection_epoch,
            packet_seq: message.packet_seq,
            retransmit: message.retransmit,
        });
    }

    /// Is the number of messages.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Is true without messages.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Size in bytes: what counts against `inflight_bytes_limit`.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// What a record holds in memory beside key and payload.
const RECORD_BYTES: u64 = size_of::<Record>() as u64;

/// Media types that say how a payload is to be read; anything else leaves it to the decoder.
fn content_type_of(text: &str) -> ContentType {
    let essence = text.split(';').next().unwrap_or_default().trim();
    let known = [
        ("application/json", ContentType::Json),
        ("application/senml+json", ContentType::SenmlJson),
        ("application/senml+cbor", ContentType::SenmlCbor),
        ("application/msgpack", ContentType::MessagePack),
        ("application/cbor", ContentType::Cbor),
    ];
    known
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(essence))
        .map_or(ContentType::Unspecified, |(_, content_type)| *content_type)
}

/// Greatest number of callbacks that wait for room. One io thread needs one; a callback beyond
/// this is called at once and its owner tries again in vain, which harms nothing.
pub const READY_CALLBACKS_MAX: usize = 4096;

/// Takes batches into the log; cloning it is cheap and any thread may hold one.
#[derive(Clone)]
pub struct Ingest {
    shared: Arc<Shared>,
}

struct Shared {
    log: Arc<dyn Log>,
    node: u32,
    buckets: u32,
    inflight_bytes_limit: u64,
    inflight_bytes: AtomicU64,
    /// Set when the log refused for its size on disk, cleared by the next release.
    over_limit: std::sync::atomic::AtomicBool,
    accepted_messages: AtomicU64,
    accepted_bytes: AtomicU64,
    refused_batches: AtomicU64,
    waiting: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

impl fmt::Debug for Ingest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ingest")
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

/// Counts what passed an [`Ingest`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) accepted_messages: u64,
    pub(crate) accepted_bytes: u64,
    pub(crate) inflight_bytes: u64,
    pub(crate) refused_batches: u64,
}

impl Ingest {
    pub(crate) fn new(log: Arc<dyn Log>, node: u32, inflight_bytes_limit: u64) -> Self {
        let buckets = u32::from(log.partitions());
        Self {
            shared: Arc::new(Shared {
                log,
                node,
                buckets,
                inflight_bytes_limit,
                inflight_bytes: AtomicU64::new(0),
                over_limit: std::sync::atomic::AtomicBool::new(false),
                accepted_messages: AtomicU64::new(0),
                accepted_bytes: AtomicU64::new(0),
                refused_batches: AtomicU64::new(0),
                waiting: Mutex::new(Vec::new()),
            }),
        }
    }

    /// Is an empty batch.
    pub fn batch(&self) -> Batch {
        Batch {
            node: self.shared.node,
            buckets: self.shared.buckets,
            devices: BytesMut::new(),
            records: Vec::new(),
            bytes: 0,
        }
    }

    /// Appends the batch to the log; `done` is called after the log's fsync covers it. Batches of
    /// one caller become durable, and are completed, in the order of their submission. Never
    /// blocks. An empty batch is completed at once, on the caller's thread.
    ///
    /// # Errors
    /// Gives batch and completion back when there is no room; nothing of the batch was taken.
    pub fn submit(&self, mut batch: Batch, done: Done) -> Result<(), Refused> {
        if batch.is_empty() {
            done(Outcome::Durable);
            return Ok(());
        }
        let bytes = batch.bytes;
        if !self.shared.reserve(bytes) {
            return Err(self.shared.refuse(RefusedReason::Full, batch, done));
        }
        let messages = batch.records.len() as u64;
        // The completion is taken out again when the log refuses, so it cannot live in the closure.
        let done = Arc::new(Mutex::new(Some(done)));
        let appended = {
            let (shared, done) = (Arc::clone(&self.shared), Arc::clone(&done));
            Box::new(move |durable| {
                shared.settle(bytes, messages, durable);
                if let Some(done) = take(&done) {
                    done(if durable {
                        Outcome::Durable
                    } else {
                        Outcome::NotDurable
                    });
                }
                shared.wake();
            })
        };
        let records = std::mem::take(&mut batch.records);
        let Err((error, records)) = self.shared.log.append(records, appended) else {
            return Ok(());
        };
        batch.records = records;
        let reason = match error {
            AppendError::Full => RefusedReason::Full,
            AppendError::OverLimit => {
                self.shared.over_limit.store(true, Ordering::Release);
                RefusedReason::OverLimit
            }
            AppendError::Closed => RefusedReason::Stopped,
        };
        self.shared.release(bytes);
        let done = take(&done).expect("the log does not call the completion of what it refuses");
        Err(self.shared.refuse(reason, batch, done))
    }

    /// Calls back once, soon after there may be room again: then submit what was refused, and
    /// ask again if it is refused again. Meant for one callback per io thread, which wakes that
    /// thread's paused connections. It runs on the log's or the writer's thread and must not
    /// block; when there is room already, on the caller's.
    pub fn notify_ready(&self, ready: Box<dyn FnOnce() + Send>) {
        {
            let mut waiting = self
                .shared
                .waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            // Looked at under the lock, or the last completion could pass between look and push.
            if !self.shared.has_room() && waiting.len() < READY_CALLBACKS_MAX {
                waiting.push(ready);
                return;
            }
        }
        ready();
    }

    /// Says that the log may have become smaller.
    pub(crate) fn log_released(&self) {
        self.shared.over_limit.store(false, Ordering::Release);
        self.shared.wake();
    }

    /// Wakes all who wait, since nothing will be taken any more.
    pub(crate) fn stopped(&self) {
        let waiting = {
            let mut waiting = self
                .shared
                .waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *waiting)
        };
        waiting.into_iter().for_each(|ready| ready());
    }

    pub(crate) fn counts(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            accepted_messages: load(&self.shared.accepted_messages),
            accepted_bytes: load(&self.shared.accepted_bytes),
            inflight_bytes: load(&self.shared.inflight_bytes),
            refused_batches: load(&self.shared.refused_batches),
        }
    }
}

fn take(slot: &Mutex<Option<Done>>) -> Option<Done> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl Shared {
    fn reserve(&self, bytes: u64) -> bool {
        let reserved =
            self.inflight_bytes
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                    // A batch above the whole limit passes alone, or it could never pass.
                    (now == 0 || now + bytes <= self.inflight_bytes_limit).then_some(now + bytes)
                });
        reserved.is_ok()
    }

    fn release(&self, bytes: u64) {
        self.inflight_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    fn settle(&self, bytes: u64, messages: u64, durable: bool) {
        self.release(bytes);
        if durable {
            self.accepted_messages
                .fetch_add(messages, Ordering::Relaxed);
            self.accepted_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn refuse(&self, reason: RefusedReason, batch: Batch, done: Done) -> Refused {
        self.refused_batches.fetch_add(1, Ordering::Relaxed);
        Refused {
            reason,
            batch,
            done,
        }
    }

    /// Half of the limit must be free before anybody is woken, or each completion would wake all
    /// for one batch.
    fn has_room(&self) -> bool {
        !self.over_limit.load(Ordering::Acquire)
            && self.inflight_bytes.load(Ordering::Acquire) <= self.inflight_bytes_limit / 2
    }

    fn wake(&self) {
        let waiting = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.is_empty() || !self.has_room() {
                return;
            }
            std::mem::take(&mut *waiting)
        };
        waiting.into_iter().for_each(|ready| ready());
    }
}
