//! Who wants which topics: one trie, written by one actor, read by all without a lock.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use mqtt::{Filter, Trie};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use runtime::ractor;
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
    pub(crate) destination: Destination,
    pub(crate) subscription: Option<Subscription>,
}

/// What the routes actor is told.
///
/// The mailbox is bounded by what may be unanswered: each connection's requests
/// (`session::Config::requests`) and each shard's route outbox.
#[derive(Debug)]
pub(crate) enum RoutesMessage {
    /// Changes of clean sessions of one io thread; those who wait are told once readers see them.
    Connections {
        deltas: Vec<Delta>,
        waiting: Vec<Owed>,
    },
    /// Changes of a shard in the order of their versions, the last of which is `version`.
    Shard {
        shard: u16,
        version: u64,
        deltas: Vec<Delta>,
    },
}

/// The only writer of the routes.
pub(crate) struct Routes {
    pub(crate) snapshot: Snapshot,
    pub(crate) threads: Threads,
    pub(crate) shards: Shards,
    /// Where everybody finds this actor.
    pub(crate) me: Arc<OnceLock<ActorRef<RoutesMessage>>>,
}

impl Actor for Routes {
    type Msg = RoutesMessage;
    type State = RouteTrie;
    type Arguments = ();

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        if self.me.set(me).is_err() {
            return Err("the routes start once: their state cannot be made again".into());
        }
        Ok(RouteTrie::clone(&self.snapshot.load()))
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        trie: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RoutesMessage::Connections { deltas, waiting } => {
                self.apply(trie, deltas);
                // The answer follows the store: whatever is published after a SUBACK was seen is
                // matched against a snapshot that has the subscription.
                let mut by_thread: Vec<Vec<Owed>> = vec![Vec::new(); self.threads.len()];
                for owed in waiting {
                    by_thread[owed.thread(0)].push(owed);
                }
                for (thread, settled) in by_thread.into_iter().enumerate() {
                    if !settled.is_empty() {
                        self.threads.send(thread, IoMessage::Settled(settled)).await;
                    }
                }
            }
            RoutesMessage::Shard {
                shard,
                version,
                deltas,
            } => {
                self.apply(trie, deltas);
                self.shards
                    .tell(shard, ShardMessage::RoutesApplied { version });
            }
        }
        Ok(())
    }
}

impl Routes {
    fn apply(&self, trie: &mut RouteTrie, deltas: Vec<Delta>) {
        for Delta {
            filter,
            destination,
            subscription,
        } in deltas
        {
            match subscription {
                Some(subscription) => trie.insert(&filter, destination, subscription),
                None => trie.remove(&filter, &destination),
            };
        }
        self.snapshot.store(Arc::new(trie.clone()));
    }
}
