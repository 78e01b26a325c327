//! The report of a comparison: Markdown, JSON, charts.

use std::fmt::Write as _;
use std::path::Path;

use crate::chart::{self, Bar, Group};
use crate::load::grouped;
use crate::machine::Machine;

use super::CompareError;
use super::measure::{Judged, Measure};
use super::peers::Peer;
use super::summary::Summary;

/// Name of the broker that the others are set in relation to.
const BASELINE: &str = "mosquitto";
/// Name of the broker whose first steps are judged.
const SUBJECT: &str = "tidewire";

/// A finished comparison.
#[derive(Clone, Debug)]
pub struct Report {
    pub(super) machine: Machine,
    pub(super) pinning: String,
    /// The machine's load average before the first run.
    pub(super) load_average: String,
    pub(super) runs: u32,
    pub(super) seconds: f64,
    pub(super) peers: Vec<Peer>,
    pub(super) notes: Vec<String>,
    pub(super) measures: Vec<Measure>,
    /// By measure, then by peer.
    pub(super) summaries: Vec<Vec<Summary>>,
}

impl Report {
    /// Returns whether any broker did what it must not, or failed.
    #[must_use]
    pub fn has_troubles(&self) -> bool {
        let mut all = self.summaries.iter().flatten();
        all.any(|summary| !summary.troubles.is_empty())
    }

    /// Returns the report as Markdown.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        self.head(&mut text).expect("a String takes everything");
        for (measure, summaries) in self.measures.iter().zip(&self.summaries) {
            self.table(&mut text, measure, summaries)
                .expect("a String takes everything");
        }
        text
    }

    fn head(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "# Tidewire beside other brokers\n")?;
        writeln!(
            text,
            "Written by `tidewire bench compare`. {}.\n",
            self.machine
        )?;
        writeln!(
            text,
            "Pinned: {}. {} runs in turn, each of {} s with a fresh broker; medians, and as spread \
             (greatest − least) / median. MQTT 3.1.1 over loopback, payload 256 B, QoS 1. CPU time \
             and memory are the broker's, with its children. Load average before: {}.\n",
            self.pinning, self.runs, self.seconds, self.load_average
        )?;
        for Peer {
            name,
            version,
            settings,
            ..
        } in &self.peers
        {
            let settings = match settings.as_str() {
                "" => String::new(),
                settings => format!("; `{settings}`"),
            };
            writeln!(text, "- **{name}** {version}{settings}")?;
        }
        for note in &self.notes {
            writeln!(text, "- {note}")?;
        }
        writeln!(
            text,
            "\n![Messages](compare-messages.png)\n\n![Connections and queues](compare-sessions.png)\n\n## First steps\n"
        )?;
        writeln!(text, "| Case | Figure | Tidewire | First step | |")?;
        writeln!(text, "| --- | --- | ---: | ---: | --- |")?;
        for (measure, summaries) in self.measures.iter().zip(&self.summaries) {
            for judged in measure.judged {
                if let Some((value, goal, reached)) = self.verdict(judged, summaries) {
                    let reached = if reached {
                        "reached"
                    } else {
                        "**not reached**"
                    };
                    writeln!(
                        text,
                        "| {} | {} | {value} | {goal} | {reached} |",
                        measure.word, judged.title
                    )?;
                }
            }
        }
        Ok(())
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.peers.iter().position(|peer| peer.name == name)
    }

    fn ratio(&self, judged: &Judged, summaries: &[Summary], peer: usize) -> Option<f64> {
        let baseline = summaries[self.place(BASELINE)?].median(judged.figure)?;
        let value = summaries[peer].median(judged.figure)?;
        (baseline != 0.0).then(|| value / baseline)
    }

    /// What Tidewire reached, what it was to reach, and whether it did.
    fn verdict(&self, judged: &Judged, summaries: &[Summary]) -> Option<(String, String, bool)> {
        let subject = self.place(SUBJECT)?;
        let fits = |value: f64, goal: f64| match judged.more_is_better {
            true => value >= goal,
            false => value <= goal,
        };
        let sign = if judged.more_is_better { "≥" } else { "≤" };
        if let Some(goal) = judged.ratio_goal {
            let ratio = self.ratio(judged, summaries, subject)?;
            let value = format!("{ratio:.2} × mosquitto");
            return Some((value, format!("{sign} {goal} ×"), fits(ratio, goal)));
        }
        let goal = judged.bound?;
        let value = summaries[subject].median(judged.figure)?;
        Some((
            grouped(value),
            format!("{sign} {}", grouped(goal)),
            fits(value, goal),
        ))
    }

    fn table(
        &self,
        text: &mut String,
        measure: &Measure,
        summaries: &[Summary],
    ) -> std::fmt::Result {
        writeln!(text, "\n## {}\n", measure.title)?;
        let columns: Vec<_> = measure
            .columns
            .iter()
            .filter(|(figure, _)| summaries.iter().any(|s| s.median(figure).is_some()))
            .collect();
        write!(text, "| Broker |")?;
        for (_, title) in &columns {
            write!(text, " {title} |")?;
        }
        for judged in measure.judged {
            write!(text, " {}: × mosquitto | spread |", judged.title)?;
        }
        write!(text, "\n| --- |")?;
        for _ in 0..columns.len() + 2 * measure.judged.len() {
            write!(text, " ---: |")?;
        }
        writeln!(text)?;
        for (place, (peer, summary)) in self.peers.iter().zip(summaries).enumerate() {
            write!(text, "| {} |", peer.name)?;
            for (figure, _) in &columns {
                write!(text, " {} |", cell(summary.median(figure), grouped))?;
            }
            for judged in measure.judged {
                let ratio = self.ratio(judged, summaries, place);
                let spread = summary.spread(judged.figure);
                write!(
                    text,
                    " {} | {} |",
                    cell(ratio, |ratio| format!("{ratio:.2}")),
                    cell(spread, |spread| format!("{:.0} %", spread * 100.0))
                )?;
            }
            writeln!(text)?;
        }
        for (peer, summary) in self.peers.iter().zip(summaries) {
            if !summary.troubles.is_empty() {
                writeln!(text, "\n{}: {}.", peer.name, summary.troubles.join("; "))?;
            }
        }
        Ok(())
    }

    /// Returns the report as JSON, with every run's figures.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let peers: Vec<_> = self
            .peers
            .iter()
            .map(|peer| {
                serde_json::json!({
                    "name": peer.name, "version": peer.version, "settings": peer.settings,
                })
            })
            .collect();
        let cases: Vec<_> = self
            .measures
            .iter()
            .zip(&self.summaries)
            .map(|(measure, summaries)| {
                let brokers: serde_json::Map<_, _> = self
                    .peers
                    .iter()
                    .zip(summaries)
                    .map(|(peer, summary)| (peer.name.clone(), broker_json(summary)))
                    .collect();
                let steps: Vec<_> = measure
                    .judged
                    .iter()
                    .filter_map(|judged| {
                        let (value, goal, reached) = self.verdict(judged, summaries)?;
                        Some(serde_json::json!({
                            "figure": judged.figure, "value": value, "goal": goal,
                            "reached": reached,
                        }))
                    })
                    .collect();
                serde_json::json!({
                    "case": measure.word, "title": measure.title, "brokers": brokers,
                    "first_steps": steps,
                })
            })
            .collect();
        serde_json::json!({
            "machine": self.machine,
            "pinning": self.pinning,
            "load_average": self.load_average,
            "runs": self.runs,
            "seconds": self.seconds,
            "peers": peers,
            "notes": self.notes,
            "cases": cases,
        })
    }

    /// Writes Markdown, JSON and charts into a folder, which is made.
    ///
    /// # Errors
    /// [`CompareError::Write`].
    pub fn write(&self, folder: &Path) -> Result<(), CompareError> {
        let failed = |error: std::io::Error| CompareError::Write(folder.to_owned(), error);
        std::fs::create_dir_all(folder).map_err(failed)?;
        std::fs::write(folder.join("compare.md"), self.to_markdown()).map_err(failed)?;
        let json = serde_json::to_string_pretty(&self.to_json()).expect("plain values are JSON");
        std::fs::write(folder.join("compare.json"), json + "\n").map_err(failed)?;
        let (flows, others): (Vec<_>, Vec<_>) = self
            .measures
            .iter()
            .zip(&self.summaries)
            .flat_map(|(measure, summaries)| {
                let judged = measure.judged.iter();
                judged.map(move |judged| (measure, judged, summaries))
            })
            .partition(|(_, judged, _)| judged.figure == "messages_per_cpu_s");
        let title = "Messages per broker CPU second (more is better)";
        chart::write(
            &folder.join("compare-messages.png"),
            title,
            &self.groups(&flows),
        )
        .map_err(failed)?;
        let title = "Connections, queues, storms";
        chart::write(
            &folder.join("compare-sessions.png"),
            title,
            &self.groups(&others),
        )
        .map_err(failed)
    }

    fn groups(&self, charted: &[(&Measure, &Judged, &Vec<Summary>)]) -> Vec<Group> {
        charted
            .iter()
            .map(|(measure, judged, summaries)| Group {
                title: format!("{}: {}", measure.word, judged.title),
                bars: self
                    .peers
                    .iter()
                    .zip(*summaries)
                    .enumerate()
                    .filter_map(|(colour, (peer, summary))| {
                        let value = summary.median(judged.figure)?;
                        Some(Bar {
                            name: peer.name.clone(),
                            value,
                            text: grouped(value),
                            colour,
                        })
                    })
                    .collect(),
            })
            .collect()
    }
}

fn cell(value: Option<f64>, text: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "–".into(), text)
}

fn broker_json(summary: &Summary) -> serde_json::Value {
    let medians: serde_json::Map<_, _> = summary
        .figures
        .keys()
        .map(|figure| ((*figure).to_owned(), summary.median(figure).into()))
        .collect();
    serde_json::json!({
        "median": medians, "runs": summary.figures, "troubles": summary.troubles,
    })
}
