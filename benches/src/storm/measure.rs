//! One variant of the storm, on a cluster of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;

use super::report::{Back, Beside, Variant};
use super::usage::{Moment, watched};
use super::{Options, StormError};
use crate::demo::Folder;
use crate::demo::node::{Launch, Plan};
use crate::demo::nodes::Nodes;
use crate::fleet::Backoff;
use crate::load::{CONNECTIONS_PER_WORKER, Load, Other, Rule, Storm, Version};
use crate::sessions::probe::Metrics;

/// Configuration of each node: one thread, since the nodes share the cores; else the defaults.
pub(super) const CONFIG: &str = "io_threads = 1\nno_telemetry = true\n";

/// Open files beside those of the clients, of this process, of a worker, and of a node.
const DESCRIPTORS_BESIDE: u64 = 1_024;

/// Refusals that a node counts, by reason.
const REFUSED: &str = "tidewire_broker_connects_refused_total";

fn probe(what: &str, error: impl std::fmt::Display) -> StormError {
    StormError::Probe(what.to_owned(), error.to_string())
}

/// Open files that the process needs which needs most of them: a worker has a client once, a node its
/// part of them twice, since the end of the old connection is not seen at once.
fn descriptors(options: &Options) -> u64 {
    let nodes = options.nodes - u32::from(options.kill);
    let of_node = 2 * options.clients.div_ceil(nodes);
    let of_worker = options.clients.min(CONNECTIONS_PER_WORKER);
    u64::from(of_node.max(of_worker) + 2 * options.pairs) + DESCRIPTORS_BESIDE
}

/// Raises the limit of open files if it is too low, for this process, the nodes and the workers.
pub(super) fn require_descriptors(options: &Options) -> Result<(), StormError> {
    let needed = descriptors(options);
    let limit = getrlimit(Resource::Nofile);
    // An absent limit is none at all.
    let Some(current) = limit.current.filter(|current| *current < needed) else {
        return Ok(());
    };
    let raised = Rlimit {
        current: Some(needed),
        maximum: limit.maximum,
    };
    let clients = options.clients;
    setrlimit(Resource::Nofile, raised).map_err(|error| {
        StormError::Setting(format!(
            "--clients {clients}: needs {needed} open files, the limit (ulimit -n) is {current} and cannot be raised: {error}; use fewer clients"
        ))
    })
}

/// The nodes of a variant; dropped, they are killed.
struct Cluster {
    runtime: Runtime,
    nodes: Nodes,
    pids: Vec<u32>,
    _folder: tempfile::TempDir,
}

impl Cluster {
    fn start(options: &Options) -> Result<Self, StormError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| probe("the async runtime", error))?;
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("tidewire-bench-");
        let made = match &options.folder {
            Some(folder) => builder.tempdir_in(folder),
            None => builder.tempdir(),
        };
        let temporary = made.map_err(|error| probe("a temporary folder", error))?;
        let folder = Folder::create(temporary.path())?;
        let launches = Launch::prepare(&Plan {
            program: Some(&options.program),
            folder: &folder,
            nodes: options.nodes,
            config: CONFIG.to_owned(),
            kafka: None,
            mqtt: None,
            admin: None,
        })?;
        let nodes = runtime.block_on(Nodes::found(launches))?;
        let pids = nodes.running().filter_map(|node| node.pid()).collect();
        Ok(Self {
            runtime,
            nodes,
            pids,
            _folder: temporary,
        })
    }

    /// The load of the clients, and that of the pairs, which are at no node that is to die.
    fn loads(&self, options: &Options) -> (Load, Load) {
        let mqtt = self.nodes.mqtt();
        let at = |count: usize| {
            let others = mqtt.iter().zip(&self.pids).take(count).skip(1);
            Load {
                others: others
                    .map(|(address, pid)| Other {
                        address: *address,
                        pid: *pid,
                    })
                    .collect(),
                persistent: true,
                version: Version::V5,
                // More connections than one source address has ports.
                sources: 8,
                ..Load::new(mqtt[0], options.program.clone())
            }
        };
        (at(mqtt.len()), at(mqtt.len() - usize::from(options.kill)))
    }

    /// What the nodes that run have refused, by reason.
    fn refused(&self) -> Result<BTreeMap<String, u64>, StormError> {
        let admins: Vec<SocketAddr> = self.nodes.admins();
        let mut sum = BTreeMap::new();
        for (at, admin) in admins.into_iter().enumerate() {
            if self.nodes.node(at).is_none() {
                continue;
            }
            let metrics = Metrics::read(admin).map_err(|error| probe("metrics", error))?;
            for (reason, count) in metrics.by_label(REFUSED) {
                *sum.entry(reason).or_default() += count as u64;
            }
        }
        sum.retain(|_, count| *count > 0);
        Ok(sum)
    }
}

/// Runs a variant from the start of its nodes to their stop.
pub(super) fn run(
    options: &Options,
    word: &'static str,
    rule: Backoff,
) -> Result<Variant, StormError> {
    let mut cluster = Cluster::start(options)?;
    let measured = storm(options, &mut cluster, word, rule);
    let stopped = cluster.runtime.block_on(cluster.nodes.stop());
    let variant = measured?;
    stopped?;
    Ok(variant)
}

fn storm(
    options: &Options,
    cluster: &mut Cluster,
    word: &'static str,
    backoff: Backoff,
) -> Result<Variant, StormError> {
    let (load, beside) = cluster.loads(options);
    let mut storm = Storm::begin(&load, &beside, options.clients, options.pairs)?;
    storm.publish(options.rate_per_s)?;
    let watch_ms = options.watch.as_millis() as u64;
    // The first second pays for paths that nobody went before.
    storm.watch(1_000)?;
    let before = storm.watch(watch_ms)?;
    let started = Moment::now(&cluster.pids)?;
    let pids = cluster.pids.clone();
    let (back, peaks) = watched(&pids, || cut(options, cluster, &mut storm, backoff));
    let (back, expected) = back?;
    let during = storm.watch(0)?;
    let (nodes, generator_cpu_s) = started.until_now(&peaks)?;
    let after = storm.watch(watch_ms)?;
    let refused = cluster.refused()?;
    let ended = storm.end()?;

    let mut violations = ended.violations;
    let lost = ended.acked.saturating_sub(ended.received);
    let unacked = ended.sent - ended.acked;
    for (count, what) in [
        (lost, "acknowledged messages of the pairs lost"),
        (unacked, "messages of the pairs not acknowledged"),
        (
            expected.saturating_sub(back.connected),
            "clients are not back",
        ),
    ] {
        if count > 0 {
            violations.push(format!("{count} {what}"));
        }
    }
    Ok(Variant {
        variant: word,
        rule: described(backoff),
        back: Back::of(&back),
        refused,
        before: Beside::of(&before),
        during: Beside::of(&during),
        after: Beside::of(&after),
        sent: ended.sent,
        acked: ended.acked,
        lost,
        nodes,
        generator_cpu_s,
        violations,
    })
}

/// Cuts the clients off and waits until they are back; with how many they were.
fn cut(
    options: &Options,
    cluster: &mut Cluster,
    storm: &mut Storm,
    backoff: Backoff,
) -> Result<(crate::load::Back, u64), StormError> {
    let ms = |time: std::time::Duration| time.as_millis() as u64;
    let rule = Rule {
        base_ms: ms(backoff.base),
        delay_ms_max: ms(backoff.delay_max),
        jitter_ms: ms(backoff.jitter),
        turns: options.kill,
    };
    let expected = if options.kill {
        let last = options.nodes - 1;
        cluster
            .runtime
            .block_on(cluster.nodes.kill(last as usize))?;
        // Clients are dealt over the nodes in turn.
        let its = (0..options.clients).filter(|client| client % options.nodes == last);
        let expected = its.count() as u64;
        storm.notice(expected)?;
        expected
    } else {
        storm.cut()?;
        u64::from(options.clients)
    };
    Ok((storm.come_back(rule)?, expected))
}

fn described(rule: Backoff) -> String {
    let Backoff {
        base,
        delay_max,
        jitter,
    } = rule;
    match jitter.is_zero() && base == delay_max {
        true => format!("{base:?}, always"),
        false => format!("{base:?} x 2^n up to {delay_max:?}, and 0 to {jitter:?} at random"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_clients_fit_into_a_usual_limit_of_open_files() {
        let options = Options::new("tidewire".into());
        assert_eq!(descriptors(&options), 10_000 + 200 + DESCRIPTORS_BESIDE);
        let lone = Options {
            nodes: 1,
            ..options
        };
        assert_eq!(descriptors(&lone), 20_000 + 200 + DESCRIPTORS_BESIDE);
    }
}
