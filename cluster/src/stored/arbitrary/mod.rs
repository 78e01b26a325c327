//! Any value of each stored kind, and bytes that came to harm, for tests.

mod command;
mod core;
mod row;
mod value;

pub(crate) use self::command::item;
pub(crate) use self::core::{meta_command, routes_command};
pub(crate) use self::row::session_state_row;
pub(crate) use self::value::{client, filter, message, origin, qos};

/// Changes, cuts, doubles or inserts bytes.
pub(crate) fn harmed(mut bytes: Vec<u8>, harms: &[(u16, u8, u8)]) -> Vec<u8> {
    for &(at, how, what) in harms {
        let at = usize::from(at) % (bytes.len() + 1);
        match how % 4 {
            0 if at < bytes.len() => bytes[at] ^= what.max(1),
            0 | 1 => bytes.truncate(at),
            2 => bytes.insert(at, what),
            _ => bytes.extend_from_within(at..),
        }
    }
    bytes
}
