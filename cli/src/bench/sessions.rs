//! `tidewire bench sessions`.

use std::path::PathBuf;

use benches::sessions::{self, Options, SessionsError};
use clap::Args;

use crate::{exit, fail};

#[derive(Debug, Args)]
pub(crate) struct Sessions {
    /// Only these cases: queue, connects, p2p, bytes, idle, large.
    #[arg(long, value_name = "CASE", value_delimiter = ',')]
    only: Vec<String>,
    /// Program that is measured and generates the load: a release build of Tidewire [default: this
    /// one].
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Sessions of the large case.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    sessions: u32,
    /// Messages of 1 KiB for each of them.
    #[arg(long, value_name = "N", default_value_t = 10)]
    messages: u64,
    /// Connections of the case of connects.
    #[arg(long, value_name = "N", default_value_t = 15_000)]
    connections: u32,
    /// Messages a second of the pairs.
    #[arg(long, value_name = "N", default_value_t = 5_000.0)]
    rate: f64,
    /// Folder for the report: sessions.md and sessions.json.
    #[arg(long, value_name = "DIR", default_value = "docs/bench")]
    out: PathBuf,
    /// End with one line of JSON instead of the table.
    #[arg(long)]
    json: bool,
}

/// Measures; the exit code.
pub(super) fn run(arguments: &Sessions) -> u8 {
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
        sessions: arguments.sessions,
        messages: arguments.messages,
        connections: arguments.connections,
        rate_per_s: arguments.rate,
        out: arguments.out.clone(),
    };
    match sessions::run(&options, &mut std::io::stderr()) {
        Ok(report) => {
            if arguments.json {
                println!("{}", report.to_json());
            } else {
                print!("{}", report.to_markdown());
            }
            0
        }
        Err(error @ SessionsError::Setting(..)) => fail(exit::USAGE, &error),
        Err(error) => fail(exit::FAILED, &error),
    }
}
