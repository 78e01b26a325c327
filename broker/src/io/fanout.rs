//! From one PUBLISH to everybody it is for: the obligations of SEMANTICS.

use std::sync::{Arc, PoisonError};

use bridge::{Class, StreamId};
use cluster::exchange::Letter;
use cluster_core::NodeEpoch;
use mqtt::{QoS, Topic, VISITED_NODES_MAX};
use session::{
    Command, ConnectionId, Enqueue, Match, Message, Origin, Retain, Stamp, Subscription, WillRow,
};
use smallvec::SmallVec;

use super::outbound::thread_of;
use super::serve::Io;
use super::slots::ConnectionMessage;
use crate::ids::{Owed, shard_of};
use crate::peers::Posted;
use crate::routes::Destination;
use crate::shard::ShardItem;

/// What became of a fan-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FannedOut {
    /// So many obligations are open; each comes back as one settlement. `to_shards`: some of them
    /// are of shards.
    Owed { open: u32, to_shards: bool },
    /// Nobody wants it.
    NoMatch,
    /// The topic matches more of the subscription tree than may be visited; nothing was sent.
    TooCostly,
}

impl FannedOut {
    fn of_telemetry(open: u32) -> Self {
        Self::Owed {
            open,
            to_shards: false,
        }
    }
}

/// Destinations of one message.
#[derive(Default)]
struct Destinations {
    shards: SmallVec<[u16; 4]>,
    connections: SmallVec<[(ConnectionId, Subscription); 8]>,
    nodes: SmallVec<[NodeEpoch; 2]>,
}

impl Destinations {
    fn is_empty(&self) -> bool {
        self.shards.is_empty() && self.connections.is_empty() && self.nodes.is_empty()
    }
}

/// Where a message stands among those of its publisher.
pub(crate) struct Source {
    pub(crate) owed: Option<Owed>,
    /// The publishing connection, whom No Local may exclude; none for a will.
    pub(crate) connection: Option<ConnectionId>,
    pub(crate) stamp: Stamp,
    pub(crate) origin: Option<Box<Origin>>,
}

impl Io {
    /// Fans a PUBLISH of a connection out.
    pub(crate) fn publish(
        &self,
        connection: ConnectionId,
        client: &str,
        epoch: session::Epoch,
        inbound: session::Inbound,
        stamp: impl FnOnce(u64) -> Stamp,
    ) -> FannedOut {
        let owed = inbound
            .token
            .map(|token| Owed::Connection(connection, token));
        let publish = inbound.publish;
        let mut open = 0;
        let mut matched = false;
        if let Some((stream, device)) = self.shared.streams.match_topic(&publish.topic, client) {
            matched = true;
            self.count_qos_2(stream, publish.qos);
            let content_type = publish
                .properties
                .as_ref()
                .and_then(|p| p.content_type.as_deref());
            let message = bridge::Message {
                stream,
                device,
                payload: &publish.payload,
                received_ms: self.now().wall.0 as i64,
                connection_epoch: epoch.0,
                packet_seq: inbound.seq,
                content_type,
                retransmit: publish.dup,
            };
            open += self.submit_telemetry(connection, &message, owed);
        }
        let Ok(destinations) = self.matching(&publish.topic) else {
            // The telemetry obligation stays open: what was sent stays sent.
            return if open > 0 {
                FannedOut::of_telemetry(open)
            } else {
                FannedOut::TooCostly
            };
        };
        if destinations.is_empty() && !publish.retain {
            return if matched || open > 0 {
                FannedOut::of_telemetry(open)
            } else {
                FannedOut::NoMatch
            };
        }
        let stamp = stamp(inbound.seq);
        let publisher = stamp.publisher.clone();
        let message = Arc::new(Message::from_publish(publish, publisher, self.now().wall));
        let source = Source {
            owed,
            connection: Some(connection),
            stamp,
            origin: inbound.origin,
        };
        let of_shards = self.send(&message, source, &destinations);
        FannedOut::Owed {
            open: open + of_shards,
            to_shards: of_shards > 0,
        }
    }

    /// Counts QoS 2 where it is not meant: the log takes it at least once in any case.
    fn count_qos_2(&self, stream: StreamId, qos: QoS) {
        let rule = || self.shared.streams.rule(stream);
        if qos == QoS::ExactlyOnce && rule().is_some_and(|rule| rule.class != Class::Critical) {
            self.counters.stream_qos2_total.add(1);
        }
    }

    /// Puts a message on its way into the log; how many obligations that leaves open.
    fn submit_telemetry(
        &self,
        connection: ConnectionId,
        message: &bridge::Message<'_>,
        owed: Option<Owed>,
    ) -> u32 {
        let mut withheld = self.withheld.borrow_mut();
        let is_behind = !withheld.is_empty() && withheld.contains(&connection);
        if !is_behind && self.outbound.borrow_mut().telemetry(message, owed) {
            return u32::from(owed.is_some());
        }
        if owed.is_none() {
            self.counters.telemetry_qos0_dropped_total.add(1);
            return 0;
        }
        self.counters.telemetry_withheld_total.add(1);
        withheld.insert(connection);
        1
    }

    /// Fans a will out.
    pub(crate) fn publish_will(&self, shard: u16, will: &WillRow) -> u32 {
        let owed = Some(Owed::Will { shard, id: will.id });
        let mut open = 0;
        let (streams, topic) = (&self.shared.streams, &will.message.topic);
        if let Some((stream, device)) = streams.match_topic(topic, &will.client) {
            let message = bridge::Message {
                stream,
                device,
                payload: &will.message.payload,
                received_ms: will.message.received.0 as i64,
                connection_epoch: will.epoch.0,
                packet_seq: u64::MAX,
                content_type: None,
                retransmit: false,
            };
            self.outbound.borrow_mut().telemetry(&message, owed);
            open += 1;
        }
        let Ok(destinations) = self.matching(&will.message.topic) else {
            return open;
        };
        let origin = (will.message.qos != QoS::AtMostOnce).then(|| Box::new(will.origin()));
        let source = Source {
            owed,
            connection: None,
            stamp: will.stamp(),
            origin,
        };
        open + self.send(&will.message, source, &destinations)
    }

    fn matching(&self, topic: &Topic) -> Result<Destinations, mqtt::VisitLimit> {
        let mut destinations = Destinations::default();
        let routes = &mut *self.routes.borrow_mut();
        let result =
            routes.load().matches(
                topic,
                VISITED_NODES_MAX,
                |destination, wanted| match *destination {
                    Destination::Shard(shard) => {
                        if !destinations.shards.contains(&shard) {
                            destinations.shards.push(shard);
                        }
                    }
                    Destination::Connection(id) => destinations.connections.push((id, *wanted)),
                    Destination::Node(epoch) => destinations.nodes.push(epoch),
                },
            );
        if let Err(limit) = result {
            self.counters.match_limit_total.add(1);
            tracing::debug!(nodes_max = limit.nodes_max, "a topic matches too much");
            return Err(limit);
        }
        // What a client subscribes to of its own has no row.
        if let Some(shard) = self.shared.homes.owner(topic)
            && !destinations.shards.contains(&shard)
        {
            destinations.shards.push(shard);
        }
        Ok(destinations)
    }

    fn send(&self, message: &Arc<Message>, source: Source, to: &Destinations) -> u32 {
        let Source {
            owed,
            connection,
            stamp,
            origin,
        } = source;
        let owed = self.shared.defects.owed(owed);
        let is_repeat = !to.connections.is_empty() && self.is_repeat(origin.as_deref());
        let mut open =
            self.send_to_shards(message, (connection, owed), origin.as_deref(), &to.shards);
        if message.retain {
            let shard = self.shared.homes.retained(&message.topic);
            let retain = Retain::of(message, crate::defects::written(stamp));
            let is_withheld = owed.is_some() && self.is_withheld(connection, shard);
            if !is_withheld && !self.outbound.borrow_mut().retain(shard, owed, retain) {
                self.counters.shard_qos0_dropped_total.add(1);
            }
            open += u32::from(owed.is_some());
        }
        open += self.send_to_nodes(message, (connection, owed), origin.as_deref(), &to.nodes);
        if !is_repeat {
            self.send_to_connections(message, connection, &to.connections);
        }
        open
    }

    /// Whether clean sessions of this node have had the message already: a QoS 2 PUBLISH that was
    /// sent again, or a will published again from the outbox.
    fn is_repeat(&self, origin: Option<&Origin>) -> bool {
        let Some(origin) = origin else { return false };
        let shard = usize::from(shard_of(&origin.client, self.shared.shard_count));
        let mut origins = self.shared.origins[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        !origins.admit(origin, self.now().wall)
    }

    fn send_to_shards(
        &self,
        message: &Arc<Message>,
        (connection, owed): (Option<ConnectionId>, Option<Owed>),
        origin: Option<&Origin>,
        shards: &[u16],
    ) -> u32 {
        let mut outbound = self.outbound.borrow_mut();
        let mut open = 0;
        for &shard in shards {
            if message.qos == QoS::AtMostOnce {
                if !outbound.push_qos0_to_shard(shard, message) {
                    self.counters.shard_qos0_dropped_total.add(1);
                }
                continue;
            }
            open += u32::from(owed.is_some());
            if self.is_withheld(connection, shard) {
                continue;
            }
            let enqueue = Enqueue {
                message: Arc::clone(message),
                origin: origin.cloned().map(Box::new),
            };
            outbound.oblige(shard, owed, Command::Enqueue(enqueue), message.bytes());
        }
        open
    }

    /// Hands a message to the nodes with clean sessions that want it; their receipts settle.
    fn send_to_nodes(
        &self,
        message: &Arc<Message>,
        (connection, owed): (Option<ConnectionId>, Option<Owed>),
        origin: Option<&Origin>,
        nodes: &[NodeEpoch],
    ) -> u32 {
        let mut open = 0;
        for &node in nodes {
            let is_full = !self.shared.peers.has_room(node, message.qos);
            if message.qos == QoS::AtMostOnce && is_full {
                self.counters.node_qos0_dropped_total.add(1);
                continue;
            }
            open += u32::from(owed.is_some());
            if message.qos != QoS::AtMostOnce && self.is_behind(connection, is_full) {
                continue;
            }
            let letter = Letter::Message {
                message: Arc::clone(message),
                origin: origin.cloned().map(Box::new),
            };
            let letter = Arc::new(letter);
            self.outbound.borrow_mut().push_to_node(
                node,
                Posted {
                    letter,
                    owed,
                    owner: connection,
                    room: None,
                },
            );
        }
        open
    }

    /// Whether a message of QoS > 0 is not put on its way to a shard that is full. Then nothing
    /// later of its connection is, to any shard: it would overtake that one. The obligation stays
    /// open; the connection ends by its settle deadline, and its client sends all of it again. Wills
    /// are bounded in their outbox.
    fn is_withheld(&self, connection: Option<ConnectionId>, shard: u16) -> bool {
        self.is_behind(connection, self.shared.shards.is_full(shard))
    }

    /// The same of a shard or node that is full, or not.
    fn is_behind(&self, connection: Option<ConnectionId>, is_full: bool) -> bool {
        let Some(connection) = connection else {
            return false;
        };
        let mut withheld = self.withheld_from_shards.borrow_mut();
        let is_behind = !withheld.is_empty() && withheld.contains(&connection);
        if !is_behind && !is_full {
            return false;
        }
        withheld.insert(connection);
        self.counters.shard_withheld_total.add(1);
        true
    }

    /// Hands a message to clean sessions: taken by their mailbox, or dropped by its policy, both
    /// settle at once.
    fn send_to_connections(
        &self,
        message: &Arc<Message>,
        publisher: Option<ConnectionId>,
        to: &[(ConnectionId, Subscription)],
    ) {
        let mut sorted: SmallVec<[(ConnectionId, Subscription); 8]> = SmallVec::from_slice(to);
        sorted.sort_by_key(|(id, _)| *id);
        let mut batch = Vec::new();
        let mut rest = &sorted[..];
        while let Some(&(id, _)) = rest.first() {
            let (own, others) = rest.split_at(rest.partition_point(|(other, _)| *other == id));
            rest = others;
            let mut matched = Match::default();
            for (_, subscription) in own {
                matched.add(subscription, publisher == Some(id));
            }
            let thread = thread_of(id);
            if thread == self.thread {
                if !matched.is_empty() {
                    self.hand_over(id, message, matched);
                }
                continue;
            }
            batch.push((id, matched));
            if rest
                .first()
                .is_none_or(|(next, _)| thread_of(*next) != thread)
            {
                let targets = std::mem::take(&mut batch);
                if !self
                    .outbound
                    .borrow_mut()
                    .push_to_thread(thread, message, targets)
                {
                    self.counters.thread_dropped_total.add(1);
                }
            }
        }
    }

    /// Puts a message into the mailbox of a connection of this thread.
    pub(crate) fn hand_over(&self, id: ConnectionId, message: &Arc<Message>, matched: Match) {
        let slots = self.slots.borrow();
        let Some(mailbox) = slots.get(id) else { return };
        let bytes = u32::try_from(message.bytes()).unwrap_or(u32::MAX);
        let message = ConnectionMessage::Message(Arc::clone(message), matched);
        if mailbox
            .push(runtime::Priority::Data, bytes, message)
            .is_err()
        {
            self.counters.mailbox_dropped_total.add(1);
        }
    }

    /// Settles one obligation of a connection or a will of this thread.
    pub(crate) fn settle(&self, owed: Owed) {
        match owed {
            Owed::Connection(id, token) => self.tell(id, ConnectionMessage::Settled(token)),
            Owed::Will { shard, id } => self.settle_will(shard, id),
        }
    }

    /// Counts a will's obligation as settled; the last one ends its outbox row.
    fn settle_will(&self, shard: u16, id: session::WillId) {
        let mut wills = self.wills.borrow_mut();
        let Some(open) = wills.get_mut(&(shard, id)) else {
            return;
        };
        *open -= 1;
        if *open == 0 {
            wills.remove(&(shard, id));
            self.will_done(shard, id);
        }
    }

    /// Publishes a due will and remembers what it owes.
    pub(crate) fn will_due(&self, shard: u16, will: &WillRow) {
        let open = self.publish_will(shard, will);
        if open == 0 {
            self.will_done(shard, will.id);
        } else {
            self.wills.borrow_mut().insert((shard, will.id), open);
        }
    }

    fn will_done(&self, shard: u16, id: session::WillId) {
        let item = ShardItem::WillPublished(id);
        self.outbound.borrow_mut().push_to_shard(shard, item);
        self.wake_flush();
    }

    /// Puts a control message into a connection's mailbox; one whose connection has ended is
    /// nobody's.
    pub(crate) fn tell(&self, id: ConnectionId, message: ConnectionMessage) {
        let slots = self.slots.borrow();
        let Some(mailbox) = slots.get(id) else { return };
        if mailbox
            .push(runtime::Priority::Control, 0, message)
            .is_err()
        {
            // The limit is far above what a connection can be owed: a bug of ours. What it misses
            // stays unsettled, and its settle deadline closes it.
            tracing::error!("a connection's control queue is full");
        }
    }
}
