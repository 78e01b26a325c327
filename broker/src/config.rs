//! The configuration of a node: one TOML file, one struct per component, each default beside its
//! unit.

mod admission;
mod redirect;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bridge::{StreamRule, Streams};
use cluster::raft::RaftConfig;
use cluster_core::NodeId;
use mqtt::Templates;
use serde::{Deserialize, Serialize};

use crate::memory::{self, Allowed, Plan};

pub use admission::Admission;
pub use redirect::ServerReference;

/// Largest packet that MQTT can express, in bytes (§1.5.5 and its fixed header).
const PACKET_BYTES_MAX: u32 = 268_435_455 + 5;
/// Of several nodes: an entry of a shard's log holds up to 1 MiB and one packet more, and has to fit
/// into one request between nodes (4 MiB, `cluster::link`).
const PACKET_BYTES_MAX_OF_SEVERAL: u32 = 2 << 20;

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

    /// Checks what no type can say.
    ///
    /// # Errors
    /// [`ConfigError::Value`] naming key, value and range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |text: String| Err(ConfigError::Value(text));
        if self.node == Some(0) {
            return refuse("node = 0: node numbers begin at 1".into());
        }
        let shards = self.cluster.shards;
        if shards == 0 || shards > SHARDS_MAX {
            return refuse(format!(
                "cluster.shards = {shards}: must be 1 to {SHARDS_MAX}"
            ));
        }
        self.cluster.templates()?;
        let listen = self.cluster.listen;
        if !listen.ip().is_loopback() && self.cluster.tls.is_none() {
            return refuse(format!(
                "cluster.listen = {listen}: without certificates ([cluster.tls]) it must be an \
                 address of loopback"
            ));
        }
        if listen.ip().is_unspecified() && self.cluster.advertise.is_none() {
            return refuse(format!(
                "cluster.listen = {listen}: cluster.advertise must say where other nodes dial this \
                 one"
            ));
        }
        self.kafka
            .check()
            .map_err(|error| ConfigError::Value(error.to_string()))?;
        if self.io_threads > crate::ids::THREADS_MAX {
            return refuse(format!(
                "io_threads = {}: must be 0 to 256",
                self.io_threads
            ));
        }
        redirect::check(self.mqtt.advertise.as_deref())?;
        if self.mqtt.receive_maximum == 0 {
            return refuse("mqtt.receive_maximum = 0: must be at least 1".into());
        }
        self.mqtt.admission.validate()?;
        if self.admin.connections_limit == 0 {
            return refuse("admin.connections_limit = 0: must be at least 1".into());
        }
        let packet = self.mqtt.packet_bytes_limit;
        if !(1_024..=PACKET_BYTES_MAX).contains(&packet) {
            return refuse(format!(
                "mqtt.packet_bytes_limit = {packet}: must be 1024 to {PACKET_BYTES_MAX}"
            ));
        }
        if !self.cluster.join.is_empty() {
            self.check_for_several()?;
        }
        if self.mqtt.queue_messages_limit == 0 || self.mqtt.queue_bytes_limit == 0 {
            return refuse(
                "mqtt.queue_messages_limit and mqtt.queue_bytes_limit must be at least 1".into(),
            );
        }
        let log = &self.telemetry.log;
        if log.log_bytes_limit < 2 * u64::from(log.segment_bytes) {
            return refuse(format!(
                "telemetry.log.log_bytes_limit = {}: must be at least two segments of \
                 telemetry.log.segment_bytes = {}",
                log.log_bytes_limit, log.segment_bytes
            ));
        }
        for (key, per_s) in [
            ("stop_disconnects_per_s", self.stop_disconnects_per_s),
            ("drain_disconnects_per_s", self.drain_disconnects_per_s),
        ] {
            if per_s == 0 {
                return refuse(format!("{key} = 0: must be at least 1"));
            }
        }
        if !self.allow_anonymous && !self.mqtt.listen.ip().is_loopback() {
            return refuse(format!(
                "mqtt.listen = {}: beyond loopback nobody would be authenticated; listen on \
                 127.0.0.1, or say --allow-anonymous",
                self.mqtt.listen
            ));
        }
        if !self.admin.listen.ip().is_loopback() {
            return refuse(format!(
                "admin.listen = {}: the admin API has no authentication yet and binds loopback only",
                self.admin.listen
            ));
        }
        self.streams().map(drop)
    }

    /// The stream rules, checked; none with `no_telemetry`.
    pub(crate) fn streams(&self) -> Result<Streams, ConfigError> {
        if self.no_telemetry {
            return Ok(Streams::none());
        }
        let has_kafka = self.kafka.bootstrap.is_some();
        Streams::new(self.telemetry.streams.clone(), has_kafka)
            .map_err(|error| ConfigError::Value(format!("telemetry.streams: {error}")))
    }

    pub(crate) fn session(&self, streams: &Streams) -> session::Config {
        let mqtt = &self.mqtt;
        session::Config {
            connect_timeout_ms: mqtt.connect_timeout.as_millis() as u64,
            receive_maximum: mqtt.receive_maximum,
            packet_bytes: mqtt.packet_bytes_limit,
            topic_alias_maximum: mqtt.topic_alias_maximum,
            session_expiry_s_max: mqtt.session_expiry_max.as_secs() as u32,
            will_delay_s_max: mqtt.will_delay_max.as_secs() as u32,
            client_id_bytes: mqtt.client_id_bytes_limit,
            topic_bytes: mqtt.topic_bytes_limit,
            topic_levels: mqtt.topic_levels_limit,
            subscriptions: mqtt.subscriptions_limit,
            queue_messages: mqtt.queue_messages_limit,
            queue_bytes: mqtt.queue_bytes_limit,
            settle_deadline_ms: mqtt.settle_deadline.as_millis() as u64,
            persistent_rules: crate::io::persistent_rules(streams),
            ..session::Config::default()
        }
    }

    pub(crate) fn codec(&self) -> mqtt::Limits {
        mqtt::Limits {
            packet_bytes_max: self.mqtt.packet_bytes_limit,
            topic_bytes_max: self.mqtt.topic_bytes_limit,
            topic_levels_max: self.mqtt.topic_levels_limit,
            client_id_bytes_max: self.mqtt.client_id_bytes_limit,
            ..mqtt::Limits::default()
        }
    }

    /// What the parts of the node may occupy.
    pub(crate) fn memory(&self) -> Plan {
        self.allowed().plan
    }

    /// What the node may use of memory, and how that is shared.
    pub(crate) fn allowed(&self) -> Allowed {
        let usable = || memory::usable() / 2;
        let bytes = self.memory_bytes_limit.unwrap_or_else(usable);
        Allowed {
            bytes,
            is_configured: self.memory_bytes_limit.is_some(),
            plan: Plan::new(bytes, self.cluster.shards),
        }
    }

    /// A flush is asked for at half of what may wait for one.
    pub(crate) fn raft(&self, folder: PathBuf, node: NodeId) -> RaftConfig {
        let mut config = RaftConfig::new(folder, node);
        let memory = self.memory();
        let flush = memory.unflushed(0, 0) / 2;
        config.flush_log_bytes = self.cluster.state_flush_bytes.min(flush);
        config.flush_age = self.cluster.state_flush_age;
        config.state_cache_bytes = memory.state_cache() as usize;
        let log = &mut config.log;
        log.queue_bytes_limit = log.queue_bytes_limit.min(memory.log_queue() as usize);
        log.cache_bytes_limit = log.cache_bytes_limit.min(memory.log_cache() as usize);
        config
    }

    /// Limits of one shard: those of the node in equal parts, where they are the node's.
    pub(crate) fn shard(&self) -> session::Limits {
        let shards = usize::from(self.cluster.shards);
        session::Limits {
            queue_messages: self.mqtt.queue_messages_limit,
            queue_bytes: self.mqtt.queue_bytes_limit,
            subscriptions: self.mqtt.subscriptions_limit,
            retained_messages: self.mqtt.retained_messages_limit.div_ceil(shards),
            retained_bytes: self.mqtt.retained_bytes_limit.div_ceil(shards),
            payload_cache_bytes: self.memory().cache() as usize,
            ..session::Limits::default()
        }
    }

    pub(crate) fn line(&self, node: u32, streams: &Streams) -> bridge::Config {
        let telemetry = &self.telemetry;
        bridge::Config {
            node,
            buckets: telemetry.buckets,
            head_bytes_limit: telemetry.head_bytes_limit,
            head_age_max: telemetry.head_age_max,
            block_rows: telemetry.block_rows,
            merge_fan_in: telemetry.merge_fan_in,
            inflight_bytes_limit: telemetry.inflight_bytes_limit,
            query_wait: telemetry.query_wait,
            log: bridge::LogConfig {
                segment_bytes: telemetry.log.segment_bytes,
                log_bytes_limit: telemetry.log.log_bytes_limit,
                read_retention: telemetry.log.read_retention,
                read_retention_bytes: telemetry.log.read_retention_bytes,
            },
            kafka: self.kafka.bootstrap.is_some().then(|| self.kafka.clone()),
            streams: streams.clone(),
            payload_bytes_max: self.mqtt.packet_bytes_limit,
            store_messages_per_s_max: telemetry.store_messages_per_s_max,
            ..bridge::Config::default()
        }
    }
}

impl Config {
    /// What a node with others may not have.
    ///
    /// # Errors
    /// It has it.
    pub(crate) fn check_for_several(&self) -> Result<(), ConfigError> {
        let packet = self.mqtt.packet_bytes_limit;
        if packet <= PACKET_BYTES_MAX_OF_SEVERAL {
            return Ok(());
        }
        Err(ConfigError::Value(format!(
            "mqtt.packet_bytes_limit = {packet}: must be at most {PACKET_BYTES_MAX_OF_SEVERAL} \
             with several nodes, or the log could not go from one to another"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_configuration_reads_back_as_itself() {
        let config = Config::default();
        let again: Config = toml::from_str(&config.to_toml()).expect("it was printed by us");
        assert_eq!(again, config);
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = toml::from_str::<Config>("[mqtt]\nlisten_on = 5").expect_err("unknown");
        assert!(error.to_string().contains("listen_on"), "{error}");
    }

    #[test]
    fn device_templates_are_checked_before_anything_starts() {
        let mut config = Config::default();
        let default = config.cluster.templates().expect("the default");
        assert_eq!(Vec::from_iter(default.iter()), ["cmd/{client_id}/#"]);
        config.cluster.device_templates = Some(vec!["cmd/{device}/#".to_owned()]);
        let error = config.validate().expect_err("no level is the client's");
        let expected = "cluster.device_templates: device template \"cmd/{device}/#\": exactly one";
        assert!(error.to_string().starts_with(expected), "{error}");
        config.cluster.device_templates = Some(Vec::new());
        config.validate().expect("none is needed");
        let again: Config = toml::from_str(&config.to_toml()).expect("it was printed by us");
        assert_eq!(again, config);
    }

    #[test]
    fn stream_rules_are_checked_before_anything_starts() {
        let mut config: Config = toml::from_str(
            "[[telemetry.streams]]
             name = 'gateways'
             filter = 'site/+/#'
             key = '{2}'",
        )
        .expect("each key is known");
        let error = config.validate().expect_err("there is no second +");
        let expected = "telemetry.streams: stream \"gateways\": key = \"{2}\" names nothing";
        assert!(error.to_string().starts_with(expected), "{error}");
        config.no_telemetry = true;
        config.validate().expect("no rule is used");
    }

    #[test]
    fn the_example_of_the_manual_is_accepted_and_begins_with_the_defaults() {
        let manual = include_str!("../../docs/streams.md");
        let example = manual
            .split("```")
            .find_map(|part| part.strip_prefix("toml\n"));
        let config: Config =
            toml::from_str(example.expect("the manual has one")).expect("each key is known");

        let streams = config.streams().expect("no rule is refused");

        let topics: Vec<_> = streams.outlets().iter().map(|one| &*one.topic).collect();
        assert_eq!(
            topics,
            ["tidewire.telemetry", "plant.alarms", "tidewire.debug"]
        );
        let first = StreamRule {
            topic: None,
            ..config.telemetry.streams[0].clone()
        };
        assert_eq!(first, StreamRule::default());
        assert_eq!(
            config.telemetry.streams[0].topic.as_deref(),
            Some("tidewire.telemetry")
        );
    }

    #[test]
    fn a_node_that_joins_others_takes_no_packets_that_their_links_do_not() {
        let mut config = Config::default();
        config.mqtt.packet_bytes_limit = (2 << 20) + 1;
        config.validate().expect("a lone node may");
        config.cluster.join = vec!["127.0.0.1:7000".to_owned()];
        let error = config.validate().expect_err("others are to get it");
        assert!(
            error
                .to_string()
                .contains("= 2097153: must be at most 2097152"),
            "{error}"
        );
        config.mqtt.packet_bytes_limit = 2 << 20;
        config.validate().expect("it fits");
    }

    #[test]
    fn an_address_beyond_loopback_needs_allow_anonymous() {
        let mut config = Config::default();
        config.mqtt.listen = SocketAddr::from(([0, 0, 0, 0], 1883));
        let error = config
            .validate()
            .expect_err("nobody would be authenticated");
        assert!(error.to_string().contains("0.0.0.0:1883"), "{error}");
        config.allow_anonymous = true;
        config.validate().expect("said aloud");
    }

    #[test]
    fn an_address_for_nodes_beyond_loopback_needs_certificates() {
        let mut config = Config::default();
        config.cluster.listen = SocketAddr::from(([192, 0, 2, 1], 7000));
        let error = config.validate().expect_err("whoever comes could speak");
        let expected = "cluster.listen = 192.0.2.1:7000: without certificates";
        assert!(error.to_string().starts_with(expected), "{error}");
        let tls = "[cluster.tls]\nca = 'ca.pem'\ncert = 'node.pem'\nkey = 'node.key'";
        let with_tls: Config = toml::from_str(tls).expect("each key is known");
        config.cluster.tls = with_tls.cluster.tls;
        config
            .validate()
            .expect("whoever comes shows a certificate");
        let again: Config = toml::from_str(&config.to_toml()).expect("it was printed by us");
        assert_eq!(again, config);

        config.cluster.listen = SocketAddr::from(([0, 0, 0, 0], 7000));
        let error = config.validate().expect_err("nobody can dial that");
        assert!(error.to_string().contains("cluster.advertise"), "{error}");
        config.cluster.advertise = Some("node-1.example:7000".to_owned());
        config.validate().expect("peers know where");
    }
}
