//! `tidewire bench`: one module for each word.

mod cluster;
mod compare;
mod cost;
mod density;
mod load;
mod pipeline;
mod sessions;
mod storm;
mod surge;

use clap::Subcommand;

use crate::not_built;

/// What is measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Connects a second, then memory of idle connections.
    Conn(load::Conn),
    /// Many publishers, with no subscriber or one to everything.
    Ingest(load::Ingest),
    /// One publisher, many subscribers.
    Fanout(load::Fanout),
    /// Pairs of one publisher and one subscriber.
    P2p(load::P2p),
    /// Messages for sessions that are away, then the sessions come for them.
    Offline(load::Offline),
    /// All clients of three nodes are cut off and reconnect, with jitter and without it.
    Storm(storm::Storm),
    /// Tidewire beside mosquitto and others, in turn, on pinned cores; a report and charts.
    Compare(compare::Compare),
    /// Serve as a bare server that answers and passes on: the floor.
    Sink(load::SinkArguments),
    /// A part of the load generator; reads commands from standard input.
    #[command(hide = true)]
    Worker,
    /// Bytes and time per stored point, beside Gorilla and zstd.
    Density(density::Density),
    /// The telemetry line: JSON at QoS 1, fsynced log, store; the node on one core.
    Pipeline(pipeline::Pipeline),
    /// More into Kafka than the store is allowed to take: lag, memory, nobody disconnected.
    Surge(surge::Surge),
    /// Durable sessions: queues, connects, fsyncs and bytes, restart, memory; the node on one core.
    Sessions(sessions::Sessions),
    /// Three nodes on one machine: durable pairs, connects, what crosses nodes, bytes, idle cost.
    Cluster(cluster::Cluster),
    /// What a message costs on one node, three and five, at the same load for each node.
    Cost(cost::Cost),
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// Measures; the exit code.
pub(crate) fn run(bench: &Bench) -> u8 {
    match bench {
        Bench::Conn(conn) => load::conn(conn),
        Bench::Ingest(ingest) => load::ingest(ingest),
        Bench::Fanout(fanout) => load::fanout(fanout),
        Bench::P2p(p2p) => load::p2p(p2p),
        Bench::Offline(offline) => load::offline(offline),
        Bench::Storm(storm) => storm::run(storm),
        Bench::Compare(compare) => compare::run(compare),
        Bench::Sink(sink) => load::sink(sink),
        Bench::Worker => load::worker(),
        Bench::Density(density) => density::run(density),
        Bench::Pipeline(pipeline) => pipeline::run(pipeline),
        Bench::Surge(surge) => surge::run(surge),
        Bench::Sessions(sessions) => sessions::run(sessions),
        Bench::Cluster(cluster) => cluster::run(cluster),
        Bench::Cost(cost) => cost::run(cost),
        Bench::Other(words) => not_built::refuse("bench", words),
    }
}
