//! Rules of the cluster as values: what the groups replicate, and who may propose what when.
//!
//! Nothing here does I/O, reads a clock, draws a random number or lets hash order be seen. State
//! machines ([`Meta`], [`Routes`], [`Receiver`]) change only by what their logs hold; the others
//! live as long as a process or a leadership. `handle_*` takes an event, `poll_*` hands out work.
//! None of these types is a stored form: whoever writes a log or a snapshot has its own.
//!
//! ```text
//!  start ─► MetaCommand::Begin ─► Meta ─► Entering, Lease ─► the node serves
//!
//!  connection ─► Numbered ─link─► Proposer ─► shard's log ─► Receiver ─► session::Durable
//!                    ▲                LogClock stamps it                     │
//!                    └──────────────── answers ◄─────────────────────────────┤ outbox rows
//!                                                                            ▼
//!  SUBACK ◄─ Visible ◄─ trie ◄─ Routes ◄─ routes' log ◄─ Drain (shards), LocalRoutes (nodes)
//!                                                        Drain ─► wills ─► Numbered
//!                                                  Memberships ─► home shard ─► Numbered
//!
//!  accepted ─► Sightings ─► CONNECT may replace the session's ownership, or is refused
//!
//!  members ─► wanted (Ring, bounds) ─► plan ─► MetaCommand::StartMove ─► Mover at the group's leader
//!  pings ─► Suspicion ─► elections            renewals ─► Grants ─► MetaCommand::End
//! ```

mod clock;
#[cfg(test)]
mod clock_test;
mod drain;
mod entering;
mod epochs;
mod ids;
mod lease;
mod memberships;
mod meta;
mod moves;
mod placement;
mod proposer;
mod routes;
mod share;
mod sightings;
mod stream;
mod suspicion;

pub use clock::{CLOCK_APART_MS, CLOCK_DISTRUST_MS, ClockReading, LogClock, LogTime, Stamped};
pub use drain::{DRAIN_RETRY_MS, Drain, DrainEffect, RouteDrain, WILLS_IN_FLIGHT_MAX, WillKey};
pub use entering::{Entering, EnteringEffect};
pub use epochs::{EpochView, Standing};
pub use ids::*;
pub use lease::*;
pub use memberships::{MembershipEffect, Memberships};
pub use meta::*;
pub use moves::*;
pub use placement::*;
pub use proposer::{Batch, Proposer, ProposerEffect, ProposerLimits, Refused, Unavailable};
pub use routes::*;
pub use share::{Share, ShareLimits};
pub use sightings::{SIGHTING_MS, SIGHTINGS_KEPT_MS, Sighting, Sightings};
pub use stream::*;
pub use suspicion::{SILENT_JITTER_MS, SILENT_MS, Suspicion, SuspicionEffect};
