//! Kafka under the line: records go out through one producer and come back through a consumer.

mod settings;

mod delivery;

pub use settings::{Settings, SettingsError};
