//! The primitive data types on their way out (§1.5).

use bytes::BytesMut;

use crate::Text;

/// The largest value of a variable byte integer, and so the longest Remaining Length (§1.5.5).
pub(super) const VARINT_MAX: u32 = 268_435_455;

/// Takes bytes, or only counts them: a packet's lengths are counted by the code that writes it.
pub(super) trait Sink {
    fn put(&mut self, bytes: &[u8]);

    fn u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    fn text(&mut self, text: &Text) {
        self.binary(text.as_bytes());
    }

    /// A two-byte length and the bytes.
    fn binary(&mut self, bytes: &[u8]) {
        let len = u16::try_from(bytes.len()).expect("binary data is at most 65 535 bytes (§1.5.6)");
        self.u16(len);
        self.put(bytes);
    }

    /// The shortest form `[MQTT-1.5.5-1]`.
    fn varint(&mut self, mut value: u32) {
        assert!(
            value <= VARINT_MAX,
            "variable byte integer of {value} (§1.5.5)"
        );
        while value >= 0x80 {
            self.u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.u8(value as u8);
    }

    /// What `write` writes, preceded by its length as a variable byte integer.
    fn block(&mut self, write: impl Fn(&mut dyn Sink))
    where
        Self: Sized,
    {
        let mut counter = Counter::default();
        write(&mut counter);
        self.varint(counter.len());
        if counter.0 > 0 {
            write(self);
        }
    }
}

/// Counts.
#[derive(Default)]
pub(super) struct Counter(usize);

impl Counter {
    /// Bytes counted; what exceeds the type exceeds [`VARINT_MAX`] too.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

impl Sink for Counter {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

impl Sink for BytesMut {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}
