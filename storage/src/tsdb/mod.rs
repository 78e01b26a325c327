//! The hot store: sealed segments of device blocks, named by one manifest, and a head of rows that
//! are not yet sealed.
//!
//! There is no write-ahead log here: the telemetry log is it. A seal takes the whole head into one
//! level-0 segment and commits, in one transaction of the manifest, that segment together with the
//! log's replay offsets. A merge packs segments of one level into one of the next.
//!
//! One thread inserts and seals, one merges; any thread may read.

mod cache;
mod envelope;
mod error;
mod manifest;
mod merge;
mod query;
mod segment;
mod store;

pub use error::Error;
pub use manifest::ReplayOffset;
pub use query::{Query, RawPoint};
pub use store::{Config, Conflict, Defects, Inserted, LevelStats, Stats, Tsdb};

#[cfg(test)]
mod golden_test;
#[cfg(test)]
mod model_test;
