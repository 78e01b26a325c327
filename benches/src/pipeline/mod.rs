//! The telemetry line under load: JSON at QoS 1, the fsynced log, the store.

mod alone;
pub(crate) mod generator;
mod kafka;
pub(crate) mod node;
mod report;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use admin::client::Client;
use admin::tsdb::Status;

use crate::cpu;
use crate::machine::Machine;
use generator::{Load, Sent};
use node::Node;

pub use alone::Alone;
pub use kafka::{
    KafkaReport, Line, MESSAGES_PER_CORE_S_FIRST, MESSAGES_PER_CORE_S_GOAL, run_kafka,
};
pub use report::{NodeUse, POINTS_PER_S_GOAL, Report, ThreadUse};

/// Most connections of one run: each needs a socket.
pub const CONNECTIONS_MAX: u32 = 10_000;

/// Most messages in flight of a connection: what a node takes by default.
pub const WINDOW_MAX: u16 = 32;

/// Longest run: the devices' times, 10 s apart, must not reach the clock guard.
pub const DURATION_MAX: Duration = Duration::from_secs(600);

/// How far back the devices' times begin.
const AGE_MS: i64 = telemetry::clock::PAST_MAX_MS - 12 * 3_600_000;

/// How long the store may take for what is in the log at the end.
const STORE_DEADLINE: Duration = Duration::from_secs(120);

const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What is replaced in a page by `--markdown`.
const MARKS: (&str, &str) = ("<!-- figures -->\n", "<!-- end of figures -->\n");

/// Are the options of `tidewire bench pipeline`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// MQTT address of a node that runs; `None`: start one, pinned to one core, with the load on
    /// another.
    pub address: Option<SocketAddr>,
    /// Its admin address.
    pub admin: Option<SocketAddr>,
    /// Its process id, to see what it uses.
    pub pid: Option<u32>,
    /// Connections, 1 to [`CONNECTIONS_MAX`]; each is a device of its own.
    pub connections: u32,
    /// Messages in flight of each, 1 to [`WINDOW_MAX`].
    pub window: u16,
    /// How long is sent, at most [`DURATION_MAX`].
    pub duration: Duration,
    /// When a started node seals its head: short, so that a short run has seals and merges.
    pub head_age_max: Duration,
    /// Folder in which the data of a started node lies while it runs; `None`: the system's
    /// temporary one. On the disk to be measured.
    pub folder: Option<PathBuf>,
    /// Also put the figures as Markdown into this file: between its marks, or as a new file.
    pub markdown: Option<PathBuf>,
    /// Measure through this Kafka instead, see [`run_kafka`].
    pub kafka: Option<String>,
    /// Write one line of JSON instead of the table.
    pub json: bool,
    /// The program whose `serve` is the node; `None`: the running one.
    pub program: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: None,
            admin: None,
            pid: None,
            connections: 1_000,
            window: 16,
            duration: Duration::from_secs(30),
            head_age_max: Duration::from_secs(4),
            folder: None,
            markdown: None,
            kafka: None,
            json: false,
            program: None,
        }
    }
}

/// Says why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option is wrong; nothing was started.
    #[error("{0}")]
    Usage(String),
    /// Something failed; what was started is stopped.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// Returns the exit code of the command.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Failed(_) => 1,
        }
    }
}

pub(crate) fn failed(error: impl std::fmt::Display) -> Error {
    Error::Failed(error.to_string())
}

impl Options {
    /// Checks what can be checked before anything is started.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the option and its value.
    pub fn validate(&self) -> Result<(), Error> {
        let usage = |text: String| Err(Error::Usage(text));
        if !(1..=CONNECTIONS_MAX).contains(&self.connections) {
            let connections = self.connections;
            return usage(format!(
                "--connections {connections}: must be 1 to {CONNECTIONS_MAX}"
            ));
        }
        if !(1..=WINDOW_MAX).contains(&self.window) {
            return usage(format!(
                "--window {}: must be 1 to {WINDOW_MAX}",
                self.window
            ));
        }
        if self.duration.is_zero() || self.duration > DURATION_MAX {
            return usage(format!(
                "--for {:?}: must be at most {DURATION_MAX:?}",
                self.duration
            ));
        }
        if self.address.is_some() != self.admin.is_some() {
            return usage(
                "--addr and --admin go together: the store is asked over the latter".into(),
            );
        }
        if self.kafka.is_some() && self.address.is_some() {
            return usage("--kafka starts nodes of its own: --addr goes without it".into());
        }
        if self.pid.is_some() && self.address.is_none() {
            return usage("--pid is of a node given with --addr".into());
        }
        Ok(())
    }
}

/// Measures and writes the report to `out`. Blocks; progress goes to standard error.
///
/// # Errors
/// [`Error`]; its [`Error::exit_code`] is the command's.
pub fn run(options: &Options, out: &mut dyn Write) -> Result<Report, Error> {
    options.validate()?;
    let machine = Machine::read();
    // A thread of its own, since it is pinned.
    let report = std::thread::scope(|scope| {
        let run = scope.spawn(|| measure(options, &machine));
        run.join()
            .unwrap_or_else(|_| Err(failed("the measuring thread panicked")))
    })?;
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

fn measure(options: &Options, machine: &Machine) -> Result<Report, Error> {
    let Some((address, admin)) = options.address.zip(options.admin) else {
        return measure_own(options, machine);
    };
    let running = Running {
        address,
        admin,
        pid: options.pid,
        core: None,
    };
    measure_running(options, machine, &running)
}

/// Starts a node on one core, goes to another, and measures.
fn measure_own(options: &Options, machine: &Machine) -> Result<Report, Error> {
    let cores = cpu::cores().map_err(failed)?;
    let place = match &options.folder {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let folder = place.map_err(failed)?;
    let core = match cores[..] {
        [core, ..] if cores.len() > 1 => Some(core),
        _ => {
            eprintln!("only one core may be used: the node shares it with the load");
            None
        }
    };
    if let Some(core) = core {
        cpu::pin(&[core]).map_err(failed)?;
    }
    let age_ms = options.head_age_max.as_millis();
    let node = Node::start(
        options.program.as_deref(),
        folder.path(),
        None,
        &format!("io_threads = 1\n[telemetry]\nhead_age_max = \"{age_ms}ms\"\n"),
    )?;
    if core.is_some() {
        cpu::pin(&cores[1..]).map_err(failed)?;
    }
    let (address, admin, pid) = (node.mqtt, node.admin, Some(node.pid()));
    let mut report = measure_running(
        options,
        machine,
        &Running {
            address,
            admin,
            pid,
            core,
        },
    )?;
    node.stop()?;
    eprintln!("measuring the writer's stages alone");
    let alone = alone::measure(
        &folder.path().join("alone"),
        options.connections,
        start_ms(),
    )?;
    report.alone = Some(alone);
    Ok(report)
}

struct Running {
    address: SocketAddr,
    admin: SocketAddr,
    pid: Option<u32>,
    core: Option<usize>,
}

fn measure_running(
    options: &Options,
    machine: &Machine,
    running: &Running,
) -> Result<Report, Error> {
    let client = Client::new(&running.admin.to_string());
    let load = Load {
        address: running.address,
        connections: options.connections,
        window: options.window,
        duration: options.duration,
        start_ms: start_ms(),
        ..Load::new(running.address)
    };
    let before = client.tsdb().map_err(failed)?;
    let mut used_before = None;
    let mut started = Instant::now();
    eprintln!(
        "sending for {:?} over {} connections",
        options.duration, options.connections
    );
    let sent = generator::run(load, &Arc::default(), || {
        used_before = running.pid.map(Used::read).transpose()?;
        started = Instant::now();
        Ok(())
    })?;
    sent.require_connected()?;
    eprintln!(
        "{} messages acknowledged; waiting for the store",
        sent.messages
    );
    let stored_after = wait_until_stored(&client, &before, &sent, started)?;
    let after = wait_until_sealed(&client, running.pid)?;
    let node = match (running.pid, used_before) {
        (Some(pid), Some(before)) => {
            Some(Used::read(pid)?.since(&before, running.core, sent.points))
        }
        _ => None,
    };
    Ok(report(
        options,
        machine,
        &sent,
        stored_after,
        (&before, &after),
        node,
    ))
}

fn report(
    options: &Options,
    machine: &Machine,
    sent: &Sent,
    stored_after: Duration,
    (before, after): (&Status, &Status),
    node: Option<NodeUse>,
) -> Report {
    let points = sent.points as f64;
    let ms = |share| {
        sent.latencies
            .quantile(share)
            .map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    };
    let (was, is) = (&before.pipeline, &after.pipeline);
    Report {
        machine: machine.clone(),
        connections: options.connections,
        window: options.window,
        payload_bytes: sent.payload_bytes as f64 / sent.messages.max(1) as f64,
        acked: sent.points,
        stored: is.stored_points - was.stored_points,
        acked_points_per_s: points / sent.elapsed.as_secs_f64(),
        points_per_s: points / stored_after.as_secs_f64(),
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
        p999_ms: ms(0.999),
        node,
        log_bytes_per_point: is.log_bytes.saturating_sub(was.log_bytes) as f64 / points,
        block_bytes_per_point: after.store.merged_bytes_per_point,
        seals: is.seals - was.seals,
        merges: is.merges - was.merges,
        alone: None,
    }
}

/// Time of the devices' first rows: so long ago that 10 s a message do not reach the present.
pub(crate) fn start_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as i64) - AGE_MS
}

/// Waits until the writer has every acknowledged message; the time since `started`.
fn wait_until_stored(
    client: &Client,
    before: &Status,
    sent: &Sent,
    started: Instant,
) -> Result<Duration, Error> {
    let deadline = Instant::now() + STORE_DEADLINE;
    loop {
        let now = client.tsdb().map_err(failed)?.pipeline;
        if now.processed_messages - before.pipeline.processed_messages >= sent.messages {
            return Ok(started.elapsed());
        }
        if Instant::now() >= deadline {
            return Err(failed(format!(
                "the store lags {STORE_DEADLINE:?} behind: {:?}",
                now.lag
            )));
        }
        pause(POLL_INTERVAL);
    }
}

/// Waits until the head is sealed and the merges that follow have ended.
fn wait_until_sealed(client: &Client, pid: Option<u32>) -> Result<Status, Error> {
    let merging = || -> Result<Option<u64>, Error> {
        let threads = pid.map(cpu::threads_ns).transpose().map_err(failed)?;
        Ok(threads.and_then(|threads| threads.get("tsdb-merge").copied()))
    };
    let deadline = Instant::now() + STORE_DEADLINE;
    let mut merged_ns = merging()?;
    loop {
        pause(5 * POLL_INTERVAL);
        let status = client.tsdb().map_err(failed)?;
        let now_ns = merging()?;
        if status.store.head_rows == 0 && now_ns == merged_ns {
            return Ok(status);
        }
        merged_ns = now_ns;
        if Instant::now() >= deadline {
            return Err(failed(format!(
                "rows are unsealed after {STORE_DEADLINE:?}"
            )));
        }
    }
}

/// What a process has used up to a moment.
struct Used {
    threads_ns: std::collections::BTreeMap<String, u64>,
    written_bytes: u64,
}

impl Used {
    fn read(pid: u32) -> Result<Self, Error> {
        Ok(Self {
            threads_ns: cpu::threads_ns(pid).map_err(failed)?,
            written_bytes: cpu::written_bytes(pid).map_err(failed)?,
        })
    }

    fn since(&self, before: &Self, core: Option<usize>, points: u64) -> NodeUse {
        let per_point = |amount: u64| amount as f64 / points.max(1) as f64;
        let used = |(name, now_ns): (&String, &u64)| ThreadUse {
            stage: report::stage_of(name),
            cpu_ns_per_point: per_point(
                now_ns.saturating_sub(before.threads_ns.get(name).copied().unwrap_or(0)),
            ),
            name: name.clone(),
        };
        let mut threads: Vec<ThreadUse> = self.threads_ns.iter().map(used).collect();
        threads.sort_by(|a, b| b.cpu_ns_per_point.total_cmp(&a.cpu_ns_per_point));
        NodeUse {
            core,
            cpu_ns_per_point: threads.iter().map(|thread| thread.cpu_ns_per_point).sum(),
            threads,
            written_bytes_per_point: per_point(self.written_bytes - before.written_bytes),
        }
    }
}

/// Waits between two looks at another process, which cannot wake this one.
pub(crate) fn pause(time: Duration) {
    let (never, wait) = mpsc::sync_channel::<()>(0);
    // Nothing is ever sent, so it is the time that ends the wait.
    if wait.recv_timeout(time).is_ok() {
        unreachable!("nothing is sent");
    }
    drop(never);
}

/// Puts figures between the marks of a page, or makes a page of them.
pub(crate) fn put_figures(path: &Path, figures: &str) -> Result<(), Error> {
    let figures = format!("{}{figures}{}", MARKS.0, MARKS.1);
    let page = match std::fs::read_to_string(path) {
        Ok(page) => {
            let parts = page
                .split_once(MARKS.0)
                .and_then(|(head, rest)| Some((head, rest.split_once(MARKS.1)?.1)));
            let (head, tail) = parts
                .ok_or_else(|| failed(format!("{} has no {:?}", path.display(), MARKS.0.trim())))?;
            format!("{head}{figures}{tail}")
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => figures,
        Err(error) => return Err(failed(format!("{}: {error}", path.display()))),
    };
    std::fs::write(path, page).map_err(|error| failed(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_out_of_range_is_named() {
        let refused = |options: Options| options.validate().expect_err("refused").to_string();
        let of = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            refused(options)
        };
        assert!(of(|o| o.connections = 0).contains("--connections 0"));
        assert!(of(|o| o.window = 33).contains("--window 33"));
        assert!(of(|o| o.duration = Duration::ZERO).contains("--for"));
        assert!(of(|o| o.pid = Some(1)).contains("--pid"));
        assert!(of(|o| o.address = Some(([127, 0, 0, 1], 1).into())).contains("--admin"));
    }

    #[test]
    fn figures_replace_only_what_stands_between_the_marks() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("page.md");
        std::fs::write(&path, format!("before\n{}old\n{}after\n", MARKS.0, MARKS.1))
            .expect("written");
        put_figures(&path, "new\n").expect("a page with marks");
        let page = std::fs::read_to_string(&path).expect("there");
        assert_eq!(page, format!("before\n{}new\n{}after\n", MARKS.0, MARKS.1));
        std::fs::write(&path, "no marks").expect("written");
        assert!(put_figures(&path, "new\n").is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "no marks");
    }
}
