//! Who wants which topics: one trie, written by one actor, read by all without a lock.
//!
//! What other destinations want stands in the log of the routes group; the actor brings the rows
//! of this node's shards and clean sessions into it and follows what is applied.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use cluster::raft::Group;
use cluster::{RoutesEntry, RoutesMachine};
use cluster_core::{
    BootMs, Deltas, EpochView, LocalRoutes, NodeEpoch, RouteVersion, RoutesAnswer, RoutesCommand,
    RoutesEffect, ShardId, Source, Visible, WallMs,
};
use mqtt::{Filter, Trie};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use runtime::{Clock, ractor};
use session::{ConnectionId, Subscription};

use crate::ids::Owed;
use crate::io::{IoMessage, Threads};
use crate::shard::{ShardMessage, Shards};

/// Where messages that match a filter go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Destination {
    /// A shard with a persistent session that subscribed; the shard matches again by itself.
    Shard(u16),
    /// A clean session's connection on this node.
    Connection(ConnectionId),
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
    /// What became of a batch that was proposed; none if it is not known.
    Landed {
        source: Option<Source>,
        answer: Option<RoutesAnswer>,
    },
    /// Time passed: what found no room is tried again.
    Tick,
}

/// The only writer of the routes.
pub(crate) struct Routes {
    pub(crate) group: Group<RoutesMachine>,
    /// The epoch of this run of the node.
    pub(crate) epoch: NodeEpoch,
    /// The epochs that are current as it begins.
    pub(crate) epochs: EpochView,
    /// Different filters that this node's clean sessions may have.
    pub(crate) filters_max: usize,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) snapshot: Snapshot,
    pub(crate) threads: Threads,
    pub(crate) shards: Shards,
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
        };
        routing.visible.handle_begun(self.epoch);
        self.restore(&mut routing);
        // The rows of ended epochs vanish with this entry.
        self.propose(&routing, None, RoutesCommand::Epochs(self.epochs.clone()));
        Ok(routing)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        routing: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RoutesMessage::Connections { deltas, waiting } => {
                self.connections(routing, deltas, waiting);
            }
            RoutesMessage::Shard { shard, deltas } => {
                let source = Source::Shard(ShardId(shard));
                self.propose(routing, Some(source), RoutesCommand::Deltas(deltas));
            }
            RoutesMessage::Landed { source, answer } => self.landed(routing, source, answer),
            RoutesMessage::Tick => {}
        }
        if let Some(deltas) = routing.local.poll_deltas(self.boot()) {
            let source = Source::Node(self.epoch);
            self.propose(routing, Some(source), RoutesCommand::Deltas(deltas));
        }
        self.settle(routing).await;
        Ok(())
    }
}

impl Routes {
    fn boot(&self) -> BootMs {
        BootMs(self.clock.mono_ms())
    }

    /// Builds the trie of what the group has.
    fn restore(&self, routing: &mut Routing) {
        self.group.with(|machine| {
            let routes = machine.routes_mut();
            while routes.poll_effect().is_some() {}
            for source in routes.sources() {
                for filter in routes.filters(source) {
                    if let Some(destination) = destination_of(source) {
                        let wanted = Subscription::default();
                        routing.trie.insert(filter, destination, wanted);
                    }
                }
                let (version, index) = (routes.applied(source), routes.index());
                routing.visible.handle_entry(source, version, index);
            }
            routing.visible.handle_applied(self.epoch, routes.index());
        });
        self.publish(routing);
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
        let (group, me) = (self.group.clone(), routing.me.clone());
        let time = WallMs(self.clock.wall_ms());
        let entry = RoutesEntry { time, command }.encode();
        tokio::spawn(async move {
            let answer = group.propose(entry.into()).await.ok();
            if me.cast(RoutesMessage::Landed { source, answer }).is_err() {
                tracing::debug!("the routes have ended: the node is stopping");
            }
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
            (None, None) => {
                let view = RoutesCommand::Epochs(self.epochs.clone());
                self.propose(routing, None, view);
            }
        }
    }

    /// Brings what the group applied into the trie.
    fn follow(&self, routing: &mut Routing) {
        let (effects, index) = self.group.with(|machine| {
            let routes = machine.routes_mut();
            let effects: Vec<_> = std::iter::from_fn(|| routes.poll_effect()).collect();
            (effects, routes.index())
        });
        let mut is_changed = false;
        let mut entries = Vec::new();
        for effect in effects {
            match effect {
                RoutesEffect::Add { filter, source } => {
                    if let Some(destination) = destination_of(source) {
                        let wanted = Subscription::default();
                        routing.trie.insert(&filter, destination, wanted);
                        is_changed = true;
                    }
                }
                RoutesEffect::Remove { filter, source } => {
                    if let Some(destination) = destination_of(source) {
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
        routing.visible.handle_applied(self.epoch, index);
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

/// Where messages for a source go from here. Clean sessions of this node stand in the trie by
/// themselves, and those of ended epochs get nothing.
fn destination_of(source: Source) -> Option<Destination> {
    match source {
        Source::Shard(ShardId(shard)) => Some(Destination::Shard(shard)),
        Source::Node(_) => None,
    }
}
