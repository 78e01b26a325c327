//! An MQTT 5 client that forgets nothing: its [`Session`] is a value that outlives every connection, its
//! [`Wire`] is one connection, its [`Homes`] are where it may go next.

mod homes;
mod session;
mod wire;

pub(crate) use homes::{Homes, Nodes};
pub(crate) use session::{Incoming, Outgoing, Session, Stage};
pub(crate) use wire::{Lost, Wire};
