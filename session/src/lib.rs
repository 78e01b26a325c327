//! MQTT sessions as values: the replicated half and the live half.
//!
//! Nothing here does I/O, reads a clock, draws a random number or lets hash order be seen. Two
//! machines, each with methods of four kinds: `handle_*` takes an event, `poll_effect` hands out
//! work, plain verbs are commands, nouns are getters.
//!
//! [`Durable`] is the replicated state of one session shard: it changes only in
//! [`Durable::apply`], which depends on the log alone. [`Live`] is one connection. `Live` never
//! acknowledges by itself: what it owes an acknowledgement for leaves as [`Effect::Publish`] or
//! [`Effect::Propose`] with a [`Token`], and the acknowledgement leaves after the answer.
//!
//! ```text
//!  socket ──Packet──► Live::handle_packet                     Durable (one per shard)
//!         ◄─Send, Ack, Deliver── Live::poll_effect                 ▲ apply(index, time, command)
//!                                  │                               │
//!   Authenticate ──► authenticator ─► handle_admitted / handle_refused
//!   Open ──────────► shell adds expected_epoch ─► Command::Open ───┤─► Answer ─► handle_opened
//!   Propose{token} ► Command::{Subs, Q2In, Rec, …} ────────────────┤─► Answer ─► handle_answer
//!   Acked(seq) ────► batch ─► Command::Ack ────────────────────────┤
//!   SharedAcked ───► batch ─► Command::GroupAck of the home shard ─┤
//!   Close(command) ► flush, close socket; batch ─► Command::Close ─┘
//!   Publish{token} ► router ─► streams, clean sessions here (Live::handle_message),
//!                       │       Durable::qos0_recipients (Live::handle_message),
//!                       │       Command::Enqueue per shard that wants it, Command::Retain
//!                       └─ all settled ─► Live::handle_settled(token, outcome)
//!   Subscribe, Unsubscribe ─► the node's router (clean sessions) ─► handle_settled
//!   Retained{token, filters} ─► Durable::retained_matching of the shards ─► handle_retained
//!
//!  Durable::poll_effect ─► Deliver ─► Live::handle_delivery       (persistent sessions, QoS > 0)
//!                          TakenOver ─► Live::handle_kick(SessionTakenOver)
//!                          Route ─► routes ─► Command::RoutesDone
//!                          WillDue ─► router ─► Command::WillDone
//!                          Membership ─► the group's home shard ─► Command::MembershipDone
//!                          DeliverShared ─► Live::handle_shared       (members of groups)
//!                          Load ─► the message's row ─► Durable::handle_loaded
//!  Durable::due(now) ─► Expire, WillDelayEnd, ReplayEnd, … for the leader to propose
//!  Durable::take_rows ─► one write of the shard's file ─► Durable::handle_flushed
//!  the rows of the file ─► Durable::restore
//! ```
//!
//! A message for a *persistent* session with QoS > 0 goes only through its shard's queue; QoS 0
//! and everything for a *clean* session goes straight to `Live`. The shell loop: call one
//! `handle_*`, drain `poll_effect` until `None`, flush; `Live::deadline` says when to call
//! `handle_timeout`. When the socket takes no more, `handle_blocked`; when it does again,
//! `handle_writable`. While [`Live::is_paused`], PUBLISH packets with QoS > 0 stay in the shell's
//! stash.

mod command;
mod config;
mod durable;
mod ids;
mod live;
mod message;

pub use command::*;
pub use config::{Config, PersistentPolicy, PersistentRule};
pub use durable::{
    Counters, Delivery, DeliveryStep, Durable, DurableEffect, GroupDelivery, GroupRow, GroupView,
    GroupsRow, HeadRow, Limits, MembershipRow, MembershipState, OriginRow, Origins, PersistentRow,
    QoS0Recipient, QueuePlace, QueuedRow, Recipient, RestoreError, RetainedRow, RouteRow,
    RouteState, Row, RowKey, SessionDetails, SessionFilter, SessionPage, SessionRow, SessionView,
    Share, WillRow,
};
pub use ids::*;
pub use live::{
    Ack, AckKind, Admitted, Closed, ClosedBy, Credentials, Dropped, Effect, Inbound, Live,
    LiveView, Opened, Outgoing,
};
pub use message::*;
