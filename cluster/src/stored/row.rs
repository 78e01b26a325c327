//! What the rows of all state files have in common: keys that sort, values with a version.

use bytes::Bytes;
use mqtt::Text;
use storage::state::Row;

use super::wire::{Reader, Sink, Stored, Why, whole};
use crate::Damaged;

/// The version of all values.
const VERSION: u8 = 1;

/// The bytes of a row's value.
pub(crate) fn encode_value(value: &impl Stored) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    VERSION.put(&mut bytes);
    value.put(&mut bytes);
    bytes
}

/// Reads a row's value.
pub(crate) fn decode_value<T: Stored>(value: &[u8]) -> Result<T, Why> {
    decode(Reader::new(value))
}

/// Reads a row's value; its payload is a slice of it.
pub(crate) fn decode_shared_value<T: Stored>(value: &Bytes) -> Result<T, Why> {
    decode(Reader::shared(value))
}

fn decode<T: Stored>(mut from: Reader<'_>) -> Result<T, Why> {
    match u8::get(&mut from)? {
        VERSION => whole(from),
        found => Err(Why::Version {
            found,
            known: VERSION,
        }),
    }
}

/// Names a row that cannot be read.
pub(crate) fn damaged(of: &str, row: &Row, why: &Why) -> Damaged {
    let key = row.key.escape_ascii();
    Damaged {
        what: format!("row {} \"{key}\" of {of}", row.kind),
        why: why.to_string(),
    }
}

/// The next row, if the state file can give it.
pub(crate) fn readable(of: &str, row: Result<Row, storage::state::Error>) -> Result<Row, Damaged> {
    row.map_err(|error| Damaged {
        what: format!("state file of {of}"),
        why: error.to_string(),
    })
}

/// A part of a key. Keys are ordered as what they stand for: numbers have their highest byte
/// first, and texts, which never hold a zero, end with one.
pub(crate) trait KeyPart: Sized {
    /// Appends its bytes.
    fn put_key(&self, out: &mut Vec<u8>);
    /// Takes it off the beginning.
    fn get_key(from: &mut Reader<'_>) -> Result<Self, Why>;
}

macro_rules! key_integers {
    ($($integer:ty)*) => {$(
        impl KeyPart for $integer {
            fn put_key(&self, out: &mut Vec<u8>) {
                out.bytes(&self.to_be_bytes());
            }
            fn get_key(from: &mut Reader<'_>) -> Result<Self, Why> {
                from.array().map(Self::from_be_bytes)
            }
        }
    )*};
}

key_integers!(u8 u16 u64);

impl KeyPart for Text {
    fn put_key(&self, out: &mut Vec<u8>) {
        out.bytes(self.as_bytes());
        out.push(0);
    }

    fn get_key(from: &mut Reader<'_>) -> Result<Self, Why> {
        let text = Bytes::copy_from_slice(from.take_until(0)?);
        Self::parse(text).map_err(|error| Why::Text(error.to_string()))
    }
}

macro_rules! key_texts {
    ($($text:ty)*) => {$(
        impl KeyPart for $text {
            fn put_key(&self, out: &mut Vec<u8>) {
                self.text().put_key(out);
            }
            fn get_key(from: &mut Reader<'_>) -> Result<Self, Why> {
                Self::try_from(Text::get_key(from)?).map_err(|error| Why::Text(error.to_string()))
            }
        }
    )*};
}

key_texts!(mqtt::ClientId mqtt::Topic mqtt::Filter);

/// Reads a key that is all of the bytes.
pub(crate) fn whole_key<T>(
    key: &[u8],
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, Why>,
) -> Result<T, Why> {
    let mut from = Reader::new(key);
    let value = read(&mut from)?;
    from.end()?;
    Ok(value)
}
