//! The connections of a node: packets in, effects out, fan-out and answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mqtt::{ClientId, Filter, Packet, PacketId, Publish, QoS, ReasonCode, Trie};
use session::{
    Admitted, Answer, Command, Config, ConnectionId, Delivery, DeliveryStep, Effect, Enqueue,
    Epoch, GroupDelivery, GroupSeq, Identity, Inbound, Live, Message, Opened, Origin, Retain,
    Stamp, Subscription, Token, WillRow,
};
use tidewire_cluster_core::{
    Lease, NodeEpoch, RouteVersion, ShardId, Sighting, Source, Visible, WillKey,
};

use super::ctx::Ctx;
use super::defect::Defect;
use super::owned;
use super::shard::{Item, Reply};

/// What a node has for its connections.
pub(crate) struct Front {
    pub(crate) config: Arc<Config>,
    /// This run's epoch, once begun.
    pub(crate) epoch: Option<NodeEpoch>,
    pub(crate) lease: Option<Lease>,
    pub(crate) trie: Trie<Source, ()>,
    pub(crate) visible: Visible,
    pub(crate) conns: BTreeMap<ConnectionId, Conn>,
    pub(crate) kicks: VecDeque<ConnectionId>,
    pub(crate) obligations: BTreeMap<u64, (usize, Settles)>,
    pub(crate) obligation_ids: u64,
    /// SUBACKs that wait for a version of a source's routes, or for groups.
    pub(crate) subacks: Vec<Suback>,
    /// Sessions that are opened and wait for the lease.
    pub(crate) opened: Vec<(ConnectionId, Opened)>,
}

pub(crate) struct Suback {
    pub(crate) source: Source,
    pub(crate) version: u64,
    pub(crate) id: ConnectionId,
    pub(crate) token: Token,
    /// None of a clean session, whose router is the node.
    pub(crate) answer: Option<Answer>,
    /// What asked for it.
    pub(crate) command: Option<Command>,
}

impl Conn {
    /// PUBLISH packets that are on their way to the client.
    fn publishes(&self) -> usize {
        let is_publish = |packet: &&Packet| matches!(packet, Packet::Publish(_));
        self.down.iter().filter(is_publish).count()
    }
}

/// What a connection sends that does not know that it has.
fn sent_again(message: &Message, qos: QoS, seq: u64) -> Packet {
    Packet::Publish(Publish {
        dup: true,
        qos,
        retain: false,
        topic: message.topic.clone(),
        packet_id: PacketId::new((1 + seq % 32_767) as u16),
        payload: message.payload.clone(),
        topic_alias: None,
        subscription_ids: mqtt::SubscriptionIds::new(),
        properties: None,
    })
}

impl Front {
    pub(crate) fn new(trie: Trie<Source, ()>) -> Self {
        Self {
            config: Arc::new(Config::default()),
            epoch: None,
            lease: None,
            trie,
            visible: Visible::default(),
            conns: BTreeMap::new(),
            kicks: VecDeque::new(),
            obligations: BTreeMap::new(),
            obligation_ids: 0,
            subacks: Vec::new(),
            opened: Vec::new(),
        }
    }

    pub(crate) fn is_open(&self, id: ConnectionId) -> bool {
        let conn = self.conns.get(&id);
        conn.is_some_and(|conn| !conn.is_closed && !conn.has_ended)
    }

    /// Forgets connections of which nothing is left to send.
    pub(crate) fn sweep(&mut self) {
        self.conns
            .retain(|_, conn| !conn.is_closed || !(conn.is_cut || conn.down.is_empty()));
    }

    pub(crate) fn seen(&self, source: Source) -> RouteVersion {
        self.visible.version(source)
    }
}

pub(crate) struct Conn {
    pub(crate) live: Live,
    /// From the client.
    pub(crate) up: VecDeque<Packet>,
    /// To the client.
    pub(crate) down: VecDeque<Packet>,
    /// Whether the client went away, and no byte goes down any longer.
    pub(crate) is_cut: bool,
    /// Whether the server knows that the socket has ended.
    pub(crate) has_ended: bool,
    pub(crate) is_closed: bool,
    /// How far the shards were known when the connection was accepted; if no later ownership may be
    /// replaced.
    seen: Option<Arc<Sighting>>,
    /// For the checkers: messages of groups that were handed to it.
    shared: Vec<GroupSeq>,
    /// The same of its session: one above the last one.
    handed_end: u64,
}

/// Retained messages that a connection asked for.
#[derive(Debug)]
pub(crate) struct AskedRetained {
    pub(crate) id: ConnectionId,
    pub(crate) token: Token,
    pub(crate) filters: Vec<Filter>,
    pub(crate) limit: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Settles {
    Publish(ConnectionId, Token),
    Will(usize, WillKey),
}

/// A message's way to those who want it.
pub(crate) enum Destination {
    /// What it asks of a shard.
    Shard(usize, Command),
    /// A node's clean sessions.
    Node(NodeEpoch, Arc<Message>, Option<Origin>),
}

/// A message for a node's clean sessions.
#[derive(Clone, Debug)]
pub(crate) struct ForClean {
    pub(crate) message: Arc<Message>,
    pub(crate) origin: Option<Origin>,
    /// The obligation that its receipt discharges.
    pub(crate) owed: u64,
}

/// A node that serves connections.
pub(crate) trait Serve {
    fn front(&self) -> &Front;
    fn front_mut(&mut self) -> &mut Front;
    /// Number of shards.
    fn shards(&self) -> usize;
    /// Asks something of a shard.
    fn push(&mut self, at: usize, item: Item, owner: Option<ConnectionId>);
    /// Hands a message to a node's clean sessions; the receipt settles the obligation.
    fn push_node(&mut self, to: NodeEpoch, message: ForClean, owner: Option<ConnectionId>);
    /// The ownership of a client's session, as this node knows it.
    fn known_epoch(&self, at: usize, client: &ClientId) -> Option<Epoch>;
    /// How far it knows the shards.
    fn sighting(&mut self, ctx: &mut Ctx) -> Arc<Sighting>;
    /// Answers with the retained messages, at once or later.
    fn ask_retained(&mut self, asked: AskedRetained, ctx: &mut Ctx);
    /// Puts subscriptions of a clean session into the router, whose answer comes later.
    fn subscribe(
        &mut self,
        id: ConnectionId,
        token: Token,
        subscriptions: Vec<(Filter, Subscription)>,
        ctx: &mut Ctx,
    );
    /// A clean session's connection is gone.
    fn forget(&mut self, id: ConnectionId);
    /// Every obligation of a will is settled.
    fn will_published(&mut self, at: usize, key: WillKey);
    /// A group's home shard has applied a membership of this shard's.
    fn seat(&mut self, home: usize, from: usize, version: u64, route: u64, ctx: &mut Ctx);
    /// Whether the groups of a SUBACK have the member, as far as that is this node's to know.
    fn is_seated(&self, at: usize, suback: &Suback) -> bool;

    fn accept(&mut self, id: ConnectionId, ctx: &mut Ctx) {
        let epoch = self.front().epoch;
        let epoch = epoch.expect("nobody connects before the epoch");
        ctx.epochs.insert(id, epoch);
        let epoch = session::NodeEpoch(epoch.0);
        let conn = Conn {
            live: Live::new(&self.front().config, epoch, id, ctx.now()),
            up: VecDeque::new(),
            down: VecDeque::new(),
            is_cut: false,
            has_ended: false,
            is_closed: false,
            seen: ctx.looks_back.then(|| self.sighting(ctx)),
            shared: Vec::new(),
            handed_end: 0,
        };
        self.front_mut().conns.insert(id, conn);
    }

    /// Takes up to `count` packets of a client.
    fn move_up(&mut self, id: ConnectionId, count: usize, ctx: &mut Ctx) {
        for _ in 0..count {
            let Some(conn) = self.front_mut().conns.get_mut(&id) else {
                return;
            };
            let Some(packet) = conn.up.pop_front() else {
                break;
            };
            conn.live.handle_packet(packet, ctx.now());
            self.drain_live(id, ctx);
        }
    }

    /// The server notices that a client is gone.
    fn notice(&mut self, id: ConnectionId, ctx: &mut Ctx) {
        if let Some(conn) = self.front_mut().conns.get_mut(&id) {
            conn.has_ended = true;
            conn.live.handle_closed(ctx.now());
            self.drain_live(id, ctx);
        }
    }

    /// For the checkers: no node promises anything once its epoch has ended.
    fn check_promise(&self, packet: &Packet, ctx: &mut Ctx) {
        let is_promise = match packet {
            Packet::ConnAck(connack) => connack.reason == ReasonCode::Success,
            Packet::SubAck(_) | Packet::PubAck(_) => true,
            _ => false,
        };
        let epoch = self.front().epoch;
        if is_promise && epoch.is_some_and(|epoch| ctx.ended.contains_key(&epoch)) {
            ctx.violations
                .push(format!("a promise of an ended epoch: {packet:?}"));
        }
    }

    /// Tells the next old owner that it lost its session; false if there is none.
    fn kick(&mut self, ctx: &mut Ctx) -> bool {
        let Some(id) = self.front_mut().kicks.pop_front() else {
            return false;
        };
        if let Some(conn) = self.front_mut().conns.get_mut(&id) {
            conn.live
                .handle_kick(ReasonCode::SessionTakenOver, ctx.now());
            self.drain_live(id, ctx);
        }
        true
    }

    fn time_out(&mut self, ctx: &mut Ctx) {
        let now = ctx.now();
        let due = self.front().conns.iter().filter(|(_, conn)| {
            let deadline = conn.live.deadline();
            deadline.is_some_and(|at| at <= now.mono)
        });
        let due: Vec<ConnectionId> = due.map(|(id, _)| *id).collect();
        for id in due {
            self.with_live(id, ctx, |live, now| live.handle_timeout(now));
        }
    }

    fn deliver(&mut self, delivery: Delivery, ctx: &mut Ctx) {
        let (id, seq) = (delivery.connection, delivery.seq.0);
        if let Some(conn) = self.front_mut().conns.get_mut(&id) {
            let is_again = seq < conn.handed_end;
            conn.handed_end = conn.handed_end.max(seq + 1);
            if let (DeliveryStep::Publish { message, qos, .. }, true) = (&delivery.step, is_again)
                && ctx.defect == Defect::LiveResends
            {
                conn.down.push_back(sent_again(message, *qos, seq));
            }
        }
        self.with_live(id, ctx, |live, now| live.handle_delivery(delivery, now));
    }

    fn deliver_shared(&mut self, delivery: GroupDelivery, ctx: &mut Ctx) {
        let id = delivery.connection;
        if ctx.defect == Defect::SharedAckedAtOnce {
            self.shared_acked(id, delivery.group_seq.clone());
        }
        let mut before = None;
        if let Some(conn) = self.front_mut().conns.get_mut(&id) {
            if conn.shared.contains(&delivery.group_seq) {
                before = Some(conn.publishes());
            } else {
                conn.shared.push(delivery.group_seq.clone());
            }
        }
        self.with_live(id, ctx, |live, now| live.handle_shared(delivery, now));
        let conn = self.front().conns.get(&id);
        let after = conn.map(Conn::publishes);
        if before.is_some() && before != after {
            let what = format!("connection {id}: a message of a group is sent again");
            ctx.violations.push(what);
        }
    }

    fn shared_acked(&mut self, id: ConnectionId, acked: GroupSeq) {
        let at = self.shard_of(&acked.filter);
        let command = Command::GroupAck(vec![acked]);
        let reply = Reply::Nobody;
        self.push(at, Item { command, reply }, Some(id));
    }

    /// Lets go the SUBACKs whose rows every node sees, and whose groups have the member; only with
    /// the lease.
    fn release_subacks(&mut self, ctx: &mut Ctx) {
        if !self.may_promise(ctx) && ctx.defect != Defect::SubackWithoutLease {
            return;
        }
        let shards = (0..self.shards()).map(|at| Source::Shard(ShardId(at as u16)));
        let own = self.front().epoch.map(Source::Node);
        for source in shards.chain(own) {
            let front = self.front_mut();
            let seen = match ctx.defect {
                // What this node sees alone.
                Defect::SubackBeforeOthers => u64::MAX,
                _ => front.seen(source).0,
            };
            let subacks = std::mem::take(&mut front.subacks);
            let (of_source, others) = subacks.into_iter().partition(|s| s.source == source);
            front.subacks = others;
            let of_source: Vec<Suback> = of_source;
            for suback in of_source {
                let is_early = ctx.defect == Defect::SubackBeforeMembership;
                let is_seated = match source {
                    Source::Shard(ShardId(at)) => {
                        is_early || self.is_seated(usize::from(at), &suback)
                    }
                    Source::Node(_) => true,
                };
                if suback.version <= seen && is_seated {
                    self.suback(suback, ctx);
                } else if self.front().is_open(suback.id) {
                    self.front_mut().subacks.push(suback);
                }
            }
        }
    }

    fn suback(&mut self, suback: Suback, ctx: &mut Ctx) {
        let Suback {
            id, token, answer, ..
        } = suback;
        self.with_live(id, ctx, |live, now| match answer {
            Some(answer) => live.handle_answer(token, answer, now),
            None => live.handle_settled(token, ReasonCode::Success, now),
        });
    }

    /// Whether the node holds its lease, so that it may promise anything.
    fn may_promise(&self, ctx: &Ctx) -> bool {
        let lease = self.front().lease.as_ref();
        lease.is_some_and(|lease| lease.is_held(ctx.boot()))
    }

    /// Fans a will out with its stamp. It belongs to no connection: the shard's leader owes it.
    fn publish_will(&mut self, at: usize, key: WillKey, row: &WillRow, ctx: &Ctx) {
        let settles = Settles::Will(at, key);
        let origin = row.origin();
        let items = self.destinations(&row.message, Some(&origin), row.stamp(), ctx);
        self.oblige(items, None, settles);
    }

    fn with_live(
        &mut self,
        id: ConnectionId,
        ctx: &mut Ctx,
        tell: impl FnOnce(&mut Live, session::Now),
    ) {
        if let Some(conn) = self.front_mut().conns.get_mut(&id) {
            tell(&mut conn.live, ctx.now());
            self.drain_live(id, ctx);
        }
    }

    fn drain_live(&mut self, id: ConnectionId, ctx: &mut Ctx) {
        loop {
            let Some(conn) = self.front_mut().conns.get_mut(&id) else {
                return;
            };
            let Some(effect) = conn.live.poll_effect() else {
                return;
            };
            match effect {
                Effect::Send(packet) => {
                    conn.down.push_back(packet.clone());
                    self.check_promise(&packet, ctx);
                }
                Effect::Ack(ack) => {
                    conn.down.push_back(ack.to_packet());
                    self.check_promise(&ack.to_packet(), ctx);
                }
                Effect::Deliver(outgoing) => {
                    conn.down.push_back(Packet::Publish(outgoing.to_publish()));
                }
                Effect::Authenticate(credentials) => {
                    let client = credentials.client.expect("every client has a name");
                    let admitted = Admitted {
                        identity: Identity(client.text().clone()),
                        client,
                    };
                    conn.live.handle_admitted(admitted, ctx.now());
                }
                Effect::Open(mut open) => {
                    let at = self.shard_of(&open.client);
                    let epoch = self.known_epoch(at, &open.client);
                    if !self.may_replace(id, at, epoch) {
                        let refused = Opened::No(ReasonCode::ServerUnavailable);
                        let conn = self.front_mut().conns.get_mut(&id);
                        let conn = conn.expect("looked at just before");
                        conn.live.handle_opened(refused, ctx.now());
                        continue;
                    }
                    open.expected_epoch = epoch;
                    self.open(at, id, open);
                }
                Effect::Propose { token, command } => {
                    self.propose(id, token, *command, ctx);
                }
                Effect::Confirmed => unreachable!("nobody doubts here"),
                Effect::PersistentRule(_) => unreachable!("no rule is set"),
                Effect::SharedAcked(acked) => self.shared_acked(id, *acked),
                Effect::Acked(seq) => {
                    let acks = conn.live.acks(vec![seq]).expect("connected");
                    let at = self.shard_of(&acks.client);
                    let command = Command::Ack(vec![acks]);
                    let reply = Reply::Nobody;
                    self.push(at, Item { command, reply }, Some(id));
                }
                Effect::Publish(inbound) => self.publish(id, *inbound, ctx),
                Effect::Retained {
                    token,
                    filters,
                    limit,
                } => {
                    let asked = AskedRetained {
                        id,
                        token,
                        filters,
                        limit,
                    };
                    self.ask_retained(asked, ctx);
                }
                Effect::Subscribe {
                    token,
                    subscriptions,
                } => self.subscribe(id, token, subscriptions, ctx),
                Effect::Unsubscribe { .. } => panic!("no client unsubscribes"),
                Effect::Close(closed) => {
                    conn.is_closed = true;
                    ctx.closed.insert(id, ctx.boot().0);
                    self.forget(id);
                    if let Some(close) = closed.command {
                        let at = self.shard_of(&close.client);
                        let command = Command::Close(close);
                        let reply = Reply::Nobody;
                        self.push(at, Item { command, reply }, None);
                    }
                    return;
                }
            }
        }
    }

    /// Asks for a session. It outlives its connection: only its answer tells what to close.
    fn open(&mut self, at: usize, id: ConnectionId, open: Box<session::Open>) {
        let command = Command::Open(open);
        let reply = Reply::Opened(id);
        self.push(at, Item { command, reply }, None);
    }

    fn propose(&mut self, id: ConnectionId, token: Token, command: Command, ctx: &Ctx) {
        let client = match &command {
            Command::Subs(subs) => &subs.client,
            Command::Q2In { client, .. }
            | Command::Q2Out { client, .. }
            | Command::Rec { client, .. } => client,
            Command::Replay(replay) => &replay.client,
            other => panic!("no request of these clients: {other:?}"),
        };
        let at = self.shard_of(client);
        let early = match (ctx.defect, &command) {
            (Defect::PubrelBeforeRec, Command::Rec { .. }) => Some(Answer::Rec { found: true }),
            (Defect::PubcompBeforeQ2Out, Command::Q2Out { .. }) => {
                Some(Answer::Q2Out { found: true })
            }
            _ => None,
        };
        let reply = Reply::Answer(id, token);
        self.push(at, Item { command, reply }, Some(id));
        if let (Some(answer), Some(conn)) = (early, self.front_mut().conns.get_mut(&id)) {
            conn.live.handle_answer(token, answer, ctx.now());
        }
    }

    fn publish(&mut self, id: ConnectionId, inbound: Inbound, ctx: &Ctx) {
        let live = &self.front().conns[&id].live;
        let publisher = live.client().cloned();
        let stamp = Stamp {
            publisher: publisher.clone(),
            epoch: live.epoch(),
            seq: inbound.seq,
        };
        let message = Message::from_publish(inbound.publish, publisher, ctx.now().wall);
        let token = inbound.token.expect("nobody publishes with QoS 0");
        let origin = inbound.origin.as_deref();
        let items = self.destinations(&Arc::new(message), origin, stamp, ctx);
        self.oblige(items, Some(id), Settles::Publish(id, token));
    }

    /// What a message asks of which shard.
    fn destinations(
        &self,
        message: &Arc<Message>,
        origin: Option<&Origin>,
        mut stamp: Stamp,
        ctx: &Ctx,
    ) -> Vec<Destination> {
        let (mut shards, mut nodes) = (BTreeSet::new(), BTreeSet::new());
        let trie = &self.front().trie;
        let found = trie.matches(&message.topic, usize::MAX, |source, ()| match source {
            Source::Shard(ShardId(at)) => {
                shards.insert(usize::from(*at));
            }
            Source::Node(epoch) => {
                nodes.insert(*epoch);
            }
        });
        found.expect("no limit was set");
        let owner = ctx.templates.owner(&message.topic);
        shards.extend(
            owner
                .filter(|_| ctx.defect != Defect::OwnerNotComputed)
                .map(|owner| self.shard_of(owner)),
        );
        let mut items = Vec::new();
        if message.retain {
            if ctx.defect == Defect::RetainUnstamped {
                stamp.publisher = None;
            }
            let retain = Command::Retain(Retain::of(message, stamp));
            let at = match ctx.defect {
                Defect::OwnedRetainedElsewhere => self.shard_of(&message.topic),
                _ => owned::home(&ctx.templates, &message.topic, self.shards()),
            };
            items.push(Destination::Shard(at, retain));
        }
        items.extend(shards.into_iter().map(|at| {
            let (message, origin) = (Arc::clone(message), origin.cloned().map(Box::new));
            Destination::Shard(at, Command::Enqueue(Enqueue { message, origin }))
        }));
        items.extend(
            nodes
                .into_iter()
                .map(|epoch| Destination::Node(epoch, Arc::clone(message), origin.cloned())),
        );
        items
    }

    /// Asks for all that is owed. What nobody wants is settled with the next [`Self::settle`].
    fn oblige(&mut self, items: Vec<Destination>, owner: Option<ConnectionId>, settles: Settles) {
        let front = self.front_mut();
        front.obligation_ids += 1;
        let id = front.obligation_ids;
        front.obligations.insert(id, (items.len(), settles));
        for item in items {
            match item {
                Destination::Shard(at, command) => {
                    let reply = Reply::Obligation(id);
                    self.push(at, Item { command, reply }, owner);
                }
                Destination::Node(to, message, origin) => {
                    let message = ForClean {
                        message,
                        origin,
                        owed: id,
                    };
                    self.push_node(to, message, owner);
                }
            }
        }
    }

    /// One thing that an obligation asked for is done.
    fn discharge(&mut self, id: u64) {
        let owed = self.front_mut().obligations.get_mut(&id);
        owed.expect("not settled yet").0 -= 1;
    }

    /// Settles whatever nothing is owed for any longer.
    fn settle(&mut self, ctx: &mut Ctx) {
        if !self.may_promise(ctx) && ctx.defect != Defect::AckWithoutLease {
            return;
        }
        let obligations = self.front().obligations.iter();
        let settled = obligations.filter(|(_, (left, _))| *left == 0);
        let settled: Vec<u64> = settled.map(|(id, _)| *id).collect();
        for id in settled {
            let settled = self.front_mut().obligations.remove(&id);
            match settled.expect("found just before").1 {
                Settles::Publish(id, token) => self.with_live(id, ctx, |live, now| {
                    live.handle_settled(token, ReasonCode::Success, now);
                }),
                Settles::Will(at, key) => self.will_published(at, key),
            }
        }
    }

    /// CONNACKs that waited for the lease.
    fn release_opened(&mut self, ctx: &mut Ctx) {
        if self.may_promise(ctx) {
            for (id, opened) in std::mem::take(&mut self.front_mut().opened) {
                self.with_live(id, ctx, |live, now| live.handle_opened(opened, now));
            }
        }
    }

    fn confirmed(&mut self, at: usize, item: Item, answer: Answer, ctx: &mut Ctx) {
        match item.reply {
            Reply::Nobody => {}
            Reply::Obligation(id) => {
                self.discharge(id);
                self.settle(ctx);
            }
            Reply::Member(from, version) => {
                let Answer::Membership { version: route } = answer else {
                    panic!("a membership is not answered with {answer:?}");
                };
                self.seat(at, from, version, route, ctx);
            }
            Reply::Opened(id) => self.opened(at, id, item.command, &answer, ctx),
            Reply::Answer(id, token) => {
                let version = match &answer {
                    Answer::Subscribed(all) => all.iter().map(|one| one.version).max(),
                    _ => None,
                };
                match version {
                    Some(version) if ctx.defect != Defect::SubackBeforeRoutes => {
                        self.front_mut().subacks.push(Suback {
                            source: Source::Shard(ShardId(at as u16)),
                            version,
                            id,
                            token,
                            answer: Some(answer),
                            command: Some(item.command),
                        });
                        self.release_subacks(ctx);
                    }
                    _ => self.with_live(id, ctx, |live, now| {
                        live.handle_answer(token, answer, now);
                    }),
                }
            }
        }
    }

    fn opened(
        &mut self,
        at: usize,
        id: ConnectionId,
        command: Command,
        answer: &Answer,
        ctx: &mut Ctx,
    ) {
        let opened = match *answer {
            Answer::Opened {
                epoch,
                incarnation,
                session_present,
            } => Opened::Yes {
                epoch,
                incarnation,
                session_present,
            },
            Answer::WrongEpoch { current }
                if self.front().is_open(id) && self.may_replace(id, at, current) =>
            {
                let Command::Open(mut open) = command else {
                    panic!("an `Open` asked");
                };
                open.expected_epoch = current;
                return self.open(at, id, open);
            }
            Answer::Refused(reason) => Opened::No(reason),
            _ => Opened::No(ReasonCode::ServerUnavailable),
        };
        self.front_mut().opened.push((id, opened));
        self.release_opened(ctx);
    }

    /// Whether a connection may replace this ownership (`docs/adr/009`).
    fn may_replace(&self, id: ConnectionId, at: usize, epoch: Option<Epoch>) -> bool {
        let conn = self.front().conns.get(&id);
        let seen = conn.and_then(|conn| conn.seen.as_ref());
        let shard = ShardId(at as u16);
        seen.is_none_or(|seen| seen.may_replace(shard, epoch.map(|epoch| epoch.0)))
    }

    fn shard_of(&self, name: &str) -> usize {
        shard_of(name, self.shards())
    }
}

pub(crate) fn shard_of(name: &str, shards: usize) -> usize {
    let sum: usize = name.bytes().map(usize::from).sum();
    sum % shards
}
