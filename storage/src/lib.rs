//! What lies on disk: journal, embedded log, Raft log, state files, segments and manifest of the
//! hot store.
//!
//! Everything reaches the disk through [`fs::Fs`], so that tests can put a disk underneath that
//! loses and tears what was not synced.

mod backend;
pub mod fs;
pub mod journal;
pub mod log;
pub mod raft;
pub mod state;
pub mod tsdb;
mod turns;

pub use turns::Turns;
