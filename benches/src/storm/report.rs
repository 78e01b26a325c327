//! What a storm showed, as people and machines read it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use super::StormError;
use crate::chart::{Panel, Series, write_panels};
use crate::load::{self, Histogram, grouped};
use crate::machine::Machine;

/// Is the result of `bench storm`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// On what it was measured.
    pub machine: Machine,
    /// Load averages before the run.
    pub load_average: String,
    /// Nodes of the cluster.
    pub nodes: u32,
    /// Configuration of each.
    pub settings: String,
    /// Clients with a session and a subscription each.
    pub clients: u32,
    /// Pairs that stay connected.
    pub pairs: u32,
    /// Their messages a second together.
    pub rate_per_s: f64,
    /// What cut the clients off.
    pub cut: String,
    /// What limits the figures.
    pub notes: Vec<String>,
    /// The variants, in order.
    pub variants: Vec<Variant>,
}

/// Is a storm with one rule of coming back.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Variant {
    /// `jitter` or `no-jitter`.
    pub variant: &'static str,
    /// How long clients wait before an attempt.
    pub rule: String,
    /// How they came back.
    pub back: Back,
    /// What nodes refused, by their reason; what was closed without an answer included.
    pub refused: BTreeMap<String, u64>,
    /// The pairs before the cut.
    pub before: Beside,
    /// The pairs from the cut until all were back.
    pub during: Beside,
    /// The pairs from then on.
    pub after: Beside,
    /// Messages that the pairs sent.
    pub sent: u64,
    /// Of them, those acknowledged.
    pub acked: u64,
    /// Acknowledged messages that did not come.
    pub lost: u64,
    /// What each node used from the cut until all were back; one that was killed is missing.
    pub nodes: Vec<NodeUse>,
    /// CPU seconds of the generator meanwhile.
    pub generator_cpu_s: f64,
    /// What no broker may do.
    pub violations: Vec<String>,
}

/// Is how the clients came back.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Back {
    /// Clients that are back.
    pub connected: u64,
    /// Seconds from the cut until the last one was.
    pub seconds: f64,
    /// Clients a second, over all that time.
    pub connects_per_s: f64,
    /// Clients a second, in the best tenth of a second.
    pub connects_per_s_peak: f64,
    /// Attempts that failed.
    pub failures: u64,
    /// Of them, those that were answered with a refusal, by the reason code in hex.
    pub refusals: BTreeMap<String, u64>,
    /// Clients given up, after half a minute in which none came back.
    pub given_up: u64,
    /// Clients whose session was not there any more.
    pub sessions_missing: u64,
    /// From a client's first attempt to its CONNACK, ms, of half the clients.
    pub connect_p50_ms: f64,
    /// The same of 99 in a hundred.
    pub connect_p99_ms: f64,
    /// The same of all.
    pub connect_max_ms: f64,
    /// Clients that came back in each tenth of a second.
    pub by_tenth: Vec<u64>,
}

/// Is what the pairs met in a time; latencies from when a message was due.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Beside {
    /// Messages sent.
    pub sent: u64,
    /// PUBLISH to PUBACK, ms.
    pub ack_p50_ms: f64,
    /// The same.
    pub ack_p99_ms: f64,
    /// The same.
    pub ack_max_ms: f64,
    /// PUBLISH to its subscriber, ms.
    pub delivery_p50_ms: f64,
    /// The same.
    pub delivery_p99_ms: f64,
    /// The same.
    pub delivery_max_ms: f64,
}

/// Is what a node used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeUse {
    /// Its number.
    pub node: u32,
    /// Resident bytes before the cut, with all clients connected.
    pub rss_before_bytes: u64,
    /// The most afterwards.
    pub rss_peak_bytes: u64,
    /// CPU seconds.
    pub cpu_s: f64,
}

fn ms(histogram: &Histogram, share: f64) -> f64 {
    histogram.quantile(share).unwrap_or(0) as f64 / 1e6
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl Back {
    pub(super) fn of(back: &load::Back) -> Self {
        let code = |(code, count): (&u8, &u64)| (format!("0x{code:02X}"), *count);
        let peak = back.by_tenth.iter().max().copied().unwrap_or(0);
        Self {
            connected: back.connected,
            seconds: back.seconds,
            connects_per_s: back.connected as f64 / back.seconds.max(1e-3),
            connects_per_s_peak: peak as f64 * 10.0,
            failures: back.failures,
            refusals: back.refusals.iter().map(code).collect(),
            given_up: back.given_up,
            sessions_missing: back.sessions_missing,
            connect_p50_ms: ms(&back.connect, 0.5),
            connect_p99_ms: ms(&back.connect, 0.99),
            connect_max_ms: ms(&back.connect, 1.0),
            by_tenth: back.by_tenth.clone(),
        }
    }
}

impl Beside {
    pub(super) fn of(beside: &load::Beside) -> Self {
        Self {
            sent: beside.sent,
            ack_p50_ms: ms(&beside.ack, 0.5),
            ack_p99_ms: ms(&beside.ack, 0.99),
            ack_max_ms: ms(&beside.ack, 1.0),
            delivery_p50_ms: ms(&beside.delivery, 0.5),
            delivery_p99_ms: ms(&beside.delivery, 0.99),
            delivery_max_ms: ms(&beside.delivery, 1.0),
        }
    }

    fn shown(&self) -> String {
        format!(
            "{:.1} / {:.1} / {:.1}, {:.1} / {:.1} / {:.1}",
            self.ack_p50_ms,
            self.ack_p99_ms,
            self.ack_max_ms,
            self.delivery_p50_ms,
            self.delivery_p99_ms,
            self.delivery_max_ms
        )
    }
}

impl Variant {
    pub(super) fn one_line(&self) -> String {
        let Back {
            connected,
            seconds,
            connects_per_s,
            failures,
            ..
        } = self.back;
        format!(
            "{}: {connected} back in {seconds:.1} s ({connects_per_s:.0}/s), {failures} attempts failed; pairs' PUBACK p99 {:.1} → {:.1} → {:.1} ms, lost {}",
            self.variant,
            self.before.ack_p99_ms,
            self.during.ack_p99_ms,
            self.after.ack_p99_ms,
            self.lost
        )
    }

    /// Name and value of each row of the page.
    fn rows(&self) -> Vec<(&'static str, String)> {
        let back = &self.back;
        let by = |counts: &BTreeMap<String, u64>| match counts.is_empty() {
            true => "none".to_owned(),
            false => counts
                .iter()
                .map(|(name, count)| format!("{name}: {}", grouped(*count as f64)))
                .collect::<Vec<_>>()
                .join(", "),
        };
        let by_node = |of: &dyn Fn(&NodeUse) -> String| {
            let all: Vec<String> = self.nodes.iter().map(of).collect();
            all.join(", ")
        };
        let wrong = match self.violations.is_empty() {
            true => "nothing".to_owned(),
            false => self.violations.join("; "),
        };
        vec![
            ("wait before an attempt", self.rule.clone()),
            ("clients back", grouped(back.connected as f64)),
            ("until all are back, s", format!("{:.2}", back.seconds)),
            ("connects/s, mean", grouped(back.connects_per_s.round())),
            (
                "connects/s, best tenth of a second",
                grouped(back.connects_per_s_peak),
            ),
            (
                "first attempt to CONNACK p50 / p99 / max, ms",
                format!(
                    "{:.0} / {:.0} / {:.0}",
                    back.connect_p50_ms, back.connect_p99_ms, back.connect_max_ms
                ),
            ),
            ("attempts that failed", grouped(back.failures as f64)),
            ("of them refused, by CONNACK code", by(&back.refusals)),
            ("refused by the nodes, by reason", by(&self.refused)),
            (
                "sessions that were not there",
                grouped(back.sessions_missing as f64),
            ),
            (
                "pairs before: PUBACK, delivery p50 / p99 / max, ms",
                self.before.shown(),
            ),
            ("pairs during", self.during.shown()),
            ("pairs after", self.after.shown()),
            (
                "pairs: sent, acknowledged, lost",
                format!(
                    "{}, {}, {}",
                    grouped(self.sent as f64),
                    grouped(self.acked as f64),
                    self.lost
                ),
            ),
            (
                "RSS by node, before → peak, MiB",
                by_node(&|node| {
                    let (before, peak) = (mib(node.rss_before_bytes), mib(node.rss_peak_bytes));
                    format!("{before:.0} → {peak:.0}")
                }),
            ),
            (
                "CPU by node, generator, s",
                format!(
                    "{}; {:.2}",
                    by_node(&|node| format!("{:.2}", node.cpu_s)),
                    self.generator_cpu_s
                ),
            ),
            ("wrong", wrong),
        ]
    }
}

impl Report {
    /// Returns true when no node did what it may not do.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        let mut variants = self.variants.iter();
        variants.all(|variant| variant.violations.is_empty())
    }

    /// Returns the report as one JSON object on one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a report has no map with odd keys")
    }

    /// Returns the report as a page.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        let mut line = |args: std::fmt::Arguments<'_>| {
            writeln!(text, "{args}").expect("a String takes any text");
        };
        let Self {
            machine,
            load_average,
            nodes,
            clients,
            pairs,
            rate_per_s,
            cut,
            ..
        } = self;
        let settings = self.settings.replace('\n', "; ");
        line(format_args!("# A reconnect storm\n"));
        line(format_args!(
            "Written by `tidewire bench storm`. {machine}.\n"
        ));
        line(format_args!(
            "{nodes} nodes, {clients} clients of MQTT 5, each with a session and a subscription, over all nodes; {cut}, and \
             they come back by the rule of each column. Beside them {pairs} pairs of a publisher and a subscriber at \
             different nodes, with QoS 1 and a durable session, stay connected and publish {rate_per_s} messages of 256 B a \
             second together; their latencies count from when a message was due. *During* is from the cut until the last \
             client is back. Nodes, clients and pairs share the cores; a fresh cluster for each column, one run. Load average \
             before: {load_average}. Each node: `{settings}`."
        ));
        for note in &self.notes {
            line(format_args!("\n- {note}"));
        }
        let heads: Vec<&str> = self.variants.iter().map(|one| one.variant).collect();
        line(format_args!("\n| | {} |", heads.join(" | ")));
        line(format_args!("|---|{}", "---:|".repeat(heads.len())));
        let columns: Vec<_> = self.variants.iter().map(Variant::rows).collect();
        let rows = columns.first().map_or(0, Vec::len);
        for row in 0..rows {
            let values: Vec<&str> = columns.iter().map(|rows| &*rows[row].1).collect();
            line(format_args!(
                "| {} | {} |",
                columns[0][row].0,
                values.join(" | ")
            ));
        }
        text
    }

    /// Writes the page, and a chart beside it.
    pub(super) fn write(&self, path: &Path) -> Result<(), StormError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| StormError::Write(path, error)
        };
        let chart = path.with_extension("png");
        let name = chart.file_name().unwrap_or_default().to_string_lossy();
        let text = format!(
            "{}\n![Clients that came back]({name})\n",
            self.to_markdown()
        );
        std::fs::write(path, text).map_err(failed(path))?;
        let title = "Clients that come back, by time since the cut";
        write_panels(&chart, title, &self.panels()).map_err(failed(&chart))
    }

    fn panels(&self) -> [Panel; 2] {
        let series = |of: fn(&[u64]) -> Vec<f64>| {
            let one = |variant: &Variant| Series {
                name: variant.variant.to_owned(),
                points: of(&variant.back.by_tenth)
                    .into_iter()
                    .enumerate()
                    .map(|(tenth, value)| ((tenth + 1) as f64 / 10.0, value))
                    .collect(),
            };
            self.variants.iter().map(one).collect()
        };
        [
            Panel {
                title: "connects/s".to_owned(),
                series: series(|tenths| tenths.iter().map(|count| *count as f64 * 10.0).collect()),
            },
            Panel {
                title: "clients back".to_owned(),
                series: series(|tenths| {
                    let mut sum = 0;
                    let summed = tenths.iter().map(|count| {
                        sum += count;
                        sum as f64
                    });
                    summed.collect()
                }),
            },
        ]
    }
}
