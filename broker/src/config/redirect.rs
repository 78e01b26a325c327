//! Whether clients are told which node they should be at, and where they reach this one.

use cluster_core::ADDRESS_BYTES_MAX;
use serde::{Deserialize, Serialize};

use super::ConfigError;

/// What a client is told that connects to a node which does not lead its shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerReference {
    /// Nothing: it is served.
    #[default]
    Off,
    /// 0x9C with a Server Reference, once; MQTT 3.1.1 clients are served.
    Redirect,
}

/// Refuses what is no Server Reference (§4.11): several would be divided by spaces.
pub(super) fn check(advertise: Option<&str>) -> Result<(), ConfigError> {
    let is_sound = |server: &str| {
        (1..=ADDRESS_BYTES_MAX).contains(&server.len())
            && server.chars().all(|c| c.is_ascii_graphic())
    };
    match advertise {
        Some(server) if !is_sound(server) => Err(ConfigError::Value(format!(
            "mqtt.advertise = {server:?}: must be a host, or host:port, of at most {ADDRESS_BYTES_MAX} bytes"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn an_address_for_clients_is_one_word() {
        let config = |text: &str| toml::from_str::<Config>(text).expect("a configuration");
        let said =
            config("[mqtt]\nadvertise = \"n1.example:1883\"\nserver_reference = \"redirect\"");
        assert_eq!(said.mqtt.server_reference, ServerReference::Redirect);
        assert!(said.validate().is_ok());
        assert_eq!(
            Config::default().mqtt.server_reference,
            ServerReference::Off
        );
        for wrong in ["", "two words", "\u{7}"] {
            let error = check(Some(wrong)).unwrap_err().to_string();
            assert!(error.starts_with("mqtt.advertise = "), "{error}");
        }
        assert!(check(Some(&"x".repeat(ADDRESS_BYTES_MAX + 1))).is_err());
    }
}
