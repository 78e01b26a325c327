//! What a payload says: whose message it is, and that it came whole.

/// Bytes of the shortest payload: publisher (4), number (4), topic (4), zero (4), check (8), little-endian;
/// a longer one is filled with bytes that follow from the check.
pub const PAYLOAD_BYTES_MIN: usize = 24;

/// Is what a payload says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The actor that published it.
    pub publisher: u32,
    /// Its number there.
    pub number: u32,
    /// The topic.
    pub topic: u32,
}

impl Payload {
    /// Encodes it into `bytes` bytes, or [`PAYLOAD_BYTES_MIN`] if that is more.
    #[must_use]
    pub fn encode(&self, seed: u64, bytes: usize) -> Vec<u8> {
        let check = self.check(seed);
        let mut payload = Vec::with_capacity(bytes.max(PAYLOAD_BYTES_MIN));
        payload.extend(self.publisher.to_le_bytes());
        payload.extend(self.number.to_le_bytes());
        payload.extend(self.topic.to_le_bytes());
        payload.extend([0; 4]);
        payload.extend(check.to_le_bytes());
        let missing = bytes.saturating_sub(PAYLOAD_BYTES_MIN);
        payload.extend((0..missing).map(|at| filling(check, at)));
        payload
    }

    /// Decodes it; `None` if it is not as some actor of the run has encoded it.
    #[must_use]
    pub fn decode(payload: &[u8], seed: u64) -> Option<Self> {
        let word = |at: usize| {
            let bytes = payload.get(at..at + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        let decoded = Self {
            publisher: word(0)?,
            number: word(4)?,
            topic: word(8)?,
        };
        let check = decoded.check(seed);
        let stands = payload.get(16..PAYLOAD_BYTES_MIN)?;
        let mut rest = payload[PAYLOAD_BYTES_MIN..].iter().enumerate();
        let is_whole = stands == check.to_le_bytes()
            && word(12) == Some(0)
            && rest.all(|(at, byte)| *byte == filling(check, at));
        is_whole.then_some(decoded)
    }

    fn check(&self, seed: u64) -> u64 {
        let (publisher, number) = (u64::from(self.publisher), u64::from(self.number));
        benches::profile::mix(&[seed, publisher, number, u64::from(self.topic)])
    }
}

fn filling(check: u64, at: usize) -> u8 {
    (check >> (at % 8 * 8)) as u8 ^ at as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYLOAD: Payload = Payload {
        publisher: 7,
        number: 4_711,
        topic: 12,
    };

    #[test]
    fn a_payload_reads_back_whatever_its_length() {
        for bytes in [0, PAYLOAD_BYTES_MIN, 25, 300] {
            let encoded = PAYLOAD.encode(3, bytes);
            assert_eq!(encoded.len(), bytes.max(PAYLOAD_BYTES_MIN));
            assert_eq!(Payload::decode(&encoded, 3), Some(PAYLOAD));
        }
    }

    #[test]
    fn a_changed_byte_a_missing_byte_and_another_run_are_seen() {
        let encoded = PAYLOAD.encode(3, 64);
        for at in 0..encoded.len() {
            let mut changed = encoded.clone();
            changed[at] ^= 0x10;
            assert_eq!(Payload::decode(&changed, 3), None, "byte {at}");
        }
        assert_eq!(Payload::decode(&encoded[..20], 3), None);
        assert_eq!(Payload::decode(&encoded, 4), None);
        assert_eq!(Payload::decode(b"", 3), None);
    }
}
