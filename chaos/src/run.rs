//! One scenario from the first process to the verdict, in this process.

mod turns;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::cluster::{Cluster, Setup, State};
use crate::faults::Active;
use crate::network::Network;
use crate::plan::{Planned, plan};
use crate::report::{FaultRecord, Figure, Report};
use crate::scenario::Scenario;
use crate::timeline::Timeline;
use crate::waited::Waited;
use crate::watch::Watch;
use crate::workload::Workload;

/// Time between two looks at everything.
const TICK: Duration = Duration::from_millis(50);
/// Time from the start of the last node until all are one cluster.
const WHOLE_DEADLINE: Duration = Duration::from_secs(120);
/// Time from the start of the clients until messages are acknowledged.
const FLOW_DEADLINE: Duration = Duration::from_secs(120);
/// Time from a start of a node until it takes clients.
pub(crate) const READY_DEADLINE: Duration = Duration::from_secs(60);
/// Time from SIGTERM to the end of a process; a node's own `stop_deadline` is 30 s.
pub(crate) const STOP_DEADLINE: Duration = Duration::from_secs(45);
/// Open files that are wanted; a client needs one.
const FILES_WANTED: u64 = 65_536;
/// What a node has unless the scenario says otherwise: one thread for connections, since all share the
/// cores, queues that overflow only where a scenario says so, and blocks that a short run seals and merges.
const CONFIG: &str = "\
io_threads = 1
memory_bytes_limit = 402653184

[mqtt]
queue_messages_limit = 100000
queue_bytes_limit = 67108864

[telemetry]
head_age_max = \"5s\"
block_rows = 16
";

/// Is one run of one scenario.
#[derive(Clone, Debug)]
pub struct Job {
    /// The scenario.
    pub scenario: Scenario,
    /// Seed of faults and workload.
    pub seed: u64,
    /// How long faults are drawn.
    pub duration: Duration,
    /// Folder for the report; it is there.
    pub out: PathBuf,
    /// Folder for the nodes' folders; it is there.
    pub data: PathBuf,
    /// The program whose `serve` is a node.
    pub program: PathBuf,
    /// Whether this process is in namespaces of its own.
    pub is_in_namespace: bool,
    /// Kafka for the nodes.
    pub kafka: Option<String>,
    /// Processes of its brokers.
    pub kafka_pids: Vec<u32>,
    /// Defect that the nodes are told to have.
    pub defect: Option<String>,
}

/// Runs a scenario in this process and leaves report.json, report.md and timeline.png in its folder.
/// Blocks; the nodes are children of this process.
///
/// # Errors
/// [`Error`]. What a checker found is no error but in the report.
pub fn run_here(job: Job) -> Result<Report, Error> {
    raise_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Error::Failed(format!("the async runtime: {error}")))?;
    // On this thread: the nodes are to end with it, and a thread of the runtime might end earlier.
    runtime.block_on(async {
        let mut run = Run::begin(job).await?;
        let report = run.go().await;
        run.cut();
        report
    })
}

/// Raises the limit of open files as far as it goes; clients that get none try again.
fn raise_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit
        .maximum
        .map_or(FILES_WANTED, |most| most.min(FILES_WANTED));
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, wanted, "the limit of open files stays");
        }
    }
}

/// Is a run on its way.
pub(crate) struct Run {
    pub(crate) job: Job,
    pub(crate) cluster: Cluster,
    pub(crate) network: Option<Network>,
    pub(crate) watch: Watch,
    pub(crate) workload: Option<Workload>,
    pub(crate) faults: Vec<FaultRecord>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) waited: Vec<Waited>,
    pub(crate) ended: Vec<String>,
    stop: CancellationToken,
    interrupts: Interrupts,
    /// When the process began, and when the faults did.
    pub(crate) begun: Instant,
    pub(crate) faults_from: Instant,
    /// From when the clients count.
    pub(crate) workload_from: Instant,
    pub(crate) timeline: Timeline,
    sampled: Instant,
    pub(crate) config: String,
    /// Nodes that have to end by themselves.
    pub(crate) ending: Vec<usize>,
    restarts: usize,
    /// Whether nothing is broken and the cluster was whole, so that acknowledgements have to come.
    pub(crate) is_calm: bool,
    pub(crate) flow: Flow,
    /// Looks at what has to go on, and what did not.
    pub(crate) looks: u64,
    pub(crate) findings: Vec<String>,
    pub(crate) found: u64,
}

/// Whether acknowledgements come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) acked: u64,
    /// When the last one came, or when they were due from.
    since: Instant,
    /// Longest time without any, in the whole run and since the last fault began.
    pub(crate) stall: Duration,
    stall_of_fault: Duration,
    is_told: bool,
    /// Nobody publishes any more.
    pub(crate) is_over: bool,
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
}

impl Run {
    async fn begin(job: Job) -> Result<Self, Error> {
        let interrupts = Interrupts::listen()?;
        let mut config: toml::Table = toml::from_str(CONFIG).expect("it is TOML");
        merge(&mut config, &job.scenario.config);
        if job.scenario.kafka {
            merge(&mut config, &topic_of_its_own(job.seed));
        }
        let text = toml::to_string(&config)
            .map_err(|error| Error::Usage(format!("config of {}: {error}", job.scenario.name)))?;
        let defect = job.defect.iter();
        let setup = Setup {
            program: job.program.clone(),
            folder: job.data.clone(),
            config,
            environment: defect
                .map(|name| (DEFECT.to_owned(), name.clone()))
                .collect(),
            is_in_namespace: job.is_in_namespace,
            has_proxies: job.scenario.has_proxies(),
            disk_bytes: job.scenario.disk_bytes,
            kafka: job.scenario.kafka.then(|| job.kafka.clone()).flatten(),
        };
        let now = Instant::now();
        let nodes = job.scenario.nodes as usize;
        let mut run = Self {
            cluster: Cluster::new(setup),
            network: None,
            watch: Watch::default(),
            workload: None,
            faults: Vec::new(),
            figures: Vec::new(),
            waited: Vec::new(),
            ended: Vec::new(),
            stop: CancellationToken::new(),
            interrupts,
            begun: now,
            faults_from: now,
            workload_from: now,
            timeline: Timeline::default(),
            sampled: now,
            config: text,
            ending: Vec::new(),
            restarts: 0,
            is_calm: false,
            flow: Flow {
                acked: 0,
                since: now,
                stall: Duration::ZERO,
                stall_of_fault: Duration::ZERO,
                is_told: false,
                is_over: false,
            },
            looks: 0,
            findings: Vec::new(),
            found: 0,
            job,
        };
        if run.job.is_in_namespace {
            let mut network = Network::of(crate::scenario::NODES_MAX as usize * 2);
            network.heal()?;
            run.network = Some(network);
        }
        for _ in 0..nodes {
            run.add_node().await?;
        }
        Ok(run)
    }

    /// Prepares one node more and begins to watch it; its place.
    pub(crate) async fn add_node(&mut self) -> Result<usize, Error> {
        let at = self.cluster.add().await?;
        self.watch.add(self.cluster.member(at));
        Ok(at)
    }

    /// Starts a node that is down, and waits for nothing.
    pub(crate) fn spawn(&mut self, at: usize) -> Result<(), Error> {
        self.watch.begin_process(at);
        self.cluster.spawn(at)
    }

    async fn go(&mut self) -> Result<Report, Error> {
        self.found_cluster().await?;
        self.start_workload().await?;
        self.faults_from = Instant::now();
        self.timeline
            .begin_faults((self.faults_from - self.begun).as_secs_f64());
        self.flow.stall = Duration::ZERO;
        self.calm();
        let planned = plan(&self.job.scenario, self.job.duration, self.job.seed);
        self.carry_out(&planned).await?;
        let end = self.faults_from + self.job.duration;
        self.wait(end).await?;
        self.heal().await?;
        self.finish().await
    }

    /// Starts the clients, and waits until every subscription is there and messages flow.
    async fn start_workload(&mut self) -> Result<(), Error> {
        let mqtt = self.cluster.mqtt();
        let config = self.job.scenario.workload.clone();
        let ledger = self.ledger();
        let (seed, stop) = (self.job.seed, &self.stop);
        let workload = Workload::start(config, &mqtt, seed, ledger.as_deref(), stop)?;
        self.workload_from = Instant::now() - workload.now();
        self.workload = Some(workload);
        let flows = |run: &mut Self| {
            let workload = run.workload.as_ref();
            run.flow.acked > 0 && workload.is_some_and(Workload::is_flowing)
        };
        if self.until(FLOW_DEADLINE, flows).await? {
            return Ok(());
        }
        let standing = self.watch.standing(&self.cluster);
        Err(Error::Failed(format!(
            "messages do not flow {FLOW_DEADLINE:?} after the clients began: {standing}"
        )))
    }

    /// Where the fleet writes down what it sent; `None` without devices.
    pub(crate) fn ledger(&self) -> Option<PathBuf> {
        let has_devices = self.job.scenario.workload.devices > 0;
        has_devices.then(|| self.job.data.join("ledger"))
    }

    /// Starts the first node alone and then the others at once, and waits until all are one cluster.
    async fn found_cluster(&mut self) -> Result<(), Error> {
        let since = Instant::now();
        let places = self.cluster.places();
        self.spawn(places[0])?;
        self.until_ready(&places[..1], since).await?;
        for at in &places[1..] {
            self.spawn(*at)?;
        }
        let is_whole = |run: &mut Self| run.watch.is_whole(&run.cluster, since);
        if !self.until(WHOLE_DEADLINE, is_whole).await? || self.found > 0 {
            return Err(Error::Failed(format!(
                "the nodes are not one cluster within {WHOLE_DEADLINE:?}: {}; {}",
                self.watch.standing(&self.cluster),
                self.findings.join("; ")
            )));
        }
        Ok(())
    }

    /// Begins and ends the faults in the order of their times; what comes late comes at once.
    async fn carry_out(&mut self, planned: &[Planned]) -> Result<(), Error> {
        let mut active: Vec<(Duration, Active)> = Vec::new();
        let mut late = Duration::ZERO;
        let mut next = planned.iter().peekable();
        loop {
            if self.is_caught() {
                next = [].iter().peekable();
            }
            active.sort_by_key(|(end, _)| *end);
            let drawn = active.iter().position(|(_, one)| one.is_drawn);
            let ending = match (active.first(), next.peek()) {
                (None, None) => return Ok(()),
                (None, Some(_)) => None,
                (Some(_), None) => Some(0),
                (Some((end, _)), Some(one)) if *end <= one.begin + late => Some(0),
                (Some(_), Some(one)) => drawn.filter(|_| one.is_drawn),
            };
            if let Some(place) = ending {
                let (end, one) = active.remove(place);
                self.wait(self.faults_from + end).await?;
                self.end_fault(one, active.is_empty()).await?;
                // Those that come are as far behind it as they were to be.
                let behind = self.faults_from.elapsed().saturating_sub(end);
                late = late.max(behind.saturating_sub(TICK));
            } else if let Some(one) = next.next() {
                if one.begin + late > self.job.duration {
                    continue;
                }
                self.wait(self.faults_from + one.begin + late).await?;
                self.is_calm = false;
                if active.is_empty() {
                    self.flow.stall_of_fault = Duration::ZERO;
                }
                let begun = self.faults_from.elapsed();
                let fault = self.begin_fault(one).await?;
                let end = begun + one.lasts;
                active.push((self.faults_from.elapsed().max(end), fault));
            }
        }
    }

    /// Ends one fault, and waits until the cluster is whole if nothing else is broken.
    async fn end_fault(&mut self, one: Active, is_last: bool) -> Result<(), Error> {
        let record = self.end(one, is_last).await?;
        self.faults.push(record);
        if !is_last || !self.job.scenario.settle {
            return Ok(());
        }
        let whole_s = self.until_whole("after a fault").await?;
        let stall_s = self.flow.stall_of_fault.as_secs_f64();
        if let Some(record) = self.faults.last_mut() {
            record.whole_s = whole_s;
            record.stall_s = stall_s;
            eprintln!("{record}");
        }
        self.calm();
        Ok(())
    }

    /// Takes back whatever is broken yet and waits until the cluster is whole.
    async fn heal(&mut self) -> Result<(), Error> {
        if let Some(network) = &mut self.network {
            network.heal()?;
        }
        for at in self.cluster.places() {
            match self.cluster.member(at).state() {
                State::Paused => self.resume(at)?,
                State::Down => self.spawn(at)?,
                State::Running | State::Forgotten => {}
            }
        }
        self.until_whole("at the end").await?;
        Ok(())
    }

    /// Waits until the cluster is whole; how long that took, or `None` if it is not in time.
    pub(crate) async fn until_whole(&mut self, when: &str) -> Result<Option<f64>, Error> {
        let since = Instant::now();
        let deadline = self.job.scenario.heal_deadline;
        let is_whole = |run: &mut Self| run.watch.is_whole(&run.cluster, since);
        self.looks += 1;
        if self.until(deadline, is_whole).await? {
            return Ok(Some(since.elapsed().as_secs_f64()));
        }
        let standing = self.watch.standing(&self.cluster);
        self.find(&format!(
            "{when}, the cluster is not whole {deadline:?} after everything was healed: {standing}"
        ));
        Ok(None)
    }

    /// Waits until nodes that were started take clients.
    pub(crate) async fn until_ready(
        &mut self,
        places: &[usize],
        since: Instant,
    ) -> Result<(), Error> {
        self.looks += 1;
        let ready = |run: &mut Self| places.iter().all(|at| run.watch.is_ready(*at, since));
        if !self.until(READY_DEADLINE, ready).await? {
            let standing = self.watch.standing(&self.cluster);
            let ends = places.iter().map(|at| self.cluster.member(*at).log_end());
            let ends: Vec<String> = ends.collect();
            self.find(&format!(
                "a node is not ready {READY_DEADLINE:?} after its start: {standing}\n    {}",
                ends.join("\n    ")
            ));
        }
        Ok(())
    }

    /// Waits for a task while the run goes on.
    pub(crate) async fn during<T>(
        &mut self,
        mut task: tokio::task::JoinHandle<T>,
    ) -> Result<T, Error> {
        loop {
            tokio::select! {
                done = &mut task => return done.map_err(|error| Error::Failed(error.to_string())),
                ticked = self.tick() => ticked?,
            }
        }
    }

    /// Stops all nodes with SIGTERM at once: the last one alone has no quorum to end its epoch with.
    pub(crate) async fn stop_all(&mut self) -> Result<(), Error> {
        let running: Vec<usize> = self.cluster.places();
        self.ending.extend(&running);
        for at in &running {
            self.cluster.terminate(*at)?;
        }
        for at in running {
            self.until_stopped(at).await?;
        }
        Ok(())
    }

    /// Waits until a node that was told to stop has ended with 0; else it is killed and told.
    pub(crate) async fn until_stopped(&mut self, at: usize) -> Result<(), Error> {
        self.looks += 1;
        let mut ended = None;
        let deadline = Instant::now() + STOP_DEADLINE;
        while Instant::now() < deadline {
            ended = self.cluster.ended(at)?;
            if ended.is_some() || self.cluster.member(at).pid().is_none() {
                break;
            }
            self.tick().await?;
        }
        self.ending.retain(|one| *one != at);
        let number = self.cluster.member(at).number();
        match ended {
            Some(status) if status.success() => {}
            Some(status) => {
                let log = self.cluster.member(at).log_end();
                self.find(&format!(
                    "node {number} was to stop and ended: {status}\n    {log}"
                ));
            }
            None if self.cluster.member(at).pid().is_none() => {}
            None => {
                let log = self.cluster.member(at).log_end();
                self.find(&format!(
                    "node {number} did not stop within {STOP_DEADLINE:?} of SIGTERM\n    {log}"
                ));
                self.cluster.kill(&[at]).await?;
            }
        }
        Ok(())
    }

    /// Ends the clients on the way out.
    fn cut(&self) {
        self.stop.cancel();
    }
}

/// By which a node is told to have a defect.
const DEFECT: &str = "TIDEWIRE_DEFECT";

/// The topic in Kafka, of this run alone: what an earlier one left there is not its.
fn topic_of_its_own(seed: u64) -> toml::Table {
    let number: u64 = SmallRng::from_os_rng().random();
    let text = format!("[[telemetry.streams]]\ntopic = \"tidewire.chaos-{seed}-{number:016x}\"\n");
    toml::from_str(&text).expect("it is TOML")
}

/// Lays one configuration over another.
fn merge(under: &mut toml::Table, over: &toml::Table) {
    for (key, value) in over {
        match (under.get_mut(key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => merge(under, over),
            _ => {
                under.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenarios_configuration_lies_over_the_runs_own() {
        let mut config: toml::Table = toml::from_str(CONFIG).expect("good");
        let over = toml::from_str("io_threads = 2\n[telemetry]\nblock_rows = 8\n").expect("good");
        merge(&mut config, &over);
        assert_eq!(config["io_threads"].as_integer(), Some(2));
        let telemetry = config["telemetry"].as_table().expect("a table");
        assert_eq!(telemetry["block_rows"].as_integer(), Some(8));
        assert_eq!(telemetry["head_age_max"].as_str(), Some("5s"));
    }
}
