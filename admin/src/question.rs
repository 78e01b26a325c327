//! A question about one device, as a query string and as flags.

use crate::time::{DurationError, TimeError, parse_duration_ms, parse_time};

/// Rows that are asked for when nobody says how many.
pub const LIMIT_DEFAULT: usize = 10_000;

/// What `GET /v1/query/DEVICE?metric=&from=&to=&step=&limit=` asks; every part may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Metrics wanted; empty means all.
    pub metrics: Vec<String>,
    /// From when, inclusive; absent: an hour before `to`.
    pub from: Option<String>,
    /// Until when, inclusive; absent: now.
    pub to: Option<String>,
    /// Length of the steps that rows are summarised in; absent: the rows themselves.
    pub step: Option<String>,
    /// Most rows wanted; absent: [`LIMIT_DEFAULT`].
    pub limit: Option<usize>,
}

/// A question with its times resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Metrics wanted; empty means all.
    pub metrics: Vec<String>,
    /// First moment wanted, in milliseconds since the Unix epoch.
    pub from_ms: i64,
    /// Last moment wanted, inclusive.
    pub to_ms: i64,
    /// Step in milliseconds, at least 1.
    pub step_ms: Option<u64>,
    /// Most rows wanted.
    pub limit: usize,
}

/// Why a question cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// A time cannot be read.
    #[error(transparent)]
    Time(#[from] TimeError),
    /// The step cannot be read.
    #[error("step: {0}")]
    Step(#[from] DurationError),
    /// The step is nothing.
    #[error("step: 0 is too short; the shortest is 1ms")]
    StepZero,
    /// The limit is no number.
    #[error("limit: {0:?} is no number")]
    Limit(String),
    /// The range is empty.
    #[error("from {from} comes after to {to}")]
    Range {
        /// The first moment.
        from: String,
        /// The last moment.
        to: String,
    },
    /// A parameter nobody knows.
    #[error("unknown parameter {0:?}; known are metric, from, to, step, limit")]
    Unknown(String),
    /// A parameter nobody knows of a question for dead letters.
    #[error("unknown parameter {0:?}; known are limit, reason, after")]
    UnknownOfLetters(String),
    /// A `%` that no two hex digits follow, or bytes that are not UTF-8.
    #[error("{0:?} is not percent-encoded UTF-8")]
    Encoding(String),
}

impl Question {
    /// Reads a query string.
    ///
    /// # Errors
    /// [`QuestionError`] naming the parameter.
    pub fn parse(query: &str) -> Result<Self, QuestionError> {
        let mut question = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value)?;
            match name {
                "metric" => question.metrics.push(value),
                "from" => question.from = Some(value),
                "to" => question.to = Some(value),
                "step" => question.step = Some(value),
                "limit" => {
                    let limit = value.parse().map_err(|_| QuestionError::Limit(value))?;
                    question.limit = Some(limit);
                }
                other => return Err(QuestionError::Unknown(other.to_owned())),
            }
        }
        Ok(question)
    }

    /// Writes the query string that [`Question::parse`] reads.
    pub fn to_query(&self) -> String {
        let limit = self.limit.map(|limit| limit.to_string());
        let metrics = self.metrics.iter().map(|metric| ("metric", metric));
        let others = [
            ("from", &self.from),
            ("to", &self.to),
            ("step", &self.step),
            ("limit", &limit),
        ];
        let others = others
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_ref()?)));
        let pairs: Vec<_> = metrics
            .chain(others)
            .map(|(name, value)| format!("{name}={}", encode(value)))
            .collect();
        pairs.join("&")
    }

    /// Resolves the times against `now_ms`, milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// [`QuestionError`] naming the value.
    pub fn resolve(&self, now_ms: u64) -> Result<Resolved, QuestionError> {
        let time = |text: &Option<String>| text.as_deref().map(|text| parse_time(text, now_ms));
        let to_ms = time(&self.to).transpose()?.unwrap_or(now_ms as i64);
        // Devices may be up to a minute ahead: without an end their newest rows are wanted too.
        let to_ms = if self.to.is_none() {
            to_ms.saturating_add(60_000)
        } else {
            to_ms
        };
        let from_ms = time(&self.from)
            .transpose()?
            .unwrap_or(to_ms.saturating_sub(3_660_000));
        if from_ms > to_ms {
            let (from, to) = (
                crate::time::format_time(from_ms),
                crate::time::format_time(to_ms),
            );
            return Err(QuestionError::Range { from, to });
        }
        let step_ms = self.step.as_deref().map(parse_duration_ms).transpose()?;
        if step_ms == Some(0) {
            return Err(QuestionError::StepZero);
        }
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        Ok(Resolved {
            metrics: self.metrics.clone(),
            from_ms,
            to_ms,
            step_ms,
            limit,
        })
    }
}

/// Percent-encodes everything but unreserved characters (RFC 3986 §2.3).
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

pub(crate) fn decode(text: &str) -> Result<String, QuestionError> {
    let error = || QuestionError::Encoding(text.to_owned());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next()), digit(rest.next()));
                let (high, low) = (high.ok_or_else(error)?, low.ok_or_else(error)?);
                bytes.push((high * 16 + low) as u8);
            }
            b'+' => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_survives_its_query_string() {
        let question = Question {
            metrics: vec!["temp motor/°C".into(), "a&b=c".into()],
            from: Some("2025-11-24T17:00:00+01:00".into()),
            to: None,
            step: Some("1m".into()),
            limit: Some(5),
        };
        assert_eq!(Question::parse(&question.to_query()), Ok(question));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(
            Question::parse("metrik=x"),
            Err(QuestionError::Unknown("metrik".into()))
        );
        assert_eq!(
            Question::parse("limit=x"),
            Err(QuestionError::Limit("x".into()))
        );
        assert_eq!(
            Question::parse("from=%zz"),
            Err(QuestionError::Encoding("%zz".into()))
        );
        let backwards = Question::parse("from=5&to=4").expect("readable").resolve(9);
        assert!(matches!(backwards, Err(QuestionError::Range { .. })));
    }

    #[test]
    fn the_last_hour_is_meant_when_nothing_is_said() {
        let resolved = Question::default().resolve(10_000_000).expect("resolves");
        assert_eq!(
            (resolved.from_ms, resolved.to_ms),
            (10_000_000 - 3_600_000, 10_060_000)
        );
    }
}
