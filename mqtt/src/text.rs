//! UTF-8 strings of the wire.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

/// A checked MQTT string: well-formed UTF-8 without U+0000, at most 65 535 bytes (§1.5.4).
///
/// Shares the buffer it was read from: cloning costs a reference count. [`Text::detach`] copies it
/// out, so that a short string does not pin a large read buffer.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text(Bytes);

impl Text {
    /// Checks and wraps the bytes of a string.
    ///
    /// # Errors
    /// Names the rule that the bytes break: [MQTT-1.5.4-1], [MQTT-1.5.4-2] or the length.
    pub fn parse(bytes: Bytes) -> Result<Self, TextError> {
        if bytes.len() > 65_535 {
            return Err(TextError::TooLong(bytes.len()));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| TextError::NotUtf8)?;
        if text.as_bytes().contains(&0) {
            return Err(TextError::Nul);
        }
        Ok(Self(bytes))
    }

    /// The string.
    pub fn as_str(&self) -> &str {
        #[expect(unsafe_code, reason = "strings are read far more often than made")]
        // SAFETY: `self.0` is private, immutable, and only ever set by `parse`, which has checked
        // that it is UTF-8, by `detach`, which copies such bytes, or by `default`, which is empty.
        unsafe {
            std::str::from_utf8_unchecked(&self.0)
        }
    }

    /// The string's bytes, shared.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Copies the string into memory of its own.
    pub fn detach(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }
}

/// Why bytes are no MQTT string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Not well-formed UTF-8.
    #[error("string is not well-formed UTF-8 [MQTT-1.5.4-1]")]
    NotUtf8,
    /// Contains U+0000.
    #[error("string contains U+0000 [MQTT-1.5.4-2]")]
    Nul,
    /// Longer than a two-byte length can say.
    #[error("string of {0} bytes exceeds 65535")]
    TooLong(usize),
}

impl Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<&str> for Text {
    type Error = TextError;
    fn try_from(text: &str) -> Result<Self, TextError> {
        Self::parse(Bytes::copy_from_slice(text.as_bytes()))
    }
}
