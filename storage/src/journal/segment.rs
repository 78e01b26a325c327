//! The segment: a file with a header, a preamble and frames.

use std::path::{Path, PathBuf};

/// Bytes before the preamble's frame.
pub(super) const SEGMENT_HEADER_BYTES: usize = 64;

const MAGIC: &[u8; 8] = b"TWJOURNL";
const VERSION: u16 = 1;
const EXTENSION: &str = ".seg";
/// A segment that was being made when the process ended: never part of the journal.
pub(super) const UNFINISHED: &str = ".tmp";
const DIGITS: usize = 16;

/// What a segment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) owner: [u8; 4],
    pub(super) sequence: u64,
    pub(super) incarnation: u64,
    pub(super) salt: u64,
    /// Where the frames of the segment before end; 0 for a journal's first.
    pub(super) previous_end: u64,
}

/// A segment and where it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentStart {
    /// Its number.
    pub sequence: u64,
    /// The life of the journal it was begun in.
    pub incarnation: u64,
    /// Where its first frame behind the preamble lies.
    pub first_offset: u64,
    /// Where the frames of the segment before end.
    pub previous_end: u64,
}

impl SegmentHeader {
    pub(super) fn write(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&(SEGMENT_HEADER_BYTES as u16).to_le_bytes());
        bytes[12..16].copy_from_slice(&self.owner);
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.salt.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.previous_end.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// Says what is wrong, for a person.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let Some(bytes) = bytes.first_chunk::<SEGMENT_HEADER_BYTES>() else {
            return Err(format!(
                "{} bytes are too few for a segment's header",
                bytes.len()
            ));
        };
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        if &bytes[0..8] != MAGIC {
            return Err("it is no segment of a journal".to_owned());
        }
        let crc = u32::from_le_bytes([bytes[60], bytes[61], bytes[62], bytes[63]]);
        if crc32c::crc32c(&bytes[..60]) != crc {
            return Err("the checksum of the segment's header differs".to_owned());
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Err(format!(
                "version {version} of the segment is not known to this release"
            ));
        }
        Ok(Self {
            owner: [bytes[12], bytes[13], bytes[14], bytes[15]],
            sequence: word(16),
            incarnation: word(24),
            salt: word(32),
            previous_end: word(40),
        })
    }
}

/// The file of a segment.
pub(super) fn path(folder: &Path, sequence: u64) -> PathBuf {
    folder.join(format!("{sequence:0DIGITS$x}{EXTENSION}"))
}

/// The file of a segment that is being made.
pub(super) fn unfinished_path(folder: &Path, sequence: u64) -> PathBuf {
    folder.join(format!("{sequence:0DIGITS$x}{EXTENSION}{UNFINISHED}"))
}

/// The number in a file's name, if it is that of a segment.
pub(super) fn sequence_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(EXTENSION)?;
    if digits.len() != DIGITS || digits.bytes().any(|digit| digit.is_ascii_uppercase()) {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}
