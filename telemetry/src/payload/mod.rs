//! Payloads of devices: from bytes to a [`Row`].
//!
//! Each format has its module; all give [`Decoded`] or [`PayloadError`]. What is refused goes to
//! the dead letters with the error's text as the reason, the original bytes untouched.

mod json;
mod names;
mod shape;

use std::fmt;

use crate::clock::Implausible;
use crate::row::{MetricName, Row};
use names::Names;
use shape::Shapes;

/// How many members the metrics of one message may have, `null` and refused ones included.
pub const METRICS_MAX: usize = 256;

/// Decodes the payloads of one stream.
///
/// It remembers names, so that rows share them, and the shapes of the last messages, so that the
/// next ones are read faster; both are bounded. Each payload decodes as it would alone.
#[derive(Debug, Default)]
pub struct Decoder {
    names: Names,
    shapes: Shapes,
}

impl Decoder {
    /// Makes a decoder that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes `{"ts": ms, "metrics": {name: value, …}}`.
    ///
    /// `received_ms` is when the broker received it, milliseconds since the Unix epoch. `null` is
    /// an absent metric; a metric that cannot be stored stands in [`Decoded::rejected`] and the
    /// others are kept; other members beside `ts` and `metrics` are passed over. Integers beyond
    /// 2^53 become the nearest `f64`; each number becomes what `str::parse::<f64>` makes of it.
    ///
    /// # Errors
    /// [`PayloadError`]: nothing of the message may be stored.
    pub fn decode_json(
        &mut self,
        payload: &[u8],
        received_ms: i64,
    ) -> Result<Decoded, PayloadError> {
        if let Some(row) = self.shapes.scan(payload, received_ms) {
            let rejected = Vec::new();
            return Ok(Decoded { row, rejected });
        }
        let decoded = json::decode(payload, received_ms, &mut self.names)?;
        if decoded.rejected.is_empty() {
            self.shapes.learn(payload, &decoded.row);
        }
        Ok(decoded)
    }
}

/// Decodes one payload as [`Decoder::decode_json`] does, with no memory of names.
///
/// # Errors
/// As [`Decoder::decode_json`].
pub fn decode_json(payload: &[u8], received_ms: i64) -> Result<Decoded, PayloadError> {
    Decoder::new().decode_json(payload, received_ms)
}

/// What a message holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The metrics to store; empty when every one of them was rejected.
    pub row: Row,
    /// The metrics that cannot be stored, in the message's order; at most [`METRICS_MAX`]. When
    /// there are any, the original goes to the dead letters with [`Decoded::reason`].
    pub rejected: Vec<Rejected>,
}

impl Decoded {
    /// The reason for the dead letter: names every rejected metric; `None` when there is none.
    pub fn reason(&self) -> Option<String> {
        if self.rejected.is_empty() {
            return None;
        }
        let metrics: Vec<_> = self.rejected.iter().map(Rejected::to_string).collect();
        Some(metrics.join("; "))
    }
}

/// A metric that was not taken from its message; the others were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its name, cut to [`MetricName::BYTES_MAX`] bytes (at a character's border).
    pub name: String,
    /// Why.
    pub reason: RejectReason,
}

impl Rejected {
    fn new(name: &str, reason: RejectReason) -> Self {
        let name = &name[..name.floor_char_boundary(MetricName::BYTES_MAX)];
        Self {
            name: name.to_owned(),
            reason,
        }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "metric {:?} {}", self.name, self.reason)
    }
}

/// Why a metric was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RejectReason {
    /// Its value is of another JSON type: the type's name.
    #[error("is a {0}, not a number")]
    NotANumber(&'static str),
    /// Its value is beyond the range of `f64`.
    #[error("is a number beyond the range of a 64-bit float")]
    OutOfRange,
    /// Its name is empty.
    #[error("has an empty name")]
    EmptyName,
    /// Its name has this many bytes, more than [`MetricName::BYTES_MAX`].
    #[error("has a name of {0} bytes, more than 128")]
    NameTooLong(usize),
    /// Its name stands more than once in the message, so that no value can be chosen.
    #[error("occurs more than once")]
    Repeated,
}

/// Why a message is refused; nothing of it was taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The bytes are no JSON.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// JSON, but no object.
    #[error("not a JSON object")]
    NotAnObject,
    /// `ts` or `metrics` stands there twice.
    #[error("member {0} occurs more than once")]
    RepeatedMember(&'static str),
    /// There is no `ts`.
    #[error("no ts")]
    NoTs,
    /// `ts` is no integer.
    #[error("ts is no integer")]
    TsNotAnInteger,
    /// The clock guard refused `ts`.
    #[error(transparent)]
    Implausible(#[from] Implausible),
    /// There is no `metrics`, or it holds nothing but `null`.
    #[error("no metrics")]
    NoMetrics,
    /// `metrics` is no object.
    #[error("metrics is no object")]
    MetricsNotAnObject,
    /// More than [`METRICS_MAX`] members.
    #[error("more than 256 metrics")]
    TooManyMetrics,
}
