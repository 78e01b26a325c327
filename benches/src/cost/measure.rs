//! The lines: what each starts, sends and reads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::report::Cost;
use super::{CostError, Options};
use crate::demo::Folder;
use crate::demo::node::{Launch, Plan};
use crate::demo::nodes::Nodes;
use crate::load::{self, Case, Load, Other};
use crate::pipeline::generator::{self, Sent};
use crate::pipeline::{pause, start_ms};

/// Telemetry into the nodes' embedded logs.
pub(super) const LOG: &str = "telemetry, embedded log";
/// Telemetry through Kafka.
pub(super) const KAFKA: &str = "telemetry, Kafka";
/// Messages of durable pairs.
pub(super) const PAIRS: &str = "durable pairs";

type Measure = fn(&Options, u32) -> Result<Cost, CostError>;

/// All lines, and how each is measured on so many nodes.
pub(super) const LINES: [(&str, Measure); 3] = [
    (LOG, |options, nodes| telemetry(options, nodes, None)),
    (KAFKA, |options, nodes| {
        telemetry(options, nodes, options.kafka.clone())
    }),
    (PAIRS, pairs),
];

/// One io thread a node, since the nodes share the cores.
const CONFIG: &str = "io_threads = 1\n";
/// A short run has seals and merges.
const TELEMETRY: &str = "[telemetry]\nhead_age_max = \"4s\"\n";
/// Messages that a pair may have unacknowledged.
const PAIR_WINDOW: u32 = 16;
/// Messages that a device may have unacknowledged.
const DEVICE_WINDOW: u16 = 16;
/// How long the stores may take for what was sent.
const STORE_DEADLINE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(200);
/// Times of the rows that are measured begin so long after those of the first messages.
const AFTER_FIRST_MS: i64 = 48 * 3_600_000;

/// Nodes that run, and the folder that goes with them.
struct Cluster {
    runtime: Runtime,
    nodes: Option<Nodes>,
    pids: Vec<u32>,
    mqtt: Vec<SocketAddr>,
    _folder: TempDir,
}

impl Cluster {
    fn start(
        options: &Options,
        nodes: u32,
        config: String,
        kafka: Option<&crate::demo::Kafka>,
    ) -> Result<Self, CostError> {
        let temporary = match &options.folder {
            Some(folder) => tempfile::tempdir_in(folder),
            None => tempfile::tempdir(),
        };
        let temporary = temporary.map_err(|error| CostError::Machine("a folder", error))?;
        let folder = Folder::create(temporary.path())?;
        let launches = Launch::prepare(&Plan {
            program: Some(&options.program),
            folder: &folder,
            nodes,
            config,
            kafka,
            mqtt: None,
            admin: None,
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| CostError::Machine("the async runtime", error))?;
        let nodes = runtime.block_on(Nodes::found(launches))?;
        Ok(Self {
            pids: nodes.running().filter_map(|node| node.pid()).collect(),
            mqtt: nodes.mqtt(),
            runtime,
            nodes: Some(nodes),
            _folder: temporary,
        })
    }

    fn cpu_s(&self) -> Result<Vec<f64>, CostError> {
        let used = self.pids.iter().map(|pid| Ok(load::usage(*pid)?.cpu_s));
        used.collect()
    }

    /// Waits until every store has read all there is and sealed every row.
    fn await_sealed(&self) -> Result<(), CostError> {
        let Some(nodes) = &self.nodes else {
            return Ok(());
        };
        let deadline = Instant::now() + STORE_DEADLINE;
        let mut stored_before = None;
        loop {
            let mut is_sealed = true;
            let mut stored = 0;
            for node in nodes.running() {
                let status = self.runtime.block_on(node.ask(|client| client.tsdb()))?;
                let line = &status.pipeline;
                is_sealed &= line.lag.is_empty() && line.inflight_bytes == 0;
                is_sealed &= status.store.head_rows == 0;
                stored += line.stored_points;
            }
            // A row on its way from one node to another shows at neither. So the second look.
            if is_sealed && stored_before == Some(stored) {
                return Ok(());
            }
            stored_before = is_sealed.then_some(stored);
            if Instant::now() >= deadline {
                return Err(CostError::Wrong(format!(
                    "the stores have not everything {STORE_DEADLINE:?} after the last message"
                )));
            }
            pause(LOOK);
        }
    }

    fn stop(mut self) -> Result<(), CostError> {
        match self.nodes.take() {
            Some(nodes) => Ok(self.runtime.block_on(nodes.stop())?),
            None => Ok(()),
        }
    }
}

/// Rows of devices, each at a node of its own.
fn telemetry(options: &Options, nodes: u32, kafka: Option<String>) -> Result<Cost, CostError> {
    let line = match kafka {
        None => LOG,
        Some(_) => KAFKA,
    };
    let number: u64 = SmallRng::from_os_rng().random();
    let topic = format!("tidewire.bench-{number:016x}");
    let mut config = format!("{CONFIG}{TELEMETRY}");
    if kafka.is_some() {
        config += &format!("[[telemetry.streams]]\ntopic = \"{topic}\"\n");
    }
    let kafka = kafka.map(|bootstrap| crate::demo::Kafka { bootstrap, topic });
    let cluster = Cluster::start(options, nodes, config, kafka.as_ref())?;
    let load = |at: usize, start_ms, rate_per_s, duration| generator::Load {
        connections: options.devices,
        first: at as u32 * options.devices,
        window: DEVICE_WINDOW,
        duration,
        start_ms,
        rate_per_s: Some(rate_per_s),
        ..generator::Load::new(cluster.mqtt[at])
    };
    let second = Duration::from_secs(1);
    // One of each device: the buckets find their owners, and Kafka its topic.
    let each = f64::from(options.devices);
    send(&cluster, |at| load(at, start_ms(), each, second))?;
    cluster.await_sealed()?;
    let after = start_ms() + AFTER_FIRST_MS;
    let before = cluster.cpu_s()?;
    let began = Instant::now();
    let sent = send(&cluster, |at| {
        load(at, after, options.device_rate_per_s, options.duration)
    })?;
    let seconds = began.elapsed().as_secs_f64();
    cluster.await_sealed()?;
    let after = cluster.cpu_s()?;
    cluster.stop()?;
    Ok(Cost {
        line,
        nodes,
        messages: sent.iter().map(|one| one.messages).sum(),
        seconds,
        nodes_cpu_s: after.iter().zip(&before).map(|(a, b)| a - b).collect(),
        cores_share: None,
    })
}

/// Sends to every node at once, a thread each.
fn send(
    cluster: &Cluster,
    load: impl Fn(usize) -> generator::Load,
) -> Result<Vec<Sent>, CostError> {
    std::thread::scope(|scope| {
        let sending = (0..cluster.mqtt.len()).map(|at| {
            let load = load(at);
            scope.spawn(move || generator::run(load, &Arc::default(), || Ok(())))
        });
        let sending: Vec<_> = sending.collect();
        let sent = sending.into_iter().map(|one| {
            let sent = one
                .join()
                .map_err(|_| CostError::Wrong("a sending thread panicked".to_owned()))??;
            sent.require_connected()?;
            Ok(sent)
        });
        sent.collect()
    })
}

/// Pairs with durable sessions: each message goes through a shard's log.
fn pairs(options: &Options, nodes: u32) -> Result<Cost, CostError> {
    let config = format!("{CONFIG}no_telemetry = true\n");
    let cluster = Cluster::start(options, nodes, config, None)?;
    let others = cluster.mqtt.iter().zip(&cluster.pids).skip(1);
    let others = others.map(|(address, pid)| Other {
        address: *address,
        pid: *pid,
    });
    let load = Load {
        pid: cluster.pids.first().copied(),
        others: others.collect(),
        persistent: true,
        duration: options.duration,
        ..Load::new(cluster.mqtt[0], options.program.clone())
    };
    let case = Case::P2p {
        pairs: options.pairs * nodes,
        window: PAIR_WINDOW,
        rate_per_s: Some(options.pair_rate_per_s * f64::from(nodes)),
    };
    let outcome = load::run(&load, &case)?;
    if !outcome.violations.is_empty() {
        return Err(CostError::Wrong(outcome.violations.join("; ")));
    }
    let figure = |name: &str| {
        let missing = || CostError::Wrong(format!("the load does not say its {name}"));
        outcome.figure(name).ok_or_else(missing)
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let messages = figure("acked")?;
    let share = |spent: &load::Spent| {
        let used = spent.nodes_s.iter().sum::<f64>() + spent.generator_s;
        used / spent.seconds.max(f64::EPSILON) / cores as f64
    };
    let cost = Cost {
        line: PAIRS,
        nodes,
        messages: messages as u64,
        seconds: figure("seconds")?,
        // Of a lone node the load says only what a message cost.
        nodes_cpu_s: match &outcome.spent {
            Some(spent) => spent.nodes_s.clone(),
            None => vec![figure("cpu_s_per_million")? * messages / 1e6],
        },
        cores_share: outcome.spent.as_ref().map(share),
    };
    cluster.stop()?;
    Ok(cost)
}
