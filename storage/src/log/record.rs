//! What the log carries: one device message, its bytes untouched.

use bytes::Bytes;

/// One message as it entered the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The partition (= bucket) of the device, below [`Config::partitions`](super::Config).
    pub partition: u16,
    /// The device id; at most 65 535 bytes.
    pub key: Bytes,
    /// The payload as the device sent it.
    pub payload: Bytes,
    /// How the payload is to be read.
    pub content_type: ContentType,
    /// When the broker received it, in milliseconds since 1970 (its clock, wall time).
    pub received_ms: i64,
    /// The node that received it.
    pub node: u32,
    /// The connection it came over, as that node counts them.
    pub connection_epoch: u64,
    /// Its number among the packets of that connection.
    pub packet_seq: u64,
    /// Whether the device said it had sent it before (DUP).
    pub retransmit: bool,
}

/// How a payload is to be read. Grows only at the end: the numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
#[non_exhaustive]
pub enum ContentType {
    /// Not said: the stream's decoders try what they know.
    #[default]
    Unspecified = 0,
    /// JSON.
    Json = 1,
    /// SenML in JSON.
    SenmlJson = 2,
    /// SenML in CBOR.
    SenmlCbor = 3,
    /// InfluxDB line protocol.
    LineProtocol = 4,
    /// Sparkplug B.
    Sparkplug = 5,
    /// MessagePack.
    MessagePack = 6,
    /// CBOR.
    Cbor = 7,
    /// One scalar as text.
    Scalar = 8,
}

/// A record as the log gives it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its number in its partition: dense, from 0.
    pub offset: u64,
    /// The record. Its bytes share one buffer with their neighbours: copy what is kept for long.
    pub record: Record,
}
