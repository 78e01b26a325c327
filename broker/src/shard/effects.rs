//! What applied entries ask the leader of a shard for.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cluster::ShardMachine;
use cluster::exchange::Letter;
use cluster::raft::Group;
use cluster_core::{
    Deltas, DrainEffect, Incarnation, MembershipEffect, NodeEpoch, Rising, RouteDelta,
    RouteVersion, WillKey,
};
use mqtt::QoS;
use session::{
    Command, ConnectionId, Delivery, DeliveryStep, DurableEffect, GroupDelivery, Message,
    MessageId, WillId, WillRow,
};

use super::host::{Hosted, ShardHost};
use super::lead::{Lead, Restating, Wired};
use super::{ShardItem, ShardMessage};
use crate::environment::Fatal;
use crate::ids::{self, shard_of};
use crate::io::ShardEvent;
use crate::peers::{DeliveryRoom, Posted};
use crate::routes::RoutesMessage;

/// Effects taken from the state under one lock.
const EFFECTS_AT_ONCE: usize = 256;
/// How long payloads wait that a state file does not give because a full disk has closed it.
const LOAD_RETRY_DELAY: Duration = Duration::from_millis(250);

/// Where a connection is.
enum Place {
    /// On this io thread of this node.
    Here(usize),
    /// On the node of this epoch.
    There(NodeEpoch),
}

/// Why payloads were not read.
enum Unread {
    /// The state file is opened again.
    NotYet,
    Never(String),
}

impl ShardHost {
    /// Hands a QoS 0 message to the connected sessions that want it, past the log.
    pub(super) fn deliver_qos0(&self, hosted: &mut Hosted, message: &Arc<Message>) {
        let Some(lead) = &hosted.lead else { return };
        let dropped = &self.peers.counters().qos0_dropped_total;
        // Who leads now may have handed out later ones.
        if hosted.standstill.is_in_doubt(self.boot()) {
            dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let publisher = message.publisher.as_ref();
        let recipients = lead.group.with(|machine| {
            let durable = machine.durable_mut();
            let mut all = durable.qos0_recipients(&message.topic, message.qos, publisher);
            all.extend(durable.next_qos0_members(&message.topic, message.qos));
            all
        });
        for recipient in recipients {
            let (connection, matched) = (recipient.connection, recipient.matched);
            let message = Arc::clone(message);
            match self.place(recipient.node_epoch, connection) {
                Place::Here(thread) => hosted.out[thread].push(ShardEvent::Message {
                    connection,
                    message,
                    matched,
                }),
                Place::There(to) if !self.peers.has_room(to, QoS::AtMostOnce) => {
                    dropped.fetch_add(1, Ordering::Relaxed);
                }
                Place::There(to) => {
                    let letter = Letter::Passing {
                        connection,
                        retain: matched.retain(message.retain),
                        subscription_ids: matched.into_ids(),
                        message,
                    };
                    hosted.post(to, Posted::of(letter));
                }
            }
        }
    }

    /// Where a connection is.
    fn place(&self, node_epoch: session::NodeEpoch, connection: ConnectionId) -> Place {
        match NodeEpoch(node_epoch.0) {
            epoch if epoch == self.epoch => Place::Here(ids::Place::of(connection).thread),
            epoch => Place::There(epoch),
        }
    }

    /// Carries the effects of what was applied out, in their order.
    pub(super) fn carry_out(&self, hosted: &mut Hosted) {
        let mut loads = Vec::new();
        while let Some(lead) = &hosted.lead {
            let mut full = BTreeSet::new();
            let effects: Vec<_> = lead.group.with(|machine| {
                let durable = machine.durable_mut();
                std::iter::from_fn(|| self.next_effect(durable, &mut full))
                    .take(EFFECTS_AT_ONCE)
                    .collect()
            });
            if effects.is_empty() {
                break;
            }
            for (effect, room) in effects {
                self.effect(hosted, effect, room, &mut loads);
            }
            for to in full {
                self.filled(hosted, to);
            }
        }
        if !loads.is_empty() {
            self.load(hosted, loads);
        }
    }

    fn effect(
        &self,
        hosted: &mut Hosted,
        effect: DurableEffect,
        room: Option<DeliveryRoom>,
        loads: &mut Vec<MessageId>,
    ) {
        let Some(lead) = &mut hosted.lead else { return };
        match effect {
            DurableEffect::Deliver(delivery) => self.deliver(hosted, delivery, room),
            DurableEffect::DeliverShared(delivery) => {
                self.deliver_shared(hosted, delivery, room);
            }
            DurableEffect::Membership(row) => {
                hosted.memberships.handle_row(row.version, row.since, row);
            }
            DurableEffect::TakenOver {
                connection,
                node_epoch,
                client,
                epoch,
            } => {
                let (client, epoch) = (client.as_str(), epoch.0);
                tracing::debug!(
                    shard = self.shard,
                    client,
                    epoch,
                    ?connection,
                    ?node_epoch,
                    "taken over"
                );
                match self.place(node_epoch, connection) {
                    Place::Here(thread) => {
                        hosted.out[thread].push(ShardEvent::TakenOver { connection });
                    }
                    Place::There(to) => {
                        hosted.post(to, Posted::of(Letter::TakenOver { connection }));
                    }
                }
            }
            DurableEffect::Route(row) => lead.drain.handle_route(RouteDelta {
                filter: row.filter,
                wanted: row.wanted,
                version: RouteVersion(row.version),
            }),
            DurableEffect::WillDue(row) => lead.drain.handle_will(WillKey(row.id.0), row),
            DurableEffect::Load { message } => loads.push(message),
        }
    }

    fn deliver_shared(
        &self,
        hosted: &mut Hosted,
        mut delivery: GroupDelivery,
        room: Option<DeliveryRoom>,
    ) {
        let Some(lead) = &hosted.lead else { return };
        delivery.message = lead.times.out_of_log(delivery.message);
        let delivery = Box::new(delivery);
        match self.place(delivery.node_epoch, delivery.connection) {
            Place::Here(thread) => hosted.out[thread].push(ShardEvent::Shared(delivery)),
            Place::There(to) => {
                hosted.post(to, Posted::delivery(Letter::Shared(delivery), room));
            }
        }
    }

    fn deliver(&self, hosted: &mut Hosted, mut delivery: Delivery, room: Option<DeliveryRoom>) {
        let Some(lead) = &hosted.lead else { return };
        if let DeliveryStep::Publish { message, .. } = &mut delivery.step {
            *message = lead.times.out_of_log(Arc::clone(message));
        }
        let delivery = Box::new(delivery);
        match self.place(delivery.node_epoch, delivery.connection) {
            Place::Here(thread) => hosted.out[thread].push(ShardEvent::Delivery(delivery)),
            Place::There(to) => {
                hosted.post(to, Posted::delivery(Letter::Delivery(delivery), room));
            }
        }
    }

    /// Reads payloads back from the state file, off the workers that must not wait.
    pub(super) fn load(&self, hosted: &Hosted, ids: Vec<MessageId>) {
        let Some(lead) = &hosted.lead else { return };
        let (group, me, shard) = (lead.group.clone(), hosted.me.clone(), self.shard);
        let on_fatal = Arc::clone(&self.on_fatal);
        tokio::task::spawn_blocking(move || match read_messages(&group, &ids) {
            Ok(messages) => {
                let loaded = ids.into_iter().zip(messages).collect();
                if me.cast(ShardMessage::Loaded(loaded)).is_err() {
                    tracing::debug!(shard, "the shard's host has ended: the node is stopping");
                }
            }
            Err(Unread::NotYet) => {
                // Its end is the timer's: nobody waits for it.
                drop(me.send_after(LOAD_RETRY_DELAY, move || ShardMessage::LoadAgain(ids)));
            }
            Err(Unread::Never(why)) => on_fatal(Fatal::Unreadable { shard, why }),
        });
    }

    /// Does what the shard's outbox asks for.
    pub(super) fn drain(&self, hosted: &mut Hosted) {
        let now = self.boot();
        while let Some(lead) = &mut hosted.lead {
            let Some(effect) = lead.drain.poll_effect(now) else {
                return;
            };
            match effect {
                DrainEffect::Resume => {
                    hosted.memberships.handle_lead();
                    lead.group
                        .with(|machine| machine.durable_mut().handle_lead());
                    self.carry_out(hosted);
                    self.resumed(hosted);
                }
                DrainEffect::SendRoutes(deltas) => self.send_routes(deltas),
                DrainEffect::RoutesDone { version } => {
                    let version = version.0;
                    lead.handle_item(Wired::Duty(Command::RoutesDone { version }), now);
                }
                DrainEffect::Publish { key, row } => self.publish_will(hosted, key, row),
                DrainEffect::WillDone { key: WillKey(id) } => {
                    let done = Command::WillDone { id: WillId(id) };
                    lead.handle_item(Wired::Duty(done), now);
                }
            }
        }
    }

    /// Every row of the outbox has been handed in: those that are missing are done.
    fn resumed(&self, hosted: &mut Hosted) {
        let Some(lead) = &hosted.lead else { return };
        let last = lead
            .group
            .with(|machine| machine.durable().membership_version());
        hosted.memberships.handle_resumed(last);
        self.let_go(hosted);
    }

    /// Does what the outbox asks for in the home shards of groups.
    pub(super) fn drain_memberships(&self, hosted: &mut Hosted) {
        // A start hands rows out before every shard has its host; the next tick finds them.
        if !self.shards.are_started() {
            return;
        }
        let now = self.boot();
        let shards = NonZeroU32::new(u32::from(self.shards.len())).expect("this shard is one");
        while let Some(effect) = hosted.memberships.poll_effect(now) {
            match effect {
                MembershipEffect::Send(row) => {
                    let home = shard_of(&row.filter, shards);
                    let item = ShardItem::Member(Box::new(row.to_command(self.shard)));
                    self.shards.tell(home, ShardMessage::Batch(vec![item]));
                }
                MembershipEffect::Done { version } => {
                    let done = Command::MembershipDone { version };
                    let lead = hosted.lead.as_mut();
                    lead.into_iter()
                        .for_each(|lead| lead.handle_item(Wired::Duty(done.clone()), now));
                }
            }
        }
    }

    /// Has the routes forget what the shard wanted before it was recovered and does not want any more,
    /// once they have all that it wants now.
    pub(super) fn restate_routes(&self, lead: &mut Lead) {
        if lead.restating != Restating::Due {
            return;
        }
        let (version, pending) = lead.group.with(|machine| {
            let durable = machine.durable();
            (durable.route_version(), durable.counters().outbox_routes)
        });
        let incarnation = Rising::incarnation_of(version);
        if incarnation == Incarnation(0) {
            lead.restating = Restating::Done;
        } else if pending == 0 {
            lead.restating = Restating::UnderWay;
            let from = RouteVersion(Rising::new(incarnation, 0).get());
            let shard = self.shard;
            self.tell_routes(RoutesMessage::Restate { shard, from });
        }
    }

    fn send_routes(&self, deltas: Deltas) {
        let shard = self.shard;
        self.tell_routes(RoutesMessage::Shard { shard, deltas });
    }

    fn tell_routes(&self, message: RoutesMessage) {
        let routes = self.routes.get();
        let routes = routes.expect("the routes start before any shard");
        if routes.cast(message).is_err() {
            tracing::debug!(
                shard = self.shard,
                "the routes have ended: the node is stopping"
            );
        }
    }

    fn publish_will(&self, hosted: &mut Hosted, key: WillKey, mut will: WillRow) {
        debug_assert_eq!(key.0, will.id.0);
        let Some(lead) = &hosted.lead else { return };
        will.message = lead.times.out_of_log(will.message);
        // The first io thread publishes the wills of all shards and keeps the account of what
        // they owe.
        hosted.out[0].push(ShardEvent::WillDue {
            shard: self.shard,
            will: Box::new(will),
        });
    }
}

/// Reads queued messages from the state file; none where it was acknowledged or dropped meanwhile.
fn read_messages(
    group: &Group<ShardMachine>,
    ids: &[MessageId],
) -> Result<Vec<Option<Arc<Message>>>, Unread> {
    let rows = ids.iter().map(|id| cluster::message_row_key(*id));
    let rows = group.read_rows(rows).map_err(|error| match error {
        error if error.may_pass() => Unread::NotYet,
        error => Unread::Never(error.to_string()),
    })?;
    let decode = |(id, row): (&MessageId, Option<bytes::Bytes>)| {
        let message = row.map(|value| cluster::decode_message(*id, &value));
        let message = message.transpose();
        let message = message.map_err(|error| Unread::Never(error.to_string()))?;
        Ok(message.map(Arc::new))
    };
    ids.iter().zip(rows).map(decode).collect()
}
