//! What a simulated device measures: 20 metrics of a vehicle, computed from seed, device and
//! sequence number alone, so that a message can be made again without having been kept.

use std::fmt::Write;

/// Metrics, and thereby points, of one message.
pub const METRICS: usize = 20;

/// Place of the metric that carries the device's sequence number.
pub const SEQUENCE_METRIC: usize = METRICS - 1;

/// Names of the metrics in the order in which a message and the ledger list them.
pub const METRIC_NAMES: [&str; METRICS] = {
    let mut names = [""; METRICS];
    let mut at = 0;
    while at < METRICS {
        names[at] = SHAPES[at].0;
        at += 1;
    }
    names
};

/// Is the course of one metric over a device's messages.
#[derive(Clone, Copy)]
enum Shape {
    /// Swings around `mid` by `swing` over `period` messages, with a noise of a tenth of the swing.
    Wave { mid: f64, swing: f64, period: f64 },
    /// Grows by `step` a message from a start below `start_max`.
    Meter { start_max: f64, step: f64 },
    /// Takes one of `levels` whole values and stays with it for `hold` messages.
    Level { levels: u64, hold: u64 },
    /// Is the sequence number itself.
    Sequence,
}

/// Name, course and number of decimals.
const SHAPES: [(&str, Shape, u32); METRICS] = [
    (
        "battery",
        Shape::Wave {
            mid: 62.0,
            swing: 31.0,
            period: 4_000.0,
        },
        1,
    ),
    (
        "voltage",
        Shape::Wave {
            mid: 396.0,
            swing: 12.0,
            period: 900.0,
        },
        1,
    ),
    (
        "current",
        Shape::Wave {
            mid: 20.0,
            swing: 80.0,
            period: 60.0,
        },
        2,
    ),
    (
        "speed",
        Shape::Wave {
            mid: 47.0,
            swing: 40.0,
            period: 120.0,
        },
        1,
    ),
    (
        "acceleration",
        Shape::Wave {
            mid: 0.0,
            swing: 2.5,
            period: 17.0,
        },
        2,
    ),
    (
        "temp_motor",
        Shape::Wave {
            mid: 71.0,
            swing: 14.0,
            period: 700.0,
        },
        1,
    ),
    (
        "temp_battery",
        Shape::Wave {
            mid: 29.0,
            swing: 6.0,
            period: 1_500.0,
        },
        1,
    ),
    (
        "temp_cabin",
        Shape::Wave {
            mid: 21.5,
            swing: 2.0,
            period: 400.0,
        },
        1,
    ),
    (
        "temp_outside",
        Shape::Wave {
            mid: 3.0,
            swing: 9.0,
            period: 8_000.0,
        },
        1,
    ),
    (
        "humidity",
        Shape::Wave {
            mid: 55.0,
            swing: 20.0,
            period: 3_000.0,
        },
        0,
    ),
    (
        "pressure_tire_fl",
        Shape::Wave {
            mid: 2.52,
            swing: 0.08,
            period: 2_000.0,
        },
        2,
    ),
    (
        "pressure_tire_rr",
        Shape::Wave {
            mid: 2.49,
            swing: 0.08,
            period: 2_000.0,
        },
        2,
    ),
    (
        "latitude",
        Shape::Wave {
            mid: 48.137,
            swing: 0.21,
            period: 5_000.0,
        },
        6,
    ),
    (
        "longitude",
        Shape::Wave {
            mid: 11.575,
            swing: 0.33,
            period: 6_000.0,
        },
        6,
    ),
    (
        "heading",
        Shape::Wave {
            mid: 180.0,
            swing: 175.0,
            period: 240.0,
        },
        0,
    ),
    (
        "odometer",
        Shape::Meter {
            start_max: 180_000.0,
            step: 0.013,
        },
        3,
    ),
    (
        "energy",
        Shape::Meter {
            start_max: 32_000.0,
            step: 0.0021,
        },
        3,
    ),
    ("gear", Shape::Level { levels: 6, hold: 9 }, 0),
    (
        "signal",
        Shape::Level {
            levels: 5,
            hold: 25,
        },
        0,
    ),
    ("sequence", Shape::Sequence, 0),
];

/// Returns the id of a device, which is its MQTT client id as well.
#[must_use]
pub fn device_id(device: u32) -> String {
    format!("demo-{device:05}")
}

/// Returns the number of the device with this id, if the fleet could have one of that name.
#[must_use]
pub fn device_number(id: &str) -> Option<u32> {
    let digits = id.strip_prefix("demo-")?;
    let number = digits.parse().ok()?;
    (device_id(number) == id).then_some(number)
}

/// Returns what message `sequence` of a device measures, in the order of [`METRIC_NAMES`].
#[must_use]
pub fn values(seed: u64, device: u32, sequence: u64) -> [f64; METRICS] {
    std::array::from_fn(|metric| {
        let (_, shape, decimals) = SHAPES[metric];
        let of_device = mix(&[seed, u64::from(device), metric as u64]);
        rounded(shape.at(of_device, sequence), decimals)
    })
}

impl Shape {
    fn at(self, of_device: u64, sequence: u64) -> f64 {
        match self {
            Self::Wave { mid, swing, period } => {
                let turn = sequence as f64 / period + unit(of_device);
                let noise = unit(mix(&[of_device, sequence])) - 0.5;
                mid + swing * ((turn * std::f64::consts::TAU).sin() * 0.9 + noise * 0.1)
            }
            Self::Meter { start_max, step } => unit(of_device) * start_max + step * sequence as f64,
            Self::Level { levels, hold } => (mix(&[of_device, sequence / hold]) % levels) as f64,
            Self::Sequence => sequence as f64,
        }
    }
}

/// Rounds to `decimals` places. The result is the `f64` nearest to that decimal, as a JSON parser
/// would read it: numerator and power of ten are exact, and a division rounds correctly.
fn rounded(value: f64, decimals: u32) -> f64 {
    let scale = 10_f64.powi(decimals as i32);
    // `+ 0.0` turns the -0.0 of a small negative number into 0.0.
    (value * scale).round() / scale + 0.0
}

/// Writes the payload of a message: `{"ts":ms,"metrics":{…}}`.
#[must_use]
pub fn payload(ts_ms: i64, values: &[f64; METRICS]) -> String {
    let mut text = String::with_capacity(480);
    write!(text, "{{\"ts\":{ts_ms},\"metrics\":{{").expect("a String takes any text");
    for (metric, value) in values.iter().enumerate() {
        let comma = if metric == 0 { "" } else { "," };
        // `Display` of f64 is the shortest decimal that reads back as the same number.
        write!(text, "{comma}\"{}\":{value}", METRIC_NAMES[metric])
            .expect("a String takes any text");
    }
    text.push_str("}}");
    text
}

/// Mixes numbers into one that looks random (splitmix64 over each).
#[must_use]
pub fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(0x9E37_79B9_7F4A_7C15, |state, part| {
        let mut z = (state ^ part).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

/// Maps a mixed number to `[0, 1)`.
fn unit(mixed: u64) -> f64 {
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_the_same_whenever_it_is_made() {
        assert_eq!(values(7, 3, 41), values(7, 3, 41));
        assert_ne!(values(7, 3, 41), values(8, 3, 41), "another seed");
        assert_ne!(values(7, 3, 41), values(7, 4, 41), "another device");
    }

    #[test]
    fn each_message_carries_its_sequence_number() {
        for sequence in [0, 1, 999_999] {
            assert_eq!(values(1, 1, sequence)[SEQUENCE_METRIC], sequence as f64);
        }
    }

    #[test]
    fn a_payload_reads_back_as_exactly_the_values_that_were_made() {
        for device in 0..50 {
            for sequence in [0, 17, 4_711] {
                let made = values(99, device, sequence);

                let json: serde_json::Value =
                    serde_json::from_str(&payload(1_700_000_000_123, &made)).unwrap();

                assert_eq!(json["ts"], 1_700_000_000_123_i64);
                for (metric, value) in made.iter().enumerate() {
                    let read = json["metrics"][METRIC_NAMES[metric]].as_f64().unwrap();
                    assert_eq!(read.to_bits(), value.to_bits(), "{}", METRIC_NAMES[metric]);
                }
            }
        }
    }

    #[test]
    fn a_device_id_leads_back_to_its_number_and_foreign_ids_to_none() {
        assert_eq!(device_number(&device_id(42)), Some(42));
        assert_eq!(device_number(&device_id(123_456)), Some(123_456));
        for foreign in ["car42", "demo-", "demo-42", "demo-+0042", "demo-4294967296"] {
            assert_eq!(device_number(foreign), None, "{foreign}");
        }
    }
}
