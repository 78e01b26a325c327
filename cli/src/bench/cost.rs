//! `tidewire bench cost`.

use std::path::PathBuf;
use std::time::Duration;

use benches::cost::{self, CostError, Options};
use clap::Args;

use crate::arguments::duration;
use crate::{exit, fail};

#[derive(Debug, Args)]
pub(crate) struct Cost {
    /// Sizes of the clusters, each 1 to 5.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,3,5")]
    nodes: Vec<u32>,
    /// Durable pairs for each node.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pairs: u32,
    /// Messages a second of the pairs of each node.
    #[arg(long, value_name = "N", default_value_t = 1_500.0)]
    pair_rate: f64,
    /// Devices for each node.
    #[arg(long, value_name = "N", default_value_t = 500)]
    devices: u32,
    /// Messages a second, of 20 metrics, of the devices of each node.
    #[arg(long, value_name = "N", default_value_t = 3_000.0)]
    device_rate: f64,
    /// How long each is measured.
    #[arg(long = "for", value_name = "TIME", default_value = "20s", value_parser = duration)]
    duration: Duration,
    /// Kafka for its line: HOST:PORT [default: that line is left out].
    #[arg(long, value_name = "BOOTSTRAP")]
    kafka: Option<String>,
    /// Program that is measured and generates the load: a release build of Tidewire [default: this
    /// one].
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
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

/// Measures; the exit code: 1 when a message grows dearer than it may.
pub(super) fn run(arguments: &Cost) -> u8 {
    let program = match &arguments.program {
        Some(program) => Ok(program.clone()),
        None => std::env::current_exe(),
    };
    let program = match program {
        Ok(program) => program,
        Err(error) => return fail(exit::FAILED, &error),
    };
    let options = Options {
        program,
        nodes: arguments.nodes.clone(),
        pairs: arguments.pairs,
        pair_rate_per_s: arguments.pair_rate,
        devices: arguments.devices,
        device_rate_per_s: arguments.device_rate,
        duration: arguments.duration,
        kafka: arguments.kafka.clone(),
        folder: arguments.folder.clone(),
        markdown: arguments.markdown.clone(),
    };
    match cost::run(&options, &mut std::io::stderr()) {
        Ok(report) => {
            if arguments.json {
                println!("{}", report.to_json());
            } else {
                print!("{}", report.to_markdown());
            }
            match report.holds() {
                Some(false) => exit::FAILED,
                Some(true) | None => 0,
            }
        }
        Err(error @ CostError::Setting(_)) => fail(exit::USAGE, &error),
        Err(error) => fail(exit::FAILED, &error),
    }
}
