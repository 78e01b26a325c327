//! What xtask offers to tests of other crates, tried on real processes.

mod kafka;
mod restart;
