//! The configuration of a node: one TOML file, one struct per component, each default beside its
//! unit.

mod admission;
mod check;
#[cfg(test)]
mod config_test;
mod parts;
mod redirect;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bridge::StreamRule;
use mqtt::Templates;
use serde::{Deserialize, Serialize};

pub use admission::Admission;
pub use redirect::ServerReference;

/// The device-owned template of a new cluster whose configuration names none.
const DEVICE_TEMPLATE: &str = "cmd/{client_id}/#";

/// Most session shards of a cluster.
pub const SHARDS_MAX: u16 = 128;

/// A node's whole configuration. Every key may be absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Data folder.
    pub data: PathBuf,
    /// Node number, at least 1; absent: the one in the data folder, else 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<u32>,
    /// Serve as a plain broker: no topic is telemetry.
    pub no_telemetry: bool,
    /// Serve listeners beyond loopback although nobody is authenticated.
    pub allow_anonymous: bool,
    /// Threads that connections live on; 0: one per usable core.
    pub io_threads: usize,
    /// Memory that the node plans with, in bytes: bounds what of the queues stays in memory.
    /// Absent: half of what machine or cgroup allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes_limit: Option<u64>,
    /// How long a stop may take before what is still open is cut.
    #[serde(with = "humantime_serde")]
    pub stop_deadline: Duration,
    /// Clients disconnected per second at a stop.
    pub stop_disconnects_per_s: u32,
    /// Clients sent to other nodes per second while the node gives up what it holds.
    pub drain_disconnects_per_s: u32,
    /// The MQTT listener and its limits.
    pub mqtt: Mqtt,
    /// The admin HTTP listener.
    pub admin: Admin,
    /// The cluster.
    pub cluster: Cluster,
    /// Kafka.
    pub kafka: bridge::kafka::Settings,
    /// Telemetry.
    pub telemetry: Telemetry,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: "tidewire-data".into(),
            node: None,
            no_telemetry: false,
            allow_anonymous: false,
            io_threads: 0,
            memory_bytes_limit: None,
            stop_deadline: Duration::from_secs(30),
            stop_disconnects_per_s: 5_000,
            drain_disconnects_per_s: 500,
            mqtt: Mqtt::default(),
            admin: Admin::default(),
            cluster: Cluster::default(),
            kafka: bridge::kafka::Settings::default(),
            telemetry: Telemetry::default(),
        }
    }
}

/// The MQTT listener and the limits of its connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mqtt {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Where clients reach this node, `host` or `host:port`, as MQTT 5 clients are told that are to be here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// Whether MQTT 5 clients that connect are sent to the node that leads their shard.
    pub server_reference: ServerReference,
    /// Connections that may wait to be accepted.
    pub backlog: u32,
    /// Time from accept to a complete CONNECT and its answer.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Largest packet in bytes; 64 KiB before authentication in any case.
    pub packet_bytes_limit: u32,
    /// QoS > 0 messages a client may have unacknowledged.
    pub receive_maximum: u16,
    /// Topic aliases a client may use.
    pub topic_alias_maximum: u16,
    /// Longest topic or filter in bytes.
    pub topic_bytes_limit: usize,
    /// Most levels of a topic or filter.
    pub topic_levels_limit: usize,
    /// Longest client id in bytes.
    pub client_id_bytes_limit: usize,
    /// Subscriptions of one client.
    pub subscriptions_limit: usize,
    /// Messages in the queue of one session.
    pub queue_messages_limit: usize,
    /// Bytes in the queue of one session.
    pub queue_bytes_limit: usize,
    /// Longest session expiry interval.
    #[serde(with = "humantime_serde")]
    pub session_expiry_max: Duration,
    /// Longest will delay interval.
    #[serde(with = "humantime_serde")]
    pub will_delay_max: Duration,
    /// How long something may stay unacknowledged before its connection is closed.
    #[serde(with = "humantime_serde")]
    pub settle_deadline: Duration,
    /// Bytes read on behind a held PUBLISH before the socket is not read any more.
    pub stash_bytes_limit: usize,
    /// Retained messages of the node.
    pub retained_messages_limit: usize,
    /// Bytes of the retained messages of the node.
    pub retained_bytes_limit: usize,
    /// Bounds of clients that connect.
    pub admission: Admission,
}

impl Default for Mqtt {
    fn default() -> Self {
        let session = session::Config::default();
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 1883)),
            advertise: None,
            server_reference: ServerReference::Off,
            backlog: 4_096,
            connect_timeout: Duration::from_millis(session.connect_timeout_ms),
            packet_bytes_limit: session.packet_bytes,
            receive_maximum: session.receive_maximum,
            topic_alias_maximum: session.topic_alias_maximum,
            topic_bytes_limit: session.topic_bytes,
            topic_levels_limit: session.topic_levels,
            client_id_bytes_limit: session.client_id_bytes,
            subscriptions_limit: session.subscriptions,
            queue_messages_limit: session.queue_messages,
            queue_bytes_limit: session.queue_bytes,
            session_expiry_max: Duration::from_secs(u64::from(session.session_expiry_s_max)),
            will_delay_max: Duration::from_secs(u64::from(session.will_delay_s_max)),
            settle_deadline: Duration::from_millis(session.settle_deadline_ms),
            stash_bytes_limit: 16 << 10,
            retained_messages_limit: 1_000_000,
            retained_bytes_limit: 256 << 20,
            admission: Admission::default(),
        }
    }
}

/// The admin HTTP listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Connections at a time; further ones wait to be accepted.
    pub connections_limit: usize,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            connections_limit: 256,
        }
    }
}

/// The cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// Address for other nodes. Without `[cluster.tls]` it must be of loopback.
    pub listen: SocketAddr,
    /// Where other nodes are to dial this one, host and port; by default what `listen` is bound to,
    /// which cannot be all addresses then.
    pub advertise: Option<String>,
    /// Addresses of members to ask, in this order, when the data folder is new; else without
    /// effect.
    pub join: Vec<String>,
    /// Session shards, 1 to 128; fixed when the data folder is created.
    pub shards: u16,
    /// Topics that belong to one client each, with a level `{client_id}`, 8 of 128 bytes at most;
    /// fixed when the cluster is founded. Absent: `cmd/{client_id}/#` for a new cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_templates: Option<Vec<String>>,
    /// Rows that say which shard or node wants which filter; SUBACKs beyond wait.
    pub routes_limit: usize,
    /// Bytes of a shard's log after which its state is written out.
    pub state_flush_bytes: u64,
    /// Age of the oldest change that is in no state file after which it is written out.
    #[serde(with = "humantime_serde")]
    pub state_flush_age: Duration,
    /// Certificates, by which nodes know each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClusterTls>,
}

/// PEM files of what a node shows to other nodes, and whom it believes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterTls {
    /// The authorities whose certificates are believed.
    pub ca: PathBuf,
    /// The node's certificate, which names its number, and those between it and an authority.
    pub cert: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
}

impl Default for Cluster {
    fn default() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 7000));
        Self {
            listen,
            advertise: None,
            join: Vec::new(),
            shards: 32,
            device_templates: None,
            routes_limit: 1_000_000,
            state_flush_bytes: 32 << 20,
            state_flush_age: Duration::from_secs(60),
            tls: None,
        }
    }
}

impl Cluster {
    /// Where other nodes are to dial this one, which listens there.
    pub(crate) fn address(&self, bound: &str) -> String {
        self.advertise.clone().unwrap_or_else(|| bound.to_owned())
    }

    /// The device-owned templates of a cluster that is founded with this.
    ///
    /// # Errors
    /// [`ConfigError::Value`] naming the template and what is wrong with it.
    pub(crate) fn templates(&self) -> Result<Templates, ConfigError> {
        let templates = match &self.device_templates {
            Some(templates) => Templates::parse(templates),
            None => Templates::parse([DEVICE_TEMPLATE]),
        };
        templates.map_err(|error| ConfigError::Value(format!("cluster.device_templates: {error}")))
    }
}

/// Telemetry: stream rules, log and hot store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// Buckets (partitions); fixed when the data folder is created.
    pub buckets: u16,
    /// Memory of rows not yet sealed, in bytes, at which they are sealed.
    pub head_bytes_limit: u64,
    /// Age of the oldest row not yet sealed at which they are sealed.
    #[serde(with = "humantime_serde")]
    pub head_age_max: Duration,
    /// Rows of a merged block.
    pub block_rows: usize,
    /// Segments of one level that are merged into one of the next.
    pub merge_fan_in: usize,
    /// Bytes submitted to the log and not yet durable, at which PUBACKs are withheld.
    pub inflight_bytes_limit: u64,
    /// How long a query waits for the store's writer to pass the log's end.
    #[serde(with = "humantime_serde")]
    pub query_wait: Duration,
    /// Messages that the store's writer takes per second at most; absent: as fast as it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_messages_per_s_max: Option<u32>,
    /// The embedded log.
    pub log: TelemetryLog,
    /// Which topics are telemetry, and whose.
    pub streams: Vec<StreamRule>,
}

impl Default for Telemetry {
    fn default() -> Self {
        let line = bridge::Config::default();
        Self {
            buckets: line.buckets,
            head_bytes_limit: line.head_bytes_limit,
            head_age_max: line.head_age_max,
            block_rows: line.block_rows,
            merge_fan_in: line.merge_fan_in,
            inflight_bytes_limit: line.inflight_bytes_limit,
            query_wait: line.query_wait,
            store_messages_per_s_max: None,
            log: TelemetryLog::default(),
            streams: vec![StreamRule::default()],
        }
    }
}

/// The embedded log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryLog {
    /// Size in bytes at which a segment file is closed.
    pub segment_bytes: u32,
    /// Bytes on disk at which PUBACKs are withheld.
    pub log_bytes_limit: u64,
    /// How long records stay that the store has.
    #[serde(with = "humantime_serde")]
    pub read_retention: Duration,
    /// How many bytes of records stay that the store has.
    pub read_retention_bytes: u64,
}

impl Default for TelemetryLog {
    fn default() -> Self {
        let log = bridge::LogConfig::default();
        Self {
            segment_bytes: log.segment_bytes,
            log_bytes_limit: log.log_bytes_limit,
            read_retention: log.read_retention,
            read_retention_bytes: log.read_retention_bytes,
        }
    }
}

/// Why a configuration is refused. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// The file is no configuration; names the key and its place.
    #[error("{path}: {error}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        error: Box<toml::de::Error>,
    },
    /// A value is out of its range or goes against another.
    #[error("{0}")]
    Value(String),
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError::Read`], [`ConfigError::Parse`].
    pub fn read(path: &std::path::Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read {
            path: path.into(),
            error,
        })?;
        toml::from_str(&text).map_err(|error| ConfigError::Parse {
            path: path.into(),
            error: Box::new(error),
        })
    }

    /// The configuration as a TOML file that says the same, secrets as `***`.
    pub fn to_toml(&self) -> String {
        let mut shown = self.clone();
        shown.kafka = self.kafka.shown();
        toml::to_string_pretty(&shown).expect("plain values are TOML")
    }
}
