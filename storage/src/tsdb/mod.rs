//! The hot store: sealed segments of device blocks, named by one manifest, and a head of rows that
//! are not yet sealed.
//!
//! There is no write-ahead log here: the telemetry log is it. A seal takes the whole head into one
//! level-0 segment and commits, in one transaction of the manifest, that segment together with the
//! log's replay offsets. A merge packs segments of one level into one of the next.
//!
//! A bucket may go to the store of another node: it is frozen here, read in pages, adopted there in
//! one transaction, and dropped here once the other is its owner.
//!
//! One thread inserts, seals and drops, one merges, one adopts; any thread may read.

mod cache;
mod copy;
mod envelope;
mod error;
mod manifest;
mod marks;
mod merge;
mod output;
mod query;
mod segment;
mod store;

pub use copy::{Adoption, BucketPage};
pub use error::Error;
pub use manifest::ReplayOffset;
pub use marks::{BucketMark, Standing};
pub use query::{Query, RawPoint};
pub use store::{Config, Conflict, Defects, Inserted, LevelStats, Stats, Tsdb};

#[cfg(test)]
mod copy_test;
#[cfg(test)]
mod golden_test;
#[cfg(test)]
mod model_test;
