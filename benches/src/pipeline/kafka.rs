//! The line through Kafka: QoS 1, PUBACK after acks=all, beside the embedded log under the same load.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use admin::client::Client;
use admin::tsdb::Status;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use super::generator::{self, Load, Sent};
use super::node::Node;
use super::report::stage_of;
use super::{
    Error, Options, Used, failed, put_figures, start_ms, wait_until_sealed, wait_until_stored,
};
use crate::cpu;
use crate::machine::{self, Machine};

/// Messages per core-second of the node that the first step asks for.
pub const MESSAGES_PER_CORE_S_FIRST: f64 = 100_000.0;

/// Messages per core-second of the node that are the goal.
pub const MESSAGES_PER_CORE_S_GOAL: f64 = 250_000.0;

/// Payload of a message; so many metrics of the standard fleet are some bytes short of it.
const PAYLOAD_BYTES: usize = 256;
const METRICS: usize = 12;

/// How long is sent before anything is measured.
const WARM_UP: Duration = Duration::from_secs(3);

/// Times of the measured rows begin so long after those of the warm-up.
const AFTER_WARM_UP_MS: i64 = 48 * 3_600_000;

/// Rate of the run that shows the latency of a node that has time.
const STEADY_PER_S: f64 = 20_000.0;

/// Threads that use less than so many nanoseconds a message are left out of the table.
const THREAD_NS_SHOWN: f64 = 20.0;

/// What is measured, one after the other, each with a node and a topic of its own.
struct Setup {
    name: &'static str,
    kafka: bool,
    store: bool,
    rate_per_s: Option<f64>,
}

const SETUPS: [Setup; 4] = [
    Setup {
        name: "Kafka, no store",
        kafka: true,
        store: false,
        rate_per_s: None,
    },
    Setup {
        name: "Kafka and the store",
        kafka: true,
        store: true,
        rate_per_s: None,
    },
    Setup {
        name: "embedded log and the store",
        kafka: false,
        store: true,
        rate_per_s: None,
    },
    Setup {
        name: "Kafka, no store, 20 000/s",
        kafka: true,
        store: false,
        rate_per_s: Some(STEADY_PER_S),
    },
];

/// Is the result of `bench pipeline --kafka`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KafkaReport {
    /// On what it was measured.
    pub machine: Machine,
    /// The machine's load averages before the first run.
    pub load_average: String,
    /// Connections.
    pub connections: u32,
    /// Messages in flight of each.
    pub window: u16,
    /// How long was sent in each run, seconds.
    pub seconds: f64,
    /// Mean length of a payload in bytes.
    pub payload_bytes: f64,
    /// Points in a message.
    pub points: u64,
    /// The runs.
    pub lines: Vec<Line>,
}

/// Is one run. Messages are those sent after a warm-up.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// What took the messages.
    pub name: String,
    /// Messages acknowledged.
    pub acked: u64,
    /// Messages that the store read back; `None`: it reads none.
    pub processed: Option<u64>,
    /// Messages acknowledged per second.
    pub acked_per_s: f64,
    /// Messages acknowledged per second of CPU time of the node, up to the last PUBACK.
    pub acked_per_core_s: f64,
    /// The same with what the store used until it had read and sealed all; without a store the
    /// same figure again.
    pub stored_per_core_s: f64,
    /// PUBLISH to PUBACK in milliseconds: half, 99 and 99.9 of a hundred.
    pub p50_ms: f64,
    /// See `p50_ms`.
    pub p99_ms: f64,
    /// See `p50_ms`.
    pub p999_ms: f64,
    /// Nanoseconds of CPU time a message by thread, until all was stored.
    pub threads_ns: BTreeMap<String, f64>,
}

/// Measures through Kafka at `options.kafka` and writes the report to `out`. Blocks; progress goes
/// to standard error. The topics, named `tidewire.bench-…`, stay in Kafka.
///
/// # Errors
/// [`Error`]; its [`Error::exit_code`] is the command's.
pub fn run_kafka(options: &Options, out: &mut dyn Write) -> Result<KafkaReport, Error> {
    options.validate()?;
    let Some(bootstrap) = &options.kafka else {
        return Err(Error::Usage("--kafka is missing".into()));
    };
    let (machine, load_average) = (Machine::read(), machine::load_average());
    let mut lines = Vec::new();
    let mut payload = (0, 0, 0);
    for setup in &SETUPS {
        // A thread of its own, since it is pinned.
        let (line, sent) = std::thread::scope(|scope| {
            let run = scope.spawn(|| measure(options, bootstrap, setup));
            run.join()
                .unwrap_or_else(|_| Err(failed("the measuring thread panicked")))
        })?;
        payload = (sent.messages, sent.payload_bytes, sent.points);
        lines.push(line);
    }
    let (messages, bytes, points) = payload;
    let report = KafkaReport {
        machine,
        load_average,
        connections: options.connections,
        window: options.window,
        seconds: options.duration.as_secs_f64(),
        payload_bytes: bytes as f64 / messages.max(1) as f64,
        points: points / messages.max(1),
        lines,
    };
    let text = if options.json {
        report.to_json() + "\n"
    } else {
        report.to_string()
    };
    out.write_all(text.as_bytes()).map_err(failed)?;
    if let Some(path) = &options.markdown {
        put_figures(path, &report.to_markdown())?;
    }
    Ok(report)
}

/// Runs one setup against a node on one core, from the others.
fn measure(options: &Options, bootstrap: &str, setup: &Setup) -> Result<(Line, Sent), Error> {
    let place = match &options.folder {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let folder = place.map_err(failed)?;
    let cores = cpu::cores().map_err(failed)?;
    let (own, others) = match cores[..] {
        [core, ..] if cores.len() > 1 => (vec![core], &cores[1..]),
        _ => (cores.clone(), &cores[..]),
    };
    cpu::pin(&own).map_err(failed)?;
    let kafka = setup.kafka.then_some(bootstrap);
    let config = configuration(options, setup);
    let node = Node::start(options.program.as_deref(), folder.path(), kafka, &config)?;
    cpu::pin(others).map_err(failed)?;
    let client = Client::new(&node.admin.to_string());
    let load = Load {
        connections: options.connections,
        window: options.window,
        start_ms: start_ms(),
        rate_per_s: setup.rate_per_s,
        metrics: METRICS,
        payload_bytes_min: PAYLOAD_BYTES,
        ..Load::new(node.mqtt)
    };
    eprintln!("{}: warming up for {WARM_UP:?}", setup.name);
    let warm_up = Load {
        duration: WARM_UP,
        ..load
    };
    send(setup, &client, warm_up, node.pid())?;
    eprintln!("{}: sending for {:?}", setup.name, options.duration);
    let measured = Load {
        duration: options.duration,
        start_ms: load.start_ms + AFTER_WARM_UP_MS,
        ..load
    };
    let line = send(setup, &client, measured, node.pid())?;
    node.stop()?;
    Ok(line)
}

fn configuration(options: &Options, setup: &Setup) -> String {
    let age_ms = options.head_age_max.as_millis();
    let mut text = format!("io_threads = 1\n[telemetry]\nhead_age_max = \"{age_ms}ms\"\n");
    if setup.kafka {
        let number: u64 = SmallRng::from_os_rng().random();
        let store = setup.store;
        write!(
            text,
            "[[telemetry.streams]]\ntopic = \"tidewire.bench-{number:016x}\"\nmode = \"kafka\"\nstore = {store}\n"
        )
        .expect("a String takes any text");
    }
    text
}

/// Sends, and waits until the store, if there is one, has read and sealed all.
fn send(setup: &Setup, client: &Client, load: Load, pid: u32) -> Result<(Line, Sent), Error> {
    let before = client.tsdb().map_err(failed)?;
    let mut used_before = None;
    let mut started = Instant::now();
    let sent = generator::run(load, &Arc::default(), || {
        used_before = Some(Used::read(pid)?);
        started = Instant::now();
        Ok(())
    })?;
    sent.require_connected()?;
    let before_ns = used_before.map_or_else(BTreeMap::new, |used| used.threads_ns);
    let acked_ns = since(&before_ns, &cpu::threads_ns(pid).map_err(failed)?);
    let (processed, stored_ns) = if setup.store {
        wait_until_stored(client, &before, &sent, started)?;
        let after: Status = wait_until_sealed(client, Some(pid))?;
        let processed = after.pipeline.processed_messages - before.pipeline.processed_messages;
        let stored_ns = since(&before_ns, &cpu::threads_ns(pid).map_err(failed)?);
        (Some(processed), stored_ns)
    } else {
        (None, acked_ns.clone())
    };
    let messages = sent.messages as f64;
    let per_core_s = |used: &BTreeMap<String, u64>| {
        let used_s = used.values().sum::<u64>() as f64 / 1e9;
        if used_s > 0.0 { messages / used_s } else { 0.0 }
    };
    let ms = |share| {
        let latency = sent.latencies.quantile(share);
        latency.map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    };
    let line = Line {
        name: setup.name.to_owned(),
        acked: sent.messages,
        processed,
        acked_per_s: messages / sent.elapsed.as_secs_f64(),
        acked_per_core_s: per_core_s(&acked_ns),
        stored_per_core_s: per_core_s(&stored_ns),
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
        p999_ms: ms(0.999),
        threads_ns: stored_ns
            .into_iter()
            .map(|(name, used_ns)| (name, used_ns as f64 / messages.max(1.0)))
            .collect(),
    };
    Ok((line, sent))
}

/// What each thread used between two looks.
fn since(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let used = |(name, now_ns): (&String, &u64)| {
        let before_ns = before.get(name).copied().unwrap_or(0);
        (name.clone(), now_ns.saturating_sub(before_ns))
    };
    now.iter().map(used).collect()
}

impl KafkaReport {
    /// Whether the store read back every acknowledged message where there is one.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        let is_whole = |line: &Line| line.processed.is_none_or(|count| count == line.acked);
        self.lines.iter().all(is_whole)
    }

    /// Returns the exit code of the command: 1 when the store lacks acknowledged messages.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.is_ok())
    }

    /// Returns the report as one JSON object on one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a report has no map with odd keys")
    }

    /// Returns the figures as a part of a page in `docs/bench`.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut text = format!("{}.\n\n{}\n\n", self.machine, self.load());
        let header = [
            "",
            "messages/s",
            "a node core-second, to PUBACK",
            "… to sealed",
            "PUBACK p50, ms",
            "p99",
            "p99.9",
        ];
        writeln!(text, "| {} |", header.join(" | ")).expect("a String takes any text");
        writeln!(text, "|---{}|", "|---:".repeat(header.len() - 1))
            .expect("a String takes any text");
        for line in &self.lines {
            writeln!(text, "| {} |", line.cells().join(" | ")).expect("a String takes any text");
        }
        text.push_str("\nCPU time of the node by thread, ns a message, until all is stored:\n\n");
        for line in &self.lines {
            writeln!(text, "- {}: {}", line.name, line.threads()).expect("a String takes any text");
        }
        text
    }

    fn load(&self) -> String {
        format!(
            "{} connections with {} messages in flight each; {:.0} B of JSON with {} points; {} s a run. Load average before: {}.",
            self.connections,
            self.window,
            self.payload_bytes,
            self.points,
            self.seconds,
            self.load_average
        )
    }
}

impl Line {
    fn cells(&self) -> [String; 7] {
        let ms = |value: f64| format!("{value:.1}");
        [
            self.name.clone(),
            format!("{:.0}", self.acked_per_s),
            format!("{:.0}", self.acked_per_core_s),
            format!("{:.0}", self.stored_per_core_s),
            ms(self.p50_ms),
            ms(self.p99_ms),
            ms(self.p999_ms),
        ]
    }

    fn threads(&self) -> String {
        let mut threads: Vec<_> = self.threads_ns.iter().collect();
        threads.sort_by(|a, b| b.1.total_cmp(a.1));
        let shown = threads
            .iter()
            .filter(|(_, used_ns)| **used_ns >= THREAD_NS_SHOWN)
            .map(|(name, used_ns)| format!("{name} ({}) {used_ns:.0}", stage_of(name)));
        shown.collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for KafkaReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.machine, self.load())?;
        for line in &self.lines {
            let [name, rate, acked, stored, p50, p99, p999] = line.cells();
            writeln!(
                f,
                "{name}\n  {rate} messages/s; {acked} a core-second of the node to PUBACK, {stored} to sealed\n  \
                 PUBACK p50 {p50} ms, p99 {p99} ms, p99.9 {p999} ms\n  ns a message: {}",
                line.threads()
            )?;
        }
        writeln!(
            f,
            "first step {MESSAGES_PER_CORE_S_FIRST:.0} messages a core-second, goal {MESSAGES_PER_CORE_S_GOAL:.0}"
        )
    }
}
