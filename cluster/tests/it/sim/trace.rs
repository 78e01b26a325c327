//! A digest of everything that happened in a run.

/// FNV-1a over what is noted: equal runs have equal hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trace(pub(crate) u64);

impl Trace {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Notes bytes of some kind, in the order of the calls.
    pub(crate) fn note(&mut self, kind: u8, of: u64, bytes: &[u8]) {
        let head = [&[kind][..], &of.to_le_bytes(), &bytes.len().to_le_bytes()];
        for byte in head.into_iter().flatten().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
