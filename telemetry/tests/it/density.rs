//! How many bytes a point of the standard fleet costs; `bench density` sets it beside others.

use tidewire_telemetry::sample::{Device, Variant};
use tidewire_telemetry::{Row, Schemas, block};

const START_MS: i64 = 1_700_000_000_000;
const DEVICES: u64 = 200;
const ROWS_PER_BLOCK: usize = 120;

fn bytes_per_point(variant: Variant) -> f64 {
    let mut schemas = Schemas::new();
    let (mut bytes, mut points) = (0, 0);
    for number in 0..DEVICES {
        let device = Device::of_variant(variant, 7, number, START_MS);
        let rows: Vec<Row> = device.take(ROWS_PER_BLOCK).collect();
        let block = block::encode(&rows, &mut schemas).expect("valid rows");
        bytes += block.len();
        points += rows.iter().map(Row::len).sum::<usize>();
        assert!(
            block::decode(&block, &schemas).as_ref() == Ok(&rows),
            "device {number} comes back otherwise"
        );
    }
    (bytes + schemas.to_bytes().len()) as f64 / points as f64
}

#[test]
fn the_standard_fleet_costs_at_most_0_62_bytes_a_point() {
    let bytes = bytes_per_point(Variant::Standard);
    assert!(bytes <= 0.62, "{bytes:.3} B/point");
}

#[test]
fn jitter_costs_less_than_a_twentieth_of_a_byte() {
    let bytes = bytes_per_point(Variant::Jitter);
    assert!(bytes <= 0.67, "{bytes:.3} B/point");
}

#[test]
fn singles_that_nobody_rounded_cost_less_than_the_four_bytes_they_have() {
    let bytes = bytes_per_point(Variant::UnroundedSingles);
    assert!(bytes <= 3.0, "{bytes:.3} B/point");
}
