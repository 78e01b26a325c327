//! `bench storm`: all clients of a cluster lose their connection at one moment and come back, by the
//! rule of the firmware guide and, for comparison, without it; pairs that stay connected show what
//! the others feel of it.
//!
//! Nodes, generator and pairs share the cores of one machine; each variant has a fresh cluster.

mod measure;
mod report;
mod usage;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use crate::demo;
use crate::fleet::Backoff;
use crate::load::LoadError;
use crate::machine::{self, Machine};

pub use report::{Back, Beside, NodeUse, Report, Variant};

/// Most clients: sixty thousand have a port each on every source address that is used.
const CLIENTS_MAX: u32 = 400_000;

/// Says what is cut, and at which size.
#[derive(Clone, Debug)]
pub struct Options {
    /// The nodes and the workers: this program, or another build of it.
    pub program: PathBuf,
    /// Nodes of the cluster, 1 to 5.
    pub nodes: u32,
    /// Clients with a session and a subscription each.
    pub clients: u32,
    /// Pairs of a publisher and a subscriber that stay connected.
    pub pairs: u32,
    /// Their messages a second together.
    pub rate_per_s: f64,
    /// How long the pairs are watched before the cut, and after the last client is back.
    pub watch: Duration,
    /// The rule by which clients come back.
    pub rule: Backoff,
    /// Only the variant in which all wait equally long and no longer after a failure.
    pub no_jitter: bool,
    /// The cut is the death of a node, by SIGKILL, whose clients go to the others.
    pub kill: bool,
    /// Folder, on the disk to be used, for the data of the nodes; `None`: the system's temporary
    /// one.
    pub folder: Option<PathBuf>,
    /// File for the page; a chart goes beside it. `None`: none is written.
    pub markdown: Option<PathBuf>,
}

impl Options {
    /// Returns the settings of the issue: 10 000 clients over three nodes, 100 pairs beside.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        Self {
            program,
            nodes: 3,
            clients: 10_000,
            pairs: 100,
            rate_per_s: 1_000.0,
            watch: Duration::from_secs(5),
            rule: Backoff::default(),
            no_jitter: false,
            kill: false,
            folder: None,
            markdown: None,
        }
    }

    fn check(&self) -> Result<(), StormError> {
        let refuse = |text: String| Err(StormError::Setting(text));
        let fewest = if self.kill { 2 } else { 1 };
        if !(fewest..=demo::NODES_MAX).contains(&self.nodes) {
            let most = demo::NODES_MAX;
            return refuse(format!(
                "--nodes {}: must be {fewest} to {most}",
                self.nodes
            ));
        }
        if !(self.nodes..=CLIENTS_MAX).contains(&self.clients) {
            return refuse(format!(
                "--clients {}: must be {} to {CLIENTS_MAX}",
                self.clients, self.nodes
            ));
        }
        if self.pairs == 0 || self.pairs > self.clients {
            return refuse(format!(
                "--pairs {}: must be 1 to the number of clients",
                self.pairs
            ));
        }
        if !(self.rate_per_s > 0.0 && self.rate_per_s <= 1e6) {
            return refuse(format!(
                "--rate {}: must be above 0 and at most 1e6 messages a second",
                self.rate_per_s
            ));
        }
        if self.watch < Duration::from_millis(100) || self.watch > Duration::from_secs(3_600) {
            return refuse(format!("--for {:?}: must be 100ms to 1h", self.watch));
        }
        if self.rule.base.is_zero() || self.rule.delay_max < self.rule.base {
            return refuse("the base of the waits must be above 0 and at most their limit".into());
        }
        Ok(())
    }

    /// The variants: word, and rule.
    fn variants(&self) -> Vec<(&'static str, Backoff)> {
        let without = Backoff {
            delay_max: self.rule.base,
            jitter: Duration::ZERO,
            ..self.rule
        };
        let with = (!self.no_jitter).then_some(("jitter", self.rule));
        with.into_iter().chain([("no-jitter", without)]).collect()
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum StormError {
    /// A setting is wrong; nothing was started.
    #[error("{0}")]
    Setting(String),
    /// The nodes cannot be started or stopped.
    #[error(transparent)]
    Nodes(#[from] demo::Error),
    /// The generator failed.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A process, a node's metrics, or the machine cannot be read.
    #[error("{0}: {1}")]
    Probe(String, String),
    /// Page or chart cannot be written.
    #[error("{0}: {1}")]
    Write(PathBuf, std::io::Error),
}

/// Measures, and writes the page if one is wanted; progress goes to `progress`. Blocks, and builds
/// an async runtime of its own, so it must not be called from within one.
///
/// # Errors
/// [`StormError`]. What a node did wrong is in the report instead.
pub fn run(options: &Options, progress: &mut impl Write) -> Result<Report, StormError> {
    options.check()?;
    measure::require_descriptors(options)?;
    let mut report = Report {
        machine: Machine::read(),
        load_average: machine::load_average(),
        nodes: options.nodes,
        settings: measure::CONFIG.trim().to_owned(),
        clients: options.clients,
        pairs: options.pairs,
        rate_per_s: options.rate_per_s,
        cut: match options.kill {
            true => "a node is killed with SIGKILL, its clients go to the others".to_owned(),
            false => "all clients close their sockets without DISCONNECT".to_owned(),
        },
        notes: Vec::new(),
        variants: Vec::new(),
    };
    if cfg!(debug_assertions) {
        let note = "a debug build: its speeds mean nothing";
        report.notes.push(note.to_owned());
    }
    for (word, rule) in options.variants() {
        let variant = measure::run(options, word, rule)?;
        // Progress that nobody reads is no reason to stop.
        let _ = writeln!(progress, "{}", variant.one_line());
        report.variants.push(variant);
    }
    if let Some(path) = &options.markdown {
        report.write(path)?;
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_jitter_all_wait_equally_long_after_each_failure() {
        let options = Options::new("tidewire".into());
        let variants = options.variants();
        let words: Vec<_> = variants.iter().map(|(word, _)| *word).collect();
        assert_eq!(words, ["jitter", "no-jitter"]);
        let waits = [0, 1, 9].map(|failures| variants[1].1.delay(failures, 0.9));
        assert_eq!(waits, [options.rule.base; 3]);
    }

    #[test]
    fn settings_out_of_range_are_refused_by_their_flag() {
        let refused = |change: fn(&mut Options)| {
            let mut options = Options::new("tidewire".into());
            change(&mut options);
            options.check().expect_err("out of range").to_string()
        };
        assert!(refused(|options| options.clients = 2).starts_with("--clients 2"));
        assert!(refused(|options| options.pairs = 0).starts_with("--pairs 0"));
        let alone = |options: &mut Options| (options.nodes, options.kill) = (1, true);
        assert!(refused(alone).starts_with("--nodes 1: must be 2 to"));
    }
}
