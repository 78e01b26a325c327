//! How densely and how fast points are stored, beside what else could store them.

mod codec;
mod gorilla;
mod json;
mod report;

use std::io::Write;
use std::path::PathBuf;

use telemetry::Row;
use telemetry::sample::{Device, INTERVAL_MS, Variant};

use crate::cpu;
use crate::machine::Machine;
use codec::{Blocks, Gorilla, Measured, Zstd, measure};

pub use report::{Encoding, Payloads, Report, Set};

/// What Gorilla needs on the standard set, bytes a point: outside it the set is not the honest one.
pub const GORILLA_BYTES_PER_POINT: std::ops::RangeInclusive<f64> = 3.3..=3.6;

/// What Tidewire may need on the standard set, bytes a point.
pub const BYTES_PER_POINT_MAX: f64 = 0.62;

/// Rows of an hour.
const ROWS: usize = (3_600_000 / INTERVAL_MS) as usize;

/// Rows of a block.
const BLOCK_ROWS: usize = 120;

const START_MS: i64 = 1_700_000_000_000;

const SEED: u64 = 7;

/// Most devices of one run: a set is held in memory, some 80 KiB a device.
pub const DEVICES_MAX: u32 = 20_000;

/// Are the options of `tidewire bench density`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Devices of each set, 1 to [`DEVICES_MAX`].
    pub devices: u32,
    /// Also write the report as Markdown into this file.
    pub markdown: Option<PathBuf>,
    /// Write one line of JSON instead of the table.
    pub json: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            devices: 1_000,
            markdown: None,
            json: false,
        }
    }
}

/// Says why there are no figures.
#[derive(Debug, thiserror::Error)]
#[error("bench density: {0}")]
pub struct Error(String);

/// Measures all sets and writes the report to `out`. Blocks for about a minute; progress goes to
/// standard error.
///
/// # Errors
/// [`Error`] when an option is out of range, a row does not come back, or a file cannot be written.
pub fn run(options: &Options, out: &mut dyn Write) -> Result<Report, Error> {
    if !(1..=DEVICES_MAX).contains(&options.devices) {
        let devices = options.devices;
        return Err(Error(format!(
            "--devices {devices}: must be 1 to {DEVICES_MAX}"
        )));
    }
    let sets = [
        ("rounded", Variant::Standard),
        ("rounded, 50 ms jitter", Variant::Jitter),
        ("unrounded f32", Variant::UnroundedSingles),
    ];
    let mut report = Report {
        machine: Machine::read(),
        devices: options.devices,
        sets: Vec::new(),
        payloads: json::measure(options.devices)?,
    };
    for (name, variant) in sets {
        eprintln!("measuring the set: {name}");
        report
            .sets
            .push(measure_set(name, variant, options.devices)?);
    }
    let text = if options.json {
        report.to_json() + "\n"
    } else {
        report.to_string()
    };
    out.write_all(text.as_bytes())
        .map_err(|error| Error(format!("cannot write the report: {error}")))?;
    if let Some(path) = &options.markdown {
        std::fs::write(path, report.to_markdown())
            .map_err(|error| Error(format!("{}: {error}", path.display())))?;
    }
    Ok(report)
}

fn measure_set(name: &'static str, variant: Variant, devices: u32) -> Result<Set, Error> {
    let blocks = blocks(variant, devices);
    let points: usize = blocks.iter().flatten().map(Row::len).sum();
    let encoding = |name, measured: Measured| {
        let per_point = |amount| amount as f64 / points as f64;
        Encoding {
            name,
            bytes_per_point: measured.bytes as f64 / points as f64,
            encode_ns_per_point: per_point(measured.encode_ns),
            decode_ns_per_point: per_point(measured.decode_ns),
        }
    };
    let gorilla = Gorilla {
        align_ms: INTERVAL_MS,
    };
    let encodings = vec![
        encoding(
            "tidewire block",
            measure(Blocks::default(), &blocks, cpu_ns)?,
        ),
        encoding("gorilla", measure(gorilla, &blocks, cpu_ns)?),
        encoding(
            "zstd -3 of columns",
            measure(Zstd::new(3)?, &blocks, cpu_ns)?,
        ),
        encoding(
            "zstd -12 of columns",
            measure(Zstd::new(12)?, &blocks, cpu_ns)?,
        ),
    ];
    Ok(Set {
        name,
        points: points as u64,
        encodings,
    })
}

/// The rows of a set, cut into blocks.
fn blocks(variant: Variant, devices: u32) -> Vec<Vec<Row>> {
    let mut blocks = Vec::new();
    for number in 0..u64::from(devices) {
        let mut rows = Device::of_variant(variant, SEED, number, START_MS).take(ROWS);
        loop {
            let block: Vec<Row> = rows.by_ref().take(BLOCK_ROWS).collect();
            if block.is_empty() {
                break;
            }
            blocks.push(block);
        }
    }
    blocks
}

fn cpu_ns() -> Result<u64, Error> {
    cpu::thread_ns().map_err(|error| Error(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_set_is_honest_and_dense() {
        let set = measure_set("rounded", Variant::Standard, 20).expect("rows come back");
        let bytes = |at: usize| set.encodings[at].bytes_per_point;
        assert!(bytes(0) <= BYTES_PER_POINT_MAX, "tidewire {:.3}", bytes(0));
        assert!(
            GORILLA_BYTES_PER_POINT.contains(&bytes(1)),
            "gorilla {:.3}",
            bytes(1)
        );
        assert_eq!(set.points, 20 * 360 * 20);
    }

    #[test]
    fn a_run_without_devices_is_refused() {
        let options = Options {
            devices: 0,
            ..Options::default()
        };
        let error = run(&options, &mut Vec::new()).expect_err("no devices");
        assert!(error.to_string().contains("--devices 0"), "{error}");
    }

    #[test]
    fn a_report_names_its_machine_and_all_sets_in_every_form() {
        let mut out = Vec::new();
        let options = Options {
            devices: 2,
            json: true,
            ..Options::default()
        };
        let report = run(&options, &mut out).expect("figures");
        let json: serde_json::Value = serde_json::from_slice(&out).expect("one object");
        assert_eq!(json["sets"].as_array().map(Vec::len), Some(3));
        assert_eq!(json["machine"]["cpu"], report.machine.cpu);
        for text in [report.to_string(), report.to_markdown()] {
            for word in [
                "rounded, 50 ms jitter",
                "unrounded f32",
                "gorilla",
                &report.machine.cpu,
            ] {
                assert!(text.contains(word), "{word} in {text}");
            }
        }
    }
}
