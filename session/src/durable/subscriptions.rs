//! Subscriptions of persistent sessions, their routes, and replays of retained messages.

use mqtt::{ClientId, Filter, QoS, ReasonCode, RetainHandling};

use super::Durable;
use super::queue::{Entry, Ids};
use super::session::PendingReplay;
use crate::{Answer, Epoch, Replay, Seq, Subs, Subscribed, Subscription, Unsubs, Unsubscribed};

impl Durable {
    pub(super) fn subscribe(&mut self, subs: &Subs) -> Answer {
        let all_shared = subs
            .filters
            .iter()
            .all(|(filter, _)| filter.shared().is_some());
        if let Err(answer) = self.subscriber(&subs.client, subs.epoch, all_shared) {
            return answer;
        }
        let each = subs.filters.iter();
        let results = each.map(|(filter, sub)| match filter.shared() {
            Some(_) => self.share(&subs.client, filter, sub),
            None => self.subscribe_one(&subs.client, filter, sub),
        });
        let results = results.collect();
        self.touch(&subs.client);
        Answer::Subscribed(results)
    }

    pub(super) fn unsubscribe(&mut self, unsubs: &Unsubs) -> Answer {
        let all_shared = unsubs
            .filters
            .iter()
            .all(|filter| filter.shared().is_some());
        if let Err(answer) = self.subscriber(&unsubs.client, unsubs.epoch, all_shared) {
            return answer;
        }
        let each = unsubs.filters.iter();
        let results = each.map(|filter| match filter.shared() {
            Some(_) => self.unshare(&unsubs.client, filter),
            None => self.unsubscribe_one(&unsubs.client, filter),
        });
        let results = results.collect();
        self.touch(&unsubs.client);
        Answer::Unsubscribed(results)
    }

    /// Whether the shard keeps the subscriptions that a command names: of a clean session only
    /// the shared ones.
    fn subscriber(
        &mut self,
        client: &ClientId,
        epoch: Epoch,
        all_shared: bool,
    ) -> Result<(), Answer> {
        if all_shared {
            self.owned(client, epoch).map(|_| ())
        } else {
            self.owned_state(client, epoch).map(|_| ())
        }
    }

    /// Queues the retained rows of a new subscription, then what waited behind them.
    pub(super) fn replay(&mut self, replay: &Replay) -> Answer {
        let time = self.time;
        let limits = self.limits;
        let state = match self.owned_state(&replay.client, replay.epoch) {
            Ok(state) => state,
            Err(answer) => return answer,
        };
        if !state.end_replay(&replay.filter) {
            return Answer::Done;
        }
        let Some(subscription) = state.subscription(&replay.filter).copied() else {
            return Answer::Done;
        };
        let before = (state.queue.len(), state.queue.bytes());
        let (mut queued, mut dropped) = (0, 0);
        let mut left = Vec::new();
        let session = self.sessions.get_mut(&replay.client);
        let state = session.and_then(|s| s.state.as_mut());
        let state = state.expect("found just before");
        for message in &replay.rows {
            let qos = message.qos.min(subscription.options.qos);
            let own = message.publisher.as_ref() == Some(&replay.client);
            let wanted = !(own && subscription.options.no_local);
            if qos == QoS::AtMostOnce || !wanted || message.is_expired(time) {
                continue;
            }
            let id = self.payloads.take_id();
            let entry = Entry {
                seq: Seq(0),
                message: id,
                bytes: u32::try_from(message.bytes()).unwrap_or(u32::MAX),
                expiry: message.expiry.into(),
                qos,
                retain: true,
                ids: subscription.id.map_or(Ids::None, Ids::One),
                released: false,
            };
            let pushed = state.queue.push(entry, None, &limits, &mut left);
            self.payloads.hold(id, message, u32::from(pushed.taken));
            queued += u64::from(pushed.taken);
            dropped += u64::from(pushed.dropped);
        }
        state.unhold();
        let after = (state.queue.len(), state.queue.bytes());
        self.counters.queued += queued;
        self.counters.dropped_full += dropped;
        self.account(before, after);
        self.let_go(left);
        self.touch(&replay.client);
        Answer::Done
    }

    pub(super) fn replay_end(
        &mut self,
        client: &ClientId,
        incarnation: Epoch,
        filter: &Filter,
    ) -> Answer {
        let time = self.time;
        let Some(session) = self.sessions.get_mut(client) else {
            return Answer::Done;
        };
        if let Some(state) = &mut session.state
            && session.incarnation == incarnation
            && state
                .replays
                .iter()
                .any(|r| r.filter == *filter && r.until <= time)
        {
            state.end_replay(filter);
            state.unhold();
            self.counters.replays_missed += 1;
            self.touch(client);
        }
        Answer::Done
    }

    /// Takes a subscription out of the trie; the last one of its filter that needs a route withdraws
    /// it.
    pub(super) fn withdraw(&mut self, client: &ClientId, filter: &Filter, is_owned: bool) {
        let removed = self.trie.remove(filter, client);
        if removed.is_some() && !is_owned && !self.needs_route(filter) {
            self.outbox.route(filter, false, self.index);
        }
    }

    fn subscribe_one(
        &mut self,
        client: &ClientId,
        filter: &Filter,
        subscription: &Subscription,
    ) -> Subscribed {
        let until = self.time.plus_s(self.limits.replay_s);
        let is_owned = self.is_owned(client, filter);
        let is_first = !is_owned && !self.needs_route(filter);
        let shares = self.shares.filters(client).len();
        let outbox_full = self.outbox.routes_len() >= self.limits.outbox_routes;
        let session = self.sessions.get_mut(client);
        let state = session.and_then(|s| s.state.as_mut());
        let state = state.expect("the caller found the session");
        let known = state.subscriptions.iter().position(|(f, _)| f == filter);
        let too_many = state.subscriptions.len() + shares >= self.limits.subscriptions;
        if (known.is_none() && too_many) || (is_first && outbox_full) {
            return Subscribed {
                reason: ReasonCode::QuotaExceeded,
                version: 0,
                replay: false,
                membership: 0,
            };
        }
        //# [MQTT-3.8.4-3] ... the same filter again replaces the subscription
        match known {
            Some(at) => state.subscriptions[at].1 = *subscription,
            None => {
                // Most sessions have one or two; there are many sessions.
                let more = state.subscriptions.len().div_ceil(2).max(1);
                if state.subscriptions.len() == state.subscriptions.capacity() {
                    state.subscriptions.reserve_exact(more);
                }
                state.subscriptions.push((filter.clone(), *subscription));
            }
        }
        let replay = match subscription.options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => known.is_none(),
            RetainHandling::DoNotSend => false,
        };
        if replay {
            let filter = filter.clone();
            state.end_replay(&filter);
            state.replays.push(PendingReplay { filter, until });
        }
        self.trie.insert(filter, client.clone(), *subscription);
        if is_first {
            self.outbox.route(filter, true, self.index);
        }
        Subscribed {
            reason: granted(subscription.options.qos),
            version: self.awaited_version(filter, is_owned),
            replay,
            membership: 0,
        }
    }

    fn unsubscribe_one(&mut self, client: &ClientId, filter: &Filter) -> Unsubscribed {
        let is_owned = self.is_owned(client, filter);
        let session = self.sessions.get_mut(client);
        let state = session.and_then(|s| s.state.as_mut());
        let state = state.expect("the caller found the session");
        let before = state.subscriptions.len();
        //# [MQTT-3.10.4-1] ... compared character by character
        state.subscriptions.retain(|(f, _)| f != filter);
        let reason = if before == state.subscriptions.len() {
            ReasonCode::NoSubscriptionExisted
        } else {
            ReasonCode::Success
        };
        if state.end_replay(filter) {
            state.unhold();
        }
        self.withdraw(client, filter, is_owned);
        Unsubscribed {
            reason,
            version: self.awaited_version(filter, is_owned),
            membership: 0,
        }
    }
}

/// The code that grants a QoS.
pub(crate) fn granted(qos: QoS) -> ReasonCode {
    match qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
        QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
    }
}
