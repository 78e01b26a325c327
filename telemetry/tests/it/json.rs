//! JSON payloads: against a reading through `serde_json::Value`, and each refusal.

use proptest::prelude::*;
use serde_json::Value;
use tidewire_telemetry::payload::{Decoder, PayloadError, RejectReason, decode_json};

const NOW: i64 = 1_700_000_000_000;

fn metrics(text: &str) -> Vec<(String, f64)> {
    let message = format!(r#"{{"ts":{NOW},"metrics":{text}}}"#);
    let decoded = decode_json(message.as_bytes(), NOW).expect("a valid message");
    assert_eq!(decoded.rejected, []);
    decoded
        .row
        .metrics()
        .map(|(n, v)| (n.to_string(), v))
        .collect()
}

fn error(text: &str) -> PayloadError {
    decode_json(text.as_bytes(), NOW).expect_err("a refused message")
}

#[test]
fn members_come_in_any_order_and_unknown_ones_are_passed_over() {
    let text =
        format!(r#" {{"x":[1,{{"ts":2}}],"metrics":{{"b":2,"a":1.5}},"ts":{NOW},"y":null}} "#);
    let decoded = decode_json(text.as_bytes(), NOW).expect("a valid message");
    assert_eq!(decoded.row.ts_ms, NOW);
    assert_eq!(decoded.row.values(), [1.5, 2.0]);
    assert_eq!(decoded.reason(), None);
}

#[test]
fn null_is_absent() {
    assert_eq!(metrics(r#"{"a":null,"b":1}"#), [("b".to_owned(), 1.0)]);
    assert_eq!(
        error(&format!(r#"{{"ts":{NOW},"metrics":{{"a":null}}}}"#)),
        PayloadError::NoMetrics
    );
}

#[test]
fn numbers_are_exact() {
    for text in [
        "0.1",
        "-0",
        "-0.0",
        "1e-320",
        "9007199254740993",
        "18446744073709551615",
        "-9223372036854775808",
        "123456789012345678901234567890",
        "1.7976931348623157e308",
        "5e-324",
        "0.30000000000000004",
        "179.99999999999999",
    ] {
        let read = metrics(&format!(r#"{{"a":{text}}}"#))[0].1;
        let expected: f64 = text.parse().expect("a number");
        assert_eq!(read.to_bits(), expected.to_bits(), "{text}");
    }
}

#[test]
fn a_metric_that_is_no_number_is_named_and_the_others_are_kept() {
    let long = "n".repeat(129);
    let text = format!(
        r#"{{"ts":{NOW},"metrics":{{"a":"x","b":1,"c":true,"d":[1],"e":{{}},"":2,"{long}":3,"f":1,"f":1}}}}"#
    );
    let decoded = decode_json(text.as_bytes(), NOW).expect("a valid message");
    let reasons: Vec<_> = decoded
        .rejected
        .iter()
        .map(|r| (r.name.as_str(), r.reason))
        .collect();
    assert_eq!(
        reasons,
        [
            ("a", RejectReason::NotANumber("string")),
            ("c", RejectReason::NotANumber("boolean")),
            ("d", RejectReason::NotANumber("array")),
            ("e", RejectReason::NotANumber("object")),
            ("", RejectReason::EmptyName),
            (&long[..128], RejectReason::NameTooLong(129)),
            ("f", RejectReason::Repeated),
        ]
    );
    assert_eq!(decoded.row.len(), 1);
    assert_eq!(decoded.row.get("b"), Some(1.0));
    assert!(
        decoded
            .reason()
            .is_some_and(|text| text.contains(r#"metric "a" is a string, not a number"#))
    );
}

#[test]
fn a_number_beyond_the_range_of_f64_costs_only_its_metric() {
    let text = format!(
        r#"{{"ts":{NOW},"x":-1e999,"metrics":{{"a":1e999,"b":2.5,"c":"1e999","d\"1e999":-1E+400,"e":1e-999}}}}"#
    );
    let decoded = decode_json(text.as_bytes(), NOW).expect("a valid message");
    let reasons: Vec<_> = decoded
        .rejected
        .iter()
        .map(|r| (r.name.as_str(), r.reason))
        .collect();
    assert_eq!(
        reasons,
        [
            ("a", RejectReason::OutOfRange),
            ("c", RejectReason::NotANumber("string")),
            ("d\"1e999", RejectReason::OutOfRange),
        ]
    );
    assert_eq!(decoded.row.get("b"), Some(2.5));
    assert_eq!(decoded.row.get("e"), Some(0.0));
    assert_eq!(
        error(r#"{"ts":1e999,"metrics":{"a":1e999}}"#),
        PayloadError::TsNotAnInteger
    );
}

#[test]
fn a_message_without_a_believable_time_is_refused_whole() {
    assert_eq!(error(r#"{"metrics":{"a":1}}"#), PayloadError::NoTs);
    assert_eq!(
        error(r#"{"ts":null,"metrics":{"a":1}}"#),
        PayloadError::NoTs
    );
    for ts in [
        "1.7e12",
        "1700000000000.0",
        "\"1700000000000\"",
        "true",
        "[]",
    ] {
        assert_eq!(
            error(&format!(r#"{{"ts":{ts},"metrics":{{"a":1}}}}"#)),
            PayloadError::TsNotAnInteger
        );
    }
    for ts in [1_700_000_000, 1_700_000_000_000_000, u64::MAX] {
        let error = error(&format!(r#"{{"ts":{ts},"metrics":{{"a":1}}}}"#));
        assert!(matches!(error, PayloadError::Implausible(_)), "{ts}");
    }
}

#[test]
fn what_is_no_message_says_why() {
    for text in [
        "",
        "{",
        "nope",
        "{\"ts\":1}x",
        "{\"ts\":NaN}",
        "{\"metrics\":{\"a\":1e999},\"ts\":1",
        "{\"metrics\":{\"a\":1e999,\"b\":1e},\"ts\":1}",
        "\u{0}",
    ] {
        assert!(matches!(error(text), PayloadError::NotJson(_)), "{text}");
    }
    for text in ["[]", "1", "-1", "1.5", "\"x\"", "null", "true"] {
        assert_eq!(error(text), PayloadError::NotAnObject, "{text}");
    }
    assert_eq!(
        error(&format!(r#"{{"ts":{NOW}}}"#)),
        PayloadError::NoMetrics
    );
    assert_eq!(
        error(&format!(r#"{{"ts":{NOW},"metrics":null}}"#)),
        PayloadError::NoMetrics
    );
    assert_eq!(
        error(&format!(r#"{{"ts":{NOW},"metrics":{{}}}}"#)),
        PayloadError::NoMetrics
    );
    for value in ["[]", "1", "\"x\"", "true"] {
        let text = format!(r#"{{"ts":{NOW},"metrics":{value}}}"#);
        assert_eq!(error(&text), PayloadError::MetricsNotAnObject);
    }
    let twice = format!(r#"{{"ts":{NOW},"ts":{NOW},"metrics":{{"a":1}}}}"#);
    assert_eq!(error(&twice), PayloadError::RepeatedMember("ts"));
    let deep = format!(r#"{{"ts":{NOW},"x":{}"#, "[".repeat(100_000));
    assert!(matches!(error(&deep), PayloadError::NotJson(_)));
}

#[test]
fn a_message_has_at_most_256_metrics() {
    let members = |n| {
        let members: Vec<_> = (0..n).map(|i| format!("\"m{i}\":1")).collect();
        format!(r#"{{"ts":{NOW},"metrics":{{{}}}}}"#, members.join(","))
    };
    assert!(decode_json(members(256).as_bytes(), NOW).is_ok());
    assert_eq!(error(&members(257)), PayloadError::TooManyMetrics);
}

#[test]
fn rows_of_one_shape_share_their_names() {
    let mut decoder = Decoder::new();
    let text = format!(r#"{{"ts":{NOW},"metrics":{{"b":2,"a":1.5}}}}"#);
    let first = decoder
        .decode_json(text.as_bytes(), NOW)
        .expect("a valid message");
    let second = decoder
        .decode_json(text.as_bytes(), NOW)
        .expect("a valid message");
    assert!(first.row.schema().is_same(second.row.schema()));
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        ".{0,5}".prop_map(Value::from),
        prop::collection::vec(any::<i8>(), 0..3).prop_map(Value::from),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_decoder_agrees_with_a_tree(members in prop::collection::btree_map(".{0,6}", value(), 1..12), pretty in any::<bool>()) {
        let tree = serde_json::json!({"ts": NOW, "metrics": members});
        let text = if pretty { serde_json::to_string_pretty(&tree) } else { serde_json::to_string(&tree) };
        let decoded = decode_json(text.expect("a tree").as_bytes(), NOW);

        let expected: Vec<(String, u64)> = members.iter()
            .filter(|(name, value)| value.is_number() && !name.is_empty())
            .map(|(name, value)| (name.clone(), value.as_f64().expect("a number").to_bits()))
            .collect();
        let refused = members.iter().filter(|(name, value)| !value.is_null() && (name.is_empty() || !value.is_number())).count();
        match decoded {
            Ok(decoded) => {
                let read: Vec<_> = decoded.row.metrics().map(|(n, v)| (n.to_string(), v.to_bits())).collect();
                prop_assert_eq!(read, expected);
                prop_assert_eq!(decoded.rejected.len(), refused);
            }
            Err(e) => {
                prop_assert_eq!(e, PayloadError::NoMetrics);
                prop_assert!(expected.is_empty() && refused == 0);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = decode_json(&bytes, NOW);
    }
}
