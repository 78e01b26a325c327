//! `tidewire bench pipeline`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use benches::pipeline::{self, Options};
use clap::Args;

use crate::arguments::duration;
use crate::fail;

#[derive(Debug, Args)]
pub(crate) struct Pipeline {
    /// MQTT address of a running node [default: start one, pinned to a core of its own].
    #[arg(long, value_name = "ADDR", requires = "admin")]
    addr: Option<SocketAddr>,
    /// Admin address of that node.
    #[arg(long, value_name = "ADDR", requires = "addr")]
    admin: Option<SocketAddr>,
    /// Process id of that node, to see what it uses.
    #[arg(long, value_name = "PID", requires = "addr")]
    pid: Option<u32>,
    /// Connections; each is a device of its own.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    connections: u32,
    /// Messages in flight of each connection.
    #[arg(long, value_name = "N", default_value_t = 16)]
    window: u16,
    /// How long is sent.
    #[arg(long = "for", value_name = "TIME", default_value = "30s", value_parser = duration)]
    duration: Duration,
    /// When the started node seals its head: short, so that a short run has seals and merges.
    #[arg(long, value_name = "TIME", default_value = "4s", value_parser = duration)]
    head_age_max: Duration,
    /// Folder, on the disk to be measured, for the data of the started node [default: the
    /// system's temporary one].
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Also put the figures as Markdown into this file: between its marks, or as a new file.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Measure QoS 1 into this Kafka with acks=all, with and without the store, and into the
    /// embedded log beside it; 256 B payloads. The topics stay there.
    #[arg(long, value_name = "BOOTSTRAP", conflicts_with_all = ["addr", "pid"])]
    kafka: Option<String>,
    /// End with one line of JSON instead of the table.
    #[arg(long)]
    json: bool,
}

/// Measures; the exit code.
pub(super) fn run(arguments: &Pipeline) -> u8 {
    let options = Options {
        address: arguments.addr,
        admin: arguments.admin,
        pid: arguments.pid,
        connections: arguments.connections,
        window: arguments.window,
        duration: arguments.duration,
        head_age_max: arguments.head_age_max,
        folder: arguments.folder.clone(),
        markdown: arguments.markdown.clone(),
        kafka: arguments.kafka.clone(),
        json: arguments.json,
        program: None,
    };
    if options.kafka.is_some() {
        return match pipeline::run_kafka(&options, &mut std::io::stdout()) {
            Ok(report) => report.exit_code(),
            Err(error) => fail(error.exit_code(), &error),
        };
    }
    match pipeline::run(&options, &mut std::io::stdout()) {
        Ok(report) => report.exit_code(),
        Err(error) => fail(error.exit_code(), &error),
    }
}
