//! Parameters of a question about lists, as a query string.

use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::question::{QuestionError, decode, encode};

/// Why a query string is no question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// A parameter nobody knows.
    #[error("unknown parameter {name:?}; known are {known}")]
    Unknown {
        /// Its name.
        name: String,
        /// Those that there are.
        known: &'static str,
    },
    /// A value that is not what it is to be.
    #[error("{name}: {value:?} is not {wanted}")]
    Value {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it is to be.
        wanted: String,
    },
    /// No query string.
    #[error(transparent)]
    Encoding(#[from] QuestionError),
}

/// Reads names and values.
pub(crate) fn pairs(query: &str) -> Result<Vec<(String, String)>, ParameterError> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let decoded = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decode(name)?, decode(value)?))
    });
    decoded.collect()
}

/// Writes names and values; those without a value not.
pub(crate) fn query_of<const N: usize>(pairs: [(&str, Option<String>); N]) -> String {
    let there = pairs
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", encode(&value?))));
    there.collect::<Vec<_>>().join("&")
}

/// Reads a number within bounds.
pub(crate) fn number<T: FromStr + PartialOrd + std::fmt::Display>(
    name: &'static str,
    value: &str,
    within: RangeInclusive<T>,
) -> Result<T, ParameterError> {
    let number = value.parse().ok().filter(|number| within.contains(number));
    number.ok_or_else(|| ParameterError::Value {
        name,
        value: value.to_owned(),
        wanted: format!("a number from {} to {}", within.start(), within.end()),
    })
}

/// Reads `true` or `false`.
pub(crate) fn truth(name: &'static str, value: &str) -> Result<bool, ParameterError> {
    value.parse().map_err(|_| ParameterError::Value {
        name,
        value: value.to_owned(),
        wanted: "true or false".to_owned(),
    })
}
