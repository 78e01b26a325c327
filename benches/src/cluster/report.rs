//! The figures as people and machines read them.

use std::fmt::Write;

use serde::Serialize;

use crate::load::grouped;
use crate::machine::Machine;

/// Is one figure of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// Word of the case.
    pub case: &'static str,
    /// What it is, with its unit.
    pub figure: String,
    /// The value; `None`: it could not be measured.
    pub value: Option<f64>,
    /// It should be no less, as a first step.
    pub step: Option<f64>,
    /// It is to be no less in the end.
    pub goal: Option<f64>,
    /// What bounded it, or what each node had of it.
    pub limit: String,
}

impl Figure {
    pub(super) fn new(case: &'static str, figure: &str, value: Option<f64>) -> Self {
        Self {
            case,
            figure: figure.to_owned(),
            value,
            step: None,
            goal: None,
            limit: String::new(),
        }
    }

    pub(super) fn limited_by(self, limit: String) -> Self {
        Self { limit, ..self }
    }

    pub(super) fn expect(&mut self, step: f64, goal: f64) {
        (self.step, self.goal) = (Some(step), Some(goal));
    }

    /// Returns what of its bounds it reaches, in a word; empty without any.
    fn reached(&self) -> &'static str {
        let is_over = |bound: Option<f64>| {
            let pair = self.value.zip(bound);
            pair.is_some_and(|(value, bound)| value >= bound)
        };
        match (
            self.step.or(self.goal),
            is_over(self.goal),
            is_over(self.step),
        ) {
            (None, _, _) => "",
            (_, true, _) => "goal reached",
            (_, false, true) => "step reached",
            (_, false, false) => "not reached",
        }
    }

    fn shown(&self) -> String {
        self.value.map_or_else(|| "–".to_owned(), shown)
    }

    pub(super) fn one_line(&self) -> String {
        let Self {
            case,
            figure,
            limit,
            ..
        } = self;
        let line = format!(
            "{case:<9} {:>14}  {figure}  [{limit}] {}",
            self.shown(),
            self.reached()
        );
        line.trim_end().to_owned()
    }
}

/// Is the result of `bench cluster`.
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
    /// The middle time of an append of 4 KiB with fdatasync where their data lay, µs.
    pub fsync_us: f64,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
    /// The figures, in order.
    pub figures: Vec<Figure>,
}

impl Report {
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
            settings,
            fsync_us,
            ..
        } = self;
        line(format_args!("# {nodes} nodes on one machine\n"));
        line(format_args!(
            "Written by `tidewire bench cluster`. {machine}.\n"
        ));
        line(format_args!(
            "{nodes} processes and the generator share the cores; nothing is pinned. Load average before: {load_average}. \
             An append of 4 KiB with fdatasync takes {fsync_us:.0} µs here. MQTT 3.1.1 over loopback, payload 256 B, a \
             fresh cluster for each line of a case, one run; publisher and subscriber of a pair are at different nodes. CPU \
             time, memory and bytes are those of the nodes' processes, from `/proc`; bytes written are what the kernel \
             counts for a disk (`write_bytes`, whole pages). What bounds a figure: the share of all cores that was used \
             while the clients published or connected, and the cores that each process had. Each node: `{settings}`."
        ));
        for note in &self.notes {
            line(format_args!("\n- {note}"));
        }
        line(format_args!(
            "\n| Case | Figure | Value | Step | Goal | | Bounded by, or by node |\n\
             | --- | --- | ---: | ---: | ---: | --- | --- |"
        ));
        for figure in &self.figures {
            let bound = |bound: Option<f64>| {
                bound.map_or_else(String::new, |bound| format!("≥ {}", shown(bound)))
            };
            line(format_args!(
                "| {} | {} | {} | {} | {} | {} | {} |",
                figure.case,
                figure.figure,
                figure.shown(),
                bound(figure.step),
                bound(figure.goal),
                figure.reached(),
                figure.limit
            ));
        }
        text
    }
}

/// Few digits behind the point, where there are any.
fn shown(value: f64) -> String {
    if value.abs() < 10.0 && value.fract() != 0.0 {
        format!("{value:.2}")
    } else {
        grouped(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_says_what_of_its_bounds_it_reaches() {
        let reached = |value| {
            let mut figure = Figure::new("p2p", "x", value);
            figure.expect(5.0, 10.0);
            figure.reached()
        };
        assert_eq!(reached(Some(10.0)), "goal reached");
        assert_eq!(reached(Some(5.0)), "step reached");
        assert_eq!(reached(Some(4.9)), "not reached");
        assert_eq!(reached(None), "not reached");
        assert_eq!(Figure::new("p2p", "x", Some(1.0)).reached(), "");
    }
}
