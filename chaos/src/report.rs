//! What one run did and found, as people and machines read it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::scenario::Kind;
use crate::waited::Waited;

/// Names of the files in a run's folder.
pub(crate) const JSON: &str = "report.json";
const MARKDOWN: &str = "report.md";
pub(crate) const PICTURE: &str = "timeline.png";
/// What every client did and saw, where something was found.
pub(crate) const HISTORY: &str = "history.jsonl";

/// Is a fault as it happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaultRecord {
    /// What.
    pub kind: Kind,
    /// Who, by numbers.
    pub met: String,
    /// Whom it left no way to a quorum of meta, or none back: places among the nodes of the run, from 0.
    #[serde(skip)]
    pub cut_off: Vec<usize>,
    /// When it began, in seconds from the beginning of the faults on.
    pub begin_s: f64,
    /// When it was taken back and what it had ended was started again.
    pub end_s: f64,
    /// Seconds from then until the cluster was whole; absent if nobody waited for it.
    pub whole_s: Option<f64>,
    /// Nodes that were killed by it.
    pub kills: u32,
    /// Longest time without an acknowledgement from its beginning until the cluster was whole, in
    /// seconds.
    pub stall_s: f64,
    /// What else is to be said.
    pub note: String,
}

/// Is what one checker found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which.
    pub checker: String,
    /// How much it looked at.
    pub checked: u64,
    /// How many violations it found.
    pub count: u64,
    /// How many cases are none because a counted policy of the nodes explains them.
    #[serde(default)]
    pub excused: u64,
    /// The first of them, in words.
    pub violations: Vec<String>,
}

impl From<crate::checkers::Verdict> for Verdict {
    fn from(found: crate::checkers::Verdict) -> Self {
        Self {
            checker: found.checker.to_string(),
            checked: found.checked,
            count: found.count,
            excused: found.excused,
            violations: found.violations,
        }
    }
}

/// Is a figure that a scenario is run for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What, with its unit.
    pub name: String,
    /// How much.
    pub value: f64,
}

/// Is what one run did and found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The scenario.
    pub scenario: String,
    /// What it does.
    pub about: String,
    /// Seed of faults and workload.
    pub seed: u64,
    /// How long faults were drawn, in seconds.
    pub duration_s: f64,
    /// How long the whole run took, in seconds.
    pub seconds: f64,
    /// Nodes at the beginning.
    pub nodes: u32,
    /// On what it ran.
    pub machine: String,
    /// Configuration of the nodes.
    pub config: String,
    /// Whether each node had an address of its own in a network of the run's own.
    pub is_in_namespace: bool,
    /// Defect that the nodes were told to have.
    pub defect: Option<String>,
    /// Messages acknowledged.
    pub acked: u64,
    /// Messages received.
    pub received: u64,
    /// Connects of clients.
    pub connects: u64,
    /// The faults, in the order in which they ended.
    pub faults: Vec<FaultRecord>,
    /// Packets between nodes that were dropped by rules.
    pub packets_dropped: u64,
    /// Longest time without an acknowledgement, in seconds.
    pub stall_s: f64,
    /// Most resident memory of each node, in bytes.
    pub rss_bytes: Vec<u64>,
    /// What it is run for.
    pub figures: Vec<Figure>,
    /// Messages that waited longest for their PUBACK between the first fault and the last.
    #[serde(default)]
    pub waited: Vec<Waited>,
    /// Connections that ended between the first fault and the last although nobody was to end them, the first
    /// of them, in words.
    #[serde(default)]
    pub ended: Vec<String>,
    /// Counters of the nodes, summed over nodes and their processes.
    pub counters: BTreeMap<String, f64>,
    /// What the checkers found.
    pub verdicts: Vec<Verdict>,
}

impl Report {
    /// Returns true when no checker found anything.
    #[must_use]
    pub fn is_green(&self) -> bool {
        self.violations() == 0
    }

    /// Returns the number of violations.
    #[must_use]
    pub fn violations(&self) -> u64 {
        self.verdicts.iter().map(|verdict| verdict.count).sum()
    }

    /// Returns the number of nodes killed with SIGKILL.
    #[must_use]
    pub fn kills(&self) -> u32 {
        self.faults.iter().map(|fault| fault.kills).sum()
    }

    /// Returns the number of partitions.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        let faults = self.faults.iter();
        faults.filter(|fault| fault.kind.is_partition()).count() as u32
    }

    /// Returns the report as one JSON object.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a report has no map with odd keys")
    }

    /// Reads the report that a run left in its folder.
    ///
    /// # Errors
    /// [`Error::Failed`] when there is none.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(JSON);
        let failed =
            |error: &dyn std::fmt::Display| Error::Failed(format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(&path).map_err(|error| failed(&error))?;
        serde_json::from_str(&text).map_err(|error| failed(&error))
    }

    /// Writes report.json and report.md.
    ///
    /// # Errors
    /// [`Error::Failed`] naming the file.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        for (name, text) in [
            (JSON, self.to_json() + "\n"),
            (MARKDOWN, self.to_markdown()),
        ] {
            let path = folder.join(name);
            std::fs::write(&path, text)
                .map_err(|error| Error::Failed(format!("{}: {error}", path.display())))?;
        }
        Ok(())
    }

    /// Returns the report as a page.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        let mut line = |args: std::fmt::Arguments<'_>| {
            writeln!(text, "{args}").expect("a String takes any text");
        };
        let verdict = match self.is_green() {
            true => "every checker is green".to_owned(),
            false => format!("**{} violations**", self.violations()),
        };
        line(format_args!(
            "# Chaos: {}\n\n{} {verdict}.\n",
            self.scenario, self.about
        ));
        let place = match self.is_in_namespace {
            true => "a network of their own",
            false => "loopback",
        };
        line(format_args!(
            "Written by `tidewire chaos {} --seed {} --for {:.0}s`. {} nodes in {place}, {}.\n",
            self.scenario, self.seed, self.duration_s, self.nodes, self.machine
        ));
        if let Some(defect) = &self.defect {
            line(format_args!(
                "The nodes had the defect `{defect}` on purpose.\n"
            ));
        }
        line(format_args!(
            "{} messages acknowledged, {} received, {} connects; {} faults, {} kills, {} partitions, {} packets dropped by \
             rules; the longest time without an acknowledgement was {:.1} s; {:.0} s in all.\n",
            self.acked,
            self.received,
            self.connects,
            self.faults.len(),
            self.kills(),
            self.partitions(),
            self.packets_dropped,
            self.stall_s,
            self.seconds
        ));
        let memory: Vec<String> = self
            .rss_bytes
            .iter()
            .map(|bytes| (bytes >> 20).to_string())
            .collect();
        line(format_args!(
            "Most resident memory of each node, MiB: {}.\n",
            memory.join(", ")
        ));
        line(format_args!("![timeline]({PICTURE})\n"));
        line(format_args!(
            "| checker | checked | violations | excused |\n|---|---:|---:|---:|"
        ));
        for verdict in &self.verdicts {
            let Verdict {
                checker,
                checked,
                count,
                excused,
                ..
            } = verdict;
            line(format_args!(
                "| {checker} | {checked} | {count} | {excused} |"
            ));
        }
        line(format_args!(""));
        for verdict in &self.verdicts {
            for violation in &verdict.violations {
                line(format_args!("- {}: {violation}", verdict.checker));
            }
        }
        if !self.figures.is_empty() {
            line(format_args!("\n| figure | value |\n|---|---:|"));
            for Figure { name, value } in &self.figures {
                line(format_args!("| {name} | {value:.3} |"));
            }
        }
        for Waited {
            client_id,
            topic,
            at_s,
            seconds,
            meanwhile,
        } in &self.waited
        {
            line(format_args!(
                "\nAt {at_s:.1} s `{client_id}` waited {seconds:.3} s for a PUBACK of `{topic}`: {meanwhile}."
            ));
        }
        for ended in &self.ended {
            line(format_args!("\n{ended}"));
        }
        line(format_args!(
            "\n| at, s | fault | nodes | lasted, s | whole after, s | stall, s | |\n|---:|---|---|---:|---:|---:|---|"
        ));
        for fault in &self.faults {
            let whole = fault
                .whole_s
                .map_or_else(|| "–".to_owned(), |s| format!("{s:.1}"));
            line(format_args!(
                "| {:.1} | {} | {} | {:.1} | {whole} | {:.1} | {} |",
                fault.begin_s,
                fault.kind,
                fault.met,
                fault.end_s - fault.begin_s,
                fault.stall_s,
                fault.note
            ));
        }
        line(format_args!(
            "\nEach node was configured with:\n\n```toml\n{}```",
            self.config
        ));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            scenario: "kills".into(),
            about: "Nodes are killed.".into(),
            acked: 12_345,
            faults: vec![FaultRecord {
                kind: Kind::Kill,
                met: "2".into(),
                cut_off: Vec::new(),
                begin_s: 3.0,
                end_s: 5.0,
                whole_s: Some(1.5),
                kills: 1,
                stall_s: 0.5,
                note: String::new(),
            }],
            verdicts: vec![Verdict {
                checker: "lost".into(),
                checked: 12_000,
                count: 0,
                excused: 0,
                violations: Vec::new(),
            }],
            ..Report::default()
        }
    }

    #[test]
    fn a_report_survives_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let report = report();
        report.write(folder.path()).expect("written");
        assert_eq!(Report::read(folder.path()).expect("there"), report);
    }

    #[test]
    fn a_page_says_what_was_checked_and_what_was_found() {
        let mut report = report();
        let page = report.to_markdown();
        assert!(page.contains("every checker is green"), "{page}");
        assert!(page.contains("| lost | 12000 | 0 | 0 |"), "{page}");
        assert!(
            page.contains("| 3.0 | kill | 2 | 2.0 | 1.5 | 0.5 |  |"),
            "{page}"
        );
        report.verdicts[0].count = 1;
        report.verdicts[0]
            .violations
            .push("message 7 is missing".into());
        let page = report.to_markdown();
        assert!(page.contains("**1 violations**"), "{page}");
        assert!(page.contains("- lost: message 7 is missing"), "{page}");
    }
}
