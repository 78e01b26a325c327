//! A whole node but for the broker, on a network and a disk in memory.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use cluster_core::{
    FeatureLevel, FolderId, Found, Group as GroupName, Meta, MetaAnswer, MetaCommand, NodeId,
    RaftId, StartCount, WallMs,
};
use mqtt::Templates;
use runtime::{Clock, Random};
use storage::fs::FaultFs;
use storage::raft::Config;
use storage::state::{Changes, Row};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::link::{
    self, Admitter, ClusterId, Incoming, LinkConfig, LinkParts, Links, MemoryHub, NodeIdentity,
    Service, Wish,
};
use crate::raft::{Group, RaftConfig, RaftNode};
use crate::{Damaged, Machine, MetaEntry, MetaMachine, RoutesConfig, RoutesMachine};

pub(super) const LEVEL: FeatureLevel = FeatureLevel(2);
/// The patience of tests, in their time.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Counts entries.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) count: u64,
    is_changed: bool,
}

impl Machine for Tally {
    type Config = ();
    type Answer = u64;
    const VERSION: u32 = 1;

    fn restore(
        (): &(),
        rows: &mut dyn Iterator<Item = Result<Row, storage::state::Error>>,
    ) -> Result<Self, Damaged> {
        let mut tally = Self::default();
        for row in rows {
            let row = row.expect("a disk without faults");
            tally.count = u64::from_le_bytes(row.value[..].try_into().expect("8 bytes"));
        }
        Ok(tally)
    }

    fn apply(&mut self, _: u64, _: &[u8]) -> Result<u64, Damaged> {
        self.count += 1;
        self.is_changed = true;
        Ok(self.count)
    }

    fn changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        if std::mem::take(&mut self.is_changed) {
            changes.put(1, &[], &self.count.to_le_bytes());
        }
        changes
    }

    fn handle_flushed(&mut self) {}
}

/// Tells tokio's time, one for all nodes.
#[derive(Clone)]
pub(super) struct TokioClock(pub(super) Instant);

impl Clock for TokioClock {
    fn wall_ms(&self) -> u64 {
        self.mono_ms()
    }

    fn mono_ms(&self) -> u64 {
        self.0.elapsed().as_millis() as u64
    }
}

/// What links hand over, given out by channel.
#[derive(Default)]
struct Switch {
    raft: OnceLock<RaftNode>,
    member: OnceLock<Member>,
}

impl Service for Switch {
    fn handle_request(&self, request: Incoming) {
        let kind = request.channel.kind;
        if crate::raft::CHANNELS.contains(&kind) {
            if let Some(raft) = self.raft.get() {
                raft.handle_request(request);
            }
        } else if let Some(member) = self.member.get() {
            assert!(CHANNELS.contains(&kind));
            member.handle_request(request);
        }
    }

    fn handle_wish(&self, wish: Wish, _: &str, admitter: Admitter) {
        if let Some(member) = self.member.get() {
            member.handle_wish(wish, admitter);
        }
    }
}

pub(super) type Tallies = Arc<Mutex<BTreeMap<GroupName, Group<Tally>>>>;

/// What a node keeps over its runs.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) node: NodeId,
    cluster: FolderId,
    members: BTreeMap<NodeId, Neighbour>,
    pub(super) fs: FaultFs,
    pub(super) start: StartCount,
    /// What lies on the disk; meta would tell, but it is a replica too.
    replicas: Arc<Mutex<BTreeMap<GroupName, RaftId>>>,
}

pub(super) struct TestNode {
    pub(super) kept: Kept,
    pub(super) raft: RaftNode,
    pub(super) member: Member,
    pub(super) events: Arc<Mutex<Vec<MemberEvent>>>,
    /// The shards whose replicas its host has started.
    pub(super) tallies: Tallies,
    /// Starts that this process has counted.
    starts: Arc<Mutex<StartCount>>,
    tasks: Vec<JoinHandle<()>>,
    stop: Vec<oneshot::Sender<()>>,
    clock: TokioClock,
}

pub(super) fn address(node: u32) -> String {
    format!("node-{node}")
}

fn folder(node: u32) -> FolderId {
    FolderId(0xf00 + u128::from(node))
}

pub(super) fn name(group: GroupName) -> String {
    format!("group-{}", group_id(group).0)
}

pub(super) fn applicant(node: u32) -> Applicant {
    Applicant {
        cluster: None,
        folder: folder(node),
        node: Some(NodeId(node)),
        understood: LEVEL,
    }
}

impl Kept {
    fn open(&self, clock: &TokioClock) -> RaftNode {
        let config = RaftConfig {
            log: Config {
                segment_bytes: 64 << 10,
                ..Config::default()
            },
            ..RaftConfig::new(PathBuf::from("/data"), self.node)
        };
        let disk = self.fs.clone();
        // A killed process goes on for a while, on a disk that takes nothing.
        let on_fatal = Arc::new(move |fatal| assert!(disk.is_frozen(), "{fatal}"));
        let fs = Arc::new(self.fs.clone());
        RaftNode::open(fs, Arc::new(clock.clone()), config, on_fatal).expect("a good disk")
    }

    fn identity(&self) -> NodeIdentity {
        NodeIdentity {
            cluster: ClusterId(self.cluster.0),
            node: self.node,
            folder: folder(self.node.0),
            start: self.start,
            level: LEVEL,
            understood: LEVEL,
        }
    }
}

/// Those of every cluster here.
fn templates() -> Templates {
    Templates::parse(["cmd/{client_id}/#"]).expect("a template")
}

/// Founds a cluster of some shards.
pub(super) async fn found(hub: &MemoryHub, clock: &TokioClock, shards: u16) -> TestNode {
    let kept = Kept {
        node: NodeId(1),
        cluster: folder(1),
        members: BTreeMap::new(),
        fs: FaultFs::new(1),
        start: StartCount(1),
        replicas: Arc::default(),
    };
    let raft = kept.open(clock);
    let meta = raft
        .start_group::<MetaMachine>(group_id(GroupName::Meta), &name(GroupName::Meta), ())
        .await
        .expect("a new group");
    let found = Found {
        node: NodeId(1),
        folder: folder(1),
        shards: NonZeroU16::new(shards).expect("some"),
        buckets: NonZeroU16::MIN,
        level: LEVEL,
    };
    let entry = MetaEntry {
        time: WallMs(0),
        command: MetaCommand::FoundWith {
            found,
            templates: templates(),
        },
    };
    let founded = meta.propose(entry.encode().into()).await.expect("led here");
    assert_eq!(founded, MetaAnswer::Joined { node: NodeId(1) });
    let own = RaftId(1);
    kept.replicas.lock().unwrap().insert(GroupName::Meta, own);
    let groups: Vec<GroupName> = meta.with(|meta| {
        let placements = meta.meta().placements();
        placements.map(|(group, _)| group).collect()
    });
    let mut routes = None;
    let mut tallies = BTreeMap::new();
    for group in groups {
        match group {
            GroupName::Meta => {}
            GroupName::Routes => {
                let config = RoutesConfig { rows_max: 1_000 };
                let (id, name) = (group_id(group), name(group));
                let started = raft.start_group::<RoutesMachine>(id, &name, config);
                routes = Some(started.await.expect("a new group"));
            }
            GroupName::Shard(_) => {
                let (id, name) = (group_id(group), name(group));
                let started = raft.start_group::<Tally>(id, &name, ());
                tallies.insert(group, started.await.expect("a new group"));
            }
        }
        kept.replicas.lock().unwrap().insert(group, own);
    }
    let node = start(hub, clock, kept, raft, Some(meta), routes).await;
    node.tallies.lock().unwrap().extend(tallies);
    node
}

/// Has a node join through another one.
pub(super) async fn join_through(
    hub: &MemoryHub,
    clock: &TokioClock,
    node: u32,
    through: u32,
) -> TestNode {
    let net = hub.at(&address(node));
    let asked = [address(through)];
    let mut random = Random::seeded(9);
    let joined = join(&net, &asked, applicant(node), &mut random, PATIENCE);
    let (joined, told) = joined.await.expect("a member");
    assert_eq!(told, templates());
    assert_eq!(joined.node, NodeId(node));
    assert_eq!(joined.level, LEVEL);
    let kept = Kept {
        node: joined.node,
        cluster: joined.cluster,
        members: joined.members,
        fs: FaultFs::new(u64::from(node)),
        start: StartCount(1),
        replicas: Arc::default(),
    };
    let raft = kept.open(clock);
    start(hub, clock, kept, raft, None, None).await
}

/// Deletes a group's replica from the disk of a node that is not running.
pub(super) async fn lose(clock: &TokioClock, kept: &Kept, group: GroupName) {
    let raft = kept.open(clock);
    let removed = raft.remove_replica(group_id(group), &name(group)).await;
    removed.expect("a good disk");
    raft.close().await.expect("a good disk");
    kept.replicas.lock().unwrap().remove(&group);
}

/// Starts a node again on its disk.
pub(super) async fn restart(hub: &MemoryHub, clock: &TokioClock, kept: Kept) -> TestNode {
    let raft = kept.open(clock);
    let replica = kept.replicas.lock().unwrap().get(&GroupName::Meta).copied();
    let meta = match replica {
        None => None,
        Some(replica) => {
            let (id, name) = (group_id(GroupName::Meta), name(GroupName::Meta));
            let started = raft.start_replica::<MetaMachine>(id, &name, replica, ());
            Some(started.await.expect("a good disk"))
        }
    };
    start(hub, clock, kept, raft, meta, None).await
}

async fn start(
    hub: &MemoryHub,
    clock: &TokioClock,
    kept: Kept,
    raft: RaftNode,
    meta: Option<Group<MetaMachine>>,
    routes: Option<Group<RoutesMachine>>,
) -> TestNode {
    let (routes_sender, routes_applied) = watch::channel(0);
    let own = address(kept.node.0);
    let service = Arc::new(Switch::default());
    let parts = LinkParts {
        config: LinkConfig::default(),
        identity: kept.identity(),
        clock: Arc::new(clock.clone()),
        random: Random::seeded(kept.node.0.into()),
        service: Arc::clone(&service) as Arc<dyn Service>,
    };
    let bound = Links::bind(hub.at(&own), &own, parts).await;
    let (links, link_service) = bound.expect("a free address");
    raft.connect(links.clone());
    let (member, member_service, events) = Member::start(MemberParts {
        node: kept.node,
        folder: folder(kept.node.0),
        start: kept.start,
        address: own,
        understood: LEVEL,
        members: kept.members.clone(),
        raft: raft.clone(),
        links: Some(links),
        routes_applied,
        clock: Arc::new(clock.clone()),
        random: Random::seeded(77 + u64::from(kept.node.0)),
    });
    if let Some(meta) = meta {
        member.set_meta(meta);
    }
    if let Some(routes) = routes {
        follow(&routes, &routes_sender);
        member.set_routes(routes);
    }
    let _ = service.raft.set(raft.clone());
    let _ = service.member.set(member.clone());
    let (stop_links, links_stopped) = oneshot::channel::<()>();
    let (stop_member, member_stopped) = oneshot::channel::<()>();
    let host = Host {
        raft: raft.clone(),
        member: member.clone(),
        routes: routes_sender,
        seen: Arc::default(),
        replicas: Arc::clone(&kept.replicas),
        tallies: Tallies::default(),
        starts: Arc::new(Mutex::new(kept.start)),
    };
    let tallies = Arc::clone(&host.tallies);
    let (seen, starts) = (Arc::clone(&host.seen), Arc::clone(&host.starts));
    let tasks = vec![
        tokio::spawn(async move {
            let run = link_service.run(async {
                let _ = links_stopped.await;
            });
            run.await.expect("links do not panic");
        }),
        tokio::spawn(async move {
            let run = member_service.run(async {
                let _ = member_stopped.await;
            });
            run.await.expect("the member does not panic");
        }),
        tokio::spawn(host.run(events)),
    ];
    TestNode {
        kept,
        raft,
        member,
        events: seen,
        tallies,
        starts,
        tasks,
        stop: vec![stop_links, stop_member],
        clock: clock.clone(),
    }
}

/// Does what a broker would.
struct Host {
    raft: RaftNode,
    member: Member,
    routes: watch::Sender<u64>,
    seen: Arc<Mutex<Vec<MemberEvent>>>,
    replicas: Arc<Mutex<BTreeMap<GroupName, RaftId>>>,
    tallies: Tallies,
    starts: Arc<Mutex<StartCount>>,
}

impl Host {
    async fn run(self, mut events: mpsc::Receiver<MemberEvent>) {
        while let Some(event) = events.recv().await {
            self.seen.lock().unwrap().push(event.clone());
            match event {
                MemberEvent::StartReplica {
                    group,
                    replica,
                    is_new,
                } => {
                    // Meta as this node knows it may still be moving what has arrived.
                    let on_disk = self.replicas.lock().unwrap().get(&group).copied();
                    if is_new || on_disk == Some(replica) {
                        if on_disk.is_some_and(|other| other != replica) {
                            // The announcement came before this node's meta said that it is over.
                            let (id, name) = (group_id(group), name(group));
                            let removed = self.raft.remove_replica(id, &name);
                            removed.await.expect("a good disk");
                        }
                        self.replicas.lock().unwrap().insert(group, replica);
                        self.start(group, replica).await;
                    } else {
                        let renewed = self.member.renew(group).await;
                        assert_eq!(renewed, Ok(MetaAnswer::Done), "{group:?}");
                    }
                }
                MemberEvent::RecoverReplica {
                    group,
                    from,
                    replica,
                    incarnation,
                } => {
                    let on_disk = self.replicas.lock().unwrap().get(&group).copied();
                    assert!(on_disk == Some(from) || on_disk == Some(replica));
                    let recovery = crate::raft::Recovery {
                        replica,
                        incarnation,
                    };
                    let (id, name) = (group_id(group), name(group));
                    let recovered = self.raft.recover_replica::<Tally>(id, &name, recovery, ());
                    let recovered = recovered.await.expect("a good disk");
                    self.replicas.lock().unwrap().insert(group, replica);
                    recovered.control().elect().await;
                    self.tallies.lock().unwrap().insert(group, recovered);
                }
                MemberEvent::RemoveReplica { group, replica } => {
                    let (id, name) = (group_id(group), name(group));
                    let removed = self.raft.remove_replica(id, &name);
                    removed.await.expect("a good disk");
                    self.replicas.lock().unwrap().remove(&group);
                    self.member.handle_removed(group, replica).await;
                }
                MemberEvent::Ended(_) => {
                    let start = {
                        let mut starts = self.starts.lock().unwrap();
                        starts.0 += 1;
                        *starts
                    };
                    self.member.begin(start).await;
                }
                _ => {}
            }
        }
    }

    async fn start(&self, group: GroupName, replica: RaftId) {
        let (id, name) = (group_id(group), name(group));
        match group {
            GroupName::Meta => {
                let started = self
                    .raft
                    .start_replica::<MetaMachine>(id, &name, replica, ());
                self.member.set_meta(started.await.expect("a good disk"));
            }
            GroupName::Routes => {
                let config = RoutesConfig { rows_max: 1_000 };
                let started = self
                    .raft
                    .start_replica::<RoutesMachine>(id, &name, replica, config);
                let routes = started.await.expect("a good disk");
                follow(&routes, &self.routes);
                self.member.set_routes(routes);
            }
            GroupName::Shard(_) => {
                let started = self.raft.start_replica::<Tally>(id, &name, replica, ());
                let started = started.await.expect("a good disk");
                self.tallies.lock().unwrap().insert(group, started);
            }
        }
    }
}

/// The node matches with whatever its replica of the routes has applied.
fn follow(routes: &Group<RoutesMachine>, sender: &watch::Sender<u64>) {
    let (mut applied, sender) = (routes.watch_applied(), sender.clone());
    tokio::spawn(async move {
        loop {
            let index = *applied.borrow_and_update();
            sender.send_replace(index);
            if applied.changed().await.is_err() {
                return;
            }
        }
    });
}

impl TestNode {
    pub(super) fn now_ms(&self) -> u64 {
        self.clock.mono_ms()
    }

    pub(super) fn holds_lease(&self) -> bool {
        self.member.lease().is_held(self.now_ms())
    }

    pub(super) fn saw(&self, kind: impl Fn(&MemberEvent) -> bool) -> bool {
        self.events.lock().unwrap().iter().any(kind)
    }

    pub(super) fn control(&self, group: GroupName) -> Arc<dyn crate::raft::GroupControl> {
        self.raft.control(group_id(group)).expect("it runs here")
    }

    /// Ends the node as a crash of the process does; gives what is left.
    pub(super) async fn kill(mut self) -> Kept {
        let fs = self.kept.fs.kill();
        for task in self.tasks.drain(..) {
            task.abort();
            let _ = task.await;
        }
        // Nothing that it does reaches the disk any more.
        let _ = self.raft.close().await;
        let start = StartCount(self.starts.lock().unwrap().0 + 1);
        let replicas = self.kept.replicas.lock().unwrap().clone();
        Kept {
            fs,
            start,
            replicas: Arc::new(Mutex::new(replicas)),
            ..self.kept.clone()
        }
    }

    /// Ends it in order.
    pub(super) async fn stop(mut self) {
        self.stop.clear();
        for task in self.tasks.drain(..2) {
            task.await.expect("it ends in order");
        }
        self.raft.close().await.expect("a good disk");
    }
}

/// What meta is, as a node has applied it.
pub(super) fn meta_of(node: &TestNode) -> Meta {
    let meta = node.member.meta().expect("meta runs here");
    meta.with(|machine| machine.meta().clone())
}

pub(super) fn is_refused(
    outcome: &Result<(Joined, Templates), NotJoined>,
    code: link::RefusalCode,
) -> bool {
    matches!(outcome, Err(NotJoined::Refused(refusal)) if refusal.code == code)
}
