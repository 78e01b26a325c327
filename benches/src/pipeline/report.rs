//! The figures as people and machines read them.

use std::fmt::{self, Write};

use serde::Serialize;

use super::Alone;
use crate::machine::Machine;

/// Threads that use less than so many nanoseconds a point are left out of the table.
const THREAD_NS_SHOWN: f64 = 0.5;

/// Points per second that one core is to take.
pub const POINTS_PER_S_GOAL: f64 = 500_000.0;

/// Is the result of `bench pipeline`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// On what it was measured.
    pub machine: Machine,
    /// Connections.
    pub connections: u32,
    /// Messages in flight of each.
    pub window: u16,
    /// Mean length of a payload in bytes.
    pub payload_bytes: f64,
    /// Points acknowledged.
    pub acked: u64,
    /// Points that the node says it stored as new.
    pub stored: u64,
    /// Acknowledged points per second, from the first PUBLISH to the last PUBACK.
    pub acked_points_per_s: f64,
    /// Points per second from the first PUBLISH until the store had them all.
    pub points_per_s: f64,
    /// PUBLISH to PUBACK in milliseconds: half, 99 and 99.9 of a hundred.
    pub p50_ms: f64,
    /// See `p50_ms`.
    pub p99_ms: f64,
    /// See `p50_ms`.
    pub p999_ms: f64,
    /// What the node used; `None` when its process id is not known.
    pub node: Option<NodeUse>,
    /// Bytes of the log on disk per point.
    pub log_bytes_per_point: f64,
    /// Bytes of merged blocks per point.
    pub block_bytes_per_point: Option<f64>,
    /// Seals and merges while it ran.
    pub seals: u64,
    /// See `seals`.
    pub merges: u64,
    /// What the stages of the writer cost alone.
    pub alone: Option<Alone>,
}

/// Is what the node's process used, from the first PUBLISH until everything was sealed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeUse {
    /// The core it was pinned to; `None`: it was not.
    pub core: Option<usize>,
    /// Nanoseconds of CPU time a point.
    pub cpu_ns_per_point: f64,
    /// The same by thread, the dearest first.
    pub threads: Vec<ThreadUse>,
    /// Bytes that it caused to be written to the disk per point.
    pub written_bytes_per_point: f64,
}

/// Is what the threads of one name used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ThreadUse {
    /// Name.
    pub name: String,
    /// What they do.
    pub stage: &'static str,
    /// Nanoseconds of CPU time a point.
    pub cpu_ns_per_point: f64,
}

/// What the threads of this name do.
pub(super) fn stage_of(thread: &str) -> &'static str {
    match thread {
        _ if thread.starts_with("io-") => "sockets, MQTT, acks",
        "store-writer" => "decode, insert, seal",
        "tsdb-merge" => "merge",
        "kafka-sender" => "order, windows, records to librdkafka",
        "rdk:main" => "librdkafka's timers",
        "producer polling thread" | "producer pollin" => "delivery reports",
        _ if thread.starts_with("rdk:broker") => "librdkafka: batches, lz4, socket",
        _ if thread.contains("log") => "log: frame, compress, fsync",
        _ => "everything else",
    }
}

impl Report {
    /// Whether every acknowledged point is stored.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.stored == self.acked
    }

    /// Returns the exit code of the command: 1 when acknowledged points are not stored.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.is_ok())
    }

    /// Returns the report as one JSON object on one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a report has no map with odd keys")
    }

    /// Returns the figures as a part of a page in `docs/bench`.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut text = format!("{}.\n\n| figure | value |\n|---|---:|\n", self.machine);
        for (name, value) in self.figures() {
            writeln!(text, "| {name} | {value} |").expect("a String takes any text");
        }
        text
    }

    fn figures(&self) -> Vec<(String, String)> {
        let mut figures = Vec::new();
        let mut add = |name: &str, value: String| figures.push((name.to_owned(), value));
        let Self {
            connections,
            window,
            ..
        } = self;
        add(
            "connections, messages in flight of each",
            format!("{connections}, {window}"),
        );
        add("payload, bytes", format!("{:.0}", self.payload_bytes));
        add(
            "points acknowledged, stored",
            format!("{}, {}", self.acked, self.stored),
        );
        add(
            "points/s acknowledged",
            format!("{:.0}", self.acked_points_per_s),
        );
        add("points/s until stored", format!("{:.0}", self.points_per_s));
        let Self {
            p50_ms,
            p99_ms,
            p999_ms,
            ..
        } = self;
        add(
            "PUBACK p50, p99, p99.9, ms",
            format!("{p50_ms:.1}, {p99_ms:.1}, {p999_ms:.1}"),
        );
        add("seals, merges", format!("{}, {}", self.seals, self.merges));
        add(
            "log on disk, bytes/point",
            format!("{:.2}", self.log_bytes_per_point),
        );
        if let Some(bytes) = self.block_bytes_per_point {
            add("merged blocks, bytes/point", format!("{bytes:.3}"));
        }
        if let Some(node) = &self.node {
            let core = node
                .core
                .map_or_else(|| "not pinned".into(), |core| format!("core {core}"));
            add(
                &format!("node ({core}), CPU ns/point"),
                format!("{:.0}", node.cpu_ns_per_point),
            );
            for ThreadUse {
                name,
                stage,
                cpu_ns_per_point,
            } in node
                .threads
                .iter()
                .filter(|one| one.cpu_ns_per_point >= THREAD_NS_SHOWN)
            {
                add(
                    &format!("— {name}: {stage}"),
                    format!("{cpu_ns_per_point:.0}"),
                );
            }
            add(
                "written to disk, bytes/point",
                format!("{:.2}", node.written_bytes_per_point),
            );
        }
        if let Some(alone) = &self.alone {
            let Alone {
                decode_ns,
                insert_ns,
                seal_ns,
                merge_ns,
            } = alone;
            add(
                "alone, CPU ns/point: decode, insert, seal, merge",
                format!("{decode_ns:.0}, {insert_ns:.0}, {seal_ns:.0}, {merge_ns:.0}"),
            );
        }
        figures
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        for (name, value) in self.figures() {
            writeln!(f, "{name:<52}{value:>28}")?;
        }
        Ok(())
    }
}
