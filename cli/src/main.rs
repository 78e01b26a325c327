//! The program `tidewire`: arguments and wiring, nothing else.

mod arguments;
mod bench;
mod chaos;
mod completion;
mod ctl;
mod demo;
mod not_built;
mod query;
mod serve;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};

/// Where all memory of the process comes from, C libraries aside.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit codes of the contract (DESIGN §8).
mod exit {
    /// The thing asked for failed, or a check found a violation.
    pub(crate) const FAILED: u8 = 1;
    /// Usage or configuration, before anything was started.
    pub(crate) const USAGE: u8 = 2;
    /// Done, but something is degraded or unsafe.
    pub(crate) const DEGRADED: u8 = 3;
    /// The node cannot be reached.
    pub(crate) const UNREACHABLE: u8 = 4;
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    init_logs();
    let code = match arguments.command {
        Command::Serve(serve) => serve::run(&serve),
        Command::Demo(demo) => demo::run(&demo),
        Command::Query(query) => query::run(&query),
        Command::Ctl(ctl) => ctl::run(&ctl),
        Command::Bench(bench) => bench::run(&bench),
        Command::Completion { shell } => completion::run(shell),
        Command::Chaos(chaos) => chaos::run(&chaos),
    };
    ExitCode::from(code)
}

/// What is logged unless `TIDEWIRE_LOG` says otherwise. ractor's spans at INFO cost memory for every
/// actor. openraft warns of every request to a peer that cannot be reached, several a second for each
/// group: links and membership say once that a peer is gone, and once that it is back.
const LOG: &str = "info,ractor=warn,openraft=warn,openraft::core::heartbeat=error,\
    openraft::core::raft_core=error,openraft::engine::handler::replication_handler=error,\
    openraft::replication=error,openraft::replication::stream_state=warn";

/// Logs go to standard error; `TIDEWIRE_LOG` chooses, for instance `debug` or `broker=trace`.
fn init_logs() {
    let filter = std::env::var("TIDEWIRE_LOG").unwrap_or_else(|_| LOG.into());
    let filter = tracing_subscriber::EnvFilter::new(filter);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}

/// Prints an error for people and gives its exit code.
fn fail(code: u8, error: &dyn std::fmt::Display) -> u8 {
    eprintln!("tidewire: {error}");
    code
}
