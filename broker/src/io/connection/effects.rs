//! Carries the effects of a connection's `Live` out.

use mqtt::{AckKind, Packet, PublishRef, ReasonCode, encode_ack, encode_publish, encode_within};
use session::{Ack, Closed, ClosedBy, Command, Effect, Outgoing, Stamp, Token};
use std::collections::BTreeMap;

use super::super::fanout::FannedOut;
use super::lease::{Promise, is_promise, is_promised};
use super::{Connection, Gathering};
use crate::ids::{Owed, shard_of};
use crate::routes::Delta;
use crate::shard::{RowsAt, ShardItem};

impl Connection {
    /// Does everything that `Live` asks for.
    pub(super) fn drain_effects(&mut self) {
        while let Some(effect) = self.live.poll_effect() {
            match effect {
                Effect::Send(packet) if is_promise(&packet) => {
                    self.promise(Promise::Packet(Box::new(packet)));
                }
                Effect::Send(packet) => self.send(&packet),
                Effect::Ack(ack) if is_promised(ack.kind) => self.promise(Promise::Ack(ack)),
                Effect::Ack(ack) => self.ack(ack),
                Effect::Deliver(outgoing) if outgoing.packet_id.is_some() && self.withholds() => {
                    self.withhold(Promise::Delivery(Box::new(outgoing)));
                }
                Effect::Deliver(outgoing) => self.deliver(&outgoing),
                Effect::Authenticate(credentials) => self.authenticate(&credentials),
                Effect::Open(open) => {
                    self.home = shard_of(&open.client, self.io.shared.shard_count);
                    self.grant = self.io.tenable(self.home).grants();
                    self.extra().open = Some(open);
                    self.queue_open();
                }
                Effect::Publish(inbound) => self.publish(*inbound),
                Effect::Propose { token, command } => self.propose(token, command),
                Effect::Confirmed => self.confirmed(),
                Effect::Acked(seq) => self.extra().acked.push(seq),
                Effect::SharedAcked(acked) => self.extra().shared_acked.push(*acked),
                Effect::Subscribe {
                    token,
                    subscriptions,
                } => self.subscribe(token, subscriptions),
                Effect::Unsubscribe { token, filters } => self.unsubscribe(token, filters),
                Effect::Retained {
                    token,
                    filters,
                    limit,
                } => {
                    self.ask_retained(token, filters, limit);
                }
                Effect::PersistentRule(rule) => self.io.met_persistent_rule(rule),
                Effect::Close(closed) => self.close(*closed),
            }
        }
    }

    pub(super) fn send(&mut self, packet: &Packet) {
        if self.io.shared.traces.is_on() {
            self.trace_sent(packet);
        }
        let (version, bytes_max) = (self.live.version(), self.live.packet_bytes_max());
        let out = &mut self.io.write_buffer.borrow_mut();
        if let Err(error) = encode_within(packet, version, bytes_max, out) {
            tracing::debug!(%error, "a packet was not sent");
        }
    }

    pub(super) fn ack(&mut self, ack: Ack) {
        // With another reason it is sent as a packet.
        if self.io.shared.traces.is_on() && ack.reason == ReasonCode::Success {
            self.trace_acked(ack);
        }
        let counters = &self.io.counters;
        let kind = match ack.kind {
            session::AckKind::PubAck => {
                counters.puback_sent_total.add(1);
                AckKind::PubAck
            }
            session::AckKind::PubRec => {
                counters.pubrec_sent_total.add(1);
                AckKind::PubRec
            }
            session::AckKind::PubRel => AckKind::PubRel,
            session::AckKind::PubComp => AckKind::PubComp,
        };
        if ack.reason == ReasonCode::Success {
            encode_ack(kind, ack.packet_id, &mut self.io.write_buffer.borrow_mut());
        } else {
            self.send(&ack.to_packet());
        }
    }

    pub(super) fn deliver(&mut self, outgoing: &Outgoing) {
        self.io.counters.publish_sent_total.add(1);
        if self.io.shared.traces.is_on() {
            self.trace_delivered(outgoing);
        }
        let message = &outgoing.message;
        let publish = PublishRef {
            dup: outgoing.dup,
            qos: outgoing.qos,
            retain: outgoing.retain,
            topic: &message.topic,
            packet_id: outgoing.packet_id,
            payload: &message.payload,
            topic_alias: None,
            subscription_ids: &outgoing.subscription_ids,
            properties: message.properties.as_deref(),
            message_expiry_s: outgoing.expiry_s,
        };
        let version = self.live.version();
        encode_publish(&publish, version, &mut self.io.write_buffer.borrow_mut());
    }

    fn publish(&mut self, inbound: session::Inbound) {
        if self.io.shared.traces.is_on() {
            self.trace_published(&inbound.publish);
        }
        let token = inbound.token;
        self.io
            .shared
            .defects
            .before_publish(&inbound.publish.topic);
        let (live, io) = (&self.live, &self.io);
        let stamp = |seq| Stamp {
            publisher: live.client().cloned(),
            epoch: live.epoch(),
            seq,
        };
        let client = live.client().map_or("", |client| client.as_str());
        let fanned_out = io.publish(self.id, client, live.epoch(), inbound, stamp);
        let Some(token) = token else { return };
        let outcome = match fanned_out {
            FannedOut::Owed { open: 0, .. } => ReasonCode::Success,
            FannedOut::Owed { open, to_shards } => {
                self.enqueues |= to_shards;
                self.extra().obligations.push((token, open));
                return;
            }
            FannedOut::NoMatch => ReasonCode::NoMatchingSubscribers,
            FannedOut::TooCostly => ReasonCode::QuotaExceeded,
        };
        self.live.handle_settled(token, outcome, self.io.now());
    }

    fn propose(&mut self, token: Token, command: Box<Command>) {
        let Some(shard) = self.shard() else { return };
        let early = crate::defects::early_answer(&command);
        let item = ShardItem::Propose {
            connection: self.id,
            token,
            command,
        };
        self.io.outbound.borrow_mut().push_to_shard(shard, item);
        if let Some(answer) = early {
            self.live.handle_answer(token, answer, self.io.now());
        }
    }

    /// The shard of the client's session.
    pub(super) fn shard(&self) -> Option<u16> {
        Some(shard_of(self.live.client()?, self.io.shared.shard_count))
    }

    /// Gives the acknowledged sequences of this turn to the next batches of the shards: of the
    /// session, and of the groups.
    pub(super) fn flush_acked(&mut self) {
        let Some(extra) = &mut self.extra else { return };
        for acked in std::mem::take(&mut extra.shared_acked) {
            let shard = shard_of(&acked.filter, self.io.shared.shard_count);
            self.io.outbound.borrow_mut().shared_acked(shard, acked);
        }
        if extra.acked.is_empty() {
            return;
        }
        let acks = self.live.acks(std::mem::take(&mut extra.acked));
        if let (Some(acks), Some(shard)) = (acks, self.shard()) {
            self.io.outbound.borrow_mut().acked(shard, acks);
        }
    }

    fn subscribe(&mut self, token: Token, all: Vec<(mqtt::Filter, session::Subscription)>) {
        let connection = self.id;
        for (filter, _) in &all {
            let filters = &mut self.extra().filters;
            if !filters.contains(filter) {
                filters.push(filter.clone());
            }
        }
        let deltas = all.into_iter().map(|(filter, subscription)| Delta {
            filter,
            connection,
            subscription: Some(subscription),
        });
        let owed = Owed::Connection(self.id, token);
        self.io.outbound.borrow_mut().reroute(deltas, Some(owed));
    }

    fn unsubscribe(&mut self, token: Token, filters: Vec<mqtt::Filter>) {
        self.extra()
            .filters
            .retain(|filter| !filters.contains(filter));
        let owed = Owed::Connection(self.id, token);
        self.drop_routes(filters, Some(owed));
    }

    pub(super) fn drop_routes(&self, filters: Vec<mqtt::Filter>, owed: Option<Owed>) {
        let connection = self.id;
        let deltas = filters.into_iter().map(|filter| Delta {
            filter,
            connection,
            subscription: None,
        });
        self.io.outbound.borrow_mut().reroute(deltas, owed);
    }

    /// Asks each shard that may have some: of a filter without a wildcard the one of the topic, of a
    /// client's own filter the one of the client.
    fn ask_retained(&mut self, token: Token, filters: Vec<mqtt::Filter>, limit: usize) {
        let rows = filters.iter().map(|_| Vec::new()).collect();
        let mut by_shard: BTreeMap<u16, Vec<(usize, mqtt::Filter)>> = BTreeMap::new();
        for (at, filter) in filters.into_iter().enumerate() {
            for shard in self.io.shared.homes.retained_of(&filter) {
                let wanted = by_shard.entry(shard).or_default();
                wanted.push((at, filter.clone()));
            }
        }
        self.extra().retained.push(Gathering {
            token,
            shards: by_shard.len(),
            rows,
        });
        let mut outbound = self.io.outbound.borrow_mut();
        for (shard, wanted) in by_shard {
            let item = ShardItem::Retained {
                connection: self.id,
                token,
                wanted: wanted.into(),
                limit,
            };
            outbound.push_to_shard(shard, item);
        }
    }

    /// Adds one shard's retained messages; the last shard's complete the answer.
    pub(super) fn retained(&mut self, token: Token, rows: Vec<RowsAt>) {
        let gatherings = &mut self.extra().retained;
        let Some(at) = gatherings.iter().position(|one| one.token == token) else {
            return;
        };
        let gathering = &mut gatherings[at];
        for (filter, rows) in rows {
            gathering.rows[filter].extend(rows);
        }
        gathering.shards -= 1;
        if gathering.shards > 0 {
            return;
        }
        let mut rows = gatherings.swap_remove(at).rows;
        for of_filter in &mut rows {
            of_filter.sort_by(|a, b| a.topic.cmp(&b.topic));
        }
        self.live.handle_retained(token, rows, self.io.now());
    }

    fn close(&mut self, closed: Closed) {
        if self.io.shared.traces.is_on() {
            self.trace_closed(&closed);
        }
        self.flush_acked();
        self.count_dropped();
        self.draining = closed.by == ClosedBy::Server && !self.ended;
        if let Some(command) = closed.command {
            self.io.close_ownership(command);
        }
        let filters = std::mem::take(&mut self.extra().filters);
        if !filters.is_empty() {
            self.drop_routes(filters, None);
        }
        self.extra = None;
        // It may linger until its client has read the last of it.
        self.io.outbound.borrow_mut().end(self.id);
    }
}
