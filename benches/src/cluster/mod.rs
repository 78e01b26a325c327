//! `bench cluster`: what three nodes on the cores of one machine do as one broker, and what bounds
//! them.
//!
//! Nothing is pinned: nodes and generator share the cores, so each row says how much of them each
//! process had. Publisher and subscriber of a pair are always at different nodes.

mod measure;
mod report;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use crate::demo;
use crate::load::LoadError;
use crate::machine::{self, Machine};

pub use report::{Figure, Report};

/// What is measured, and at which size.
#[derive(Clone, Debug)]
pub struct Options {
    /// The nodes and the workers: this program, or another build of it.
    pub program: PathBuf,
    /// Words of the cases; empty: all.
    pub only: Vec<String>,
    /// Nodes of the cluster, 2 to 5.
    pub nodes: u32,
    /// Pairs of the cases that publish.
    pub pairs: u32,
    /// Messages a second where the rate is fixed.
    pub rate_per_s: f64,
    /// How long publishers publish.
    pub duration: Duration,
    /// Connections of the case of connects.
    pub connections: u32,
    /// Sessions of the case of bytes.
    pub sessions: u32,
    /// Folder, on the disk to be used, for the data of the nodes; `None`: the system's temporary
    /// one.
    pub folder: Option<PathBuf>,
    /// File for the page; `None`: none is written.
    pub markdown: Option<PathBuf>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A setting is wrong; nothing was started.
    #[error("{0}")]
    Setting(String),
    /// The nodes cannot be started or stopped.
    #[error(transparent)]
    Nodes(#[from] demo::Error),
    /// The generator failed.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A process, a node's metrics, or the disk cannot be read.
    #[error("{0}: {1}")]
    Probe(String, String),
    /// The page cannot be written.
    #[error("{0}: {1}")]
    Write(PathBuf, std::io::Error),
}

/// Fewest and most nodes.
const NODES: std::ops::RangeInclusive<u32> = 2..=demo::NODES_MAX;

fn check(options: &Options) -> Result<(), ClusterError> {
    let refuse = |text: String| Err(ClusterError::Setting(text));
    let words = measure::CASES.map(|(word, _)| word);
    let is_unknown = |word: &&String| !words.contains(&word.as_str());
    if let Some(unknown) = options.only.iter().find(is_unknown) {
        return refuse(format!(
            "{unknown}: no case; there are {}",
            words.join(", ")
        ));
    }
    if !NODES.contains(&options.nodes) {
        let (least, most) = NODES.into_inner();
        return refuse(format!(
            "--nodes {}: must be {least} to {most}",
            options.nodes
        ));
    }
    if options.sessions < measure::SESSIONS_AT_ONCE * 2 {
        return refuse(format!(
            "--sessions {}: must be at least {}, for the first {} pay for what connections leave",
            options.sessions,
            measure::SESSIONS_AT_ONCE * 2,
            measure::SESSIONS_AT_ONCE
        ));
    }
    Ok(())
}

/// Measures, and writes the page if one is wanted; progress goes to `progress`. Blocks, and builds
/// an async runtime of its own, so it must not be called from within one.
///
/// # Errors
/// [`ClusterError`].
pub fn run(options: &Options, progress: &mut impl Write) -> Result<Report, ClusterError> {
    check(options)?;
    let mut notes = Vec::new();
    let is_this = std::env::current_exe().is_ok_and(|this| this == options.program);
    if !is_this {
        let program = options.program.display();
        notes.push(format!(
            "nodes and generator are {program}; the machine's line names the program that asked"
        ));
    } else if cfg!(debug_assertions) {
        notes.push("a debug build: its speeds mean nothing".to_owned());
    }
    let load_average = machine::load_average();
    let run = measure::Run::new(options)?;
    let mut report = Report {
        machine: Machine::read(),
        load_average,
        nodes: options.nodes,
        settings: measure::settings(),
        fsync_us: run.fsync_us()?,
        notes,
        figures: Vec::new(),
    };
    for (word, measure) in measure::CASES {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == word) {
            continue;
        }
        let before = report.figures.len();
        if let Err(error) = measure(&run, &mut report.figures) {
            report.notes.push(format!("{word}: {error}"));
        }
        for figure in &report.figures[before..] {
            // Progress that nobody reads is no reason to stop.
            let _ = writeln!(progress, "{}", figure.one_line());
        }
    }
    if let Some(path) = &options.markdown {
        let written = std::fs::write(path, report.to_markdown());
        written.map_err(|error| ClusterError::Write(path.clone(), error))?;
    }
    Ok(report)
}
