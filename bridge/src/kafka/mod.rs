//! Kafka under the line: records go out through one producer and come back through a consumer.

mod settings;

pub use settings::{Settings, SettingsError};
