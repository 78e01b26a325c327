//! The loop of a member: what comes in, what time it is, what follows from both.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cluster_core::{
    BootMs, Group as GroupName, Leftover, Meta, MetaAnswer, NodeEpoch, NodeId, RaftId, RenewalId,
    Round, ShardId, StartCount, Suspicion,
};
use runtime::Random;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;

use super::claims::Claims;
use super::elections::Elections;
use super::event::MemberEvent;
use super::handover::Handover;
use super::hosted::Hosted;
use super::inner::{Inner, NotProposed};
use super::lease_view::LeaseView;
use super::message::{Claim, Neighbour, Ping, RenewalAnswer};
use super::movers::Movers;
use super::returns::Returns;
use super::tenure::Tenure;
use super::term::MetaTerm;
use crate::link::{Admitter, Incoming, Wish};

/// How often the loop looks at the time.
const TICK: Duration = Duration::from_millis(100);
/// How often the status is renewed, in milliseconds.
const STATUS_MS: u64 = 500;
/// Events that nobody has taken yet, beyond those in the channel; more end the member: its node
/// does not follow.
const EVENTS_MAX: usize = 4_096;

/// What comes in from handles and links.
pub(super) enum Input {
    /// Of a peer.
    Request(Incoming),
    /// Of a node without a number.
    Wish(Wish, Admitter),
    /// A group whose machine the member knows runs here now.
    Groups,
    /// The node has closed what its last epoch had, and counted a start.
    Begin(StartCount),
    /// A replica was deleted.
    Removed(GroupName, RaftId),
    /// The node stops; who waits is told once it leads nothing that another could lead.
    HandOver(oneshot::Sender<()>),
}

/// What a task of the loop brought.
pub(super) enum Done {
    /// Somebody was answered.
    Served,
    /// Nothing that anybody waits for.
    Nothing,
    Heard(NodeId, Ping),
    Begun(Result<MetaAnswer, NotProposed>),
    Renewed(NodeEpoch, RenewalId, RenewalAnswer),
    /// Of a term of meta.
    Round(u64, Round, bool),
    RoutesRead(NodeEpoch, Option<u64>),
    Planned,
    Ended,
    /// Whether another node leads the group now.
    HandedOver(GroupName, bool),
    Step {
        group: GroupName,
        serial: u64,
        is_done: bool,
    },
    /// Whether meta was told.
    Gone(Leftover, bool),
}

/// Why a member stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// A task of it panicked.
    #[error("a task of the member panicked: {0}")]
    Panicked(JoinError),
    /// Nobody takes its events.
    #[error("4096 events of the member wait to be taken")]
    Unheard,
}

pub(super) struct Runtime {
    pub(super) inner: Arc<Inner>,
    pub(super) inputs: mpsc::Receiver<Input>,
    events: mpsc::Sender<MemberEvent>,
    waiting: VecDeque<MemberEvent>,
    pub(super) tasks: JoinSet<Done>,
    /// Tasks that answer peers.
    pub(super) serving: usize,
    pub(super) random: Random,
    pub(super) routes_applied: watch::Receiver<u64>,
    meta_applied: Option<watch::Receiver<u64>>,
    /// Meta as far as this node has applied it.
    pub(super) meta: Option<Arc<Meta>>,
    /// The other members, as meta says, or before that those who took this node in.
    pub(super) members: BTreeMap<NodeId, Neighbour>,
    pub(super) suspicion: Suspicion,
    /// How often in a row nobody listened at a peer's address, as was told to `suspicion`.
    pub(super) refused: BTreeMap<NodeId, u32>,
    /// What each peer's last ping said of its run.
    pub(super) runs: BTreeMap<NodeId, (StartCount, Option<NodeEpoch>)>,
    /// The peers that stop, as they say.
    pub(super) stopping: BTreeSet<NodeId>,
    /// Since when each peer is heard without a break.
    pub(super) up: BTreeMap<NodeId, BootMs>,
    pub(super) claims: Claims,
    pub(super) own: BTreeMap<GroupName, Claim>,
    /// Who led each group last.
    pub(super) led: BTreeMap<GroupName, NodeId>,
    /// When each shard's leader was heard last.
    pub(super) heard: BTreeMap<ShardId, BootMs>,
    pub(super) elections: Elections,
    pub(super) returns: Returns,
    pub(super) handover: Handover,
    pub(super) hosted: Hosted,
    pub(super) movers: Movers,
    pub(super) tenure: Tenure,
    pub(super) term: Option<MetaTerm>,
    pub(super) pinged: Option<BootMs>,
    /// The next ping claims another leadership than the last one, or one less.
    pub(super) has_news: bool,
    /// When the status was renewed; none where it is to be at once.
    pub(super) shown: Option<BootMs>,
    /// Whether the lease was held at the last turn.
    pub(super) was_held: bool,
}

impl Runtime {
    pub(super) fn new(
        inner: Arc<Inner>,
        inputs: mpsc::Receiver<Input>,
        events: mpsc::Sender<MemberEvent>,
        mut members: BTreeMap<NodeId, Neighbour>,
        routes_applied: watch::Receiver<u64>,
        mut random: Random,
    ) -> Self {
        let me = inner.me;
        members.remove(&me);
        let jitter_ms = random.below(cluster_core::SILENT_JITTER_MS);
        let start = inner.start;
        Self {
            inputs,
            events,
            waiting: VecDeque::new(),
            tasks: JoinSet::new(),
            serving: 0,
            random,
            routes_applied,
            meta_applied: None,
            meta: None,
            members,
            suspicion: Suspicion::new(me, jitter_ms),
            refused: BTreeMap::new(),
            runs: BTreeMap::new(),
            stopping: BTreeSet::new(),
            up: BTreeMap::new(),
            claims: Claims::default(),
            own: BTreeMap::new(),
            led: BTreeMap::new(),
            heard: BTreeMap::new(),
            elections: Elections::default(),
            returns: Returns::default(),
            handover: Handover::default(),
            hosted: Hosted::default(),
            movers: Movers::default(),
            tenure: Tenure::new(start),
            term: None,
            pinged: None,
            has_news: false,
            shown: None,
            was_held: false,
            inner,
        }
    }

    pub(super) fn lease(&self) -> Arc<LeaseView> {
        Arc::clone(&self.inner.lease)
    }

    /// Runs until `stop` is ready.
    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), Stopped> {
        let mut stop = std::pin::pin!(stop);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.link_with_members();
        loop {
            // Every branch is cancel-safe.
            tokio::select! {
                () = &mut stop => break,
                Some(input) = self.inputs.recv() => self.handle_input(input),
                Some(done) = self.tasks.join_next() => {
                    self.handle_done(done.map_err(Stopped::Panicked)?);
                }
                () = changed(&mut self.meta_applied) => {}
                _ = ticks.tick() => {}
            }
            self.turn();
            self.tell()?;
        }
        self.tasks.shutdown().await;
        Ok(())
    }

    /// Does what follows from what is known, at this time.
    fn turn(&mut self) {
        let now = self.inner.now();
        self.read_meta(now);
        self.watch_peers(now);
        self.know_leaders(now);
        self.elect(now);
        self.keep_lease(now);
        self.keep_term(now);
        self.keep_groups(now);
        self.ping(now);
        if self.shown.is_none_or(|at| now.since_ms(at) >= STATUS_MS) {
            self.shown = Some(now);
            self.inner.status.store(Arc::new(self.status(now)));
        }
    }

    fn handle_done(&mut self, done: Done) {
        let now = self.inner.now();
        match done {
            Done::Served => self.serving -= 1,
            Done::Nothing => {}
            Done::Heard(node, ping) => self.handle_ping(node, ping, now),
            Done::Begun(answer) => self.handle_begun(answer, now),
            Done::Renewed(epoch, id, answer) => self.handle_renewed(epoch, id, answer, now),
            Done::Round(term, round, is_good) => self.handle_round(term, round, is_good, now),
            Done::RoutesRead(epoch, index) => self.tenure.handle_routes_read(epoch, index),
            Done::Planned => self.handle_planned(),
            Done::Ended => self.handle_end_proposed(),
            Done::HandedOver(group, is_done) => {
                self.handover.handle_transfer(group, is_done, now);
            }
            Done::Step {
                group,
                serial,
                is_done,
            } => self.movers.handle_step(group, serial, is_done, now),
            Done::Gone(leftover, is_told) => self.hosted.handle_gone(leftover, is_told),
        }
    }

    /// Puts an event behind the others.
    pub(super) fn say(&mut self, event: MemberEvent) {
        self.waiting.push_back(event);
    }

    /// Hands out events as far as they are taken.
    fn tell(&mut self) -> Result<(), Stopped> {
        while let Some(event) = self.waiting.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
                self.waiting.push_front(event);
                break;
            }
        }
        if self.waiting.len() > EVENTS_MAX {
            return Err(Stopped::Unheard);
        }
        Ok(())
    }

    /// Looks at meta again if it has applied more.
    pub(super) fn read_meta(&mut self, now: BootMs) {
        let Some(group) = self.inner.meta() else {
            return;
        };
        if self.meta_applied.is_none() {
            self.meta_applied = Some(group.watch_applied());
        }
        let known = self.meta.as_ref().map_or(0, |meta| meta.index());
        let read = group.with(|machine| {
            let meta = machine.meta_mut();
            // What has changed is found by comparing states; nobody else hosts meta.
            while meta.poll_effect().is_some() {}
            (meta.index() > known).then(|| meta.clone())
        });
        if let Some(meta) = read {
            let before = self.meta.replace(Arc::new(meta));
            self.handle_meta(before.as_deref(), now);
        }
    }

    fn handle_meta(&mut self, before: Option<&Meta>, now: BootMs) {
        let Some(meta) = self.meta.clone() else {
            return;
        };
        let epochs = meta.epochs();
        self.handle_members(&meta, before);
        self.handle_epochs(&meta, before, &epochs, now);
        // Of one that was recovered before this node knew of any there are no connections here.
        let known = |shard: &ShardId| before.map(|before| before.recovered().get(shard));
        for (shard, recovered) in meta.recovered() {
            if known(shard).is_some_and(|known| known != Some(recovered)) {
                self.say(MemberEvent::ShardRecovered(*shard));
            }
        }
        self.inner
            .epochs
            .send_if_modified(|known| known.renew(&epochs));
    }
}

/// Waits for a change of a value that may not be there.
async fn changed(value: &mut Option<watch::Receiver<u64>>) {
    let gone = match value {
        Some(watched) => watched.changed().await.is_err(),
        None => return std::future::pending().await,
    };
    if gone {
        // The group was closed; it may be opened again.
        *value = None;
    }
}
