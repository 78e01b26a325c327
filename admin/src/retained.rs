//! Retained messages: `GET /v1/retained`.

use serde::{Deserialize, Serialize};

use crate::bridge::Payload;
use crate::parameters::{ParameterError, number, pairs, query_of};

/// Messages of one answer unless another number is asked for.
pub const LIMIT_DEFAULT: usize = 100;
/// Messages of one answer at most.
pub const LIMIT_MAX: usize = 1_000;
/// Bytes of a payload that a list shows; one message alone is shown up to [`PAYLOAD_BYTES_MAX`].
pub const PREFIX_BYTES: usize = 64;
/// Bytes of the payload that are shown of one message.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 10;

/// Which retained messages are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetainedQuestion {
    /// The filter of their topics.
    pub filter: String,
    /// Those behind this topic: `next` of the answer before.
    pub after: Option<String>,
    /// At most so many; [`LIMIT_DEFAULT`] unless said.
    pub limit: Option<usize>,
}

impl RetainedQuestion {
    /// Reads a query string.
    ///
    /// # Errors
    /// [`ParameterError`] naming the parameter.
    pub fn parse(query: &str) -> Result<Self, ParameterError> {
        let mut asked = Self::default();
        for (name, value) in pairs(query)? {
            match name.as_str() {
                "filter" => asked.filter = value,
                "after" => asked.after = Some(value),
                "limit" => asked.limit = Some(number("limit", &value, 1..=LIMIT_MAX)?),
                _ => {
                    let known = "filter, after, limit";
                    return Err(ParameterError::Unknown { name, known });
                }
            }
        }
        Ok(asked)
    }

    /// Writes the query string that [`Self::parse`] reads.
    pub fn to_query(&self) -> String {
        query_of([
            ("filter", Some(self.filter.clone())),
            ("after", self.after.clone()),
            ("limit", self.limit.map(|limit| limit.to_string())),
        ])
    }
}

/// Retained messages in the order of their topics, level by level.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetainedMessages {
    /// All that were asked for, up to `next`.
    pub messages: Vec<Retained>,
    /// Behind which topic to go on; absent at the end.
    pub next: Option<String>,
    /// What is not in the answer: shards that nobody leads, nodes that did not answer.
    pub missing: Vec<String>,
}

/// A retained message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retained {
    /// Its topic.
    pub topic: String,
    /// The shard that keeps it.
    pub shard: u16,
    /// With which QoS it was published.
    pub qos: u8,
    /// Who published it; absent for the broker's own.
    pub publisher: Option<String>,
    /// When it was received, in milliseconds since 1970.
    pub received_ms: u64,
    /// Seconds until it expires, if ever.
    pub expires_in_s: Option<u64>,
    /// Length of its payload in bytes.
    pub payload_bytes: u64,
    /// The payload; of a list the first bytes alone.
    pub payload: Payload,
    /// Whether that is not all of it.
    pub is_cut: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_survives_its_query_string() {
        let asked = RetainedQuestion {
            filter: "a/+/#".into(),
            after: Some("a/ü".into()),
            limit: Some(3),
        };
        assert_eq!(RetainedQuestion::parse(&asked.to_query()), Ok(asked));
        let error = RetainedQuestion::parse("filtr=a").expect_err("unknown");
        assert!(error.to_string().contains("filtr"), "{error}");
    }
}
