//! From the broker to the log, and from the log to the time-series store.
//!
//! The broker holds one [`Telemetry`]: connections submit batches through [`Ingest`] and are
//! told when these are durable; a writer reads them back from the log into the hot store;
//! [`QueryService`] answers from it.

#![forbid(unsafe_code)]

mod config;
mod ingest;
mod line;
pub mod log;
mod query;
mod stream;

pub use config::{Config, LogConfig};
pub use ingest::{
    Batch, Done, Ingest, Message, Outcome, READY_CALLBACKS_MAX, Refused, RefusedReason,
};
pub use line::{Fatal, OnFatal, OpenError, Telemetry};
pub use query::{QueryError, QueryRequest, QueryService};
pub use stream::{
    DEVICE_ID_BYTES_MAX, Mode, RuleError, STREAM_NAME_BYTES_MAX, STREAM_RULES_MAX, StreamId,
    StreamRule, Streams,
};
