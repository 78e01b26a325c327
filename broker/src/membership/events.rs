//! The actor that does what this node's membership asks for while it serves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster::member::{Member, MemberEvent};
use cluster::raft::{Group, OpenError};
use cluster::{MetaMachine, RoutesMachine, ShardMachine};
use cluster_core::{BootMs, EpochView, Group as GroupName, NodeEpoch, NodeId, ShardId, Sightings};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use runtime::ractor;
use tokio::sync::{mpsc, watch};

use super::{Starter, leaders};
use crate::environment::{Fatal, OnFatal};
use crate::io::{IoMessage, Shared};
use crate::peers::InboxMessage;
use crate::routes::RoutesMessage;
use crate::shard::{Leading, ShardMessage, Shards};

/// How often it is looked who leads the shards; what this node leads itself is told at once.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A replica that was started, or not.
#[derive(Debug)]
pub(crate) enum Replica {
    Meta(Result<Group<MetaMachine>, OpenError>),
    Routes(Result<Group<RoutesMachine>, OpenError>),
    Shard(u16, Result<Group<ShardMachine>, OpenError>),
}

/// What the actor is told.
///
/// The mailbox is bounded by the membership's events, and by a message of each shard.
#[derive(Debug)]
pub(crate) enum MembershipMessage {
    Event(MemberEvent),
    Started(Replica),
    /// Meta shows other epochs.
    Epochs,
    /// Whether this node leads the shard.
    Leads(u16, bool),
    /// Time to look who leads.
    Tick,
}

impl ractor::Message for MembershipMessage {}

/// Passes on what the membership says. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Membership {
    pub(crate) node: NodeId,
    pub(crate) member: Member,
    pub(crate) shared: Arc<Shared>,
    pub(crate) inbox: ActorRef<InboxMessage>,
    pub(crate) on_fatal: OnFatal,
    /// Is told once the node may serve: its epoch does, and every shard has a leader. Or why it never
    /// will.
    pub(super) is_ready: watch::Sender<Option<Result<(), NotReady>>>,
    pub(super) parts: Arc<Mutex<Option<Parts>>>,
}

/// Why a node that starts will never serve.
#[derive(Clone, Debug)]
pub(super) enum NotReady {
    /// Meta has ended its epoch.
    Ended(NodeEpoch),
    /// A replica does not start.
    Failed(String),
}

/// What the actor takes over from the start of the node.
pub(super) struct Parts {
    pub(super) starter: Starter,
    pub(super) events: mpsc::Receiver<MemberEvent>,
    pub(super) started: mpsc::Receiver<Replica>,
    pub(super) replicas: BTreeMap<u16, Group<ShardMachine>>,
    pub(super) is_serving: bool,
}

/// What the actor holds.
pub(crate) struct Following {
    me: ActorRef<MembershipMessage>,
    starter: Starter,
    replicas: BTreeMap<u16, Group<ShardMachine>>,
    led: BTreeSet<u16>,
    told: BTreeMap<u16, Leading>,
    epochs: watch::Receiver<EpochView>,
    is_serving: bool,
    sightings: Sightings,
}

impl Actor for Membership {
    type Msg = MembershipMessage;
    type State = Following;
    type Arguments = ();

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        let parts = self
            .parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let parts = parts.ok_or("the membership starts once")?;
        forward(parts.events, me.clone(), MembershipMessage::Event);
        forward(parts.started, me.clone(), MembershipMessage::Started);
        let epochs = self.member.epochs();
        tokio::spawn(tell_epochs(epochs.clone(), me.clone()));
        // Its end is the actor's.
        drop(me.send_interval(LOOK_INTERVAL, || MembershipMessage::Tick));
        let mut following = Following {
            me,
            starter: parts.starter,
            replicas: BTreeMap::new(),
            led: BTreeSet::new(),
            told: BTreeMap::new(),
            epochs,
            is_serving: parts.is_serving,
            sightings: Sightings::default(),
        };
        for (shard, group) in parts.replicas {
            following.handle_replica(shard, group);
        }
        Ok(following)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        following: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            MembershipMessage::Event(event) => self.event(following, event).await?,
            MembershipMessage::Started(replica) => self.started(following, replica),
            MembershipMessage::Epochs => self.tell_epochs(following),
            MembershipMessage::Leads(shard, true) => {
                following.led.insert(shard);
            }
            MembershipMessage::Leads(shard, false) => {
                following.led.remove(&shard);
            }
            MembershipMessage::Tick => {}
        }
        self.sight(following);
        self.tell_leaders(following);
        Ok(())
    }
}

impl Membership {
    async fn event(
        &self,
        following: &mut Following,
        event: MemberEvent,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            MemberEvent::Serving(_) => following.is_serving = true,
            // What it had promised its clients counts no longer, and they are to find that out.
            MemberEvent::Ended(epoch) => {
                self.ready(Err(NotReady::Ended(epoch)));
                (self.on_fatal)(Fatal::EpochEnded(epoch));
            }
            MemberEvent::Removed => tracing::warn!("this node is no member any more"),
            MemberEvent::Suspected(node) => tracing::warn!(%node, "no quorum hears a node"),
            MemberEvent::Up(node) => tracing::info!(%node, "a node is heard"),
            MemberEvent::Gone { node, epoch } => {
                tracing::warn!(%node, %epoch, "a node is dead: its epoch has ended");
            }
            MemberEvent::ShardRecovered(ShardId(shard)) => {
                tracing::warn!(
                    shard,
                    "a shard was recovered with loss: its clients connect again"
                );
                let threads = &self.shared.threads;
                for thread in 0..threads.len() {
                    threads.send(thread, IoMessage::ShardRecovered(shard)).await;
                }
            }
            MemberEvent::RemoveReplica { .. }
            | MemberEvent::StartReplica { .. }
            | MemberEvent::RecoverReplica { .. } => {
                following.forget_removed(&event, &self.shared.shards);
                following.starter.handle(&event).await?;
            }
            MemberEvent::Begun(_) | MemberEvent::NotBegun(_) | MemberEvent::Members => {}
        }
        Ok(())
    }

    fn started(&self, following: &mut Following, replica: Replica) {
        match replica {
            Replica::Shard(shard, Ok(group)) => {
                let told = ShardMessage::Replica(Some(group.clone()));
                self.shared.shards.tell(shard, told);
                following.handle_replica(shard, group);
            }
            Replica::Meta(Ok(_)) | Replica::Routes(Ok(_)) => {}
            Replica::Meta(Err(error))
            | Replica::Routes(Err(error))
            | Replica::Shard(_, Err(error)) => {
                tracing::error!(%error, "a replica does not start: its group goes on without it");
                self.ready(Err(NotReady::Failed(error.to_string())));
            }
        }
    }

    /// Tells everybody which epochs meta shows.
    fn tell_epochs(&self, following: &mut Following) {
        let view = following.epochs.borrow_and_update().clone();
        for shard in 0..self.shared.shards.len() {
            self.shared
                .shards
                .tell(shard, ShardMessage::Epochs(view.clone()));
        }
        if self.shared.routes.cast(RoutesMessage::Epochs).is_err()
            || self.inbox.cast(InboxMessage::Epochs(view)).is_err()
        {
            tracing::debug!("the routes or the inbox have ended: the node is stopping");
        }
    }

    /// Takes note of how far the shards are known here, for the connections accepted from now on.
    fn sight(&self, following: &mut Following) {
        // Connections of one node are in order.
        if self.shared.lease.until_ms() == u64::MAX {
            return self.shared.sighting.store(None);
        }
        let now = BootMs(self.shared.clock.mono_ms());
        if !following.sightings.is_due(now) {
            return;
        }
        let replicas = following.replicas.iter();
        let mut known: BTreeMap<ShardId, u64> = replicas
            .map(|(shard, group)| {
                let index = group.with(|machine| machine.durable().index());
                (ShardId(*shard), index)
            })
            .collect();
        // Of those that are elsewhere, what their leaders told last.
        for (group, leading) in self.member.leaders().load().iter() {
            if let GroupName::Shard(shard) = group {
                known.entry(*shard).or_insert(leading.reached);
            }
        }
        following.sightings.handle_applied(known, now);
        self.shared
            .sighting
            .store(Some(following.sightings.at(now)));
    }

    /// Tells the hosts who leads their shards, where that has changed.
    fn tell_leaders(&self, following: &mut Following) {
        let leaders = self.member.leaders().load_full();
        let mut all_led = true;
        for shard in 0..self.shared.shards.len() {
            let replica = following.replicas.get(&shard);
            let leading = match following.led.contains(&shard) {
                true => Leading::Here,
                false => leaders::elsewhere(self.node, shard, &leaders, replica),
            };
            all_led &= leading != Leading::Nobody;
            if following.told.insert(shard, leading) != Some(leading) {
                self.shared
                    .shards
                    .tell(shard, ShardMessage::Leading(leading));
            }
        }
        if following.is_serving && all_led {
            self.ready(Ok(()));
        }
    }

    /// Tells who starts the node, once.
    fn ready(&self, outcome: Result<(), NotReady>) {
        self.is_ready.send_if_modified(|told| {
            let is_news = told.is_none();
            told.get_or_insert(outcome);
            is_news
        });
    }
}

impl Following {
    /// A replica of a shard runs here.
    fn handle_replica(&mut self, shard: u16, group: Group<ShardMachine>) {
        tokio::spawn(leaders::follow(shard, group.clone(), self.me.clone()));
        self.replicas.insert(shard, group);
    }

    /// Before a replica is removed, or goes on as another, its host has let it go.
    fn forget_removed(&mut self, event: &MemberEvent, shards: &Shards) {
        if let MemberEvent::RemoveReplica {
            group: GroupName::Shard(shard),
            ..
        }
        | MemberEvent::RecoverReplica {
            group: GroupName::Shard(shard),
            ..
        } = event
            && self.replicas.remove(&shard.0).is_some()
        {
            self.led.remove(&shard.0);
            shards.tell(shard.0, ShardMessage::Replica(None));
        }
    }
}

/// Passes on what comes, in order, until nobody wants it any more.
fn forward<T: Send + 'static>(
    mut from: mpsc::Receiver<T>,
    to: ActorRef<MembershipMessage>,
    message: impl Fn(T) -> MembershipMessage + Send + 'static,
) {
    tokio::spawn(async move {
        while let Some(one) = from.recv().await {
            if to.cast(message(one)).is_err() {
                return;
            }
        }
    });
}

async fn tell_epochs(mut epochs: watch::Receiver<EpochView>, to: ActorRef<MembershipMessage>) {
    epochs.mark_changed();
    while epochs.changed().await.is_ok() {
        epochs.mark_unchanged();
        if to.cast(MembershipMessage::Epochs).is_err() {
            return;
        }
    }
}
