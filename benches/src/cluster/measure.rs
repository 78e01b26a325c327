//! The cases: what each starts, loads and reads.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::report::Figure;
use super::{ClusterError, Options};
use crate::cpu;
use crate::demo::Folder;
use crate::demo::node::{Launch, Plan};
use crate::demo::nodes::Nodes;
use crate::load::{self, Case, Load, Other, Outcome, Spent};
use crate::sessions::probe::pause;

/// What a client may occupy is raised as in `bench sessions`; one io thread a node, since the nodes
/// share the cores.
pub(super) const CONFIG: &str = "io_threads = 1\nno_telemetry = true\n\n[mqtt]\n\
    receive_maximum = 65535\nqueue_messages_limit = 1000000\nqueue_bytes_limit = 1073741824\n";

/// [`CONFIG`] on one line.
pub(super) fn settings() -> String {
    let lines = CONFIG.lines().filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("; ")
}

/// Sessions that are opened together.
pub(super) const SESSIONS_AT_ONCE: u32 = 2_500;
/// Connections that wait for their CONNACK at a time.
const IN_FLIGHT: u32 = 64;
/// Until the groups sleep, and then some.
const SLEEP_AFTER: Duration = Duration::from_secs(15);
/// How long sleeping nodes are watched.
const IDLE_WATCH: Duration = Duration::from_secs(10);
/// Appends of 4 KiB of which the middle one says how long this disk takes.
const FSYNCS: usize = 100;

type Measured = Result<(), ClusterError>;
type Measure = fn(&Run<'_>, &mut Vec<Figure>) -> Measured;

/// Word, and how it is measured.
pub(super) const CASES: [(&str, Measure); 5] = [
    ("p2p", p2p),
    ("connects", connects),
    ("crossing", crossing),
    ("bytes", bytes),
    ("idle", idle),
];

pub(super) struct Run<'a> {
    options: &'a Options,
    runtime: Runtime,
    cores: usize,
}

/// Nodes that run, and the folder that goes with them.
struct Cluster<'a> {
    run: &'a Run<'a>,
    nodes: Option<Nodes>,
    pids: Vec<u32>,
    mqtt: Vec<SocketAddr>,
    _folder: TempDir,
}

impl<'a> Run<'a> {
    pub(super) fn new(options: &'a Options) -> Result<Self, ClusterError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| probe("the async runtime", &error))?;
        Ok(Self {
            options,
            runtime,
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        })
    }

    fn folder(&self) -> Result<TempDir, ClusterError> {
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("tidewire-bench-");
        let made = match &self.options.folder {
            Some(folder) => builder.tempdir_in(folder),
            None => builder.tempdir(),
        };
        made.map_err(|error| probe("a temporary folder", &error))
    }

    /// The middle time of an append of 4 KiB with fdatasync in the folder of the nodes, in µs.
    pub(super) fn fsync_us(&self) -> Result<f64, ClusterError> {
        let folder = self.folder()?;
        let failed = |error: std::io::Error| probe("the disk", &error);
        let mut file = File::create(folder.path().join("probe")).map_err(failed)?;
        let mut times = Vec::new();
        for _ in 0..FSYNCS {
            let start = Instant::now();
            file.write_all(&[0xA5; 4 << 10]).map_err(failed)?;
            file.sync_data().map_err(failed)?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        Ok(times[FSYNCS / 2].as_secs_f64() * 1e6)
    }

    /// Starts a cluster on empty folders.
    fn start(&self) -> Result<Cluster<'_>, ClusterError> {
        let temporary = self.folder()?;
        let folder = Folder::create(temporary.path())?;
        let launches = Launch::prepare(&Plan {
            program: Some(&self.options.program),
            folder: &folder,
            nodes: self.options.nodes,
            config: CONFIG.to_owned(),
            kafka: None,
            mqtt: None,
            admin: None,
        })?;
        let nodes = self.runtime.block_on(Nodes::found(launches))?;
        let pids = nodes.running().filter_map(|node| node.pid()).collect();
        Ok(Cluster {
            run: self,
            pids,
            mqtt: nodes.mqtt(),
            nodes: Some(nodes),
            _folder: temporary,
        })
    }
}

fn probe(what: &str, error: &std::io::Error) -> ClusterError {
    ClusterError::Probe(what.to_owned(), error.to_string())
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        if let Some(nodes) = self.nodes.take()
            && let Err(error) = self.run.runtime.block_on(nodes.stop())
        {
            tracing::warn!(%error, "the nodes did not stop well");
        }
    }
}

impl Cluster<'_> {
    fn load(&self) -> Load {
        let others = self.mqtt.iter().zip(&self.pids).skip(1);
        let others = others.map(|(address, pid)| Other {
            address: *address,
            pid: *pid,
        });
        Load {
            pid: self.pids.first().copied(),
            others: others.collect(),
            persistent: true,
            duration: self.run.options.duration,
            // More connections than one source address has ports.
            sources: 8,
            ..Load::new(self.mqtt[0], self.run.options.program.clone())
        }
    }

    fn rss_bytes(&self) -> Result<Vec<f64>, ClusterError> {
        let pids = self.pids.iter();
        pids.map(|pid| Ok(load::usage(*pid)?.rss_bytes as f64))
            .collect()
    }

    /// CPU seconds and bytes written of each node, so far.
    fn used(&self) -> Result<Vec<(f64, u64)>, ClusterError> {
        let used = self.pids.iter().map(|pid| {
            let written = cpu::written_bytes(*pid).map_err(|error| probe("/proc", &error))?;
            Ok((load::usage(*pid)?.cpu_s, written))
        });
        used.collect()
    }
}

/// Takes what went wrong for an error, and the figures of the outcome.
fn checked(load: &Load, case: &Case) -> Result<Outcome, ClusterError> {
    let outcome = load::run(load, case)?;
    match outcome.violations.is_empty() {
        true => Ok(outcome),
        false => Err(ClusterError::Probe(
            outcome.case.to_owned(),
            outcome.violations.join("; "),
        )),
    }
}

/// The figures of one outcome, each with what bounded it.
fn take(
    run: &Run<'_>,
    outcome: &Outcome,
    case: &'static str,
    what: &str,
    figures: &[(&str, &str)],
    out: &mut Vec<Figure>,
) {
    let limit = outcome.spent.as_ref().map(|spent| limit(spent, run.cores));
    for (text, name) in figures {
        let figure = Figure::new(case, &format!("{what}: {text}"), outcome.figure(name));
        out.push(figure.limited_by(limit.clone().unwrap_or_default()));
    }
}

/// What bounded a run: the cores if they had no rest, else what everybody waited for.
fn limit(spent: &Spent, cores: usize) -> String {
    let seconds = spent.seconds.max(f64::EPSILON);
    let nodes: Vec<String> = spent
        .nodes_s
        .iter()
        .map(|cpu_s| format!("{:.2}", cpu_s / seconds))
        .collect();
    let used = spent.nodes_s.iter().sum::<f64>() + spent.generator_s;
    let share = used / seconds / cores as f64;
    let what = match share >= 0.9 {
        true => "the cores",
        false => "waiting (disk, links, schedule)",
    };
    format!(
        "{what}: {:.0} % of {cores} cores; nodes {}, generator {:.2}",
        share * 100.0,
        nodes.join(" + "),
        spent.generator_s / seconds
    )
}

/// Pairs with durable sessions: each message goes through a shard's log on three nodes.
fn p2p(run: &Run<'_>, out: &mut Vec<Figure>) -> Measured {
    let pairs = run.options.pairs;
    for (rate_per_s, window) in [(None, 1), (None, 4), (Some(run.options.rate_per_s), 16)] {
        let cluster = run.start()?;
        let case = Case::P2p {
            pairs,
            window,
            rate_per_s,
        };
        let outcome = checked(&cluster.load(), &case)?;
        let what = match rate_per_s {
            Some(rate) => format!("{pairs} durable pairs, QoS 1, at {rate}/s"),
            None => format!("{pairs} durable pairs, QoS 1, {window} in flight each"),
        };
        let first = out.len();
        take(
            run,
            &outcome,
            "p2p",
            &what,
            &[
                ("messages per second", "messages_per_s"),
                ("CPU seconds of all nodes per million", "cpu_s_per_million"),
                ("delivery p50, us", "delivery_p50_us"),
                ("delivery p99, us", "delivery_p99_us"),
                ("PUBACK p50, us", "ack_p50_us"),
                ("PUBACK p99, us", "ack_p99_us"),
            ],
            out,
        );
        if rate_per_s.is_none() {
            out[first].expect(5_000.0, 10_000.0);
        }
    }
    Ok(())
}

/// Connects whose sessions stay: one entry on a majority each.
fn connects(run: &Run<'_>, out: &mut Vec<Figure>) -> Measured {
    let cluster = run.start()?;
    let case = Case::Conn {
        connections: run.options.connections,
        in_flight: IN_FLIGHT,
        subscribe: false,
    };
    let outcome = checked(&cluster.load(), &case)?;
    take(
        run,
        &outcome,
        "connects",
        "durable sessions, 64 at a time",
        &[
            ("connects per second", "connects_per_s"),
            ("CPU us of all nodes per connect", "cpu_us_per_connect"),
            (
                "CONNACK p50 since all wanted to connect, us",
                "connect_p50_us",
            ),
            (
                "CONNACK p99 since all wanted to connect, us",
                "connect_p99_us",
            ),
        ],
        out,
    );
    Ok(())
}

/// Pairs with clean sessions: each message crosses from one node to another and goes through no log.
fn crossing(run: &Run<'_>, out: &mut Vec<Figure>) -> Measured {
    let pairs = run.options.pairs;
    for qos in [0, 1] {
        let cluster = run.start()?;
        let load = Load {
            qos,
            persistent: false,
            ..cluster.load()
        };
        let case = Case::P2p {
            pairs,
            window: 4,
            rate_per_s: None,
        };
        let outcome = checked(&load, &case)?;
        take(
            run,
            &outcome,
            "crossing",
            &format!("{pairs} clean pairs, QoS {qos}, 4 in flight each"),
            &[
                ("messages per second", "messages_per_s"),
                ("CPU seconds of all nodes per million", "cpu_s_per_million"),
                ("delivery p50, us", "delivery_p50_us"),
                ("delivery p99, us", "delivery_p99_us"),
            ],
            out,
        );
    }
    Ok(())
}

/// What sessions that are away occupy on every node, without and with a subscription of their own,
/// each of which is a route.
fn bytes(run: &Run<'_>, out: &mut Vec<Figure>) -> Measured {
    let mut without = Vec::new();
    for subscribe in [false, true] {
        let cluster = run.start()?;
        let load = cluster.load();
        let mut opened = 0;
        let mut at_first = Vec::new();
        while opened < run.options.sessions {
            let connections = SESSIONS_AT_ONCE.min(run.options.sessions - opened);
            let case = Case::Conn {
                connections,
                in_flight: IN_FLIGHT,
                subscribe,
            };
            checked(&load, &case)?;
            opened += connections;
            // The first batch pays for the connections and the batches' paths too.
            if at_first.is_empty() {
                at_first = cluster.rss_bytes()?;
            }
        }
        let counted = f64::from(opened - SESSIONS_AT_ONCE);
        let now = cluster.rss_bytes()?;
        let grown = now.iter().zip(&at_first).map(|(now, first)| now - first);
        let each: Vec<f64> = grown.map(|bytes| bytes / counted).collect();
        let with = if subscribe { "with" } else { "without" };
        let per_node = |values: &[f64]| {
            let values: Vec<String> = values.iter().map(|one| format!("{one:.0}")).collect();
            format!("by node {}", values.join(", "))
        };
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let figure = format!(
            "{opened} sessions away, {with} a subscription: resident bytes per session and node"
        );
        out.push(Figure::new("bytes", &figure, Some(mean(&each))).limited_by(per_node(&each)));
        let figure =
            format!("{opened} sessions away, {with} a subscription: resident bytes of a node");
        out.push(Figure::new("bytes", &figure, Some(mean(&now))).limited_by(per_node(&now)));
        if subscribe {
            let routes: Vec<f64> = each
                .iter()
                .zip(&without)
                .map(|(with, no)| with - no)
                .collect();
            let figure = "a subscription with its route: resident bytes per node, by difference";
            out.push(
                Figure::new("bytes", figure, Some(mean(&routes))).limited_by(per_node(&routes)),
            );
        }
        without = each;
    }
    Ok(())
}

/// What nodes cost that nobody uses.
fn idle(run: &Run<'_>, out: &mut Vec<Figure>) -> Measured {
    let started = Instant::now();
    let cluster = run.start()?;
    let whole_s = started.elapsed().as_secs_f64();
    pause(SLEEP_AFTER);
    let before = cluster.used()?;
    let watched = Instant::now();
    pause(IDLE_WATCH);
    let after = cluster.used()?;
    let seconds = watched.elapsed().as_secs_f64();
    let nodes = before.len().max(1) as f64;
    let mut push = |figure: &str, each: Vec<f64>, value: f64| {
        let each: Vec<String> = each.iter().map(|one| format!("{one:.0}")).collect();
        let figure = Figure::new("idle", figure, Some(value));
        let by_node = match each.is_empty() {
            true => String::new(),
            false => format!("by node {}", each.join(", ")),
        };
        out.push(figure.limited_by(by_node));
    };
    let pairs = || before.iter().zip(&after);
    let cpu: Vec<f64> = pairs()
        .map(|(before, after)| (after.0 - before.0) * 1e3 / seconds)
        .collect();
    let written: Vec<f64> = pairs()
        .map(|(before, after)| after.1.saturating_sub(before.1) as f64 / seconds)
        .collect();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / nodes;
    let (cpu_ms, written_per_s) = (mean(&cpu), mean(&written));
    push("CPU ms per second and node", cpu, cpu_ms);
    push(
        "bytes written to the disk per second and node",
        written,
        written_per_s,
    );
    let rss = cluster.rss_bytes()?;
    let rss_mean = mean(&rss);
    push("resident bytes of a node", rss, rss_mean);
    push(
        "seconds from the first process until all are one cluster",
        Vec::new(),
        whole_s,
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(node_s: f64, generator_s: f64) -> Spent {
        Spent {
            seconds: 10.0,
            nodes_s: vec![node_s; 3],
            generator_s,
        }
    }

    #[test]
    fn the_cores_are_the_limit_only_when_they_have_no_rest() {
        assert_eq!(
            limit(&spent(4.0, 7.0), 2),
            "the cores: 95 % of 2 cores; nodes 0.40 + 0.40 + 0.40, generator 0.70"
        );
        assert!(limit(&spent(3.0, 3.0), 2).starts_with("waiting"));
    }
}
