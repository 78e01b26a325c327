//! How the node reaches Kafka, and what it may hold while Kafka is slow or away.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};

/// Is how the node reaches Kafka and what it may hold for it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Addresses of Kafka brokers, separated by commas; absent: the embedded log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<String>,
    /// Age of the oldest unconfirmed record of a partition from which on the partition is away.
    #[serde(with = "humantime_serde")]
    pub away_after: Duration,
    /// Bytes of records handed to Kafka's client and not yet confirmed.
    pub producer_bytes_limit: u64,
    /// Bytes on disk of one topic's spool, at which PUBACKs are withheld.
    pub spool_bytes_limit: u64,
    /// Size in bytes at which a segment file of a spool is closed.
    pub spool_segment_bytes: u32,
    /// Age from which on a spooled record of QoS 0 is dropped instead of sent.
    #[serde(with = "humantime_serde")]
    pub spool_age_max: Duration,
    /// Replicas of a topic that the node creates; absent: as Kafka's broker is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication: Option<u16>,
    /// Goes on from the first record still there when Kafka has deleted records that the store
    /// never read. Without it the store stops and says so.
    pub accept_gap: bool,
    /// More properties of librdkafka, by their names there, such as `security.protocol`.
    pub properties: BTreeMap<String, String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bootstrap: None,
            away_after: Duration::from_secs(3),
            producer_bytes_limit: 64 << 20,
            spool_bytes_limit: 10 << 30,
            spool_segment_bytes: 16 << 20,
            spool_age_max: Duration::from_hours(24),
            replication: None,
            accept_gap: false,
            properties: BTreeMap::new(),
        }
    }
}

/// Says which setting is refused; nothing was started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(pub String);

/// Properties that the bridge's promises rest on.
const OWN: [&str; 12] = [
    "acks",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "group.id",
    "max.in.flight.requests.per.connection",
    "message.send.max.retries",
    "message.timeout.ms",
    "request.required.acks",
    "retries",
    "transactional.id",
];
/// Parts of a property's name that say its value is a secret.
const SECRET: [&str; 4] = ["password", "secret", "token", "key.pem"];

impl Settings {
    /// Checks what no type can say.
    ///
    /// # Errors
    /// Names the key, its value and its range.
    pub fn check(&self) -> Result<(), SettingsError> {
        let refuse = |text: String| Err(SettingsError(text));
        if let Some(bootstrap) = &self.bootstrap
            && !bootstrap.split(',').all(is_address)
        {
            return refuse(format!(
                "kafka.bootstrap = {bootstrap:?}: must be HOST:PORT, or several separated by commas"
            ));
        }
        if self.away_after < Duration::from_millis(100) {
            return refuse(format!(
                "kafka.away_after = {:?}: must be at least 100ms",
                self.away_after
            ));
        }
        if !((1 << 20)..=(1 << 40)).contains(&self.producer_bytes_limit) {
            return refuse(format!(
                "kafka.producer_bytes_limit = {}: must be {} to {}",
                self.producer_bytes_limit,
                1 << 20,
                1_u64 << 40
            ));
        }
        if self.spool_bytes_limit < 2 * u64::from(self.spool_segment_bytes) {
            return refuse(format!(
                "kafka.spool_bytes_limit = {}: must be at least two segments of \
                 kafka.spool_segment_bytes = {}",
                self.spool_bytes_limit, self.spool_segment_bytes
            ));
        }
        if self.replication == Some(0) {
            return refuse("kafka.replication = 0: must be at least 1".to_owned());
        }
        if let Some(name) = OWN.iter().find(|name| self.properties.contains_key(**name)) {
            return refuse(format!(
                "kafka.properties: {name} is set by the bridge; its promises rest on it"
            ));
        }
        // Unknown names and impossible values are librdkafka's to know.
        self.client()
            .create_native_config()
            .map(drop)
            .map_err(|error| SettingsError(format!("kafka.properties: {error}")))
    }

    /// Is what every client of this node has in common.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.bootstrap.as_deref().unwrap_or(""))
            .set("client.id", "tidewire")
            // A broker that is back must be found soon: the default backs off up to 10 s.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.keepalive.enable", "true");
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
    }

    /// Is the settings as they may be shown: secrets as `***`.
    #[must_use]
    pub fn shown(&self) -> Self {
        let mut shown = self.clone();
        for (name, value) in &mut shown.properties {
            if SECRET.iter().any(|part| name.contains(part)) {
                "***".clone_into(value);
            }
        }
        shown
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.shown();
        f.debug_struct("Settings")
            .field("bootstrap", &shown.bootstrap)
            .field("properties", &shown.properties)
            .finish_non_exhaustive()
    }
}

fn is_address(text: &str) -> bool {
    text.trim().rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = Settings {
            bootstrap: Some("127.0.0.1:9092".to_owned()),
            ..Settings::default()
        };
        settings.check().expect("the rest is good");
        change(&mut settings);
        settings.check().expect_err("it is bad").0
    }

    #[test]
    fn an_address_without_a_port_is_named() {
        let error = refused(|one| one.bootstrap = Some("a:1,kafka".to_owned()));
        assert!(error.contains("a:1,kafka"), "{error}");
    }

    #[test]
    fn properties_that_promises_rest_on_cannot_be_set() {
        let error = refused(|one| {
            one.properties.insert("acks".to_owned(), "1".to_owned());
        });
        assert!(error.contains("acks"), "{error}");
    }

    #[test]
    fn a_property_that_librdkafka_does_not_know_is_named() {
        let error = refused(|one| {
            one.properties
                .insert("sekurity.protocol".to_owned(), "x".to_owned());
        });
        assert!(error.contains("sekurity.protocol"), "{error}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut settings = Settings::default();
        settings
            .properties
            .insert("sasl.password".to_owned(), "hunter2".to_owned());
        assert!(!format!("{settings:?}").contains("hunter2"));
        assert_eq!(settings.shown().properties["sasl.password"], "***");
    }
}
