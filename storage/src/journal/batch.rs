//! Entries on their way to the writer thread, already in the layout of a frame's body.

use super::frame::ENTRY_HEADER_BYTES;

/// The longest payload of one entry: an MQTT packet of the largest size (256 MiB) and its fields.
pub const ENTRY_BYTES_MAX: usize = (256 << 20) + (1 << 20);

/// Entries that are appended together and completed by one callback.
#[derive(Debug, Default)]
pub struct Batch {
    body: Vec<u8>,
    entries: u32,
}

impl Batch {
    /// Bytes that an entry takes beside its payload.
    pub const ENTRY_OVERHEAD_BYTES: usize = ENTRY_HEADER_BYTES;

    /// A batch with room for payloads of `bytes` in `entries`.
    #[must_use]
    pub fn with_capacity(entries: usize, bytes: usize) -> Self {
        Self {
            body: Vec::with_capacity(bytes + entries * ENTRY_HEADER_BYTES),
            entries: 0,
        }
    }

    /// Adds an entry whose payload `encode` appends to the buffer it is given.
    ///
    /// # Panics
    /// If the payload is longer than [`ENTRY_BYTES_MAX`], or `encode` shortens the buffer.
    pub fn push(&mut self, tag: u32, encode: impl FnOnce(&mut Vec<u8>)) {
        let at = self.body.len();
        self.body.extend_from_slice(&tag.to_le_bytes());
        self.body.extend_from_slice(&[0; ENTRY_HEADER_BYTES - 4]);
        let start = self.body.len();
        encode(&mut self.body);
        let len = self.body.len().checked_sub(start);
        let len = len.filter(|len| *len <= ENTRY_BYTES_MAX);
        let len = len.expect("an entry's payload is appended and within its bound");
        self.body[at + 4..at + 8].copy_from_slice(&(len as u32).to_le_bytes());
        self.entries += 1;
    }

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

    /// Bytes of the entries with their headers.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }
}
