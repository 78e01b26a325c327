//! The telemetry line of a node: log, writer, hot store, queries.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use admin::query::{PipelineStatus, TsdbStatus};
use runtime::ractor::{Actor, ActorRef};
use runtime::{ChildSpec, Clock, Restart, Supervisor, SupervisorMessage};
use storage::fs::Fs;
use storage::log::EmbeddedLog;
use storage::tsdb::{self, Tsdb};
use tokio::task::{AbortHandle, JoinHandle};

use crate::buckets::{
    self, Alone, Asker, Cluster, Copier, Heard, Keeper, Puller, Pulls, Reader, Signs,
};
use crate::config::Config;
use crate::ingest::Ingest;
use crate::kafka::sender::Handle;
use crate::merger::Merger;
use crate::operations::Replays;
use crate::parts::{self, Folders, Parts};
use crate::progress::Progress;
use crate::query::{QueryService, status_of};
use crate::writer::{StoreWriter, WriterContext, positions_of};

/// Restarts of the writer within [`RESTART_WINDOW_MS`] after which the process is to end.
const RESTARTS_MAX: usize = 5;
const RESTART_WINDOW_MS: u64 = 60_000;

/// Says that the line cannot go on: a disk failed or a stored thing is damaged. Nothing more is
/// acknowledged; the process is to end.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the telemetry line cannot go on: {0}")]
pub struct Fatal(pub String);

/// Is called, perhaps from several threads, when the line cannot go on. In production it ends the
/// process.
pub type OnFatal = Arc<dyn Fn(Fatal) + Send + Sync>;

/// Says why the line could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A value of the configuration is out of its range; nothing was touched.
    #[error("{0}")]
    Config(String),
    /// The log could not be opened or does not fit the store.
    #[error("telemetry log: {0}")]
    Log(String),
    /// The dead letters could not be opened.
    #[error("dead letters: {0}")]
    DeadLetters(String),
    /// The hot store could not be opened.
    #[error("hot store: {0}")]
    Store(String),
    /// The machine gave no thread or actor.
    #[error("cannot start {0}")]
    Start(String),
}

/// Sabotage: what a test leaves out to see that its checks bite.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Defects {
    /// Of the log.
    pub log: storage::log::Defects,
    /// Of the store.
    pub tsdb: tsdb::Defects,
}

/// Is the telemetry line of a node, the one object that the broker holds.
#[derive(Debug)]
pub struct Telemetry {
    pub(crate) ingest: Ingest,
    query: QueryService,
    tsdb: Tsdb,
    pub(crate) running: Running,
    pub(crate) replays: Replays,
    pub(crate) peers_queries: Arc<tokio::sync::Semaphore>,
    pub(crate) peers_copies: Arc<tokio::sync::Semaphore>,
}

/// What ends with the line.
pub(crate) struct Running {
    /// This node's own log of dead letters.
    pub(crate) letters: EmbeddedLog,
    /// What sends to Kafka; none with the embedded log.
    pub(crate) kafka: Option<Handle>,
    pub(crate) context: Arc<WriterContext>,
    /// Reads the log for other nodes; none with Kafka.
    pub(crate) reader: Option<Reader>,
    pub(crate) heard: Arc<Heard>,
    /// What tells the table, and asks other nodes.
    tasks: Vec<AbortHandle>,
    supervisor: ActorRef<SupervisorMessage>,
    watch: Mutex<Option<JoinHandle<()>>>,
    shut: AtomicBool,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("shut", &self.shut)
            .finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Opens or creates the line in `data_dir` (folders `log`, `dlq` and `tsdb`) and starts its
    /// writer, which replays what the log holds beyond the store. Must be called within a tokio
    /// runtime; the disk work is done on its blocking threads.
    ///
    /// # Errors
    /// Nothing was started. A torn tail of the log may have been cut.
    pub async fn open(
        data_dir: &Path,
        fs: Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
        config: Config,
        on_fatal: OnFatal,
    ) -> Result<Self, OpenError> {
        Self::open_sabotaged(data_dir, fs, clock, config, on_fatal, Defects::default()).await
    }

    /// As [`Telemetry::open`], as one of several nodes: the writer takes the buckets that the
    /// cluster's table gives this node, once it is known.
    ///
    /// # Errors
    /// As [`Telemetry::open`].
    pub async fn open_in(
        cluster: Arc<dyn Cluster>,
        data_dir: &Path,
        fs: Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
        config: Config,
        on_fatal: OnFatal,
    ) -> Result<Self, OpenError> {
        let defects = Defects::default();
        Self::open_with(cluster, data_dir, fs, clock, config, on_fatal, defects).await
    }

    /// As [`Telemetry::open`], with mistakes that a checker must find.
    ///
    /// # Errors
    /// As [`Telemetry::open`].
    #[doc(hidden)]
    pub async fn open_sabotaged(
        data_dir: &Path,
        fs: Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
        config: Config,
        on_fatal: OnFatal,
        defects: Defects,
    ) -> Result<Self, OpenError> {
        let cluster = Arc::new(Alone::new(config.node, config.buckets));
        Self::open_with(cluster, data_dir, fs, clock, config, on_fatal, defects).await
    }

    async fn open_with(
        cluster: Arc<dyn Cluster>,
        data_dir: &Path,
        fs: Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
        config: Config,
        on_fatal: OnFatal,
        defects: Defects,
    ) -> Result<Self, OpenError> {
        parts::check(&config)?;
        let folders = Folders::of(data_dir);
        let parts = {
            let (config, on_fatal) = (config.clone(), Arc::clone(&on_fatal));
            let clock = Arc::clone(&clock);
            tokio::task::spawn_blocking(move || {
                parts::open(&fs, &folders, &config, &clock, &on_fatal, defects)
            })
        };
        let parts = parts
            .await
            .map_err(|error| OpenError::Start(error.to_string()))??;
        Self::start(parts, cluster, clock, &config, on_fatal).await
    }

    async fn start(
        parts: Parts,
        cluster: Arc<dyn Cluster>,
        clock: Arc<dyn Clock>,
        config: &Config,
        on_fatal: OnFatal,
    ) -> Result<Self, OpenError> {
        let Parts {
            log,
            embedded,
            outlets,
            by_stream,
            ports,
            tsdb,
            dead_letters,
            letters,
            counters,
            kafka,
            stop,
        } = parts;
        let ingest = Ingest::new(outlets, by_stream, ports, config.node, config.buckets);
        let progress = Arc::new(Progress::new());
        let asker = Asker {
            node: config.node,
            cluster: Arc::clone(&cluster),
        };
        let query = QueryService::start(
            &tsdb,
            Arc::clone(&log),
            Arc::clone(&progress),
            asker,
            config.query_wait,
        )
        .map_err(|error| OpenError::Start(format!("the query threads: {error}")))?;
        let (sealed, merge) = crossbeam_channel::bounded(1);
        let pulls = Arc::new(Pulls::new());
        let context = Arc::new(WriterContext {
            log,
            node: config.node,
            table: cluster.table(),
            pulls,
            tsdb: tsdb.clone(),
            dead_letters,
            progress,
            counters,
            source_error: Mutex::new(None),
            messages_per_s_max: config.store_messages_per_s_max,
            clock,
            head_bytes_limit: config.head_bytes_limit,
            head_age_max_ms: config.head_age_max.as_millis() as u64,
            stop: Arc::clone(&stop),
            seal_asked: AtomicU64::new(0),
            seal_done: tokio::sync::watch::Sender::new(0),
            sealed,
            in_store: AtomicBool::new(false),
            on_fatal: Arc::clone(&on_fatal),
        });
        let sharing = Sharing::start(&context, &cluster, embedded)?;
        let children = vec![
            writer_child(Arc::clone(&context)),
            merger_child(
                tsdb.clone(),
                merge,
                Arc::clone(&stop),
                Arc::clone(&on_fatal),
            ),
        ];
        let supervisor = Supervisor {
            name: "telemetry",
            restarts_max: RESTARTS_MAX,
            window_ms: RESTART_WINDOW_MS,
            restarts: config.restarts.clone(),
        };
        let (supervisor, ended) = Actor::spawn(None, supervisor, children)
            .await
            .map_err(|error| OpenError::Start(format!("the telemetry supervisor: {error}")))?;
        let watch = tokio::spawn(async move {
            if let Err(error) = ended.await {
                tracing::warn!(%error, "the telemetry supervisor's task failed");
            }
            if !stop.load(Ordering::Acquire) {
                on_fatal(Fatal(
                    "the store's writer failed again and again".to_owned(),
                ));
            }
        });
        let running = Running {
            letters,
            kafka,
            context,
            reader: sharing.reader,
            heard: sharing.heard,
            tasks: sharing.tasks,
            supervisor,
            watch: Mutex::new(Some(watch)),
            shut: AtomicBool::new(false),
        };
        let replays = Replays::new(&ingest, config.streams.outlets());
        Ok(Self {
            ingest,
            query,
            tsdb,
            running,
            replays,
            peers_queries: buckets::turns(),
            peers_copies: buckets::turns_of_copies(),
        })
    }

    /// Takes batches from the broker.
    pub fn ingest(&self) -> Ingest {
        self.ingest.clone()
    }

    /// Answers questions.
    pub fn query(&self) -> QueryService {
        self.query.clone()
    }

    /// Is what passed the line since the start.
    pub fn status(&self) -> PipelineStatus {
        let counts = self.ingest.counts();
        let context = &self.running.context;
        let counters = &context.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let stats = self.tsdb.stats();
        PipelineStatus {
            accepted_messages: counts.accepted_messages,
            accepted_bytes: counts.accepted_bytes,
            inflight_bytes: counts.inflight_bytes,
            refused_batches: counts.refused_batches,
            processed_messages: load(&counters.processed_messages),
            stored_rows: load(&counters.stored_rows),
            stored_points: load(&counters.stored_points),
            duplicate_points: load(&counters.duplicate_points),
            late_rows: load(&counters.late_rows),
            replaced_points: load(&counters.replaced_points),
            dead_letters: counters.dead_letters(),
            lag: self.lagging(),
            seals: stats.seals,
            merges: stats.merges,
            writer_restarts: load(&counters.writer_restarts),
            log_bytes: context.log.disk_bytes(),
        }
    }

    fn lagging(&self) -> BTreeMap<u32, u64> {
        let lags = self.lags().into_iter().filter(|one| one.lag > 0);
        lags.map(|one| (u32::from(one.partition), one.lag))
            .collect()
    }

    /// Is the state of the hot store.
    pub fn tsdb_status(&self) -> TsdbStatus {
        status_of(&self.tsdb.stats())
    }

    /// Waits until the writer has passed what is durable now of its own buckets in this node's log,
    /// and has sealed it. For
    /// tests, and for whoever wants everything in segments before a copy.
    pub async fn seal(&self) {
        let context = &self.running.context;
        let table = context.table.borrow().clone();
        let own = table.map_or_else(Default::default, |table| table.taken_by(context.node));
        for (partition, end) in (0..).zip(context.log.ends()) {
            if own.contains(&partition) {
                context
                    .progress
                    .reach(context.log.id(), partition, end)
                    .await;
            }
        }
        let mut done = context.seal_done.subscribe();
        let asked = context.seal_asked.fetch_add(1, Ordering::AcqRel) + 1;
        // The sender lives as long as `self`.
        if done.wait_for(|done| *done >= asked).await.is_err() {
            tracing::debug!("the writer is gone");
        }
    }

    /// Refuses new batches, makes durable what was submitted (its completions are called), stops
    /// writer and merges. Rows not yet sealed stay in the log and are replayed by the next start.
    /// A second call does nothing.
    pub async fn shutdown(&self) {
        if self.running.shut.swap(true, Ordering::AcqRel) {
            return;
        }
        self.running.stop();
        self.ingest.stopped();
        let context = Arc::clone(&self.running.context);
        let closed = tokio::task::spawn_blocking(move || context.log.close()).await;
        if let Err(error) = closed {
            tracing::error!(%error, "closing the log failed");
        }
        // The children stop by themselves once their threads have ended.
        for child in self.running.supervisor.get_children() {
            if let Err(error) = child.wait(Some(STOP_WAIT)).await {
                tracing::warn!(%error, "a telemetry thread does not end");
            }
        }
        self.running.supervisor.stop(None);
        let watch = self
            .running
            .watch
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(watch) = watch
            && let Err(error) = watch.await
        {
            tracing::warn!(%error, "watching the telemetry supervisor failed");
        }
        let context = Arc::clone(&self.running.context);
        let letters = self.running.letters.clone();
        let closed = tokio::task::spawn_blocking(move || {
            context
                .dead_letters
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .close();
            letters.close();
            context.tsdb.close();
        });
        if let Err(error) = closed.await {
            tracing::error!(%error, "closing the dead letters failed");
        }
    }
}

/// How long a stop waits for a seal or a piece of a merge to end.
const STOP_WAIT: Duration = Duration::from_secs(20);

impl Running {
    fn stop(&self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.context.stop.store(true, Ordering::Release);
        // A full channel wakes the merge thread as well.
        if self.context.sealed.try_send(()).is_err() {
            tracing::debug!("the merge thread is awake or gone");
        }
    }
}

impl Drop for Running {
    /// Ends the threads of a line that was not shut down, as after a crash in a test.
    fn drop(&mut self) {
        self.stop();
        self.supervisor.stop(None);
    }
}

/// What works for other nodes, and asks them.
struct Sharing {
    reader: Option<Reader>,
    heard: Arc<Heard>,
    tasks: Vec<AbortHandle>,
}

impl Sharing {
    fn start(
        context: &Arc<WriterContext>,
        cluster: &Arc<dyn Cluster>,
        embedded: Option<EmbeddedLog>,
    ) -> Result<Self, OpenError> {
        let (signs, heard): (Arc<Signs>, Arc<Heard>) = Default::default();
        let stored = positions_of(&context.tsdb, &*context.log).map_err(OpenError::Store)?;
        let keeper = Keeper {
            node: context.node,
            cluster: Arc::clone(cluster),
            log: Arc::clone(&context.log),
            signs: Arc::clone(&signs),
            stored: stored.values().flat_map(BTreeMap::keys).copied().collect(),
        };
        let copier = Copier {
            node: context.node,
            cluster: Arc::clone(cluster),
            log: Arc::clone(&context.log),
            tsdb: context.tsdb.clone(),
            counters: Arc::clone(&context.counters),
            on_fatal: Arc::clone(&context.on_fatal),
        };
        let mut sharing = Self {
            reader: None,
            heard: Arc::clone(&heard),
            tasks: vec![
                tokio::spawn(keeper.run()).abort_handle(),
                tokio::spawn(copier.run()).abort_handle(),
            ],
        };
        if let Some(log) = embedded {
            let clock = Arc::clone(&context.clock);
            let wake = Arc::clone(&signs);
            let reader = Reader::start(log.clone(), cluster.table(), clock, move || wake.wake());
            let failed = |error| OpenError::Start(format!("the log's reader: {error}"));
            sharing.reader = Some(reader.map_err(failed)?);
            let puller = Puller {
                node: context.node,
                cluster: Arc::clone(cluster),
                pulls: Arc::clone(&context.pulls),
                signs,
                heard,
                tsdb: context.tsdb.clone(),
                log,
            };
            sharing
                .tasks
                .push(tokio::spawn(puller.run()).abort_handle());
        }
        Ok(sharing)
    }
}

fn writer_child(context: Arc<WriterContext>) -> ChildSpec {
    ChildSpec {
        name: "store-writer".to_owned(),
        restart: Restart::OnFailure,
        spawn: Box::new(move |supervisor| {
            let writer = StoreWriter {
                context: Arc::clone(&context),
            };
            Box::pin(async move {
                let (actor, _) = Actor::spawn_linked(None, writer, (), supervisor).await?;
                Ok(actor.get_cell())
            })
        }),
    }
}

fn merger_child(
    tsdb: Tsdb,
    sealed: crossbeam_channel::Receiver<()>,
    stop: Arc<AtomicBool>,
    on_fatal: OnFatal,
) -> ChildSpec {
    ChildSpec {
        name: "tsdb-merge".to_owned(),
        restart: Restart::OnFailure,
        spawn: Box::new(move |supervisor| {
            let merger = Merger {
                tsdb: tsdb.clone(),
                sealed: sealed.clone(),
                stop: Arc::clone(&stop),
                on_fatal: Arc::clone(&on_fatal),
            };
            Box::pin(async move {
                let (actor, _) = Actor::spawn_linked(None, merger, (), supervisor).await?;
                Ok(actor.get_cell())
            })
        }),
    }
}
