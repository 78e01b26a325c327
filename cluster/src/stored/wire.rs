//! The bytes of values: little-endian numbers, lengths before what they count, tags before choices.
//!
//! Every value has one encoding only, and reading takes no other: what was read and is written
//! again gives the same bytes. Reading is checked: it never panics, and never allocates more
//! than the bytes that are there for a length that they announce.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use bytes::Bytes;

/// Why bytes cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Why {
    /// They end too early.
    #[error("ends {0} bytes early")]
    Short(usize),
    /// They go on behind the value.
    #[error("goes on for {0} bytes behind its end")]
    Trailing(usize),
    /// A tag that no choice has.
    #[error("tag {tag} is no {what}")]
    Tag {
        /// The choice.
        what: &'static str,
        /// The tag.
        tag: u8,
    },
    /// Zero, where that has no meaning.
    #[error("a number that is never 0 is 0")]
    Zero,
    /// Members of a set or map that do not rise.
    #[error("members of a set do not rise")]
    Order,
    /// A text that the type does not take.
    #[error("{0}")]
    Text(String),
    /// A version that this program does not know.
    #[error("version {found} is unknown, {known} is the newest known")]
    Version {
        /// What stands there.
        found: u8,
        /// The newest that can be read.
        known: u8,
    },
    /// Rows that do not make a state together.
    #[error("{0}")]
    State(String),
}

/// Where bytes are written to.
pub(crate) trait Sink {
    /// Appends.
    fn bytes(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Counts bytes instead of writing them.
#[derive(Debug, Default)]
pub(crate) struct Counted(pub(crate) usize);

impl Sink for Counted {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// Takes values off the beginning of bytes.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// What `rest` is a part of, if payloads may be slices of it.
    shared: Option<&'a Bytes>,
}

impl<'a> Reader<'a> {
    /// Reads bytes that are used again: payloads are copied.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            shared: None,
        }
    }

    /// Reads bytes that hold one value only: its payload is a slice of them.
    pub(crate) fn shared(bytes: &'a Bytes) -> Self {
        Self {
            rest: bytes,
            shared: Some(bytes),
        }
    }

    /// Bytes that are left.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Takes `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Why> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(Why::Short(count - self.rest.len()));
        };
        self.rest = rest;
        Ok(taken)
    }

    /// Takes `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Why> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(Why::Short(N - self.rest.len()));
        };
        self.rest = rest;
        Ok(*taken)
    }

    /// Takes what stands before the next `end`, and that too.
    pub(crate) fn take_until(&mut self, end: u8) -> Result<&'a [u8], Why> {
        let at = self.rest.iter().position(|byte| *byte == end);
        let taken = self.take(at.ok_or(Why::Short(1))?)?;
        self.take(1)?;
        Ok(taken)
    }

    /// Ends reading: nothing may be left.
    pub(crate) fn end(self) -> Result<(), Why> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(Why::Trailing(left)),
        }
    }
}

/// A value with a stored form.
pub(crate) trait Stored: Sized {
    /// Appends its bytes.
    fn put(&self, out: &mut impl Sink);
    /// Takes it off the beginning.
    fn get(from: &mut Reader<'_>) -> Result<Self, Why>;
}

/// Reads a value that is all of the bytes.
pub(crate) fn whole<T: Stored>(mut from: Reader<'_>) -> Result<T, Why> {
    let value = T::get(&mut from)?;
    from.end()?;
    Ok(value)
}

/// The length of texts and lists.
pub(crate) fn put_len(len: usize, out: &mut impl Sink) {
    let len = u32::try_from(len).expect("nothing of 4 GiB is ever accepted");
    out.bytes(&len.to_le_bytes());
}

macro_rules! integers {
    ($($integer:ty)*) => {$(
        impl Stored for $integer {
            fn put(&self, out: &mut impl Sink) {
                out.bytes(&self.to_le_bytes());
            }
            fn get(from: &mut Reader<'_>) -> Result<Self, Why> {
                from.array().map(Self::from_le_bytes)
            }
        }
    )*};
}

integers!(u8 u16 u32 u64 u128);

macro_rules! non_zero {
    ($($non_zero:ident)*) => {$(
        impl Stored for $non_zero {
            fn put(&self, out: &mut impl Sink) {
                self.get().put(out);
            }
            fn get(from: &mut Reader<'_>) -> Result<Self, Why> {
                Self::new(Stored::get(from)?).ok_or(Why::Zero)
            }
        }
    )*};
}

non_zero!(NonZeroU16 NonZeroU32);

impl Stored for bool {
    fn put(&self, out: &mut impl Sink) {
        u8::from(*self).put(out);
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Why> {
        match u8::get(from)? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(Why::Tag { what: "flag", tag }),
        }
    }
}

impl Stored for Bytes {
    fn put(&self, out: &mut impl Sink) {
        put_len(self.len(), out);
        out.bytes(self);
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Why> {
        let len = u32::get(from)? as usize;
        let bytes = from.take(len)?;
        Ok(match from.shared {
            Some(all) => all.slice_ref(bytes),
            None => Self::copy_from_slice(bytes),
        })
    }
}

impl Stored for String {
    fn put(&self, out: &mut impl Sink) {
        put_len(self.len(), out);
        out.bytes(self.as_bytes());
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Why> {
        let len = u32::get(from)? as usize;
        let text = std::str::from_utf8(from.take(len)?);
        text.map(str::to_owned)
            .map_err(|error| Why::Text(error.to_string()))
    }
}

impl<T: Stored> Stored for Option<T> {
    fn put(&self, out: &mut impl Sink) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Why> {
        bool::get(from)?.then(|| T::get(from)).transpose()
    }
}

impl<T: Stored> Stored for Box<T> {
    fn put(&self, out: &mut impl Sink) {
        T::put(self, out);
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Why> {
        T::get(from).map(Self::new)
    }
}

impl<T: Stored> Stored for Arc<T> {
    fn put(&self, out: &mut impl Sink) {
        T::put(self, out);
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Why> {
        T::get(from).map(Self::new)
    }
}

impl<A: Stored, B: Stored> Stored for (A, B) {
    fn put(&self, out: &mut impl Sink) {
        self.0.put(out);
        self.1.put(out);
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Why> {
        Ok((A::get(from)?, B::get(from)?))
    }
}

impl<T: Stored> Stored for Vec<T> {
    fn put(&self, out: &mut impl Sink) {
        put_len(self.len(), out);
        for item in self {
            item.put(out);
        }
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Why> {
        let len = u32::get(from)? as usize;
        // No more memory at once than there are bytes, whatever they announce.
        let at_once = from.left() / size_of::<T>().max(1);
        let mut items = Self::with_capacity(len.min(at_once));
        for _ in 0..len {
            items.push(T::get(from)?);
        }
        Ok(items)
    }
}

impl<T: Stored + Ord> Stored for BTreeSet<T> {
    fn put(&self, out: &mut impl Sink) {
        put_len(self.len(), out);
        for item in self {
            item.put(out);
        }
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Why> {
        let items = Vec::<T>::get(from)?;
        if !items.is_sorted_by(|a, b| a < b) {
            return Err(Why::Order);
        }
        Ok(items.into_iter().collect())
    }
}

impl<K: Stored + Ord, V: Stored> Stored for BTreeMap<K, V> {
    fn put(&self, out: &mut impl Sink) {
        put_len(self.len(), out);
        for (key, value) in self {
            key.put(out);
            value.put(out);
        }
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Why> {
        let items = Vec::<(K, V)>::get(from)?;
        if !items.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(Why::Order);
        }
        Ok(items.into_iter().collect())
    }
}

/// Stores a type that wraps another: as that.
macro_rules! wrapped {
    ($($wrapper:ty)*) => {$(
        impl $crate::stored::wire::Stored for $wrapper {
            fn put(&self, out: &mut impl $crate::stored::wire::Sink) {
                $crate::stored::wire::Stored::put(&self.0, out);
            }
            fn get(
                from: &mut $crate::stored::wire::Reader<'_>,
            ) -> Result<Self, $crate::stored::wire::Why> {
                $crate::stored::wire::Stored::get(from).map(Self)
            }
        }
    )*};
}
pub(crate) use wrapped;

/// Stores a struct: its fields in the order given. A field that is left out does not compile.
macro_rules! record {
    ($record:ty { $($field:ident),* $(,)? }) => {
        impl $crate::stored::wire::Stored for $record {
            fn put(&self, out: &mut impl $crate::stored::wire::Sink) {
                let Self { $($field),* } = self;
                $($crate::stored::wire::Stored::put($field, out);)*
            }
            fn get(
                from: &mut $crate::stored::wire::Reader<'_>,
            ) -> Result<Self, $crate::stored::wire::Why> {
                $(let $field = $crate::stored::wire::Stored::get(from)?;)*
                Ok(Self { $($field),* })
            }
        }
    };
}
pub(crate) use record;

/// Stores an enum: a tag, then the fields of the variant. A variant that is left out does not
/// compile; a tag is never given again.
macro_rules! choice {
    ($choice:ty, $what:literal {
        $($tag:literal => $variant:ident $(($one:ident))? $({ $($field:ident),* })?),* $(,)?
    }) => {
        impl $crate::stored::wire::Stored for $choice {
            fn put(&self, out: &mut impl $crate::stored::wire::Sink) {
                match self {
                    $(Self::$variant $(($one))? $({ $($field),* })? => {
                        $crate::stored::wire::Sink::bytes(out, &[$tag]);
                        $($crate::stored::wire::Stored::put($one, out);)?
                        $($($crate::stored::wire::Stored::put($field, out);)*)?
                    })*
                }
            }
            fn get(
                from: &mut $crate::stored::wire::Reader<'_>,
            ) -> Result<Self, $crate::stored::wire::Why> {
                Ok(match <u8 as $crate::stored::wire::Stored>::get(from)? {
                    $($tag => {
                        $(let $one = $crate::stored::wire::Stored::get(from)?;)?
                        $($(let $field = $crate::stored::wire::Stored::get(from)?;)*)?
                        Self::$variant $(($one))? $({ $($field),* })?
                    })*
                    tag => return Err($crate::stored::wire::Why::Tag { what: $what, tag }),
                })
            }
        }
    };
}
pub(crate) use choice;
