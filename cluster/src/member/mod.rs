//! A node as a member of its cluster: who is there, who leads what, who may promise anything, and
//! where replicas go.
//!
//! The rules are values: those of `cluster-core` (`Suspicion`, `Lease`, `Grants`, `Entering`,
//! `Mover`, `plan`), and here who claims what ([`Leaders`]), when a node stands for election, which
//! leadership returns next, and which replicas are to run. One loop ([`MemberService`]) drives them:
//! it never waits, what takes time is a task of it that brings its outcome back.
//! `docs/formats/member.md` has the messages, `docs/adr/012` the reasons.
//!
//! ```text
//!  pings ─► Claims ─► Leaders, Elections ─► GroupControl::elect
//!        └► Suspicion ─────────┘
//!  Tenure (Begin, Lease, Entering) ─ renewals ─► meta's leader: Grants ─► LeaseView of the node
//!  meta, as applied here ─► plan, Movers ─► GroupControl, proposals
//!                        └► Hosted ─► MemberEvent::StartReplica, RemoveReplica ─► the node
//! ```
//!
//! A node that has no number, or no replica of meta yet, asks for both by [`join`] at each start. It
//! opens its groups and links, gives requests of [`CHANNELS`] and wishes to the [`Member`], starts
//! the replica of meta that it has, and does what the [`MemberEvent`]s say. The member is to be
//! stopped before the groups are closed.

mod claims;
mod counters;
mod driver;
mod elections;
mod event;
mod groups;
mod handle;
mod handover;
mod holds;
mod hosted;
mod inner;
mod join;
mod leadership;
mod lease_view;
mod message;
mod movers;
mod peers;
mod returns;
mod serve;
mod status;
mod tenure;
mod term;
mod upkeep;

#[cfg(test)]
mod bench_test;
#[cfg(test)]
mod hosted_test;
#[cfg(test)]
mod lease_test;
#[cfg(test)]
mod membership_test;
#[cfg(test)]
mod message_test;
#[cfg(test)]
mod recovery_test;
#[cfg(test)]
mod test_cluster;
#[cfg(test)]
mod test_node;

pub use claims::{Leaders, Leading};
pub use counters::MemberCounters;
pub use driver::Stopped;
pub use event::MemberEvent;
pub use groups::{group_id, group_of};
pub use handle::{Member, MemberParts, MemberService};
pub use inner::NotProposed;
pub use join::{Applicant, NotJoined, join};
pub use lease_view::{LeaseView, Tenable};
pub use message::{CHANNELS, Joined, Neighbour, rewritten};
pub use status::{BucketMove, GroupRow, MemberRow, MemberStatus, Moving};
