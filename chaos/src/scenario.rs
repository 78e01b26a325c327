//! A scenario: a cluster, a workload, and the faults that meet it, as a TOML file says.

mod entry;
mod shipped;

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::Error;
use crate::workload;

pub use entry::{Entry, Kind, Need, Span, Target};
pub use shipped::{Shipped, shipped};

/// Most nodes with which a scenario begins: they share one machine.
pub const NODES_MAX: u32 = 5;

/// Is a scenario, as its file says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name: lower-case letters, digits and `-`.
    pub name: String,
    /// What it does, in one sentence.
    pub about: String,
    /// Nodes with which it begins, 1 to [`NODES_MAX`].
    #[serde(default = "three")]
    pub nodes: u32,
    /// How long faults are drawn; those at fixed times that begin later are left out.
    #[serde(with = "humantime_serde")]
    pub duration: Duration,
    /// Seed of faults and workload; absent: drawn, and printed.
    pub seed: Option<u64>,
    /// Time from the end of a drawn fault to the beginning of the next.
    #[serde(default)]
    pub every: Option<Span>,
    /// Whether the next fault waits until the cluster is whole after the last.
    #[serde(default = "yes")]
    pub settle: bool,
    /// Time after the last fault by which the cluster has to be whole.
    #[serde(default = "heal_deadline", with = "humantime_serde")]
    pub heal_deadline: Duration,
    /// Time after healing by which everything acknowledged has to be delivered.
    #[serde(default = "drain_deadline", with = "humantime_serde")]
    pub drain_deadline: Duration,
    /// Longest time without any acknowledgement while nothing is broken.
    #[serde(default = "stall_max", with = "humantime_serde")]
    pub stall_max: Duration,
    /// Each node's folder lies on a file system of its own of so many bytes, in memory.
    pub disk_bytes: Option<u64>,
    /// Whether telemetry goes through the Kafka of `--kafka`.
    #[serde(default)]
    pub kafka: bool,
    /// What the nodes are configured with beside their addresses.
    #[serde(default)]
    pub config: toml::Table,
    /// What the clients do.
    #[serde(default)]
    pub workload: workload::Config,
    /// The faults: at fixed times, or drawn by weight.
    #[serde(default)]
    pub fault: Vec<Entry>,
}

fn three() -> u32 {
    3
}

fn yes() -> bool {
    true
}

fn heal_deadline() -> Duration {
    Duration::from_secs(60)
}

fn drain_deadline() -> Duration {
    Duration::from_secs(60)
}

fn stall_max() -> Duration {
    Duration::from_secs(10)
}

impl Scenario {
    /// Finds a shipped scenario by its name, or reads the file at this path.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the file, the line and what is wrong there; nothing was started.
    pub fn find(word: &str) -> Result<Self, Error> {
        if let Some(shipped) = shipped().find(|one| one.name == word) {
            return Self::parse(word, shipped.text);
        }
        let path = Path::new(word);
        let is_path = path.components().count() > 1 || path.extension().is_some();
        if !is_path && !path.exists() {
            return Err(Error::Usage(format!(
                "{word}: no such scenario; `tidewire chaos list` names them, or give the path of a file"
            )));
        }
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::Usage(format!("{word}: {error}")))?;
        Self::parse(word, &text)
    }

    /// Reads the text of a scenario file; `place` is what errors call it.
    ///
    /// # Errors
    /// [`Error::Usage`] naming place, line and what is wrong there.
    pub fn parse(place: &str, text: &str) -> Result<Self, Error> {
        let at = |offset: usize| {
            let before = text.get(..offset).unwrap_or(text);
            before.matches('\n').count() + 1
        };
        let scenario: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| at(span.start));
            Error::Usage(format!("{place}:{line}: {}", error.message()))
        })?;
        for entry in &scenario.fault {
            let line = at(entry.kind.span().start);
            entry
                .check(scenario.nodes)
                .map_err(|error| Error::Usage(format!("{place}:{line}: {error}")))?;
        }
        scenario
            .check()
            .map_err(|error| Error::Usage(format!("{place}: {error}")))?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), String> {
        let is_name =
            |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        if self.name.is_empty() || !self.name.chars().all(is_name) {
            return Err(format!(
                "name = \"{}\": must be lower-case letters, digits and -",
                self.name
            ));
        }
        if !(1..=NODES_MAX).contains(&self.nodes) {
            return Err(format!("nodes = {}: must be 1 to {NODES_MAX}", self.nodes));
        }
        let draws = self.fault.iter().any(|entry| entry.at.is_none());
        match (&self.every, draws) {
            (None, true) => {
                Err("faults without `at` are drawn: `every` must say how far apart".into())
            }
            (Some(_), false) => Err("`every` is of no use: all faults have a time".into()),
            _ => Ok(()),
        }
    }

    /// Returns what of the machine it needs that is not on every one.
    pub fn needs(&self) -> Vec<Need> {
        let of_faults = self
            .fault
            .iter()
            .filter_map(|entry| entry.kind.get_ref().needs());
        let of_disks = self.disk_bytes.map(|_| Need::Mounts);
        let of_kafka = self.kafka.then_some(Need::Kafka);
        let mut needs: Vec<Need> = of_faults.chain(of_disks).chain(of_kafka).collect();
        needs.sort();
        needs.dedup();
        needs
    }

    /// Returns true when a fault delays what nodes send each other, which a proxy does.
    #[must_use]
    pub fn has_proxies(&self) -> bool {
        let mut faults = self.fault.iter();
        faults.any(|entry| *entry.kind.get_ref() == Kind::Delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "name = \"mine\"\nabout = \"Nothing happens.\"\nduration = \"10s\"\n";

    fn refused(rest: &str) -> String {
        let text = format!("{LEAST}{rest}");
        let error = Scenario::parse("mine.toml", &text).expect_err(rest);
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }

    #[test]
    fn a_scenario_needs_little() {
        let scenario = Scenario::parse("mine.toml", LEAST).expect("good");
        assert_eq!((scenario.nodes, scenario.settle), (3, true));
        assert_eq!(scenario.needs(), []);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (rest, named) in [
            ("nodes = \"many\"\n", "mine.toml:4: "),
            ("\nnoddes = 3\n", "mine.toml:5: "),
            (
                "every = \"5s\"\n[[fault]]\nkind = \"kil\"\n",
                "mine.toml:6: ",
            ),
            (
                "every = \"5s\"\n[[fault]]\nkind = \"kill\"\npercent = 3\n",
                "mine.toml:6: kill: `percent`",
            ),
            (
                "[[fault]]\nkind = \"kill\"\nat = \"1s\"\n\n[[fault]]\nkind = \"kill\"\nat = \"1s\"\ntarget = \"node-4\"\n",
                "mine.toml:9: kill: target node-4",
            ),
            ("[[fault]]\nkind = \"kill\"\n", "`every`"),
            ("nodes = 9\n", "nodes = 9"),
        ] {
            let error = refused(rest);
            assert!(error.contains(named), "{rest}: {error}");
        }
    }

    #[test]
    fn a_scenario_that_is_not_there_is_named() {
        let error = Scenario::find("frist").expect_err("no such").to_string();
        assert!(
            error.contains("frist") && error.contains("chaos list"),
            "{error}"
        );
        let error = Scenario::find("gone/first.toml").expect_err("no file");
        assert!(error.to_string().contains("gone/first.toml"), "{error}");
    }

    #[test]
    fn every_shipped_scenario_is_good_and_called_by_its_name() {
        for one in shipped() {
            let scenario = Scenario::find(one.name).expect(one.name);
            assert_eq!(scenario.name, one.name);
            assert!(scenario.about.ends_with('.'), "{}: a sentence", one.name);
        }
    }
}
