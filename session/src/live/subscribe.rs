//! SUBSCRIBE, UNSUBSCRIBE and the retained messages that follow.

use std::cmp::Reverse;
use std::sync::Arc;

use mqtt::{
    Filter, Packet, PacketId, QoS, ReasonCode, RetainHandling, SubAck, Subscribe, Unsubscribe,
    Version,
};

use super::Live;
use super::deliver::{Source, Waiting};
use super::effect::Effect;
use super::requests::{Asked, PendingSubscribe, PendingUnsubscribe, Request};
use crate::durable::granted;
use crate::{
    Answer, Command, Message, Now, PersistentPolicy, Replay, Subs, Subscription, Token, Unsubs,
};

impl Live {
    pub(super) fn handle_subscribe(&mut self, subscribe: Subscribe, now: Now) {
        if !self.may_request() {
            return;
        }
        let shares = |(f, o): &(Filter, mqtt::SubscribeOptions)| f.shared().is_some() && o.no_local;
        if subscribe.filters.iter().any(shares) {
            // [MQTT-3.8.3-4]
            return self.close_server(ReasonCode::ProtocolError);
        }
        let mut pending = PendingSubscribe {
            packet_id: subscribe.packet_id,
            reasons: Vec::with_capacity(subscribe.filters.len()),
            asked: Vec::new(),
        };
        for (at, (filter, mut options)) in subscribe.filters.into_iter().enumerate() {
            if filter.shared().is_some() {
                options.qos = options.qos.min(QoS::AtLeastOnce);
            }
            let reason = self.judge_filter(&filter);
            let reason = reason.or_else(|| self.obey_rule(&filter, &mut options.qos));
            let id = subscribe.subscription_id;
            let subscription = Subscription { options, id };
            pending.reasons.push(reason.unwrap_or(granted(options.qos)));
            if reason.is_some() {
                continue;
            }
            let filter = filter.detach();
            let replay = self.note_local(&filter, subscription);
            pending.asked.push(Asked {
                at,
                filter,
                subscription,
                replay,
            });
        }
        if pending.asked.is_empty() {
            return self.send_suback(pending.packet_id, pending.reasons);
        }
        self.ask_to_subscribe(pending, now);
    }

    pub(super) fn handle_unsubscribe(&mut self, unsubscribe: &Unsubscribe, now: Now) {
        if !self.may_request() {
            return;
        }
        let packet_id = unsubscribe.packet_id;
        let filters: Vec<Filter> = unsubscribe.filters.iter().map(Filter::detach).collect();
        let mut pending = PendingUnsubscribe {
            packet_id,
            reasons: vec![ReasonCode::NoSubscriptionExisted; filters.len()],
            asked: Vec::new(),
            routed: Vec::new(),
        };
        let mut sharded = Vec::new();
        for (at, filter) in filters.into_iter().enumerate() {
            if self.is_sharded(&filter) {
                pending.asked.push(at);
                sharded.push(filter);
            } else if self.forget_local(&filter) {
                pending.reasons[at] = ReasonCode::Success;
                pending.routed.push(filter);
            }
        }
        self.release_held(now);
        if sharded.is_empty() {
            return self.tell_router(pending, now);
        }
        self.leave_groups(&sharded);
        let unsubs = Unsubs {
            client: self.own_client(),
            epoch: self.epoch,
            filters: sharded,
        };
        let request = Request::Unsubscribe(Box::new(pending));
        self.propose(request, Command::Unsubs(Box::new(unsubs)), now);
    }

    /// Tells the router what is left of an UNSUBSCRIBE, or the client that nothing is.
    fn tell_router(&mut self, mut pending: PendingUnsubscribe, now: Now) {
        let filters = std::mem::take(&mut pending.routed);
        if filters.is_empty() {
            return self.send_unsuback(pending.packet_id, pending.reasons);
        }
        let token = self.take_token();
        if self.expect_answer(token, Request::Unsubscribe(Box::new(pending)), now) {
            self.effects
                .push_back(Effect::Unsubscribe { token, filters });
        }
    }

    /// Whether the client's shard has the subscription: of a clean session the shared ones.
    fn is_sharded(&self, filter: &Filter) -> bool {
        self.is_persistent || filter.shared().is_some()
    }

    /// The router answered a clean session's request.
    pub(super) fn request_settled(&mut self, token: Token, outcome: ReasonCode, now: Now) {
        match self.take_request(token) {
            Some(Request::Subscribe(mut pending)) => {
                if outcome.is_error() {
                    for asked in pending.asked.drain(..) {
                        pending.reasons[asked.at] = self.for_suback(outcome);
                        self.forget_local(&asked.filter);
                    }
                }
                self.send_suback(pending.packet_id, pending.reasons);
                self.release_held(now);
                let wanted = pending.asked.into_iter().filter(|asked| asked.replay);
                self.ask_retained(wanted.map(|a| (a.filter, a.subscription)).collect(), now);
            }
            Some(Request::Unsubscribe(pending)) => {
                self.send_unsuback(pending.packet_id, pending.reasons);
            }
            _ => {}
        }
    }

    /// The shard answered what a SUBSCRIBE asked of it; of a clean session the router has the
    /// rest.
    pub(super) fn subscribed(&mut self, mut pending: PendingSubscribe, answer: Answer, now: Now) {
        let Answer::Subscribed(results) = answer else {
            return self.close_server(ReasonCode::UnspecifiedError);
        };
        let mut wanted = Vec::new();
        let asked = std::mem::take(&mut pending.asked);
        let (sharded, routed): (Vec<_>, Vec<_>) = asked
            .into_iter()
            .partition(|asked| self.is_sharded(&asked.filter));
        for (asked, result) in sharded.into_iter().zip(results) {
            pending.reasons[asked.at] = self.for_suback(result.reason);
            if result.replay {
                wanted.push((asked.filter, asked.subscription));
            }
        }
        if !routed.is_empty() {
            pending.asked = routed;
            return self.ask_router(pending, now);
        }
        self.send_suback(pending.packet_id, pending.reasons);
        for (filter, _) in &wanted {
            self.hold(filter);
        }
        self.ask_retained(wanted, now);
    }

    pub(super) fn unsubscribed(
        &mut self,
        mut pending: PendingUnsubscribe,
        answer: Answer,
        now: Now,
    ) {
        let Answer::Unsubscribed(results) = answer else {
            return self.close_server(ReasonCode::UnspecifiedError);
        };
        for (at, result) in pending.asked.drain(..).zip(results) {
            pending.reasons[at] = result.reason;
        }
        self.tell_router(pending, now);
    }

    /// Retained rows came: they go first, then what was held behind them.
    pub(super) fn retained(&mut self, token: Token, rows: Vec<Vec<Arc<Message>>>, now: Now) {
        let Some(Request::Retained(subscriptions)) = self.take_request(token) else {
            return;
        };
        let mut rows = rows.into_iter();
        for (filter, subscription) in subscriptions {
            let rows = rows.next().unwrap_or_default();
            self.replay(filter, subscription, rows, now);
        }
        self.release_held(now);
    }

    fn replay(
        &mut self,
        filter: Filter,
        subscription: Subscription,
        rows: Vec<Arc<Message>>,
        now: Now,
    ) {
        if !self.is_persistent && self.local(&filter).is_none() {
            return self.unhold(&filter);
        }
        let own = |m: &Message| m.publisher.as_ref() == self.client.as_ref();
        let no_local = subscription.options.no_local;
        let rows = rows.into_iter().filter(|m| !(no_local && own(m)));
        let qos = |m: &Message| m.qos.min(subscription.options.qos);
        let (direct, queued): (Vec<_>, Vec<_>) =
            rows.partition(|m| !self.is_persistent || qos(m) == QoS::AtMostOnce);
        self.unhold(&filter);
        for message in direct {
            let waiting = Waiting {
                qos: qos(&message),
                message,
                retain: true,
                dup: false,
                ids: subscription.id.into_iter().collect(),
                source: Source::Connection,
            };
            // Not held by other replays: it is older than all that they hold.
            self.offer(waiting, false, now);
        }
        if self.is_persistent {
            let replay = Replay {
                client: self.own_client(),
                epoch: self.epoch,
                filter,
                rows: queued,
            };
            self.propose(Request::Replay, Command::Replay(Box::new(replay)), now);
        }
    }

    /// Why a filter is not granted. The place where an ACL refuses as well.
    fn judge_filter(&self, filter: &Filter) -> Option<ReasonCode> {
        let config = &self.config;
        let levels = filter.split('/').count();
        let reason = if filter.len() > config.topic_bytes || levels > config.topic_levels {
            ReasonCode::TopicFilterInvalid
        } else if !self.is_sharded(filter)
            && self.local(filter).is_none()
            && self.local.len() >= config.subscriptions
        {
            ReasonCode::QuotaExceeded
        } else {
            return None;
        };
        Some(self.for_suback(reason))
    }

    /// Follows the strictest of the rules for persistent sessions, and for groups, whose queues are
    /// as persistent, that the filter meets, by a lower QoS or a refusal.
    fn obey_rule(&mut self, filter: &Filter, qos: &mut QoS) -> Option<ReasonCode> {
        if !self.is_sharded(filter) || *qos == QoS::AtMostOnce {
            return None;
        }
        let rules = self.config.persistent_rules.iter().enumerate();
        let met = rules.filter(|(_, rule)| rule.filter.overlaps(filter));
        // The first of the strictest.
        let (at, rule) = met.min_by_key(|(_, rule)| Reverse(rule.policy))?;
        self.effects.push_back(Effect::PersistentRule(at));
        match rule.policy {
            PersistentPolicy::Allow => None,
            PersistentPolicy::Qos0 => {
                *qos = QoS::AtMostOnce;
                None
            }
            PersistentPolicy::Deny => Some(self.for_suback(ReasonCode::NotAuthorized)),
        }
    }

    /// 3.1.1 knows one failure.
    fn for_suback(&self, reason: ReasonCode) -> ReasonCode {
        if reason.is_error() && self.version == Version::V311 {
            return ReasonCode::UnspecifiedError;
        }
        reason
    }

    fn ask_to_subscribe(&mut self, pending: PendingSubscribe, now: Now) {
        let filters = pending.asked.iter();
        let filters = filters.filter(|asked| self.is_sharded(&asked.filter));
        let filters: Vec<_> = filters
            .map(|a| (a.filter.clone(), a.subscription))
            .collect();
        if filters.is_empty() {
            return self.ask_router(pending, now);
        }
        let subs = Subs {
            client: self.own_client(),
            epoch: self.epoch,
            filters,
        };
        let request = Request::Subscribe(Box::new(pending));
        self.propose(request, Command::Subs(Box::new(subs)), now);
    }

    fn ask_router(&mut self, pending: PendingSubscribe, now: Now) {
        let filters = pending.asked.iter();
        let filters = filters
            .map(|a| (a.filter.clone(), a.subscription))
            .collect();
        let request = Request::Subscribe(Box::new(pending));
        let token = self.take_token();
        if self.expect_answer(token, request, now) {
            self.effects.push_back(Effect::Subscribe {
                token,
                subscriptions: filters,
            });
        }
    }

    fn ask_retained(&mut self, mut wanted: Vec<(Filter, Subscription)>, now: Now) {
        // The last of equal filters counts.
        let mut at = 0;
        while at < wanted.len() {
            if wanted[at + 1..].iter().any(|(f, _)| *f == wanted[at].0) {
                wanted.remove(at);
            } else {
                at += 1;
            }
        }
        if wanted.is_empty() {
            return;
        }
        let filters = wanted.iter().map(|(filter, _)| filter.clone()).collect();
        let token = self.take_token();
        if self.expect_answer(token, Request::Retained(wanted), now) {
            self.effects.push_back(Effect::Retained {
                token,
                filters,
                limit: self.config.retained_rows,
            });
        }
    }

    fn local(&self, filter: &Filter) -> Option<&Subscription> {
        let found = self.local.iter().find(|(f, _)| f == filter);
        found.map(|(_, subscription)| subscription)
    }

    /// Notes a clean session's subscription; says whether it wants retained messages, which then
    /// hold what the filter matches.
    fn note_local(&mut self, filter: &Filter, subscription: Subscription) -> bool {
        if self.is_sharded(filter) {
            return false;
        }
        let local = &mut self.local;
        let known = local.iter().position(|(f, _)| f == filter);
        match known {
            Some(at) => local[at].1 = subscription,
            None => local.push((filter.clone(), subscription)),
        }
        let replay = match subscription.options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => known.is_none(),
            RetainHandling::DoNotSend => false,
        };
        if replay {
            self.hold(filter);
        }
        replay
    }

    fn forget_local(&mut self, filter: &Filter) -> bool {
        self.unhold(filter);
        let before = self.local.len();
        self.local.retain(|(f, _)| f != filter);
        before != self.local.len()
    }

    fn hold(&mut self, filter: &Filter) {
        let replays = &mut self.requests.get_or_insert_default().replays;
        if !replays.contains(filter) {
            replays.push(filter.clone());
        }
    }

    fn unhold(&mut self, filter: &Filter) {
        if let Some(requests) = &mut self.requests {
            requests.replays.retain(|f| f != filter);
        }
    }

    fn send_suback(&mut self, packet_id: PacketId, reasons: Vec<ReasonCode>) {
        self.effects
            .push_back(Effect::Send(Packet::SubAck(Box::new(SubAck {
                packet_id,
                reasons,
                properties: None,
            }))));
    }

    fn send_unsuback(&mut self, packet_id: PacketId, reasons: Vec<ReasonCode>) {
        self.effects
            .push_back(Effect::Send(Packet::UnsubAck(Box::new(SubAck {
                packet_id,
                reasons,
                properties: None,
            }))));
    }
}
