//! `bench sessions`: what durable sessions cost and bear, on a node of one core, beside mosquitto
//! with persistence.

pub(crate) mod probe;
mod report;

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::compare::{CompareError, Cores, Peer, Running};
use crate::cpu;
use crate::load::{self, Case, Load, LoadError, Outcome};
use crate::machine::{self, Machine};

use probe::{Metrics, pause, until_ready};

pub use report::{Figure, Report};

/// What a client may occupy is raised as in `bench compare`.
const TIDEWIRE_CONFIG: &str = "io_threads = 1\nno_telemetry = true\n{top}\n[mqtt]\n\
    receive_maximum = 65535\nqueue_messages_limit = 1000000\nqueue_bytes_limit = 1073741824\n\
    [cluster]\nshards = {shards}\n";

/// Without limits, with its file; written every half an hour and at a stop, as by default: what it
/// acknowledged in between is lost in a crash.
const MOSQUITTO_CONFIG: &str = "listener {port} 127.0.0.1\nallow_anonymous true\n\
    max_inflight_messages 0\nmax_queued_messages 0\nmax_queued_bytes 0\npersistence true\n\
    persistence_location ./\nlog_type error\n";

/// The memory limit of the large case.
const MEMORY_BYTES_LIMIT: u64 = 512 << 20;
/// Payload of its messages.
const LARGE_PAYLOAD_BYTES: usize = 1 << 10;
/// Sessions that are opened together, each with a publisher: what the limit is for is the queues, and
/// what connections occupy is in no plan (`docs/adr/gaps/memory-budget.md`).
const SESSIONS_AT_ONCE: u32 = 2_500;
/// Until the groups sleep, and then some.
const SLEEP_AFTER: Duration = Duration::from_secs(13);
/// How long sleeping groups are watched.
const IDLE_WATCH: Duration = Duration::from_secs(5);
/// How long a start may take.
const READY_DEADLINE: Duration = Duration::from_secs(120);

/// What is measured, and at which size.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tidewire and the workers: this program, or another build of it.
    pub program: PathBuf,
    /// Words of the cases; empty: all.
    pub only: Vec<String>,
    /// Sessions of the large case.
    pub sessions: u32,
    /// Messages for each of them.
    pub messages: u64,
    /// Connections of the case of connects.
    pub connections: u32,
    /// Messages a second of the pairs.
    pub rate_per_s: f64,
    /// Folder for the report.
    pub out: PathBuf,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum SessionsError {
    /// A setting is wrong; nothing was started.
    #[error("{0}: no case; there are {1}")]
    Setting(String, String),
    /// A broker cannot be started.
    #[error(transparent)]
    Broker(#[from] CompareError),
    /// The generator failed.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A broker's process or metrics cannot be read.
    #[error("{0}: {1}")]
    Probe(String, String),
    /// The report cannot be written.
    #[error("{0}: {1}")]
    Write(PathBuf, std::io::Error),
}

impl SessionsError {
    fn probe(what: &str) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.to_owned();
        move |error| Self::Probe(what, error.to_string())
    }
}

type Measured = Result<(), SessionsError>;
type Measure = fn(&Run<'_>, &Broker, &mut Vec<Figure>) -> Measured;

/// Word, whether mosquitto has it too, and how it is measured.
const CASES: [(&str, bool, Measure); 6] = [
    ("queue", true, queue),
    ("connects", true, connects),
    ("p2p", true, p2p),
    ("bytes", true, bytes),
    ("idle", false, idle),
    ("large", false, large),
];

/// A broker with these lines at the top of its configuration and so many shards.
type Configured = dyn Fn(&str, u16) -> Peer;

/// A broker that is measured, and how it is called in the report.
struct Broker {
    name: &'static str,
    peer: Box<Configured>,
}

impl Broker {
    fn peer(&self) -> Peer {
        (self.peer)("", 32)
    }

    fn is_ours(&self) -> bool {
        self.name == "tidewire"
    }
}

struct Run<'a> {
    options: &'a Options,
    cores: Cores,
}

/// Measures and writes the report; progress goes to `progress`.
///
/// # Errors
/// [`SessionsError`].
pub fn run(options: &Options, progress: &mut impl Write) -> Result<Report, SessionsError> {
    let words = CASES.map(|(word, _, _)| word);
    if let Some(unknown) = options
        .only
        .iter()
        .find(|word| !words.contains(&word.as_str()))
    {
        return Err(SessionsError::Setting(unknown.clone(), words.join(", ")));
    }
    let mut notes = Vec::new();
    let is_this = std::env::current_exe().is_ok_and(|this| this == options.program);
    if !is_this {
        let program = options.program.display();
        notes.push(format!(
            "node and generator are {program}; the machine's line names the program that asked"
        ));
    } else if cfg!(debug_assertions) {
        notes.push("a debug build: its speeds mean nothing".to_owned());
    }
    let program = options.program.clone();
    let ours = move |top: &str, shards: u16| {
        let config = TIDEWIRE_CONFIG.replace("{top}", top);
        Peer::tidewire_with(&program, &config.replace("{shards}", &shards.to_string()))
    };
    let mut brokers = vec![Broker {
        name: "tidewire",
        peer: Box::new(ours),
    }];
    match Peer::mosquitto_with(MOSQUITTO_CONFIG) {
        Some(mosquitto) => brokers.push(Broker {
            name: "mosquitto",
            peer: Box::new(move |_, _| mosquitto.clone()),
        }),
        None => notes.push("mosquitto is not installed: no figures beside".to_owned()),
    }
    let load_average = machine::load_average();
    // Read before the pinning, which changes the number of usable cores.
    let machine = Machine::read();
    let cores = Cores::pin().map_err(CompareError::Pin)?;
    let run = Run { options, cores };
    let mut figures = Vec::new();
    for (word, theirs, measure) in CASES {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == word) {
            continue;
        }
        for broker in brokers.iter().filter(|one| theirs || one.is_ours()) {
            let before = figures.len();
            if let Err(error) = measure(&run, broker, &mut figures) {
                notes.push(format!("{word}, {}: {error}", broker.name));
            }
            for figure in &figures[before..] {
                // Progress that nobody reads is no reason to stop.
                let _ = writeln!(progress, "{}", figure.one_line());
            }
        }
    }
    let settings = brokers.iter().map(|one| {
        let peer = one.peer();
        format!("{} {}; `{}`", one.name, peer.version, peer.settings)
    });
    let report = Report {
        machine,
        pinning: run.cores.describe(),
        load_average,
        brokers: settings.collect(),
        notes,
        figures,
    };
    report.write(&options.out)?;
    Ok(report)
}

impl Run<'_> {
    fn load(&self, broker: &Running) -> Load {
        Load {
            pid: Some(broker.pid()),
            persistent: true,
            // More connections than one source address has ports.
            sources: 8,
            ..Load::new(broker.address, self.options.program.clone())
        }
    }
}

/// Takes what went wrong for an error, and the figures of the outcome.
fn checked(load: &Load, case: &Case) -> Result<Outcome, SessionsError> {
    let outcome = load::run(load, case)?;
    match outcome.violations.is_empty() {
        true => Ok(outcome),
        false => Err(SessionsError::Probe(
            outcome.case.to_owned(),
            outcome.violations.join("; "),
        )),
    }
}

/// Queues for sessions that are away, then drains.
fn queue(run: &Run<'_>, broker: &Broker, out: &mut Vec<Figure>) -> Measured {
    let running = broker.peer().start(&run.cores)?;
    let case = Case::Offline {
        sessions: 1_000,
        messages: 500,
        window: 16,
    };
    let outcome = checked(&run.load(&running), &case)?;
    let mut push = |figure: &str, name, at_least: Option<f64>| {
        let figure = Figure::new("queue", figure, broker.name, outcome.figure(name));
        out.push(figure.at_least(at_least));
    };
    let bound = |value| broker.is_ours().then_some(value);
    push(
        "QoS 1 messages queued per second",
        "enqueues_per_s",
        bound(60_000.0),
    );
    push(
        "CPU seconds per million queued",
        "enqueue_cpu_s_per_million",
        None,
    );
    push("PUBACK p99, us", "ack_p99_us", None);
    push(
        "messages drained per second",
        "drains_per_s",
        bound(100_000.0),
    );
    push(
        "CPU seconds per million drained",
        "drain_cpu_s_per_million",
        None,
    );
    push(
        "resident bytes per queued message of 256 B",
        "rss_bytes_per_message",
        None,
    );
    Ok(())
}

/// Connects whose sessions stay.
fn connects(run: &Run<'_>, broker: &Broker, out: &mut Vec<Figure>) -> Measured {
    let running = broker.peer().start(&run.cores)?;
    let case = Case::Conn {
        connections: run.options.connections,
        in_flight: 64,
        subscribe: false,
    };
    let outcome = checked(&run.load(&running), &case)?;
    let bound = broker.is_ours().then_some(8_000.0);
    let mut push = |figure: &str, name, at_least: Option<f64>| {
        let figure = Figure::new("connects", figure, broker.name, outcome.figure(name));
        out.push(figure.at_least(at_least));
    };
    push("durable connects per second", "connects_per_s", bound);
    push("CPU us per connect", "cpu_us_per_connect", None);
    push("CONNACK p99, us", "connect_p99_us", None);
    push(
        "resident bytes per connection with its session",
        "rss_bytes_per_connection",
        None,
    );
    Ok(())
}

/// Pairs whose subscribers are online with durable sessions: each message goes through the log.
fn p2p(run: &Run<'_>, broker: &Broker, out: &mut Vec<Figure>) -> Measured {
    for rate_per_s in [Some(run.options.rate_per_s), None] {
        let running = broker.peer().start(&run.cores)?;
        let load = Load {
            duration: Duration::from_secs(5),
            ..run.load(&running)
        };
        let case = Case::P2p {
            pairs: 1_000,
            window: if rate_per_s.is_some() { 16 } else { 1 },
            rate_per_s,
        };
        let outcome = checked(&load, &case)?;
        let how = match rate_per_s {
            Some(rate) => format!("at {rate}/s"),
            None => "closed loop, 1 in flight".to_owned(),
        };
        let mut push = |figure: &str, name| {
            let figure = format!("1000 pairs {how}: {figure}");
            out.push(Figure::new(
                "p2p",
                &figure,
                broker.name,
                outcome.figure(name),
            ));
        };
        push("messages per second", "messages_per_s");
        push("delivery p50, us", "delivery_p50_us");
        push("delivery p99, us", "delivery_p99_us");
        push("CPU seconds per million", "cpu_s_per_million");
    }
    Ok(())
}

/// Bytes written per message when so many are under way at a time, until everything is flushed.
fn bytes(run: &Run<'_>, broker: &Broker, out: &mut Vec<Figure>) -> Measured {
    for (publishers, messages) in [(1, 3_000), (32, 1_000), (1_000, 200)] {
        let running = broker.peer().start(&run.cores)?;
        let failed = || SessionsError::probe("/proc");
        let load = run.load(&running);
        let written_before = cpu::written_bytes(running.pid()).map_err(failed())?;
        let before = Metrics::read_if(broker.is_ours(), running.admin)?;
        let case = Case::Fill {
            sessions: publishers,
            messages,
            window: 1,
        };
        let outcome = checked(&load, &case)?;
        let after = Metrics::read_if(broker.is_ours(), running.admin)?;
        let written = running.stop().map_err(failed())?;
        let count = u64::from(publishers) * messages;
        let each = |total: f64| Some(total / count as f64);
        let mut push = |figure: &str, value, at_most: Option<f64>| {
            let figure = format!("{publishers} publishers, 1 in flight each: {figure}");
            out.push(Figure::new("bytes", &figure, broker.name, value).at_most(at_most));
        };
        let total = written.saturating_sub(written_before) as f64;
        let wrote = "bytes written to the disk per message of 256 B, with the stop";
        push(wrote, each(total), None);
        push(
            "messages per second",
            outcome.figure("enqueues_per_s"),
            None,
        );
        if let (Some(before), Some(after)) = (before, after) {
            let grown = |name| after.get(name) - before.get(name);
            let log = grown("tidewire_raft_log_written_bytes_total");
            push("of them bytes of the log per message", each(log), None);
            let records = grown("tidewire_raft_log_records_total");
            push("records of the log per message", each(records), None);
            let fsyncs = grown("tidewire_raft_log_fsyncs_total");
            let bound = (publishers == 1_000).then_some(0.02);
            push("fsyncs of the log per message", each(fsyncs), bound);
        }
    }
    Ok(())
}

/// What groups cost that nobody uses.
fn idle(run: &Run<'_>, broker: &Broker, out: &mut Vec<Figure>) -> Measured {
    for shards in [8, 32, 128] {
        let started = Instant::now();
        let running = (broker.peer)("", shards).start(&run.cores)?;
        until_ready(running.admin, READY_DEADLINE)?;
        let ready_s = started.elapsed().as_secs_f64();
        pause(SLEEP_AFTER);
        let failed = || SessionsError::probe("/proc");
        let before = (
            load::usage(running.pid())?,
            cpu::written_bytes(running.pid()).map_err(failed())?,
        );
        pause(IDLE_WATCH);
        let after = (
            load::usage(running.pid())?,
            cpu::written_bytes(running.pid()).map_err(failed())?,
        );
        let seconds = IDLE_WATCH.as_secs_f64();
        let mut push = |figure: &str, value: f64| {
            let figure = format!("{shards} shards: {figure}");
            out.push(Figure::new("idle", &figure, broker.name, Some(value)));
        };
        push("seconds until an empty folder is ready", ready_s);
        let cpu_ms = (after.0.cpu_s - before.0.cpu_s) * 1e3 / seconds;
        push("CPU ms per second", cpu_ms);
        push("resident bytes", after.0.rss_bytes as f64);
        let written = (after.1 - before.1) as f64 / seconds;
        push("bytes written per second", written);
    }
    Ok(())
}

/// Many sessions with many messages below a memory limit; then SIGKILL and a start.
fn large(run: &Run<'_>, broker: &Broker, out: &mut Vec<Figure>) -> Measured {
    let options = run.options;
    let top = format!("memory_bytes_limit = {MEMORY_BYTES_LIMIT}");
    let peer = (broker.peer)(&top, 32);
    let running = peer.start(&run.cores)?;
    let load = Load {
        payload_bytes: LARGE_PAYLOAD_BYTES,
        ..run.load(&running)
    };
    let (mut filled, mut queued, mut per_session) = (0, 0, Vec::new());
    let started = Instant::now();
    while filled < options.sessions {
        let sessions = SESSIONS_AT_ONCE.min(options.sessions - filled);
        let case = Case::Fill {
            sessions,
            messages: options.messages,
            window: 16,
        };
        let outcome = checked(&load, &case)?;
        filled += sessions;
        queued += outcome.figure("enqueued").unwrap_or(0.0) as u64;
        per_session.extend(outcome.figure("rss_bytes_per_session"));
    }
    let fill_s = started.elapsed().as_secs_f64();
    // The first batch pays for the connections too.
    let later = per_session.get(1..).unwrap_or_default();
    let per_session = match later.is_empty() {
        true => per_session.first().copied(),
        false => Some(later.iter().sum::<f64>() / later.len() as f64),
    };
    let failed = || SessionsError::probe("/proc");
    let peak = probe::peak_rss_bytes(running.pid()).map_err(failed())?;
    let rss = load::usage(running.pid())?.rss_bytes;
    let mut push = |figure: &str, value: Option<f64>, at_most: Option<f64>| {
        let figure = format!("{filled} sessions, {queued} messages of 1 KiB: {figure}");
        out.push(Figure::new("large", &figure, broker.name, value).at_most(at_most));
    };
    let limit = Some(MEMORY_BYTES_LIMIT as f64);
    push("seconds of the fill", Some(fill_s), None);
    push(
        "resident bytes at most (memory_bytes_limit 512 MiB)",
        Some(peak as f64),
        limit,
    );
    push("resident bytes when filled", Some(rss as f64), None);
    push("resident bytes per session away", per_session, None);

    let killed = running.kill().map_err(failed())?;
    let restarted = Instant::now();
    let running = peer.start_again(&run.cores, killed)?;
    until_ready(running.admin, READY_DEADLINE)?;
    let ready_s = restarted.elapsed().as_secs_f64();
    push(
        "seconds from SIGKILL until ready",
        Some(ready_s),
        Some(10.0),
    );
    let peak = probe::peak_rss_bytes(running.pid()).map_err(failed())?;
    push(
        "resident bytes at most of the start",
        Some(peak as f64),
        limit,
    );
    // The gauges follow the shards' clock.
    pause(Duration::from_secs(1));
    let metrics = Metrics::read(running.admin)?;
    let lost = |expected: u64, name| expected as f64 - metrics.get(name);
    let messages = lost(queued, "tidewire_session_queue_messages");
    push(
        "messages missing after the start",
        Some(messages),
        Some(0.0),
    );
    let sessions = lost(u64::from(filled), "tidewire_session_sessions");
    push(
        "sessions missing after the start",
        Some(sessions),
        Some(0.0),
    );
    Ok(())
}
