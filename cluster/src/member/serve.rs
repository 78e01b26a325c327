//! What a node answers its peers, and nodes that want to be peers.

use std::sync::Arc;

use cluster_core::{BootMs, FolderId, Hello, Leftover, MetaCommand, Renewal};

use super::driver::{Done, Input, Runtime};
use super::message::{
    Empty, HEARS, JOIN, JoinAnswer, Message, PING, PREPARE, PROPOSE, Ping, Prepare, READ_ROUTES,
    RENEW,
};
use crate::Damaged;
use crate::link::{Admitter, Incoming, Refusal, RefusalCode, Wish};

/// Requests of peers, and wishes, that are being answered; one more is not taken.
const SERVING_MAX: usize = 64;

impl Runtime {
    pub(super) fn handle_input(&mut self, input: Input) {
        let now = self.inner.now();
        match input {
            Input::Request(request) => {
                let (from, kind) = (request.from, request.channel.kind);
                if let Err(error) = self.handle_request(request, now) {
                    self.inner.counters.malformed_total.add(1);
                    tracing::warn!(%from, kind, %error, "a request cannot be read");
                }
            }
            Input::Wish(wish, admitter) => self.handle_wish(wish, admitter),
            // The turn that follows looks at them.
            Input::Groups => {}
            Input::Begin(start) => {
                if let Some(links) = &self.inner.links {
                    links.set_start(start);
                }
                self.tenure.handle_start(start);
            }
            Input::HandOver(done) => {
                self.handover.begin(done);
                self.has_news = true;
            }
            Input::Removed(group, replica) => {
                let node = self.inner.me;
                self.hosted.handle_deleted(Leftover {
                    node,
                    group,
                    replica,
                });
            }
        }
    }

    /// Answers at once, or by a task.
    fn handle_request(&mut self, request: Incoming, now: BootMs) -> Result<(), Damaged> {
        let (payload, responder) = (request.payload, request.responder);
        match request.channel.kind {
            PING => {
                let ping = Ping::decode(&payload)?;
                responder.reply(Empty.encode());
                self.handle_ping(request.from, ping, now);
            }
            HEARS => {
                Empty::decode(&payload)?;
                responder.reply(self.own_ping(now).encode());
            }
            RENEW => {
                let renewal = Renewal::decode(&payload)?;
                let owner = self
                    .meta
                    .as_ref()
                    .and_then(|meta| meta.node_of(renewal.epoch));
                if owner.is_some_and(|owner| owner != request.from) {
                    // Nobody renews for another; dropped, it has no answer.
                    tracing::warn!(from = %request.from, epoch = %renewal.epoch, "not its epoch");
                    return Ok(());
                }
                self.handle_renewal(renewal, Some(responder), now);
            }
            PREPARE => {
                let prepare = Prepare::decode(&payload)?;
                let running = self.inner.control(prepare.group);
                let answer = self.hosted.handle_prepare(
                    prepare,
                    self.inner.me,
                    self.meta.as_deref(),
                    running.map(|control| control.replica()),
                );
                responder.reply(answer.encode());
            }
            PROPOSE => {
                let command = MetaCommand::decode(&payload)?;
                if !self.has_place() {
                    responder.reply(super::message::ProposeAnswer::Busy.encode());
                    return Ok(());
                }
                let inner = Arc::clone(&self.inner);
                self.serve(async move {
                    let answer = inner.answer_proposal(&command).await;
                    responder.reply(answer.encode());
                });
            }
            JOIN => {
                let hello = Hello::decode(&payload)?;
                if self.has_place() {
                    let inner = Arc::clone(&self.inner);
                    self.serve(async move {
                        let answer = inner.answer_join(&hello).await;
                        responder.reply(answer.encode());
                    });
                }
            }
            READ_ROUTES => {
                Empty::decode(&payload)?;
                if self.has_place() {
                    let inner = Arc::clone(&self.inner);
                    self.serve(async move {
                        let answer = inner.answer_read().await;
                        responder.reply(answer.encode());
                    });
                }
            }
            // Of a later version; dropped, it says that there is no answer.
            kind => tracing::debug!(kind, "a request of an unknown kind"),
        }
        Ok(())
    }

    fn handle_wish(&mut self, wish: Wish, admitter: Admitter) {
        if !self.has_place() {
            let limit = SERVING_MAX as u32;
            return admitter.refuse(Refusal::new(RefusalCode::Crowded, limit, limit));
        }
        let inner = Arc::clone(&self.inner);
        let hello = Hello {
            cluster: wish.cluster.map(|cluster| FolderId(cluster.0)),
            node: wish.node,
            folder: wish.folder,
            level: wish.understood,
        };
        self.serve(async move {
            match inner.join(&hello).await {
                JoinAnswer::Refused(refusal) => {
                    inner.counters.joins_refused_total.add(1);
                    admitter.refuse(refusal);
                }
                answer => {
                    inner.counters.joins_total.add(1);
                    admitter.admit(answer.encode());
                }
            }
        });
    }

    /// Whether one more may be answered by a task.
    fn has_place(&self) -> bool {
        let has = self.serving < SERVING_MAX;
        if !has {
            self.inner.counters.dropped_total.add(1);
        }
        has
    }

    fn serve(&mut self, answer: impl Future<Output = ()> + Send + 'static) {
        self.serving += 1;
        self.tasks.spawn(async move {
            answer.await;
            Done::Served
        });
    }
}
