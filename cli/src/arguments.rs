//! The command line, as clap reads it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "tidewire",
    version,
    about = "An MQTT telemetry backend that loses nothing it acknowledged.",
    propagate_version = true
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a simulated fleet against a node of its own, or several, and check what was stored.
    Demo(Demo),
    /// Serve as a node.
    Serve(Serve),
    /// Look at and steer a running node.
    Ctl(Ctl),
    /// Read a device's telemetry.
    Query(Query),
    /// Measure.
    #[command(subcommand)]
    Bench(crate::bench::Bench),
    /// Print what a shell needs to complete this command line.
    Completion {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Break a cluster of its own on purpose, and check what it kept of its promises.
    Chaos(crate::chaos::Chaos),
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Configuration file (TOML); flags override it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Node number [default: the one in the data folder, else 1].
    #[arg(long, value_name = "N")]
    pub(crate) node: Option<u32>,
    /// Data folder [default: tidewire-data].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Address for MQTT clients [default: 127.0.0.1:1883].
    #[arg(long, value_name = "ADDR")]
    pub(crate) mqtt: Option<SocketAddr>,
    /// Address of the admin API [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR")]
    pub(crate) admin: Option<SocketAddr>,
    /// Address for other nodes [default: 127.0.0.1:7000].
    #[arg(long, value_name = "ADDR")]
    pub(crate) cluster: Option<SocketAddr>,
    /// A member of the cluster to join, if the data folder is new.
    #[arg(long, value_name = "ADDR")]
    pub(crate) join: Vec<String>,
    /// Session shards, 1 to 128, fixed when the data folder is created [default: 32].
    #[arg(long, value_name = "N")]
    pub(crate) shards: Option<u16>,
    /// Kafka to pass telemetry to: HOST:PORT, or several separated by commas [default: the embedded
    /// log].
    #[arg(long, value_name = "BOOTSTRAP")]
    pub(crate) kafka: Option<String>,
    /// Serve as a plain broker: no topic is telemetry.
    #[arg(long)]
    pub(crate) no_telemetry: bool,
    /// Serve listeners beyond loopback although nobody is authenticated.
    #[arg(long)]
    pub(crate) allow_anonymous: bool,
    /// Print the effective configuration and end.
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Nodes to start, 1 to 5; several are one cluster.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) nodes: u32,
    /// Simulated devices.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(crate) devices: u32,
    /// Time between two messages of a device.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub(crate) interval: Duration,
    /// How long the fleet publishes.
    #[arg(long = "for", value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// Folder for the nodes' data and the ledger, absent or empty [default: a temporary one].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Seed of the fleet [default: drawn, and printed].
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Address of the first node for MQTT clients [default: a free port].
    #[arg(long, value_name = "ADDR")]
    pub(crate) mqtt: Option<SocketAddr>,
    /// Address of the first node's admin API [default: a free port].
    #[arg(long, value_name = "ADDR")]
    pub(crate) admin: Option<SocketAddr>,
    /// Kafka to go through: HOST:PORT, or several separated by commas [default: the embedded log].
    #[arg(long, value_name = "BOOTSTRAP")]
    pub(crate) kafka: Option<String>,
    /// Kill the node, of several the one that leads meta, with SIGKILL in the middle and start it
    /// again after 5 s.
    #[arg(long)]
    pub(crate) kill: bool,
    /// Serve on after the check, until Ctrl-C.
    #[arg(long)]
    pub(crate) keep: bool,
    /// End with one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Check the folder of an ended demo instead of running one.
    #[arg(long, value_name = "DIR")]
    pub(crate) check: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Query {
    /// Device id.
    pub(crate) device: String,
    /// Metrics wanted [default: all].
    #[arg(long, value_name = "M")]
    pub(crate) metric: Vec<String>,
    /// From when: RFC 3339, milliseconds since 1970, or -15m [default: an hour ago].
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    pub(crate) from: Option<String>,
    /// Until when [default: now].
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    pub(crate) to: Option<String>,
    /// Summarise in steps of this length, such as 1m.
    #[arg(long, value_name = "TIME")]
    pub(crate) step: Option<String>,
    /// Most rows wanted [default: 10000].
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Read the data folder of a stopped node, whatever --admin says.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// Which node to ask.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Admin API of the node.
    #[arg(
        long,
        value_name = "URL",
        env = "TIDEWIRE_ADMIN",
        default_value = "http://127.0.0.1:8080"
    )]
    pub(crate) admin: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// One JSON object.
    Json,
    /// Comma-separated, one line a row.
    Csv,
}

#[derive(Debug, Args)]
pub(crate) struct Ctl {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Form of the answer: table or json.
    #[arg(long, value_enum, default_value_t = CtlOutput::Table, global = true)]
    pub(crate) output: CtlOutput,
    /// Ask again and again, every so many seconds, until interrupted; for verbs that only look.
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=3_600),
        global = true
    )]
    pub(crate) watch: Option<u64>,
    #[command(subcommand)]
    pub(crate) noun: Noun,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CtlOutput {
    /// For people.
    Table,
    /// One JSON object.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Noun {
    /// The way of telemetry to Kafka, or into the embedded log.
    Bridge {
        #[command(subcommand)]
        verb: crate::ctl::bridge::Verb,
    },
    /// The hot store and the line that fills it.
    Tsdb {
        #[command(subcommand)]
        verb: crate::ctl::tsdb::Verb,
    },
    /// The node.
    Node {
        #[command(subcommand)]
        verb: crate::ctl::node::Verb,
    },
    /// The cluster and its members.
    Cluster {
        #[command(subcommand)]
        verb: crate::ctl::cluster::Verb,
    },
    /// The session shards, and the groups of meta and of the routes.
    Shard {
        #[command(subcommand)]
        verb: crate::ctl::shard::Verb,
    },
    /// Clients that are connected.
    Client {
        #[command(subcommand)]
        verb: crate::ctl::session::ClientVerb,
    },
    /// Sessions of clients, connected or away.
    Session {
        #[command(subcommand)]
        verb: crate::ctl::session::SessionVerb,
    },
    /// Subscriptions.
    Sub {
        #[command(subcommand)]
        verb: crate::ctl::sub::Verb,
    },
    /// Retained messages.
    Retained {
        #[command(subcommand)]
        verb: crate::ctl::retained::Verb,
    },
    /// A checklist of cluster and machines, with what to do about each finding; 3 if there is one.
    Doctor,
    /// Packets of a client or messages of topics, as they pass; it ends by itself.
    Trace {
        #[command(subcommand)]
        verb: crate::ctl::trace::Verb,
    },
    /// Load balancers before the cluster.
    Lb {
        #[command(subcommand)]
        verb: crate::ctl::lb::Verb,
    },
    #[command(external_subcommand)]
    Other(Vec<String>),
}

pub(crate) fn duration(text: &str) -> Result<Duration, admin::time::DurationError> {
    admin::time::parse_duration_ms(text).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_flag_of_serve_is_taken_from_the_first_day() {
        let line = "tidewire serve --config f --node 1 --data d --mqtt 127.0.0.1:1 \
                    --admin 127.0.0.1:2 --cluster 127.0.0.1:3 --join a --join b --shards 8 \
                    --kafka k --no-telemetry --allow-anonymous --check";
        Arguments::try_parse_from(line.split_whitespace()).expect("all flags exist");
    }
}
