//! The stages that share the writer's thread, each run alone on the same messages.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use storage::fs::RealFs;
use storage::tsdb::{Config, Tsdb};
use telemetry::payload::Decoder;
use telemetry::sample::{Device, Variant};
use telemetry::{DeviceId, Row, Stamp, bucket_of};

use super::generator::payload;
use super::{Error, failed};
use crate::cpu;

/// Rows of a device in one seal.
const ROWS: usize = 120;

/// Is what the stages cost by themselves, nanoseconds of CPU time a point.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Alone {
    /// Reading the JSON.
    pub decode_ns: f64,
    /// Uniting the row with the head.
    pub insert_ns: f64,
    /// Encoding and writing the head as a segment.
    pub seal_ns: f64,
    /// Merging as many segments as one merge takes.
    pub merge_ns: f64,
}

/// Runs each stage alone over the messages of so many devices.
pub(super) fn measure(folder: &Path, devices: u32, start_ms: i64) -> Result<Alone, Error> {
    let config = Config::default();
    let (buckets, seals) = (u32::from(config.buckets), config.merge_fan_in);
    let store = Tsdb::open(Arc::new(RealFs), folder, config).map_err(failed)?;
    let mut fleet = Vec::new();
    for number in 0..devices {
        let id = DeviceId::parse(&format!("bench-{number:05}")).map_err(failed)?;
        let rows = Device::of_variant(Variant::Standard, 7, u64::from(number), start_ms);
        fleet.push((bucket_of(id.as_bytes(), buckets), id, rows));
    }
    let mut decoder = Decoder::new();
    let (mut points, mut sequence) = (0, 0);
    let (mut decode_ns, mut insert_ns, mut seal_ns) = (0, 0, 0);
    for _ in 0..seals {
        let messages = messages(&mut fleet);
        let (rows, used_ns) = timed(|| decode(&mut decoder, &messages, start_ms))?;
        decode_ns += used_ns;
        points += rows.iter().map(|(_, row)| row.len()).sum::<usize>();
        let (_, used_ns) = timed(|| {
            for (device, row) in &rows {
                let (bucket, id, _) = &fleet[*device];
                sequence += 1;
                let stamp = Stamp {
                    received_ms: start_ms,
                    node: 1,
                    sequence,
                };
                store.insert(*bucket, id, row, stamp).map_err(failed)?;
            }
            Ok(())
        })?;
        insert_ns += used_ns;
        seal_ns += timed(|| store.seal(&[]).map_err(failed))?.1;
    }
    let (is_merged, merge_ns) = timed(|| store.merge(&AtomicBool::new(false)).map_err(failed))?;
    if !is_merged {
        return Err(Error::Failed("the store merged nothing".into()));
    }
    store.close();
    let per_point = |used_ns: u64| used_ns as f64 / points as f64;
    Ok(Alone {
        decode_ns: per_point(decode_ns),
        insert_ns: per_point(insert_ns),
        seal_ns: per_point(seal_ns),
        merge_ns: per_point(merge_ns),
    })
}

/// The next messages, the devices taking turns.
fn messages(fleet: &mut [(u16, DeviceId, Device)]) -> Vec<(usize, String)> {
    let mut messages = Vec::with_capacity(ROWS * fleet.len());
    for _ in 0..ROWS {
        for (device, (_, _, rows)) in fleet.iter_mut().enumerate() {
            messages.extend(rows.next().map(|row| (device, payload(&row))));
        }
    }
    messages
}

fn decode(
    decoder: &mut Decoder,
    messages: &[(usize, String)],
    start_ms: i64,
) -> Result<Vec<(usize, Row)>, Error> {
    // Every row lies within the clock guard of this time of receipt.
    let received_ms = start_ms + 24 * 3_600_000;
    let decoded = messages.iter().map(|(device, message)| {
        let decoded = decoder.decode_json(message.as_bytes(), received_ms);
        decoded
            .map(|decoded| (*device, decoded.row))
            .map_err(failed)
    });
    decoded.collect()
}

fn timed<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<(T, u64), Error> {
    let before = cpu::thread_ns().map_err(failed)?;
    let done = work()?;
    Ok((done, cpu::thread_ns().map_err(failed)? - before))
}
