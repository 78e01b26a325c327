//! This node as a member of its cluster: its links, its groups, its epoch; and what its membership
//! asks of it.

mod events;
mod founding;
mod leaders;
mod net;
mod replicas;
mod service;
mod starter;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cluster::control::Control;
use cluster::link::{self, LinkConfig, LinkParts, Links, NodeIdentity, PeerNet, TlsError};
use cluster::member::{self, Applicant, Member, MemberEvent, MemberParts, Neighbour};
use cluster::raft::{Group, OpenError, RaftNode, RemoveError};
use cluster::{MetaMachine, RoutesMachine, ShardMachine};
use cluster_core::{EndReason, Group as GroupName, MetaCommand, NodeEpoch, NodeId, RaftId};
use ractor::ActorRef;
use runtime::{Random, ractor};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::data_folder::{DataFolder, Fixed, FolderError};
use crate::environment::{Environment, OnFatal};
use crate::io::Shared;
use crate::peers::{Exchange, InboxMessage};
use crate::{Config, ConfigError};
pub(crate) use events::Membership;
use events::{NotReady, Parts, Replica};
use founding::{LEVEL, used};
pub(crate) use net::net;
use replicas::Replicas;
use service::NodeService;
use starter::Starter;

/// Folder of the log and the state files below the data folder.
const FOLDER: &str = "raft";
/// How long a node asks to join before it gives up.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
/// Longest wait until others lead what this node has led, at a stop.
const HANDOVER_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for the end of the epoch at a stop.
const END_WAIT: Duration = Duration::from_secs(5);
/// How long state files may stay open after their groups were closed, before another start opens them.
const RELEASE_WAIT: Duration = Duration::from_secs(3);

/// Why a node does not become, or stay, a member. The folder is as a crash would have left it.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The log, or the state of a group, cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The groups cannot go on, or a replica does not start.
    #[error("{0}")]
    Failed(String),
    /// Meta has ended the epoch before it served; another start may begin another.
    #[error("the epoch {0} of this node has ended before it served")]
    Ended(NodeEpoch),
    /// The data folder is refused.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The configuration is for a lone node, and there are others.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A replica cannot be removed.
    #[error(transparent)]
    Remove(#[from] RemoveError),
    /// The cluster refuses this node, or does not answer.
    #[error(transparent)]
    Joining(#[from] cluster::member::NotJoined),
    /// What is to be shown to other nodes is not good.
    #[error("cluster.tls: {0}")]
    Certificates(#[from] TlsError),
    /// The address for other nodes cannot be bound.
    #[error("cluster.listen = {address}: {error}; choose another with --cluster")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// The meta group refuses this node.
    #[error("the meta group refuses the start of node {node}: {reason}")]
    Refused {
        /// The node.
        node: u32,
        /// Why.
        reason: String,
    },
}

/// What ended the groups, once something has.
type Failure = watch::Receiver<Option<String>>;

/// Waits until something ends the groups; then no start comes to its end.
async fn fails(failed: &mut Failure) -> MembershipError {
    let why = match failed.wait_for(Option::is_some).await {
        Ok(why) => why.clone().unwrap_or_default(),
        Err(_) => return std::future::pending().await,
    };
    MembershipError::Failed(why)
}

/// A member whose epoch is begun, and whose routes run.
pub(crate) struct Entered {
    pub(crate) node: NodeId,
    pub(crate) cluster: link::ClusterId,
    pub(crate) raft: RaftNode,
    pub(crate) links: Links,
    pub(crate) member: Member,
    pub(crate) meta: Group<MetaMachine>,
    pub(crate) routes: Group<RoutesMachine>,
    /// Replicas of shards that run.
    pub(crate) shards: BTreeMap<u16, Group<ShardMachine>>,
    /// The epoch of this run.
    pub(crate) epoch: NodeEpoch,
    /// Up to where this node matches publishes by what the routes group has.
    pub(crate) routes_applied: watch::Sender<u64>,
    pub(crate) exchange: Exchange,
    /// Where what comes over the control plane is taken to.
    pub(crate) control: Arc<OnceLock<Control>>,
    /// Whether the epoch serves already.
    pub(crate) is_serving: bool,
    failed: Failure,
    services: Services,
    starter: Starter,
    events: mpsc::Receiver<MemberEvent>,
    started: mpsc::Receiver<Replica>,
}

/// The loops behind links and membership.
pub(crate) struct Services {
    stops: Vec<oneshot::Sender<()>>,
    loops: Vec<JoinHandle<()>>,
}

impl Services {
    /// Lets both end, and waits for it.
    pub(crate) async fn stop(self) {
        drop(self.stops);
        for one in self.loops {
            if let Err(error) = one.await {
                tracing::error!(%error, "a loop of the cluster had panicked");
            }
        }
    }
}

/// Joins the cluster if the folder is still to; what its members are, if it has joined just now, or
/// never got the replica of meta by which it would know them.
///
/// # Errors
/// The cluster refuses the node, or nobody answers; it may be a member now, and may ask again.
pub(crate) async fn join(
    config: &Config,
    net: &PeerNet,
    folder: &mut DataFolder,
    environment: &Environment,
) -> Result<BTreeMap<NodeId, Neighbour>, MembershipError> {
    let addresses = &config.cluster.join;
    let mut applicant = Applicant {
        cluster: None,
        folder: folder.birth.folder,
        node: config.node.map(NodeId),
        understood: LEVEL,
    };
    if !folder.is_to_join() {
        let replicas = Replicas::open(Arc::clone(&environment.fs), &config.data)?;
        let knows_nobody = !folder.is_founder() && replicas.get(GroupName::Meta).is_none();
        if !knows_nobody || addresses.is_empty() {
            return Ok(BTreeMap::new());
        }
        applicant.cluster = Some(folder.cluster());
        applicant.node = Some(NodeId(folder.identity().node));
    }
    tracing::info!(?addresses, "asking to join");
    let mut random = Random::from_os();
    let asking = member::join(net, addresses, applicant, &mut random, JOIN_PATIENCE);
    let (joined, templates) = asking.await?;
    let (node, cluster) = (joined.node.0, Some(joined.cluster));
    let fixed = Fixed {
        shards: joined.shards,
        buckets: joined.buckets,
        templates,
    };
    folder.set_identity(node, &fixed, cluster)?;
    tracing::info!(node, cluster = %format!("{:032x}", joined.cluster.0), "joined");
    Ok(joined.members)
}

impl Entered {
    /// Opens the groups and links of a node, makes the cluster if the folder is its founder's and new,
    /// and begins an epoch: the one that this folder had ends with it. `members` are those that
    /// [`join`] told.
    ///
    /// # Errors
    /// Nothing runs.
    pub(crate) async fn start(
        config: &Config,
        net: PeerNet,
        folder: &DataFolder,
        members: BTreeMap<NodeId, Neighbour>,
        environment: &Environment,
    ) -> Result<Self, MembershipError> {
        let node = NodeId(folder.identity().node);
        let (tell, failed) = watch::channel(None);
        let raft = open(config, node, environment, tell).await?;
        let parts = (raft.clone(), net, failed);
        let started = Self::start_on(parts, config, folder, members, environment);
        match started.await {
            Ok(entered) => Ok(entered),
            Err(error) => {
                close(&raft).await;
                release(&raft).await;
                Err(error)
            }
        }
    }

    async fn start_on(
        (raft, net, failed): (RaftNode, PeerNet, Failure),
        config: &Config,
        folder: &DataFolder,
        members: BTreeMap<NodeId, Neighbour>,
        environment: &Environment,
    ) -> Result<Self, MembershipError> {
        let node = NodeId(folder.identity().node);
        let exchange = Exchange::default();
        let cluster = link::ClusterId(folder.cluster().0);
        let seat = Arc::new(OnceLock::new());
        let control = Arc::new(OnceLock::new());
        let service = NodeService {
            raft: raft.clone(),
            exchange: exchange.clone(),
            member: Arc::clone(&seat),
            control: Arc::clone(&control),
        };
        let parts = LinkParts {
            config: LinkConfig::default(),
            identity: NodeIdentity {
                cluster,
                node,
                folder: folder.birth.folder,
                start: folder.birth.start,
                level: used(&folder.identity().templates()),
                understood: LEVEL,
            },
            clock: Arc::clone(&environment.clock),
            random: Random::from_os(),
            service: Arc::new(service),
        };
        let listen = config.cluster.listen;
        let bound = Links::bind(net, &listen.to_string(), parts).await;
        let (links, link_service) = bound.map_err(|error| MembershipError::Bind {
            address: listen,
            error,
        })?;
        raft.connect(links.clone());
        let (routes_applied, applied) = watch::channel(0);
        let (member, member_service, events) = Member::start(MemberParts {
            node,
            folder: folder.birth.folder,
            start: folder.birth.start,
            address: config.cluster.address(links.local_address()),
            understood: LEVEL,
            members,
            raft: raft.clone(),
            links: Some(links.clone()),
            routes_applied: applied,
            clock: Arc::clone(&environment.clock),
            random: Random::from_os(),
        });
        assert!(seat.set(member.clone()).is_ok(), "it is set once");
        let replicas = Replicas::open(Arc::clone(&environment.fs), &config.data)?;
        let (tell, started) = mpsc::channel(64);
        let mut starter = Starter {
            raft: raft.clone(),
            member: member.clone(),
            replicas,
            config: config.clone(),
            templates: folder.identity().templates(),
            is_alone: false,
            own: RaftId(u64::from(node.0)),
            started: tell,
        };
        let meta = starter.open_meta(folder, &environment.clock).await?;
        let services = services(link_service, member_service);
        let mut entering = Entering {
            starter,
            events,
            started,
            meta,
            routes: None,
            shards: BTreeMap::new(),
            epoch: None,
            is_serving: false,
            failed,
        };
        let entered = match entering.enter(node).await {
            Ok(()) => entering.check(config),
            refused => refused,
        };
        if let Err(error) = entered {
            services.stop().await;
            return Err(error);
        }
        let Entering {
            starter,
            failed,
            events,
            started,
            meta,
            routes,
            shards,
            epoch,
            is_serving,
        } = entering;
        Ok(Self {
            node,
            cluster,
            raft,
            links,
            member,
            meta: meta.expect("it has entered"),
            routes: routes.expect("it has entered"),
            shards,
            epoch: epoch.expect("it has entered"),
            routes_applied,
            exchange,
            control,
            is_serving,
            failed,
            services,
            starter,
            events,
            started,
        })
    }
}

impl Entered {
    /// The actor that does what the membership asks for from now on, with what it begins with; and
    /// the loops to be stopped at the end.
    pub(crate) fn follow(
        self,
        shared: Arc<Shared>,
        inbox: ActorRef<InboxMessage>,
        on_fatal: OnFatal,
    ) -> (Membership, Running) {
        let (is_ready, ready) = watch::channel(None);
        let parts = Parts {
            starter: self.starter,
            events: self.events,
            started: self.started,
            replicas: self.shards,
            is_serving: self.is_serving,
        };
        let membership = Membership {
            node: self.node,
            member: self.member.clone(),
            shared,
            inbox,
            on_fatal,
            is_ready,
            parts: Arc::new(std::sync::Mutex::new(Some(parts))),
        };
        let running = Running {
            raft: self.raft,
            member: self.member,
            epoch: self.epoch,
            ready,
            failed: self.failed,
            services: self.services,
        };
        (membership, running)
    }
}

/// A member that serves, or is about to.
pub(crate) struct Running {
    pub(crate) raft: RaftNode,
    pub(crate) member: Member,
    epoch: NodeEpoch,
    ready: watch::Receiver<Option<Result<(), NotReady>>>,
    failed: Failure,
    services: Services,
}

impl Running {
    /// Waits until this node serves and every shard has a leader.
    ///
    /// # Errors
    /// It never will: a replica does not start, or the groups have failed.
    pub(crate) async fn ready(&mut self) -> Result<(), MembershipError> {
        tokio::select! {
            error = fails(&mut self.failed) => Err(error),
            ready = self.ready.wait_for(Option::is_some) => match ready.as_deref() {
                Ok(Some(Err(NotReady::Ended(epoch)))) => Err(MembershipError::Ended(*epoch)),
                Ok(Some(Err(NotReady::Failed(why)))) => Err(MembershipError::Failed(why.clone())),
                Ok(_) => Ok(()),
                Err(_) => Err(MembershipError::Failed("the membership has ended".to_owned())),
            },
        }
    }

    /// Hands over what this node leads, so that nobody has to miss it first.
    pub(crate) async fn hand_over(&self) {
        let handed = tokio::time::timeout(HANDOVER_WAIT, self.member.hand_over());
        if handed.await.is_err() {
            tracing::warn!("leaderships were not handed over within {HANDOVER_WAIT:?}");
        }
    }

    /// Ends the epoch in meta and closes the log: the next start has nothing to end.
    pub(crate) async fn stop(self) {
        let ended = MetaCommand::End {
            epoch: self.epoch,
            reason: EndReason::Stopped,
        };
        match tokio::time::timeout(END_WAIT, self.member.propose(&ended)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the epoch was not ended in meta"),
            Err(_) => tracing::warn!("the epoch was not ended in meta within {END_WAIT:?}"),
        }
        self.close().await;
    }

    /// Closes the log as it is.
    pub(crate) async fn close(self) {
        self.services.stop().await;
        close(&self.raft).await;
    }

    /// As [`Running::close`], for who may begin anew in this process.
    pub(crate) async fn abandon(self) {
        let raft = self.raft.clone();
        self.close().await;
        release(&raft).await;
    }
}

/// Waits until the state files are nobody's: a flush or a start that is under way ends in its own time.
async fn release(raft: &RaftNode) {
    if !raft.released(RELEASE_WAIT).await {
        tracing::error!(
            "state files of this node's groups are still open {RELEASE_WAIT:?} after they were closed"
        );
    }
}

async fn close(raft: &RaftNode) {
    if let Err(error) = raft.close().await {
        tracing::warn!(%error, "the groups were not closed in order");
    }
}

/// A node on its way to an epoch and to the routes.
struct Entering {
    starter: Starter,
    events: mpsc::Receiver<MemberEvent>,
    started: mpsc::Receiver<Replica>,
    meta: Option<Group<MetaMachine>>,
    routes: Option<Group<RoutesMachine>>,
    shards: BTreeMap<u16, Group<ShardMachine>>,
    epoch: Option<NodeEpoch>,
    is_serving: bool,
    failed: Failure,
}

impl Entering {
    /// Refuses a configuration that is for a lone node, where there are others.
    fn check(&self, config: &Config) -> Result<(), MembershipError> {
        let is_lone = |meta: &Group<MetaMachine>| meta.with(|machine| machine.meta().is_lone());
        match self.meta.as_ref().is_none_or(is_lone) {
            true => Ok(()),
            false => Ok(config.check_for_several()?),
        }
    }

    async fn enter(&mut self, node: NodeId) -> Result<(), MembershipError> {
        let refused = |reason: String| MembershipError::Refused {
            node: node.0,
            reason,
        };
        while self.meta.is_none() || self.routes.is_none() || self.epoch.is_none() {
            tokio::select! {
                error = fails(&mut self.failed) => return Err(error),
                Some(replica) = self.started.recv() => match replica {
                    Replica::Meta(group) => self.meta = Some(group?),
                    Replica::Routes(group) => self.routes = Some(group?),
                    Replica::Shard(shard, group) => {
                        self.shards.insert(shard, group?);
                    }
                },
                event = self.events.recv() => match event {
                    Some(MemberEvent::Begun(epoch)) => self.epoch = Some(epoch),
                    Some(MemberEvent::Serving(_)) => self.is_serving = true,
                    Some(MemberEvent::NotBegun(refusal)) => return Err(refused(refusal.to_string())),
                    Some(MemberEvent::Ended(epoch)) => return Err(MembershipError::Ended(epoch)),
                    Some(event) => self.starter.handle(&event).await?,
                    None => return Err(refused("the membership has ended".to_owned())),
                },
            }
        }
        Ok(())
    }
}

async fn open(
    config: &Config,
    node: NodeId,
    environment: &Environment,
    failed: watch::Sender<Option<String>>,
) -> Result<RaftNode, OpenError> {
    let raft = config.raft(config.data.join(FOLDER), node);
    let on_fatal = Arc::clone(&environment.on_fatal);
    let on_fatal = Arc::new(move |fatal: cluster::raft::Fatal| {
        failed.send_replace(Some(fatal.to_string()));
        on_fatal(fatal.into());
    });
    let (fs, clock) = (Arc::clone(&environment.fs), Arc::clone(&environment.clock));
    let opening = tokio::task::spawn_blocking(move || RaftNode::open(fs, clock, raft, on_fatal));
    opening.await.expect("opening the log does not panic")
}

fn services(links: link::LinkService<PeerNet>, member: cluster::member::MemberService) -> Services {
    let (stop_links, links_stop) = oneshot::channel::<()>();
    let (stop_member, member_stop) = oneshot::channel::<()>();
    let links = async move {
        // Dropped or told, it is to stop.
        let stop = async { drop(links_stop.await) };
        if let Err(error) = links.run(stop).await {
            tracing::error!(%error, "the links have ended: the process ends");
            std::process::abort();
        }
    };
    let member = async move {
        let stop = async { drop(member_stop.await) };
        if let Err(error) = member.run(stop).await {
            tracing::error!(%error, "the membership has ended: the process ends");
            std::process::abort();
        }
    };
    Services {
        stops: vec![stop_member, stop_links],
        loops: vec![tokio::spawn(member), tokio::spawn(links)],
    }
}
