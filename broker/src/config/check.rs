//! What of a configuration is refused.

use super::{Config, ConfigError, SHARDS_MAX, redirect};

/// Largest packet that MQTT can express, in bytes (§1.5.5 and its fixed header).
const PACKET_BYTES_MAX: u32 = 268_435_455 + 5;
/// Of several nodes: an entry of a shard's log holds up to 1 MiB and one packet more, and has to fit
/// into one request between nodes (4 MiB, `cluster::link`).
const PACKET_BYTES_MAX_OF_SEVERAL: u32 = 2 << 20;

impl Config {
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
