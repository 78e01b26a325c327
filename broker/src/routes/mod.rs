//! Who wants which topics: one trie, written by one actor, read by all without a lock.
//!
//! What other destinations want stands in the log of the routes group; the actor brings the rows
//! of this node's shards and clean sessions into it and follows what is applied.

mod elsewhere;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use cluster::RoutesMachine;
use cluster::link::Responder;
use cluster::raft::Group;
use cluster_core::{
    BootMs, Deltas, EpochView, LocalRoutes, NodeEpoch, NodeId, RouteVersion, RoutesAnswer,
    RoutesCommand, RoutesEffect, ShardId, Source, Visible, WallMs,
};
use mqtt::{Filter, Trie};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use runtime::{Clock, ractor};
use session::{ConnectionId, Subscription};
use tokio::sync::watch;

use crate::ids::Owed;
use crate::io::{IoMessage, Threads};
use crate::peers::{Peers, PostHandle};
use crate::shard::{ShardMessage, Shards};

/// Where messages that match a filter go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Destination {
    /// A shard with a persistent session that subscribed; the shard matches again by itself.
    Shard(u16),
    /// A clean session's connection on this node.
    Connection(ConnectionId),
    /// Another node with a clean session that subscribed; it matches again by itself.
    Node(NodeEpoch),
}

/// The trie that a PUBLISH is matched against; an immutable snapshot of it.
pub(crate) type RouteTrie = Trie<Destination, Subscription>;

/// The snapshot in force, for any number of readers.
pub(crate) type Snapshot = Arc<ArcSwap<RouteTrie>>;

/// One change: `subscription` is what the destination wants, `None` that it wants nothing more.
#[derive(Debug)]
pub(crate) struct Delta {
    pub(crate) filter: Filter,
    pub(crate) connection: ConnectionId,
    pub(crate) subscription: Option<Subscription>,
}

/// What the routes actor is told.
///
/// The mailbox is bounded by what may be unanswered: each connection's requests
/// (`session::Config::requests`), and one batch of each source under way.
#[derive(Debug)]
pub(crate) enum RoutesMessage {
    /// Changes of clean sessions of one io thread; those who wait are told once readers see them.
    Connections {
        deltas: Vec<Delta>,
        waiting: Vec<Owed>,
    },
    /// Rows of a shard on this node.
    Shard { shard: u16, deltas: Deltas },
    /// A recovered shard on this node has stated all its rows again: those below this version are over.
    Restate { shard: u16, from: RouteVersion },
    /// What became of a batch that was proposed; none if it is not known.
    Landed {
        source: Option<Source>,
        answer: Option<RoutesAnswer>,
    },
    /// The group has applied more.
    Follow,
    /// A node has applied entries up to this one.
    Applied { epoch: NodeEpoch, index: u64 },
    /// Another node asks the leader of the group for an entry.
    Asked {
        command: RoutesCommand,
        responder: Responder,
    },
    /// Meta shows other node epochs.
    Epochs,
    /// Time passed: what found no room is tried again.
    Tick,
}

impl ractor::Message for RoutesMessage {}

/// Says on which node an epoch runs.
pub(crate) type NodeOf = Arc<dyn Fn(NodeEpoch) -> NodeId + Send + Sync>;

/// The only writer of the routes.
pub(crate) struct Routes {
    pub(crate) group: Group<RoutesMachine>,
    /// The epoch of this run of the node.
    pub(crate) epoch: NodeEpoch,
    /// The epochs that are current, as this node's meta shows them.
    pub(crate) epochs: watch::Receiver<EpochView>,
    /// The node of an epoch that is current.
    pub(crate) node_of: NodeOf,
    /// Is told up to where this node matches publishes by what the group has.
    pub(crate) applied: watch::Sender<u64>,
    /// Different filters that this node's clean sessions may have.
    pub(crate) filters_max: usize,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) snapshot: Snapshot,
    pub(crate) threads: Threads,
    pub(crate) shards: Shards,
    pub(crate) peers: Peers,
    /// Where everybody finds this actor.
    pub(crate) me: Arc<OnceLock<ActorRef<RoutesMessage>>>,
}

/// What the actor holds.
pub(crate) struct Routing {
    me: ActorRef<RoutesMessage>,
    trie: RouteTrie,
    local: LocalRoutes,
    visible: Visible,
    /// Who waits until everybody sees the node's rows up to a version, in order of the versions.
    waiting: VecDeque<(RouteVersion, Vec<Owed>)>,
    /// The highest version of a row that a clean session's request waits for.
    version: RouteVersion,
    /// The epochs that are current, and where meta shows newer ones.
    epochs: EpochView,
    epochs_seen: watch::Receiver<EpochView>,
    /// Index of the view that was proposed last.
    epochs_asked: u64,
    /// The streams to the other ones.
    posts: BTreeMap<NodeEpoch, PostHandle>,
    /// The entry up to which the trie is.
    applied: u64,
    /// What other nodes were told to be applied here.
    told: u64,
}

impl Actor for Routes {
    type Msg = RoutesMessage;
    type State = Routing;
    type Arguments = ();

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        if self.me.set(me.clone()).is_err() {
            return Err("the routes start once: their state cannot be made again".into());
        }
        let mut routing = Routing {
            me,
            trie: RouteTrie::new(),
            local: LocalRoutes::new(self.epoch, self.filters_max),
            visible: Visible::default(),
            waiting: VecDeque::new(),
            version: RouteVersion(0),
            epochs: EpochView::default(),
            epochs_seen: self.epochs.clone(),
            epochs_asked: 0,
            posts: BTreeMap::new(),
            applied: 0,
            told: 0,
        };
        routing.epochs_seen.mark_changed();
        self.renew_epochs(&mut routing).await?;
        self.follow(&mut routing);
        tokio::spawn(follow_applied(
            self.group.watch_applied(),
            routing.me.clone(),
        ));
        Ok(routing)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        routing: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        self.renew_epochs(routing).await?;
        match message {
            RoutesMessage::Connections { deltas, waiting } => {
                self.connections(routing, deltas, waiting);
            }
            RoutesMessage::Shard { shard, deltas } => {
                let source = Source::Shard(ShardId(shard));
                self.propose(routing, Some(source), RoutesCommand::Deltas(deltas));
            }
            RoutesMessage::Restate { shard, from } => self.restate(shard, from),
            RoutesMessage::Landed { source, answer } => self.landed(routing, source, answer),
            RoutesMessage::Follow | RoutesMessage::Epochs | RoutesMessage::Tick => {
                self.follow(routing);
                self.bring_epochs(routing);
            }
            RoutesMessage::Applied { epoch, index } => {
                routing.visible.handle_applied(epoch, index);
            }
            RoutesMessage::Asked { command, responder } => self.asked(command, responder),
        }
        if let Some(deltas) = routing.local.poll_deltas(self.boot()) {
            let source = Source::Node(self.epoch);
            self.propose(routing, Some(source), RoutesCommand::Deltas(deltas));
        }
        self.settle(routing).await;
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        stream_ended(event)
    }
}

/// What becomes of the streams to other epochs, which this actor supervises: one ends with its
/// epoch; one that fails would leave its node without messages, so it ends this one.
fn stream_ended(event: SupervisionEvent) -> Result<(), ActorProcessingErr> {
    match event {
        SupervisionEvent::ActorFailed(_, error) => Err(error),
        _ => Ok(()),
    }
}

impl Routes {
    fn boot(&self) -> BootMs {
        BootMs(self.clock.mono_ms())
    }

    /// Builds the trie of what the group has, up to this entry, and of this node's clean sessions.
    fn restore(&self, routing: &mut Routing, index: u64) {
        let local = std::mem::take(&mut routing.trie);
        for (filter, destination, subscription) in local.iter() {
            if let Destination::Connection(_) = destination {
                routing.trie.insert(&filter, *destination, *subscription);
            }
        }
        self.group.with(|machine| {
            let routes = machine.routes_mut();
            for source in routes.sources() {
                for filter in routes.filters(source) {
                    if let Some(destination) = self.destination_of(source) {
                        let wanted = Subscription::default();
                        routing.trie.insert(filter, destination, wanted);
                    }
                }
                let (version, index) = (routes.applied(source), routes.index());
                routing.visible.handle_entry(source, version, index);
            }
        });
        self.publish(routing);
        self.applied(routing, index);
    }

    /// Changes of this node's clean sessions. The trie has them at once: that a message reaches
    /// a subscriber before its SUBACK harms nobody. The SUBACK waits until every node sends
    /// messages here.
    fn connections(&self, routing: &mut Routing, deltas: Vec<Delta>, waiting: Vec<Owed>) {
        for delta in deltas {
            let destination = Destination::Connection(delta.connection);
            match delta.subscription {
                Some(subscription) => {
                    let old = routing
                        .trie
                        .insert(&delta.filter, destination, subscription);
                    if old.is_none() {
                        self.subscribed(routing, &delta.filter);
                    }
                }
                None => {
                    if routing.trie.remove(&delta.filter, &destination).is_some() {
                        routing.local.handle_unsubscribed(&delta.filter);
                    }
                }
            }
        }
        self.publish(routing);
        if !waiting.is_empty() {
            routing.waiting.push_back((routing.version, waiting));
        }
    }

    fn subscribed(&self, routing: &mut Routing, filter: &Filter) {
        match routing.local.handle_subscribed(filter) {
            Ok(version) => routing.version = routing.version.max(version),
            // The trie of this node has it; other nodes must not count on more than the bound.
            Err(full) => tracing::warn!(%full, "other nodes will not send what matches a filter"),
        }
    }

    fn propose(&self, routing: &Routing, source: Option<Source>, command: RoutesCommand) {
        let (group, me, peers) = (self.group.clone(), routing.me.clone(), self.peers.clone());
        let time = WallMs(self.clock.wall_ms());
        tokio::spawn(async move {
            let answer = elsewhere::propose(&group, &peers, time, command).await;
            if me.cast(RoutesMessage::Landed { source, answer }).is_err() {
                tracing::debug!("the routes have ended: the node is stopping");
            }
        });
    }

    fn restate(&self, shard: u16, from: RouteVersion) {
        let (group, shards, peers) = (self.group.clone(), self.shards.clone(), self.peers.clone());
        let time = WallMs(self.clock.wall_ms());
        let command = RoutesCommand::Restated {
            shard: ShardId(shard),
            from,
        };
        tokio::spawn(async move {
            let answer = elsewhere::propose(&group, &peers, time, command).await;
            shards.tell(shard, ShardMessage::RoutesRestated(answer.is_some()));
        });
    }

    fn landed(&self, routing: &mut Routing, source: Option<Source>, answer: Option<RoutesAnswer>) {
        self.follow(routing);
        let now = self.boot();
        match (source, answer) {
            (Some(Source::Shard(ShardId(shard))), answer) => {
                self.shards
                    .tell(shard, ShardMessage::RoutesAnswered(answer));
            }
            (Some(Source::Node(_)), Some(answer)) => routing.local.handle_answer(answer, now),
            (Some(Source::Node(_)), None) => routing.local.handle_failed(now),
            (None, Some(_)) => {}
            // Brought in again with the next tick.
            (None, None) => routing.epochs_asked = 0,
        }
    }

    /// Brings what the group applied into the trie.
    fn follow(&self, routing: &mut Routing) {
        // Of an entry that counts as applied the effects are there.
        let index = *self.group.watch_applied().borrow();
        let (effects, is_restored) = self.group.with(|machine| {
            let is_restored = machine.take_restored();
            let routes = machine.routes_mut();
            let effects: Vec<_> = std::iter::from_fn(|| routes.poll_effect()).collect();
            (effects, is_restored)
        });
        if is_restored {
            // A snapshot came in the place of entries.
            return self.restore(routing, index);
        }
        let mut is_changed = false;
        let mut entries = Vec::new();
        for effect in effects {
            match effect {
                RoutesEffect::Add { filter, source } => {
                    if let Some(destination) = self.destination_of(source) {
                        let wanted = Subscription::default();
                        routing.trie.insert(&filter, destination, wanted);
                        is_changed = true;
                    }
                }
                RoutesEffect::Remove { filter, source } => {
                    if let Some(destination) = self.destination_of(source) {
                        routing.trie.remove(&filter, &destination);
                        is_changed = true;
                    }
                }
                RoutesEffect::Applied {
                    source,
                    version,
                    index,
                } => entries.push((source, version, index)),
            }
        }
        if is_changed {
            self.publish(routing);
        }
        for (source, version, index) in entries {
            routing.visible.handle_entry(source, version, index);
        }
        self.applied(routing, index);
    }

    /// This node matches publishes by everything up to this entry.
    fn applied(&self, routing: &mut Routing, index: u64) {
        routing.visible.handle_applied(self.epoch, index);
        routing.applied = index;
        // Nobody needs to follow it.
        let _ = self.applied.send_replace(index);
        self.tell_applied(routing);
    }

    /// Where messages for a source go from here. Clean sessions of this node stand in the trie by
    /// themselves; for those of an ended epoch nothing is left to be done until its rows vanish.
    fn destination_of(&self, source: Source) -> Option<Destination> {
        match source {
            Source::Shard(ShardId(shard)) => Some(Destination::Shard(shard)),
            Source::Node(epoch) => (epoch != self.epoch).then_some(Destination::Node(epoch)),
        }
    }

    /// Whatever is published after an answer was seen is matched against a snapshot that has the
    /// subscription: the answers follow the store.
    fn publish(&self, routing: &Routing) {
        self.snapshot.store(Arc::new(routing.trie.clone()));
    }

    fn tell_visible(&self, routing: &mut Routing) {
        while let Some((source, version)) = routing.visible.poll_visible() {
            if let Source::Shard(ShardId(shard)) = source {
                self.shards
                    .tell(shard, ShardMessage::RoutesVisible(version));
            }
        }
    }

    async fn settle(&self, routing: &mut Routing) {
        // The outbox of a shard that starts early gets here before the last shard has started; the
        // next tick tells them then.
        if self.shards.are_started() {
            self.tell_visible(routing);
        }
        let seen = routing.visible.version(Source::Node(self.epoch));
        let mut by_thread: Vec<Vec<Owed>> = vec![Vec::new(); self.threads.len()];
        while routing.waiting.front().is_some_and(|(at, _)| *at <= seen) {
            let (_, settled) = routing.waiting.pop_front().expect("looked at just before");
            for owed in settled {
                by_thread[owed.thread(0)].push(owed);
            }
        }
        for (thread, settled) in by_thread.into_iter().enumerate() {
            if !settled.is_empty() {
                self.threads.send(thread, IoMessage::Settled(settled)).await;
            }
        }
    }
}

/// Has the actor follow whatever is applied, whoever proposed it.
async fn follow_applied(mut applied: watch::Receiver<u64>, me: ActorRef<RoutesMessage>) {
    while applied.changed().await.is_ok() {
        if me.cast(RoutesMessage::Follow).is_err() {
            return;
        }
    }
}
