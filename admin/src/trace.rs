//! Packets of a client, or messages of topics, as they pass a node: `GET /v1/trace`, a line of JSON each.

use serde::{Deserialize, Serialize};

use crate::parameters::{ParameterError, number, pairs, query_of};

/// Seconds after which a trace ends unless another number is asked for.
pub const SECONDS_DEFAULT: u64 = 60;
/// Seconds after which a trace ends at the latest.
pub const SECONDS_MAX: u64 = 3_600;
/// Events after which a trace ends unless another number is asked for.
pub const EVENTS_DEFAULT: u64 = 1_000;
/// Events after which a trace ends at the latest.
pub const EVENTS_MAX: u64 = 1_000_000;
/// Events a second unless another number is asked for; what is beyond is counted as missed.
pub const RATE_DEFAULT: u64 = 100;
/// Events a second at most.
pub const RATE_MAX: u64 = 1_000;

/// What is to be traced, and how far: of client and topic one has to be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceQuestion {
    /// The packets of this client.
    pub client: Option<String>,
    /// Messages whose topic matches this filter.
    pub topic: Option<String>,
    /// Seconds; [`SECONDS_DEFAULT`] unless said.
    pub seconds: Option<u64>,
    /// Events; [`EVENTS_DEFAULT`] unless said.
    pub events: Option<u64>,
    /// Events a second; [`RATE_DEFAULT`] unless said.
    pub rate: Option<u64>,
}

impl TraceQuestion {
    /// Reads a query string.
    ///
    /// # Errors
    /// [`ParameterError`] naming the parameter.
    pub fn parse(query: &str) -> Result<Self, ParameterError> {
        let mut asked = Self::default();
        for (name, value) in pairs(query)? {
            match name.as_str() {
                "client" => asked.client = Some(value),
                "topic" => asked.topic = Some(value),
                "seconds" => asked.seconds = Some(number("seconds", &value, 1..=SECONDS_MAX)?),
                "events" => asked.events = Some(number("events", &value, 1..=EVENTS_MAX)?),
                "rate" => asked.rate = Some(number("rate", &value, 1..=RATE_MAX)?),
                _ => {
                    let known = "client, topic, seconds, events, rate";
                    return Err(ParameterError::Unknown { name, known });
                }
            }
        }
        Ok(asked)
    }

    /// Writes the query string that [`Self::parse`] reads.
    pub fn to_query(&self) -> String {
        let number = |number: Option<u64>| number.map(|number| number.to_string());
        query_of([
            ("client", self.client.clone()),
            ("topic", self.topic.clone()),
            ("seconds", number(self.seconds)),
            ("events", number(self.events)),
            ("rate", number(self.rate)),
        ])
    }
}

/// A line of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// The trace has begun: what passes from now on is in it.
    Begin {
        /// The node.
        node: u32,
    },
    /// Something passed.
    Event(Event),
    /// The trace has ended; nothing follows.
    End {
        /// Why: `time`, `events`, or `node` when that stops.
        because: String,
        /// Events that were shown.
        shown: u64,
        /// Events beyond the rate, or for which the reader was too slow.
        missed: u64,
    },
}

/// A packet that passed, without its payload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds since 1970, by the node's clock.
    pub at_ms: u64,
    /// Whose connection.
    pub client: String,
    /// Whether the client sent it; else the node did.
    pub from_client: bool,
    /// Its type as in the specification, such as `PUBLISH`; or `closed` for the end of the connection.
    pub packet: String,
    /// Its packet identifier.
    pub packet_id: Option<u16>,
    /// Its topic.
    pub topic: Option<String>,
    /// Its QoS.
    pub qos: Option<u8>,
    /// Whether RETAIN is set.
    pub retain: bool,
    /// Whether DUP is set.
    pub dup: bool,
    /// Length of its payload in bytes.
    pub payload_bytes: Option<u64>,
    /// Its reason code, or the first of them, as a number.
    pub reason: Option<u8>,
    /// What else there is to say, in words.
    pub about: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_survives_its_query_string() {
        let asked = TraceQuestion {
            client: Some("a&b".into()),
            topic: Some("a/+/#".into()),
            seconds: Some(5),
            events: Some(6),
            rate: Some(7),
        };
        assert_eq!(TraceQuestion::parse(&asked.to_query()), Ok(asked));
        for query in ["seconds=3601", "events=0", "rate=1001", "x=1"] {
            assert!(TraceQuestion::parse(query).is_err(), "{query}");
        }
    }
}
