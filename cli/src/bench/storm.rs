//! `tidewire bench storm`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use benches::fleet::Backoff;
use benches::load::{Case, Load};
use benches::storm::{self, Options, StormError};
use clap::Args;

use super::load::{Mqtt, address, run_case};
use crate::arguments::duration;
use crate::{exit, fail};

#[derive(Debug, Args)]
pub(crate) struct Storm {
    /// A broker that runs already [default: nodes of its own].
    #[arg(long, value_name = "HOST:PORT", value_parser = address, conflicts_with_all = ["nodes", "kill", "folder", "markdown", "base"])]
    addr: Option<SocketAddr>,
    /// Nodes, 1 to 5.
    #[arg(long, value_name = "N", default_value_t = 3)]
    nodes: u32,
    /// Clients with a session each, which are cut off at once.
    #[arg(
        long,
        visible_alias = "sessions",
        value_name = "N",
        default_value_t = 10_000
    )]
    clients: u32,
    /// Wait after the first failure; it doubles with each, up to 5 s.
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = duration)]
    base: Duration,
    /// Each waits for a random part of this in addition.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    jitter: Duration,
    /// All wait for the same time, after each failure [default: with jitter, then without it].
    #[arg(long, conflicts_with = "jitter")]
    no_jitter: bool,
    /// A node is killed; its clients go to the others.
    #[arg(long)]
    kill: bool,
    /// Pairs that carry on beside.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pairs: u32,
    /// Their messages a second together.
    #[arg(long, value_name = "N", default_value_t = 1_000.0)]
    rate: f64,
    /// How long they are watched before and after.
    #[arg(long = "for", value_name = "TIME", default_value = "5s", value_parser = duration, conflicts_with = "addr")]
    duration: Duration,
    /// Program that is measured and generates the load: a release build of Tidewire [default: this
    /// one].
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Folder, on the disk to be used, for the data of the nodes [default: the system's temporary
    /// one].
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// File for the page; a chart goes beside it [default: none is written].
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// With --addr: version of MQTT.
    #[arg(long, value_enum, default_value_t = Mqtt::V311, requires = "addr")]
    mqtt: Mqtt,
    /// With --addr: process of the broker, to see its memory and CPU time, with its children.
    #[arg(long, value_name = "PID", requires = "addr")]
    pid: Option<u32>,
    /// With --addr: connect from 127.0.0.1 to 127.0.0.N in turn [default: the system chooses].
    #[arg(long, value_name = "N", requires = "addr")]
    sources: Option<u8>,
    /// End with one line of JSON instead of the table.
    #[arg(long)]
    json: bool,
}

/// Measures; the exit code.
pub(super) fn run(arguments: &Storm) -> u8 {
    let program = match arguments
        .program
        .clone()
        .map_or_else(std::env::current_exe, Ok)
    {
        Ok(program) => program,
        Err(error) => return fail(exit::FAILED, &error),
    };
    match arguments.addr {
        Some(addr) => of_broker(arguments, addr, program),
        None => of_nodes(arguments, program),
    }
}

fn of_broker(arguments: &Storm, addr: SocketAddr, program: PathBuf) -> u8 {
    let case = Case::Storm {
        sessions: arguments.clients,
        jitter: match arguments.no_jitter {
            true => Duration::ZERO,
            false => arguments.jitter,
        },
        pairs: arguments.pairs,
        rate_per_s: arguments.rate,
    };
    let load = Load {
        version: arguments.mqtt.version(),
        sources: arguments.sources.unwrap_or(0),
        pid: arguments.pid,
        ..Load::new(addr, program)
    };
    run_case(&load, &case, arguments.json)
}

fn of_nodes(arguments: &Storm, program: PathBuf) -> u8 {
    let options = Options {
        nodes: arguments.nodes,
        clients: arguments.clients,
        pairs: arguments.pairs,
        rate_per_s: arguments.rate,
        watch: arguments.duration,
        rule: Backoff {
            base: arguments.base,
            jitter: arguments.jitter,
            ..Backoff::default()
        },
        no_jitter: arguments.no_jitter,
        kill: arguments.kill,
        folder: arguments.folder.clone(),
        markdown: arguments.markdown.clone(),
        ..Options::new(program)
    };
    match storm::run(&options, &mut std::io::stderr()) {
        Ok(report) => {
            if arguments.json {
                println!("{}", report.to_json());
            } else {
                print!("{}", report.to_markdown());
            }
            if report.is_ok() { 0 } else { exit::FAILED }
        }
        Err(error @ StormError::Setting(_)) => fail(exit::USAGE, &error),
        Err(error) => fail(exit::FAILED, &error),
    }
}
