//! Kafka under the line: records go out through one producer and come back through a consumer.

mod settings;

mod delivery;
mod producer;
mod spool;

pub use settings::{Settings, SettingsError};
