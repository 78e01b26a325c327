//! The control plane as requests of the link.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use cluster_core::NodeId;
use tokio::sync::Semaphore;

use super::{ANSWER_BYTES_MAX, ANSWERING_MAX, AskError, ControlParts, ControlService};
use crate::link::{Ask, Channel, Incoming, Lane, Links, RequestError};

/// What its requests are about.
pub const CHANNEL: u16 = 64;

const QUESTION: u8 = 0;
const NEWS: u8 = 1;
/// How long news may wait for its empty answer.
const NEWS_PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Plain {
    links: Links,
    service: Arc<dyn ControlService>,
    places: Arc<Semaphore>,
}

impl Plain {
    pub(super) fn new(parts: ControlParts) -> Self {
        Self {
            links: parts.links,
            service: parts.service,
            places: Arc::new(Semaphore::new(ANSWERING_MAX)),
        }
    }

    pub(super) async fn ask(
        &self,
        node: NodeId,
        question: Vec<u8>,
        patience: Duration,
    ) -> Result<Vec<u8>, AskError> {
        let peer = self.links.peer(node);
        let peer = peer.ok_or(AskError::NotConnected(node))?;
        let ask = ask_of(QUESTION, &question, ANSWER_BYTES_MAX, patience);
        let answer = peer.request(Lane::Requests, ask).await;
        match answer {
            Ok(answer) => Ok(answer.to_vec()),
            Err(RequestError::NotConnected { .. }) => Err(AskError::NotConnected(node)),
            Err(error) => Err(AskError::Unanswered(node, error.to_string())),
        }
    }

    pub(super) fn tell(&self, news: &[u8]) {
        for node in self.connected() {
            let Some(peer) = self.links.peer(node) else {
                continue;
            };
            let ask = ask_of(NEWS, news, 0, NEWS_PATIENCE);
            if let Err(error) = peer.send(Lane::Requests, ask) {
                tracing::debug!(%node, %error, "news was not sent");
            }
        }
    }

    pub(super) fn connected(&self) -> Vec<NodeId> {
        let statuses = self.links.statuses().into_iter();
        let dialed = statuses.filter(|status| status.lanes[1].dialed);
        dialed.map(|status| status.node).collect()
    }

    pub(super) fn handle_request(&self, mut request: Incoming) {
        let from = request.from;
        let kind = request.payload.first().copied();
        let payload = request
            .payload
            .split_off(1.min(request.payload.len()))
            .to_vec();
        match kind {
            Some(QUESTION) => {
                let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                    return tracing::warn!(%from, "too many questions at a time");
                };
                let answering = self.service.answer(from, payload);
                tokio::spawn(async move {
                    request.responder.reply(answering.await.into());
                    drop(place);
                });
            }
            Some(NEWS) => {
                request.responder.reply(Bytes::new());
                self.service.handle_news(from, payload);
            }
            kind => tracing::warn!(%from, ?kind, "neither question nor news"),
        }
    }
}

fn ask_of(kind: u8, payload: &[u8], reply_bytes_max: usize, deadline: Duration) -> Ask {
    let mut bytes = BytesMut::with_capacity(payload.len() + 1);
    bytes.put_u8(kind);
    bytes.put_slice(payload);
    Ask {
        channel: Channel {
            kind: CHANNEL,
            group: 0,
        },
        payload: bytes.freeze(),
        reply_bytes_max: u32::try_from(reply_bytes_max).unwrap_or(u32::MAX),
        deadline,
    }
}
