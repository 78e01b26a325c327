//! From the broker to the log, and from the log to the time-series store.
//!
//! The broker holds one [`Telemetry`]: connections submit batches through [`Ingest`] and are
//! told when these are durable; a writer reads them back from the log into the hot store;
//! [`QueryService`] answers from it.

#![forbid(unsafe_code)]

mod stream;

mod buckets;

mod config;

mod ingest;
mod room;

mod embedded;
mod log;
#[cfg(test)]
mod log_conformance;

mod counters;
mod dead_letter;
mod merger;
mod processor;
mod progress;
mod writer;

mod overlay;
mod query;
mod stopped;

mod line;
mod parts;

mod operations;

pub mod kafka;

pub use buckets::{
    Alone, Answering, Asked, Claim, Cluster, MoveCounts, OwnerLag, PullStatus, Reply, Table,
    TableRow,
};
pub use config::{Config, LogConfig};
pub use counters::DeadLetterReason;
pub use dead_letter::DeadLetter;
pub use ingest::{Batch, Ingest, Message, OutletId, Refused, RefusedReason};
#[doc(hidden)]
pub use line::Defects;
pub use line::{Fatal, OnFatal, OpenError, Telemetry};
pub use log::{Outcome, Port, PortId, Ticket};
pub use operations::OperationError;
pub use query::{QueryError, QueryRequest, QueryService};
pub use room::READY_CALLBACKS_MAX;
pub use stopped::{StoppedError, StoppedNode};
pub use stream::{
    Class, DEAD_LETTER_SUFFIX, DEVICE_ID_BYTES_MAX, Mode, Outlet, PersistentSubscribers, RuleError,
    STREAM_NAME_BYTES_MAX, STREAM_RULES_MAX, StreamId, StreamRule, Streams, TOPIC_BYTES_MAX,
};
