//! The primitive data types on their way in (§1.5).

use bytes::{Buf, Bytes};

use super::DecodeError;
use crate::topic::levels_beyond;
use crate::{
    Filter, FilterError, Limits, PacketId, ReasonCode, Text, TextError, Topic, TopicError,
};

/// What is left of a packet or of a part of it. Everything read shares its memory.
pub(super) struct Reader {
    rest: Bytes,
}

impl Reader {
    pub(super) fn new(rest: Bytes) -> Self {
        Self { rest }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.require(1)?;
        Ok(self.rest.get_u8())
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.require(2)?;
        Ok(self.rest.get_u16())
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.require(4)?;
        Ok(self.rest.get_u32())
    }

    pub(super) fn varint(&mut self) -> Result<u32, DecodeError> {
        match peek_varint(&self.rest)? {
            Some((value, len)) => {
                self.rest.advance(len);
                Ok(value)
            }
            None => Err(truncated()),
        }
    }

    /// A two-byte length and that many bytes.
    pub(super) fn binary(&mut self) -> Result<Bytes, DecodeError> {
        let len = usize::from(self.u16()?);
        self.take(len)
    }

    pub(super) fn text(&mut self) -> Result<Text, DecodeError> {
        Ok(Text::parse(self.binary()?)?)
    }

    pub(super) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        PacketId::new(self.u16()?)
            .ok_or_else(|| DecodeError::protocol("packet identifier is 0", "MQTT-2.2.1-3"))
    }

    /// A topic name; `None` if it is empty.
    pub(super) fn topic(&mut self, limits: &Limits) -> Result<Option<Topic>, DecodeError> {
        let bytes = self.binary()?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let refused = |rule, value| {
            DecodeError::new(ReasonCode::TopicNameInvalid, rule, "§4.7.3").with_len(value)
        };
        if bytes.len() > limits.topic_bytes_max {
            return Err(refused(
                "topic name exceeds the limit of bytes",
                bytes.len(),
            ));
        }
        let topic = Topic::parse(Text::parse(bytes)?)?;
        match levels_beyond(&topic, limits.topic_levels_max) {
            Some(levels) => Err(refused("topic name exceeds the limit of levels", levels)),
            None => Ok(Some(topic)),
        }
    }

    pub(super) fn filter(&mut self, limits: &Limits) -> Result<Filter, DecodeError> {
        let bytes = self.binary()?;
        let refused = |rule, value| {
            DecodeError::new(ReasonCode::TopicFilterInvalid, rule, "§4.7.3").with_len(value)
        };
        if bytes.len() > limits.topic_bytes_max {
            return Err(refused(
                "topic filter exceeds the limit of bytes",
                bytes.len(),
            ));
        }
        let filter = Filter::parse(Text::parse(bytes)?)?;
        match levels_beyond(&filter, limits.topic_levels_max) {
            Some(levels) => Err(refused("topic filter exceeds the limit of levels", levels)),
            None => Ok(filter),
        }
    }

    /// A part that is preceded by its length as a variable byte integer.
    pub(super) fn block(&mut self) -> Result<Self, DecodeError> {
        let len = self.varint()? as usize;
        Ok(Self {
            rest: self.take(len)?,
        })
    }

    /// All that is left.
    pub(super) fn remainder(self) -> Bytes {
        self.rest
    }

    /// Nothing may be left.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(
                DecodeError::malformed("bytes are left after the packet's end", "§2.1.4")
                    .with_len(left),
            ),
        }
    }

    fn take(&mut self, len: usize) -> Result<Bytes, DecodeError> {
        // An empty slice would hold the buffer for nothing.
        if len == 0 {
            return Ok(Bytes::new());
        }
        self.require(len)?;
        Ok(self.rest.split_to(len))
    }

    fn require(&self, len: usize) -> Result<(), DecodeError> {
        if self.rest.len() < len {
            Err(truncated())
        } else {
            Ok(())
        }
    }
}

#[cold]
fn truncated() -> DecodeError {
    DecodeError::malformed("packet ends inside a field", "§2.1.4")
}

/// A variable byte integer and its length in bytes; `None` if it is not whole yet.
pub(super) fn peek_varint(bytes: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            //# [MQTT-1.5.5-1] The encoded value MUST use the minimum number of bytes necessary to
            //# represent the value.
            if *byte == 0 && at > 0 {
                return Err(DecodeError::malformed(
                    "variable byte integer is not in its shortest form",
                    "MQTT-1.5.5-1",
                ));
            }
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() >= 4 {
        return Err(DecodeError::malformed(
            "variable byte integer is longer than 4 bytes",
            "§1.5.5",
        ));
    }
    Ok(None)
}

impl From<TextError> for DecodeError {
    fn from(error: TextError) -> Self {
        match error {
            TextError::NotUtf8 => {
                Self::malformed("string is not well-formed UTF-8", "MQTT-1.5.4-1")
            }
            TextError::Nul => Self::malformed("string contains U+0000", "MQTT-1.5.4-2"),
            TextError::TooLong(bytes) => {
                Self::malformed("string exceeds 65535 bytes", "§1.5.4").with_len(bytes)
            }
        }
    }
}

impl From<TopicError> for DecodeError {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::Empty => Self::protocol("topic name is empty", "MQTT-4.7.3-1"),
            TopicError::Wildcard => {
                Self::malformed("topic name contains a wildcard character", "MQTT-3.3.2-2")
            }
            TopicError::TooDeep(levels) => Self::new(
                ReasonCode::TopicNameInvalid,
                "topic name exceeds the limit of levels",
                "§4.7.3",
            )
            .with_len(levels),
            TopicError::Text(error) => error.into(),
        }
    }
}

impl From<FilterError> for DecodeError {
    fn from(error: FilterError) -> Self {
        match error {
            FilterError::Empty => Self::malformed("topic filter is empty", "MQTT-4.7.3-1"),
            FilterError::HashMisplaced => {
                Self::malformed("# is not alone in the last level", "MQTT-4.7.1-1")
            }
            FilterError::PlusMisplaced => {
                Self::malformed("+ is not alone in its level", "MQTT-4.7.1-2")
            }
            FilterError::ShareNameEmpty => Self::malformed("share name is empty", "MQTT-4.8.2-1"),
            FilterError::ShareName => Self::malformed(
                "share name holds a wildcard or is not followed by a filter",
                "MQTT-4.8.2-2",
            ),
            FilterError::TooDeep(levels) => Self::new(
                ReasonCode::TopicFilterInvalid,
                "topic filter exceeds the limit of levels",
                "§4.7.3",
            )
            .with_len(levels),
            FilterError::Text(error) => error.into(),
        }
    }
}
