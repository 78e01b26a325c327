//! `bench cost`: what a message costs on one node, three and five, at the same load for each node.
//!
//! Three lines: telemetry into the embedded logs, telemetry through Kafka, and messages of durable
//! pairs. All nodes and the generator share the cores of one machine, so nothing here says how fast a
//! cluster is; the CPU time of the nodes' processes says what it needs.

mod measure;
mod report;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use crate::demo;
use crate::load::LoadError;
use crate::machine::{self, Machine};
use crate::pipeline;

pub use report::{Cost, GROWTH_MAX, Report};

/// What is measured, and at which load.
#[derive(Clone, Debug)]
pub struct Options {
    /// The nodes: this program, or another build of it.
    pub program: PathBuf,
    /// Sizes of the clusters, each 1 to 5.
    pub nodes: Vec<u32>,
    /// Durable pairs for each node, 1 to 1 000.
    pub pairs: u32,
    /// Messages a second of the pairs of each node.
    pub pair_rate_per_s: f64,
    /// Devices for each node, 1 to 1 000.
    pub devices: u32,
    /// Messages a second of the devices of each node, of 20 metrics.
    pub device_rate_per_s: f64,
    /// How long each is measured.
    pub duration: Duration,
    /// Kafka for its line; `None`: that line is left out.
    pub kafka: Option<String>,
    /// Folder, on the disk to be used, for the data of the nodes; `None`: the system's temporary
    /// one.
    pub folder: Option<PathBuf>,
    /// File for the page; `None`: none is written.
    pub markdown: Option<PathBuf>,
}

/// Most pairs, and most devices, for each node.
const CLIENTS_MAX: u32 = 1_000;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum CostError {
    /// A setting is wrong; nothing was started.
    #[error("{0}")]
    Setting(String),
    /// The nodes cannot be started, asked or stopped.
    #[error(transparent)]
    Nodes(#[from] demo::Error),
    /// The generator of the pairs failed.
    #[error(transparent)]
    Pairs(#[from] LoadError),
    /// The generator of the telemetry failed.
    #[error(transparent)]
    Telemetry(#[from] pipeline::Error),
    /// Something of the machine cannot be used.
    #[error("{0}: {1}")]
    Machine(&'static str, std::io::Error),
    /// What came out is wrong, so what it cost means nothing.
    #[error("{0}")]
    Wrong(String),
    /// The page cannot be written.
    #[error("{0}: {1}")]
    Write(PathBuf, std::io::Error),
}

fn check(options: &Options) -> Result<(), CostError> {
    let refuse = |text: String| Err(CostError::Setting(text));
    let most = demo::NODES_MAX;
    if let Some(wrong) = options.nodes.iter().find(|one| !(1..=most).contains(*one)) {
        return refuse(format!("--nodes {wrong}: must be 1 to {most}"));
    }
    if options.nodes.is_empty() {
        return refuse("--nodes: at least one size of a cluster".to_owned());
    }
    for (flag, count) in [("--pairs", options.pairs), ("--devices", options.devices)] {
        if !(1..=CLIENTS_MAX).contains(&count) {
            return refuse(format!("{flag} {count}: must be 1 to {CLIENTS_MAX}"));
        }
    }
    for (flag, rate) in [
        ("--pair-rate", options.pair_rate_per_s),
        ("--device-rate", options.device_rate_per_s),
    ] {
        if !(rate.is_finite() && rate >= 1.0) {
            return refuse(format!("{flag} {rate}: must be at least 1"));
        }
    }
    if !(Duration::from_secs(1)..=pipeline::DURATION_MAX).contains(&options.duration) {
        let most = pipeline::DURATION_MAX;
        return refuse(format!(
            "--for {:?}: must be 1 s to {most:?}",
            options.duration
        ));
    }
    Ok(())
}

/// Measures, and writes the page if one is wanted; progress goes to `progress`. Blocks, and builds
/// async runtimes of its own, so it must not be called from within one. A topic in Kafka, named
/// `tidewire.bench-…`, stays for each size.
///
/// # Errors
/// [`CostError`].
pub fn run(options: &Options, progress: &mut impl Write) -> Result<Report, CostError> {
    check(options)?;
    let mut report = Report {
        machine: Machine::read(),
        load_average: machine::load_average(),
        options: options.clone(),
        costs: Vec::new(),
    };
    for (line, measure) in measure::LINES {
        if line == measure::KAFKA && options.kafka.is_none() {
            continue;
        }
        for nodes in &options.nodes {
            let cost = measure(options, *nodes)?;
            // Progress that nobody reads is no reason to stop.
            let _ = writeln!(progress, "{cost}");
            report.costs.push(cost);
        }
    }
    if let Some(path) = &options.markdown {
        let written = std::fs::write(path, report.to_markdown());
        written.map_err(|error| CostError::Write(path.clone(), error))?;
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_out_of_range_is_named() {
        let options = Options {
            program: PathBuf::new(),
            nodes: vec![1, 3],
            pairs: 1,
            pair_rate_per_s: 1.0,
            devices: 1,
            device_rate_per_s: 1.0,
            duration: Duration::from_secs(1),
            kafka: None,
            folder: None,
            markdown: None,
        };
        check(&options).expect("good");
        let of = |change: fn(&mut Options)| {
            let mut options = options.clone();
            change(&mut options);
            check(&options).expect_err("refused").to_string()
        };
        assert!(of(|o| o.nodes.push(9)).contains("--nodes 9"));
        assert!(of(|o| o.nodes.clear()).contains("--nodes"));
        assert!(of(|o| o.pairs = 0).contains("--pairs 0"));
        assert!(of(|o| o.devices = 1_001).contains("--devices 1001"));
        assert!(of(|o| o.pair_rate_per_s = f64::NAN).contains("--pair-rate NaN"));
        assert!(of(|o| o.duration = Duration::ZERO).contains("--for"));
    }
}
