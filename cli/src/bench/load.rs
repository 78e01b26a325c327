//! `tidewire bench conn`, `ingest`, `fanout`, `p2p`, `offline`, `sink`, and the workers.

use std::io::{BufReader, stdin, stdout};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use benches::load::{self, Case, Load, LoadError, Sink, Version};
use clap::{Args, ValueEnum};

use crate::arguments::duration;
use crate::{exit, fail};

/// What all cases take.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The broker.
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    addr: SocketAddr,
    /// Version of MQTT.
    #[arg(long, value_enum, default_value_t = Mqtt::V311)]
    mqtt: Mqtt,
    /// QoS, 0 or 1.
    #[arg(long, value_name = "QOS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,
    /// Payload bytes; at least 24.
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    payload: usize,
    /// How long publishers publish.
    #[arg(long = "for", value_name = "TIME", default_value = "5s", value_parser = duration)]
    duration: Duration,
    /// Worker processes [default: one for each 18 000 connections].
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// Sessions of subscribers and of idle connections outlive their connections.
    #[arg(long)]
    persistent: bool,
    /// Connect from 127.0.0.1 to 127.0.0.N in turn [default: the system chooses].
    #[arg(long, value_name = "N")]
    sources: Option<u8>,
    /// Process of the broker, to see its memory and CPU time, with its children.
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// End with one line of JSON instead of the table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Mqtt {
    /// 3.1.1.
    #[value(name = "3.1.1", alias = "3")]
    V311,
    /// 5.
    #[value(name = "5")]
    V5,
}

impl Mqtt {
    pub(super) fn version(self) -> Version {
        match self {
            Self::V311 => Version::V311,
            Self::V5 => Version::V5,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Conn {
    #[command(flatten)]
    target: Target,
    /// Connections.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    connections: u32,
    /// Connections that may wait for their CONNACK at a time; a broker that listens with a smaller
    /// backlog loses seconds to the kernel's retries.
    #[arg(long, value_name = "N", default_value_t = 64)]
    in_flight: u32,
    /// Each subscribes to a topic of its own.
    #[arg(long)]
    subscribe: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Ingest {
    #[command(flatten)]
    target: Target,
    /// Publishers.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    publishers: u32,
    /// Messages each may have unacknowledged.
    #[arg(long, value_name = "N", default_value_t = 16)]
    window: u32,
    /// Messages a second of all, due at their times [default: as the window allows].
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// With one subscriber to everything.
    #[arg(long)]
    subscriber: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Fanout {
    #[command(flatten)]
    target: Target,
    /// Subscribers.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    subscribers: u32,
    /// Messages that may be on their way to all of them.
    #[arg(long, value_name = "N", default_value_t = 8)]
    window: u32,
    /// Messages a second, due at their times [default: as the window allows].
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
}

#[derive(Debug, Args)]
pub(crate) struct P2p {
    #[command(flatten)]
    target: Target,
    /// Pairs of one publisher and one subscriber.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pairs: u32,
    /// Messages each pair may have on their way.
    #[arg(long, value_name = "N", default_value_t = 1)]
    window: u32,
    /// Messages a second of all, due at their times [default: as the window allows].
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
}

#[derive(Debug, Args)]
pub(crate) struct Offline {
    #[command(flatten)]
    target: Target,
    /// Sessions that are away, each with a publisher of its own.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    sessions: u32,
    /// Messages for each.
    #[arg(long, value_name = "N", default_value_t = 200)]
    messages: u64,
    /// Messages each publisher may have unacknowledged.
    #[arg(long, value_name = "N", default_value_t = 16)]
    window: u32,
}

#[derive(Debug, Args)]
pub(crate) struct SinkArguments {
    /// Address to listen on.
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    addr: SocketAddr,
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let mut addresses = text.to_socket_addrs().map_err(|error| error.to_string())?;
    addresses.next().ok_or_else(|| "no such host".to_owned())
}

pub(super) fn conn(arguments: &Conn) -> u8 {
    let case = Case::Conn {
        connections: arguments.connections,
        in_flight: arguments.in_flight,
        subscribe: arguments.subscribe,
    };
    run(&arguments.target, &case)
}

pub(super) fn ingest(arguments: &Ingest) -> u8 {
    let case = Case::Ingest {
        publishers: arguments.publishers,
        window: arguments.window,
        rate_per_s: arguments.rate,
        subscriber: arguments.subscriber,
    };
    run(&arguments.target, &case)
}

pub(super) fn fanout(arguments: &Fanout) -> u8 {
    let case = Case::Fanout {
        subscribers: arguments.subscribers,
        window: arguments.window,
        rate_per_s: arguments.rate,
    };
    run(&arguments.target, &case)
}

pub(super) fn p2p(arguments: &P2p) -> u8 {
    let case = Case::P2p {
        pairs: arguments.pairs,
        window: arguments.window,
        rate_per_s: arguments.rate,
    };
    run(&arguments.target, &case)
}

pub(super) fn offline(arguments: &Offline) -> u8 {
    let case = Case::Offline {
        sessions: arguments.sessions,
        messages: arguments.messages,
        window: arguments.window,
    };
    run(&arguments.target, &case)
}

fn run(target: &Target, case: &Case) -> u8 {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return fail(exit::FAILED, &error),
    };
    let load = Load {
        version: target.mqtt.version(),
        qos: target.qos,
        payload_bytes: target.payload,
        duration: target.duration,
        workers: target.workers.unwrap_or(0),
        persistent: target.persistent,
        sources: target.sources.unwrap_or(0),
        pid: target.pid,
        ..Load::new(target.addr, program)
    };
    run_case(&load, case, target.json)
}

/// Runs a case; the exit code.
pub(super) fn run_case(load: &Load, case: &Case, json: bool) -> u8 {
    match load::run(load, case) {
        Ok(outcome) => {
            if json {
                println!("{}", outcome.to_json());
            } else {
                print!("{outcome}");
            }
            if outcome.violations.is_empty() {
                0
            } else {
                exit::FAILED
            }
        }
        Err(error) => fail(
            match error {
                LoadError::Setting(_) => exit::USAGE,
                LoadError::Unreachable(_) => exit::UNREACHABLE,
                LoadError::Worker(_) | LoadError::Process { .. } => exit::FAILED,
            },
            &error,
        ),
    }
}

/// Serves as the floor until the process is stopped.
pub(super) fn sink(arguments: &SinkArguments) -> u8 {
    let served = Sink::bind(arguments.addr).and_then(|sink| {
        eprintln!("the sink listens on {}", sink.address());
        sink.run(&AtomicBool::new(false))
    });
    match served {
        Ok(()) => 0,
        Err(error) => fail(exit::FAILED, &format!("{}: {error}", arguments.addr)),
    }
}

/// Works for a coordinator that is this same program.
pub(super) fn worker() -> u8 {
    match load::work(BufReader::new(stdin()), stdout().lock()) {
        Ok(()) => 0,
        Err(error) => fail(exit::FAILED, &error),
    }
}
