//! Numbered streams: from each node epoch to each shard, and to each other node epoch, one.
//!
//! [`Numbered`] numbers what leaves a node and keeps it until it is answered; [`Receiver`] stands
//! in the state machine at the other end. Together they keep the order of a node's items over
//! whatever loses, repeats or delays them, without waiting for one before the next is sent:
//!
//! ```text
//!  push ─► Numbered ─poll_item─► link, proposer, log ─► Receiver::admit
//!             ▲                                          New    ► Durable::apply
//!             │                                          Repeat ► the answer that is remembered
//!             └─ handle_answer(n) ◄── answer ◄───────────┘
//!             └─ handle_error(…)  ◄── Gap, refusal, lost link
//! ```

mod numbered;
mod receiver;

pub use numbered::{Attempt, Body, Confirmed, Numbered, Sent};
pub use receiver::{Admission, Next, Receiver};
