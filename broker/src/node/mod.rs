//! One node: starts everything in order, wires it, stops it in the reverse order.

mod setup;
mod tree;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bridge::Telemetry;
use cluster_core::{NodeId, Offer, Sighting};
use mqtt::ReasonCode;
use ractor::ActorRef;
use runtime::{ChildSpec, IoThread, Random, Restarts, SupervisorMessage, ractor, usable_cores};
use session::NodeEpoch;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::buckets::Buckets;
use crate::config::ServerReference;
use crate::control::{self, Reporter};
use crate::counters::Counters;
use crate::data_folder::{DataFolder, FolderError};
use crate::drain::{self, Draining};
use crate::environment::Environment;
use crate::homes::Homes;
use crate::http::{AdminState, Doors, LOOKS_MAX, router};
use crate::io::{IoMessage, Shared, Threads};
use crate::membership::{self, Entered, MembershipError, Running};
use crate::peers::Peers;
use crate::rebalance::Rebalance;
use crate::references::References;
use crate::routes::{RouteTrie, RoutesMessage};
use crate::shard::{ShardMessage, Shards, TICK_MS};
use crate::views::stopping::serves;
use crate::{Config, ConfigError};
use setup::{address, bind, founded_templates, open_telemetry, origins, start_threads};
use tree::{
    Wiring, connection_supervisors, listener, start_control, start_membership, state_children,
    supervisor,
};

/// How often a stop looks whether everything has ended.
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
    /// The node does not become a member of its cluster.
    #[error(transparent)]
    Membership(#[from] crate::membership::MembershipError),
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
    /// Whether meta has ended the node's epoch before it served, so that another start may do better.
    pub fn is_epoch_ended(&self) -> bool {
        matches!(self, Self::Membership(MembershipError::Ended(_)))
    }

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
            Self::Membership(MembershipError::Certificates(_)) => true,
            Self::Membership(_) | Self::Bind { .. } | Self::Spawn { .. } => false,
        }
    }
}

/// A running node.
pub struct Node {
    /// Where MQTT clients connect.
    pub mqtt: SocketAddr,
    /// Where the admin API answers.
    pub admin: SocketAddr,
    /// Where other nodes link with this one.
    pub cluster: String,
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
    /// Sends clients away while the node is to give up what it holds.
    draining: tokio::task::JoinHandle<()>,
    /// Follows the bucket table.
    dealing: JoinHandle<()>,
    /// Follows where clients are to be.
    offering: JoinHandle<()>,
    /// Tells other nodes whom this one has sent away.
    telling: JoinHandle<()>,
    telemetry: Option<Arc<Telemetry>>,
    running: Running,
    _folder: DataFolder,
}

impl Node {
    /// Starts a node: folder, telemetry line, io threads, shards, listeners. Must be called
    /// within a multi-thread tokio runtime. Once it returns the node serves.
    ///
    /// # Errors
    /// Nothing runs after one.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_in(config, Environment::default()).await
    }

    /// As [`Node::start`], on this disk and with the time of this clock; perhaps with something
    /// broken on purpose.
    ///
    /// # Errors
    /// Nothing runs after one.
    pub async fn start_in(
        mut config: Config,
        environment: Environment,
    ) -> Result<Self, StartError> {
        config.validate()?;
        let net = membership::net(&mut config).map_err(MembershipError::from)?;
        let streams = config.streams()?;
        let mut folder = DataFolder::open(&environment.fs, &config)?;
        let mqtt = bind(
            "mqtt.listen",
            "--mqtt",
            config.mqtt.listen,
            config.mqtt.backlog,
        )?;
        let admin = bind("admin.listen", "--admin", config.admin.listen, 128)?;
        let members = membership::join(&config, &net, &mut folder, &environment).await?;
        let identity = folder.identity();
        let number = identity.node;
        // Who joined takes the numbers of the cluster.
        config.cluster.shards = identity.shards;
        config.telemetry.buckets = identity.buckets;
        let templates = founded_templates(&mut config, identity);
        let buckets = Buckets::new(NodeId(number));
        let restarts = Restarts::default();
        let telemetry = match streams.is_empty() {
            true => None,
            false => Some(Arc::new(
                open_telemetry(&config, &streams, number, &buckets, &environment, &restarts)
                    .await?,
            )),
        };

        let entered = match Entered::start(&config, net, &folder, members, &environment).await {
            Ok(entered) => entered,
            Err(error) => {
                // Another start in this process opens the same store.
                if let Some(line) = &telemetry {
                    line.shutdown().await;
                }
                return Err(error.into());
            }
        };
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

        let root = supervisor("root", Vec::new(), None, &restarts).await?;
        let routes_slot = Arc::new(OnceLock::new());
        let peers = Peers::new(entered.links.clone());
        let Environment {
            clock,
            on_fatal,
            control,
            defects,
            ..
        } = environment;
        let wiring = Wiring {
            clock: Arc::clone(&clock),
            on_fatal: Arc::clone(&on_fatal),
            memory: config.memory(),
            threads: handles.clone(),
            shards: shards.clone(),
            peers: peers.clone(),
            snapshot: Arc::clone(&snapshot),
            routes: Arc::clone(&routes_slot),
        };
        let children = state_children(&entered, &wiring);
        supervisor("state", children, Some(root.get_cell()), &restarts).await?;

        let (seats, children) = connection_supervisors(&counters);
        supervisor("connections", children, Some(root.get_cell()), &restarts).await?;
        let draining = Draining::default();
        let redirects = config.mqtt.server_reference == ServerReference::Redirect;
        let references = References::new(redirects);
        let shard_count = NonZeroU32::new(u32::from(config.cluster.shards)).expect("validated");
        let lease = entered.member.lease();
        // Before the first sample nothing may be replaced; a lone node needs none.
        let is_alone = lease.until_ms() == u64::MAX;
        let sighting = (!is_alone).then(|| Arc::new(Sighting::default()));
        let shared = Arc::new(Shared {
            session: Arc::new(config.session(&streams)),
            limits: config.codec(),
            node_epoch: NodeEpoch(entered.epoch.0),
            lease,
            sighting: ArcSwapOption::new(sighting),
            homes: Homes::new(shard_count, templates),
            shard_count,
            streams,
            snapshot: Arc::clone(&snapshot),
            threads: handles.clone(),
            shards: shards.clone(),
            peers: peers.clone(),
            routes: routes_slot.get().expect("the routes have started").clone(),
            ingest: telemetry.as_ref().map(|line| line.ingest()),
            supervisors: seats,
            origins: origins(&config),
            mailbox_bytes_limit: config.mqtt.queue_bytes_limit,
            stash_bytes_limit: config.mqtt.stash_bytes_limit,
            telemetry_bytes_limit: config.telemetry.inflight_bytes_limit / count as u64,
            defects,
            stopping: AtomicBool::new(false),
            draining: draining.clone(),
            admission: config.mqtt.admission.shares(
                count,
                config.cluster.shards,
                config.mqtt.connect_timeout,
            ),
            refusals: Arc::default(),
            references: references.clone(),
            traces: Arc::default(),
            assigned_ids: AtomicU64::new(0),
            assigned_salt: Random::from_os().next_u64(),
            clock: Arc::clone(&clock),
        });
        for begin in begin {
            if begin.send(Arc::clone(&shared)).is_err() {
                unreachable!("an io thread waits for it");
            }
        }

        let links = entered.links.clone();
        let cluster = links.local_address().to_owned();
        let reporter = Reporter::new();
        let plane = Arc::clone(&reporter);
        let control = start_control(&entered, control, plane, &clock, &root, &restarts).await?;
        // One without telemetry takes buckets only where no member has any.
        let dealing = buckets.begin(
            links.clone(),
            entered.member.clone(),
            entered.meta.clone(),
            Arc::clone(&clock),
            telemetry.is_some(),
        );
        let offer = Offer {
            stores: telemetry.is_some(),
            server: config.mqtt.advertise.clone().unwrap_or_default(),
        };
        let offering = tokio::spawn(references.clone().follow(entered.member.clone(), offer));
        let line = telemetry.as_ref().map_or_else(Weak::new, Arc::downgrade);
        let running = start_membership(entered, &shared, line, on_fatal, &root, &restarts).await?;
        let addresses = (address(&mqtt), address(&admin));
        let state = Arc::new(AdminState {
            ready: AtomicBool::new(false),
            draining: draining.clone(),
            started_ms: clock.mono_ms(),
            clock,
            control,
            restarts: restarts.clone(),
            counters: counters.clone(),
            shards: shards.clone(),
            raft: running.raft.clone(),
            member: running.member.clone(),
            links,
            peers,
            snapshot,
            shared: Arc::clone(&shared),
            looks: Semaphore::new(LOOKS_MAX),
            rebalance: Rebalance::default(),
            telemetry: telemetry.clone(),
            node: admin::node::NodeInfo {
                node: number,
                version: env!("CARGO_PKG_VERSION").into(),
                mqtt: addresses.0.to_string(),
                admin: addresses.1.to_string(),
                shards: config.cluster.shards,
                buckets: config.telemetry.buckets,
                device_templates: config.cluster.device_templates.clone().unwrap_or_default(),
                telemetry: telemetry.is_some(),
            },
            memory: config.allowed(),
            data: config.data.clone(),
        });
        reporter.begin(&state);
        let admin = Doors::new(admin, config.admin.connections_limit);
        let http = tokio::spawn(serve_http(admin, Arc::clone(&state)));
        let telling = tokio::spawn(tell_sent_away(Arc::clone(&state), references));
        let ticks = tokio::spawn(tick(shards, shared.routes.clone()));
        let draining = tokio::spawn(drain::follow(
            running.member.clone(),
            draining,
            handles.clone(),
            counters.clone(),
            config.drain_disconnects_per_s,
        ));
        let mqtt = Arc::new(mqtt);
        let listening = Arc::downgrade(&mqtt);
        let listener = listener(mqtt, &shared, config.mqtt.admission.rates(), &counters);
        let listeners =
            supervisor("listeners", Vec::new(), Some(root.get_cell()), &restarts).await?;
        let mut node = Self {
            mqtt: addresses.0,
            admin: addresses.1,
            cluster,
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
            draining,
            dealing,
            offering,
            telling,
            telemetry,
            running,
            _folder: folder,
        };
        if let Err(error) = node.running.ready().await {
            drop(listener);
            node.abandon().await;
            return Err(error.into());
        }
        node.listen(listener)?;
        Ok(node)
    }

    /// Clients are served from now on.
    fn listen(&self, listener: ChildSpec) -> Result<(), StartError> {
        let begun = self.listeners.cast(SupervisorMessage::Start(listener));
        begun.map_err(|error| StartError::Spawn {
            what: "the listener",
            error: error.to_string(),
        })?;
        self.state.ready.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether topics are telemetry here.
    pub fn telemetry(&self) -> bool {
        self.telemetry.is_some()
    }

    /// Stops in order (DESIGN §8): not ready, no new connections, leaderships handed over, clients
    /// disconnected at a rate with 0x8B, the log made durable. What has not ended by `stop_deadline`
    /// is cut.
    pub async fn stop(self) {
        self.state.ready.store(false, Ordering::Release);
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.listeners.stop(None);
        self.running.hand_over().await;
        // The rest of the deadline is for the log.
        let patience = self.config.stop_deadline * 2 / 3;
        if tokio::time::timeout(patience, self.disconnect_all())
            .await
            .is_err()
        {
            tracing::warn!("clients were cut at the stop deadline");
        }
        end_threads(&self.shared.threads, self.threads).await;
        // A DISCONNECT that was taken must be in the log: else the next start would publish its will.
        if tokio::time::timeout(patience, self.shared.shards.drain())
            .await
            .is_err()
        {
            tracing::warn!("the shards have not taken everything");
        }
        self.ticks.abort();
        self.draining.abort();
        self.dealing.abort();
        self.offering.abort();
        self.telling.abort();
        self.root.stop(None);
        end_http(self.http).await;
        drop(self.state);
        drop(self.shared);
        self.running.stop().await;
        if let Some(telemetry) = &self.telemetry {
            telemetry.shutdown().await;
        }
        until_closed(self.mqtt, &self.listening, patience).await;
    }

    /// Ends whatever runs of a node whose disk takes nothing more, as the end of the process would:
    /// no client is told anything, nothing that waits is acknowledged, the epoch stays begun. For
    /// whoever returns from [`OnFatal`]: crash tests.
    pub async fn abandon(self) {
        self.state.ready.store(false, Ordering::Release);
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.listeners.stop(None);
        end_threads(&self.shared.threads, self.threads).await;
        self.ticks.abort();
        self.draining.abort();
        self.dealing.abort();
        self.offering.abort();
        self.telling.abort();
        self.root.stop(None);
        end_http(self.http).await;
        drop(self.state);
        drop(self.shared);
        self.running.abandon().await;
        if let Some(telemetry) = &self.telemetry {
            telemetry.shutdown().await;
        }
        until_closed(self.mqtt, &self.listening, self.config.stop_deadline).await;
    }

    /// Whether clients find another node that takes them, as far as this one knows.
    fn others_serve(&self) -> bool {
        let status = self.state.member.status();
        let mut others = status
            .members
            .iter()
            .filter(|(node, _)| **node != status.node);
        // Who is draining has said that there are others.
        self.shared.draining.is_begun() || others.any(|(_, row)| serves(row) && !row.is_leaving)
    }

    async fn disconnect_all(&self) {
        let per_s = self.config.stop_disconnects_per_s;
        let reason = match self.others_serve() {
            true => ReasonCode::UseAnotherServer,
            false => ReasonCode::ServerShuttingDown,
        };
        while drain::open(&self.state.counters) > 0 {
            drain::disconnect_share(&self.shared.threads, reason, per_s).await;
        }
    }
}

/// Waits until nobody listens any more: a supervisor that is told to stop does not wait for its
/// children, and who starts a node again wants the port.
async fn until_closed(mqtt: SocketAddr, listening: &Weak<TcpListener>, patience: Duration) {
    let closed = async {
        while listening.strong_count() > 0 {
            tokio::time::sleep(STOP_STEP).await;
        }
    };
    if tokio::time::timeout(patience, closed).await.is_err() {
        tracing::warn!(address = %mqtt, "the listener has not ended");
    }
}

/// Closes all connections, and waits for the end of their threads.
async fn end_threads(handles: &Threads, threads: Vec<IoThread<IoMessage>>) {
    for thread in 0..threads.len() {
        handles.send(thread, IoMessage::End).await;
    }
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
}

async fn end_http(http: tokio::task::JoinHandle<()>) {
    http.abort();
    if let Err(error) = http.await
        && error.is_panic()
    {
        tracing::error!(%error, "the admin API had panicked");
    }
}

async fn serve_http(listener: Doors, state: Arc<AdminState>) {
    if let Err(error) = axum::serve(listener, router(state)).await {
        tracing::error!(%error, "the admin API has ended");
    }
}

/// Other nodes serve a client that this one has sent away.
async fn tell_sent_away(state: Arc<AdminState>, references: References) {
    loop {
        let clients = references.unsaid().await;
        control::tell_sent_away(&state, clients);
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
