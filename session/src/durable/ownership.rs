//! Who owns a session, from `Open` to its end, and its will.

use std::sync::Arc;

use defects::Defect;
use mqtt::{ClientId, ReasonCode, Will};

use super::session::Session;
use super::{Durable, DurableEffect, GONE_NODES, WillRow};
use crate::{Answer, Close, Epoch, Message, NodeEpoch, Open, WallMs, WillFate, WillId};

impl Durable {
    pub(super) fn open(&mut self, open: &Open) -> Answer {
        if let Some(session) = self.sessions.get(&open.client)
            && (session.node_epoch, session.connection) == (open.node_epoch, open.connection)
        {
            return opened(session);
        }
        if let Some(refusal) = self.open_refusal(open) {
            return refusal;
        }
        self.end_previous(open);
        self.owners.add(open.node_epoch);
        let epoch = Epoch(self.index);
        let session = match self.sessions.get_mut(&open.client) {
            Some(session) => {
                session.resume(open, epoch);
                session
            }
            None => self
                .sessions
                .entry(open.client.clone())
                .or_insert_with(|| Box::new(Session::begin(open, epoch))),
        };
        let answer = opened(session);
        self.touch(&open.client);
        self.touch_shares(&open.client);
        answer
    }

    pub(super) fn close(&mut self, close: &Close) -> Answer {
        let session = match self.owned(&close.client, close.epoch) {
            Ok(session) if session.is_connected() => session,
            Ok(_) => return Answer::Done,
            Err(answer) => return answer,
        };
        if close.will == WillFate::Discard {
            session.will = None;
        }
        if let Some(expiry_s) = close.expiry_s {
            session.expiry_s = expiry_s;
        }
        self.disconnect(&close.client);
        Answer::Done
    }

    /// Ends a session that is still disconnected under `epoch` and whose time passed
    /// `[MQTT-4.1.0-2]`.
    pub(super) fn expire(&mut self, client: &ClientId, incarnation: Epoch, epoch: Epoch) -> Answer {
        let Some(session) = self.sessions.get(client) else {
            return Answer::Done;
        };
        if defects::is(Defect::ExpireWithoutEpoch) {
            return self.end_whoever_owns(client);
        }
        let is_it = session.incarnation == incarnation && session.epoch == epoch;
        if is_it && session.expires().is_some_and(|at| at <= self.time) {
            self.end_session(client);
        }
        Answer::Done
    }

    /// A defect: the session ends, connected or not.
    fn end_whoever_owns(&mut self, client: &ClientId) -> Answer {
        if let Some(session) = self.sessions.get_mut(client)
            && session.is_connected()
        {
            session.disconnected = Some(self.time);
            self.owners.remove(session.node_epoch);
        }
        self.end_session(client);
        Answer::Done
    }

    pub(super) fn will_delay_end(&mut self, client: &ClientId, epoch: Epoch) -> Answer {
        if let Some(session) = self.sessions.get(client)
            && session.epoch == epoch
            && session.will_due().is_some_and(|at| at <= self.time)
        {
            self.publish_will(client);
            self.touch(client);
        }
        Answer::Done
    }

    pub(super) fn node_gone(&mut self, node_epoch: NodeEpoch) -> Answer {
        self.gone.insert(node_epoch);
        self.full.end(node_epoch);
        if self.gone.len() > GONE_NODES {
            self.gone.pop_first();
        }
        let owned = self.sessions.iter();
        let owned = owned.filter(|(_, s)| s.is_connected() && s.node_epoch == node_epoch);
        let owned: Vec<ClientId> = owned.map(|(client, _)| client.clone()).collect();
        for client in owned {
            self.disconnect(&client);
        }
        self.groups_node_gone(node_epoch);
        Answer::Done
    }

    fn open_refusal(&self, open: &Open) -> Option<Answer> {
        let session = self.sessions.get(&open.client);
        let current = session.map(|s| s.epoch);
        let is_expected = current == open.expected_epoch;
        if !is_expected && !defects::is(Defect::OpenWithoutExpectedEpoch) {
            return Some(Answer::WrongEpoch { current });
        }
        // Its CONNECT was read late: the client has come back since. Taking it would end what the
        // later connection was promised.
        if session.is_some_and(|s| {
            s.node_epoch == open.node_epoch && open.connection.is_older_than(s.connection)
        }) {
            return Some(Answer::Refused(ReasonCode::ServerUnavailable));
        }
        if session.is_some_and(|s| s.identity != open.identity && !self.is_over(s)) {
            return Some(Answer::OtherIdentity);
        }
        if self.gone.contains(&open.node_epoch) {
            return Some(Answer::Refused(ReasonCode::ServerUnavailable));
        }
        if session.is_none() && self.sessions.len() >= self.limits.sessions {
            return Some(Answer::Refused(ReasonCode::QuotaExceeded));
        }
        let wills_full = self.outbox.wills_len() >= self.limits.outbox_wills;
        if open.will.is_some() && wills_full {
            return Some(Answer::Refused(ReasonCode::ServerBusy));
        }
        None
    }

    /// Whether the expiry interval has passed, though no `Expire` came yet.
    fn is_over(&self, session: &Session) -> bool {
        session.expires().is_some_and(|at| at <= self.time)
    }

    /// What an `Open` does to the connection and session before it.
    fn end_previous(&mut self, open: &Open) {
        let Some(session) = self.sessions.get_mut(&open.client) else {
            return;
        };
        if session.is_connected() {
            let takeover = DurableEffect::TakenOver {
                client: open.client.clone(),
                node_epoch: session.node_epoch,
                connection: session.connection,
                epoch: session.epoch,
            };
            self.takeovers.add(self.time, takeover, self.leads);
            session.disconnected = Some(self.time);
            self.owners.remove(session.node_epoch);
            let will = session.will.as_ref();
            if will.is_some_and(|w| w.delay_s.unwrap_or(0) == 0) {
                self.publish_will(&open.client);
            }
        }
        let session = &self.sessions[&open.client];
        //# [MQTT-3.1.2-4] ... any existing session is discarded and a new one started
        if open.clean_start || session.state.is_none() || self.is_over(session) {
            self.end_session(&open.client);
        }
    }

    pub(super) fn disconnect(&mut self, client: &ClientId) {
        let Some(session) = self.sessions.get_mut(client) else {
            return;
        };
        session.disconnected = Some(self.time);
        self.owners.remove(session.node_epoch);
        if self.is_over(&self.sessions[client]) {
            self.end_session(client);
            return;
        }
        let is_due = |at: WallMs| at <= self.time;
        if self.sessions[client].will_due().is_some_and(is_due) {
            self.publish_will(client);
        }
        self.touch(client);
        self.touch_shares(client);
    }

    /// Removes a disconnected session; a will that waits is published `[MQTT-3.1.2-8]`.
    fn end_session(&mut self, client: &ClientId) {
        self.publish_will(client);
        let Some(session) = self.sessions.remove(client) else {
            return;
        };
        if let Some(at) = session.deadline {
            self.deadlines.remove(&(at, client.clone()));
        }
        if session.is_ready {
            self.ready.retain(|c| c != client);
        }
        self.end_shares(client);
        self.changes.ended(client, &session);
        let is_bound = session.is_bound(client);
        let Some(state) = session.state else { return };
        for (filter, _) in &state.subscriptions {
            let is_owned = is_bound && self.is_of_template(client, filter);
            self.withdraw(client, filter, is_owned);
        }
        self.let_go(state.queue.messages().collect());
        self.counters.dropped_session_end += state.queue.len() as u64;
        self.counters.queue_messages -= state.queue.len() as u64;
        self.counters.queue_bytes -= state.queue.bytes() as u64;
    }

    /// Moves a session's will to the outbox.
    fn publish_will(&mut self, client: &ClientId) {
        let Some(session) = self.sessions.get_mut(client) else {
            return;
        };
        let Some(will) = session.will.take() else {
            return;
        };
        self.outbox.will(WillRow {
            id: WillId(0),
            client: client.clone(),
            epoch: session.epoch,
            message: Arc::new(will_message(client, *will, self.time)),
        });
    }
}

pub(super) fn opened(session: &Session) -> Answer {
    Answer::Opened {
        epoch: session.epoch,
        incarnation: match defects::is(Defect::EpochsRestart) {
            false => session.incarnation,
            true => Epoch(1),
        },
        session_present: session.session_present,
    }
}

/// The message of a will; its expiry interval begins now (§3.1.3.2.4).
fn will_message(client: &ClientId, will: Will, now: WallMs) -> Message {
    let expiry_s = will.properties.as_ref().and_then(|p| p.message_expiry_s);
    Message {
        topic: will.topic,
        payload: will.payload,
        qos: will.qos,
        retain: will.retain,
        properties: will.properties,
        publisher: Some(client.clone()),
        received: now,
        expiry: expiry_s.map(|s| now.plus_s(u64::from(s))),
    }
}
