//! What a decoder refuses before it takes memory for it.

/// The largest packet accepted before the client is authenticated, in bytes.
pub const UNAUTHENTICATED_PACKET_BYTES_MAX: u32 = 64 * 1024;

/// Upper bounds on what is decoded. All are checked while reading, before memory is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Whole packet with its fixed header, in bytes (§3.1.2.11.4 counts so). Beyond: 0x95.
    pub packet_bytes_max: u32,
    /// Topic name, response topic or topic filter, in bytes. Beyond: 0x90 or 0x8F.
    pub topic_bytes_max: usize,
    /// Levels of a topic name, response topic or topic filter. Beyond: 0x90 or 0x8F.
    pub topic_levels_max: usize,
    /// Client identifier, in bytes. Beyond: 0x85.
    pub client_id_bytes_max: usize,
    /// User properties of one packet; a will has its own count. Beyond: 0x97.
    pub user_properties_max: usize,
    /// Names and values of these together, in bytes. Beyond: 0x97.
    pub user_properties_bytes_max: usize,
    /// Filters of one SUBSCRIBE or UNSUBSCRIBE, codes of one answer. Beyond: 0x97.
    pub filters_max: usize,
    /// Subscription identifiers of one PUBLISH that a client receives. Beyond: 0x97.
    pub subscription_ids_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packet_bytes_max: 1024 * 1024,
            topic_bytes_max: 512,
            topic_levels_max: 32,
            client_id_bytes_max: 256,
            user_properties_max: 64,
            user_properties_bytes_max: 16 * 1024,
            filters_max: 256,
            subscription_ids_max: 256,
        }
    }
}

impl Limits {
    /// The same limits with packets of at most [`UNAUTHENTICATED_PACKET_BYTES_MAX`].
    #[must_use]
    pub fn unauthenticated(self) -> Self {
        Self {
            packet_bytes_max: self.packet_bytes_max.min(UNAUTHENTICATED_PACKET_BYTES_MAX),
            ..self
        }
    }
}
