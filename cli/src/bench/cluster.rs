//! `tidewire bench cluster`.

use std::path::PathBuf;
use std::time::Duration;

use benches::cluster::{self, ClusterError, Options};
use clap::Args;

use crate::arguments::duration;
use crate::{exit, fail};

#[derive(Debug, Args)]
pub(crate) struct Cluster {
    /// Only these cases: p2p, connects, crossing, bytes, idle.
    #[arg(long, value_name = "CASE", value_delimiter = ',')]
    only: Vec<String>,
    /// Program that is measured and generates the load: a release build of Tidewire [default: this
    /// one].
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Nodes, 2 to 5.
    #[arg(long, value_name = "N", default_value_t = 3)]
    nodes: u32,
    /// Pairs of a publisher and a subscriber.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pairs: u32,
    /// Messages a second of all pairs where the rate is fixed.
    #[arg(long, value_name = "N", default_value_t = 2_500.0)]
    rate: f64,
    /// How long they publish.
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Connections of the case of connects.
    #[arg(long, value_name = "N", default_value_t = 9_000)]
    connections: u32,
    /// Sessions of the case of bytes.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    sessions: u32,
    /// Folder, on the disk to be used, for the data of the nodes [default: the system's temporary
    /// one].
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// File for the page [default: none is written].
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// End with one line of JSON instead of the table.
    #[arg(long)]
    json: bool,
}

/// Measures; the exit code.
pub(super) fn run(arguments: &Cluster) -> u8 {
    let program = match arguments
        .program
        .clone()
        .map_or_else(std::env::current_exe, Ok)
    {
        Ok(program) => program,
        Err(error) => return fail(exit::FAILED, &error),
    };
    let options = Options {
        program,
        only: arguments.only.clone(),
        nodes: arguments.nodes,
        pairs: arguments.pairs,
        rate_per_s: arguments.rate,
        duration: arguments.duration,
        connections: arguments.connections,
        sessions: arguments.sessions,
        folder: arguments.folder.clone(),
        markdown: arguments.markdown.clone(),
    };
    match cluster::run(&options, &mut std::io::stderr()) {
        Ok(report) => {
            if arguments.json {
                println!("{}", report.to_json());
            } else {
                print!("{}", report.to_markdown());
            }
            0
        }
        Err(error @ ClusterError::Setting(_)) => fail(exit::USAGE, &error),
        Err(error) => fail(exit::FAILED, &error),
    }
}
