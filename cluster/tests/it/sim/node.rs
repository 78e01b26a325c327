//! A simulated node: what runs on one turmoil host, from its start to its crash.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use cluster_core::{
    FeatureLevel, FolderId, Found, Group as GroupName, MetaAnswer, MetaCommand, NodeId, RaftId,
    StartCount, WallMs,
};
use runtime::{Clock, Random};
use storage::Turns;
use storage::fs::FaultFs;
use storage::raft::{Config, Defects};
use tidewire_cluster::link::{
    Admitter, ClusterId, Incoming, LinkConfig, LinkParts, Links, NodeIdentity, Service, Wish,
};
use tidewire_cluster::member::{self, Applicant, Member, MemberParts, Neighbour, group_id, join};
use tidewire_cluster::raft::{self, Group, HoldLimits, RaftConfig, RaftNode};
use tidewire_cluster::{MetaEntry, MetaMachine, RoutesConfig, RoutesMachine};
use tokio::sync::watch;
use tokio::time::Instant;

use super::defect::Defect;
use super::host::Host;
use super::ledger::{Ledger, Owner};
use super::net::{SimNet, address};
use super::record::Record;
use super::work;

const LEVEL: FeatureLevel = FeatureLevel(2);
/// Long enough for whatever is cut to be healed.
const JOIN_PATIENCE: Duration = Duration::from_mins(1);
pub(crate) const SHARDS: u16 = 3;

/// What a node keeps over its runs.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) fs: FaultFs,
    pub(crate) cluster: FolderId,
    pub(crate) members: BTreeMap<NodeId, Neighbour>,
    /// Starts that were counted.
    pub(crate) starts: StartCount,
    /// What lies on the disk; meta would tell, but it is a replica too.
    pub(crate) replicas: BTreeMap<GroupName, RaftId>,
    /// A replica whose log, vote and state are gone at the next start.
    pub(crate) damaged: Option<GroupName>,
}

/// What a node shows while it runs.
pub(crate) struct Live {
    pub(crate) raft: RaftNode,
    pub(crate) turns: Turns,
    pub(crate) member: Member,
    pub(crate) meta: Option<Group<MetaMachine>>,
    pub(crate) ledgers: BTreeMap<u32, Group<Ledger>>,
    pub(crate) holds_lease: bool,
}

/// A node's place in a run.
pub(crate) struct Seat {
    pub(crate) node: u32,
    pub(crate) seed: u64,
    pub(crate) defect: Defect,
    pub(crate) record: Record,
    /// None before it has joined.
    pub(crate) kept: Mutex<Option<Kept>>,
    pub(crate) live: Mutex<Option<Live>>,
    /// Whether values are proposed.
    pub(crate) works: Mutex<bool>,
}

/// Tells a node's time: the monotonic one since its start, and the simulation's.
#[derive(Clone)]
pub(crate) struct SimClock {
    start: Instant,
    wall_ms: u64,
}

impl SimClock {
    fn start() -> Self {
        let wall = turmoil::sim_elapsed().unwrap_or_default();
        Self {
            start: Instant::now(),
            wall_ms: 1_000_000 + wall.as_millis() as u64,
        }
    }
}

impl Clock for SimClock {
    fn wall_ms(&self) -> u64 {
        self.wall_ms + self.mono_ms()
    }

    fn mono_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
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
        if raft::CHANNELS.contains(&request.channel.kind) {
            if let Some(raft) = self.raft.get() {
                raft.handle_request(request);
            }
        } else if let Some(member) = self.member.get() {
            member.handle_request(request);
        }
    }

    fn handle_wish(&self, wish: Wish, _: &str, admitter: Admitter) {
        if let Some(member) = self.member.get() {
            member.handle_wish(wish, admitter);
        }
    }
}

fn folder(node: u32) -> FolderId {
    FolderId(0xf00 + u128::from(node))
}

pub(crate) fn name(group: GroupName) -> String {
    format!("group-{}", group_id(group).0)
}

pub(crate) fn group_number(shard: u16) -> u32 {
    group_id(GroupName::Shard(cluster_core::ShardId(shard))).0
}

impl Seat {
    /// A number that is the same in each run of the seed, and another for each purpose.
    pub(crate) fn random(&self, start: StartCount, purpose: u64) -> Random {
        let node = u64::from(self.node);
        let mixed = (self.seed << 20) ^ (node << 16) ^ (start.0 << 8) ^ purpose;
        Random::seeded(mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn owner(&self, group: GroupName) -> Owner {
        Owner {
            record: self.record.clone(),
            node: self.node,
            group: group_id(group).0,
        }
    }

    fn open(&self, kept: &Kept, clock: &SimClock) -> (RaftNode, Turns) {
        let config = RaftConfig {
            log: Config {
                segment_bytes: 16 << 10,
                cache_bytes_limit: 8 << 10,
                ..Config::default()
            },
            flush_log_bytes: 24 << 10,
            flush_age: Duration::from_secs(4),
            hold: HoldLimits {
                bytes: 32 << 10,
                age: Duration::from_secs(5),
            },
            restores_leader: self.defect == Defect::LeaderRestored,
            forgives_lost_logs: self.defect == Defect::VoterAfterDamage,
            ..RaftConfig::new(PathBuf::from("/data"), NodeId(self.node))
        };
        let (disk, record, node) = (kept.fs.clone(), self.record.clone(), self.node);
        // What is being switched off goes on for a moment, on a disk that takes nothing.
        let on_fatal = Arc::new(move |fatal| {
            if !disk.is_frozen() {
                record.violated(format!("node {node} cannot go on: {fatal}"));
            }
        });
        let (fs, clock) = (Arc::new(kept.fs.clone()), Arc::new(clock.clone()));
        let seed = self.random(kept.starts, 1).next_u64();
        let opened = RaftNode::open_in_turns(fs, clock, config, seed, Defects::default(), on_fatal);
        opened.unwrap_or_else(|error| panic!("node {} does not start: {error}", self.node))
    }

    fn set_live(&self, live: Option<Live>) {
        *lock(&self.live) = live;
    }

    pub(crate) fn with_live(&self, show: impl FnOnce(&mut Live)) {
        if let Some(live) = &mut *lock(&self.live) {
            show(live);
        }
    }

    fn keep(&self, kept: Kept) {
        *lock(&self.kept) = Some(kept);
    }

    pub(crate) fn with_kept<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> T {
        change(lock(&self.kept).as_mut().expect("it has begun"))
    }
}

/// Runs a node until it is crashed: founds the cluster or joins it, if it has nothing yet.
pub(crate) async fn run(seat: Arc<Seat>) -> turmoil::Result {
    let clock = SimClock::start();
    let kept = lock(&seat.kept).clone();
    let is_new = kept.is_none();
    let kept = match kept {
        Some(mut kept) => {
            kept.starts.0 += 1;
            kept
        }
        None if seat.node == 1 => fresh(&seat, folder(1), BTreeMap::new()),
        None => {
            let net = net(&seat);
            let wish = Applicant {
                cluster: None,
                folder: folder(seat.node),
                node: Some(NodeId(seat.node)),
                understood: LEVEL,
            };
            let mut random = seat.random(StartCount(1), 2);
            let addresses = [address(1)];
            let joining = join(&net, &addresses, wish, &mut random, JOIN_PATIENCE);
            let (joined, _) = joining.await?;
            fresh(&seat, joined.cluster, joined.members)
        }
    };
    seat.keep(kept.clone());
    let (raft, turns) = seat.open(&kept, &clock);
    // From here on the disk works, as slowly as its seed says.
    let disk = work::disk(turns.clone(), seat.random(kept.starts, 3));
    tokio::spawn(disk);
    let started = Started {
        seat,
        kept,
        clock,
        raft,
        turns,
    };
    started.run(is_new).await
}

fn fresh(seat: &Seat, cluster: FolderId, members: BTreeMap<NodeId, Neighbour>) -> Kept {
    Kept {
        fs: FaultFs::new(seat.random(StartCount(0), 4).next_u64()),
        cluster,
        members,
        starts: StartCount(1),
        replicas: BTreeMap::new(),
        damaged: None,
    }
}

fn net(seat: &Seat) -> SimNet {
    SimNet {
        record: seat.record.clone(),
        node: seat.node,
    }
}

/// A node whose log is open.
struct Started {
    seat: Arc<Seat>,
    kept: Kept,
    clock: SimClock,
    raft: RaftNode,
    turns: Turns,
}

impl Started {
    async fn run(mut self, is_new: bool) -> turmoil::Result {
        self.damage().await?;
        let (routes_sender, routes_applied) = watch::channel(0);
        let mut host = Host::new(Arc::clone(&self.seat), self.raft.clone(), routes_sender);
        let (links, link_service, service) = self.bind().await?;
        let (member, member_service, events) = Member::start(MemberParts {
            node: NodeId(self.seat.node),
            folder: folder(self.seat.node),
            start: self.kept.starts,
            address: address(self.seat.node),
            understood: LEVEL,
            members: self.kept.members.clone(),
            raft: self.raft.clone(),
            links: Some(links),
            routes_applied,
            clock: Arc::new(self.clock.clone()),
            random: self.seat.random(self.kept.starts, 5),
        });
        self.seat.set_live(Some(Live {
            raft: self.raft.clone(),
            turns: self.turns.clone(),
            member: member.clone(),
            meta: None,
            ledgers: BTreeMap::new(),
            holds_lease: false,
        }));
        host.set_member(member.clone());
        if is_new && self.seat.node == 1 {
            self.found(&host).await?;
        } else if let Some(replica) = self.kept.replicas.get(&GroupName::Meta) {
            host.start(GroupName::Meta, *replica).await?;
        }
        let _ = service.raft.set(self.raft.clone());
        let _ = service.member.set(member.clone());
        tokio::spawn(link_service.run(std::future::pending()));
        tokio::spawn(member_service.run(std::future::pending()));
        let watched = work::watch(Arc::clone(&self.seat), self.clock.clone());
        tokio::spawn(watched);
        for shard in 0..SHARDS {
            for client in 0..2 {
                let seat = Arc::clone(&self.seat);
                tokio::spawn(work::propose(seat, self.kept.starts, shard, client));
            }
        }
        host.run(events).await
    }

    /// A replica's log, vote and state are gone, as after a fault of the disk that was noticed.
    async fn damage(&mut self) -> turmoil::Result {
        let Some(group) = self.kept.damaged.take() else {
            return Ok(());
        };
        let (id, name) = (group_id(group), name(group));
        let removed = self.raft.remove_replica(id, &name);
        removed.await?;
        self.kept.replicas.remove(&group);
        self.seat.keep(self.kept.clone());
        Ok(())
    }

    async fn bind(
        &self,
    ) -> Result<
        (
            Links,
            tidewire_cluster::link::LinkService<SimNet>,
            Arc<Switch>,
        ),
        std::io::Error,
    > {
        let service = Arc::new(Switch::default());
        let identity = NodeIdentity {
            cluster: ClusterId(self.kept.cluster.0),
            node: NodeId(self.seat.node),
            folder: folder(self.seat.node),
            start: self.kept.starts,
            level: LEVEL,
            understood: LEVEL,
        };
        let parts = LinkParts {
            config: LinkConfig::default(),
            identity,
            clock: Arc::new(self.clock.clone()),
            random: self.seat.random(self.kept.starts, 6),
            service: Arc::clone(&service) as Arc<dyn Service>,
        };
        let own = address(self.seat.node);
        let (links, link_service) = Links::bind(net(&self.seat), &own, parts).await?;
        self.raft.connect(links.clone());
        Ok((links, link_service, service))
    }

    /// Founds the cluster, with this node as the only voter of everything.
    async fn found(&mut self, host: &Host) -> turmoil::Result {
        let (id, meta_name) = (group_id(GroupName::Meta), name(GroupName::Meta));
        let meta = self.raft.start_group::<MetaMachine>(id, &meta_name, ());
        let meta = meta.await?;
        let found = MetaCommand::Found(Found {
            node: NodeId(1),
            folder: folder(1),
            shards: NonZeroU16::new(SHARDS).expect("some"),
            buckets: NonZeroU16::MIN,
            level: LEVEL,
        });
        let entry = MetaEntry {
            time: WallMs(self.clock.wall_ms()),
            command: found,
        };
        let founded = meta.propose(entry.encode().into()).await?;
        assert_eq!(founded, MetaAnswer::Joined { node: NodeId(1) });
        let groups: Vec<GroupName> = meta.with(|machine| {
            let placements = machine.meta().placements();
            placements.map(|(group, _)| group).collect()
        });
        for group in groups {
            let (id, name) = (group_id(group), name(group));
            match group {
                GroupName::Meta => {}
                GroupName::Routes => {
                    let config = RoutesConfig { rows_max: 1_000 };
                    let routes = self.raft.start_group::<RoutesMachine>(id, &name, config);
                    host.set_routes(routes.await?);
                }
                GroupName::Shard(_) => {
                    let owner = self.seat.owner(group);
                    let ledger = self.raft.start_group::<Ledger>(id, &name, owner);
                    let ledger = ledger.await?;
                    self.seat
                        .with_live(|live| drop(live.ledgers.insert(id.0, ledger)));
                }
            }
            self.seat
                .with_kept(|kept| kept.replicas.insert(group, RaftId(1)));
        }
        host.set_meta(meta);
        Ok(())
    }
}

/// A run that panicked is looked at all the same.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether meta is as it should be, at a node that has it.
pub(crate) fn is_at_rest(meta: &Group<MetaMachine>) -> bool {
    meta.with(|machine| {
        let layout = machine.meta().layout();
        layout.moves.is_empty()
            && layout.leftovers.is_empty()
            && cluster_core::plan(machine.meta()).is_empty()
    })
}

/// The events of a member that its host carries out.
pub(crate) type Events = tokio::sync::mpsc::Receiver<member::MemberEvent>;
