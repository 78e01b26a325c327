//! Three whole nodes but for the broker, on turmoil: openraft with this crate's log, driver, links
//! and membership, on disks that lose what was not synced and a network that parts. One thread, one
//! time, one seed.
//!
//! Each node is a turmoil host. Its log takes turns instead of having threads, and what else blocks
//! on the disk runs where it is asked for ([`RaftNode::open_in_turns`]); so a seed gives the same
//! run again, byte for byte.
//!
//! [`RaftNode::open_in_turns`]: tidewire_cluster::raft::RaftNode::open_in_turns

mod defect;
mod host;
mod ledger;
mod net;
mod node;
mod record;
mod schedule;
mod trace;
mod work;
mod world;

pub(crate) use defect::Defect;
pub(crate) use world::{Report, run};
