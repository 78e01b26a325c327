//! Stored forms: entries of the groups' logs and rows of their state files as bytes.
//!
//! All kinds are written the same way, by hand ([`wire`]): little-endian numbers, lengths and
//! tags, each struct by the list of its fields. A reader of archived structs (rkyv) would gain
//! nothing here, for every value becomes a domain value, whose texts are checked and copied
//! anyway, and it would cost a second type for each. The bytes of a log have their checksum in the
//! log, those of a row in the state file; here is none.
//!
//! docs/formats/session-log.md shows the bytes. Kinds, tags and fields stay what they are: a
//! change is a new version of the kind.

#[cfg(test)]
pub(crate) mod arbitrary;
mod command;
mod core_types;
mod entry;
pub(crate) mod meta_rows;
mod mqtt_types;
pub(crate) mod routes_rows;
pub(crate) mod row;
pub(crate) mod shard_rows;
#[cfg(test)]
mod shard_rows_test;
#[cfg(test)]
mod stored_test;
pub(crate) mod wire;

pub use entry::{
    ENTRY_BYTES_MAX, ENTRY_ITEMS_MAX, MetaEntry, RoutesEntry, ShardEntry, ShardEntryWriter,
    ShardItem,
};
pub use shard_rows::{decode_message, message_row_key};
