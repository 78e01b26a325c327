//! What the runtime of a member and its handles share, and how they reach meta's leader.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use cluster_core::{
    BootMs, EpochView, FeatureLevel, FolderId, Group as GroupName, Hello, MetaAnswer, MetaCommand,
    NodeId, Refusal, StartCount, Unavailable, WallMs,
};
use runtime::Clock;
use tokio::sync::{mpsc, watch};

use super::claims::Leaders;
use super::counters::MemberCounters;
use super::driver::Input;
use super::groups::group_id;
use super::holds::Holds;
use super::lease_view::LeaseView;
use super::message::{
    ANSWER_BYTES_MAX, Empty, JOIN, JOIN_ANSWER_BYTES_MAX, JoinAnswer, Joined, Message, Neighbour,
    PROPOSE, ProposeAnswer, READ_ROUTES, ReadAnswer,
};
use super::status::MemberStatus;
use crate::link::{self, Ask, Channel, Lane, Links, RefusalCode, RequestError};
use crate::raft::{Group, GroupControl, RaftNode, Unproposed};
use crate::{MetaEntry, MetaMachine, RoutesMachine};

/// How long a proposal is tried.
const PROPOSE_PATIENCE: Duration = Duration::from_secs(5);
/// How long another node may take with one.
const FORWARD_DEADLINE: Duration = Duration::from_secs(2);
/// The pause before the next try.
const PROPOSE_PAUSE: Duration = Duration::from_millis(100);

/// Why a command has no answer of meta. It may have been applied all the same, and may be repeated:
/// a repeat is answered as the first was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("meta has not answered: {0}")]
pub struct NotProposed(String);

impl NotProposed {
    pub(super) fn new(why: &str) -> Self {
        Self(why.to_owned())
    }
}

/// Shared by the runtime, its tasks and all handles.
pub(super) struct Inner {
    pub(super) me: NodeId,
    pub(super) folder: FolderId,
    pub(super) address: String,
    pub(super) understood: FeatureLevel,
    /// The start of this process, which pings name.
    pub(super) start: StartCount,
    pub(super) raft: RaftNode,
    /// None where a node is alone for good.
    pub(super) links: Option<Links>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) lease: Arc<LeaseView>,
    pub(super) leaders: Arc<ArcSwap<Leaders>>,
    pub(super) epochs: watch::Sender<EpochView>,
    pub(super) status: ArcSwap<MemberStatus>,
    pub(super) counters: MemberCounters,
    pub(super) groups: Mutex<Groups>,
    pub(super) holds: Holds,
}

/// The groups whose machine the member has to know, once they run here.
#[derive(Default)]
pub(super) struct Groups {
    pub(super) meta: Option<Group<MetaMachine>>,
    pub(super) routes: Option<Group<RoutesMachine>>,
}

/// What came of one attempt.
enum Attempt<T> {
    Done(T),
    /// Another node is to be asked, if it is known which.
    Elsewhere(Option<NodeId>),
    Failed(String),
}

impl Inner {
    pub(super) fn now(&self) -> BootMs {
        BootMs(self.clock.mono_ms())
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn meta(&self) -> Option<Group<MetaMachine>> {
        self.groups().meta.clone()
    }

    pub(super) fn routes(&self) -> Option<Group<RoutesMachine>> {
        self.groups().routes.clone()
    }

    pub(super) fn set_meta(&self, group: Group<MetaMachine>) {
        self.groups().meta = Some(group);
    }

    pub(super) fn set_routes(&self, group: Group<RoutesMachine>) {
        self.groups().routes = Some(group);
    }

    pub(super) fn control(&self, group: GroupName) -> Option<Arc<dyn GroupControl>> {
        self.raft.control(group_id(group))
    }

    /// Who leads a group, by claims, else by what this node's replica knows.
    pub(super) fn leader(&self, group: GroupName) -> Option<NodeId> {
        let claimed = self.leaders.load().get(&group).map(|leading| leading.node);
        claimed.or_else(|| Some(self.control(group)?.leader()?.node))
    }

    /// Asks a peer on the control lane.
    pub(super) async fn ask(
        &self,
        node: NodeId,
        kind: u16,
        payload: Bytes,
        reply_bytes_max: u32,
        deadline: Duration,
    ) -> Result<Bytes, RequestError> {
        let not_connected = RequestError::NotConnected {
            node,
            lane: Lane::Control,
        };
        let peer = self.links.as_ref().and_then(|links| links.peer(node));
        let peer = peer.ok_or(not_connected)?;
        let channel = Channel { kind, group: 0 };
        let ask = Ask {
            channel,
            payload,
            reply_bytes_max,
            deadline,
        };
        peer.request(Lane::Control, ask).await
    }

    /// Asks, and reads the answer.
    pub(super) async fn ask_for<T: Message>(
        &self,
        node: NodeId,
        kind: u16,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<T, String> {
        let room = if kind == JOIN {
            JOIN_ANSWER_BYTES_MAX
        } else {
            ANSWER_BYTES_MAX
        };
        let reply = self.ask(node, kind, payload, room, deadline).await;
        let reply = reply.map_err(|error| error.to_string())?;
        T::decode(&reply).map_err(|error| error.to_string())
    }

    /// Has meta apply a command, wherever its leader is.
    pub(super) async fn propose(&self, command: &MetaCommand) -> Result<MetaAnswer, NotProposed> {
        let local = || self.propose_here(command);
        let remote = |node| async move {
            let payload = command.encode();
            let answer = self.ask_for(node, PROPOSE, payload, FORWARD_DEADLINE).await;
            match answer {
                Ok(ProposeAnswer::Applied(answer)) => Attempt::Done(answer),
                Ok(ProposeAnswer::NotLeader(leader)) => Attempt::Elsewhere(leader),
                Ok(ProposeAnswer::Unknown) => Attempt::Failed("its fate is not known".to_owned()),
                Ok(ProposeAnswer::Busy) => Attempt::Failed(format!("node {node} is busy")),
                Err(why) => Attempt::Failed(why),
            }
        };
        self.at_leader(GroupName::Meta, local, remote)
            .await
            .map_err(NotProposed)
    }

    async fn propose_here(&self, command: &MetaCommand) -> Attempt<MetaAnswer> {
        match self.answer_proposal(command).await {
            ProposeAnswer::Applied(answer) => Attempt::Done(answer),
            ProposeAnswer::NotLeader(leader) => Attempt::Elsewhere(leader),
            ProposeAnswer::Unknown | ProposeAnswer::Busy => {
                Attempt::Failed("its fate is not known".to_owned())
            }
        }
    }

    /// Proposes here, if this node leads meta.
    pub(super) async fn answer_proposal(&self, command: &MetaCommand) -> ProposeAnswer {
        let Some(meta) = self.meta() else {
            return ProposeAnswer::NotLeader(self.leader(GroupName::Meta));
        };
        let entry = MetaEntry {
            time: WallMs(self.clock.wall_ms()),
            command: command.clone(),
        };
        match meta.propose(entry.encode().into()).await {
            Ok(answer) => ProposeAnswer::Applied(answer),
            Err(Unproposed::Unavailable { why, .. }) => ProposeAnswer::NotLeader(led(why)),
            Err(Unproposed::Lost) => ProposeAnswer::Unknown,
        }
    }

    /// The committed index of the routes group, wherever its leader is.
    pub(super) async fn read_routes(&self) -> Result<u64, String> {
        let local = || async {
            match self.answer_read().await {
                ReadAnswer::Index(index) => Attempt::Done(index),
                ReadAnswer::NotLeader(leader) => Attempt::Elsewhere(leader),
                ReadAnswer::Failed => Attempt::Failed("no quorum answered".to_owned()),
            }
        };
        let remote = |node| async move {
            let asked = self.ask_for(node, READ_ROUTES, Empty.encode(), FORWARD_DEADLINE);
            match asked.await {
                Ok(ReadAnswer::Index(index)) => Attempt::Done(index),
                Ok(ReadAnswer::NotLeader(leader)) => Attempt::Elsewhere(leader),
                Ok(ReadAnswer::Failed) => Attempt::Failed("no quorum answered".to_owned()),
                Err(why) => Attempt::Failed(why),
            }
        };
        self.at_leader(GroupName::Routes, local, remote).await
    }

    /// The same, if this node leads them.
    pub(super) async fn answer_read(&self) -> ReadAnswer {
        let Some(routes) = self.routes() else {
            return ReadAnswer::NotLeader(self.leader(GroupName::Routes));
        };
        match routes.read_index().await {
            Ok(index) => ReadAnswer::Index(index),
            Err(Unproposed::Unavailable {
                why: Unavailable::LeaseExpired,
                ..
            })
            | Err(Unproposed::Lost) => ReadAnswer::Failed,
            Err(Unproposed::Unavailable { why, .. }) => ReadAnswer::NotLeader(led(why)),
        }
    }

    /// Answers the wish of a node to join, by meta's leader.
    pub(super) async fn join(&self, hello: &Hello) -> JoinAnswer {
        let local = || async {
            match self.answer_join(hello).await {
                JoinAnswer::NotLeader(leader) => Attempt::Elsewhere(leader),
                answer => Attempt::Done(answer),
            }
        };
        let remote = |node| async move {
            match self
                .ask_for(node, JOIN, hello.encode(), FORWARD_DEADLINE)
                .await
            {
                Ok(JoinAnswer::NotLeader(leader)) => Attempt::Elsewhere(leader),
                Ok(answer) => Attempt::Done(answer),
                Err(why) => Attempt::Failed(why),
            }
        };
        let answer = self.at_leader(GroupName::Meta, local, remote).await;
        answer.unwrap_or_else(|why| {
            tracing::warn!(why, "a node that wants to join gets no answer of meta");
            JoinAnswer::Refused(link::Refusal::new(RefusalCode::Leaderless, 0_u8, 0_u8))
        })
    }

    /// Answers it, if this node leads meta.
    pub(super) async fn answer_join(&self, hello: &Hello) -> JoinAnswer {
        let Some(meta) = self.meta() else {
            return JoinAnswer::NotLeader(self.leader(GroupName::Meta));
        };
        // What an earlier leader has committed counts too.
        if let Err(Unproposed::Unavailable { why, .. }) = meta.read_index().await {
            return JoinAnswer::NotLeader(led(why));
        }
        if let Err(why) = meta.with(|meta| meta.meta().check_hello(hello)) {
            return JoinAnswer::Refused(refusal(hello, &why, &meta));
        }
        let join = MetaCommand::Join(cluster_core::Join {
            node: hello.node,
            folder: hello.folder,
            level: hello.level,
        });
        match self.answer_proposal(&join).await {
            ProposeAnswer::Applied(MetaAnswer::Joined { node }) => {
                let joined = meta.with(|meta| joined(meta.meta(), node));
                joined.unwrap_or(JoinAnswer::NotLeader(None))
            }
            ProposeAnswer::Applied(MetaAnswer::Refused(why)) => {
                JoinAnswer::Refused(refusal(hello, &why, &meta))
            }
            ProposeAnswer::NotLeader(leader) => JoinAnswer::NotLeader(leader),
            ProposeAnswer::Applied(_) | ProposeAnswer::Unknown | ProposeAnswer::Busy => {
                JoinAnswer::NotLeader(None)
            }
        }
    }

    /// Tries at the leader of a group, or at whoever may know it, until something comes of it or
    /// the patience ends.
    async fn at_leader<T, L, R>(
        &self,
        group: GroupName,
        local: impl Fn() -> L,
        remote: impl Fn(NodeId) -> R,
    ) -> Result<T, String>
    where
        L: Future<Output = Attempt<T>>,
        R: Future<Output = Attempt<T>>,
    {
        let mut why = String::from("no leader is known");
        let mut hint = None;
        let mut asked = BTreeSet::new();
        let tries = async {
            loop {
                let known = hint.take().or_else(|| self.leader(group));
                let node = known.or_else(|| self.another(&mut asked));
                let attempt = match node {
                    Some(node) if node == self.me => local().await,
                    Some(node) => remote(node).await,
                    None => Attempt::Elsewhere(None),
                };
                match attempt {
                    Attempt::Done(answer) => return answer,
                    // At once, as long as it is news.
                    Attempt::Elsewhere(Some(leader)) if Some(leader) != node => {
                        hint = Some(leader);
                        if asked.insert(leader) {
                            continue;
                        }
                    }
                    Attempt::Elsewhere(_) => asked.extend(node),
                    Attempt::Failed(failed) => {
                        why = failed;
                        asked.extend(node);
                    }
                }
                tokio::time::sleep(PROPOSE_PAUSE).await;
            }
        };
        let outcome = tokio::time::timeout(PROPOSE_PATIENCE, tries).await;
        outcome.map_err(|_| why)
    }

    /// A node that was not asked lately and may know the leader: this one too.
    fn another(&self, asked: &mut BTreeSet<NodeId>) -> Option<NodeId> {
        let peers = self.links.as_ref().map(Links::statuses);
        let peers = peers.iter().flatten().map(|peer| peer.node);
        let nodes: Vec<NodeId> = [self.me].into_iter().chain(peers).collect();
        if nodes.iter().all(|node| asked.contains(node)) {
            asked.clear();
        }
        let next = nodes.into_iter().find(|node| !asked.contains(node));
        asked.extend(next);
        next
    }
}

fn led(why: Unavailable) -> Option<NodeId> {
    match why {
        Unavailable::Led(node) => Some(node),
        _ => None,
    }
}

/// What a new member has to know.
fn joined(meta: &cluster_core::Meta, node: NodeId) -> Option<JoinAnswer> {
    let others = meta.members().filter(|(other, _)| *other != node);
    let joined = Joined {
        node,
        cluster: meta.cluster()?,
        level: meta.level(),
        shards: meta.shards(),
        buckets: meta.buckets(),
        members: others
            .map(|(node, member)| (node, neighbour(member)))
            .collect(),
    };
    let templates = meta.templates().clone();
    Some(match templates.is_empty() {
        true => JoinAnswer::Joined(joined),
        false => JoinAnswer::JoinedWith { joined, templates },
    })
}

/// A member as others link with it.
pub(super) fn neighbour(member: &cluster_core::Member) -> Neighbour {
    Neighbour {
        folder: member.folder,
        start: member.last.map_or(StartCount(0), |(start, _)| start),
        address: member.address.clone(),
    }
}

/// What the link says of a refusal of meta.
fn refusal(hello: &Hello, why: &Refusal, meta: &Group<MetaMachine>) -> link::Refusal {
    let new = |code, offered: u128, expected: u128| link::Refusal::new(code, offered, expected);
    let removed = |node: NodeId| new(RefusalCode::Removed, node.0.into(), node.0.into());
    match *why {
        Refusal::OtherCluster { asked, known } => new(RefusalCode::Cluster, asked, known),
        Refusal::LevelTooLow { asked, level } => {
            new(RefusalCode::Level, asked.0.into(), level.0.into())
        }
        Refusal::FolderTaken(node) => new(RefusalCode::Member, hello.folder.0, node.0.into()),
        Refusal::NoMember(node) => removed(node),
        Refusal::OtherFolder(node) => {
            let folder = meta.with(|meta| Some(meta.meta().member(node)?.folder));
            match folder {
                Some(folder) => new(RefusalCode::Folder, hello.folder.0, folder.0),
                None => removed(node),
            }
        }
        Refusal::Full { limit, .. } => new(RefusalCode::Full, 0, limit as u128),
        _ => new(RefusalCode::Leaderless, 0, 0),
    }
}
