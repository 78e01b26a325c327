use proptest::prelude::*;

use super::*;
use crate::payload::{Decoder, decode_json};

const NOW: i64 = 1_700_000_000_000;

fn shape_of(text: &str) -> Option<Shape> {
    let decoded = decode_json(text.as_bytes(), NOW).expect("a valid message");
    assert_eq!(decoded.rejected, []);
    Shape::of(text.as_bytes(), &decoded.row)
}

fn known_shape(text: &str) -> Shape {
    shape_of(text).expect("a shape that is learned")
}

/// A message of one shape with these numbers.
fn message(ts: &str, a: &str, b: &str) -> String {
    format!(r#"{{"ts":{ts},"metrics":{{"battery":{a},"a metric with a long name":{b}}}}}"#)
}

fn scan(shape: &Shape, text: &str) -> Option<Row> {
    shape.scan(text.as_bytes(), NOW)
}

#[test]
fn a_message_of_the_shape_is_read_without_the_general_reading() {
    let now = NOW.to_string();
    let shape = known_shape(&message(&now, "1", "2"));
    for (a, b) in [
        ("81.5", "-3"),
        ("0", "-0.0"),
        ("1e-320", "12345678901234567890.5"),
    ] {
        let text = message(&now, a, b);
        let row = scan(&shape, &text).expect("a message of the shape");
        assert_eq!(Ok(row), decode_json(text.as_bytes(), NOW).map(|d| d.row));
    }
}

#[test]
fn whitespace_and_the_order_of_members_are_part_of_the_shape() {
    let text =
        |ts: i64, b: f64| format!(" {{ \"metrics\" : {{\"z\":{b}, \"a\": 2}},\n\"ts\":{ts}}} ");
    let shape = known_shape(&text(NOW, 1.0));
    let row = scan(&shape, &text(NOW - 1, 7.5)).expect("a message of the shape");
    assert_eq!((row.ts_ms, row.values()), (NOW - 1, &[2.0, 7.5][..]));
    assert_eq!(scan(&shape, &text(NOW, 1.0).replace(' ', "")), None);
}

#[test]
fn what_is_not_exactly_of_the_shape_is_left_to_the_general_reading() {
    let now = NOW.to_string();
    let shape = known_shape(&message(&now, "1", "2"));
    for number in [
        "",
        "-",
        "+1",
        "01",
        "-01",
        "1.",
        ".5",
        "1e",
        "1e+",
        "1E-",
        "0x1",
        "1_0",
        "NaN",
        "inf",
        "Infinity",
        "null",
        "true",
        "\"1\"",
        "[1]",
        "1e999",
        "-1e999",
        " 1",
        "1 ",
        "1.e1",
        "--1",
        "1,\"c\":1",
        "1.2.3",
        "\u{661}",
    ] {
        for text in [message(&now, number, "2"), message(&now, "1", number)] {
            assert_eq!(scan(&shape, &text), None, "{text}");
        }
    }
    for ts in [
        "",
        "-1",
        "-0",
        "01",
        "1.7e12",
        "1700000000000.0",
        "1700000000",
        "null",
        "99999999999999999999",
    ] {
        assert_eq!(scan(&shape, &message(ts, "1", "2")), None, "{ts}");
    }
    let whole = message(&now, "1", "2");
    for at in 0..whole.len() {
        assert_eq!(scan(&shape, &whole[..at]), None, "cut off at {at}");
    }
    assert_eq!(scan(&shape, &format!("{whole} ")), None);
}

#[test]
fn only_plain_messages_are_learned() {
    for text in [
        format!(r#"{{"ts":{NOW},"metrics":{{"a":1,"b":null}}}}"#),
        format!(r#"{{"ts":{NOW},"metrics":{{"a\u0062":1}}}}"#),
        format!(r#"{{"ts":{NOW},"metrics":{{"a":1}},"x":1}}"#),
        format!(r#"{{"ts":{NOW},"metrics":{{"a":1}},"x":"y"}}"#),
        format!(r#"{{"ts":{NOW},"metrics":{{"a":1}},"x":{{"ts":1}}}}"#),
        format!(r#"{{"x":[1],"ts":{NOW},"metrics":{{"a":1}}}}"#),
        format!(
            r#"{{"ts":{NOW},"metrics":{{"a":1}}{}}}"#,
            " ".repeat(PAYLOAD_BYTES_MAX)
        ),
    ] {
        assert!(shape_of(&text).is_none(), "{text}");
    }
}

#[test]
fn a_decoder_remembers_a_few_shapes_and_forgets_the_oldest() {
    let mut shapes = Shapes::default();
    let text = |kind: usize| format!(r#"{{"ts":{NOW},"metrics":{{"m{kind}":{kind}}}}}"#);
    for kind in 0..=SHAPES_MAX {
        let row = decode_json(text(kind).as_bytes(), NOW).expect("valid").row;
        shapes.learn(text(kind).as_bytes(), &row);
    }
    let known: Vec<usize> = (0..=SHAPES_MAX)
        .filter(|&kind| shapes.scan(text(kind).as_bytes(), NOW).is_some())
        .collect();
    assert_eq!(known, [0, 1, 2, 4]);
}

#[test]
fn a_decoder_that_meets_new_shapes_all_the_time_learns_seldom() {
    let mut shapes = Shapes::default();
    let text = |kind: u32| format!(r#"{{"ts":{NOW},"metrics":{{"m{kind}":{kind}}}}}"#);
    let learned = (0..10 * MISSES_MAX).filter(|&kind| {
        let text = text(kind);
        let row = decode_json(text.as_bytes(), NOW).expect("valid").row;
        shapes.learn(text.as_bytes(), &row);
        shapes.list.iter().any(|shape| scan(shape, &text).is_some())
    });
    assert_eq!(learned.count() as u32, MISSES_MAX + 9);
}

/// The text of a number, usual or odd.
fn number_text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (any::<i32>(), 0..8_u32).prop_map(|(n, d)| (f64::from(n) / 10_f64.powi(d as i32)).to_string()),
        2 => any::<f64>().prop_map(|value| value.to_string()),
        2 => "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?",
        1 => any::<f32>().prop_map(|value| f64::from(value).to_string()),
        1 => "[-+.eE0-9nul\"]{0,6}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn numbers_are_those_of_the_standard_library(text in "-?(0|[1-9][0-9]{0,22})(\\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?") {
        let expected: f64 = text.parse().expect("JSON's numbers are numbers here");
        let read = number(text.as_bytes(), 0);
        if expected.is_finite() {
            let (value, end) = read.expect("a number");
            prop_assert_eq!((value.to_bits(), end), (expected.to_bits(), text.len()));
        } else {
            prop_assert_eq!(read, None);
        }
    }

    /// The decoder that has learned shapes says of every message what one without memory says.
    #[test]
    fn a_decoder_with_shapes_agrees_with_one_without(
        kinds in prop::collection::vec(prop::collection::vec(".{0,12}", 1..6), 1..6),
        messages in prop::collection::vec(
            (any::<prop::sample::Index>(), prop::collection::vec(number_text(), 6), -5_i64..5, any::<Option<(prop::sample::Index, u8)>>()),
            1..24,
        ),
    ) {
        let mut decoder = Decoder::new();
        for (kind, numbers, ago_ms, damage) in messages {
            let names = kind.get(&kinds);
            let members: Vec<_> = names.iter().zip(&numbers)
                .map(|(name, number)| format!("{}:{number}", serde_json::Value::from(name.as_str())))
                .collect();
            let text = format!(r#"{{"ts":{},"metrics":{{{}}}}}"#, NOW + ago_ms, members.join(","));
            let mut bytes = text.into_bytes();
            if let Some((at, byte)) = damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            prop_assert_eq!(decoder.decode_json(&bytes, NOW), decode_json(&bytes, NOW));
        }
    }
}
