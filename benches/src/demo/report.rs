//! What a check found.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::folder::ClusterRecord;
use crate::pairs;

/// Violations that a report names one by one; beyond it they are only counted.
pub const VIOLATIONS_SHOWN_MAX: usize = 20;

/// Is the result of a demo. Counts are points (device, time, metric), and distinct ones unless
/// said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Nodes that served.
    pub nodes: u32,
    /// Devices of the fleet.
    pub devices: u32,
    /// Seed of the run.
    pub seed: u64,
    /// Points sent at least once.
    pub published: u64,
    /// Points whose PUBLISH got its PUBACK.
    pub acked: u64,
    /// Points sent and never acknowledged.
    pub unacked: u64,
    /// Points of the fleet found in the store.
    pub stored: u64,
    /// Acknowledged points that are absent or different, in the store or in the answers of several
    /// nodes.
    pub lost: u64,
    /// Points found more than once, plus points counted or found as new beyond those sent.
    pub duplicates: u64,
    /// The part of `duplicates` that is no repetition in the store: points that a node counted as
    /// new, or that stand in the store, beyond those sent.
    pub counted_beyond_sent: u64,
    /// Points sent again, on purpose or after a reconnect, once per repetition.
    pub resent: u64,
    /// Points sent after a newer one of their device.
    pub late: u64,
    /// Acknowledged points per second, from the first PUBLISH to the last PUBACK; 0 when the
    /// demo did not reach its end.
    pub points_per_s: f64,
    /// 99th percentile from PUBLISH to PUBACK in milliseconds; 0 when the demo did not reach its
    /// end.
    pub p99_ms: f64,
    /// Bytes of merged blocks per point in them, if anything was merged.
    pub bytes_per_point: Option<f64>,
    /// Connections made again after one was lost.
    pub reconnects: u64,
    /// True when the demo reached its end; otherwise its last figures are missing.
    pub complete: bool,
    /// The first violations, at most [`VIOLATIONS_SHOWN_MAX`].
    pub violations: Vec<Violation>,
    /// What concerns several nodes; absent for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterRecord>,
}

/// Is one violation: which point, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Violation {
    /// What is wrong.
    pub kind: ViolationKind,
    /// Device id.
    pub device: String,
    /// Event time of the row in RFC 3339, UTC, with milliseconds.
    pub time: String,
    /// Points of this row that it concerns.
    pub points: u64,
    /// What was expected and what was found.
    pub detail: String,
}

/// Says what is wrong with a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ViolationKind {
    /// Acknowledged and not in the store.
    Absent,
    /// Acknowledged, and in the store with another value.
    Different,
    /// In the store more than once.
    Duplicate,
    /// In the store under a device of the fleet, and never sent.
    Unsent,
}

impl Report {
    /// Returns true when nothing acknowledged is lost and nothing is stored twice; of several nodes
    /// also when their sessions lost nothing.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        let sessions = self.cluster.as_ref().map(|cluster| &cluster.sessions);
        self.lost == 0 && self.duplicates == 0 && sessions.is_none_or(pairs::Summary::is_ok)
    }

    /// Returns the exit code of the command: 0 ok, 1 a violation was found.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.is_ok())
    }

    /// Returns the report as one line of JSON without its line end.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a report has string keys and finite numbers only")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            (
                "published",
                self.published,
                "points sent, each counted once",
            ),
            ("acked", self.acked, "of these, PUBACK received"),
            ("unacked", self.unacked, "of these, PUBACK missing"),
            (
                "stored",
                self.stored,
                "found in the store, each counted once",
            ),
            ("lost", self.lost, "acknowledged and absent or different"),
            (
                "duplicates",
                self.duplicates,
                "stored, or counted as new, more than once",
            ),
            (
                "resent",
                self.resent,
                "sent again, on purpose or after a reconnect",
            ),
            ("late", self.late, "sent after a newer one of their device"),
        ];
        for (name, count, meaning) in rows {
            writeln!(f, "{name:>16} {count:>14}  {meaning}")?;
        }
        if self.complete {
            writeln!(
                f,
                "{:>16} {:>14.0}  acknowledged",
                "points/s", self.points_per_s
            )?;
            writeln!(
                f,
                "{:>16} {:>14.1}  PUBLISH to PUBACK, p99",
                "ms", self.p99_ms
            )?;
        } else {
            writeln!(
                f,
                "the demo did not reach its end: its rate, latency and counters are missing"
            )?;
        }
        if let Some(bytes) = self.bytes_per_point {
            writeln!(f, "{:>16} {bytes:>14.3}  in merged blocks", "bytes/point")?;
        }
        writeln!(f, "{:>16} {:>14}", "reconnects", self.reconnects)?;
        if let Some(cluster) = &self.cluster {
            write_cluster(f, cluster)?;
        }
        for violation in &self.violations {
            writeln!(
                f,
                "VIOLATION {} at {}: {} ({} points)",
                violation.device, violation.time, violation.detail, violation.points
            )?;
        }
        if self.violations.len() == VIOLATIONS_SHOWN_MAX {
            writeln!(f, "… further violations are not listed")?;
        }
        if self.counted_beyond_sent > 0 {
            writeln!(
                f,
                "VIOLATION {} points were counted as new, or are stored, beyond those sent",
                self.counted_beyond_sent
            )?;
        }
        let verdict = match (self.is_ok(), &self.cluster) {
            (true, None) => "OK: every acknowledged point is stored exactly once",
            (true, Some(_)) => {
                "OK: every acknowledged point is stored exactly once, and no session lost a message"
            }
            (false, None) => "FAILED: the store and the ledger disagree",
            (false, Some(_)) => "FAILED: stores, answers or sessions and the ledger disagree",
        };
        writeln!(f, "{verdict}")
    }
}

fn write_cluster(f: &mut fmt::Formatter<'_>, cluster: &ClusterRecord) -> fmt::Result {
    if let Some(node) = cluster.killed {
        writeln!(
            f,
            "{:>16} {:>14}  with SIGKILL",
            "killed",
            format!("node {node}")
        )?;
        let times = [
            (
                cluster.led_again_s,
                "from the kill until all shards were led again",
            ),
            (cluster.ready_again_s, "from the new start until ready"),
        ];
        for (seconds, meaning) in times {
            let seconds = seconds.map_or_else(|| "never".to_owned(), |s| format!("{s:.1}"));
            writeln!(f, "{:>16} {seconds:>14}  {meaning}", "s")?;
        }
    }
    let sessions = &cluster.sessions;
    writeln!(
        f,
        "through sessions of {} pairs, QoS 1: {} messages acknowledged, {} received, {} lost, {} out of order, \
         {} came again; {} reconnects, of which {} found no session",
        sessions.pairs,
        sessions.acked,
        sessions.received,
        sessions.lost,
        sessions.out_of_order,
        sessions.repeated,
        sessions.reconnects,
        sessions.sessions_missing,
    )?;
    if cluster.lost_in_answers > 0 {
        let points = cluster.lost_in_answers;
        writeln!(
            f,
            "VIOLATION {points} acknowledged points were in no node's answer"
        )?;
    }
    if !sessions.is_ok() {
        writeln!(
            f,
            "VIOLATION the sessions lost messages, their order, or themselves"
        )?;
    }
    Ok(())
}
