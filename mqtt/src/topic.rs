//! Topic names, topic filters and client identifiers as parsed types (§4.7, §3.1.3.1).

use crate::Text;

macro_rules! text_newtype {
    ($name:ident) => {
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
            /// The text, shared.
            pub fn text(&self) -> &Text {
                &self.0
            }
            /// Copies the text into memory of its own, so that it pins no read buffer.
            pub fn detach(&self) -> Self {
                Self(self.0.detach())
            }
        }
    };
}

/// A topic name: no wildcards. Empty only in a PUBLISH whose topic alias stands for it.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Text);
text_newtype!(Topic);

/// A topic filter: at least one character, `#` last and alone in its level, `+` alone in its level.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Filter(Text);
text_newtype!(Filter);

/// A client identifier: not empty.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(Text);
text_newtype!(ClientId);
