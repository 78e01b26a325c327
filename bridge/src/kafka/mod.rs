//! Kafka under the line: records go out through one producer and come back through a consumer.

mod settings;

pub(crate) mod message;

mod brokers;
pub(crate) mod delivery;
mod producer;
mod spool;

mod contact;
mod letters;
pub(crate) mod open;
pub(crate) mod sender;

mod consumer;
pub(crate) mod dead_letters;
mod group;
mod log;
mod watch;

#[cfg(test)]
mod test_kafka;
#[cfg(test)]
mod test_topic;

pub use settings::{Settings, SettingsError};

#[cfg(test)]
mod kafka_test;
/// Name of the source of a store that reads no topic.
pub(crate) const NO_SOURCE: &str = "none";
