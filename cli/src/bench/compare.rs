//! `tidewire bench compare`.

use std::path::PathBuf;
use std::time::Duration;

use benches::compare::{self, CompareError, Options, Peer};
use clap::Args;

use crate::arguments::duration;
use crate::{exit, fail};

#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// A further broker: a name, and a command for the shell with {port} in it.
    #[arg(long = "peer", value_name = "NAME=COMMAND", value_parser = peer)]
    peers: Vec<Peer>,
    /// Only these cases: in, subscriber, wake-up, fanout, p2p, offline, conn, conn-subscribed, storm.
    #[arg(long, value_name = "CASE", value_delimiter = ',')]
    only: Vec<String>,
    /// Runs of each case against each broker.
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: u32,
    /// How long publishers publish in each.
    #[arg(long = "for", value_name = "TIME", default_value = "2s", value_parser = duration)]
    duration: Duration,
    /// Publishers.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    publishers: u32,
    /// Subscribers of the fan-out.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    subscribers: u32,
    /// Pairs of one publisher and one subscriber.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pairs: u32,
    /// Sessions that messages are queued for.
    #[arg(long, value_name = "N", default_value_t = 500)]
    sessions: u32,
    /// Idle connections.
    #[arg(long, value_name = "N", default_value_t = 15_000)]
    connections: u32,
    /// Sessions that reconnect at once.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    storm: u32,
    /// Folder for the report: compare.md, compare.json and charts.
    #[arg(long, value_name = "DIR", default_value = "docs/bench")]
    out: PathBuf,
    /// End with one line of JSON instead of the tables.
    #[arg(long)]
    json: bool,
}

fn peer(text: &str) -> Result<Peer, CompareError> {
    Peer::parse(text)
}

/// Compares; the exit code.
pub(super) fn run(arguments: &Compare) -> u8 {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return fail(exit::FAILED, &error),
    };
    let options = Options {
        program,
        peers: arguments.peers.clone(),
        only: arguments.only.clone(),
        runs: arguments.runs,
        duration: arguments.duration,
        publishers: arguments.publishers,
        subscribers: arguments.subscribers,
        pairs: arguments.pairs,
        sessions: arguments.sessions,
        connections: arguments.connections,
        storm: arguments.storm,
        out: arguments.out.clone(),
    };
    match compare::run(&options, &mut std::io::stderr()) {
        Ok(report) => {
            if arguments.json {
                println!("{}", report.to_json());
            } else {
                print!("{}", report.to_markdown());
            }
            if report.has_troubles() {
                exit::FAILED
            } else {
                0
            }
        }
        Err(error @ CompareError::Setting(_)) => fail(exit::USAGE, &error),
        Err(error) => fail(exit::FAILED, &error),
    }
}
