//! What a connection has asked its shell and waits for.

use std::collections::VecDeque;

use mqtt::{Filter, PacketId, ReasonCode};

use super::effect::Effect;
use super::{Live, position_of};
use crate::{Answer, Command, MonoMs, Now, Seq, Subscription, Token, Unsubs};

/// Most requests in flight, those of inbound acknowledgements included: a client gets there by
/// packet ids that it invents. `Rec` does not count: the client's own window bounds it.
const REQUESTS: usize = 4_096;

/// Milliseconds that retained messages are waited for.
pub(super) const RETAINED_WAIT_MS: u64 = 5_000;

#[derive(Debug)]
pub(super) enum Request {
    /// `Subs` or `Subscribe`.
    Subscribe(Box<PendingSubscribe>),
    /// `Unsubs` or `Unsubscribe`.
    Unsubscribe(Box<PendingUnsubscribe>),
    /// `Retained` of these subscriptions.
    Retained(Vec<(Filter, Subscription)>),
    /// `Q2In` under the token of the PUBREC.
    Number,
    /// `Q2Out` after PUBREL.
    Complete(PacketId),
    /// `Q2Out` of a refused PUBLISH.
    RefusePublish(Token, ReasonCode),
    /// `Rec` of an outbound message.
    Rec(Seq),
    /// `Replay`.
    Replay,
    /// Whether the session is still its own.
    Confirm,
}

#[derive(Debug)]
pub(super) struct PendingSubscribe {
    pub(super) packet_id: PacketId,
    /// One code per filter of the packet; those of `asked` are filled in by the answer.
    pub(super) reasons: Vec<ReasonCode>,
    pub(super) asked: Vec<Asked>,
}

#[derive(Debug)]
pub(super) struct PendingUnsubscribe {
    pub(super) packet_id: PacketId,
    /// One code per filter of the packet, as far as known.
    pub(super) reasons: Vec<ReasonCode>,
    /// Positions of those that the shard is asked to fill in.
    pub(super) asked: Vec<usize>,
    /// Filters that the router is to be told next.
    pub(super) routed: Vec<Filter>,
}

#[derive(Debug)]
pub(super) struct Asked {
    /// Position in the packet.
    pub(super) at: usize,
    pub(super) filter: Filter,
    pub(super) subscription: Subscription,
    /// Whether retained messages are wanted; a shard answers that itself.
    pub(super) replay: bool,
}

#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Tokens ascending.
    pending: VecDeque<(Token, MonoMs, Request)>,
    /// How many of them are `Rec`: at most one for each message of the client's window.
    recording: usize,
    /// Filters whose retained messages are awaited: what they match is held.
    pub(super) replays: Vec<Filter>,
}

impl Requests {
    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.replays.is_empty()
    }

    pub(super) fn oldest(&self) -> Option<MonoMs> {
        let waits = self.pending.iter();
        let waits = waits.filter(|(_, _, r)| !matches!(r, Request::Retained(_)));
        waits.map(|(_, since, _)| *since).next()
    }

    pub(super) fn oldest_retained(&self) -> Option<(Token, MonoMs)> {
        let mut waits = self.pending.iter();
        let found = waits.find(|(_, _, r)| matches!(r, Request::Retained(_)));
        found.map(|(token, since, _)| (*token, *since))
    }

    fn clients(&self) -> usize {
        let asks = |r: &Request| matches!(r, Request::Subscribe(_) | Request::Unsubscribe(_));
        self.pending.iter().filter(|(_, _, r)| asks(r)).count()
    }

    fn take(&mut self, token: Token) -> Option<Request> {
        let at = position_of(&self.pending, token, |(token, ..)| *token)?;
        let (.., request) = self.pending.remove(at)?;
        self.recording -= usize::from(matches!(request, Request::Rec(_)));
        Some(request)
    }
}

impl Live {
    /// Whether the client may ask for more; if not, the connection is closed.
    pub(super) fn may_request(&mut self) -> bool {
        let asked = self.requests.as_ref().map_or(0, |r| r.clients());
        if asked >= self.config.requests {
            self.close_server(ReasonCode::MessageRateTooHigh);
            return false;
        }
        true
    }

    pub(super) fn propose(&mut self, request: Request, command: Command, now: Now) {
        let token = self.take_token();
        self.propose_as(token, request, command, now);
    }

    pub(super) fn propose_as(
        &mut self,
        token: Token,
        request: Request,
        command: Command,
        now: Now,
    ) {
        if self.expect_answer(token, request, now) {
            self.effects.push_back(Effect::Propose {
                token,
                command: Box::new(command),
            });
        }
    }

    /// Notes a request; false when there are too many, which closes the connection.
    pub(super) fn expect_answer(&mut self, token: Token, request: Request, now: Now) -> bool {
        let requests = self.requests.get_or_insert_default();
        if matches!(request, Request::Rec(_)) {
            requests.recording += 1;
        } else if requests.pending.len() - requests.recording >= REQUESTS {
            self.close_server(ReasonCode::MessageRateTooHigh);
            return false;
        }
        requests.pending.push_back((token, now.mono, request));
        true
    }

    /// Asks the shard whether the session is still this connection's: by a command that changes nothing.
    pub(super) fn ask_whether_own(&mut self, now: Now) {
        let nothing = Unsubs {
            client: self.own_client(),
            epoch: self.epoch,
            filters: Vec::new(),
        };
        self.propose(Request::Confirm, Command::Unsubs(Box::new(nothing)), now);
    }

    pub(super) fn take_request(&mut self, token: Token) -> Option<Request> {
        self.requests.as_mut()?.take(token)
    }

    /// Carries on after the shard's answer.
    pub(super) fn answered(&mut self, token: Token, answer: Answer, now: Now) {
        let Some(request) = self.take_request(token) else {
            return;
        };
        if matches!(answer, Answer::WrongEpoch { .. }) {
            return self.lost_session();
        }
        match request {
            Request::Subscribe(pending) => self.subscribed(*pending, answer, now),
            Request::Unsubscribe(pending) => self.unsubscribed(*pending, answer, now),
            Request::Number => self.numbered(token, &answer),
            Request::Complete(packet_id) => self.completed(packet_id, &answer),
            Request::RefusePublish(rec, reason) => self.publish_refused(rec, reason),
            Request::Rec(seq) => self.recorded(seq),
            Request::Confirm => match answer {
                Answer::Unsubscribed(_) => self.effects.push_back(Effect::Confirmed),
                // A refusal says nothing of whose the session is.
                _ => self.close_server(ReasonCode::ServerBusy),
            },
            Request::Replay | Request::Retained(_) => {}
        }
    }
}
