//! The broker's side: batches of messages on their way into the log.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use storage::log::{ContentType, Record};

use crate::log::{Append, AppendError, Port, PortId, Ports, Submission, Ticket, memory_bytes};
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

/// Says why a batch came back. Nothing of it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedReason {
    /// The bytes in flight are at their limit. Withhold and submit again when told
    /// ([`Ingest::notify_ready`]).
    #[error("telemetry in flight is at its limit in bytes")]
    Full,
    /// The log on disk is at its limit. Withhold as for `Full`.
    #[error("the telemetry log is at its limit on disk")]
    OverLimit,
    /// The line is shut down; it will take nothing more.
    #[error("the telemetry line is shut down")]
    Stopped,
}

/// Gives a refused batch back, so that it can be submitted again as it is.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub reason: RefusedReason,
    /// The batch, whole.
    pub batch: Batch,
}

/// Is a way out of the node that stalls by itself: the embedded log, or one topic of Kafka.
/// Batches hold messages of one outlet, so that one that stalls holds back nobody else's PUBACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutletId(pub u16);

/// Collects the messages that one turn of an io thread gave for one outlet. Made by
/// [`Ingest::batch`].
#[derive(Debug)]
pub struct Batch {
    node: u32,
    buckets: u32,
    outlet: OutletId,
    /// Device ids: one allocation for all of a batch.
    devices: BytesMut,
    submission: Submission,
    bytes: u64,
}

impl Batch {
    /// Adds a message; its device id is copied, its payload shared. The ticket comes back through
    /// the batch's port; without one (QoS 0) nobody is told, and the message may be dropped where
    /// room is short.
    ///
    /// # Panics
    /// When the device id is longer than 65 535 bytes; none comes so out of
    /// [`crate::Streams::match_topic`].
    pub fn push(&mut self, message: &Message<'_>, ticket: Option<Ticket>) {
        assert!(
            message.device.len() <= usize::from(u16::MAX),
            "a device id fits a log record"
        );
        self.devices.extend_from_slice(message.device.as_bytes());
        let record = Record {
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
            droppable: ticket.is_none(),
        };
        self.add(record, ticket);
    }

    /// Adds a record that was one before, under its own origin; only its bucket is found anew.
    ///
    /// # Panics
    /// As [`Batch::push`].
    pub(crate) fn push_again(&mut self, mut record: Record, ticket: Ticket) {
        assert!(
            record.key.len() <= usize::from(u16::MAX),
            "a device id fits a log record"
        );
        record.partition = telemetry::bucket_of(&record.key, self.buckets);
        self.add(record, Some(ticket));
    }

    fn add(&mut self, record: Record, ticket: Option<Ticket>) {
        self.bytes += memory_bytes(&record);
        self.submission.records.push(record);
        self.submission.tickets.push(ticket);
    }

    /// Is the number of messages.
    pub fn len(&self) -> usize {
        self.submission.records.len()
    }

    /// Is true without messages.
    pub fn is_empty(&self) -> bool {
        self.submission.records.is_empty()
    }

    /// Size in bytes: what counts against `inflight_bytes_limit`.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Media types that say how a payload is to be read.
const MEDIA_TYPES: [(&str, ContentType); 5] = [
    ("application/json", ContentType::Json),
    ("application/senml+json", ContentType::SenmlJson),
    ("application/senml+cbor", ContentType::SenmlCbor),
    ("application/msgpack", ContentType::MessagePack),
    ("application/cbor", ContentType::Cbor),
];

/// Reads a media type; an unknown one leaves it to the decoder.
pub(crate) fn content_type_of(text: &str) -> ContentType {
    let essence = text.split(';').next().unwrap_or_default().trim();
    MEDIA_TYPES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(essence))
        .map_or(ContentType::Unspecified, |(_, content_type)| *content_type)
}

/// Is the media type of a content type that has one.
pub(crate) fn media_type_of(content_type: ContentType) -> Option<&'static str> {
    let mut known = MEDIA_TYPES.iter();
    let found = known.find(|(_, known)| *known == content_type)?;
    Some(found.0)
}

/// Takes batches into the log; cloning it is cheap and any thread may hold one.
#[derive(Clone)]
pub struct Ingest {
    shared: Arc<Shared>,
}

struct Shared {
    outlets: Vec<Arc<dyn Append>>,
    /// Outlet of each stream.
    by_stream: Vec<OutletId>,
    ports: Ports,
    node: u32,
    buckets: u32,
    accepted_messages: AtomicU64,
    accepted_bytes: AtomicU64,
    refused_batches: AtomicU64,
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
    pub(crate) fn new(
        outlets: Vec<Arc<dyn Append>>,
        by_stream: Vec<OutletId>,
        ports: Ports,
        node: u32,
        buckets: u16,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                outlets,
                by_stream,
                ports,
                node,
                buckets: u32::from(buckets),
                accepted_messages: AtomicU64::new(0),
                accepted_bytes: AtomicU64::new(0),
                refused_batches: AtomicU64::new(0),
            }),
        }
    }

    /// Registers who is told how messages ended: one for each io thread.
    #[must_use]
    pub fn port(&self, port: Arc<dyn Port>) -> PortId {
        self.shared.ports.add(port)
    }

    /// Is all outlets of the line.
    pub fn outlets(&self) -> impl Iterator<Item = OutletId> + use<> {
        (0..self.shared.outlets.len() as u16).map(OutletId)
    }

    /// Is the outlet of a stream.
    #[must_use]
    pub fn outlet_of(&self, stream: StreamId) -> OutletId {
        let outlet = self.shared.by_stream.get(usize::from(stream.0));
        outlet.copied().unwrap_or(OutletId(0))
    }

    /// Is an empty batch.
    #[must_use]
    pub fn batch(&self, outlet: OutletId, port: PortId) -> Batch {
        Batch {
            node: self.shared.node,
            buckets: self.shared.buckets,
            outlet,
            devices: BytesMut::new(),
            submission: Submission {
                records: Vec::new(),
                tickets: Vec::new(),
                port,
            },
            bytes: 0,
        }
    }

    /// Takes the batch into its outlet. The port hears of each ticket once its message is
    /// durable. Messages of one device and one caller become durable in the order of their
    /// submission. Never blocks.
    ///
    /// # Errors
    /// Gives the batch back when there is no room; nothing of it was taken.
    pub fn submit(&self, mut batch: Batch) -> Result<(), Refused> {
        if batch.is_empty() {
            return Ok(());
        }
        let outlet = &self.shared.outlets[usize::from(batch.outlet.0)];
        let (bytes, messages) = (batch.bytes, batch.len() as u64);
        if !outlet.room().reserve(bytes) {
            return Err(self.refuse(RefusedReason::Full, batch));
        }
        let empty = Submission {
            records: Vec::new(),
            tickets: Vec::new(),
            port: batch.submission.port,
        };
        let submission = std::mem::replace(&mut batch.submission, empty);
        let Err((error, submission)) = outlet.append(submission) else {
            let accepted = &self.shared.accepted_messages;
            accepted.fetch_add(messages, Ordering::Relaxed);
            self.shared
                .accepted_bytes
                .fetch_add(bytes, Ordering::Relaxed);
            return Ok(());
        };
        outlet.room().release(bytes);
        batch.submission = submission;
        let reason = match error {
            AppendError::Full => RefusedReason::Full,
            AppendError::OverLimit => RefusedReason::OverLimit,
            AppendError::Closed => RefusedReason::Stopped,
        };
        Err(self.refuse(reason, batch))
    }

    fn refuse(&self, reason: RefusedReason, batch: Batch) -> Refused {
        self.shared.refused_batches.fetch_add(1, Ordering::Relaxed);
        Refused { reason, batch }
    }

    /// Calls back once, soon after there may be room for so many bytes again: then submit what was refused, and
    /// ask again if it is refused again. Meant for one callback per io thread, which wakes that
    /// thread's paused connections. It runs on a thread of the line and must not block; when
    /// there is room already, on the caller's.
    pub fn notify_ready(&self, outlet: OutletId, bytes: u64, ready: Box<dyn FnOnce() + Send>) {
        let outlet = &self.shared.outlets[usize::from(outlet.0)];
        outlet.room().notify(bytes, ready);
    }

    /// Wakes all who wait, since nothing will be taken any more.
    pub(crate) fn stopped(&self) {
        self.shared
            .outlets
            .iter()
            .for_each(|outlet| outlet.room().stop());
    }

    pub(crate) fn counts(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let inflight = self
            .shared
            .outlets
            .iter()
            .map(|outlet| outlet.room().bytes());
        Counts {
            accepted_messages: load(&self.shared.accepted_messages),
            accepted_bytes: load(&self.shared.accepted_bytes),
            inflight_bytes: inflight.sum(),
            refused_batches: load(&self.shared.refused_batches),
        }
    }
}
