//! What the other parts of a node hold of its membership.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use arc_swap::ArcSwap;
use cluster_core::{
    BootMs, EpochView, FeatureLevel, FolderId, Group as GroupName, MetaAnswer, MetaCommand, NodeId,
    RaftId, StartCount, StartMove,
};
use runtime::{Clock, Random};
use tokio::sync::{mpsc, oneshot, watch};

use super::claims::Leaders;
use super::counters::MemberCounters;
use super::driver::{Input, Runtime, Stopped};
use super::event::MemberEvent;
use super::holds::Holds;
use super::inner::{Inner, NotProposed};
use super::lease_view::LeaseView;
use super::message::Neighbour;
use super::status::MemberStatus;
use crate::link::{Admitter, Incoming, Links, Wish};
use crate::raft::{Group, RaftNode};
use crate::{MetaMachine, RoutesMachine};

/// Requests and calls that wait for the runtime; a request beyond that has no answer.
const INPUTS_MAX: usize = 1_024;
/// Events that wait in the channel.
const EVENTS_MAX: usize = 256;

/// What a member is made of.
pub struct MemberParts {
    /// This node.
    pub node: NodeId,
    /// Its data folder.
    pub folder: FolderId,
    /// How often it was started on that folder: as in its links' identity.
    pub start: StartCount,
    /// Where peers are to dial it; empty for a node that is alone for good.
    pub address: String,
    /// The highest feature level that it understands.
    pub understood: FeatureLevel,
    /// The other members that it knows, from joining; meta says more later.
    pub members: BTreeMap<NodeId, Neighbour>,
    /// Its groups.
    pub raft: RaftNode,
    /// Its links; none for a node that is alone for good.
    pub links: Option<Links>,
    /// The entry of the routes group up to which this node matches publishes. Entries without
    /// commands count too ([`Group::watch_applied`]), or the lease is lost for them.
    pub routes_applied: watch::Receiver<u64>,
    /// Its clock: `mono_ms` is to be `CLOCK_BOOTTIME`.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub random: Random,
}

/// A node's membership, to ask and to tell. Cheap to clone.
#[derive(Clone)]
pub struct Member(Arc<Inner>);

/// The loop behind it, to be run by an actor.
pub struct MemberService(Runtime);

impl Member {
    /// Makes the membership of a node. It does nothing before [`MemberService::run`]; then it
    /// begins an epoch. The events are to be taken all the time: 4 096 that nobody takes end it.
    pub fn start(parts: MemberParts) -> (Self, MemberService, mpsc::Receiver<MemberEvent>) {
        let (sender, inputs) = mpsc::channel(INPUTS_MAX);
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let inner = Arc::new(Inner {
            me: parts.node,
            folder: parts.folder,
            address: parts.address,
            understood: parts.understood,
            start: parts.start,
            raft: parts.raft,
            links: parts.links,
            clock: parts.clock,
            inputs: sender,
            lease: Arc::default(),
            leaders: Arc::default(),
            epochs: watch::Sender::default(),
            status: ArcSwap::default(),
            counters: MemberCounters::default(),
            groups: std::sync::Mutex::default(),
            holds: Holds::default(),
        });
        let runtime = Runtime::new(
            Arc::clone(&inner),
            inputs,
            events,
            parts.members,
            parts.routes_applied,
            parts.random,
        );
        (Self(inner), MemberService(runtime), receiver)
    }

    /// Until when this node may promise anything.
    pub fn lease(&self) -> Arc<LeaseView> {
        Arc::clone(&self.0.lease)
    }

    /// Who leads which group, as far as this node knows.
    pub fn leaders(&self) -> Arc<ArcSwap<Leaders>> {
        Arc::clone(&self.0.leaders)
    }

    /// Which node epochs are current, as far as this node has applied meta.
    pub fn epochs(&self) -> watch::Receiver<EpochView> {
        self.0.epochs.subscribe()
    }

    /// The cluster as an operator may want to see it, at most 500 ms old.
    pub fn status(&self) -> Arc<MemberStatus> {
        self.0.status.load_full()
    }

    /// What was done so far.
    pub fn counters(&self) -> &MemberCounters {
        &self.0.counters
    }

    /// Has meta apply a command, wherever its leader is; tried for 5 s.
    ///
    /// # Errors
    /// Nobody answered: the command may have been applied, and may be repeated.
    pub async fn propose(&self, command: &MetaCommand) -> Result<MetaAnswer, NotProposed> {
        self.0.propose(command).await
    }

    /// What meta would answer to a command, as far as this node has applied it; nothing changes. None
    /// while no replica of meta runs here.
    pub fn rehearse(&self, command: &MetaCommand) -> Option<MetaAnswer> {
        let meta = self.0.meta()?;
        // Not under the lock of the machine: it is a copy of all of the state.
        let copy = meta.with(|machine| machine.meta().clone());
        Some(copy.rehearse(command))
    }

    /// The replica of meta runs here now.
    pub fn set_meta(&self, group: Group<MetaMachine>) {
        self.0.set_meta(group);
        self.wake();
    }

    /// The replica of the routes runs here now.
    pub fn set_routes(&self, group: Group<RoutesMachine>) {
        self.0.set_routes(group);
        self.wake();
    }

    /// After [`MemberEvent::Ended`]: every connection is closed, and another start is counted and
    /// synced in the folder. Waits for room only.
    pub async fn begin(&self, start: StartCount) {
        self.put(Input::Begin(start)).await;
    }

    /// After [`MemberEvent::RemoveReplica`]: nothing of the replica is left on the disk. Waits for
    /// room only.
    pub async fn handle_removed(&self, group: GroupName, replica: RaftId) {
        self.put(Input::Removed(group, replica)).await;
    }

    /// The node stops: from now on it stands for nothing, and what it leads it hands over. Waits until
    /// it leads nothing that another voter could lead, which may be for ever: its caller bounds the
    /// time.
    pub async fn hand_over(&self) {
        let (done, told) = oneshot::channel();
        self.put(Input::HandOver(done)).await;
        if told.await.is_err() {
            tracing::debug!("the member has stopped");
        }
    }

    /// Keeps a group, while it is led here, from being given to its preferred node until then, by the
    /// node's clock. A start forgets it.
    pub fn hold(&self, group: GroupName, until: BootMs) {
        self.0.holds.hold(group, until);
    }

    /// After a [`MemberEvent::StartReplica`] of a replica that is not new and lies on no disk, or is
    /// damaged there: has the group take this node in again under another Raft id.
    ///
    /// # Errors
    /// As [`Member::propose`]; also if meta does not run here.
    pub async fn renew(&self, group: GroupName) -> Result<MetaAnswer, NotProposed> {
        let renewed = Some(self.0.me);
        let row = self
            .0
            .meta()
            .and_then(|meta| meta.with(|machine| machine.meta().placement(group).cloned()));
        let row =
            row.ok_or_else(|| NotProposed::new("meta does not run here, or has no such group"))?;
        let start = StartMove {
            group,
            expected: row.version,
            to: row.placement,
            renewed,
        };
        self.propose(&MetaCommand::StartMove(start)).await
    }

    /// Takes a request of a peer whose channel is one of [`super::CHANNELS`]; returns at once. One
    /// that finds the queue full has no answer.
    pub fn handle_request(&self, request: Incoming) {
        if self.0.inputs.try_send(Input::Request(request)).is_err() {
            self.0.counters.dropped_total.add(1);
        }
    }

    /// Takes the wish of a node to join; returns at once.
    pub fn handle_wish(&self, wish: Wish, admitter: Admitter) {
        if self.0.inputs.try_send(Input::Wish(wish, admitter)).is_err() {
            self.0.counters.dropped_total.add(1);
        }
    }

    /// The replica of meta that runs here.
    #[cfg(test)]
    pub(super) fn meta(&self) -> Option<Group<MetaMachine>> {
        self.0.meta()
    }

    /// The runtime looks by itself within 100 ms; sooner if there is room.
    fn wake(&self) {
        let _ = self.0.inputs.try_send(Input::Groups);
    }

    async fn put(&self, input: Input) {
        if self.0.inputs.send(input).await.is_err() {
            tracing::debug!("the member has stopped");
        }
    }
}

impl MemberService {
    /// Runs until `stop` is ready; then the node holds no lease any more.
    ///
    /// # Errors
    /// It stopped by itself; the node holds no lease then either.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Stopped> {
        let lease = self.0.lease();
        let outcome = self.0.run(stop).await;
        lease.set(None, |_| None, BootMs(0));
        outcome
    }
}
