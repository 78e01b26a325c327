//! Topic names, topic filters and client identifiers as parsed types (§4.7, §3.1.3.1).
//!
//! Nothing is normalised: topics and filters are compared byte by byte `[MQTT-4.7.3-4]`.

use bytes::Bytes;

use crate::{Text, TextError};

/// The most levels a topic or filter may have, whatever [`crate::Limits`] say.
///
/// The standard names no number; trees recurse by level and must not exhaust a stack.
pub const LEVELS_MAX: usize = 1024;

/// What the filter of a shared subscription begins with (§4.8.2).
const SHARE_PREFIX: &str = "$share/";

macro_rules! text_newtype {
    ($name:ident, $error:ident) => {
        impl std::ops::Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                self.0.as_str()
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.0.as_str())
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(self.0.as_str(), f)
            }
        }
        impl $name {
            /// The string.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
            /// The text, shared.
            pub fn text(&self) -> &Text {
                &self.0
            }
            /// Copies the text into memory of its own, so that it pins no read buffer.
            pub fn detach(&self) -> Self {
                Self(self.0.detach())
            }
        }
        impl TryFrom<Text> for $name {
            type Error = $error;
            fn try_from(text: Text) -> Result<Self, $error> {
                Self::parse(text)
            }
        }
        impl TryFrom<Bytes> for $name {
            type Error = $error;
            fn try_from(bytes: Bytes) -> Result<Self, $error> {
                Self::parse(Text::parse(bytes)?)
            }
        }
        impl TryFrom<&str> for $name {
            type Error = $error;
            fn try_from(text: &str) -> Result<Self, $error> {
                Self::parse(Text::try_from(text)?)
            }
        }
        impl From<$name> for Text {
            fn from(checked: $name) -> Text {
                checked.0
            }
        }
    };
}

/// A topic name: no wildcards. Empty only in a PUBLISH whose topic alias stands for it.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Text);
text_newtype!(Topic, TopicError);

impl Topic {
    /// Checks a topic name.
    ///
    /// # Errors
    /// Empty `[MQTT-4.7.3-1]`, a wildcard character `[MQTT-3.3.2-2]`, or more than [`LEVELS_MAX`]
    /// levels.
    pub fn parse(text: Text) -> Result<Self, TopicError> {
        if text.is_empty() {
            return Err(TopicError::Empty);
        }
        // Without an early end the compiler compares many bytes at once.
        let has_wildcard = text
            .bytes()
            .fold(false, |found, byte| found | matches!(byte, b'+' | b'#'));
        if has_wildcard {
            return Err(TopicError::Wildcard);
        }
        match levels_beyond(&text, LEVELS_MAX) {
            Some(levels) => Err(TopicError::TooDeep(levels)),
            None => Ok(Self(text)),
        }
    }

    /// Whether wildcards at the first level leave this topic alone `[MQTT-4.7.2-1]`.
    pub fn starts_with_dollar(&self) -> bool {
        self.as_bytes().first() == Some(&b'$')
    }

    /// The levels in order; a leading, trailing or doubled `/` makes an empty level (§4.7.1.1).
    pub fn levels(&self) -> std::str::Split<'_, char> {
        self.as_str().split('/')
    }
}

/// The number of levels if it exceeds `max`. Most texts are too short for that and not counted.
pub(crate) fn levels_beyond(text: &str, max: usize) -> Option<usize> {
    if text.len() < max {
        return None;
    }
    let levels = 1 + text.bytes().filter(|byte| *byte == b'/').count();
    (levels > max).then_some(levels)
}

/// Why a string is no topic name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// No character at all.
    #[error("topic name is empty [MQTT-4.7.3-1]")]
    Empty,
    /// `+` or `#` in it.
    #[error("topic name contains a wildcard character [MQTT-3.3.2-2]")]
    Wildcard,
    /// More than [`LEVELS_MAX`] levels.
    #[error("topic name of {0} levels exceeds {LEVELS_MAX} (§4.7.3)")]
    TooDeep(usize),
    /// No MQTT string at all.
    #[error("topic name: {0}")]
    Text(#[from] TextError),
}

/// A topic filter: at least one character, `#` last and alone in its level, `+` alone in its level.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Filter(Text);
text_newtype!(Filter, FilterError);

impl Filter {
    /// Checks a topic filter, with or without `$share/{group}/` before it.
    ///
    /// # Errors
    /// Empty `[MQTT-4.7.3-1]`, a misplaced wildcard `[MQTT-4.7.1-1]` `[MQTT-4.7.1-2]`, a share name
    /// that is none `[MQTT-4.8.2-1]` `[MQTT-4.8.2-2]`, or more than [`LEVELS_MAX`] levels.
    pub fn parse(text: Text) -> Result<Self, FilterError> {
        if let Some(shared) = text.strip_prefix(SHARE_PREFIX) {
            let (group, filter) = shared.split_once('/').unwrap_or((shared, ""));
            if group.is_empty() {
                return Err(FilterError::ShareNameEmpty);
            }
            // A share inside a share would be told from an ordinary filter by nobody.
            if group.contains(['+', '#']) || filter.is_empty() || filter.starts_with(SHARE_PREFIX) {
                return Err(FilterError::ShareName);
            }
            check_filter(filter)?;
        } else {
            check_filter(&text)?;
        }
        Ok(Self(text))
    }

    /// Group and filter of a shared subscription, `$share/{group}/{filter}`; `None` for others.
    pub fn shared(&self) -> Option<(&str, &str)> {
        self.strip_prefix(SHARE_PREFIX)?.split_once('/')
    }

    /// The part that topics are matched with: the filter without `$share/{group}/`.
    pub fn topic_filter(&self) -> &str {
        self.shared().map_or(self.as_str(), |(_, filter)| filter)
    }

    /// Whether a `+` or `#` stands in it, share prefix aside.
    pub fn has_wildcard(&self) -> bool {
        self.topic_filter().contains(['+', '#'])
    }

    /// Whether the topic is one of those the filter asks for; of a shared filter, what follows
    /// the share name decides. Wildcards at the first level do not match a topic that begins
    /// with `$` `[MQTT-4.7.2-1]`.
    pub fn matches(&self, topic: &Topic) -> bool {
        let filter = self.topic_filter();
        if topic.starts_with_dollar() && filter.starts_with(['+', '#']) {
            return false;
        }
        let mut levels = topic.levels();
        for wanted in filter.split('/') {
            if wanted == "#" {
                return true;
            }
            match levels.next() {
                Some(level) if wanted == "+" || wanted == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }

    /// Whether some topic is matched by both filters; of a shared filter, what follows the share
    /// name decides.
    pub fn overlaps(&self, other: &Filter) -> bool {
        let (one, other) = (self.topic_filter(), other.topic_filter());
        let is_wild = |filter: &str| filter.starts_with(['+', '#']);
        // [MQTT-4.7.2-1]
        if (one.starts_with('$') && is_wild(other)) || (other.starts_with('$') && is_wild(one)) {
            return false;
        }
        let (mut ones, mut others) = (one.split('/'), other.split('/'));
        let mut common = 0;
        loop {
            match (ones.next(), others.next()) {
                (None, None) => return true,
                // `a/#` matches `a`; but `/#` would have to match the topic of no character.
                (Some("#"), None) | (None, Some("#")) => {
                    return common > 1 || !(one.starts_with('/') || other.starts_with('/'));
                }
                (Some("#"), Some(_)) | (Some(_), Some("#")) => return true,
                (Some(a), Some(b)) if a == "+" || b == "+" || a == b => common += 1,
                _ => return false,
            }
        }
    }
}

fn check_filter(filter: &str) -> Result<(), FilterError> {
    if filter.is_empty() {
        return Err(FilterError::Empty);
    }
    let mut levels = 0;
    let mut rest = filter.split('/').peekable();
    while let Some(level) = rest.next() {
        levels += 1;
        if level.contains('#') && (level.len() > 1 || rest.peek().is_some()) {
            return Err(FilterError::HashMisplaced);
        }
        if level.contains('+') && level.len() > 1 {
            return Err(FilterError::PlusMisplaced);
        }
    }
    if levels > LEVELS_MAX {
        return Err(FilterError::TooDeep(levels));
    }
    Ok(())
}

/// Why a string is no topic filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No character at all.
    #[error("topic filter is empty [MQTT-4.7.3-1]")]
    Empty,
    /// `#` is not last or not alone in its level.
    #[error("# is not alone in the last level of the topic filter [MQTT-4.7.1-1]")]
    HashMisplaced,
    /// `+` is not alone in its level.
    #[error("+ is not alone in its level of the topic filter [MQTT-4.7.1-2]")]
    PlusMisplaced,
    /// `$share/` without a name after it.
    #[error("share name is empty [MQTT-4.8.2-1]")]
    ShareNameEmpty,
    /// A wildcard in the share name, no filter after it, or another share.
    #[error("share name holds a wildcard or is not followed by a filter [MQTT-4.8.2-2]")]
    ShareName,
    /// More than [`LEVELS_MAX`] levels.
    #[error("topic filter of {0} levels exceeds {LEVELS_MAX} (§4.7.3)")]
    TooDeep(usize),
    /// No MQTT string at all.
    #[error("topic filter: {0}")]
    Text(#[from] TextError),
}

/// A client identifier: not empty.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(Text);
text_newtype!(ClientId, ClientIdError);

impl ClientId {
    /// Checks a client identifier. How long it may be is for [`crate::Limits`] to say.
    ///
    /// # Errors
    /// Empty: then the server assigns one `[MQTT-3.1.3-6]`.
    pub fn parse(text: Text) -> Result<Self, ClientIdError> {
        if text.is_empty() {
            return Err(ClientIdError::Empty);
        }
        Ok(Self(text))
    }
}

/// Why a string is no client identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientIdError {
    /// No character: the server is to assign one.
    #[error("client identifier is empty [MQTT-3.1.3-6]")]
    Empty,
    /// No MQTT string at all.
    #[error("client identifier: {0}")]
    Text(#[from] TextError),
}
