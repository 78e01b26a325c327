//! What must hold of the payload decoder for any bytes; shared with `fuzz/`.

use std::collections::BTreeMap;

use serde_json::Value;
use tidewire_telemetry::clock;
use tidewire_telemetry::payload::{Decoded, Decoder, METRICS_MAX, RejectReason, decode_json};

/// When the payloads are received.
pub(crate) const NOW: i64 = 1_700_000_000_000;

/// Decodes the payloads of a stream. Bytes that begin below 8 (JSON does not) stand for messages of
/// one shape whose numbers they spell; others are the payloads themselves, parted by zero bytes.
///
/// # Panics
/// When a payload decodes otherwise than alone, so that scanner and fallback disagree; when what
/// is taken is not what a tree of the same JSON holds; or when a bound is broken.
pub(crate) fn decode_stream(bytes: &[u8]) {
    match bytes.split_first() {
        Some((..8, numbers)) => decode_payloads(&messages_of(numbers)),
        _ => decode_payloads(bytes),
    }
}

/// A message whose shape the decoder learns, and others with any texts where its numbers stand.
fn messages_of(numbers: &[u8]) -> Vec<u8> {
    let mut stream = message(&NOW.to_string(), "1.5", "-2").into_bytes();
    let mut numbers = numbers.iter().copied();
    while let Some(choice) = numbers.next() {
        let ts = match choice & 3 {
            0 => number(&mut numbers),
            seconds => (NOW + i64::from(seconds) * 1_000).to_string(),
        };
        let (a, b) = (number(&mut numbers), number(&mut numbers));
        stream.push(0);
        stream.extend_from_slice(message(&ts, &a, &b).as_bytes());
    }
    stream
}

fn message(ts: &str, a: &str, b: &str) -> String {
    format!(r#"{{"ts":{ts},"metrics":{{"a":{a},"long name of b":{b}}}}}"#)
}

/// Up to 31 of the characters that numbers consist of.
fn number(bytes: &mut impl Iterator<Item = u8>) -> String {
    let len = usize::from(bytes.next().unwrap_or(1) & 31);
    let digit = |byte: u8| char::from(b"0123456789.-+eE5"[usize::from(byte & 15)]);
    bytes.take(len).map(digit).collect()
}

fn decode_payloads(bytes: &[u8]) {
    let mut decoder = Decoder::new();
    for payload in bytes.split(|byte| *byte == 0) {
        let alone = decode_json(payload, NOW);
        let first = decoder.decode_json(payload, NOW);
        // Its shape is known now.
        let again = decoder.decode_json(payload, NOW);
        assert_eq!(first, alone, "after others");
        assert_eq!(again, alone, "after itself");
        if let Ok(decoded) = alone {
            assert_bounded(&decoded);
            assert_agrees_with_a_tree(&decoded, payload);
        }
    }
}

fn assert_bounded(decoded: &Decoded) {
    assert!(decoded.row.len() + decoded.rejected.len() <= METRICS_MAX);
    assert!(decoded.row.len() + decoded.rejected.len() > 0);
    assert!(clock::check(decoded.row.ts_ms, NOW).is_ok());
    assert!(decoded.row.values().iter().all(|value| value.is_finite()));
    let names = decoded.row.schema().names();
    assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
}

fn assert_agrees_with_a_tree(decoded: &Decoded, payload: &[u8]) {
    let tree: Value = match serde_json::from_slice(payload) {
        Ok(tree) => tree,
        Err(error) => return assert_only_a_tree_refuses(&error),
    };
    assert_eq!(tree["ts"].as_i64(), Some(decoded.row.ts_ms));
    let members = tree["metrics"].as_object();
    // A tree keeps the last of repeated members; what occurs twice is taken by neither.
    let is_repeated = |name: &str| {
        let mut repeated = decoded.rejected.iter();
        // A long name is cut where it is rejected.
        let names = |cut: &str| name == cut || cut.len() > 124 && name.starts_with(cut);
        repeated.any(|r| r.reason == RejectReason::Repeated && names(&r.name))
    };
    let expected: BTreeMap<&str, u64> = members
        .into_iter()
        .flatten()
        .filter(|(name, _)| (1..=128).contains(&name.len()) && !is_repeated(name))
        .filter_map(|(name, value)| Some((name.as_str(), value.as_f64()?.to_bits())))
        .collect();
    let taken: BTreeMap<&str, u64> = decoded
        .row
        .metrics()
        .filter(|(name, _)| !is_repeated(name.as_str()))
        .map(|(name, value)| (name.as_str(), value.to_bits()))
        .collect();
    assert_eq!(taken, expected);
}

/// A tree is stricter in two ways. It looks into the strings of members that are passed over, for
/// UTF-8 and surrogates; and it takes no number beyond the range of `f64`, which costs us one metric.
fn assert_only_a_tree_refuses(error: &serde_json::Error) {
    let text = error.to_string();
    let known = ["unicode", "surrogate", "hex escape", "number out of range"];
    assert!(known.iter().any(|it| text.contains(it)), "{text}");
}
