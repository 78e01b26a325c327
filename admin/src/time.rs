//! Times as people write them.

use std::str::FromStr;

use jiff::Timestamp;

/// Why a text is no time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no time; write RFC 3339 (2026-11-25T14:00:00Z), milliseconds since 1970, or how long \
     ago (-15m)"
)]
pub struct TimeError(pub String);

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no duration; write a number and a unit: 500ms, 30s, 15m, 6h, 2d")]
pub struct DurationError(pub String);

/// Reads a time: RFC 3339, milliseconds since the Unix epoch, or `-15m` before `now_ms`.
///
/// # Errors
/// [`TimeError`] naming the text.
pub fn parse_time(text: &str, now_ms: u64) -> Result<i64, TimeError> {
    let error = || TimeError(text.to_owned());
    if let Ok(ms) = text.parse::<i64>() {
        return Ok(ms);
    }
    if let Some(ago) = text.strip_prefix('-') {
        let ago_ms = parse_duration_ms(ago).map_err(|_| error())?;
        return Ok((now_ms as i64).saturating_sub(i64::try_from(ago_ms).unwrap_or(i64::MAX)));
    }
    if text == "now" {
        return Ok(now_ms as i64);
    }
    Timestamp::from_str(text)
        .map(|time| time.as_millisecond())
        .map_err(|_| error())
}

/// Reads a duration in milliseconds: a whole number with one of the units ms, s, m, h, d.
///
/// # Errors
/// [`DurationError`] naming the text.
pub fn parse_duration_ms(text: &str) -> Result<u64, DurationError> {
    let error = || DurationError(text.to_owned());
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(error()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit_ms))
        .ok_or_else(error)
}

/// Writes a time as RFC 3339 in UTC with milliseconds; a time no calendar has as its number.
pub fn format_time(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => ms.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_of_a_time_are_read() {
        let now_ms = 1_764_000_000_000;
        assert_eq!(parse_time("1764000000123", now_ms), Ok(1_764_000_000_123));
        assert_eq!(parse_time("-15m", now_ms), Ok(1_764_000_000_000 - 900_000));
        assert_eq!(
            parse_time("2025-11-24T16:00:00Z", now_ms),
            Ok(1_764_000_000_000)
        );
        assert_eq!(
            parse_time("2025-11-24T17:00:00.5+01:00", now_ms),
            Ok(1_764_000_000_500)
        );
        assert_eq!(
            parse_time("yesterday", now_ms),
            Err(TimeError("yesterday".into()))
        );
    }

    #[test]
    fn a_time_is_written_as_it_is_read() {
        let text = format_time(1_764_000_000_123);
        assert_eq!(text, "2025-11-24T16:00:00.123Z");
        assert_eq!(parse_time(&text, 0), Ok(1_764_000_000_123));
    }

    #[test]
    fn a_duration_needs_number_and_unit() {
        assert_eq!(parse_duration_ms("500ms"), Ok(500));
        assert_eq!(parse_duration_ms("2d"), Ok(172_800_000));
        for text in ["", "5", "m", "5 m", "99999999999999999999d", "5w"] {
            assert_eq!(parse_duration_ms(text), Err(DurationError(text.into())));
        }
    }
}
