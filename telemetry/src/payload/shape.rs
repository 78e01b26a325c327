//! The predicted-shape scanner: reads a JSON message whose keys are those of an earlier one.
//!
//! A device sends the same members in the same order every time; only the numbers differ. A
//! [`Shape`] is what stands between the numbers, byte for byte, so that a message of that shape is
//! a few comparisons of words and the numbers themselves. What is not exactly of the shape, or is
//! unusual in any way, is left to the general reading, which decides alone what is accepted.

use crate::clock;
use crate::row::{Row, Schema};

/// Shapes remembered by one decoder; a fleet has a few kinds of devices.
const SHAPES_MAX: usize = 4;

/// The longest message whose shape is learned, in bytes.
const PAYLOAD_BYTES_MAX: usize = 16 << 10;

/// The shapes that a decoder has seen last, the one that fitted last in front.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    list: Vec<Shape>,
    /// Messages since one had a known shape.
    misses: u32,
}

/// After so many messages of unknown shapes in a row only one in as many is learned: in a fleet
/// of many shapes learning would cost more than it gains.
const MISSES_MAX: u32 = 16;

impl Shapes {
    /// Reads a message of a known shape; `None`: ask the general reading.
    pub(super) fn scan(&mut self, payload: &[u8], received_ms: i64) -> Option<Row> {
        for at in 0..self.list.len() {
            if let Some(row) = self.list[at].scan(payload, received_ms) {
                self.list.swap(0, at);
                self.misses = 0;
                return Some(row);
            }
        }
        None
    }

    /// Remembers the shape of a message that the general reading took whole as `row`.
    pub(super) fn learn(&mut self, payload: &[u8], row: &Row) {
        self.misses = self.misses.wrapping_add(1);
        if self.misses > MISSES_MAX && !self.misses.is_multiple_of(MISSES_MAX) {
            return;
        }
        let Some(shape) = Shape::of(payload, row) else {
            return;
        };
        // The one in front is in use; the last one goes.
        self.list.truncate(SHAPES_MAX - 1);
        self.list.push(shape);
    }
}

/// What stands around the numbers of a message.
#[derive(Debug)]
pub(super) struct Shape {
    /// The number that follows each literal.
    parts: Vec<(Literal, Hole)>,
    /// What follows the last number.
    end: Box<[u8]>,
    schema: Schema,
}

/// What a number of the message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hole {
    Ts,
    /// The value of the name at this place of the schema.
    Metric(usize),
}

impl Shape {
    /// Finds the shape of a valid message of which `row` holds every metric; `None` for a message
    /// with anything beside a `ts` and metrics that are numbers, or with escapes in its names.
    pub(super) fn of(payload: &[u8], row: &Row) -> Option<Self> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return None;
        }
        let mut parts = Vec::with_capacity(row.len() + 1);
        let (mut depth, mut is_value, mut key) = (0, false, "");
        let (mut at, mut literal_start) = (0, 0);
        while let Some(&byte) = payload.get(at) {
            let start = at;
            at += 1;
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' => {}
                b',' => is_value = false,
                b':' => is_value = true,
                b'{' if depth == 0 || (depth == 1 && key == "metrics") => {
                    depth += 1;
                    is_value = false;
                }
                b'}' => depth -= 1,
                b'"' if !is_value => {
                    at += payload[at..].iter().position(|&byte| byte == b'"')?;
                    key = std::str::from_utf8(&payload[start + 1..at]).ok()?;
                    if key.contains('\\') {
                        return None;
                    }
                    at += 1;
                }
                b'-' | b'0'..=b'9' => {
                    let hole = match depth {
                        1 if key == "ts" => Hole::Ts,
                        2 => Hole::Metric(row.schema().position(key)?),
                        _ => return None,
                    };
                    parts.push((Literal::new(&payload[literal_start..start]), hole));
                    at += payload[at..]
                        .iter()
                        .take_while(|byte| {
                            matches!(byte, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E')
                        })
                        .count();
                    literal_start = at;
                }
                _ => return None,
            }
        }
        (parts.len() == row.len() + 1).then(|| Self {
            parts,
            end: payload[literal_start..].into(),
            schema: row.schema().clone(),
        })
    }

    /// Reads a message of this shape with a plausible time; `None` for any other.
    pub(super) fn scan(&self, payload: &[u8], received_ms: i64) -> Option<Row> {
        let mut values = vec![0.0; self.schema.len()].into_boxed_slice();
        let (mut at, mut ts_ms) = (0, 0);
        for (literal, hole) in &self.parts {
            at = literal.skip(payload, at)?;
            match *hole {
                Hole::Ts => (ts_ms, at) = integer(payload, at)?,
                Hole::Metric(place) => (*values.get_mut(place)?, at) = number(payload, at)?,
            }
        }
        let is_whole = payload.get(at..)? == &*self.end;
        (is_whole && clock::check(ts_ms, received_ms).is_ok())
            .then(|| Row::new(ts_ms, self.schema.clone(), values))
    }
}

/// Fixed bytes, compared word by word: the library's comparison costs a call for each.
#[derive(Debug)]
struct Literal {
    bytes: Box<[u8]>,
    words: Box<[u64]>,
    /// The bytes after the last whole word, and which bits of a word they fill.
    tail: u64,
    tail_mask: u64,
}

const WORD: usize = size_of::<u64>();

impl Literal {
    fn new(bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<WORD>();
        let mut tail = [0; WORD];
        tail[..rest.len()].copy_from_slice(rest);
        Self {
            bytes: bytes.into(),
            words: words.iter().map(|word| u64::from_le_bytes(*word)).collect(),
            tail: u64::from_le_bytes(tail),
            tail_mask: (1 << (8 * rest.len())) - 1,
        }
    }

    /// The place after this literal, if it stands at `at`.
    #[inline]
    fn skip(&self, payload: &[u8], at: usize) -> Option<usize> {
        let rest = payload.get(at..)?;
        let mut words = rest;
        for expected in &self.words {
            let (word, after) = words.split_first_chunk::<WORD>()?;
            if u64::from_le_bytes(*word) != *expected {
                return None;
            }
            words = after;
        }
        let matches = match words.first_chunk::<WORD>() {
            Some(word) => u64::from_le_bytes(*word) & self.tail_mask == self.tail,
            // Near the end of the message.
            None => rest.starts_with(&self.bytes),
        };
        matches.then_some(at + self.bytes.len())
    }
}

/// Digits of which an `i64` and a `u64` can hold any.
const DIGITS_MAX: usize = 18;

/// Reads an integer that is not negative, as `ts` is in practice.
#[inline]
fn integer(payload: &[u8], at: usize) -> Option<(i64, usize)> {
    let (value, end) = digits(payload, at, 0);
    let count = end - at;
    let is_integer = !matches!(payload.get(end), Some(b'.' | b'e' | b'E'));
    let is_plain = (1..=DIGITS_MAX).contains(&count) && (payload[at] != b'0' || count == 1);
    (is_integer && is_plain).then_some((value as i64, end))
}

/// Powers of ten that an `f64` holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// Below it an `f64` holds every integer.
const EXACT_MAX: u64 = 1 << 53;

/// Reads a number of JSON's grammar as `str::parse::<f64>` would; `None` for anything else and
/// beyond the range of `f64`.
#[inline]
fn number(payload: &[u8], start: usize) -> Option<(f64, usize)> {
    let is_negative = payload.get(start) == Some(&b'-');
    let whole_start = start + usize::from(is_negative);
    let (mut mantissa, mut at) = digits(payload, whole_start, 0);
    let whole_len = at - whole_start;
    if whole_len == 0 || (whole_len > 1 && payload[whole_start] == b'0') {
        return None;
    }
    let mut decimals = 0;
    if payload.get(at) == Some(&b'.') {
        let fraction_start = at + 1;
        (mantissa, at) = digits(payload, fraction_start, mantissa);
        decimals = at - fraction_start;
        if decimals == 0 {
            return None;
        }
    }
    if matches!(payload.get(at), Some(b'e' | b'E')) {
        return slow_number(payload, start, exponent_end(payload, at)?);
    }
    // Clinger: an exact integer divided by an exact power of ten is rounded once, hence rightly.
    // Beyond 18 digits the mantissa may have wrapped around.
    if whole_len + decimals > DIGITS_MAX || mantissa > EXACT_MAX {
        return slow_number(payload, start, at);
    }
    let value = mantissa as f64 / POWERS[decimals];
    Some((if is_negative { -value } else { value }, at))
}

/// Appends the digits at `at` to a number; what exceeds `u64` wraps around.
#[inline]
fn digits(payload: &[u8], mut at: usize, mut number: u64) -> (u64, usize) {
    while let Some(&byte) = payload.get(at) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        number = number.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    (number, at)
}

/// The end of an exponent that begins at `at`; `None` when it has no digits.
fn exponent_end(payload: &[u8], at: usize) -> Option<usize> {
    let has_sign = matches!(payload.get(at + 1), Some(b'+' | b'-'));
    let digits_start = at + 1 + usize::from(has_sign);
    let (_, end) = digits(payload, digits_start, 0);
    (end > digits_start).then_some(end)
}

#[cold]
fn slow_number(payload: &[u8], start: usize, end: usize) -> Option<(f64, usize)> {
    let text = std::str::from_utf8(&payload[start..end]).ok()?;
    let value: f64 = text.parse().ok()?;
    value.is_finite().then_some((value, end))
}

#[cfg(test)]
#[path = "shape_test.rs"]
mod tests;
