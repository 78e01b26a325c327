//! The standard fleet: seeded, deterministic telemetry for tests and benchmarks of density.
//!
//! A device has 20 metrics every 10 s. Each has a resolution (1 to 3 decimals, or whole numbers)
//! and moves by a Gaussian step a row; "noise" is a Gaussian error of measurement on top. Nothing
//! is rounded more coarsely than its stated resolution.
//!
//! | metrics | kind |
//! |---|---|
//! | `speed`, `engine_load`, `throttle`, `current` | walks of 40 to 60 units of resolution a row, some with noise of 20 |
//! | `voltage`, `pressure_oil`, `vibration` | walks of 2 to 6 units, noise of 6 to 20 |
//! | `temp_coolant`, `temp_cabin`, `temp_battery`, `temp_outside`, `humidity` | slow: 0.1 to 0.3 units a row |
//! | `latitude`, `longitude` | walks of 0.2 units (3 decimals of a degree) |
//! | `odometer`, `energy_total` | counters with varying increments |
//! | `doors_open`, `state`, `gear` | whole numbers drawn anew once in 60, 40 and 12 rows |
//! | `firmware` | constant |
//!
//! Times are those of a timer that starts anywhere within the interval; one row in 40 is up to
//! 50 ms late. A Gorilla encoder needs 3.3 to 3.6 bytes a point for this set (`bench density`).
//! [`Variant`] makes harder sets of it.

use crate::row::{MetricName, Row, Schema};

/// Milliseconds between two rows of a device.
pub const INTERVAL_MS: i64 = 10_000;

/// One row in this many is late.
const ROWS_PER_LATE: u64 = 40;

/// How late a late row is at most, milliseconds.
const LATE_MS_MAX: u64 = 50;

/// How a metric moves.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A walk of `step` units a row, measured with an error of `noise` units.
    Walk { step: f64, noise: f64 },
    /// Grows by `mean` units a row, give or take `spread`.
    Counter { mean: f64, spread: f64 },
    /// Jumps to one of `values` numbers, once in `rows` rows on average.
    State { values: u64, rows: u64 },
    /// Never changes.
    Constant,
}

/// Name, decimals, start in units of the resolution, kind.
type Metric = (&'static str, u32, f64, Kind);

const METRICS: [Metric; 20] = [
    (
        "speed",
        1,
        650.0,
        Kind::Walk {
            step: 40.0,
            noise: 0.0,
        },
    ),
    (
        "engine_load",
        1,
        420.0,
        Kind::Walk {
            step: 60.0,
            noise: 0.0,
        },
    ),
    (
        "throttle",
        1,
        310.0,
        Kind::Walk {
            step: 60.0,
            noise: 20.0,
        },
    ),
    (
        "current",
        2,
        5230.0,
        Kind::Walk {
            step: 40.0,
            noise: 20.0,
        },
    ),
    (
        "voltage",
        2,
        4012.0,
        Kind::Walk {
            step: 2.0,
            noise: 6.0,
        },
    ),
    (
        "pressure_oil",
        2,
        412.0,
        Kind::Walk {
            step: 4.0,
            noise: 8.0,
        },
    ),
    (
        "vibration",
        3,
        180.0,
        Kind::Walk {
            step: 6.0,
            noise: 20.0,
        },
    ),
    (
        "humidity",
        1,
        555.0,
        Kind::Walk {
            step: 0.3,
            noise: 0.0,
        },
    ),
    (
        "temp_coolant",
        1,
        884.0,
        Kind::Walk {
            step: 0.3,
            noise: 0.0,
        },
    ),
    (
        "temp_cabin",
        1,
        213.0,
        Kind::Walk {
            step: 0.15,
            noise: 0.0,
        },
    ),
    (
        "temp_battery",
        1,
        284.0,
        Kind::Walk {
            step: 0.2,
            noise: 0.0,
        },
    ),
    (
        "temp_outside",
        1,
        127.0,
        Kind::Walk {
            step: 0.1,
            noise: 0.0,
        },
    ),
    (
        "latitude",
        3,
        48137.0,
        Kind::Walk {
            step: 0.2,
            noise: 0.0,
        },
    ),
    (
        "longitude",
        3,
        11575.0,
        Kind::Walk {
            step: 0.2,
            noise: 0.0,
        },
    ),
    (
        "odometer",
        1,
        843215.0,
        Kind::Counter {
            mean: 0.6,
            spread: 0.6,
        },
    ),
    (
        "energy_total",
        3,
        5120340.0,
        Kind::Counter {
            mean: 38.0,
            spread: 12.0,
        },
    ),
    (
        "doors_open",
        0,
        0.0,
        Kind::State {
            values: 3,
            rows: 60,
        },
    ),
    (
        "state",
        0,
        2.0,
        Kind::State {
            values: 6,
            rows: 40,
        },
    ),
    (
        "gear",
        0,
        4.0,
        Kind::State {
            values: 8,
            rows: 12,
        },
    ),
    ("firmware", 0, 30417.0, Kind::Constant),
];

/// What sets a fleet apart from the standard one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// The standard fleet.
    #[default]
    Standard,
    /// Every row is 0 to 50 ms late, evenly distributed.
    Jitter,
    /// Walks and counters are 32-bit floats that nobody rounded to a resolution.
    UnroundedSingles,
}

/// The rows of one device of the fleet, without end.
#[derive(Clone, Debug)]
pub struct Device {
    variant: Variant,
    random: Random,
    schema: Schema,
    /// For each name of the schema its place in `METRICS`.
    order: Vec<usize>,
    /// In units of each metric's resolution.
    positions: [f64; 20],
    ts_ms: i64,
}

impl Device {
    /// Makes the device of this number in the fleet of this seed; its first row is at about
    /// `start_ms`. Equal arguments give equal rows.
    pub fn new(seed: u64, number: u64, start_ms: i64) -> Self {
        Self::of_variant(Variant::Standard, seed, number, start_ms)
    }

    /// As [`Device::new`], of another fleet.
    pub fn of_variant(variant: Variant, seed: u64, number: u64, start_ms: i64) -> Self {
        let mut random = Random(seed ^ number.wrapping_mul(0xd134_2543_de82_ef95));
        let names = METRICS.iter().map(|metric| metric.0);
        let schema = Schema::new(names.map(name_of).collect());
        let place = |name: &MetricName| METRICS.iter().position(|m| m.0 == name.as_str());
        let order = schema
            .names()
            .iter()
            .map(|n| place(n).expect("a name of the table"))
            .collect();
        let positions = METRICS.map(|metric| match metric.3 {
            Kind::Walk { step, noise } => {
                (metric.2 + random.normal() * (step + noise) * 10.0).round()
            }
            Kind::Counter { mean, .. } => (metric.2 + mean * random.below(100_000) as f64).round(),
            Kind::State { values, .. } => random.below(values) as f64,
            Kind::Constant => metric.2,
        });
        let ts_ms = start_ms + random.below(INTERVAL_MS as u64) as i64;
        Self {
            variant,
            random,
            schema,
            order,
            positions,
            ts_ms,
        }
    }

    fn measure(&mut self, at: usize) -> f64 {
        let (_, decimals, _, kind) = METRICS[at];
        let is_rounded = self.variant != Variant::UnroundedSingles;
        let round = |units: f64| if is_rounded { units.round() } else { units };
        let random = &mut self.random;
        let position = &mut self.positions[at];
        let units = match kind {
            Kind::Walk { step, noise } => {
                *position += random.normal() * step;
                round(*position + random.normal() * noise)
            }
            Kind::Counter { mean, spread } => {
                *position += round(mean + random.normal() * spread).max(0.0);
                *position
            }
            Kind::State { values, rows } => {
                if random.below(rows) == 0 {
                    *position = random.below(values) as f64;
                }
                *position
            }
            Kind::Constant => *position,
        };
        let value = units / f64::from(10_u32.pow(decimals));
        if is_rounded {
            value
        } else {
            f64::from(value as f32)
        }
    }
}

impl Iterator for Device {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        let rows_per_late = match self.variant {
            Variant::Jitter => 1,
            _ => ROWS_PER_LATE,
        };
        let late_ms = match self.random.below(rows_per_late) {
            0 => self.random.below(LATE_MS_MAX + 1) as i64,
            _ => 0,
        };
        let ts_ms = self.ts_ms + late_ms;
        self.ts_ms += INTERVAL_MS;
        let measured: Vec<f64> = (0..METRICS.len()).map(|at| self.measure(at)).collect();
        let values: Vec<f64> = self.order.iter().map(|&at| measured[at]).collect();
        Some(Row::new(ts_ms, self.schema.clone(), values))
    }
}

fn name_of(text: &str) -> MetricName {
    MetricName::parse(text).expect("the table has valid names")
}

/// SplitMix64: small, and the same on every machine for ever.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Nearly Gaussian: the sum of 12 uniform numbers, free of the platform's logarithm.
    fn normal(&mut self) -> f64 {
        let unit = |bits: u64| (bits >> 11) as f64 / (1_u64 << 53) as f64;
        (0..12).map(|_| unit(self.next())).sum::<f64>() - 6.0
    }
}
