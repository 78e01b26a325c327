//! The parts of a segment file as bytes.

use telemetry::DeviceId;

/// Version of the file format.
pub(super) const VERSION: u16 = 1;

pub(super) const HEADER_MAGIC: [u8; 8] = *b"TIDEWSEG";
pub(super) const FOOTER_MAGIC: [u8; 8] = *b"TIDEWEND";
pub(super) const HEADER_BYTES: usize = 32;
pub(super) const FOOTER_BYTES: usize = 112;
/// Length and checksum before each piece.
pub(super) const PIECE_HEADER_BYTES: usize = 8;
/// Greatest length of one piece; what a reader allocates at most on a length it reads.
pub(super) const PIECE_BYTES_MAX: u32 = 256 << 20;

/// An index page is closed when it has this many bytes: about a hundred blocks.
pub(super) const PAGE_BYTES: usize = 4096;

/// Kind of file in the header.
const KIND_BLOCKS: u16 = 1;

/// Name of a segment's file.
pub(in crate::tsdb) fn file_name(id: u64) -> String {
    format!("segment-{id:016x}.tws")
}

/// Whether a file name is one that [`file_name`] gives.
pub(in crate::tsdb) fn is_file_name(name: &str) -> bool {
    name.strip_prefix("segment-")
        .and_then(|rest| rest.strip_suffix(".tws"))
        .is_some_and(|hex| hex.len() == 16 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Is one block as the index names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tsdb) struct BlockEntry {
    pub(in crate::tsdb) bucket: u16,
    pub(in crate::tsdb) device: DeviceId,
    pub(in crate::tsdb) ts_min_ms: i64,
    pub(in crate::tsdb) ts_max_ms: i64,
    pub(in crate::tsdb) rows: u32,
    /// Offset of the block's piece in the file.
    pub(in crate::tsdb) offset: u64,
    /// Length of the block itself.
    pub(in crate::tsdb) len: u32,
}

impl BlockEntry {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bucket.to_le_bytes());
        out.extend_from_slice(&(self.device.as_bytes().len() as u16).to_le_bytes());
        out.extend_from_slice(self.device.as_bytes());
        out.extend_from_slice(&self.ts_min_ms.to_le_bytes());
        out.extend_from_slice(&self.ts_max_ms.to_le_bytes());
        out.extend_from_slice(&self.rows.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, &'static str> {
        let bucket = u16::from_le_bytes(take(input)?);
        let device = device(input)?;
        let entry = Self {
            bucket,
            device,
            ts_min_ms: i64::from_le_bytes(take(input)?),
            ts_max_ms: i64::from_le_bytes(take(input)?),
            rows: u32::from_le_bytes(take(input)?),
            offset: u64::from_le_bytes(take(input)?),
            len: u32::from_le_bytes(take(input)?),
        };
        Ok(entry)
    }
}

/// Is one index page as the directory names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PageEntry {
    /// Key of its first block.
    pub(super) bucket: u16,
    pub(super) device: DeviceId,
    /// Offset of the page's piece in the file.
    pub(super) offset: u64,
    /// Length of the page itself.
    pub(super) len: u32,
}

impl PageEntry {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bucket.to_le_bytes());
        out.extend_from_slice(&(self.device.as_bytes().len() as u16).to_le_bytes());
        out.extend_from_slice(self.device.as_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, &'static str> {
        Ok(Self {
            bucket: u16::from_le_bytes(take(input)?),
            device: device(input)?,
            offset: u64::from_le_bytes(take(input)?),
            len: u32::from_le_bytes(take(input)?),
        })
    }
}

/// Reads entries until the input ends.
pub(super) fn decode_all<T>(
    mut input: &[u8],
    decode: impl Fn(&mut &[u8]) -> Result<T, &'static str>,
) -> Result<Vec<T>, &'static str> {
    let mut all = Vec::new();
    while !input.is_empty() {
        all.push(decode(&mut input)?);
    }
    Ok(all)
}

pub(super) fn take<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], &'static str> {
    let (chunk, rest) = input.split_first_chunk::<N>().ok_or("cut off")?;
    *input = rest;
    Ok(*chunk)
}

fn device(input: &mut &[u8]) -> Result<DeviceId, &'static str> {
    let len = usize::from(u16::from_le_bytes(take(input)?));
    let id = input.split_off(..len).ok_or("cut off")?;
    DeviceId::from_bytes(id).map_err(|_| "a device id is none")
}

/// Is the first part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: u64,
    pub(super) level: u32,
}

/// Says why bytes are no header or footer.
pub(super) enum FrameError {
    Foreign(&'static str),
    Version(u16),
    Damaged(&'static str),
}

impl Header {
    pub(super) fn encode(self) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&HEADER_MAGIC);
        out.extend_from_slice(&KIND_BLOCKS.to_le_bytes());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.level.to_le_bytes());
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&0_u32.to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out.try_into().expect("the fields have the header's length")
    }

    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let mut input = &bytes[..];
        if take(&mut input).map_err(FrameError::Damaged)? != HEADER_MAGIC {
            return Err(FrameError::Foreign("no segment file"));
        }
        let kind = u16::from_le_bytes(take(&mut input).map_err(FrameError::Damaged)?);
        let version = u16::from_le_bytes(take(&mut input).map_err(FrameError::Damaged)?);
        let level = u32::from_le_bytes(take(&mut input).map_err(FrameError::Damaged)?);
        let id = u64::from_le_bytes(take(&mut input).map_err(FrameError::Damaged)?);
        if kind != KIND_BLOCKS {
            return Err(FrameError::Foreign("another kind of segment"));
        }
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if bytes[HEADER_BYTES - 4..] != crc32c::crc32c(&bytes[..HEADER_BYTES - 4]).to_le_bytes() {
            return Err(FrameError::Damaged("checksum of the header"));
        }
        Ok(Self { id, level })
    }
}

/// Is the last part of a file: where its parts are, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) schemas_offset: u64,
    pub(super) schemas_len: u32,
    pub(super) directory_offset: u64,
    pub(super) directory_len: u32,
    pub(super) blocks: u64,
    pub(super) rows: u64,
    pub(super) points: u64,
    pub(super) block_bytes: u64,
    pub(super) ts_min_ms: i64,
    pub(super) ts_max_ms: i64,
    pub(super) id: u64,
}

impl Footer {
    pub(super) fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut out = Vec::with_capacity(FOOTER_BYTES);
        out.extend_from_slice(&FOOTER_MAGIC);
        out.extend_from_slice(&self.schemas_offset.to_le_bytes());
        out.extend_from_slice(&self.directory_offset.to_le_bytes());
        out.extend_from_slice(&self.schemas_len.to_le_bytes());
        out.extend_from_slice(&self.directory_len.to_le_bytes());
        out.extend_from_slice(&self.blocks.to_le_bytes());
        out.extend_from_slice(&self.rows.to_le_bytes());
        out.extend_from_slice(&self.points.to_le_bytes());
        out.extend_from_slice(&self.block_bytes.to_le_bytes());
        out.extend_from_slice(&self.ts_min_ms.to_le_bytes());
        out.extend_from_slice(&self.ts_max_ms.to_le_bytes());
        out.extend_from_slice(&self.id.to_le_bytes());
        out.resize(FOOTER_BYTES - 4, 0);
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out.try_into().expect("the fields have the footer's length")
    }

    pub(super) fn decode(bytes: &[u8; FOOTER_BYTES]) -> Result<Self, &'static str> {
        if bytes[FOOTER_BYTES - 4..] != crc32c::crc32c(&bytes[..FOOTER_BYTES - 4]).to_le_bytes() {
            return Err("checksum of the footer");
        }
        let mut input = &bytes[..];
        if take(&mut input)? != FOOTER_MAGIC {
            return Err("no footer");
        }
        let schemas_offset = u64::from_le_bytes(take(&mut input)?);
        let directory_offset = u64::from_le_bytes(take(&mut input)?);
        let schemas_len = u32::from_le_bytes(take(&mut input)?);
        let directory_len = u32::from_le_bytes(take(&mut input)?);
        Ok(Self {
            schemas_offset,
            schemas_len,
            directory_offset,
            directory_len,
            blocks: u64::from_le_bytes(take(&mut input)?),
            rows: u64::from_le_bytes(take(&mut input)?),
            points: u64::from_le_bytes(take(&mut input)?),
            block_bytes: u64::from_le_bytes(take(&mut input)?),
            ts_min_ms: i64::from_le_bytes(take(&mut input)?),
            ts_max_ms: i64::from_le_bytes(take(&mut input)?),
            id: u64::from_le_bytes(take(&mut input)?),
        })
    }
}
