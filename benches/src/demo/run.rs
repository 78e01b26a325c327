//! The course of a demo from the first process to the verdict.

use std::io::{self, Write};
use std::path::Path;

use admin::question::Question;
use admin::tsdb::Status;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::answers::Answers;
use super::folder::{ClusterRecord, Folder, Kafka, Record};
use super::node::{Launch, Plan, demo_config};
use super::nodes::Nodes;
use super::publish::{pairs_of, publish};
use super::report::Report;
use super::show::{describe_rows, show};
use super::store::{Scanned, Sealed};
use super::{Error, Options, caught_up, check};
use crate::profile::{self, METRICS};

/// Descriptors that this process needs beside one socket a client.
const DESCRIPTORS_BESIDE: u64 = 128;

/// Runs the demo.
pub(super) fn run(options: &Options, out: &mut dyn Write) -> Result<Report, Error> {
    options.validate()?;
    require_descriptors(options)?;
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

/// Raises the limit of open files if it is too low, for this process and the nodes it starts.
fn require_descriptors(options: &Options) -> Result<(), Error> {
    let devices = options.devices;
    let clients = u64::from(devices) + 2 * u64::from(pairs_of(options.nodes));
    let needed = clients + DESCRIPTORS_BESIDE;
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
pub(super) struct Interrupts {
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
    pub(super) async fn recv(&mut self) {
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
    let launches = Launch::prepare(&Plan {
        program: options.program.as_deref(),
        folder,
        nodes: options.nodes,
        config: demo_config(kafka.as_ref()),
        kafka: kafka.as_ref(),
        mqtt: options.mqtt,
        admin: options.admin,
    })?;
    if let Some(Kafka { bootstrap, topic }) = &kafka {
        eprintln!("through Kafka at {bootstrap}, topic {topic}, which stays there");
    }
    let mut record = Record {
        kafka,
        cluster: (options.nodes > 1).then(ClusterRecord::default),
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
    let mut nodes = interrupts.or(Nodes::found(launches.clone())).await?;
    for Launch {
        number,
        mqtt,
        admin,
        ..
    } in &launches
    {
        eprintln!("node {number} serves mqtt://{mqtt} and http://{admin}");
    }

    let text = async {
        publish(options, &mut nodes, folder, &mut record, &mut interrupts).await?;
        let looking = last_look(&nodes, folder, &mut record);
        interrupts.or(looking).await
    };
    let text = match text.await {
        Ok(text) => text,
        Err(error) => {
            nodes.stop_after(&error).await;
            return Err(error);
        }
    };
    nodes.stop().await?;
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
    show(options, &launches, folder, &report, &text, out)?;
    if options.keep {
        serve_on(launches, &mut interrupts).await?;
    }
    Ok(report)
}

/// Waits until the stores have all, reads the counters, and queries one device.
async fn last_look(nodes: &Nodes, folder: &Folder, record: &mut Record) -> Result<String, Error> {
    if record.cluster.is_some() {
        read_back(nodes, folder, record).await?;
        let statuses =
            caught_up::sealed_by_all(nodes, record.kafka.as_ref(), record.devices).await?;
        count_of_all(&statuses, record);
        return describe(nodes, record).await;
    }
    let node = nodes.running().next().expect("it runs until it is stopped");
    let status = match &record.kafka {
        None => caught_up::read(node).await?,
        Some(kafka) => caught_up::sealed(node, kafka, record.devices).await?,
    };
    record
        .points_counted_as_new
        .push(status.pipeline.stored_points);
    record.bytes_per_point = status.store.merged_bytes_per_point;
    describe(nodes, record).await
}

/// Reads every acknowledged point back from the running nodes, each device from one of them.
async fn read_back(nodes: &Nodes, folder: &Folder, record: &mut Record) -> Result<(), Error> {
    let answers = Answers::of(nodes, record.devices);
    let (ledger, asked) = (folder.ledger(), record.clone());
    let comparing = tokio::task::spawn_blocking(move || check::compare(&ledger, &asked, &answers));
    let report = comparing
        .await
        .map_err(|error| Error::Failed(error.to_string()))??;
    for violation in &report.violations {
        eprintln!(
            "in the nodes' answers, {} at {}: {}",
            violation.device, violation.time, violation.detail
        );
    }
    if let Some(cluster) = &mut record.cluster {
        cluster.lost_in_answers = report.lost;
    }
    Ok(())
}

/// Takes the counters of several nodes. What the killed one counted before counts if it is more
/// than what it has counted since: some of its rows it may have counted twice.
fn count_of_all(statuses: &[Status], record: &mut Record) {
    let before = record.points_counted_as_new.pop().unwrap_or(0);
    let killed = record.cluster.as_ref().and_then(|cluster| cluster.killed);
    let counts = (1..).zip(statuses).map(|(number, status)| {
        let counted = status.pipeline.stored_points;
        if Some(number) == killed {
            counted.max(before)
        } else {
            counted
        }
    });
    record.points_counted_as_new = vec![counts.sum()];
    let merged: Vec<f64> = statuses
        .iter()
        .filter_map(|status| status.store.merged_bytes_per_point)
        .collect();
    if !merged.is_empty() {
        record.bytes_per_point = Some(merged.iter().sum::<f64>() / merged.len() as f64);
    }
}

/// Queries the last device, of several nodes from the last.
async fn describe(nodes: &Nodes, record: &Record) -> Result<String, Error> {
    let device = profile::device_id(record.devices - 1);
    let asked = device.clone();
    let node = nodes
        .running()
        .last()
        .expect("they run until they are stopped");
    let answer = node
        .ask(move |client| client.query(&asked, &Question::default()))
        .await?;
    Ok(describe_rows(&device, &answer))
}

/// Starts the nodes again and serves until Ctrl-C.
async fn serve_on(launches: Vec<Launch>, interrupts: &mut Interrupts) -> Result<(), Error> {
    let mut nodes = interrupts.or(Nodes::again(launches)).await?;
    for launch in nodes.launches() {
        eprintln!(
            "serving on mqtt://{} and http://{} until Ctrl-C",
            launch.mqtt, launch.admin
        );
    }
    tokio::select! {
        error = nodes.ended_by_itself() => return Err(error),
        () = interrupts.recv() => {}
    }
    nodes.stop().await
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
    if record.nodes > 1 {
        if !record.complete {
            return Err(Error::Failed(format!(
                "{}: this demo of {} nodes did not reach its end, and what a store had not sealed by then may be in \
                 another node's log: there is no verdict",
                path.display(),
                record.nodes
            )));
        }
        let data = (1..=record.nodes).map(|node| folder.node_data(node));
        return check::compare(&folder.ledger(), &record, &Sealed::open(data)?);
    }
    let store = Scanned::open(&folder.node_data(1))?;
    check::compare(&folder.ledger(), &record, &store)
}
