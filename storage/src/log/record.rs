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
    /// Whether nobody was promised it (QoS 0): it may be dropped where room is short.
    pub droppable: bool,
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

/// The version of the stored form that is written.
const VERSION: u8 = 1;
/// Bytes before the key.
const HEADER_BYTES: usize = 34;
const FLAG_RETRANSMIT: u8 = 1;
const FLAG_DROPPABLE: u8 = 2;

impl Record {
    /// Bytes that the record takes in the journal before compression.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        HEADER_BYTES + self.key.len() + self.payload.len()
    }

    /// Appends the stored form, in which nodes also tell each other of records;
    /// `docs/formats/journal.md` has the offsets.
    ///
    /// # Panics
    /// If the key has more than 65 535 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let key_bytes = u16::try_from(self.key.len()).expect("append checks the key's length");
        let flag = |set, flag| if set { flag } else { 0 };
        let flags = flag(self.retransmit, FLAG_RETRANSMIT) | flag(self.droppable, FLAG_DROPPABLE);
        out.extend_from_slice(&[VERSION, self.content_type as u8, flags, 0]);
        out.extend_from_slice(&self.node.to_le_bytes());
        out.extend_from_slice(&self.received_ms.to_le_bytes());
        out.extend_from_slice(&self.connection_epoch.to_le_bytes());
        out.extend_from_slice(&self.packet_seq.to_le_bytes());
        out.extend_from_slice(&key_bytes.to_le_bytes());
        out.extend_from_slice(&self.key);
        out.extend_from_slice(&self.payload);
    }

    /// Reads the stored form; key and payload share its buffer.
    ///
    /// # Errors
    /// Says what is wrong, for a person.
    pub fn decode(partition: u16, stored: &Bytes) -> Result<Self, String> {
        let Some(header) = stored.first_chunk::<HEADER_BYTES>() else {
            return Err(format!("a record of {} bytes is cut short", stored.len()));
        };
        if header[0] != VERSION {
            return Err(format!(
                "version {} of a record is not known to this release",
                header[0]
            ));
        }
        let content_type = ContentType::from_stored(header[1])
            .ok_or_else(|| format!("content type {} of a record is not known", header[1]))?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&header[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let key_end = HEADER_BYTES + usize::from(u16::from_le_bytes([header[32], header[33]]));
        if key_end > stored.len() {
            return Err("the key of a record is cut short".to_owned());
        }
        Ok(Self {
            partition,
            key: stored.slice(HEADER_BYTES..key_end),
            payload: stored.slice(key_end..),
            content_type,
            received_ms: word(8).cast_signed(),
            node: u32::from_le_bytes([header[4], header[5], header[6], header[7]]),
            connection_epoch: word(16),
            packet_seq: word(24),
            retransmit: header[2] & FLAG_RETRANSMIT != 0,
            droppable: header[2] & FLAG_DROPPABLE != 0,
        })
    }
}

impl ContentType {
    fn from_stored(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Unspecified,
            1 => Self::Json,
            2 => Self::SenmlJson,
            3 => Self::SenmlCbor,
            4 => Self::LineProtocol,
            5 => Self::Sparkplug,
            6 => Self::MessagePack,
            7 => Self::Cbor,
            8 => Self::Scalar,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn record() -> Record {
        Record {
            partition: 3,
            key: Bytes::from_static(b"car42"),
            payload: Bytes::from_static(b"{}"),
            content_type: ContentType::Json,
            received_ms: -2,
            node: 0x0102_0304,
            connection_epoch: 0x11,
            packet_seq: 0x22,
            retransmit: true,
            droppable: true,
        }
    }

    #[test]
    fn the_stored_form_of_a_record_has_these_bytes() {
        let mut stored = Vec::new();
        record().encode(&mut stored);
        let expected: &[u8] = b"\x01\x01\x03\x00\x04\x03\x02\x01\
            \xfe\xff\xff\xff\xff\xff\xff\xff\
            \x11\x00\x00\x00\x00\x00\x00\x00\
            \x22\x00\x00\x00\x00\x00\x00\x00\
            \x05\x00car42{}";
        assert_eq!(stored, expected);
        assert_eq!(stored.len(), record().stored_bytes());
    }

    #[test]
    fn a_record_comes_back_from_its_stored_form() {
        let mut stored = Vec::new();
        record().encode(&mut stored);
        assert_eq!(Record::decode(3, &stored.into()), Ok(record()));
    }

    #[test]
    fn every_content_type_comes_back_from_its_number() {
        let known: Vec<_> = (0..=u8::MAX).filter_map(ContentType::from_stored).collect();
        assert_eq!(known.len(), 9);
        for content_type in known {
            assert_eq!(
                ContentType::from_stored(content_type as u8),
                Some(content_type)
            );
        }
    }

    #[test]
    fn a_record_cut_anywhere_before_its_payload_is_refused() {
        let mut stored = Vec::new();
        record().encode(&mut stored);
        for len in 0..HEADER_BYTES + 5 {
            let cut = Bytes::copy_from_slice(&stored[..len]);
            assert!(Record::decode(3, &cut).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_record_of_a_later_version_is_refused_by_name() {
        let mut stored = Vec::new();
        record().encode(&mut stored);
        stored[0] = 2;
        let refused = Record::decode(3, &stored.into()).expect_err("version 2 is unknown");
        assert_eq!(
            refused,
            "version 2 of a record is not known to this release"
        );
    }
}
