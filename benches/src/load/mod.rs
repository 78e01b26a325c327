//! The load generator: what `bench conn`, `ingest`, `fanout`, `p2p`, `offline`, `storm` and `sink`
//! run. Nothing else in the repository generates load.
//!
//! A run is a [`Case`] against an address. Its connections are dealt to workers, processes of
//! their own, each one thread with an epoll loop: packets are encoded once and patched, each
//! wake-up costs one read and one write. In a closed loop each publisher keeps a window full; in
//! an open loop messages are due at a rate, and latency counts from the due time, so that a
//! broker that stalls is charged for all who waited. Every payload carries publisher, sequence
//! and stamp, by which order and loss are checked at every subscriber.

mod cases;
mod clock;
mod connection;
mod crew;
mod engine;
mod histogram;
mod order;
mod outcome;
pub mod packet;
mod plan;
mod process;
mod sink;
mod socket;
mod storm;
mod worker;

pub(crate) use cases::CONNECTIONS_PER_WORKER;
pub use cases::{Case, Load, Other, run};
pub use crew::Launch;
pub use histogram::Histogram;
pub use order::{OrderCheck, Verdict};
pub use outcome::Outcome;
pub use outcome::grouped;
pub use packet::Version;
pub(crate) use plan::Rule;
pub use plan::WINDOW_MAX;
pub use process::{Spent, Usage, usage};
pub use sink::Sink;
pub(crate) use storm::{Back, Beside, Storm};
pub use worker::work;

/// Why a run gave no outcome.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A setting is out of its range; nothing was started.
    #[error("{0}")]
    Setting(String),
    /// A worker failed; the run was given up.
    #[error("a worker failed: {0}")]
    Worker(String),
    /// The process to be measured cannot be read.
    #[error("process {pid}: {error}")]
    Process {
        /// Its number.
        pid: u32,
        /// Why.
        error: String,
    },
    /// Not a single connection could be made.
    #[error("no connection to {0} could be made")]
    Unreachable(std::net::SocketAddr),
}
