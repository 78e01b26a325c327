//! Points, rows, payload decoders, clock guard and the block codec; no I/O.
//!
//! The modules stand in the order in which data meets them: a payload of a [`DeviceId`] in a
//! [`bucket`] is decoded ([`payload`], guarded by [`clock`]) into a [`Row`], merged into the
//! [`Head`], sealed into [`block`]s, and read back through [`query`].
//!
//! Time is an argument everywhere and means milliseconds since the Unix epoch.

pub mod bucket;
pub mod clock;
pub mod device;
pub mod payload;
pub mod row;

pub mod head;

pub mod block;
pub mod schemas;

pub mod query;

pub mod sample;

pub use bucket::bucket_of;
pub use device::DeviceId;
pub use head::{Head, Merge, Stamp};
pub use row::{MetricName, Row, Schema};
pub use schemas::{SchemaId, Schemas};
