//! The frame: what is written, checksummed, compressed and read as one piece.

use std::sync::Arc;

use bytes::Bytes;

use super::Position;
use super::batch::ENTRY_BYTES_MAX;

/// Bytes before the stored body.
pub(super) const HEADER_BYTES: usize = 32;
/// Frames begin at multiples of this.
pub(super) const ALIGNMENT: u64 = 8;
/// Bytes before an entry's payload: tag, length, number.
pub(super) const ENTRY_HEADER_BYTES: usize = 16;
/// The body of a frame is closed once it has this many bytes.
pub(super) const BODY_BYTES_TARGET: usize = 256 << 10;

const MAGIC: u32 = u32::from_le_bytes(*b"TWJF");
const VERSION: u8 = 1;
const FLAG_LZ4: u8 = 1;
/// A body below this is not worth the compressor's time.
const COMPRESS_BYTES_MIN: usize = 256;
const BODY_BYTES_MAX: usize = BODY_BYTES_TARGET + ENTRY_HEADER_BYTES + ENTRY_BYTES_MAX;

/// What a frame holds. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Preamble = 1,
    Entries = 2,
    /// The journal was closed here: everything before it was fsynced.
    Close = 3,
}

/// Entries that were written together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Where it lies.
    pub position: Position,
    /// Where the next one begins, if it lies in the same segment.
    pub next: Position,
    body: Bytes,
    entries: u32,
}

/// One entry of a frame; its payload shares the frame's buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The tag it was appended with.
    pub tag: u32,
    /// The number its layout gave it.
    pub number: u64,
    /// Its bytes.
    pub payload: Bytes,
}

impl Frame {
    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries as usize
    }

    /// Whether it has no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Bytes of memory its entries take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// The entries in the order of writing.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.entries_from(0).map(|(_, entry)| entry)
    }

    /// The entries that lie at or behind this place in the body, each with the place behind it;
    /// begin with 0 and go on with a place that was given.
    pub(crate) fn entries_from(&self, at: usize) -> impl Iterator<Item = (usize, Entry)> + '_ {
        let mut at = at;
        std::iter::from_fn(move || {
            if at >= self.body.len() {
                return None;
            }
            let (tag, number, len) = entry_header(&self.body[at..])
                .expect("bodies are checked when they are built or read");
            let start = at + ENTRY_HEADER_BYTES;
            at = start + len;
            let payload = self.body.slice(start..at);
            Some((
                at,
                Entry {
                    tag,
                    number,
                    payload,
                },
            ))
        })
    }

    /// A frame of this body.
    ///
    /// # Panics
    /// If the body is not one of so many entries.
    pub(super) fn new(position: Position, next: Position, body: Bytes, entries: u32) -> Arc<Self> {
        debug_assert_eq!(check_entries(&body), Some(entries));
        Arc::new(Self {
            position,
            next,
            body,
            entries,
        })
    }
}

fn entry_header(bytes: &[u8]) -> Option<(u32, u64, usize)> {
    let tag = u32::from_le_bytes(*bytes.first_chunk()?);
    let len = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?) as usize;
    let number = u64::from_le_bytes(*bytes.get(8..)?.first_chunk()?);
    (bytes.len() - ENTRY_HEADER_BYTES >= len).then_some((tag, number, len))
}

/// Counts the entries of a body, if it is one.
pub(super) fn check_entries(body: &[u8]) -> Option<u32> {
    let mut rest = body;
    let mut entries = 0;
    while !rest.is_empty() {
        let (_, _, len) = entry_header(rest)?;
        rest = &rest[ENTRY_HEADER_BYTES + len..];
        entries += 1;
    }
    Some(entries)
}

/// Calls `number` for the tag of each entry of a body and stores what it says.
pub(super) fn number_entries(body: &mut [u8], mut number: impl FnMut(u32) -> u64) {
    let mut at = 0;
    while at < body.len() {
        let (tag, _, len) = entry_header(&body[at..]).expect("batches are built by Batch::push");
        body[at + 8..at + 16].copy_from_slice(&number(tag).to_le_bytes());
        at += ENTRY_HEADER_BYTES + len;
    }
}

/// The length of the longest run of whole entries at the beginning of a body that fits `bytes`, at
/// least one entry, and their number.
pub(super) fn entries_fitting(body: &[u8], bytes: usize) -> (usize, u32) {
    let (mut at, mut entries) = (0, 0);
    while at < body.len() {
        let (_, _, len) = entry_header(&body[at..]).expect("batches are built by Batch::push");
        let end = at + ENTRY_HEADER_BYTES + len;
        if at > 0 && end > bytes {
            break;
        }
        at = end;
        entries += 1;
    }
    (at, entries)
}

/// The fields of a frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) lz4: bool,
    pub(super) stored_bytes: u32,
    pub(super) body_bytes: u32,
    pub(super) entries: u32,
    /// Where the group began that was being written: everything before it was fsynced.
    pub(super) group_start: u64,
    crc: u32,
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    #[error("there is no frame")]
    Magic,
    #[error("version {0} of the frame is not known to this release")]
    Version(u8),
    #[error("the frame's header is damaged")]
    Header,
    #[error("the frame is cut short")]
    Short,
    #[error("the frame's checksum differs")]
    Checksum,
    #[error("the frame's body is damaged")]
    Body,
}

impl Header {
    /// Reads a header; its fields are plausible, but believe them only after [`Header::body`].
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Invalid> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(Invalid::Short)?;
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if word(0) != MAGIC {
            return Err(Invalid::Magic);
        }
        let kind = match bytes[5] {
            1 => Kind::Preamble,
            2 => Kind::Entries,
            3 => Kind::Close,
            _ => return Err(Invalid::Header),
        };
        let header = Self {
            kind,
            lz4: bytes[6] & FLAG_LZ4 != 0,
            stored_bytes: word(8),
            body_bytes: word(12),
            entries: word(16),
            crc: word(20),
            group_start: u64::from(word(24)) | u64::from(word(28)) << 32,
        };
        if bytes[4] != VERSION {
            return Err(Invalid::Version(bytes[4]));
        }
        let plausible = header.body_bytes as usize <= BODY_BYTES_MAX
            && header.stored_bytes <= header.body_bytes
            && (header.lz4 || header.stored_bytes == header.body_bytes)
            && bytes[6] & !FLAG_LZ4 == 0
            && bytes[7] == 0;
        plausible.then_some(header).ok_or(Invalid::Header)
    }

    /// Bytes from this frame's beginning to the next one's.
    pub(super) fn frame_bytes(&self) -> u64 {
        (HEADER_BYTES as u64 + u64::from(self.stored_bytes)).next_multiple_of(ALIGNMENT)
    }

    /// Checks a frame whose header this is (`bytes` begin with it) and gives its body.
    pub(super) fn body(&self, salt: u64, bytes: &[u8]) -> Result<Bytes, Invalid> {
        let end = HEADER_BYTES + self.stored_bytes as usize;
        let bytes = bytes.get(..end).ok_or(Invalid::Short)?;
        if checksum(salt, bytes) != self.crc {
            return Err(Invalid::Checksum);
        }
        let stored = &bytes[HEADER_BYTES..];
        let body = if self.lz4 {
            lz4_flex::block::decompress(stored, self.body_bytes as usize)
                .map_err(|_| Invalid::Body)?
        } else {
            stored.to_vec()
        };
        if body.len() != self.body_bytes as usize {
            return Err(Invalid::Body);
        }
        if self.kind == Kind::Entries && check_entries(&body) != Some(self.entries) {
            return Err(Invalid::Body);
        }
        Ok(body.into())
    }
}

/// Whether a header may begin here; a cheap test for scans.
pub(super) fn may_begin(bytes: &[u8]) -> bool {
    bytes.first_chunk() == Some(&MAGIC.to_le_bytes())
}

/// Appends a frame to `out`, compressed if that saves an eighth, padded to [`ALIGNMENT`] counted
/// from the beginning of `out`.
pub(super) fn write(
    out: &mut Vec<u8>,
    kind: Kind,
    body: &[u8],
    entries: u32,
    group_start: u64,
    salt: u64,
) {
    assert!(
        body.len() <= BODY_BYTES_MAX,
        "a frame's body is cut by its writer"
    );
    let at = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    let lz4 = body.len() >= COMPRESS_BYTES_MIN && compress(out, body);
    if !lz4 {
        out.extend_from_slice(body);
    }
    let stored = out.len() - at - HEADER_BYTES;
    let header = &mut out[at..at + HEADER_BYTES];
    header[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    header[4] = VERSION;
    header[5] = kind as u8;
    header[6] = if lz4 { FLAG_LZ4 } else { 0 };
    header[8..12].copy_from_slice(&(stored as u32).to_le_bytes());
    header[12..16].copy_from_slice(&(body.len() as u32).to_le_bytes());
    header[16..20].copy_from_slice(&entries.to_le_bytes());
    header[24..32].copy_from_slice(&group_start.to_le_bytes());
    let crc = checksum(salt, &out[at..]);
    out[at + 20..at + 24].copy_from_slice(&crc.to_le_bytes());
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
}

fn compress(out: &mut Vec<u8>, body: &[u8]) -> bool {
    let start = out.len();
    out.resize(
        start + lz4_flex::block::get_maximum_output_size(body.len()),
        0,
    );
    let stored = lz4_flex::block::compress_into(body, &mut out[start..])
        .expect("the buffer has the largest size the result can have");
    let pays = stored <= body.len() - body.len() / 8;
    out.truncate(if pays { start + stored } else { start });
    pays
}

/// CRC-32C over the segment's salt and the frame without its checksum field and padding.
fn checksum(salt: u64, frame: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&salt.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &frame[..20]);
    crc32c::crc32c_append(crc, &frame[24..])
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    const SALT: u64 = 0x1234;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn a_body_comes_back_from_its_frame(
            byte in any::<u8>(),
            repeats in 0_usize..2000,
            noise in proptest::collection::vec(any::<u8>(), 0..2000),
        ) {
            let mut body = vec![byte; repeats];
            body.extend_from_slice(&noise);
            let mut out = Vec::new();
            write(&mut out, Kind::Preamble, &body, 0, 77, SALT);

            let header = Header::read(&out).expect("a header");

            prop_assert_eq!(header.frame_bytes(), out.len() as u64);
            prop_assert_eq!(header.group_start, 77);
            prop_assert_eq!(header.body(SALT, &out), Ok(body.into()));
            prop_assert_eq!(header.body(SALT + 1, &out), Err(Invalid::Checksum));
        }

        #[test]
        fn foreign_bytes_are_no_frame_and_no_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            kind in 1_u8..=3,
            lz4 in 0_u8..=1,
            stored in 0_u32..200,
        ) {
            if let Some(head) = bytes.first_chunk_mut::<HEADER_BYTES>() {
                head[0..4].copy_from_slice(&MAGIC.to_le_bytes());
                head[4..8].copy_from_slice(&[VERSION, kind, lz4, 0]);
                head[8..12].copy_from_slice(&stored.to_le_bytes());
            }
            if let Ok(header) = Header::read(&bytes) {
                prop_assert!(header.body(SALT, &bytes).is_err());
            }
        }

        #[test]
        fn a_body_that_is_no_run_of_entries_is_refused_whatever_its_checksum(
            body in proptest::collection::vec(any::<u8>(), 1..100),
        ) {
            let mut out = Vec::new();
            write(&mut out, Kind::Entries, &body, 1, 0, SALT);
            let header = Header::read(&out).expect("a header");
            let entries = check_entries(&body);
            prop_assert_eq!(header.body(SALT, &out).is_ok(), entries == Some(1));
        }
    }
}
