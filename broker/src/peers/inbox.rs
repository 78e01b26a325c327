//! Letters of other nodes, and whom they reach here.

use std::sync::{Arc, OnceLock, PoisonError};

use cluster::exchange::{Letter, Letters, LettersReply, Said};
use cluster::link::Responder;
use cluster_core::{Admission, Body, EpochView, NodeEpoch, Receiver, Sent, Standing};
use mqtt::VISITED_NODES_MAX;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use runtime::ractor;
use session::{ConnectionId, Match, Message, Origin, Subscription, WallMs};

use crate::ids::{Place, shard_of};
use crate::io::{CrossMessage, IoMessage, ShardEvent, Shared};
use crate::routes::{Destination, RoutesMessage};

/// What the inbox is told.
///
/// The mailbox is bounded by the grants of the links.
#[derive(Debug)]
pub(crate) enum InboxMessage {
    /// From another node.
    Letters {
        letters: Letters,
        responder: Responder,
    },
    /// Which node epochs are current.
    Epochs(EpochView),
}

impl ractor::Message for InboxMessage {}

/// The receiving end of the streams of all other nodes to this one.
pub(crate) struct Inbox {
    pub(crate) epoch: NodeEpoch,
    /// The epochs that are current as it begins.
    pub(crate) epochs: EpochView,
    pub(crate) shared: Arc<Shared>,
    /// Where everybody finds this actor.
    pub(crate) me: Arc<OnceLock<ActorRef<InboxMessage>>>,
}

/// What the actor holds.
pub(crate) struct Receiving {
    receiver: Receiver,
    /// For each io thread, what came.
    events: Vec<Vec<ShardEvent>>,
    messages: Vec<Vec<CrossMessage>>,
}

impl Actor for Inbox {
    type Msg = InboxMessage;
    type State = Receiving;
    type Arguments = ();

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        if self.me.set(me).is_err() {
            return Err("the inbox starts once: what it has taken cannot be known again".into());
        }
        let threads = self.shared.threads.len();
        let mut receiver = Receiver::default();
        receiver.renew_epochs(&self.epochs);
        Ok(Receiving {
            receiver,
            events: std::iter::repeat_with(Vec::new).take(threads).collect(),
            messages: std::iter::repeat_with(Vec::new).take(threads).collect(),
        })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        receiving: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            InboxMessage::Letters { letters, responder } => {
                let reply = self.take(receiving, letters);
                // The receipt says that the mailboxes have it, so it waits for them.
                self.flush(receiving).await;
                responder.reply(reply.encode());
            }
            InboxMessage::Epochs(view) => {
                receiving.receiver.renew_epochs(&view);
            }
        }
        Ok(())
    }
}

impl Inbox {
    fn take(&self, receiving: &mut Receiving, letters: Letters) -> LettersReply {
        let Letters { from, to, letters } = letters;
        let is_known = receiving.receiver.epochs().standing(from) == Standing::Current;
        if to != self.epoch || !is_known {
            return LettersReply::Stranger;
        }
        let mut reply = LettersReply::Taken { next: 0 };
        for Sent { n, attempt, body } in letters {
            match receiving.receiver.admit(from, attempt, n) {
                Admission::New => {
                    if let Body::Item(letter) = body {
                        self.letter(receiving, from, letter);
                    }
                    reply = LettersReply::Taken { next: n + 1 };
                }
                Admission::Repeat => reply = LettersReply::Taken { next: n + 1 },
                Admission::Gap { next } => return LettersReply::Gap { attempt, next },
                Admission::Ended => return LettersReply::Stranger,
            }
        }
        reply
    }

    fn letter(&self, receiving: &mut Receiving, from: NodeEpoch, letter: Letter) {
        let (connection, event) = match letter {
            Letter::Delivery(delivery) => (delivery.connection, ShardEvent::Delivery(delivery)),
            Letter::Shared(delivery) => (delivery.connection, ShardEvent::Shared(delivery)),
            Letter::Passing {
                connection,
                message,
                retain,
                subscription_ids,
            } => {
                let matched = Match::of_qos_0(retain, subscription_ids);
                let event = ShardEvent::Message {
                    connection,
                    message,
                    matched,
                };
                (connection, event)
            }
            Letter::TakenOver { connection } => (connection, ShardEvent::TakenOver { connection }),
            Letter::Message { message, origin } => {
                return self.message(receiving, &message, origin.as_deref());
            }
            Letter::RoutesApplied { index } => {
                let applied = RoutesMessage::Applied { epoch: from, index };
                if self.shared.routes.cast(applied).is_err() {
                    tracing::debug!("the routes have ended: the node is stopping");
                }
                return;
            }
        };
        receiving.events[Place::of(connection).thread].push(event);
    }

    /// A message for the clean sessions of this node that match.
    fn message(&self, receiving: &mut Receiving, message: &Arc<Message>, origin: Option<&Origin>) {
        if self.is_repeat(origin) {
            return;
        }
        let mut found: Vec<(ConnectionId, Subscription)> = Vec::new();
        let routes = self.shared.snapshot.load();
        let visited = routes.matches(&message.topic, VISITED_NODES_MAX, |to, wanted| {
            if let Destination::Connection(id) = to {
                found.push((*id, *wanted));
            }
        });
        if let Err(limit) = visited {
            // The publisher's node has looked at its own tree, which has fewer rows of ours.
            tracing::debug!(nodes_max = limit.nodes_max, "a topic matches too much");
            return;
        }
        found.sort_by_key(|(id, _)| *id);
        for of_one in found.chunk_by(|(a, _), (b, _)| a == b) {
            let mut matched = Match::default();
            for (_, wanted) in of_one {
                // The publisher is on another node.
                matched.add(wanted, false);
            }
            let id = of_one[0].0;
            let batch = &mut receiving.messages[Place::of(id).thread];
            match batch.last_mut() {
                Some(last) if Arc::ptr_eq(&last.message, message) => {
                    last.targets.push((id, matched));
                }
                _ => batch.push(CrossMessage {
                    message: Arc::clone(message),
                    targets: vec![(id, matched)],
                }),
            }
        }
    }

    fn is_repeat(&self, origin: Option<&Origin>) -> bool {
        let Some(origin) = origin else { return false };
        let shard = usize::from(shard_of(&origin.client, self.shared.shard_count));
        let mut origins = self.shared.origins[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        !origins.admit(origin, WallMs(self.shared.clock.wall_ms()))
    }

    /// Hands everything to the io threads, waiting for room. They wait for nobody.
    async fn flush(&self, receiving: &mut Receiving) {
        for (thread, events) in receiving.events.iter_mut().enumerate() {
            if !events.is_empty() {
                let message = IoMessage::Shard(std::mem::take(events));
                self.shared.threads.send(thread, message).await;
            }
        }
        for (thread, messages) in receiving.messages.iter_mut().enumerate() {
            if !messages.is_empty() {
                let message = IoMessage::Messages(std::mem::take(messages));
                self.shared.threads.send(thread, message).await;
            }
        }
    }
}
