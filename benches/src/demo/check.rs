//! Compares a ledger with what a store holds.
//!
//! Memory is bounded for ledgers of any length: after one pass that counts, ledger and store are
//! read once for every [`ROWS_PER_PASS_MAX`] messages sent, each time for a share of the devices,
//! so a check holds about 60 MB (or all rows of one device, if those are more).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use admin::time::format_time;

use super::report::{Report, VIOLATIONS_SHOWN_MAX, Violation, ViolationKind};
use super::{Error, folder::Record};
use crate::ledger::{self, Entry};
use crate::profile::{self, METRICS};

/// Messages whose rows are held at once, about; 240 bytes each.
pub const ROWS_PER_PASS_MAX: u64 = 250_000;

/// Is a point as one place of a store holds it.
#[derive(Clone, Copy, Debug)]
pub struct StoredPoint<'a> {
    /// Device id.
    pub device: &'a str,
    /// Event time in milliseconds since the Unix epoch.
    pub ts_ms: i64,
    /// Name of the metric.
    pub metric: &'a str,
    /// Its value.
    pub value: f64,
}

/// Is a store whose points can be read as they lie, without any merging.
pub trait Store {
    /// Calls `each` with every point of every live block, and of what is in the log only; a
    /// point that lies in several places comes several times.
    ///
    /// # Errors
    /// [`Error::Failed`] naming the file.
    fn for_each_point(&self, each: &mut dyn FnMut(StoredPoint<'_>)) -> Result<(), Error>;

    /// The same of the chosen devices of the fleet, by number; points of others may come too.
    ///
    /// # Errors
    /// As [`Store::for_each_point`].
    fn for_each_point_of(
        &self,
        _chosen: &dyn Fn(u32) -> bool,
        each: &mut dyn FnMut(StoredPoint<'_>),
    ) -> Result<(), Error> {
        // A scan passes everything anyway.
        self.for_each_point(each)
    }
}

/// A message of the ledger, and what was found of it.
struct Row {
    values: [f64; METRICS],
    acknowledged: bool,
    /// Bit per metric: found at least once.
    found: u32,
    /// Bit per metric: found with another value than sent, wherever.
    different: u32,
    /// Points found beyond the first.
    repeated: u64,
    /// The first different value.
    stored_instead: Option<(usize, f64)>,
}

const ALL_METRICS: u32 = (1 << METRICS) - 1;

/// Compares and reports.
///
/// # Errors
/// [`Error::Failed`] when ledger or store cannot be read or contradict themselves.
pub fn compare(ledger: &Path, record: &Record, store: &dyn Store) -> Result<Report, Error> {
    compare_in_passes(ledger, record, store, ROWS_PER_PASS_MAX)
}

/// Compares with a chosen bound, see [`compare`].
///
/// # Errors
/// As [`compare`].
pub fn compare_in_passes(
    ledger: &Path,
    record: &Record,
    store: &dyn Store,
    rows_per_pass: u64,
) -> Result<Report, Error> {
    let mut report = Report {
        nodes: record.nodes,
        devices: record.devices,
        seed: record.seed,
        points_per_s: record.points_per_s,
        p99_ms: record.p99_ms,
        bytes_per_point: record.bytes_per_point,
        reconnects: record.reconnects,
        complete: record.complete,
        cluster: record.cluster.clone(),
        ..Report::default()
    };
    let messages = count(ledger, &mut report)?;
    let passes = u32::try_from(messages.div_ceil(rows_per_pass.max(1)))
        .unwrap_or(u32::MAX)
        .clamp(1, report.devices.max(1));
    let mut unsent = 0;
    for pass in 0..passes {
        let chosen = |device: u32| device % passes == pass;
        let mut rows = read_rows(ledger, &chosen)?;
        unsent += find_rows(store, &mut rows, &chosen, &mut report)?;
        judge(&rows, &mut report);
    }
    let distinct_sent = report.published;
    let most_counted = record
        .points_counted_as_new
        .iter()
        .copied()
        .max()
        .unwrap_or(0);
    report.counted_beyond_sent = if report.complete {
        most_counted.saturating_sub(distinct_sent).max(unsent)
    } else {
        // The ledger of a demo that died may lack its last entries.
        0
    };
    report.duplicates += report.counted_beyond_sent;
    if let Some(cluster) = &record.cluster {
        // What is stored and cannot be had is lost to whoever asks.
        report.lost = report.lost.max(cluster.lost_in_answers);
    }
    report.unacked = report.published - report.acked;
    Ok(report)
}

/// Counts what does not need the store, and returns the number of messages sent.
fn count(path: &Path, report: &mut Report) -> Result<u64, Error> {
    let mut reader = open(path)?;
    report.devices = reader.header().devices;
    report.seed = reader.header().seed;
    let mut newest = vec![i64::MIN; report.devices as usize];
    let mut messages = 0;
    while let Some(entry) = reader.next_entry().map_err(failed)? {
        match entry {
            Entry::Sent { device, ts_ms, .. } => {
                messages += 1;
                let newest = &mut newest[device as usize];
                if ts_ms < *newest {
                    report.late += METRICS as u64;
                }
                *newest = ts_ms.max(*newest);
            }
            Entry::SentAgain { .. } => report.resent += METRICS as u64,
            Entry::Acknowledged { .. } => {}
        }
    }
    if reader.is_torn() && report.complete {
        return Err(Error::Failed(format!(
            "{}: the ledger of a demo that ended well is cut off",
            path.display()
        )));
    }
    Ok(messages)
}

fn open(path: &Path) -> Result<ledger::Reader, Error> {
    let reader = ledger::Reader::open(path).map_err(failed)?;
    if reader.header().metrics != profile::METRIC_NAMES {
        return Err(Error::Failed(format!(
            "{}: written by another version of this program, for the metrics differ",
            path.display()
        )));
    }
    Ok(reader)
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "used as a function of map_err"
)]
fn failed(error: ledger::Error) -> Error {
    Error::Failed(error.to_string())
}

fn read_rows(path: &Path, chosen: &dyn Fn(u32) -> bool) -> Result<HashMap<(u32, i64), Row>, Error> {
    let mut rows = HashMap::new();
    let mut reader = open(path)?;
    while let Some(entry) = reader.next_entry().map_err(failed)? {
        match entry {
            Entry::Sent {
                device,
                ts_ms,
                values,
                ..
            } if chosen(device) => {
                let row = Row {
                    values,
                    acknowledged: false,
                    found: 0,
                    different: 0,
                    repeated: 0,
                    stored_instead: None,
                };
                if rows.insert((device, ts_ms), row).is_some() {
                    return Err(contradiction(
                        path,
                        device,
                        ts_ms,
                        "is entered as sent twice",
                    ));
                }
            }
            Entry::Acknowledged { device, ts_ms, .. } if chosen(device) => {
                let row = rows.get_mut(&(device, ts_ms)).ok_or_else(|| {
                    contradiction(path, device, ts_ms, "is acknowledged and was never sent")
                })?;
                row.acknowledged = true;
            }
            _ => {}
        }
    }
    Ok(rows)
}

fn contradiction(path: &Path, device: u32, ts_ms: i64, what: &str) -> Error {
    Error::Failed(format!(
        "{}: the message of {} at {} {what}",
        path.display(),
        profile::device_id(device),
        format_time(ts_ms)
    ))
}

/// Marks in `rows` what the store holds; returns the points of the fleet that were never sent.
fn find_rows(
    store: &dyn Store,
    rows: &mut HashMap<(u32, i64), Row>,
    chosen: &dyn Fn(u32) -> bool,
    report: &mut Report,
) -> Result<u64, Error> {
    let devices = report.devices;
    let mut unsent = 0;
    // The first rows with points that were never sent, as many as a report names.
    let mut shown: BTreeMap<(u32, i64), u64> = BTreeMap::new();
    store.for_each_point_of(chosen, &mut |point| {
        // Others may publish to the node of a demo; what they sent is not the fleet's.
        let Some(device) = profile::device_number(point.device)
            .filter(|device| *device < devices && chosen(*device))
        else {
            return;
        };
        let key = (device, point.ts_ms);
        if rows
            .get_mut(&key)
            .is_some_and(|row| row.find(point.metric, point.value))
        {
            return;
        }
        unsent += 1;
        if shown.len() < VIOLATIONS_SHOWN_MAX || shown.contains_key(&key) {
            *shown.entry(key).or_default() += 1;
        }
    })?;
    // The ledger of a demo that died may lack its last entries.
    if report.complete {
        for ((device, ts_ms), points) in shown {
            show(report, ViolationKind::Unsent, device, ts_ms, points, || {
                "stored, and never sent".to_owned()
            });
        }
    }
    Ok(unsent)
}

impl Row {
    /// Takes a point from one place of the store; false if the message has no such metric.
    fn find(&mut self, name: &str, value: f64) -> bool {
        let Some(metric) = profile::METRIC_NAMES
            .iter()
            .position(|known| *known == name)
        else {
            return false;
        };
        let bit = 1 << metric;
        self.repeated += u64::from(self.found & bit != 0);
        self.found |= bit;
        if value.to_bits() != self.values[metric].to_bits() {
            self.different |= bit;
            self.stored_instead.get_or_insert((metric, value));
        }
        true
    }
}

fn judge(rows: &HashMap<(u32, i64), Row>, report: &mut Report) {
    // In the order of device and time, so that the first violations are always the same.
    let mut keys: Vec<(u32, i64)> = rows.keys().copied().collect();
    keys.sort_unstable();
    for key in keys {
        let row = &rows[&key];
        let (device, ts_ms) = key;
        report.published += METRICS as u64;
        report.stored += u64::from(row.found.count_ones());
        report.duplicates += row.repeated;
        if row.repeated > 0 {
            show(
                report,
                ViolationKind::Duplicate,
                device,
                ts_ms,
                row.repeated,
                || "stored more than once".to_owned(),
            );
        }
        if !row.acknowledged {
            continue;
        }
        report.acked += METRICS as u64;
        let absent = ALL_METRICS & !row.found;
        report.lost += u64::from((absent | row.different).count_ones());
        if absent != 0 {
            let points = u64::from(absent.count_ones());
            show(report, ViolationKind::Absent, device, ts_ms, points, || {
                format!("acknowledged and not stored: {}", names_of(absent))
            });
        }
        if let Some((metric, value)) = row.stored_instead {
            let points = u64::from(row.different.count_ones());
            show(
                report,
                ViolationKind::Different,
                device,
                ts_ms,
                points,
                || {
                    let name = profile::METRIC_NAMES[metric];
                    format!(
                        "{name} was sent as {} and is stored as {value}",
                        row.values[metric]
                    )
                },
            );
        }
    }
}

fn names_of(metrics: u32) -> String {
    if metrics == ALL_METRICS {
        return "the whole row".to_owned();
    }
    let names: Vec<&str> = (0..METRICS)
        .filter(|metric| metrics & (1 << metric) != 0)
        .map(|metric| profile::METRIC_NAMES[metric])
        .collect();
    names.join(", ")
}

/// Keeps a violation to be named, while there is room.
fn show(
    report: &mut Report,
    kind: ViolationKind,
    device: u32,
    ts_ms: i64,
    points: u64,
    detail: impl FnOnce() -> String,
) {
    if report.violations.len() < VIOLATIONS_SHOWN_MAX {
        report.violations.push(Violation {
            kind,
            device: profile::device_id(device),
            time: format_time(ts_ms),
            points,
            detail: detail(),
        });
    }
}
