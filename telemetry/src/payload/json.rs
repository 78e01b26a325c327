//! `{"ts": ms, "metrics": {name: value, …}}`, read by serde_json without an intermediate tree.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::names::Names;
use super::{Decoded, METRICS_MAX, PayloadError, RejectReason, Rejected};
use crate::clock;
use crate::row::{MetricName, Row};

pub(super) fn decode(
    payload: &[u8],
    received_ms: i64,
    names: &mut Names,
) -> Result<Decoded, PayloadError> {
    match read(payload) {
        Ok(message) => message.into_decoded(received_ms, names),
        Err(PayloadError::NotJson(text)) if text.starts_with("number out of range") => {
            let marked = mark_huge_numbers(payload);
            read(&marked)?.into_decoded(received_ms, names)
        }
        Err(error) => Err(error),
    }
}

fn read(payload: &[u8]) -> Result<Message<'_>, PayloadError> {
    let mut message = Message::default();
    let mut json = serde_json::Deserializer::from_slice(payload);
    json.deserialize_any(MessageVisitor(&mut message))
        .and_then(|()| json.end())
        .map_err(|e| match message.refusal.take() {
            Some(refusal) => refusal,
            None => PayloadError::NotJson(e.to_string()),
        })?;
    Ok(message)
}

/// Stands in a copy of the message for a number beyond the range of `f64`, at which serde_json
/// would stop: such a metric is rejected, the others are kept. A device that sends this very text
/// is rejected just so.
const HUGE: &str = "number beyond f64";

/// Copies a message with [`HUGE`], in quotes, for each number beyond the range of `f64`.
fn mark_huge_numbers(payload: &[u8]) -> Vec<u8> {
    let mut marked = Vec::with_capacity(payload.len());
    let mut rest = payload;
    while let Some(&byte) = rest.first() {
        let len = match byte {
            b'"' => string_len(rest),
            b'-' | b'0'..=b'9' => number_len(rest),
            _ => 1,
        };
        let (token, after) = rest.split_at(len);
        rest = after;
        let number = std::str::from_utf8(token)
            .ok()
            .and_then(|t| t.parse::<f64>().ok());
        if number.is_some_and(f64::is_infinite) {
            marked.extend_from_slice(b"\"");
            marked.extend_from_slice(HUGE.as_bytes());
            marked.extend_from_slice(b"\"");
        } else {
            marked.extend_from_slice(token);
        }
    }
    marked
}

/// The length of the string at the beginning, with its quotes; all that is left when it has no end.
fn string_len(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

fn number_len(text: &[u8]) -> usize {
    let is_part = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E');
    text.iter().take_while(is_part).count()
}

/// The members of a message as they are read.
#[derive(Default)]
struct Message<'de> {
    ts: Option<Scalar>,
    metrics: Option<Metrics<'de>>,
    /// Set when the reading stops for another reason than a fault of the JSON.
    refusal: Option<PayloadError>,
}

enum Metrics<'de> {
    Object(Vec<(Cow<'de, str>, Scalar)>),
    NoObject,
}

/// A JSON value, of which only numbers matter.
#[derive(Clone, Copy)]
enum Scalar {
    Null,
    Integer(i64),
    /// Above the range of `i64`.
    Unsigned(u64),
    Float(f64),
    /// Beyond the range of `f64`.
    Huge,
    /// Something else: the type's name.
    Other(&'static str),
}

impl Message<'_> {
    fn into_decoded(self, received_ms: i64, names: &mut Names) -> Result<Decoded, PayloadError> {
        let ts_ms = match self.ts {
            None | Some(Scalar::Null) => return Err(PayloadError::NoTs),
            Some(Scalar::Integer(ts_ms)) => ts_ms,
            // The clock guard refuses it as any time that far ahead.
            Some(Scalar::Unsigned(_)) => i64::MAX,
            Some(Scalar::Float(_) | Scalar::Huge | Scalar::Other(_)) => {
                return Err(PayloadError::TsNotAnInteger);
            }
        };
        clock::check(ts_ms, received_ms)?;
        match self.metrics {
            None => Err(PayloadError::NoMetrics),
            Some(Metrics::NoObject) => Err(PayloadError::MetricsNotAnObject),
            Some(Metrics::Object(members)) => row_of(ts_ms, &members, names),
        }
    }
}

/// Sorts the members into those to store and those to name in a dead letter.
fn row_of(
    ts_ms: i64,
    members: &[(Cow<'_, str>, Scalar)],
    names: &mut Names,
) -> Result<Decoded, PayloadError> {
    let repeated = repeated_names(members);
    let mut rejected = Vec::new();
    let mut pairs: Vec<(MetricName, f64)> = Vec::with_capacity(members.len());
    for (name, value) in members {
        if repeated.binary_search(&&**name).is_ok() {
            let reason = RejectReason::Repeated;
            if !rejected
                .iter()
                .any(|r: &Rejected| r.reason == reason && r.name == *name)
            {
                rejected.push(Rejected::new(name, reason));
            }
            continue;
        }
        match number(name, *value) {
            Ok(Some(value)) => pairs.push((names.name(name), value)),
            Ok(None) => {}
            Err(reason) => rejected.push(Rejected::new(name, reason)),
        }
    }
    if pairs.is_empty() && rejected.is_empty() {
        return Err(PayloadError::NoMetrics);
    }
    pairs.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let (sorted, values): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let row = Row::new(ts_ms, names.schema(sorted), values);
    Ok(Decoded { row, rejected })
}

/// The names that stand more than once, sorted.
fn repeated_names<'a>(members: &'a [(Cow<'_, str>, Scalar)]) -> Vec<&'a str> {
    let mut names: Vec<&str> = members.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    let mut repeated: Vec<&str> = names
        .windows(2)
        .filter(|pair| pair[0] == pair[1])
        .map(|pair| pair[0])
        .collect();
    repeated.dedup();
    repeated
}

/// The number to store under a name; `None` for `null`, which is an absent metric.
fn number(name: &str, value: Scalar) -> Result<Option<f64>, RejectReason> {
    let value = match value {
        Scalar::Null => return Ok(None),
        Scalar::Integer(value) => value as f64,
        Scalar::Unsigned(value) => value as f64,
        Scalar::Float(value) => value,
        Scalar::Huge => return Err(RejectReason::OutOfRange),
        Scalar::Other(kind) => return Err(RejectReason::NotANumber(kind)),
    };
    match name.len() {
        0 => Err(RejectReason::EmptyName),
        1..=MetricName::BYTES_MAX => Ok(Some(value)),
        len => Err(RejectReason::NameTooLong(len)),
    }
}

/// Reads the outermost value.
struct MessageVisitor<'a, 'de>(&'a mut Message<'de>);

impl<'de> Visitor<'de> for MessageVisitor<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(key)) = map.next_key()? {
            match &*key {
                "ts" if self.0.ts.is_some() => {
                    return Err(self.refuse(PayloadError::RepeatedMember("ts")));
                }
                "ts" => self.0.ts = Some(map.next_value_seed(ScalarSeed)?),
                "metrics" if self.0.metrics.is_some() => {
                    return Err(self.refuse(PayloadError::RepeatedMember("metrics")));
                }
                "metrics" => {
                    let seed = MetricsSeed(&mut self.0.refusal);
                    self.0.metrics = Some(map.next_value_seed(seed)?);
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(self.refuse(PayloadError::NotAnObject))
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        Err(self.refuse(PayloadError::NotAnObject))
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Err(self.refuse(PayloadError::NotAnObject))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        Err(self.refuse(PayloadError::NotAnObject))
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        Err(self.refuse(PayloadError::NotAnObject))
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        Err(self.refuse(PayloadError::NotAnObject))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        Err(self.refuse(PayloadError::NotAnObject))
    }
}

impl MessageVisitor<'_, '_> {
    /// Notes why the reading stops; the returned error only ends serde's recursion.
    fn refuse<E: de::Error>(self, refusal: PayloadError) -> E {
        let error = E::custom(&refusal);
        self.0.refusal = Some(refusal);
        error
    }
}

/// Reads the value of `metrics`.
struct MetricsSeed<'a>(&'a mut Option<PayloadError>);

impl<'de> DeserializeSeed<'de> for MetricsSeed<'_> {
    type Value = Metrics<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Metrics<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MetricsSeed<'_> {
    type Value = Metrics<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metrics<'de>, A::Error> {
        let mut members = Vec::with_capacity(32);
        while let Some(Text(name)) = map.next_key()? {
            if members.len() == METRICS_MAX {
                *self.0 = Some(PayloadError::TooManyMetrics);
                return Err(de::Error::custom(PayloadError::TooManyMetrics));
            }
            members.push((name, map.next_value_seed(ScalarSeed)?));
        }
        Ok(Metrics::Object(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Metrics<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Metrics::NoObject)
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<Metrics<'de>, E> {
        Ok(Metrics::NoObject)
    }

    /// `null` is absent here too.
    fn visit_unit<E: de::Error>(self) -> Result<Metrics<'de>, E> {
        Ok(Metrics::Object(Vec::new()))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Metrics<'de>, E> {
        Ok(Metrics::NoObject)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Metrics<'de>, E> {
        Ok(Metrics::NoObject)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Metrics<'de>, E> {
        Ok(Metrics::NoObject)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Metrics<'de>, E> {
        Ok(Metrics::NoObject)
    }
}

/// Reads one value, whatever it is.
struct ScalarSeed;

impl<'de> DeserializeSeed<'de> for ScalarSeed {
    type Value = Scalar;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Scalar, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ScalarSeed {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Scalar, E> {
        Ok(Scalar::Null)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Scalar, E> {
        Ok(Scalar::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Scalar, E> {
        Ok(i64::try_from(value).map_or(Scalar::Unsigned(value), Scalar::Integer))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Scalar, E> {
        Ok(Scalar::Float(value))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Scalar, E> {
        Ok(Scalar::Other("boolean"))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
        Ok(if text == HUGE {
            Scalar::Huge
        } else {
            Scalar::Other("string")
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other("array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other("object"))
    }
}

/// A member's name, borrowed from the payload unless it has escapes.
struct Text<'de>(Cow<'de, str>);

impl<'de> de::Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(TextVisitor)
    }
}
