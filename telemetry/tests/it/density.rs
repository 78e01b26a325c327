//! How many bytes a point costs, beside a Gorilla encoder on the same rows.

use tidewire_telemetry::sample::Device;
use tidewire_telemetry::{Row, Schemas, block};

const START_MS: i64 = 1_700_000_000_000;

#[test]
fn the_standard_fleet_costs_at_most_0_62_bytes_a_point() {
    let (devices, rows_per_block, blocks) = (1000, 120, 1);
    let mut schemas = Schemas::new();
    let (mut ours, mut gorilla, mut points) = (0, 0, 0);
    for number in 0..devices {
        let rows: Vec<Row> = Device::new(7, number, START_MS)
            .take(rows_per_block * blocks)
            .collect();
        for rows in rows.chunks(rows_per_block) {
            ours += block::encode(rows, &mut schemas).expect("valid rows").len();
            gorilla += gorilla_bytes(rows);
            points += rows.iter().map(Row::len).sum::<usize>();
        }
    }
    ours += schemas.to_bytes().len();
    let per_point = |bytes: usize| bytes as f64 / points as f64;
    println!(
        "ours {:.3}, gorilla {:.3} B/point",
        per_point(ours),
        per_point(gorilla)
    );
    assert!(
        (3.3..=3.6).contains(&per_point(gorilla)),
        "the set is not the honest one: gorilla needs {:.3} B/point",
        per_point(gorilla)
    );
    assert!(per_point(ours) <= 0.62, "{:.3} B/point", per_point(ours));
}

/// The size of the rows as Gorilla (VLDB 2015) writes them: each metric is a series of its own
/// with its timestamps (in milliseconds) and XOR-coded values, padded to a whole byte.
fn gorilla_bytes(rows: &[Row]) -> usize {
    let times: Vec<i64> = rows.iter().map(|row| row.ts_ms).collect();
    let values = |at: usize| rows.iter().map(move |row| row.values()[at].to_bits());
    (0..rows[0].len())
        .map(|at| (gorilla_times(&times) + gorilla_values(values(at))).div_ceil(8))
        .sum()
}

fn gorilla_times(times: &[i64]) -> usize {
    let mut bits = 64 + 14;
    let deltas: Vec<i64> = times.windows(2).map(|w| w[1] - w[0]).collect();
    for pair in deltas.windows(2) {
        bits += match pair[1] - pair[0] {
            0 => 1,
            -63..=64 => 9,
            -255..=256 => 12,
            -2047..=2048 => 16,
            _ => 36,
        };
    }
    bits
}

fn gorilla_values(mut values: impl Iterator<Item = u64>) -> usize {
    let mut last = values.next().expect("a block has a row");
    let mut bits = 64;
    // Leading and trailing zeros of the window in use.
    let mut window: Option<(u32, u32)> = None;
    for value in values {
        let xor = value ^ last;
        last = value;
        if xor == 0 {
            bits += 1;
            continue;
        }
        let (leading, trailing) = (xor.leading_zeros().min(31), xor.trailing_zeros());
        match window {
            Some((l, t)) if leading >= l && trailing >= t => bits += 2 + (64 - l - t) as usize,
            _ => {
                bits += 2 + 5 + 6 + (64 - leading - trailing) as usize;
                window = Some((leading, trailing));
            }
        }
    }
    bits
}
