//! The bounds of a connection.

use mqtt::Filter;

/// Bounds and defaults of [`crate::Live`], shared by all connections of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Milliseconds from accept to a complete CONNECT and its answer.
    pub connect_timeout_ms: u64,
    /// QoS > 0 messages a client may have unacknowledged (Receive Maximum), at least 1.
    pub receive_maximum: u16,
    /// Largest packet in bytes that clients may send (enforced by the codec, announced here).
    pub packet_bytes: u32,
    /// Topic aliases a client may use.
    pub topic_alias_maximum: u16,
    /// Longest keep alive in seconds of MQTT 5; a longer one, or none, is replaced by it. `None`:
    /// the client's choice stands, as it does in 3.1.1.
    pub keep_alive_s_max: Option<u16>,
    /// Longest session expiry interval in seconds.
    pub session_expiry_s_max: u32,
    /// Longest will delay interval in seconds.
    pub will_delay_s_max: u32,
    /// Longest client id in bytes.
    pub client_id_bytes: usize,
    /// Longest topic or filter in bytes.
    pub topic_bytes: usize,
    /// Most levels of a topic or filter.
    pub topic_levels: usize,
    /// Subscriptions of a clean session; a filter beyond is refused with 0x97.
    pub subscriptions: usize,
    /// Messages that wait in a connection: of a clean session all, of a persistent one QoS 0.
    pub queue_messages: usize,
    /// Bytes ([`crate::Message::bytes`]) that wait in a connection.
    pub queue_bytes: usize,
    /// Retained messages asked for one filter.
    pub retained_rows: usize,
    /// Milliseconds something may stay unsettled before the connection is closed with 0x89.
    pub settle_deadline_ms: u64,
    /// Requests (SUBSCRIBE, UNSUBSCRIBE) a client may have unanswered; beyond, 0x96.
    pub requests: usize,
    /// What persistent sessions get on which topics; of several that fit the strictest holds.
    pub persistent_rules: Vec<PersistentRule>,
}

/// What a persistent session gets that asks for QoS > 0 by a filter that overlaps this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersistentRule {
    /// The topics.
    pub filter: Filter,
    /// What it gets.
    pub policy: PersistentPolicy,
}

/// What a persistent session gets that asks for QoS > 0; the stricter the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PersistentPolicy {
    /// What it asked for.
    Allow,
    /// QoS 0.
    Qos0,
    /// A refusal: 0x87, in 3.1.1 0x80.
    Deny,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 5_000,
            receive_maximum: 32,
            packet_bytes: 1 << 20,
            topic_alias_maximum: 16,
            keep_alive_s_max: None,
            session_expiry_s_max: 7 * 24 * 3_600,
            will_delay_s_max: 3_600,
            client_id_bytes: 256,
            topic_bytes: 512,
            topic_levels: 32,
            subscriptions: 256,
            queue_messages: 1_000,
            queue_bytes: 1 << 20,
            retained_rows: 1_000,
            settle_deadline_ms: 30_000,
            requests: 64,
            persistent_rules: Vec::new(),
        }
    }
}
