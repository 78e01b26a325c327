//! A node's numbered streams to shards and to other nodes, and what comes by links.

use std::cell::Cell;
use std::collections::BTreeSet;

use session::{Command, ConnectionId};
use tidewire_cluster_core::{
    Admission, Attempt, Body, Deltas, GrantsEffect, NodeEpoch, Numbered, RenewalId, RoutesAnswer,
    RoutesCommand, ShardId, Share, ShareLimits, Source, Standing,
};

use super::super::client::Label;
use super::super::conns::{ForClean, Serve};
use super::super::ctx::Ctx;
use super::super::defect::Defect;
use super::super::disk::ShardWhat;
use super::super::machine::Outcome;
use super::super::shard::{ITEM_BYTES, Item};
use super::World;
use super::host::{Asked, Host, Wired};
use super::net::{Letter, PeerItem, Ping};
use super::node::Node;

/// How long an answer is waited for before everything is sent again.
pub(super) const ANSWER_MS: u64 = 1_000;
/// How long a refused sender waits.
const REFUSED_MS: u64 = 100;

/// The stream to a shard.
pub(super) struct Stream {
    pub(super) items: Numbered<Item>,
    /// Leader and term that it goes to.
    leader: Option<(u64, usize)>,
    progress_ms: u64,
    /// Nothing is sent before this: all that was refused would come again at once, and again.
    held_ms: u64,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            items: numbered(),
            leader: None,
            progress_ms: 0,
            held_ms: 0,
        }
    }
}

impl Stream {
    pub(super) fn push(&mut self, item: Item, owner: Option<ConnectionId>) {
        let share = match &item.command {
            Command::Open(_) => Share::Open,
            Command::Ack(_) | Command::Close(_) => Share::Ack,
            _ => Share::Enqueue,
        };
        let owner = owner.map(|owner| tidewire_cluster_core::ConnectionId(owner.0));
        let pushed = self.items.push(item, owner, share, ITEM_BYTES);
        pushed.expect("clients' windows bound the stream below its shares");
    }
}

/// The stream to another node's epoch.
pub(super) struct Peer {
    pub(super) items: Numbered<PeerItem>,
    /// Obligations that its receipts discharge.
    pub(super) owed: BTreeSet<u64>,
    progress_ms: u64,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            items: numbered(),
            owed: BTreeSet::new(),
            progress_ms: 0,
        }
    }
}

impl Peer {
    pub(super) fn push_message(&mut self, message: ForClean, owner: Option<ConnectionId>) {
        let ForClean {
            message,
            origin,
            owed,
        } = message;
        self.owed.insert(owed);
        self.push_of(PeerItem::Message(message, origin, owed), owner);
    }

    /// Something that outlives the connections of its own node.
    pub(super) fn push(&mut self, item: PeerItem) {
        self.push_of(item, None);
    }

    fn push_of(&mut self, item: PeerItem, owner: Option<ConnectionId>) {
        let owner = owner.map(|owner| tidewire_cluster_core::ConnectionId(owner.0));
        let pushed = self.items.push(item, owner, Share::Enqueue, 1);
        pushed.expect("few items");
    }
}

fn numbered<T: Clone>() -> Numbered<T> {
    Numbered::new(ShareLimits {
        enqueue_bytes: 1 << 20,
        ..ShareLimits::default()
    })
}

impl Node {
    /// Sends a letter, or takes it at once if it is its own.
    pub(super) fn post(&mut self, to: usize, letter: Letter, w: &mut World) {
        if to == self.at {
            self.take(to, letter, w);
        } else {
            w.net.send(self.at, to, letter);
        }
    }

    pub(super) fn tell_meta(&mut self, letter: Letter, w: &mut World) {
        if let Some((_, leader)) = w.groups.meta.leader(self.at) {
            self.post(leader, letter, w);
        }
    }

    pub(super) fn tell_routes(&mut self, deltas: Deltas, w: &mut World) {
        if let Some((_, leader)) = w.groups.routes.leader(self.at) {
            self.post(leader, Letter::Routes(deltas), w);
        }
    }

    /// Sends what is numbered for a shard, all again if its leader is another one.
    pub(crate) fn send(&mut self, shard: usize, w: &mut World) {
        let Some(epoch) = self.front.epoch else {
            return;
        };
        let Some(leader) = self.leader(shard, w) else {
            return;
        };
        let stream = &mut self.streams[shard];
        if w.ctx.boot().0 < stream.held_ms {
            return;
        }
        if stream.leader != Some(leader) {
            stream.leader = Some(leader);
            stream.items.handle_error(stream.items.attempt());
        }
        // A refusal of its own comes at once, and begins it again.
        for _ in 0..self.streams[shard].items.len() {
            let Node { streams, front, .. } = self;
            let goes_again = Cell::new(false);
            let is_open = |c: tidewire_cluster_core::ConnectionId| {
                let is_open = front.is_open(ConnectionId(c.0));
                goes_again.set(!is_open);
                is_open || w.ctx.defect == Defect::EndedSentAgain
            };
            let Some(sent) = streams[shard].items.poll_item(is_open) else {
                return;
            };
            if let (Body::Item(item), true) = (&sent.body, goes_again.get())
                && let Command::Enqueue(enqueue) = &item.command
            {
                let label = Label::parse(&enqueue.message.payload);
                w.ctx.sent_again.insert(label);
            }
            let body = match sent.body {
                Body::Item(item) => Body::Item(item.command),
                Body::Nop => Body::Nop,
            };
            let letter = Letter::Item {
                shard,
                epoch,
                attempt: sent.attempt,
                n: sent.n,
                body,
            };
            self.post(leader.1, letter, w);
        }
    }

    /// Sends what is numbered for other nodes.
    pub(crate) fn send_peers(&mut self, w: &mut World) {
        let Some(own) = self.front.epoch else { return };
        let epochs: Vec<NodeEpoch> = self.peers.keys().copied().collect();
        for to in epochs {
            // One whose beginning is not known here waits until it is.
            let Some(node) = self.node_of(to) else {
                continue;
            };
            while let Some(peer) = self.peers.get_mut(&to)
                && let Some(sent) = peer
                    .items
                    .poll_item(|c| self.front.is_open(ConnectionId(c.0)))
            {
                if to == own {
                    let confirmed = peer.items.handle_answer(sent.n);
                    let item = confirmed.expect("one by one").item;
                    self.take_peer(item.clone(), &mut w.ctx);
                    self.received(to, &item, &mut w.ctx);
                    continue;
                }
                let letter = Letter::Peer {
                    from: own,
                    to,
                    attempt: sent.attempt,
                    n: sent.n,
                    body: sent.body,
                };
                w.net.send(self.at, node, letter);
            }
        }
    }

    /// What was sent and not answered for long is sent again.
    pub(super) fn tick_streams(&mut self, w: &World) {
        let now = w.ctx.boot().0;
        for stream in &mut self.streams {
            if stream.items.is_empty() {
                stream.progress_ms = now;
            } else if now >= stream.progress_ms + ANSWER_MS {
                stream.progress_ms = now;
                stream.items.handle_error(stream.items.attempt());
            }
        }
        for peer in self.peers.values_mut() {
            if peer.items.is_empty() {
                peer.progress_ms = now;
            } else if now >= peer.progress_ms + ANSWER_MS {
                peer.progress_ms = now;
                peer.items.handle_error(peer.items.attempt());
            }
        }
    }

    /// Takes the next letter; false if there is none.
    pub(crate) fn receive(&mut self, w: &mut World) -> bool {
        let World { net, ctx, .. } = w;
        let before = net.is_empty();
        if let Some((from, letter)) = net.receive(self.at, ctx) {
            self.take(from, letter, w);
        }
        !before
    }

    fn take(&mut self, from: usize, letter: Letter, w: &mut World) {
        match letter {
            Letter::Item {
                shard,
                epoch,
                attempt,
                n,
                body,
            } => self.take_item(shard, Asked { epoch, attempt, n }, body, w),
            Letter::Refused { shard, to, attempt } => {
                if self.front.epoch == Some(to) {
                    let stream = &mut self.streams[shard];
                    if stream.items.handle_error(attempt) {
                        stream.held_ms = w.ctx.boot().0 + REFUSED_MS;
                    }
                }
            }
            Letter::Answered {
                shard,
                to,
                attempt,
                n,
                outcome,
            } => {
                if self.front.epoch == Some(to) {
                    self.answered(shard, attempt, n, outcome, w);
                }
            }
            Letter::Peer {
                from: epoch,
                to,
                attempt,
                n,
                body,
            } => {
                if self.front.epoch == Some(to) {
                    self.take_numbered(from, epoch, to, (attempt, n), body, w);
                }
            }
            Letter::PeerAnswered {
                from,
                to,
                attempt,
                n,
                is_taken,
            } => {
                if self.front.epoch == Some(to) {
                    self.peer_answered(from, attempt, n, is_taken, w);
                }
            }
            Letter::AskSeated {
                shard,
                epoch,
                id,
                token,
                command,
            } => {
                let host = self.hosts.get(&shard);
                if host.is_some_and(|host| host.is_seated(&command)) {
                    let to = epoch;
                    self.post(from, Letter::Seated { to, id, token }, w);
                }
            }
            Letter::Seated { to, id, token } => {
                if self.front.epoch == Some(to) {
                    self.seated.insert((id, token));
                    self.release(&mut w.ctx);
                }
            }
            Letter::Ping(ping) => self.pinged(from, ping, w),
            Letter::Renew(renewal) => {
                let view = self.meta.epochs();
                if let Some((_, grants)) = &mut self.grants {
                    grants.handle_renewal(renewal, &view, w.ctx.boot());
                }
                self.grant(w);
            }
            Letter::Granted {
                epoch,
                id,
                meta_seen,
            } => self.granted(epoch, id, meta_seen),
            Letter::Meta(command) => {
                if w.groups.meta.is_fresh(self.at, w.ctx.boot().0) {
                    w.groups.meta.append(self.at, command);
                }
            }
            Letter::Routes(deltas) => {
                if w.groups.routes.is_fresh(self.at, w.ctx.boot().0) {
                    let source = deltas.source;
                    let entry = RoutesCommand::Deltas(deltas);
                    let appended = w.groups.routes.append(self.at, entry);
                    if let Some(at) = appended {
                        self.routes_asked.insert(at, (from, source));
                    }
                }
            }
            Letter::RoutesAnswered { source, answer } => self.routes_answered(source, answer, w),
        }
    }

    fn take_item(&mut self, shard: usize, asked: Asked, body: Body<Command>, w: &mut World) {
        let standing = self.meta.standing(asked.epoch);
        // It proposes nothing of an epoch that meta does not show as current.
        let is_current = standing == Standing::Current
            || matches!(
                w.ctx.defect,
                Defect::NewEpochGone | Defect::EndedEpochServed
            );
        let host = self.hosts.get_mut(&shard);
        let takes =
            |host: &&mut Host| host.leads.is_some() && is_current && !host.is_refused(asked);
        match host.filter(takes) {
            Some(host) => {
                let Asked { epoch, attempt, n } = asked;
                let what = ShardWhat::Item {
                    epoch,
                    attempt,
                    n,
                    body,
                };
                let asked = Some(asked);
                host.take(Wired { what, asked }, w);
            }
            None => self.refuse(shard, asked, w),
        }
    }

    pub(super) fn refuse(&mut self, shard: usize, asked: Asked, w: &mut World) {
        let Some(node) = self.node_of(asked.epoch) else {
            return;
        };
        let letter = Letter::Refused {
            shard,
            to: asked.epoch,
            attempt: asked.attempt,
        };
        self.post(node, letter, w);
    }

    fn answered(
        &mut self,
        shard: usize,
        attempt: Attempt,
        n: u64,
        outcome: Outcome,
        w: &mut World,
    ) {
        let stream = &mut self.streams[shard];
        match outcome {
            Outcome::Gap => {
                stream.items.handle_error(attempt);
            }
            // Meta says so too, soon.
            Outcome::Ended => {}
            Outcome::Applied(answer) => {
                if let Some(confirmed) = stream.items.handle_answer(n) {
                    stream.progress_ms = w.ctx.boot().0;
                    self.confirmed(shard, confirmed.item, answer, &mut w.ctx);
                }
            }
        }
    }

    fn take_numbered(
        &mut self,
        node: usize,
        from: NodeEpoch,
        to: NodeEpoch,
        (attempt, n): (Attempt, u64),
        body: Body<PeerItem>,
        w: &mut World,
    ) {
        let is_taken = match self.receiver.admit(from, attempt, n) {
            Admission::New => {
                if let Body::Item(item) = body {
                    self.take_peer(item, &mut w.ctx);
                }
                true
            }
            Admission::Repeat => true,
            Admission::Gap { .. } => false,
            Admission::Ended => return,
        };
        let letter = Letter::PeerAnswered {
            from: to,
            to: from,
            attempt,
            n,
            is_taken,
        };
        w.net.send(self.at, node, letter);
    }

    pub(super) fn take_peer(&mut self, item: PeerItem, ctx: &mut Ctx) {
        match item {
            PeerItem::Delivery(delivery) => self.deliver(delivery, ctx),
            PeerItem::Shared(delivery) => self.deliver_shared(delivery, ctx),
            PeerItem::TakenOver(connection) => self.front.kicks.push_back(connection),
            PeerItem::Message(message, origin, _) => {
                self.deliver_clean(&message, origin.as_ref(), ctx);
            }
        }
    }

    fn peer_answered(
        &mut self,
        from: NodeEpoch,
        attempt: Attempt,
        n: u64,
        is_taken: bool,
        w: &mut World,
    ) {
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        if !is_taken {
            peer.items.handle_error(attempt);
        } else if let Some(confirmed) = peer.items.handle_answer(n) {
            peer.progress_ms = w.ctx.boot().0;
            self.received(from, &confirmed.item, &mut w.ctx);
        }
    }

    /// Another node has the item: that discharges what it was owed for.
    fn received(&mut self, by: NodeEpoch, item: &PeerItem, ctx: &mut Ctx) {
        if let PeerItem::Message(_, _, owed) = item {
            if let Some(peer) = self.peers.get_mut(&by) {
                peer.owed.remove(owed);
            }
            self.discharge(*owed);
            self.settle(ctx);
        }
    }

    fn pinged(&mut self, from: usize, ping: Ping, w: &mut World) {
        if self.meta.standing(ping.epoch) != Standing::Current {
            return;
        }
        self.heard.insert(ping.epoch, w.ctx.boot().0);
        self.front
            .visible
            .handle_applied(ping.epoch, ping.routes_applied);
        if let Some(entering) = &mut self.entering {
            entering.handle_meta_applied(ping.epoch, ping.meta_applied);
        }
        for (shard, term) in ping.leads {
            let known = self.told_leads.entry(shard).or_default();
            *known = (term, from).max(*known);
        }
        for (shard, applied) in ping.applied {
            let known = self.told_applied.entry(shard).or_default();
            *known = applied.max(*known);
        }
    }

    /// Carries out what meta's leader decided on leases.
    pub(super) fn grant(&mut self, w: &mut World) {
        while let Some((_, grants)) = &mut self.grants
            && let Some(effect) = grants.poll_effect()
        {
            match effect {
                GrantsEffect::Round(round) => self.round = Some(round),
                GrantsEffect::Grant {
                    epoch,
                    id,
                    meta_seen,
                } => {
                    if let Some(node) = self.node_of(epoch) {
                        let letter = Letter::Granted {
                            epoch,
                            id,
                            meta_seen,
                        };
                        self.post(node, letter, w);
                    }
                }
                GrantsEffect::Refuse { .. } => {}
            }
        }
    }

    /// A round of meta that was asked for.
    pub(crate) fn round(&mut self, w: &mut World) {
        let Some(round) = self.round.take() else {
            return;
        };
        let is_confirmed = w.groups.meta.is_confirmed(self.at, &w.net);
        let view = self.meta.epochs();
        if let Some((_, grants)) = &mut self.grants {
            if is_confirmed {
                grants.handle_round(round, &view, w.ctx.boot());
            } else {
                grants.handle_round_failed(round);
            }
        }
        self.grant(w);
    }

    fn granted(&mut self, epoch: NodeEpoch, id: RenewalId, meta_seen: u64) {
        if self.front.epoch != Some(epoch) {
            return;
        }
        if let Some(lease) = &mut self.front.lease {
            lease.handle_granted(id);
        }
        if let Some(entering) = &mut self.entering {
            entering.handle_meta_seen(meta_seen);
        }
    }

    fn routes_answered(&mut self, source: Source, answer: RoutesAnswer, w: &World) {
        let now = w.ctx.boot();
        match source {
            Source::Shard(ShardId(shard)) => {
                let host = self.hosts.get_mut(&usize::from(shard));
                if let Some(host) = host.filter(|host| host.leads.is_some()) {
                    host.routes_sent_ms = None;
                    host.drain.handle_routes_answer(answer, now);
                }
            }
            Source::Node(epoch) if self.front.epoch == Some(epoch) => {
                self.local_sent_ms = None;
                if let Some(local) = &mut self.local {
                    local.handle_answer(answer, now);
                }
            }
            Source::Node(_) => {}
        }
    }

    /// Applies up to `count` entries of a shard, and carries out what comes of them.
    pub(crate) fn apply_shard(&mut self, shard: usize, count: usize, w: &mut World) {
        for _ in 0..count {
            let Some(host) = self.hosts.get_mut(&shard) else {
                return;
            };
            // Where another led meanwhile, other entries stand than this one appended.
            host.follow(self.at, w);
            let Some((asked, entry, outcome)) = host.apply(self.at, w) else {
                break;
            };
            let leads = host.leads.is_some();
            let position = host.applied;
            w.watch(shard, position, &entry, &outcome);
            if let (ShardWhat::Item { epoch, .. }, true) = (&entry.what, host.machine.took_new)
                && host.machine.receiver.epochs().standing(*epoch) == Standing::Ended
            {
                let what = format!("an item of ended epoch {epoch} was applied");
                w.ctx.violations.push(what);
            }
            let effects = host.effects();
            self.carry_out(effects, w);
            if let Some(asked) = asked.filter(|_| leads) {
                self.answer(shard, asked, outcome, w);
            }
        }
        if let Some(host) = self.hosts.get_mut(&shard) {
            host.follow(self.at, w);
        }
    }

    /// Tells who asked, at once: the answers to what comes after it in its stream wait for it.
    fn answer(&mut self, shard: usize, asked: Asked, outcome: Outcome, w: &mut World) {
        if let Some(node) = self.node_of(asked.epoch) {
            let letter = Letter::Answered {
                shard,
                to: asked.epoch,
                attempt: asked.attempt,
                n: asked.n,
                outcome,
            };
            self.post(node, letter, w);
        }
    }

    /// Asks the leaders whether groups have the members that SUBACKs wait for.
    pub(super) fn ask_seated(&mut self, w: &mut World) {
        let Some(epoch) = self.front.epoch else {
            return;
        };
        let mut asked = Vec::new();
        for suback in &self.front.subacks {
            let Source::Shard(ShardId(shard)) = suback.source else {
                continue;
            };
            let shard = usize::from(shard);
            if !self.is_seated(shard, suback)
                && let Some(command) = &suback.command
                && let Some((_, leader)) = self.leader(shard, w)
            {
                let letter = Letter::AskSeated {
                    shard,
                    epoch,
                    id: suback.id,
                    token: suback.token,
                    command: command.clone(),
                };
                asked.push((leader, letter));
            }
        }
        for (leader, letter) in asked {
            self.post(leader, letter, w);
        }
    }
}
