//! What a query of the hot store answers, and the state of store and pipeline, as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Is the answer of `GET /v1/query/DEVICE` and of `tidewire query --output json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QueryAnswer {
    /// Rows in ascending order of time; at most the limit that was asked for.
    pub rows: Vec<QueryRow>,
    /// True when the answer may lack rows that were acknowledged before the query arrived:
    /// the store's writer did not pass the logs' ends within the wait (2 s), or a node cannot be
    /// asked.
    pub partial: bool,
    /// Why it is partial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Is one moment of one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueryRow {
    /// Event time in milliseconds since the Unix epoch.
    pub ts: i64,
    /// The metrics that the device sent for this moment.
    pub metrics: BTreeMap<String, MetricValue>,
}

/// Is one stored `f64`, exact in JSON for every bit pattern that JSON can carry.
///
/// JSON knows no number for infinities and NaN. They are written as the strings `"Infinity"`,
/// `"-Infinity"` and `"NaN"` (the payload bits of a NaN are not shown), so that such a point is
/// neither lost nor mistaken for `null`, and are read back from the same strings. `-0.0` is the
/// number `-0.0`.
#[derive(Clone, Copy, Debug)]
pub struct MetricValue(pub f64);

impl PartialEq for MetricValue {
    /// Compares bits, so that NaN equals itself and `-0.0` differs from `0.0`.
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl fmt::Display for MetricValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match name_of_non_finite(self.0) {
            Some(name) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

fn name_of_non_finite(value: f64) -> Option<&'static str> {
    if value.is_nan() {
        Some("NaN")
    } else if value == f64::INFINITY {
        Some("Infinity")
    } else if value == f64::NEG_INFINITY {
        Some("-Infinity")
    } else {
        None
    }
}

impl Serialize for MetricValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match name_of_non_finite(self.0) {
            Some(name) => serializer.serialize_str(name),
            None => serializer.serialize_f64(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for MetricValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MetricValueVisitor)
    }
}

struct MetricValueVisitor;

impl Visitor<'_> for MetricValueVisitor {
    type Value = MetricValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, or one of \"NaN\", \"Infinity\", \"-Infinity\"")
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<MetricValue, E> {
        Ok(MetricValue(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<MetricValue, E> {
        Ok(MetricValue(value as f64))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<MetricValue, E> {
        Ok(MetricValue(value as f64))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<MetricValue, E> {
        match value {
            "NaN" => Ok(MetricValue(f64::NAN)),
            "Infinity" => Ok(MetricValue(f64::INFINITY)),
            "-Infinity" => Ok(MetricValue(f64::NEG_INFINITY)),
            other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
        }
    }
}

/// Is the state of the hot store: `ctl tsdb status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TsdbStatus {
    /// Sealed segments by level, lowest level first.
    pub levels: Vec<LevelStatus>,
    /// Rows in memory that no segment holds yet (they are in the log).
    pub head_rows: u64,
    /// Points in memory that no segment holds yet.
    pub head_points: u64,
    /// Memory of the head in bytes, as counted against `head_bytes_limit`.
    pub head_bytes: u64,
    /// Bytes of the blocks of merged segments (level 1 and above) per point in them; absent
    /// while nothing is merged.
    pub merged_bytes_per_point: Option<f64>,
}

/// Is what stands at one level of the hot store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LevelStatus {
    /// 0 for sealed heads, one more for each merge.
    pub level: u32,
    /// Number of segment files.
    pub segments: u64,
    /// Rows: (device, time) pairs.
    pub rows: u64,
    /// Points: (device, time, metric) triples.
    pub points: u64,
    /// Size of the files in bytes, with headers and indexes.
    pub bytes: u64,
    /// Bytes of the encoded blocks alone.
    pub block_bytes: u64,
}

/// Counts what passed the telemetry line since the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PipelineStatus {
    /// Messages that were taken on their way into the log.
    pub accepted_messages: u64,
    /// Bytes of these messages' log records.
    pub accepted_bytes: u64,
    /// Bytes submitted and not yet durable.
    pub inflight_bytes: u64,
    /// Submissions handed back because memory or the log was full.
    pub refused_batches: u64,
    /// Messages read back from the log and processed.
    pub processed_messages: u64,
    /// Rows (device, time) that were new.
    pub stored_rows: u64,
    /// Points that were new.
    pub stored_points: u64,
    /// Points that came again with an equal value.
    pub duplicate_points: u64,
    /// Rows older than the newest row of their device.
    pub late_rows: u64,
    /// Points of equal key and different value: the higher stamp won in the head.
    pub replaced_points: u64,
    /// Messages in the dead-letter log, by reason.
    pub dead_letters: BTreeMap<String, u64>,
    /// Records in the log that the store's writer has not processed, by partition; only
    /// partitions that lag.
    pub lag: BTreeMap<u32, u64>,
    /// Seals of the head into a level-0 segment.
    pub seals: u64,
    /// Merges of segments.
    pub merges: u64,
    /// Restarts of the store's writer after a panic.
    pub writer_restarts: u64,
    /// Bytes of the log on disk.
    pub log_bytes: u64,
}
