//! What was measured, as people and machines read it.

use std::fmt;
use std::fmt::Write;

use serde::Serialize;

use super::Options;
use super::measure::{KAFKA, LOG, PAIRS};
use crate::load::grouped;
use crate::machine::Machine;

/// By how much a message may cost more on five nodes than on three.
pub const GROWTH_MAX: f64 = 0.15;

/// Is what one line cost on one size of cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Which line.
    pub line: &'static str,
    /// Nodes of the cluster.
    pub nodes: u32,
    /// Messages that went the whole way.
    pub messages: u64,
    /// Seconds in which they were sent.
    pub seconds: f64,
    /// CPU seconds of each node.
    pub nodes_cpu_s: Vec<f64>,
    /// Share of the machine's cores that nodes and generator used, 0 to 1; `None`: not known.
    pub cores_share: Option<f64>,
}

impl Cost {
    /// Returns CPU seconds of all nodes per million messages.
    #[must_use]
    pub fn cpu_s_per_million(&self) -> f64 {
        self.nodes_cpu_s.iter().sum::<f64>() * 1e6 / self.messages.max(1) as f64
    }

    fn rate_per_node(&self) -> f64 {
        self.messages as f64 / self.seconds.max(f64::EPSILON) / f64::from(self.nodes.max(1))
    }

    fn by_node(&self) -> String {
        let each = self.nodes_cpu_s.iter().map(|cpu_s| format!("{cpu_s:.1}"));
        each.collect::<Vec<_>>().join(" + ")
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} on {}: {:.1} CPU s per million ({} messages in {:.1} s; nodes {})",
            self.line,
            self.nodes,
            self.cpu_s_per_million(),
            grouped(self.messages as f64),
            self.seconds,
            self.by_node()
        )
    }
}

/// Is the result of `bench cost`.
#[derive(Clone, Debug)]
pub struct Report {
    /// On what it was measured.
    pub machine: Machine,
    /// Load averages before the run.
    pub load_average: String,
    /// At which load.
    pub options: Options,
    /// What came out, line by line, by size.
    pub costs: Vec<Cost>,
}

impl Report {
    /// Returns by how much more a message of a line costs on `to` nodes than on `from`; 0.1 is 10 %.
    #[must_use]
    pub fn growth(&self, line: &str, from: u32, to: u32) -> Option<f64> {
        let of = |nodes| {
            let mut costs = self.costs.iter();
            costs.find(|cost| cost.line == line && cost.nodes == nodes)
        };
        let (from, to) = (of(from)?, of(to)?);
        Some(to.cpu_s_per_million() / from.cpu_s_per_million() - 1.0)
    }

    /// Returns whether no line grows by more than [`GROWTH_MAX`] from three nodes to five; `None`
    /// where that was not measured.
    #[must_use]
    pub fn holds(&self) -> Option<bool> {
        let lines = [LOG, KAFKA, PAIRS];
        let growths = lines.iter().filter_map(|line| self.growth(line, 3, 5));
        growths
            .map(|growth| growth <= GROWTH_MAX)
            .reduce(|a, b| a && b)
    }

    /// Returns the report as one JSON object on one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        let costs: Vec<_> = self
            .costs
            .iter()
            .map(|cost| {
                serde_json::json!({
                    "line": cost.line,
                    "nodes": cost.nodes,
                    "messages": cost.messages,
                    "seconds": cost.seconds,
                    "nodes_cpu_s": cost.nodes_cpu_s,
                    "cpu_s_per_million": cost.cpu_s_per_million(),
                    "cores_share": cost.cores_share,
                })
            })
            .collect();
        let growth = |line| self.growth(line, 3, 5);
        serde_json::json!({
            "machine": self.machine,
            "load_average": self.load_average,
            "costs": costs,
            "growth_3_to_5": { "log": growth(LOG), "kafka": growth(KAFKA), "pairs": growth(PAIRS) },
            "growth_max": GROWTH_MAX,
            "holds": self.holds(),
        })
        .to_string()
    }

    /// Returns the report as a page.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        let mut line = |args: fmt::Arguments<'_>| {
            writeln!(text, "{args}").expect("a String takes any text");
        };
        let Self {
            machine,
            load_average,
            options,
            ..
        } = self;
        line(format_args!("# What a message costs on 1, 3 and 5 nodes\n"));
        line(format_args!(
            "Written by `tidewire bench cost`. {machine}.\n"
        ));
        line(format_args!(
            "All nodes and the generator share the cores; nothing is pinned; load average before: {load_average}. The same \
             load for each node: {} devices with {} messages/s of 20 metrics as JSON, or {} durable pairs with {} messages/s of \
             256 B, QoS 1, publisher and subscriber at different nodes. {:?} each, on fresh folders. CPU time is that of the \
             nodes' processes, from `/proc`; for telemetry from the first message until every row is in a segment.",
            options.devices,
            options.device_rate_per_s,
            options.pairs,
            options.pair_rate_per_s,
            options.duration
        ));
        line(format_args!(
            "\n| Line | Nodes | Messages/s and node | CPU s per million | to 1 node | to 3 nodes | Cores used | CPU s by node |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
        ));
        for cost in &self.costs {
            let grown = |from| match self.growth(cost.line, from, cost.nodes) {
                Some(growth) if cost.nodes > from => format!("{:+.0} %", growth * 100.0),
                _ => String::new(),
            };
            let share = cost
                .cores_share
                .map(|share| format!("{:.0} %", share * 100.0));
            line(format_args!(
                "| {} | {} | {:.0} | {:.1} | {} | {} | {} | {} |",
                cost.line,
                cost.nodes,
                cost.rate_per_node(),
                cost.cpu_s_per_million(),
                grown(1),
                grown(3),
                share.unwrap_or_default(),
                cost.by_node()
            ));
        }
        if let Some(holds) = self.holds() {
            line(format_args!(
                "\nFrom three nodes to five a message may cost {:.0} % more: {}.",
                GROWTH_MAX * 100.0,
                if holds {
                    "it holds"
                } else {
                    "it does not hold"
                }
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(costs: &[(&'static str, u32, f64)]) -> Report {
        let cost = |(line, nodes, cpu_s): &(&'static str, u32, f64)| Cost {
            line,
            nodes: *nodes,
            messages: 1_000_000,
            seconds: 10.0,
            nodes_cpu_s: vec![cpu_s / f64::from(*nodes); *nodes as usize],
            cores_share: Some(0.5),
        };
        Report {
            machine: Machine::read(),
            load_average: String::new(),
            options: Options {
                program: std::path::PathBuf::new(),
                nodes: vec![3, 5],
                pairs: 1,
                pair_rate_per_s: 1.0,
                devices: 1,
                device_rate_per_s: 1.0,
                duration: std::time::Duration::from_secs(10),
                kafka: None,
                folder: None,
                markdown: None,
            },
            costs: costs.iter().map(cost).collect(),
        }
    }

    #[test]
    fn one_line_that_grows_too_much_is_enough() {
        let good = report(&[(LOG, 3, 10.0), (LOG, 5, 11.0)]);
        let bad = report(&[
            (LOG, 3, 10.0),
            (LOG, 5, 11.0),
            (PAIRS, 3, 10.0),
            (PAIRS, 5, 12.0),
        ]);

        assert_eq!(good.holds(), Some(true));
        assert_eq!(bad.holds(), Some(false));
        assert_eq!(report(&[(LOG, 3, 10.0)]).holds(), None);
        assert!(
            bad.to_markdown().contains("| +20 % |"),
            "{}",
            bad.to_markdown()
        );
        assert!(bad.to_json().contains("\"holds\":false"));
    }
}
