//! What a surge showed, judged and drawn.

use std::fmt::{self, Write};
use std::path::Path;

use admin::tsdb::Status;
use serde::Serialize;

use super::{METRICS, Options};
use crate::chart::{Panel, Series, write_panels};
use crate::machine::Machine;
use crate::pipeline::generator::Sent;
use crate::pipeline::{Error, failed};

/// How much the node's memory may grow after the first [`SETTLED_S`] seconds.
pub const RSS_GROWTH_BYTES_MAX: u64 = 64 << 20;

/// Seconds after which memory is to stay.
const SETTLED_S: f64 = 10.0;

/// Share of what would pile up without any delay that the lag must pass at its peak: 500 000 with the
/// options' defaults.
const LAG_PEAK_SHARE_MIN: f64 = 5.0 / 6.0;

/// Is the node at one moment; counts are since the start of the surge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// Seconds since the start.
    pub seconds: f64,
    /// Messages acknowledged.
    pub acked: u64,
    /// Messages that the store read.
    pub stored: u64,
    /// Messages in Kafka that the store has not read.
    pub lag: u64,
    /// Resident bytes of the node.
    pub rss_bytes: u64,
    /// Devices whose connection ended.
    pub disconnected: u64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:4.0} s: {} acknowledged, {} stored, lag {}, RSS {:.1} MiB, {} disconnected",
            self.seconds,
            self.acked,
            self.stored,
            self.lag,
            mib(self.rss_bytes),
            self.disconnected
        )
    }
}

/// Is the result of `bench surge`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// On what it was measured.
    pub machine: Machine,
    /// The machine's load averages before the surge.
    pub load_average: String,
    /// Devices.
    pub devices: u32,
    /// Messages a second asked for.
    pub rate_per_s: u32,
    /// Seconds that was sent.
    pub seconds: f64,
    /// Messages a second that the store was held to.
    pub hold_per_s: u32,
    /// Configuration of the node.
    pub configuration: String,
    /// Mean length of a payload in bytes.
    pub payload_bytes: f64,
    /// Points in a message.
    pub points: usize,
    /// Messages sent.
    pub sent: u64,
    /// Messages acknowledged.
    pub acked: u64,
    /// Messages that the store read.
    pub stored: u64,
    /// Messages in the dead-letter topic.
    pub dead_letters: u64,
    /// Devices whose connection ended.
    pub disconnected: u64,
    /// From when a message was due to its PUBACK in milliseconds: half and 99 of a hundred.
    pub p50_ms: f64,
    /// See `p50_ms`.
    pub p99_ms: f64,
    /// The greatest lag seen.
    pub lag_peak: u64,
    /// The lag at the end.
    pub lag_end: u64,
    /// Seconds from the start until the lag was gone, or until that was given up.
    pub drained_s: f64,
    /// Resident bytes after [`SETTLED_S`] seconds.
    pub rss_settled_bytes: u64,
    /// The most resident bytes seen after that.
    pub rss_peak_bytes: u64,
    /// What is not as it should be.
    pub violations: Vec<String>,
    /// The samples, one a second.
    pub samples: Vec<Sample>,
}

impl Report {
    pub(super) fn judge(
        options: &Options,
        (machine, load_average): (Machine, String),
        configuration: String,
        sent: &Sent,
        samples: Vec<Sample>,
        status: &Status,
    ) -> Self {
        let ms = |share| {
            let latency = sent.latencies.quantile(share);
            latency.map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
        };
        let last = samples.last().copied().unwrap_or_default();
        let settled = || samples.iter().filter(|sample| sample.seconds >= SETTLED_S);
        let mut report = Self {
            machine,
            load_average,
            devices: options.devices,
            rate_per_s: options.rate_per_s,
            seconds: options.duration.as_secs_f64(),
            hold_per_s: options.hold_per_s,
            configuration,
            payload_bytes: sent.payload_bytes as f64 / sent.messages.max(1) as f64,
            points: METRICS,
            sent: sent.messages,
            acked: last.acked,
            stored: last.stored,
            dead_letters: status.pipeline.dead_letters.values().sum(),
            disconnected: last.disconnected,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            lag_peak: samples.iter().map(|one| one.lag).max().unwrap_or(0),
            lag_end: last.lag,
            drained_s: last.seconds,
            rss_settled_bytes: settled().next().map_or(0, |one| one.rss_bytes),
            rss_peak_bytes: settled().map(|one| one.rss_bytes).max().unwrap_or(0),
            violations: Vec::new(),
            samples,
        };
        report.violations = report.violated(options.lag_expected());
        if let Some(reason) = &sent.disconnected {
            report.violations.push(reason.clone());
        }
        report
    }

    fn violated(&self, lag_expected: f64) -> Vec<String> {
        let mut violations = Vec::new();
        let mut expect = |is_so: bool, otherwise: String| {
            if !is_so {
                violations.push(otherwise);
            }
        };
        let Self {
            sent,
            acked,
            stored,
            dead_letters,
            disconnected,
            lag_peak,
            lag_end,
            ..
        } = self;
        expect(
            *disconnected == 0,
            format!("{disconnected} devices were disconnected"),
        );
        expect(
            acked == sent,
            format!("{acked} of {sent} messages were acknowledged"),
        );
        expect(
            stored == acked && *dead_letters == 0,
            format!(
                "{acked} were acknowledged, {stored} read by the store, {dead_letters} of them dead letters"
            ),
        );
        let lag_min = (lag_expected * LAG_PEAK_SHARE_MIN) as u64;
        expect(
            *lag_peak > lag_min,
            format!("the lag was {lag_peak} at its peak, not above {lag_min}: the surge was none"),
        );
        expect(*lag_end == 0, format!("the lag was {lag_end} at the end"));
        let growth = self.rss_growth_bytes();
        expect(
            self.rss_settled_bytes > 0 && growth <= RSS_GROWTH_BYTES_MAX,
            format!(
                "memory grew by {:.1} MiB after the first {SETTLED_S} s, which is more than {:.0}",
                mib(growth),
                mib(RSS_GROWTH_BYTES_MAX)
            ),
        );
        violations
    }

    fn rss_growth_bytes(&self) -> u64 {
        self.rss_peak_bytes.saturating_sub(self.rss_settled_bytes)
    }

    /// Returns the exit code of the command: 1 when something is not as it should be.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.violations.is_empty())
    }

    /// Returns the report as one JSON object on one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a report has no map with odd keys")
    }

    /// Returns the report as a page.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut text = format!(
            "# More than the store takes\n\n\
             Written by `tidewire bench surge --kafka … --out docs/bench`. {}. Load average before: {}.\n\n\
             {} devices, a connection each, send {} messages a second together for {} s, QoS 1, through Kafka; \
             the store is held to {} a second; then it catches up. The samples are in surge.json. The node's \
             configuration, everything else default:\n\n```toml\n{}```\n\n\
             ![Rates, lag and memory](surge.png)\n\n| figure | value | limit |\n|---|---:|---|\n",
            self.machine,
            self.load_average,
            self.devices,
            self.rate_per_s,
            self.seconds,
            self.hold_per_s,
            self.configuration
        );
        for [name, value, limit] in self.figures() {
            writeln!(text, "| {name} | {value} | {limit} |").expect("a String takes any text");
        }
        text.push_str("\nMemory counts as the resident set of the process, as smaps says it.\n");
        for violation in &self.violations {
            writeln!(text, "\n**Not as it should be:** {violation}.")
                .expect("a String takes any text");
        }
        text
    }

    fn figures(&self) -> Vec<[String; 3]> {
        let row = |name: &str, value: String, limit: &str| [name.into(), value, limit.into()];
        let limit = format!("growth of {:.0}", mib(RSS_GROWTH_BYTES_MAX));
        vec![
            row(
                "payload, bytes (JSON, points)",
                format!("{:.0} ({})", self.payload_bytes, self.points),
                "",
            ),
            row(
                "messages sent, acknowledged, stored",
                format!("{}, {}, {}", self.sent, self.acked, self.stored),
                "equal",
            ),
            row("devices disconnected", self.disconnected.to_string(), "0"),
            row(
                "due to PUBACK p50, p99, ms",
                format!("{:.1}, {:.1}", self.p50_ms, self.p99_ms),
                "",
            ),
            row(
                "lag at its peak",
                self.lag_peak.to_string(),
                "5/6 of sent less taken",
            ),
            row(
                "lag at the end, after s",
                format!("{}, {:.0}", self.lag_end, self.drained_s),
                "0",
            ),
            row(
                "RSS after 10 s, at its later peak, MiB",
                format!(
                    "{:.1}, {:.1}",
                    mib(self.rss_settled_bytes),
                    mib(self.rss_peak_bytes)
                ),
                &limit,
            ),
        ]
    }

    /// Writes page, JSON and chart into a folder, which is made.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub(super) fn write(&self, folder: &Path) -> Result<(), Error> {
        let failed_at = |error: std::io::Error| failed(format!("{}: {error}", folder.display()));
        std::fs::create_dir_all(folder).map_err(failed_at)?;
        std::fs::write(folder.join("surge.md"), self.to_markdown()).map_err(failed_at)?;
        std::fs::write(folder.join("surge.json"), self.to_json() + "\n").map_err(failed_at)?;
        let title = "A surge through Kafka, the store held";
        write_panels(&folder.join("surge.png"), title, &self.panels()).map_err(failed_at)
    }

    fn panels(&self) -> [Panel; 3] {
        let rate = |name: &str, count: fn(&Sample) -> u64| {
            let start = [Sample::default()];
            let all: Vec<&Sample> = start.iter().chain(&self.samples).collect();
            let points = all.windows(2).map(|pair| {
                let seconds = pair[1].seconds - pair[0].seconds;
                let more = count(pair[1]).saturating_sub(count(pair[0]));
                (
                    pair[1].seconds,
                    more as f64 / seconds.max(f64::MIN_POSITIVE),
                )
            });
            Series {
                name: name.into(),
                points: points.collect(),
            }
        };
        let level = |name: &str, value: fn(&Sample) -> f64| Series {
            name: name.into(),
            points: self
                .samples
                .iter()
                .map(|one| (one.seconds, value(one)))
                .collect(),
        };
        let panel = |title: &str, series| Panel {
            title: title.into(),
            series,
        };
        [
            panel(
                "messages/s",
                vec![
                    rate("acknowledged", |one| one.acked),
                    rate("stored", |one| one.stored),
                ],
            ),
            panel("messages", vec![level("lag", |one| one.lag as f64)]),
            panel(
                "MiB",
                vec![level("RSS of the node", |one| mib(one.rss_bytes))],
            ),
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        for [name, value, limit] in self.figures() {
            writeln!(f, "{name:<44}{value:>28}   {limit}")?;
        }
        for violation in &self.violations {
            writeln!(f, "not as it should be: {violation}")?;
        }
        Ok(())
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        Report {
            machine: Machine::read(),
            load_average: String::new(),
            devices: 2_000,
            rate_per_s: 15_000,
            seconds: 60.0,
            hold_per_s: 5_000,
            configuration: String::new(),
            payload_bytes: 100.0,
            points: METRICS,
            sent: 900_000,
            acked: 900_000,
            stored: 900_000,
            dead_letters: 0,
            disconnected: 0,
            p50_ms: 5.0,
            p99_ms: 9.0,
            lag_peak: 590_000,
            lag_end: 0,
            drained_s: 181.0,
            rss_settled_bytes: 100 << 20,
            rss_peak_bytes: 164 << 20,
            violations: Vec::new(),
            samples: Vec::new(),
        }
    }

    #[test]
    fn each_line_that_is_violated_is_named_alone() {
        assert_eq!(good().violated(600_000.0), [""; 0]);
        let of = |change: fn(&mut Report)| {
            let mut report = good();
            change(&mut report);
            let violations = report.violated(600_000.0);
            assert_eq!(violations.len(), 1, "{violations:?}");
            violations[0].clone()
        };
        assert!(of(|one| one.disconnected = 1).contains("1 devices"));
        assert!(of(|one| one.sent += 1).contains("acknowledged"));
        assert!(of(|one| one.stored -= 1).contains("899999"));
        assert!(of(|one| one.dead_letters = 3).contains("3 of them"));
        assert!(of(|one| one.lag_peak = 500_000).contains("not above 500000"));
        assert!(of(|one| one.lag_end = 7).contains("lag was 7"));
        assert!(of(|one| one.rss_peak_bytes += 1).contains("memory grew"));
    }

    #[test]
    fn rates_are_drawn_from_differences() {
        let sample = |seconds, acked| Sample {
            seconds,
            acked,
            ..Sample::default()
        };
        let report = Report {
            samples: vec![sample(1.0, 100), sample(3.0, 500)],
            ..good()
        };
        let points = &report.panels()[0].series[0].points;
        assert_eq!(points[..], [(1.0, 100.0), (3.0, 200.0)]);
    }
}
