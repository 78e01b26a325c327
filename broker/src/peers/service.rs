//! What other nodes ask of this one, and which part of it is asked.

use std::sync::{Arc, OnceLock, Weak};

use bridge::Telemetry;
use cluster::exchange::{Letters, RoutesRequest, Said, kinds};
use cluster::link::Incoming;
use ractor::ActorRef;
use runtime::ractor;

use super::InboxMessage;
use crate::buckets::asked_by;
use crate::defects::Defects;
use crate::routes::RoutesMessage;
use crate::shard::{Request, ShardMessage, Shards};

/// Deals what comes over links out. Until the node is wired, nothing is answered.
#[derive(Clone, Default)]
pub(crate) struct Exchange(Arc<OnceLock<Parts>>);

/// Who is asked.
pub(crate) struct Parts {
    pub(crate) shards: Shards,
    pub(crate) routes: ActorRef<RoutesMessage>,
    pub(crate) inbox: ActorRef<InboxMessage>,
    /// Of nothing in a node without telemetry: it has no records, and stores no bucket.
    /// The line holds the links, which hold this.
    pub(crate) telemetry: Weak<Telemetry>,
    /// What is broken on purpose.
    pub(crate) defects: Defects,
}

impl Exchange {
    /// The node is wired.
    pub(crate) fn begin(&self, parts: Parts) {
        if self.0.set(parts).is_err() {
            unreachable!("a node is wired once");
        }
    }

    /// Takes a request of a channel kind of [`kinds::ALL`] or [`kinds::TELEMETRY`]. Returns at once.
    pub(crate) fn handle_request(&self, incoming: Incoming) {
        let Some(parts) = self.0.get() else { return };
        let Incoming {
            from,
            channel,
            payload,
            responder,
            ..
        } = incoming;
        if let Some(refusal) = parts.defects.refusal(channel.kind) {
            return responder.reply(refusal);
        }
        let damaged = |error: &dyn std::fmt::Display| {
            tracing::warn!(%from, %channel, %error, "a peer's request cannot be read");
        };
        match channel.kind {
            kinds::LETTERS => match Letters::decode(&payload) {
                Ok(letters) => {
                    let letters = InboxMessage::Letters { letters, responder };
                    if parts.inbox.cast(letters).is_err() {
                        tracing::debug!("the inbox has ended: the node is stopping");
                    }
                }
                Err(error) => damaged(&error),
            },
            kinds::ROUTES => match RoutesRequest::decode(&payload) {
                Ok(RoutesRequest { command }) => {
                    let asked = RoutesMessage::Asked { command, responder };
                    if parts.routes.cast(asked).is_err() {
                        tracing::debug!("the routes have ended: the node is stopping");
                    }
                }
                Err(error) => damaged(&error),
            },
            kind if kinds::TELEMETRY.contains(&kind) => {
                if let (Some(line), Some(asked)) = (parts.telemetry.upgrade(), asked_by(kind)) {
                    let reply = Box::new(move |bytes| responder.reply(bytes));
                    line.handle_asked(from.0, asked, &payload, reply);
                }
            }
            kind => {
                let shard = u16::try_from(channel.group).ok();
                let shard = shard.filter(|shard| *shard < parts.shards.len());
                match (shard, Request::read(kind, &payload)) {
                    (Some(shard), Some(Ok(request))) => {
                        let asked = ShardMessage::Asked { request, responder };
                        parts.shards.tell(shard, asked);
                    }
                    (_, Some(Err(error))) => damaged(&error),
                    (None, _) | (_, None) => damaged(&"there is no such channel"),
                }
            }
        }
    }
}
