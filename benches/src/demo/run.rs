//! The course of a demo from the first process to the verdict.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use admin::query::QueryAnswer;
use admin::question::Question;
use admin::time::format_time;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::folder::{Folder, Kafka, Record};
use super::node::{Launch, Node};
use super::progress::{Progress, TICK};
use super::report::Report;
use super::{Error, Options, caught_up, check};
use crate::fleet::{self, Stats};
use crate::ledger::{self, Header};
use crate::profile::{self, METRICS};

/// Time between `--kill` and the new start.
const KILL_PAUSE: Duration = Duration::from_secs(5);

/// Descriptors that this process needs beside one socket a device.
const DESCRIPTORS_BESIDE: u64 = 128;

/// Rows and metrics of the device that is shown at the end.
const ROWS_SHOWN: usize = 3;
const METRICS_SHOWN: [&str; 4] = ["battery", "speed", "temp_motor", "sequence"];

/// Runs the demo.
pub(super) fn run(options: &Options, out: &mut dyn Write) -> Result<Report, Error> {
    options.validate()?;
    require_descriptors(options.devices)?;
    let scratch = Scratch::create(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Failed(format!("the async runtime: {error}")))?;
    let ended = runtime.block_on(run_in(options, &scratch.folder, out));
    drop(runtime);
    scratch.close(options, &ended);
    ended
}

/// Raises the limit of open files if it is too low, for this process and the node it starts.
fn require_descriptors(devices: u32) -> Result<(), Error> {
    let needed = u64::from(devices) + DESCRIPTORS_BESIDE;
    let limit = getrlimit(Resource::Nofile);
    // An absent limit is none at all.
    let Some(current) = limit.current.filter(|current| *current < needed) else {
        return Ok(());
    };
    let most = limit.maximum.unwrap_or(u64::MAX);
    let too_few = |what: String| {
        Err(Error::Usage(format!(
            "--devices {devices}: needs {needed} open files, the limit (ulimit -n) is {current} {what}; raise it, or use fewer devices"
        )))
    };
    if most < needed {
        return too_few(format!("and cannot be raised beyond {most}"));
    }
    let raised = Rlimit {
        current: Some(needed),
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => Ok(()),
        Err(error) => too_few(format!("and could not be raised: {error}")),
    }
}

/// The demo's folder, and whether it is a temporary one.
struct Scratch {
    folder: Folder,
    temporary: Option<TempDir>,
}

impl Scratch {
    fn create(options: &Options) -> Result<Self, Error> {
        if let Some(data) = &options.data {
            return Ok(Self {
                folder: Folder::create(data)?,
                temporary: None,
            });
        }
        let temporary = tempfile::Builder::new()
            .prefix("tidewire-demo-")
            .tempdir()
            .map_err(|error| Error::Failed(format!("a temporary folder: {error}")))?;
        let folder = Folder::create(temporary.path())?;
        Ok(Self {
            folder,
            temporary: Some(temporary),
        })
    }

    /// Removes a temporary folder, unless somebody will want to look at it.
    fn close(self, options: &Options, ended: &Result<Report, Error>) {
        let Some(temporary) = self.temporary else {
            return;
        };
        let wanted = match ended {
            Ok(report) => options.keep || !report.is_ok(),
            Err(Error::Failed(_)) => true,
            Err(Error::Usage(_) | Error::Interrupted) => false,
        };
        if wanted {
            eprintln!(
                "the folder of this demo is kept: {}",
                temporary.keep().display()
            );
        } else if let Err(error) = temporary.close() {
            eprintln!("{}: not removed: {error}", self.folder.path().display());
        }
    }
}

/// SIGINT and SIGTERM.
struct Interrupts {
    int: Signal,
    term: Signal,
}

impl Interrupts {
    fn listen() -> Result<Self, Error> {
        let failed = |error: io::Error| Error::Failed(format!("signals: {error}"));
        Ok(Self {
            int: signal(SignalKind::interrupt()).map_err(failed)?,
            term: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    /// Waits for one of them. Cancel-safe.
    async fn recv(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }

    /// Does the work unless interrupted first.
    async fn or<T>(&mut self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            done = work => done,
            () = self.recv() => Err(Error::Interrupted),
        }
    }
}

async fn run_in(options: &Options, folder: &Folder, out: &mut dyn Write) -> Result<Report, Error> {
    let mut interrupts = Interrupts::listen()?;
    let seed = options
        .seed
        .unwrap_or_else(|| SmallRng::from_os_rng().random());
    let kafka = options.kafka.as_ref().map(|bootstrap| Kafka {
        bootstrap: bootstrap.clone(),
        topic: format!(
            "tidewire.demo-{:016x}",
            SmallRng::from_os_rng().random::<u64>()
        ),
    });
    let launch = Launch::prepare(
        options.program.as_deref(),
        folder,
        kafka.as_ref(),
        options.mqtt,
        options.admin,
    )?;
    if let Some(Kafka { bootstrap, topic }) = &kafka {
        eprintln!("through Kafka at {bootstrap}, topic {topic}, which stays there");
    }
    let mut record = Record {
        kafka,
        ..Record::new(options.nodes, options.devices, seed)
    };
    folder.write_record(&record)?;
    eprintln!(
        "{} devices, {} points every {:?} each, for {:?}; seed {seed}; folder {}",
        options.devices,
        METRICS,
        options.interval,
        options.duration,
        folder.path().display()
    );
    let node = interrupts.or(launch.start()).await?;
    eprintln!(
        "node 1 serves mqtt://{} and http://{}",
        launch.mqtt, launch.admin
    );

    let node = publish(options, &launch, node, folder, &mut record, &mut interrupts).await?;
    let text = interrupts.or(last_look(&node, &launch, &mut record)).await;
    let text = match text {
        Ok(text) => text,
        Err(error) => {
            stop_after(node, &error).await;
            return Err(error);
        }
    };
    node.stop().await?;
    record.complete = true;
    folder.write_record(&record)?;

    let folder_of_check = folder.path().to_owned();
    let checking = tokio::task::spawn_blocking(move || super::check(&folder_of_check));
    let report = interrupts
        .or(async {
            checking
                .await
                .map_err(|error| Error::Failed(error.to_string()))?
        })
        .await?;
    show(options, &launch, folder, &report, &text, out)?;
    if options.keep {
        serve_on(&launch, &mut interrupts).await?;
    }
    Ok(report)
}

/// Lets the fleet publish until its end and returns the node, another one after `--kill`.
async fn publish(
    options: &Options,
    launch: &Launch,
    node: Node,
    folder: &Folder,
    record: &mut Record,
    interrupts: &mut Interrupts,
) -> Result<Node, Error> {
    let header = Header {
        seed: record.seed,
        devices: options.devices,
        metrics: profile::METRIC_NAMES.map(str::to_owned).to_vec(),
    };
    let ledger = ledger::Writer::create(&folder.ledger(), &header)
        .map_err(|error| Error::Failed(error.to_string()))?;
    let stats = Arc::new(Stats::default());
    let stop = CancellationToken::new();
    let config = fleet::Config {
        seed: record.seed,
        ..fleet::Config::new(
            launch.mqtt,
            options.devices,
            options.interval,
            options.duration,
        )
    };
    let running = fleet::run(config, ledger.handle(), Arc::clone(&stats), stop.clone());
    let mut running = tokio::spawn(running);
    let mut progress = Progress::new(options.duration);
    let outcome = watch(
        options,
        launch,
        node,
        record,
        &stats,
        &mut progress,
        &mut running,
        interrupts,
    )
    .await;
    if outcome.is_err() {
        stop.cancel();
        // Its own end says nothing beside the error that is on its way already.
        drop(running.await);
    }
    let finished = tokio::task::spawn_blocking(move || ledger.finish())
        .await
        .map_err(|error| Error::Failed(error.to_string()))?;
    let (node, summary) = outcome?;
    progress.finish(&stats);
    if let Err(error) = finished {
        let error = Error::Failed(error.to_string());
        stop_after(node, &error).await;
        return Err(error);
    }
    let seconds = summary.elapsed.as_secs_f64();
    if seconds > 0.0 {
        record.points_per_s = (stats.acknowledged() * METRICS as u64) as f64 / seconds;
    }
    record.p99_ms = stats
        .latencies()
        .quantile(0.99)
        .map_or(0.0, |p99| p99.as_secs_f64() * 1e3);
    record.reconnects = stats.reconnects();
    if summary.devices_unfinished > 0 {
        eprintln!(
            "{} devices ended with messages unsent or unacknowledged",
            summary.devices_unfinished
        );
    }
    if summary.skipped > 0 {
        eprintln!(
            "{} measurements were not taken, for their devices were full",
            summary.skipped
        );
    }
    Ok(node)
}

type Running = tokio::task::JoinHandle<Result<fleet::Summary, fleet::Error>>;

/// Where `--kill` stands.
enum Kill {
    At(Instant),
    StartAt(Instant),
    Over,
}

#[expect(
    clippy::too_many_arguments,
    reason = "one loop over everything that can happen"
)]
async fn watch(
    options: &Options,
    launch: &Launch,
    node: Node,
    record: &mut Record,
    stats: &Stats,
    progress: &mut Progress,
    running: &mut Running,
    interrupts: &mut Interrupts,
) -> Result<(Node, fleet::Summary), Error> {
    let mut node = Some(node);
    let mut kill = if options.kill {
        Kill::At(Instant::now() + options.duration / 2)
    } else {
        Kill::Over
    };
    let mut summary = None;
    let mut ticks = tokio::time::interval(TICK);
    loop {
        // With `--kill` and a short run the fleet may end while the node is away.
        if let (Some(_), Some(_), Kill::Over) = (&node, &summary, &kill)
            && let (Some(node), Some(summary)) = (node.take(), summary.take())
        {
            return Ok((node, summary));
        }
        let kill_due = match &kill {
            Kill::At(due) | Kill::StartAt(due) => Some(*due),
            Kill::Over => None,
        };
        tokio::select! {
            ended = &mut *running, if summary.is_none() => {
                let ended = ended.map_err(|error| Error::Failed(error.to_string()))?;
                summary = Some(ended.map_err(|error| Error::Failed(error.to_string()))?);
            }
            _ = ticks.tick() => progress.tick(stats),
            error = ended_by_itself(&mut node) => return Err(error),
            () = interrupts.recv() => {
                if let Some(node) = node.take() {
                    stop_after(node, &Error::Interrupted).await;
                }
                return Err(Error::Interrupted);
            }
            () = sleep_until(kill_due) => {
                kill = match (kill, node.take()) {
                    (Kill::At(_), Some(node)) => {
                        record.points_counted_as_new.push(counted_as_new(&node).await?);
                        node.kill().await?;
                        progress.say("node 1 killed with SIGKILL");
                        Kill::StartAt(Instant::now() + KILL_PAUSE)
                    }
                    _ => {
                        node = Some(interrupts.or(launch.start()).await?);
                        progress.say("node 1 started again and ready");
                        Kill::Over
                    }
                };
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn ended_by_itself(node: &mut Option<Node>) -> Error {
    match node {
        Some(node) => node.ended_by_itself().await,
        None => std::future::pending().await,
    }
}

async fn counted_as_new(node: &Node) -> Result<u64, Error> {
    Ok(node
        .ask(|client| client.tsdb())
        .await?
        .pipeline
        .stored_points)
}

/// Stops a node on the way out with an error, which stays the one that is told.
async fn stop_after(node: Node, error: &Error) {
    if let Err(second) = node.stop().await {
        eprintln!("after the error \"{error}\": {second}");
    }
}

/// Waits until the store has all, reads the counters, and queries one device.
async fn last_look(node: &Node, launch: &Launch, record: &mut Record) -> Result<String, Error> {
    let status = match &launch.kafka {
        None => caught_up::read(node).await?,
        Some(kafka) => caught_up::sealed(node, kafka, record.devices).await?,
    };
    record
        .points_counted_as_new
        .push(status.pipeline.stored_points);
    record.bytes_per_point = status.store.merged_bytes_per_point;
    let device = profile::device_id(record.devices - 1);
    let asked = device.clone();
    let answer = node
        .ask(move |client| client.query(&asked, &Question::default()))
        .await?;
    Ok(describe_rows(&device, &answer))
}

fn describe_rows(device: &str, answer: &QueryAnswer) -> String {
    let mut text = format!(
        "{device}: {} rows in the last hour, the newest:\n",
        answer.rows.len()
    );
    text.push_str(&format!("{:>26}", "time"));
    for name in METRICS_SHOWN {
        text.push_str(&format!("{name:>14}"));
    }
    text.push('\n');
    for row in &answer.rows[answer.rows.len().saturating_sub(ROWS_SHOWN)..] {
        text.push_str(&format!("{:>26}", format_time(row.ts)));
        for name in METRICS_SHOWN {
            let value = row
                .metrics
                .get(name)
                .map_or_else(|| "-".to_owned(), ToString::to_string);
            text.push_str(&format!("{value:>14}"));
        }
        text.push('\n');
    }
    text
}

/// Writes the result and the commands to go on with.
fn show(
    options: &Options,
    launch: &Launch,
    folder: &Folder,
    report: &Report,
    rows: &str,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let commands = commands(options, launch, folder, report);
    let written = if options.json {
        eprint!("{rows}\n{report}\n{commands}");
        writeln!(out, "{}", report.to_json())
    } else {
        write!(out, "{rows}\n{report}\n{commands}")
    };
    written
        .and_then(|()| out.flush())
        .map_err(|error| Error::Failed(format!("standard output: {error}")))
}

fn commands(options: &Options, launch: &Launch, folder: &Folder, report: &Report) -> String {
    let device = profile::device_id(report.devices - 1);
    let path = folder.path().display();
    let data = folder.node_data();
    let data = data.display();
    let serve = match &launch.kafka {
        None => format!("--data {data}"),
        Some(kafka) => format!(
            "--config {} --kafka {} --data {data}",
            folder.node_config().display(),
            kafka.bootstrap
        ),
    };
    if options.keep {
        format!(
            "go on, while this node serves:\n  \
             tidewire query {device} --metric battery --admin http://{admin}\n  \
             curl 'http://{admin}/v1/query/{device}?from=-15m&metric=speed'\n  \
             mosquitto_sub -h {host} -p {port} -t 'fleet/#' -v\n",
            admin = launch.admin,
            host = launch.mqtt.ip(),
            port = launch.mqtt.port(),
        )
    } else if options.data.is_some() || !report.is_ok() {
        format!(
            "go on:\n  \
             tidewire query {device} --metric battery --data {data}\n  \
             tidewire demo --check {path}\n  \
             tidewire serve {serve}\n"
        )
    } else {
        "go on (the temporary folder of this run is removed):\n  \
         tidewire demo --keep                  # serves on after the check\n  \
         tidewire demo --data ./tidewire-demo  # keeps the data\n  \
         tidewire demo --kill                  # kills the node in the middle\n"
            .to_owned()
    }
}

/// Starts the node again and serves until Ctrl-C.
async fn serve_on(launch: &Launch, interrupts: &mut Interrupts) -> Result<(), Error> {
    let mut node = interrupts.or(launch.start()).await?;
    eprintln!(
        "serving on mqtt://{} and http://{} until Ctrl-C",
        launch.mqtt, launch.admin
    );
    tokio::select! {
        error = node.ended_by_itself() => return Err(error),
        () = interrupts.recv() => {}
    }
    node.stop().await
}

/// Checks a folder, see [`super::check`].
pub(super) fn check_folder(path: &Path) -> Result<Report, Error> {
    let folder = Folder::at(path);
    let record = folder.read_record()?;
    if let (Some(Kafka { bootstrap, topic }), false) = (&record.kafka, record.complete) {
        return Err(Error::Failed(format!(
            "{}: this demo did not reach its end, and what its store had not sealed by then is in topic {topic} of \
             Kafka at {bootstrap}, not in this folder: there is no verdict",
            path.display()
        )));
    }
    let store = super::store::Scanned::open(&folder.node_data())?;
    check::compare(&folder.ledger(), &record, &store)
}
