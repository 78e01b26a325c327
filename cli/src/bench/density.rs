//! `tidewire bench density`.

use std::path::PathBuf;

use benches::density::{self, Options};
use clap::Args;

use crate::{exit, fail};

#[derive(Debug, Args)]
pub(crate) struct Density {
    /// Devices of each set, each with 20 metrics every 10 s for an hour.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(density::DEVICES_MAX)))]
    devices: u32,
    /// Also write the report as Markdown into this file.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// End with one line of JSON instead of the table.
    #[arg(long)]
    json: bool,
}

/// Measures; the exit code.
pub(super) fn run(arguments: &Density) -> u8 {
    let options = Options {
        devices: arguments.devices,
        markdown: arguments.markdown.clone(),
        json: arguments.json,
    };
    match density::run(&options, &mut std::io::stdout()) {
        Ok(report) => report.exit_code(),
        Err(error) => fail(exit::FAILED, &error),
    }
}
