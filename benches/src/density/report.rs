//! The figures as people and machines read them.

use std::fmt;

use serde::Serialize;

use super::{BLOCK_ROWS, BYTES_PER_POINT_MAX, GORILLA_BYTES_PER_POINT};
use crate::machine::Machine;

/// Is the result of `bench density`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// On what it was measured.
    pub machine: Machine,
    /// Devices of each set.
    pub devices: u32,
    /// What each set needs.
    pub sets: Vec<Set>,
    /// What reading the messages costs.
    pub payloads: Payloads,
}

/// Is what one set needs in each encoding.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Set {
    /// What its values and times are like.
    pub name: &'static str,
    /// How many points it has.
    pub points: u64,
    /// Tidewire's blocks first.
    pub encodings: Vec<Encoding>,
}

/// Is what an encoding needs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Encoding {
    /// Which.
    pub name: &'static str,
    /// Bytes a point, timestamps and names included.
    pub bytes_per_point: f64,
    /// CPU time to encode a point, nanoseconds.
    pub encode_ns_per_point: f64,
    /// CPU time to decode a point, nanoseconds.
    pub decode_ns_per_point: f64,
}

/// Is what reading a JSON message of 20 metrics costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Payloads {
    /// Mean length of a message in bytes.
    pub bytes: f64,
    /// CPU time of a message of a known shape, nanoseconds.
    pub scan_ns: f64,
    /// CPU time of a message that only the general reading takes, nanoseconds.
    pub general_ns: f64,
}

impl Report {
    /// Whether the standard set is honest and Tidewire needs no more for it than it may.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        let bytes = |at: usize| Some(self.sets.first()?.encodings.get(at)?.bytes_per_point);
        bytes(0).is_some_and(|bytes| bytes <= BYTES_PER_POINT_MAX)
            && bytes(1).is_some_and(|bytes| GORILLA_BYTES_PER_POINT.contains(&bytes))
    }

    /// Returns the exit code of the command: 1 when the goal is missed.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.is_ok())
    }

    /// Returns the report as one JSON object on one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a report has no map with odd keys")
    }

    /// Returns the report as a page for `docs/bench`.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut text = format!(
            "# Density: bytes and time per point\n\n\
             Made by `tidewire bench density --markdown docs/bench/density.md`. {}.\n\n\
             {} devices with 20 metrics every 10 s for an hour (`telemetry::sample`), blocks of \
             {BLOCK_ROWS} rows; bytes include timestamps and names; times are CPU time of one \
             thread. Every row was compared bit by bit after decoding. The set is honest when \
             Gorilla (each series with its own timestamps) needs {} to {} bytes a point on the \
             rounded set; Tidewire's goal there is {BYTES_PER_POINT_MAX}.\n",
            self.machine,
            self.devices,
            GORILLA_BYTES_PER_POINT.start(),
            GORILLA_BYTES_PER_POINT.end(),
        );
        text += "\n| set | encoding | B/point | encode ns/point | decode ns/point |\n|---|---|---:|---:|---:|\n";
        for (set, encoding) in self.lines() {
            let Encoding {
                name,
                bytes_per_point,
                encode_ns_per_point,
                decode_ns_per_point,
            } = encoding;
            text += &format!(
                "| {set} | {name} | {bytes_per_point:.3} | {encode_ns_per_point:.1} | {decode_ns_per_point:.1} |\n"
            );
        }
        let Payloads {
            bytes,
            scan_ns,
            general_ns,
        } = self.payloads;
        text += &format!(
            "\nBeside storing: reading a JSON message of 20 metrics ({bytes:.0} bytes) takes \
             {scan_ns:.0} ns when its shape is known and {general_ns:.0} ns otherwise.\n"
        );
        text
    }

    fn lines(&self) -> impl Iterator<Item = (&'static str, &Encoding)> {
        let of = |set: &'_ Set| set.name;
        self.sets
            .iter()
            .flat_map(move |set| set.encodings.iter().map(move |e| (of(set), e)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        writeln!(
            f,
            "{:<24}{:<22}{:>9}{:>18}{:>18}",
            "set", "encoding", "B/point", "encode ns/point", "decode ns/point"
        )?;
        for (set, encoding) in self.lines() {
            writeln!(
                f,
                "{set:<24}{:<22}{:>9.3}{:>18.1}{:>18.1}",
                encoding.name,
                encoding.bytes_per_point,
                encoding.encode_ns_per_point,
                encoding.decode_ns_per_point
            )?;
        }
        let Payloads {
            bytes,
            scan_ns,
            general_ns,
        } = self.payloads;
        writeln!(
            f,
            "JSON of 20 metrics ({bytes:.0} B): known shape {scan_ns:.0} ns, otherwise {general_ns:.0} ns"
        )
    }
}
