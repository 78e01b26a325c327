//! `bench compare`: the same cases against Tidewire and other brokers, in turn, on pinned cores.

mod measure;
mod peers;
mod report;
mod summary;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use crate::load::{self, Load, LoadError};
use crate::machine::Machine;

use measure::{Measure, measures};
pub(crate) use peers::{Cores, Running};

pub use peers::Peer;
pub use report::Report;
pub use summary::{Summary, median};

/// What is compared, and at which size.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program: Tidewire, the sink and the workers.
    pub program: PathBuf,
    /// Brokers beside Tidewire, mosquitto and the sink.
    pub peers: Vec<Peer>,
    /// Words of the cases; empty: all.
    pub only: Vec<String>,
    /// Runs of each case against each broker.
    pub runs: u32,
    /// How long publishers publish in each.
    pub duration: Duration,
    /// Publishers of the cases with many.
    pub publishers: u32,
    /// Subscribers of the fan-out.
    pub subscribers: u32,
    /// Pairs.
    pub pairs: u32,
    /// Sessions that messages are queued for.
    pub sessions: u32,
    /// Idle connections.
    pub connections: u32,
    /// Sessions of the storm.
    pub storm: u32,
    /// Folder for the report.
    pub out: PathBuf,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A setting is wrong; nothing was started.
    #[error("{0}")]
    Setting(String),
    /// A broker cannot be started.
    #[error("{0}: {1}")]
    Peer(String, String),
    /// The cores cannot be pinned.
    #[error("cores cannot be pinned: {0}")]
    Pin(std::io::Error),
    /// The report cannot be written.
    #[error("{0}: {1}")]
    Write(PathBuf, std::io::Error),
}

/// Runs the comparison and writes its report; progress goes to `progress`.
///
/// A broker that fails in a case is noted in the report, and the comparison goes on.
///
/// # Errors
/// [`CompareError`].
pub fn run(options: &Options, progress: &mut impl Write) -> Result<Report, CompareError> {
    let measures = chosen(options)?;
    let mut peers = vec![Peer::tidewire(&options.program)];
    let mut notes = Vec::new();
    match Peer::mosquitto() {
        Some(mosquitto) => peers.push(mosquitto),
        None => notes.push("mosquitto is not installed: no relation to it".into()),
    }
    peers.extend(options.peers.iter().cloned());
    peers.push(Peer::sink(&options.program));
    if cfg!(debug_assertions) {
        notes.push("a debug build: its speeds mean nothing".into());
    }

    let load_average = crate::machine::load_average();
    // Read before the pinning, which changes the number of usable cores.
    let machine = Machine::read();
    let cores = Cores::pin().map_err(CompareError::Pin)?;
    let mut summaries = vec![vec![Summary::default(); peers.len()]; measures.len()];
    for run in 1..=options.runs {
        for (measure, summaries) in measures.iter().zip(&mut summaries) {
            for (peer, summary) in peers.iter().zip(summaries) {
                one(options, &cores, peer, measure, run, summary);
                let shown = measure.judged.first().and_then(|judged| {
                    let last = *summary.figures.get(judged.figure)?.last()?;
                    Some(format!("{} {}", load::grouped(last), judged.title))
                });
                // Progress that nobody reads is no reason to stop.
                let _ = writeln!(
                    progress,
                    "run {run}/{}  {:<16} {:<12} {}",
                    options.runs,
                    measure.word,
                    peer.name,
                    shown.unwrap_or_else(|| "no figure".into())
                );
            }
        }
    }
    let report = Report {
        machine,
        pinning: cores.describe(),
        load_average,
        runs: options.runs,
        seconds: options.duration.as_secs_f64(),
        peers,
        notes,
        measures,
        summaries,
    };
    report.write(&options.out)?;
    Ok(report)
}

fn chosen(options: &Options) -> Result<Vec<Measure>, CompareError> {
    let all = measures(options);
    let unknown = options
        .only
        .iter()
        .find(|word| all.iter().all(|measure| measure.word != word.as_str()));
    if let Some(word) = unknown {
        let words: Vec<_> = all.iter().map(|measure| measure.word).collect();
        return Err(CompareError::Setting(format!(
            "{word}: no case of the comparison; there are {}",
            words.join(", ")
        )));
    }
    if options.runs == 0 {
        return Err(CompareError::Setting("0 runs: nothing to compare".into()));
    }
    let is_chosen = |measure: &Measure| {
        options.only.is_empty() || options.only.iter().any(|w| w == measure.word)
    };
    Ok(all.into_iter().filter(is_chosen).collect())
}

/// One case against one broker that is started for it.
fn one(
    options: &Options,
    cores: &Cores,
    peer: &Peer,
    measure: &Measure,
    run: u32,
    summary: &mut Summary,
) {
    // The floor keeps no sessions.
    if peer.name == "sink" && measure.word == "offline" {
        return;
    }
    let broker = match peer.start(cores) {
        Ok(broker) => broker,
        Err(error) => {
            summary.troubles.push(format!("run {run}: {error}"));
            return;
        }
    };
    let load = Load {
        duration: options.duration,
        pid: Some(broker.pid()),
        ..Load::new(broker.address, options.program.clone())
    };
    match load::run(&load, &measure.case) {
        Ok(outcome) => summary.add(&outcome, run),
        Err(error @ (LoadError::Setting(_) | LoadError::Unreachable(_))) => {
            summary.troubles.push(format!("run {run}: {error}"));
        }
        Err(error) => summary
            .troubles
            .push(format!("run {run}: given up: {error}")),
    }
}
