//! One node: starts everything in order, wires it, stops it in the reverse order.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use bridge::{Streams, Telemetry};
use mqtt::ReasonCode;
use ractor::{Actor, ActorCell, ActorRef};
use runtime::{
    ChildSpec, Clock, IoThread, Random, Restart, Supervisor, SupervisorMessage, SystemClock,
    ractor, usable_cores,
};
use session::NodeEpoch;
use storage::fs::RealFs;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::counters::Counters;
use crate::data_folder::{DataFolder, FolderError};
use crate::defects::Defects;
use crate::exits::{ConnectionSupervisor, Seat};
use crate::groups::Groups;
use crate::http::{AdminState, router};
use crate::io::{INBOX_BATCHES_LIMIT, IoMessage, Shared, Threads, serve};
use crate::listener::{self, Listener};
use crate::routes::{RouteTrie, Routes, RoutesMessage};
use crate::shard::{ShardHost, ShardMessage, Shards, TICK_MS};
use crate::{Config, ConfigError};

/// Different filters of a node's clean sessions: more than `mqtt.subscriptions_limit` of a million
/// connections.
const LOCAL_FILTERS_MAX: usize = 1 << 32;

/// How often a stop disconnects another share of the clients.
const STOP_STEP: Duration = Duration::from_millis(20);

/// Why a node did not start. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data folder is refused.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The Raft groups do not start.
    #[error(transparent)]
    Groups(#[from] crate::groups::GroupsError),
    /// The telemetry line cannot be opened.
    #[error(transparent)]
    Telemetry(#[from] bridge::OpenError),
    /// An address cannot be bound.
    #[error(
        "{key} = {address}: {error}; is another program listening there? choose another with {flag}"
    )]
    Bind {
        /// Key of the configuration.
        key: &'static str,
        /// Its flag.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// The machine gives no thread or actor.
    #[error("cannot start {what}: {error}")]
    Spawn {
        /// What.
        what: &'static str,
        /// Why.
        error: String,
    },
}

impl StartError {
    /// Whether it is a matter of usage or configuration, found before anything was started.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Config(_) => true,
            Self::Folder(error) => {
                matches!(
                    error,
                    FolderError::Foreign { .. } | FolderError::Differs { .. }
                )
            }
            Self::Telemetry(error) => matches!(error, bridge::OpenError::Config(_)),
            Self::Groups(_) | Self::Bind { .. } | Self::Spawn { .. } => false,
        }
    }
}

/// A running node.
pub struct Node {
    /// Where MQTT clients connect.
    pub mqtt: SocketAddr,
    /// Where the admin API answers.
    pub admin: SocketAddr,
    /// Node number.
    pub number: u32,
    config: Config,
    state: Arc<AdminState>,
    shared: Arc<Shared>,
    threads: Vec<IoThread<IoMessage>>,
    root: ActorRef<SupervisorMessage>,
    listeners: ActorRef<SupervisorMessage>,
    /// Gone once nobody listens any more.
    listening: Weak<TcpListener>,
    http: tokio::task::JoinHandle<()>,
    ticks: tokio::task::JoinHandle<()>,
    telemetry: Option<Arc<Telemetry>>,
    groups: Groups,
    _folder: DataFolder,
}

impl Node {
    /// Starts a node: folder, telemetry line, io threads, shards, listeners. Must be called
    /// within a multi-thread tokio runtime. Once it returns the node serves.
    ///
    /// # Errors
    /// Nothing runs after one.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let clock = Arc::new(SystemClock::default());
        Self::start_with(config, clock, Defects::default()).await
    }

    /// As [`Node::start`], with the time of this clock. Deadlines are looked at every 100 ms
    /// (connections) and 250 ms (sessions) of real time.
    ///
    /// # Errors
    /// Nothing runs after one.
    pub async fn start_with_clock(
        config: Config,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        Self::start_with(config, clock, Defects::default()).await
    }

    /// As [`Node::start_with_clock`], with something broken on purpose.
    ///
    /// # Errors
    /// Nothing runs after one.
    pub async fn start_with(
        config: Config,
        clock: Arc<dyn Clock>,
        defects: Defects,
    ) -> Result<Self, StartError> {
        config.validate()?;
        let streams = config.streams()?;
        let folder = DataFolder::open(&config)?;
        let mqtt = bind(
            "mqtt.listen",
            "--mqtt",
            config.mqtt.listen,
            config.mqtt.backlog,
        )?;
        let admin = bind("admin.listen", "--admin", config.admin.listen, 128)?;
        let number = folder.identity.node;
        let telemetry = match streams.is_empty() {
            true => None,
            false => Some(Arc::new(
                open_telemetry(&config, &streams, number, &clock).await?,
            )),
        };

        let groups = Groups::start(&config, &folder, &clock).await?;
        let shards = Shards::new(config.cluster.shards, config.memory().under_way());
        let count = if config.io_threads == 0 {
            usable_cores()
        } else {
            config.io_threads
        };
        let counters: Vec<Arc<Counters>> = (0..count).map(|_| Arc::default()).collect();
        let snapshot = Arc::new(ArcSwap::from_pointee(RouteTrie::new()));
        let (threads, begin) = start_threads(&counters)?;
        let handles = Threads::new(threads.iter().map(IoThread::handle).collect());

        let root = supervisor("root", Vec::new(), None).await?;
        let routes_slot = Arc::new(OnceLock::new());
        let wiring = Wiring {
            clock: Arc::clone(&clock),
            threads: handles.clone(),
            shards: shards.clone(),
            snapshot: Arc::clone(&snapshot),
            routes: Arc::clone(&routes_slot),
        };
        let children = state_children(&groups, &wiring);
        supervisor("state", children, Some(root.get_cell())).await?;

        let (seats, children) = connection_supervisors(&counters);
        supervisor("connections", children, Some(root.get_cell())).await?;
        let shared = Arc::new(Shared {
            session: Arc::new(config.session(&streams)),
            limits: config.codec(),
            node_epoch: NodeEpoch(groups.epoch.0),
            shard_count: NonZeroU32::new(u32::from(config.cluster.shards)).expect("validated"),
            streams,
            snapshot: Arc::clone(&snapshot),
            threads: handles.clone(),
            shards: shards.clone(),
            routes: routes_slot.get().expect("the routes have started").clone(),
            ingest: telemetry.as_ref().map(|line| line.ingest()),
            supervisors: seats,
            origins: origins(&config),
            mailbox_bytes_limit: config.mqtt.queue_bytes_limit,
            stash_bytes_limit: config.mqtt.stash_bytes_limit,
            telemetry_bytes_limit: config.telemetry.inflight_bytes_limit / count as u64,
            defects,
            stopping: AtomicBool::new(false),
            assigned_ids: AtomicU64::new(0),
            assigned_salt: Random::from_os().next_u64(),
            clock: Arc::clone(&clock),
        });
        for begin in begin {
            if begin.send(Arc::clone(&shared)).is_err() {
                unreachable!("an io thread waits for it");
            }
        }

        let addresses = (address(&mqtt), address(&admin));
        let state = Arc::new(AdminState {
            ready: AtomicBool::new(false),
            clock,
            counters: counters.clone(),
            shards: shards.clone(),
            raft: groups.raft.clone(),
            snapshot,
            telemetry: telemetry.clone(),
            node: admin::node::NodeInfo {
                node: number,
                version: env!("CARGO_PKG_VERSION").into(),
                mqtt: addresses.0.to_string(),
                admin: addresses.1.to_string(),
                shards: config.cluster.shards,
                buckets: config.telemetry.buckets,
                telemetry: telemetry.is_some(),
            },
        });
        let mqtt = Arc::new(mqtt);
        let listening = Arc::downgrade(&mqtt);
        let listeners = supervisor(
            "listeners",
            vec![listener(mqtt, &handles, &counters)],
            Some(root.get_cell()),
        )
        .await?;
        let http = tokio::spawn(serve_http(admin, Arc::clone(&state)));
        let ticks = tokio::spawn(tick(shards, shared.routes.clone()));
        state.ready.store(true, Ordering::Release);
        Ok(Self {
            mqtt: addresses.0,
            admin: addresses.1,
            number,
            config,
            state,
            shared,
            threads,
            root,
            listeners,
            listening,
            http,
            ticks,
            telemetry,
            groups,
            _folder: folder,
        })
    }

    /// Whether topics are telemetry here.
    pub fn telemetry(&self) -> bool {
        self.telemetry.is_some()
    }

    /// Stops in order (DESIGN §8): not ready, no new connections, clients disconnected at a rate
    /// with 0x8B, the log made durable. What has not ended by `stop_deadline` is cut.
    pub async fn stop(self) {
        self.state.ready.store(false, Ordering::Release);
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.listeners.stop(None);
        // The rest of the deadline is for the log.
        let patience = self.config.stop_deadline * 2 / 3;
        if tokio::time::timeout(patience, self.disconnect_all())
            .await
            .is_err()
        {
            tracing::warn!("clients were cut at the stop deadline");
        }
        for thread in 0..self.threads.len() {
            self.shared.threads.send(thread, IoMessage::End).await;
        }
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("an io thread had panicked");
                }
            }
        });
        if joined.await.is_err() {
            tracing::error!("waiting for the io threads failed");
        }
        // A DISCONNECT that was taken must be in the log: else the next start would publish its will.
        if tokio::time::timeout(patience, self.shared.shards.drain())
            .await
            .is_err()
        {
            tracing::warn!("the shards have not taken everything");
        }
        self.ticks.abort();
        self.root.stop(None);
        self.http.abort();
        if let Err(error) = self.http.await
            && error.is_panic()
        {
            tracing::error!(%error, "the admin API had panicked");
        }
        drop(self.state);
        drop(self.shared);
        self.groups.stop().await;
        if let Some(telemetry) = &self.telemetry {
            telemetry.shutdown().await;
        }
        // A supervisor that is told to stop does not wait for its children, and who starts a node
        // again wants the port.
        let closed = async {
            while self.listening.strong_count() > 0 {
                tokio::time::sleep(STOP_STEP).await;
            }
        };
        if tokio::time::timeout(patience, closed).await.is_err() {
            tracing::warn!(address = %self.mqtt, "the listener has not ended");
        }
    }

    async fn disconnect_all(&self) {
        let steps_per_s = 1_000 / STOP_STEP.as_millis() as usize;
        let share = self.config.stop_disconnects_per_s as usize / steps_per_s;
        let per_thread = share.div_ceil(self.shared.threads.len()).max(1);
        let open = || {
            self.state
                .counters
                .iter()
                .any(|one| one.connections_open.get() > 0)
        };
        while open() {
            for thread in 0..self.shared.threads.len() {
                let reason = ReasonCode::ServerShuttingDown;
                let kick = IoMessage::Kick {
                    reason,
                    count: per_thread,
                };
                self.shared.threads.send(thread, kick).await;
            }
            tokio::time::sleep(STOP_STEP).await;
        }
    }
}

fn origins(config: &Config) -> Box<[Mutex<session::Origins>]> {
    let limits = config.shard();
    let rows = limits.origins / usize::from(config.cluster.shards);
    let one = || Mutex::new(session::Origins::new(rows, limits.origin_s));
    std::iter::repeat_with(one)
        .take(usize::from(config.cluster.shards))
        .collect()
}

fn bind(
    key: &'static str,
    flag: &'static str,
    address: SocketAddr,
    backlog: u32,
) -> Result<TcpListener, StartError> {
    listener::bind(address, backlog).map_err(|error| StartError::Bind {
        key,
        flag,
        address,
        error,
    })
}

fn address(listener: &TcpListener) -> SocketAddr {
    listener
        .local_addr()
        .expect("a bound socket has an address")
}

async fn open_telemetry(
    config: &Config,
    streams: &Streams,
    number: u32,
    clock: &Arc<dyn Clock>,
) -> Result<Telemetry, bridge::OpenError> {
    let on_fatal = Arc::new(|fatal: bridge::Fatal| {
        // Nothing may be acknowledged any more, and nothing that is in memory can be trusted
        // (SEMANTICS, Damage): the process ends here and now.
        tracing::error!(%fatal, "the process ends");
        std::process::abort();
    });
    let line = config.line(number, streams);
    Telemetry::open(
        &config.data,
        Arc::new(RealFs),
        Arc::clone(clock),
        line,
        on_fatal,
    )
    .await
}

/// The io threads, each with what lets it begin.
type Started = (Vec<IoThread<IoMessage>>, Vec<oneshot::Sender<Arc<Shared>>>);

fn start_threads(counters: &[Arc<Counters>]) -> Result<Started, StartError> {
    let start = |(index, counters): (usize, &Arc<Counters>)| {
        let counters = Arc::clone(counters);
        let (begin, shared) = oneshot::channel();
        IoThread::start(index, INBOX_BATCHES_LIMIT, move |inbox| {
            serve(index, shared, counters, inbox)
        })
        .map(|thread| (thread, begin))
        .map_err(|error| StartError::Spawn {
            what: "an io thread",
            error: error.to_string(),
        })
    };
    let started: Result<Vec<_>, _> = counters.iter().enumerate().map(start).collect();
    Ok(started?.into_iter().unzip())
}

async fn supervisor(
    name: &'static str,
    children: Vec<ChildSpec>,
    parent: Option<ActorCell>,
) -> Result<ActorRef<SupervisorMessage>, StartError> {
    let supervisor = Supervisor {
        name,
        restarts_max: 10,
        window_ms: 60_000,
    };
    let spawned = match parent {
        Some(parent) => Actor::spawn_linked(None, supervisor, children, parent).await,
        None => Actor::spawn(None, supervisor, children).await,
    };
    let (supervisor, _) = spawned.map_err(|error| StartError::Spawn {
        what: "a supervisor",
        error: error.to_string(),
    })?;
    Ok(supervisor)
}

/// What the actors that hold state find each other by.
#[derive(Clone)]
struct Wiring {
    clock: Arc<dyn Clock>,
    threads: Threads,
    shards: Shards,
    snapshot: crate::routes::Snapshot,
    routes: Arc<OnceLock<ActorRef<RoutesMessage>>>,
}

/// The actors that hold state: none of them can be started again without losing what was
/// promised, so the end of one is the end of the process.
fn state_children(groups: &Groups, wiring: &Wiring) -> Vec<ChildSpec> {
    let mut children = vec![routes_spec(groups, wiring)];
    for (shard, group) in (0..).zip(&groups.shards) {
        let (group, epoch, epochs) = (group.clone(), groups.epoch, groups.epochs.clone());
        let (wiring, memory) = (wiring.clone(), groups.memory);
        let spawn = move |parent| {
            let host = ShardHost {
                shard,
                group: group.clone(),
                epoch,
                epochs: epochs.clone(),
                clock: Arc::clone(&wiring.clock),
                threads: wiring.threads.clone(),
                shards: wiring.shards.clone(),
                routes: Arc::clone(&wiring.routes),
                memory,
            };
            spawn_linked(host, parent)
        };
        children.push(ChildSpec {
            name: format!("shard-{shard}"),
            restart: Restart::EndProcess,
            spawn: Box::new(spawn),
        });
    }
    children
}

fn routes_spec(groups: &Groups, wiring: &Wiring) -> ChildSpec {
    let (group, epoch, epochs) = (groups.routes.clone(), groups.epoch, groups.epochs.clone());
    let wiring = wiring.clone();
    let spawn = move |parent| {
        let routes = Routes {
            group: group.clone(),
            epoch,
            epochs: epochs.clone(),
            filters_max: LOCAL_FILTERS_MAX,
            clock: Arc::clone(&wiring.clock),
            snapshot: Arc::clone(&wiring.snapshot),
            threads: wiring.threads.clone(),
            shards: wiring.shards.clone(),
            me: Arc::clone(&wiring.routes),
        };
        spawn_linked(routes, parent)
    };
    ChildSpec {
        name: "routes".into(),
        restart: Restart::EndProcess,
        spawn: Box::new(spawn),
    }
}

type Spawning = std::pin::Pin<Box<dyn Future<Output = Result<ActorCell, ractor::SpawnErr>> + Send>>;

fn spawn_linked<A: Actor<Arguments = ()>>(actor: A, parent: ActorCell) -> Spawning {
    Box::pin(async move {
        let (actor, _) = Actor::spawn_linked(None, actor, (), parent).await?;
        Ok(actor.get_cell())
    })
}

/// A supervisor for the connections of each io thread, and where the thread finds it.
fn connection_supervisors(counters: &[Arc<Counters>]) -> (Box<[Seat]>, Vec<ChildSpec>) {
    let of = |(thread, counters): (usize, &Arc<Counters>)| {
        let (seat, counters) = (Seat::default(), Arc::clone(counters));
        let taken = Arc::clone(&seat);
        let spawn = move |parent| {
            let (counters, seat) = (Arc::clone(&counters), Arc::clone(&taken));
            spawn_linked(ConnectionSupervisor { counters, seat }, parent)
        };
        let name = format!("connections-{thread}");
        (
            seat,
            ChildSpec {
                name,
                restart: Restart::Always,
                spawn: Box::new(spawn),
            },
        )
    };
    let (seats, children): (Vec<_>, Vec<_>) = counters.iter().enumerate().map(of).unzip();
    (seats.into(), children)
}

fn listener(socket: Arc<TcpListener>, threads: &Threads, counters: &[Arc<Counters>]) -> ChildSpec {
    let (threads, counters) = (threads.clone(), counters.to_vec());
    let accepted = Arc::default();
    let spawn = move |parent| {
        let listener = Listener {
            socket: Arc::clone(&socket),
            threads: threads.clone(),
            counters: counters.clone(),
            accepted: Arc::clone(&accepted),
        };
        spawn_linked(listener, parent)
    };
    ChildSpec {
        name: "mqtt-listener".into(),
        restart: Restart::Always,
        spawn: Box::new(spawn),
    }
}

async fn serve_http(listener: TcpListener, state: Arc<AdminState>) {
    if let Err(error) = axum::serve(listener, router(state)).await {
        tracing::error!(%error, "the admin API has ended");
    }
}

async fn tick(shards: Shards, routes: ActorRef<RoutesMessage>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(TICK_MS));
    loop {
        ticks.tick().await;
        if routes.cast(RoutesMessage::Tick).is_err() {
            tracing::debug!("the routes have ended: the node is stopping");
        }
        for shard in 0..shards.len() {
            shards.tell(shard, ShardMessage::Tick);
        }
    }
}
