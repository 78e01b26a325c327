//! The block codec gives back what it took, bit by bit, and survives foreign bytes.

use proptest::prelude::*;
use tidewire_telemetry::block::{self, BlockError, EncodeError};
use tidewire_telemetry::{MetricName, Row, Schemas};

fn name(text: &str) -> MetricName {
    MetricName::parse(text).expect("a valid name")
}

fn hostile() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<u64>().prop_map(f64::from_bits),
        any::<f32>().prop_map(f64::from),
        (any::<i32>(), 0..8_i32).prop_map(|(units, e)| f64::from(units) / 10_f64.powi(e)),
        (-50..50_i32).prop_map(|units| f64::from(units) / 10.0),
        prop::sample::select(vec![
            0.0,
            -0.0,
            f64::NAN,
            f64::from_bits(0x7ff0_0000_0000_0001),
            f64::from_bits(0xfff8_dead_beef_0001),
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MIN_POSITIVE,
            f64::from_bits(1),
            f64::MAX,
            f64::MIN,
            9_007_199_254_740_992.0,
            9_007_199_254_740_993.0,
            -9_007_199_254_740_992.0,
            0.1 + 0.2,
            1e22,
            1e23,
        ]),
    ]
}

/// Columns of which each is of one mood or of all.
fn column(rows: usize) -> impl Strategy<Value = Vec<Option<f64>>> {
    let decimals = (
        any::<i32>(),
        prop::collection::vec(-30..30_i64, rows),
        0..4_i32,
    )
        .prop_map(|(start, steps, e)| {
            let mut at = i64::from(start);
            let walk = steps.into_iter().map(|step| {
                at += step;
                Some(at as f64 / 10_f64.powi(e))
            });
            walk.collect::<Vec<_>>()
        });
    let constant = hostile().prop_map(move |value| vec![Some(value); rows]);
    let mixed = prop::collection::vec(prop::option::weighted(0.8, hostile()), rows);
    let rare = (
        decimals.clone(),
        prop::collection::vec(prop::option::weighted(0.05, hostile()), rows),
    )
        .prop_map(|(walk, odd)| walk.into_iter().zip(odd).map(|(w, o)| o.or(w)).collect());
    let singles = prop::collection::vec(any::<f32>().prop_map(|v| Some(f64::from(v))), rows);
    prop_oneof![decimals, constant, mixed, rare, singles]
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let times = prop_oneof![
        prop::collection::btree_set(any::<i64>(), 1..40),
        (any::<i32>(), 1..60_i64)
            .prop_map(|(start, n)| (0..n).map(|i| i64::from(start) + i * 10_000).collect()),
    ];
    times.prop_flat_map(|times| {
        let columns = prop::collection::vec(column(times.len()), 1..6);
        columns.prop_map(move |columns| rows_of(times.iter().copied(), &columns))
    })
}

fn rows_of(times: impl Iterator<Item = i64>, columns: &[Vec<Option<f64>>]) -> Vec<Row> {
    let row = |(at, ts_ms): (usize, i64)| {
        let pairs = columns.iter().enumerate();
        let pairs = pairs.filter_map(|(c, v)| v[at].map(|v| (name(&format!("m{c}")), v)));
        Row::from_pairs(ts_ms, pairs).expect("distinct names")
    };
    times
        .enumerate()
        .map(row)
        .filter(|row| !row.is_empty())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn rows_come_back_bit_by_bit(rows in rows()) {
        prop_assume!(!rows.is_empty());
        let mut schemas = Schemas::new();
        let bytes = block::encode(&rows, &mut schemas).expect("valid rows");
        let schemas = Schemas::from_bytes(&schemas.to_bytes()).expect("as written");
        prop_assert_eq!(&block::decode(&bytes, &schemas).expect("as written"), &rows);

        let some: Vec<Row> = rows.iter().map(|row| row.select(|n| n == "m1" || n == "m3"))
            .filter(|row| !row.is_empty()).collect();
        let read = block::decode_metrics(&bytes, &schemas, |n| n == "m1" || n == "m3");
        prop_assert_eq!(read.expect("as written"), some);

        let header = block::peek(&bytes, &schemas).expect("as written");
        prop_assert_eq!(header.rows, rows.len());
        prop_assert_eq!(header.ts_min, rows[0].ts_ms);
        prop_assert_eq!(header.ts_max, rows[rows.len() - 1].ts_ms);
    }

    #[test]
    fn changed_or_cut_bytes_never_panic(
        rows in rows(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        prop_assume!(!rows.is_empty());
        let mut schemas = Schemas::new();
        let bytes = block::encode(&rows, &mut schemas).expect("valid rows");
        // Zero padding makes a cut of the last byte no cut of a field at times, never a success.
        prop_assert!(block::decode(&bytes[..cut.index(bytes.len())], &schemas).is_err());
        let mut changed = bytes;
        for (at, byte) in changes {
            let at = at.index(changed.len());
            changed[at] ^= byte;
        }
        if let Ok(rows) = block::decode(&changed, &schemas) {
            prop_assert!(rows.len() <= block::ROWS_MAX);
            prop_assert!(rows.is_sorted_by(|a, b| a.ts_ms < b.ts_ms));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut schemas = Schemas::new();
        let ab = tidewire_telemetry::Schema::new(vec![name("a"), name("b")]);
        schemas.intern(&ab).expect("room");
        let mut block = vec![block::VERSION, 0];
        block.extend_from_slice(&bytes);
        let _ = block::decode(&block, &schemas);
        let _ = block::decode(&bytes, &schemas);
        let _ = Schemas::from_bytes(&bytes);
    }
}

fn sample() -> Vec<Row> {
    (0..4)
        .map(|i| {
            let mut pairs = vec![
                (name("state"), 2.0),
                (name("temp"), [21.5, 21.6, 21.4, 21.5][i]),
            ];
            if i != 1 {
                pairs.push((name("ratio"), [f64::NAN, 0.0, -0.0, f64::from(0.1_f32)][i]));
            }
            let ts_ms = 1_700_000_000_000 + 10_000 * i as i64;
            Row::from_pairs(ts_ms, pairs).expect("distinct")
        })
        .collect()
}

#[test]
fn version_1_has_these_bytes() {
    let mut schemas = Schemas::new();
    let bytes = block::encode(&sample(), &mut schemas).expect("valid rows");
    assert_eq!(hex(&bytes), GOLDEN_BLOCK);
    assert_eq!(hex(&schemas.to_bytes()), GOLDEN_SCHEMAS);
}

const GOLDEN_BLOCK: &str = "0100411500b4f2e7c50e881302b440000000000000f83f81010000000000f07f80fbffffbfcccc9c800003002041c215028005";
const GOLDEN_SCHEMAS: &str = "0101000000030005726174696f0573746174650474656d70";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn rows_that_make_no_block_are_refused() {
    let mut schemas = Schemas::new();
    let rows = sample();
    let twice = [rows[0].clone(), rows[0].clone()];
    assert_eq!(block::encode(&[], &mut schemas), Err(EncodeError::NoRows));
    assert_eq!(
        block::encode(&twice, &mut schemas),
        Err(EncodeError::NotAscending(rows[0].ts_ms))
    );
    let empty = [Row::from_pairs(5, []).expect("no repeats")];
    assert_eq!(
        block::encode(&empty, &mut schemas),
        Err(EncodeError::EmptyRow(5))
    );
    assert!(schemas.is_empty());
}

#[test]
fn rows_beyond_the_bounds_of_a_block_are_split() {
    let row = |ts_ms| Row::from_pairs(ts_ms, [(name("a"), 1.0)]).expect("distinct");
    let many: Vec<Row> = (0..block::ROWS_MAX as i64 + 1).map(row).collect();
    assert_eq!(block::rows_that_fit(&many), block::ROWS_MAX);
    assert_eq!(
        block::encode(&many, &mut Schemas::new()),
        Err(EncodeError::TooLarge(block::ROWS_MAX + 1))
    );
    let wide = |ts_ms: i64| {
        let pairs = (0..1024).map(|m| (name(&format!("{ts_ms}_{m}")), 1.0));
        Row::from_pairs(ts_ms, pairs).expect("distinct")
    };
    let wide: Vec<Row> = (0..10).map(wide).collect();
    assert_eq!(block::rows_that_fit(&wide), 8);
}

#[test]
fn an_unknown_version_or_schema_is_named() {
    let mut schemas = Schemas::new();
    let mut bytes = block::encode(&sample(), &mut schemas).expect("valid rows");
    assert_eq!(
        block::decode(&bytes, &Schemas::new()),
        Err(BlockError::UnknownSchema(0))
    );
    bytes[0] = 2;
    assert_eq!(block::decode(&bytes, &schemas), Err(BlockError::Version(2)));
    assert_eq!(block::decode(&[], &schemas), Err(BlockError::CutOff));
}

#[test]
fn unrounded_32_bit_floats_cost_at_most_4_bytes() {
    let row = |i: i64| {
        let value = f64::from((i as f32 * 0.7).sin() * 100.0 + 0.1);
        Row::from_pairs(i * 1000, [(name("a"), value)]).expect("distinct")
    };
    let rows: Vec<Row> = (0..1000).map(row).collect();
    let bytes = block::encode(&rows, &mut Schemas::new()).expect("valid rows");
    assert!(bytes.len() <= 4 * 1000 + 32, "{} bytes", bytes.len());
}

#[test]
fn more_cells_than_the_bound_are_refused_before_memory_is_taken() {
    let row = |ts_ms| Row::from_pairs(ts_ms, [(name("a"), 1.0)]).expect("distinct");
    let rows: Vec<Row> = (0..block::ROWS_MAX as i64).map(row).collect();
    let bytes = block::encode(&rows, &mut Schemas::new()).expect("valid rows");
    let mut foreign = Schemas::new();
    let names = (0..Schemas::NAMES_MAX).map(|i| name(&format!("m{i}")));
    foreign
        .intern(&tidewire_telemetry::Schema::new(names.collect()))
        .expect("room");
    assert_eq!(
        block::decode(&bytes, &foreign),
        Err(BlockError::Damaged("more rows than a block may have"))
    );
}

#[test]
fn each_packing_of_version_1_has_these_bytes() {
    let noise = [3, -2, 5, 0, -4, 1, 6, -3, 2, -1, 4, -5];
    let row = |i: i64| {
        let walk = 1_000 + noise[i as usize % 12] + if i == 20 { 1_000_000_000 } else { 0 };
        let pairs = [
            (name("counter"), (i * 7) as f64),
            (name("noise_with_a_spike"), walk as f64 / 100.0),
            (name("state"), if (9..31).contains(&i) { 4.0 } else { 1.0 }),
            (name("uniform"), ((i * 37) % 64) as f64),
        ];
        Row::from_pairs(i * i * 1_000, pairs).expect("distinct")
    };
    let rows: Vec<Row> = (0..40).map(row).collect();
    let mut schemas = Schemas::new();
    let bytes = block::encode(&rows, &mut schemas).expect("valid rows");
    assert_eq!(block::decode(&bytes, &schemas), Ok(rows));
    assert_eq!(hex(&bytes), GOLDEN_PACKINGS);
}

const GOLDEN_PACKINGS: &str = "0100c30154a05780010100078700c2c27a3848f044f3a8d058e989e651ffff4f40597307000000a0b1d213cda34263a52700040a36406000422b008036d4420086fefaeb5f7ffdf5afbffefad75ffffaebaf7ffdf5d70f";
