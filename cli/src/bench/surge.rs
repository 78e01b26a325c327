//! `tidewire bench surge`.

use std::path::PathBuf;
use std::time::Duration;

use benches::surge::{self, Options};
use clap::Args;

use crate::arguments::duration;
use crate::fail;

#[derive(Debug, Args)]
pub(crate) struct Surge {
    /// Kafka to go through: HOST:PORT, or several separated by commas. The topic stays there.
    #[arg(long, value_name = "BOOTSTRAP")]
    kafka: String,
    /// Devices, each with a connection.
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    devices: u32,
    /// Messages a second of all devices together.
    #[arg(long, value_name = "N", default_value_t = 15_000)]
    rate: u32,
    /// How long they send.
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = duration)]
    duration: Duration,
    /// Messages a second that the store is held to.
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    hold: u32,
    /// Folder, on the disk to be used, for the data of the node [default: the system's temporary
    /// one].
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Folder for the report: surge.md, surge.json and surge.png [default: none is written].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// End with one line of JSON instead of the table.
    #[arg(long)]
    json: bool,
}

/// Measures; the exit code.
pub(super) fn run(arguments: &Surge) -> u8 {
    let options = Options {
        kafka: arguments.kafka.clone(),
        devices: arguments.devices,
        rate_per_s: arguments.rate,
        duration: arguments.duration,
        hold_per_s: arguments.hold,
        folder: arguments.folder.clone(),
        out: arguments.out.clone(),
        json: arguments.json,
        program: None,
    };
    match surge::run(&options, &mut std::io::stdout()) {
        Ok(report) => report.exit_code(),
        Err(error) => fail(error.exit_code(), &error),
    }
}
