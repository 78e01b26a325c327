//! How the telemetry line is cut and bounded.

use std::time::Duration;

use runtime::Restarts;

use crate::kafka::Settings;
use crate::stream::{StreamRule, Streams};

/// Is the configuration of a node's telemetry line.
#[derive(Clone, Debug)]
pub struct Config {
    /// Number of the node; a part of every stamp.
    pub node: u32,
    /// Buckets (= partitions), 1 to 65 535; fixed when the folder is created.
    pub buckets: u16,
    /// Memory of the rows not yet sealed, in bytes, at which they are sealed.
    pub head_bytes_limit: u64,
    /// Age of the oldest row not yet sealed at which they are sealed.
    pub head_age_max: Duration,
    /// Rows of a merged block, 1 to 4 096.
    pub block_rows: usize,
    /// Segments of one level that are merged into one of the next, 2 to 64.
    pub merge_fan_in: usize,
    /// Bytes submitted and not yet durable, at which a batch is refused.
    pub inflight_bytes_limit: u64,
    /// How long a query waits for the store's writer to pass the log's end.
    pub query_wait: Duration,
    /// The embedded log.
    pub log: LogConfig,
    /// Kafka instead of the embedded log.
    pub kafka: Option<Settings>,
    /// Which topics are telemetry, and where each goes.
    pub streams: Streams,
    /// Largest payload of a message, in bytes.
    pub payload_bytes_max: u32,
    /// Messages that the store's writer takes per second at most; none: as fast as it can. For
    /// tests of back-pressure, and for a machine that has more to do.
    pub store_messages_per_s_max: Option<u32>,
    /// Where it is counted that an actor was started again.
    pub restarts: Restarts,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: 1,
            buckets: 64,
            head_bytes_limit: 256 << 20,
            head_age_max: Duration::from_secs(60),
            block_rows: 120,
            merge_fan_in: 4,
            inflight_bytes_limit: 64 << 20,
            query_wait: Duration::from_secs(2),
            log: LogConfig::default(),
            kafka: None,
            streams: Streams::new(vec![StreamRule::default()], false)
                .expect("the default rule is good"),
            payload_bytes_max: 1 << 20,
            store_messages_per_s_max: None,
            restarts: Restarts::default(),
        }
    }
}

/// Is the configuration of the embedded log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Size in bytes at which a segment file is closed.
    pub segment_bytes: u32,
    /// Bytes on disk at which PUBACK is withheld.
    pub log_bytes_limit: u64,
    /// How long records stay that the store has.
    pub read_retention: Duration,
    /// How many bytes of records stay that the store has.
    pub read_retention_bytes: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            log_bytes_limit: 10 << 30,
            read_retention: Duration::from_hours(24),
            read_retention_bytes: 1 << 30,
        }
    }
}
