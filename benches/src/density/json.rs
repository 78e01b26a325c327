//! What reading a message costs before anything is stored.

use std::fmt::Write;
use std::hint::black_box;

use telemetry::payload::Decoder;
use telemetry::sample::{Device, Variant};

use super::{Error, Payloads, SEED, START_MS, cpu_ns};

/// Messages of one pass.
const MESSAGES: usize = 20_000;

/// Times that the messages are read: one pass is too short for the kernel's clock.
const PASSES: usize = 10;

/// A time of receipt for which the time of every message is plausible.
const RECEIVED_MS: i64 = START_MS + telemetry::clock::PAST_MAX_MS - 3_600_000;

/// Reads messages of the standard fleet, and the same with a member that is no metric, which only
/// the general reading takes.
pub(super) fn measure(devices: u32) -> Result<Payloads, Error> {
    let messages = |extra: &str| -> Vec<String> {
        let mut fleet: Vec<Device> = (0..u64::from(devices))
            .map(|number| Device::of_variant(Variant::Standard, SEED, number, START_MS))
            .collect();
        let count = fleet.len();
        let numbers = (0..MESSAGES).map(|number| number % count);
        numbers
            .filter_map(|number| Some(message(&fleet[number].next()?, extra)))
            .collect()
    };
    let plain = messages("");
    Ok(Payloads {
        bytes: plain.iter().map(String::len).sum::<usize>() as f64 / plain.len() as f64,
        scan_ns: ns_per_message(&plain)?,
        general_ns: ns_per_message(&messages(r#","unit":"si""#))?,
    })
}

fn message(row: &telemetry::Row, extra: &str) -> String {
    let mut text = format!("{{\"ts\":{},\"metrics\":{{", row.ts_ms);
    for (at, (name, value)) in row.metrics().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        write!(text, "{comma}\"{name}\":{value}").expect("a String takes any text");
    }
    text + "}" + extra + "}"
}

fn ns_per_message(messages: &[String]) -> Result<f64, Error> {
    let mut decoder = Decoder::new();
    let started_ns = cpu_ns()?;
    for _ in 0..PASSES {
        for message in messages {
            let decoded = decoder
                .decode_json(message.as_bytes(), RECEIVED_MS)
                .map_err(|error| Error(error.to_string()))?;
            black_box(decoded);
        }
    }
    Ok((cpu_ns()? - started_ns) as f64 / (PASSES * messages.len()) as f64)
}
