//! The lease under which a node serves, and its other side at meta's leader.
//!
//! A node may promise (CONNACK, SUBACK, a settled obligation) only while its lease lasts. Meta's
//! leader grants it after a quorum round that began after the request, so that a deposed leader
//! grants none; and it lets an epoch end only when every lease that it or a predecessor may have
//! granted is over. All times are `CLOCK_BOOTTIME`, each compared on its own node only.

mod deafness;
mod grants;
mod held;

pub use grants::{Grants, GrantsEffect, NotGranted, Renewal, Round};
pub use held::{Lease, RenewalId};

/// How often a node renews, in milliseconds.
pub const RENEW_MS: u64 = 500;
/// How long a lease lasts from the sending of its renewal, in milliseconds.
pub const LEASE_MS: u64 = 3_000;
/// How long after its last grant an epoch may end, in milliseconds: a lease, and what clocks may
/// differ in rate and a process may be late by.
pub const END_AFTER_MS: u64 = 3_500;
/// How far the routes of a node that holds the lease may be behind, in milliseconds: longer, and
/// everybody's SUBACK would wait for it.
pub const ROUTES_BEHIND_MS: u64 = 2_000;
/// How long two nodes do not hear each other before one of them gets no lease, in milliseconds.
pub const DEAF_MS: u64 = 5_000;
