//! Bringing groups from where they are to where placement wants them.
//!
//! Meta's leader plans ([`plan`]): rows of moves, few at a time. The leader of a group carries its
//! row out ([`Mover`]): learners first, one joint change once they are close behind, then those
//! that stay behind are taken out, and the row becomes the placement. What has been done is never
//! written down but read off the group's committed members, so every step can be repeated, and any
//! later leader goes on where the one before stopped. Replicas that are members no longer stand in
//! meta until their node has deleted them ([`crate::Meta::leftovers`]).

mod mover;
#[cfg(test)]
mod mover_test;
mod plan;
#[cfg(test)]
mod plan_test;
#[cfg(test)]
mod world;

pub use mover::{Goal, Membership, MoveEffect, Mover};
pub use plan::plan;

/// How far a learner may be behind when it becomes a voter, in entries.
pub const LAG_MAX: u64 = 1_000;
/// How long a step is waited for before it is asked for again, in milliseconds.
pub const MOVE_RETRY_MS: u64 = 2_000;
/// How long a node that is to get a replica may be away before the move is given up, in
/// milliseconds.
pub const MOVE_AWAY_MS: u64 = 60_000;
