//! The connections of a node: packets in, effects out, fan-out and answers.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use mqtt::{Packet, ReasonCode};
use rand::Rng;
use session::{
    Admitted, Answer, Command, ConnectionId, Delivery, Effect, Enqueue, Epoch, GroupDelivery,
    GroupSeq, Identity, Inbound, Live, Message, Opened, Origin, Retain, Stamp, Token, WillRow,
};
use tidewire_cluster_core::{ShardId, Source, WillKey};

use super::ctx::Ctx;
use super::defect::Defect;
use super::machine::{INDEXES_PER_ENTRY, Outcome};
use super::node::Node;
use super::shard::{Item, Reply};

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
    /// The highest epoch that each shard could have given out when the connection was accepted; if
    /// no later one may be replaced.
    seen: Option<Vec<Epoch>>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Settles {
    Publish(ConnectionId, Token),
    Will(usize, WillKey),
}

impl Node {
    pub(crate) fn accept(&mut self, id: ConnectionId, ctx: &mut Ctx) {
        let epoch = self.epoch.expect("nobody connects before the epoch");
        let epoch = session::NodeEpoch(epoch.0);
        let conn = Conn {
            live: Live::new(&self.config, epoch, id, ctx.now()),
            up: VecDeque::new(),
            down: VecDeque::new(),
            is_cut: false,
            has_ended: false,
            is_closed: false,
            seen: ctx.looks_back.then(|| self.epochs_given(ctx)),
        };
        self.conns.insert(id, conn);
    }

    /// As the replicas of the connection's node know it, which may be behind.
    fn epochs_given(&self, ctx: &mut Ctx) -> Vec<Epoch> {
        let shards = self.shards.iter();
        let seen = shards.map(|shard| {
            let behind = if ctx.fails(2) {
                ctx.rng.random_range(0..20)
            } else {
                0
            };
            Epoch(shard.applied.saturating_sub(behind) as u64 * INDEXES_PER_ENTRY)
        });
        seen.collect()
    }

    pub(crate) fn is_open(&self, id: ConnectionId) -> bool {
        let conn = self.conns.get(&id);
        conn.is_some_and(|conn| !conn.is_closed && !conn.has_ended)
    }

    /// Takes up to `count` packets of a client.
    pub(crate) fn move_up(&mut self, id: ConnectionId, count: usize, ctx: &mut Ctx) {
        for _ in 0..count {
            let Some(conn) = self.conns.get_mut(&id) else {
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
    pub(crate) fn notice(&mut self, id: ConnectionId, ctx: &mut Ctx) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.has_ended = true;
            conn.live.handle_closed(ctx.now());
            self.drain_live(id, ctx);
        }
    }

    /// Tells the next old owner that it lost its session; false if there is none.
    pub(crate) fn kick(&mut self, ctx: &mut Ctx) -> bool {
        let Some(id) = self.kicks.pop_front() else {
            return false;
        };
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.live
                .handle_kick(ReasonCode::SessionTakenOver, ctx.now());
            self.drain_live(id, ctx);
        }
        true
    }

    pub(crate) fn time_out(&mut self, ctx: &mut Ctx) {
        let now = ctx.now();
        let due = self.conns.iter().filter(|(_, conn)| {
            let deadline = conn.live.deadline();
            deadline.is_some_and(|at| at <= now.mono)
        });
        let due: Vec<ConnectionId> = due.map(|(id, _)| *id).collect();
        for id in due {
            self.with_live(id, ctx, |live, now| live.handle_timeout(now));
        }
    }

    pub(crate) fn deliver(&mut self, delivery: Delivery, ctx: &mut Ctx) {
        let id = delivery.connection;
        self.with_live(id, ctx, |live, now| live.handle_delivery(delivery, now));
    }

    pub(crate) fn deliver_shared(&mut self, delivery: GroupDelivery, ctx: &mut Ctx) {
        let id = delivery.connection;
        if ctx.defect == Defect::SharedAckedAtOnce {
            self.shared_acked(id, delivery.group_seq.clone());
        }
        self.with_live(id, ctx, |live, now| live.handle_shared(delivery, now));
    }

    fn shared_acked(&mut self, id: ConnectionId, acked: GroupSeq) {
        let at = self.shard_of(&acked.filter);
        let command = Command::GroupAck(vec![acked]);
        let reply = Reply::Nobody;
        self.shards[at].push(Item { command, reply }, Some(id));
    }

    /// Forgets connections of which nothing is left to send.
    pub(crate) fn sweep(&mut self) {
        self.conns
            .retain(|_, conn| !conn.is_closed || !(conn.is_cut || conn.down.is_empty()));
    }

    /// Hands answers of a shard to those who asked; false if there was none.
    pub(crate) fn answer(&mut self, at: usize, ctx: &mut Ctx) -> bool {
        let Some(reply) = self.shards[at].next_reply(ctx) else {
            return false;
        };
        let Outcome::Applied(answer) = reply.outcome else {
            return true;
        };
        if let Some(confirmed) = self.shards[at].stream.handle_answer(reply.n) {
            self.confirmed(at, confirmed.item, answer, ctx);
        }
        true
    }

    /// Lets go the SUBACKs whose rows every node sees, and whose groups have the member.
    pub(crate) fn release_subacks(&mut self, ctx: &mut Ctx) {
        for at in 0..self.shards.len() {
            let seen = self.seen(at).0;
            for (version, from, row) in std::mem::take(&mut self.shards[at].seats) {
                if version <= seen {
                    self.shards[from].memberships.handle_seated(row);
                } else {
                    self.shards[at].seats.push((version, from, row));
                }
            }
        }
        for at in 0..self.shards.len() {
            let seen = self.seen(at).0;
            let subacks = std::mem::take(&mut self.shards[at].subacks);
            for (version, id, token, answer) in subacks {
                let is_early = ctx.defect == Defect::SubackBeforeMembership;
                if version <= seen && (is_early || self.is_seated(at, &answer)) {
                    self.with_live(id, ctx, |live, now| live.handle_answer(token, answer, now));
                } else if self.is_open(id) {
                    self.shards[at].subacks.push((version, id, token, answer));
                }
            }
        }
    }

    fn is_seated(&self, at: usize, answer: &Answer) -> bool {
        let Answer::Subscribed(all) = answer else {
            return true;
        };
        let memberships = &self.shards[at].memberships;
        all.iter().all(|one| memberships.is_seated(one.membership))
    }

    /// Fans a will out with its stamp. It belongs to no connection: the shard's leader owes it.
    pub(crate) fn publish_will(&mut self, at: usize, key: WillKey, row: &WillRow, ctx: &Ctx) {
        let settles = Settles::Will(at, key);
        let origin = row.origin();
        let items = self.destinations(&row.message, Some(&origin), row.stamp(), ctx.defect);
        self.oblige(items, None, settles);
    }

    fn with_live(
        &mut self,
        id: ConnectionId,
        ctx: &mut Ctx,
        tell: impl FnOnce(&mut Live, session::Now),
    ) {
        if let Some(conn) = self.conns.get_mut(&id) {
            tell(&mut conn.live, ctx.now());
            self.drain_live(id, ctx);
        }
    }

    fn drain_live(&mut self, id: ConnectionId, ctx: &mut Ctx) {
        loop {
            let Some(conn) = self.conns.get_mut(&id) else {
                return;
            };
            let Some(effect) = conn.live.poll_effect() else {
                return;
            };
            match effect {
                Effect::Send(packet) => conn.down.push_back(packet),
                Effect::Ack(ack) => conn.down.push_back(ack.to_packet()),
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
                    let epoch = self.shards[at].machine.durable.epoch(&open.client);
                    let seen = self.conns[&id].seen.as_ref().map(|seen| seen[at]);
                    if epoch.is_some() && seen.is_some_and(|seen| epoch > Some(seen)) {
                        let refused = Opened::No(ReasonCode::ServerUnavailable);
                        let conn = self.conns.get_mut(&id).expect("looked at just before");
                        conn.live.handle_opened(refused, ctx.now());
                        continue;
                    }
                    open.expected_epoch = epoch;
                    self.open(at, id, open);
                }
                Effect::Propose { token, command } => {
                    self.propose(id, token, *command, ctx);
                }
                Effect::PersistentRule(_) => unreachable!("no rule is set"),
                Effect::SharedAcked(acked) => self.shared_acked(id, *acked),
                Effect::Acked(seq) => {
                    let acks = conn.live.acks(vec![seq]).expect("connected");
                    let at = self.shard_of(&acks.client);
                    let command = Command::Ack(vec![acks]);
                    let reply = Reply::Nobody;
                    self.shards[at].push(Item { command, reply }, Some(id));
                }
                Effect::Publish(inbound) => self.publish(id, *inbound, ctx),
                Effect::Retained {
                    token,
                    filters,
                    limit,
                } => {
                    let wall = ctx.now().wall;
                    let rows = filters.iter().map(|filter| {
                        let shards = self.shards.iter();
                        shards
                            .flat_map(|s| s.machine.durable.retained_matching(filter, limit, wall))
                            .collect()
                    });
                    let rows = rows.collect();
                    let conn = self.conns.get_mut(&id).expect("looked at just before");
                    conn.live.handle_retained(token, rows, ctx.now());
                }
                Effect::Subscribe { .. } | Effect::Unsubscribe { .. } => {
                    panic!("every session here is persistent")
                }
                Effect::Close(closed) => {
                    conn.is_closed = true;
                    ctx.closed.insert(id, ctx.boot().0);
                    if let Some(close) = closed.command {
                        let at = self.shard_of(&close.client);
                        let command = Command::Close(close);
                        let reply = Reply::Nobody;
                        self.shards[at].push(Item { command, reply }, None);
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
        self.shards[at].push(Item { command, reply }, None);
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
        self.shards[at].push(Item { command, reply }, Some(id));
        if let (Some(answer), Some(conn)) = (early, self.conns.get_mut(&id)) {
            conn.live.handle_answer(token, answer, ctx.now());
        }
    }

    fn publish(&mut self, id: ConnectionId, inbound: Inbound, ctx: &Ctx) {
        let live = &self.conns[&id].live;
        let publisher = live.client().cloned();
        let stamp = Stamp {
            publisher: publisher.clone(),
            epoch: live.epoch(),
            seq: inbound.seq,
        };
        let message = Message::from_publish(inbound.publish, publisher, ctx.now().wall);
        let token = inbound.token.expect("nobody publishes with QoS 0");
        let origin = inbound.origin.as_deref();
        let items = self.destinations(&Arc::new(message), origin, stamp, ctx.defect);
        self.oblige(items, Some(id), Settles::Publish(id, token));
    }

    /// What a message asks of which shard.
    fn destinations(
        &self,
        message: &Arc<Message>,
        origin: Option<&Origin>,
        mut stamp: Stamp,
        defect: Defect,
    ) -> Vec<(usize, Command)> {
        let mut wanting = BTreeSet::new();
        let found = self.trie.matches(&message.topic, usize::MAX, |source, ()| {
            if let Source::Shard(ShardId(at)) = source {
                wanting.insert(usize::from(*at));
            }
        });
        found.expect("no limit was set");
        let mut items = Vec::new();
        if message.retain {
            if defect == Defect::RetainUnstamped {
                stamp.publisher = None;
            }
            let retain = Retain::of(message, stamp);
            items.push((self.shard_of(&message.topic), Command::Retain(retain)));
        }
        items.extend(wanting.into_iter().map(|at| {
            let (message, origin) = (Arc::clone(message), origin.cloned().map(Box::new));
            (at, Command::Enqueue(Enqueue { message, origin }))
        }));
        items
    }

    /// Asks for all that is owed. What nobody wants is settled with the next [`Self::settle`].
    fn oblige(
        &mut self,
        items: Vec<(usize, Command)>,
        owner: Option<ConnectionId>,
        settles: Settles,
    ) {
        self.obligation_ids += 1;
        let id = self.obligation_ids;
        self.obligations.insert(id, (items.len(), settles));
        for (at, command) in items {
            let reply = Reply::Obligation(id);
            self.shards[at].push(Item { command, reply }, owner);
        }
    }

    /// Settles whatever nothing is owed for any longer.
    pub(crate) fn settle(&mut self, ctx: &mut Ctx) {
        let settled = self.obligations.iter().filter(|(_, (left, _))| *left == 0);
        let settled: Vec<u64> = settled.map(|(id, _)| *id).collect();
        for id in settled {
            let (_, settles) = self.obligations.remove(&id).expect("found just before");
            self.settled(settles, ctx);
        }
    }

    fn settled(&mut self, settles: Settles, ctx: &mut Ctx) {
        let lease = self
            .lease
            .as_ref()
            .expect("nothing is owed before the epoch");
        assert!(lease.is_held(ctx.boot()), "a lone node always holds it");
        match settles {
            Settles::Publish(id, token) => self.with_live(id, ctx, |live, now| {
                live.handle_settled(token, ReasonCode::Success, now);
            }),
            Settles::Will(at, key) => self.shards[at].drain.handle_will_published(key),
        }
    }

    fn confirmed(&mut self, at: usize, item: Item, answer: Answer, ctx: &mut Ctx) {
        match item.reply {
            Reply::Nobody => {}
            Reply::Obligation(id) => {
                let owed = self.obligations.get_mut(&id).expect("not settled yet");
                owed.0 -= 1;
                self.settle(ctx);
            }
            Reply::Member(from, version) => {
                let Answer::Membership { version: route } = answer else {
                    panic!("a membership is not answered with {answer:?}");
                };
                self.shards[at].seats.push((route, from, version));
                self.release_subacks(ctx);
            }
            Reply::Opened(id) => self.opened(at, id, item.command, &answer, ctx),
            Reply::Answer(id, token) => {
                let version = match &answer {
                    Answer::Subscribed(all) => all.iter().map(|one| one.version).max(),
                    _ => None,
                };
                match version {
                    Some(version) if ctx.defect != Defect::SubackBeforeRoutes => {
                        let waiting = (version, id, token, answer);
                        self.shards[at].subacks.push(waiting);
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
            Answer::WrongEpoch { current } if self.is_open(id) && !ctx.looks_back => {
                let Command::Open(mut open) = command else {
                    panic!("an `Open` asked");
                };
                open.expected_epoch = current;
                return self.open(at, id, open);
            }
            Answer::Refused(reason) => Opened::No(reason),
            _ => Opened::No(ReasonCode::ServerUnavailable),
        };
        self.with_live(id, ctx, |live, now| live.handle_opened(opened, now));
    }

    pub(crate) fn shard_of(&self, name: &str) -> usize {
        let sum: usize = name.bytes().map(usize::from).sum();
        sum % self.shards.len()
    }
}
