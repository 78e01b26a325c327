//! The head agrees with a map of points.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tidewire_telemetry::query::{SourceRow, merge_rows};
use tidewire_telemetry::{DeviceId, Head, Merge, MetricName, Row, Stamp};

fn row(ts_ms: i64, pairs: &[(&str, f64)]) -> Row {
    let name = |text| MetricName::parse(text).expect("a valid name");
    let pairs = pairs.iter().map(|&(text, value)| (name(text), value));
    Row::from_pairs(ts_ms, pairs).expect("distinct names")
}

fn device(text: &str) -> DeviceId {
    DeviceId::parse(text).expect("a valid id")
}

fn stamp(sequence: u64) -> Stamp {
    Stamp {
        received_ms: 1_000 + sequence as i64,
        node: 1,
        sequence,
    }
}

fn all(head: &Head) -> Vec<(u16, DeviceId, Vec<Row>)> {
    head.iter()
        .map(|(bucket, device, rows)| (bucket, device.clone(), rows))
        .collect()
}

type Key = (u16, DeviceId, i64, String);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_order_of_arrival_gives_the_value_of_the_highest_stamp(
        messages in prop::collection::vec(
            (0..2_u16, 0..3_u8, -2..3_i64, prop::collection::btree_map(0..4_u8, -1..2_i8, 0..4)), 1..40),
        order in any::<u64>(),
    ) {
        let mut messages: Vec<_> = messages.into_iter().enumerate().map(|(i, (bucket, d, ts, metrics))| {
            let metrics: Vec<(String, f64)> = metrics.into_iter()
                .map(|(m, v)| (format!("m{m}"), f64::from(v) * 0.5)).collect();
            (bucket, device(&format!("d{d}")), ts, metrics, stamp(i as u64))
        }).collect();
        let mut model: BTreeMap<Key, u64> = BTreeMap::new();
        for (bucket, d, ts, metrics, _) in &messages {
            for (m, v) in metrics {
                model.insert((*bucket, d.clone(), *ts, m.clone()), v.to_bits());
            }
        }
        messages.sort_by_key(|m| (m.4.sequence + 1).wrapping_mul(order | 1));

        let mut head = Head::new();
        let mut seen: BTreeMap<Key, u64> = BTreeMap::new();
        for (bucket, d, ts, metrics, stamp) in &messages {
            let pairs: Vec<_> = metrics.iter().map(|(m, v)| (m.as_str(), *v)).collect();
            let merge = head.insert(*bucket, d, &row(*ts, &pairs), *stamp);
            let mut new = 0;
            for (m, _) in metrics {
                let key = (*bucket, d.clone(), *ts, m.clone());
                new += u32::from(seen.insert(key, 0).is_none());
            }
            prop_assert_eq!(merge.new_points, new);
            let others = merge.duplicate_points + merge.replaced_points + merge.outdated_points;
            prop_assert_eq!(merge.new_points + others, metrics.len() as u32);
        }

        let mut held = BTreeMap::new();
        let mut last = None;
        for (bucket, d, rows) in head.iter() {
            prop_assert!(last < Some((bucket, d.clone())));
            last = Some((bucket, d.clone()));
            prop_assert!(rows.is_sorted_by(|a, b| a.ts_ms < b.ts_ms));
            for row in &rows {
                for (m, v) in row.metrics() {
                    held.insert((bucket, d.clone(), row.ts_ms, m.to_string()), v.to_bits());
                }
            }
        }
        prop_assert_eq!(head.points(), model.len() as u64);
        prop_assert_eq!(held, model);
    }
}

#[test]
fn a_resent_message_counts_as_duplicates_even_with_nan() {
    let mut head = Head::new();
    let message = row(5, &[("a", f64::NAN), ("b", 1.0)]);
    head.insert(0, &device("d"), &message, stamp(1));
    let merge = head.insert(0, &device("d"), &message, stamp(2));
    let expected = Merge {
        duplicate_points: 2,
        ..Merge::default()
    };
    assert_eq!(merge, expected);
    assert_eq!(head.points(), 2);
}

#[test]
fn a_lower_stamp_loses_and_is_counted() {
    let mut head = Head::new();
    head.insert(0, &device("d"), &row(5, &[("a", 2.0)]), stamp(2));
    let merge = head.insert(0, &device("d"), &row(5, &[("a", 1.0)]), stamp(1));
    assert_eq!(merge.outdated_points, 1);
    let merge = head.insert(0, &device("d"), &row(5, &[("a", 3.0)]), stamp(3));
    assert_eq!(merge.replaced_points, 1);
    assert_eq!(all(&head), [(0, device("d"), vec![row(5, &[("a", 3.0)])])]);
}

#[test]
fn metrics_beyond_the_bound_of_a_row_are_refused_and_the_others_taken() {
    let mut head = Head::new();
    let names: Vec<String> = (0..Head::ROW_METRICS_MAX)
        .map(|i| format!("m{i}"))
        .collect();
    let full: Vec<_> = names.iter().map(|name| (name.as_str(), 1.0)).collect();
    head.insert(0, &device("d"), &row(5, &full), stamp(1));
    let merge = head.insert(
        0,
        &device("d"),
        &row(5, &[("m0", 7.0), ("x", 1.0)]),
        stamp(2),
    );
    assert_eq!((merge.refused_points, merge.replaced_points), (1, 1));
    assert_eq!(head.points(), Head::ROW_METRICS_MAX as u64);
}

#[test]
fn taking_leaves_an_empty_head_and_both_can_be_read() {
    let mut head = Head::new();
    head.insert(0, &device("d"), &row(5, &[("a", 1.0)]), stamp(1));
    assert!(head.bytes() > 8);
    assert_eq!(head.oldest_received_ms(), Some(1_001));
    let taken = head.take();
    assert_eq!(
        (head.bytes(), head.rows(), head.oldest_received_ms()),
        (0, 0, None)
    );
    head.insert(0, &device("d"), &row(6, &[("a", 2.0)]), stamp(2));
    let sources = [&taken, &head].map(|head| {
        head.rows_of(0, &device("d"), i64::MIN..=i64::MAX)
            .collect::<Vec<_>>()
    });
    let rows: Vec<Row> = merge_rows(sources.map(Vec::into_iter)).collect();
    assert_eq!(rows, [row(5, &[("a", 1.0)]), row(6, &[("a", 2.0)])]);
}

#[test]
fn a_range_holds_both_its_ends_and_an_inverted_one_nothing() {
    let mut head = Head::new();
    for ts_ms in 1..=5 {
        head.insert(0, &device("d"), &row(ts_ms, &[("a", 1.0)]), stamp(1));
    }
    let times = |range| {
        head.rows_of(0, &device("d"), range)
            .map(|r| r.row.ts_ms)
            .collect::<Vec<_>>()
    };
    assert_eq!(times(2..=4), [2, 3, 4]);
    #[expect(clippy::reversed_empty_ranges, reason = "a query may name it")]
    let inverted = times(4..=2);
    assert_eq!(inverted, Vec::<i64>::new());
    assert_eq!(head.rows_of(1, &device("d"), 0..=9).count(), 0);
}

#[test]
fn bytes_grow_with_what_is_held_and_not_with_duplicates() {
    let mut head = Head::new();
    let values: Vec<(String, f64)> = (0..20).map(|i| (format!("metric{i}"), 1.5)).collect();
    let pairs: Vec<_> = values.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    head.insert(0, &device("d"), &row(0, &pairs), stamp(1));
    let one = head.bytes();
    head.insert(0, &device("d"), &row(1, &pairs), stamp(1));
    let second = head.bytes() - one;
    assert!((160..320).contains(&second), "{second} bytes for 20 values");
    head.insert(0, &device("d"), &row(1, &pairs), stamp(1));
    assert_eq!(head.bytes(), one + second);
}

#[test]
fn merging_sources_unites_metrics_and_the_earliest_sealed_value_stays() {
    let sealed = |rows: Vec<Row>| rows.into_iter().map(SourceRow::sealed).collect::<Vec<_>>();
    let mut head = Head::new();
    head.insert(
        0,
        &device("d"),
        &row(1, &[("a", 9.0), ("c", 3.0)]),
        stamp(1),
    );
    let sources = [
        sealed(vec![row(1, &[("a", 1.0)]), row(3, &[("a", 3.0)])]),
        sealed(vec![
            row(1, &[("a", 2.0), ("b", 2.0)]),
            row(2, &[("a", 2.0)]),
        ]),
        head.rows_of(0, &device("d"), 0..=9).collect(),
    ];
    let mut merged = merge_rows(sources.map(Vec::into_iter));
    let rows: Vec<Row> = merged.by_ref().collect();
    assert_eq!(
        rows,
        [
            row(1, &[("a", 1.0), ("b", 2.0), ("c", 3.0)]),
            row(2, &[("a", 2.0)]),
            row(3, &[("a", 3.0)]),
        ]
    );
    assert_eq!(merged.conflicts(), 2);
}
