//! What of the configuration each part of the node is given.

use std::path::PathBuf;

use bridge::Streams;
use cluster::raft::RaftConfig;
use cluster_core::NodeId;

use super::{Config, ConfigError};
use crate::memory::{self, Allowed, Plan};

impl Config {
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
