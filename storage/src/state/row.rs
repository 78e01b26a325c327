//! Rows: a kind, a key and a value, with a checksum over all of them, since redb checks its pages
//! only when it is opened.

use bytes::Bytes;

/// Bytes before a stored value.
const CHECKSUM_BYTES: usize = 4;

/// A row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Which sort of thing it is.
    pub kind: u8,
    /// Its name among those.
    pub key: Bytes,
    /// What is kept of it.
    pub value: Bytes,
}

/// Rows to be put and deleted together, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    pub(super) rows: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    bytes: usize,
}

impl Changes {
    /// Puts a row, in place of one of the same kind and key.
    pub fn put(&mut self, kind: u8, key: &[u8], value: &[u8]) {
        let key = stored_key(kind, key);
        let value = seal(&key, value);
        self.bytes += key.len() + value.len();
        self.rows.push((key, Some(value)));
    }

    /// Deletes a row; nothing happens if there is none.
    pub fn delete(&mut self, kind: u8, key: &[u8]) {
        let key = stored_key(kind, key);
        self.bytes += key.len();
        self.rows.push((key, None));
    }

    /// Bytes of keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// The key of a row in the table: rows of a kind lie together, ordered by their keys.
pub(super) fn stored_key(kind: u8, key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(1 + key.len());
    stored.push(kind);
    stored.extend_from_slice(key);
    stored
}

/// A value with the checksum over its key and itself.
pub(super) fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(CHECKSUM_BYTES + value.len());
    stored.extend_from_slice(&checksum(key, value).to_le_bytes());
    stored.extend_from_slice(value);
    stored
}

/// The value that was sealed under this key, if it is unharmed.
pub(super) fn unseal<'a>(key: &[u8], stored: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, value) = stored.split_first_chunk::<CHECKSUM_BYTES>()?;
    (u32::from_le_bytes(*sum) == checksum(key, value)).then_some(value)
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    // The length keeps a byte from moving between key and value.
    let crc = crc32c::crc32c(&(key.len() as u64).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(crc, key), value)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_value_comes_back_under_its_own_key_only() {
        let stored = seal(b"\x01key", b"value");
        assert_eq!(unseal(b"\x01key", &stored), Some(&b"value"[..]));
        assert_eq!(unseal(b"\x02key", &stored), None);
        assert_eq!(unseal(b"\x01ke", &stored), None);
        assert_eq!(unseal(b"\x01key", &stored[..3]), None);
        for at in 0..stored.len() {
            let mut flipped = stored.clone();
            flipped[at] ^= 4;
            assert_eq!(unseal(b"\x01key", &flipped), None, "{at}");
        }
    }

    #[test]
    fn a_sealed_value_has_these_bytes() {
        assert_eq!(stored_key(7, b"k"), b"\x07k");
        assert_eq!(seal(b"\x07k", b"v"), b"\x20\xb6\x78\x8bv");
    }
}
