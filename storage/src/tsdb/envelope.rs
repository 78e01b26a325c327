//! The envelope around each stored value: magic, kind, version, length, checksum.
//!
//! rkyv bytes say nothing about what they are; the envelope does. Layout, little endian:
//! `magic [4] "TWVL" · kind u8 · version u8 · reserved u16 = 0 · length u32 · crc32c u32 · bytes`,
//! the checksum over everything but itself.

use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

const MAGIC: [u8; 4] = *b"TWVL";
const HEADER_BYTES: usize = 16;

/// Is a stored kind of value.
pub(super) trait Stored: Archive {
    /// Number of the kind; never reused.
    const KIND: u8;
    /// Version that is written; older ones are read by their own type.
    const VERSION: u8;
}

/// Says why bytes are no stored value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EnvelopeError {
    #[error("value has version {found}, this program reads {expected}")]
    Version { found: u8, expected: u8 },
    #[error("value is damaged: {0}")]
    Damaged(&'static str),
}

/// Encodes a value with its envelope.
pub(super) fn seal<T>(value: &T) -> Vec<u8>
where
    T: Stored + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    let body = rkyv::to_bytes::<rancor::Error>(value).expect("plain values archive into memory");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[T::KIND, T::VERSION, 0, 0]);
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    let crc = checksum(&bytes, &body);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// Decodes a value out of its envelope.
pub(super) fn open<T>(bytes: &[u8]) -> Result<T, EnvelopeError>
where
    T: Stored,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>>
        + Deserialize<T, HighDeserializer<rancor::Error>>,
{
    let (header, body) = bytes
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or(EnvelopeError::Damaged("shorter than its header"))?;
    let [
        m0,
        m1,
        m2,
        m3,
        kind,
        version,
        _,
        _,
        l0,
        l1,
        l2,
        l3,
        c0,
        c1,
        c2,
        c3,
    ] = *header;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(EnvelopeError::Damaged("no magic"));
    }
    if u32::from_le_bytes([l0, l1, l2, l3]) as usize != body.len() {
        return Err(EnvelopeError::Damaged("another length"));
    }
    if u32::from_le_bytes([c0, c1, c2, c3]) != checksum(&header[..12], body) {
        return Err(EnvelopeError::Damaged("checksum"));
    }
    if kind != T::KIND {
        return Err(EnvelopeError::Damaged("another kind"));
    }
    if version != T::VERSION {
        return Err(EnvelopeError::Version {
            found: version,
            expected: T::VERSION,
        });
    }
    rkyv::from_bytes::<T, rancor::Error>(body).map_err(|_| EnvelopeError::Damaged("body"))
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), body)
}
