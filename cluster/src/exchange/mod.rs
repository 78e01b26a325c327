//! What nodes say to each other about sessions and messages, as bytes.
//!
//! Requests of a link ([`crate::link`]) on the lane of requests, one kind of channel each. Texts and
//! messages have the form in which they are stored ([`crate::stored`]); in front stands a version of
//! this exchange, which the feature level of the cluster decides on before anything else is said.
//! docs/formats/exchange.md shows the bytes.
//!
//! ```text
//!  node ── Items ──► leader of a shard: items of the node's numbered stream    ──► ItemsReply
//!  node ── Passing ► leader of a shard: QoS 0, past the log                    ──► nothing
//!  node ── Retained► leader of a shard: what is retained there                 ──► rows
//!  node ── Seated ─► leader of a shard: are these memberships with their homes ──► once they are
//!  node ── Routes ─► leader of the routes: rows                                ──► RoutesReply
//!  node ── Letters ► node: its numbered stream to that node's epoch            ──► LettersReply
//! ```

mod answers;
mod items;
mod letters;
mod retained;
mod routes;

#[cfg(test)]
mod exchange_test;

use bytes::Bytes;

use crate::Damaged;
use crate::stored::wire::{Reader, Stored, Why, whole};

pub use items::{Items, ItemsReply, Passing};
pub use letters::{Letter, Letters, LettersReply};
pub use retained::{RetainedReply, RetainedRequest, RetainedRows, Seated, WantedRetained};
pub use routes::{RoutesReply, RoutesRequest};

/// The version of everything here.
const VERSION: u8 = 1;

/// Kinds of channels ([`crate::link::Channel::kind`]) of this exchange.
pub mod kinds {
    /// [`super::Items`].
    pub const ITEMS: u16 = 48;
    /// [`super::Passing`].
    pub const PASSING: u16 = 49;
    /// [`super::RetainedRequest`].
    pub const RETAINED: u16 = 50;
    /// [`super::Seated`].
    pub const SEATED: u16 = 51;
    /// [`super::RoutesRequest`].
    pub const ROUTES: u16 = 52;
    /// [`super::Letters`].
    pub const LETTERS: u16 = 53;
    /// What telemetry lines ask each other; the bridge gives it its bytes.
    pub const TELEMETRY: std::ops::RangeInclusive<u16> = 54..=57;
    /// All of this exchange.
    pub const ALL: std::ops::RangeInclusive<u16> = ITEMS..=LETTERS;
}

/// Something that one node says to another.
pub trait Said: Sized {
    /// Its bytes.
    fn encode(&self) -> Bytes;

    /// Reads it. Payloads are copied, so that a message that waits long holds no more than itself;
    /// those of [`Items`] and [`Passing`], which wait for an entry of the log only, are slices.
    ///
    /// # Errors
    /// It is something else, of another version, or damaged.
    fn decode(bytes: &Bytes) -> Result<Self, Damaged>;
}

fn encode(value: &impl Stored) -> Bytes {
    let mut out = Vec::with_capacity(256);
    VERSION.put(&mut out);
    value.put(&mut out);
    out.into()
}

fn decode<T: Stored>(what: &'static str, mut from: Reader<'_>) -> Result<T, Damaged> {
    let read = || match u8::get(&mut from)? {
        VERSION => whole(from),
        found => Err(Why::Version {
            found,
            known: VERSION,
        }),
    };
    read().map_err(|why| Damaged {
        what: what.to_owned(),
        why: why.to_string(),
    })
}

/// Gives types with a stored form their place in the exchange.
macro_rules! said {
    ($reader:ident: $($said:ident = $what:literal),* $(,)?) => {$(
        impl $crate::exchange::Said for $said {
            fn encode(&self) -> bytes::Bytes {
                $crate::exchange::encode(self)
            }
            fn decode(bytes: &bytes::Bytes) -> Result<Self, $crate::Damaged> {
                let from = $crate::stored::wire::Reader::$reader(bytes);
                $crate::exchange::decode($what, from)
            }
        }
    )*};
}
use said;
