//! One run of a node's process: replicas, streams, lease; connections are in `conns`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mqtt::{ClientId, Filter, Trie};
use session::{Answer, ConnectionId, Epoch, Match, Message, Origin, Origins, Subscription, Token};
use tidewire_cluster_core::{
    Begin, Entering, EnteringEffect, FeatureLevel, Grants, Lease, LocalRoutes, Meta, MetaAnswer,
    MetaCommand, MetaEffect, NodeEpoch, NodeId, Receiver, Round, RouteVersion, Routes,
    RoutesCommand, RoutesEffect, ShardId, Sighting, Sightings, Source, Standing, StartCount,
    WallMs, WillKey,
};

use super::super::conns::{AskedRetained, ForClean, Front, Serve, Suback};
use super::super::ctx::Ctx;
use super::super::shard::Item;
use super::host::Host;
use super::net::{Letter, Ping};
use super::streams::{Peer, Stream};
use super::{World, folder};

const ROUTES_MAX: usize = 1_000;

pub(crate) struct Node {
    pub(crate) at: usize,
    start: StartCount,
    pub(crate) front: Front,
    pub(crate) meta: Meta,
    pub(crate) meta_applied: usize,
    routes: Routes,
    routes_applied: usize,
    /// What the trie has.
    routes_seen: u64,
    /// Batches that this node, leading the routes, has appended: whom to tell.
    pub(super) routes_asked: BTreeMap<(usize, u64), (usize, Source)>,
    /// Replicas of shards.
    pub(crate) hosts: BTreeMap<usize, Host>,
    /// To each shard, one.
    pub(super) streams: Vec<Stream>,
    /// To each other node, one.
    pub(super) peers: BTreeMap<NodeEpoch, Peer>,
    /// From each other node.
    pub(super) receiver: Receiver,
    origins: Origins,
    pub(super) local: Option<LocalRoutes>,
    pub(super) local_sent_ms: Option<u64>,
    /// Clean sessions and their filters.
    clean: BTreeMap<ConnectionId, Vec<(Filter, Subscription)>>,
    pub(crate) entering: Option<Entering>,
    sightings: Sightings,
    /// Who leads which shard, in which term, and how far shards are applied: as peers told.
    pub(super) told_leads: BTreeMap<usize, (u64, usize)>,
    pub(super) told_applied: BTreeMap<ShardId, u64>,
    /// When each peer was heard.
    pub(super) heard: BTreeMap<NodeEpoch, u64>,
    /// While it leads meta: the term.
    pub(super) grants: Option<(u64, Grants)>,
    pub(super) round: Option<Round>,
    ends: BTreeSet<NodeEpoch>,
    /// Members of groups that wait for a version of the home's routes: (home, version, shard of the
    /// member, row).
    seats: Vec<(usize, u64, usize, u64)>,
    /// SUBACKs whose groups have the member.
    pub(super) seated: BTreeSet<(ConnectionId, Token)>,
    pub(super) retained: Vec<AskedRetained>,
    /// Its epoch has ended: it closes everything and begins another.
    pub(crate) has_ended: bool,
    asked_ms: Option<u64>,
}

impl Node {
    /// A process that starts on what its disk holds.
    pub(crate) fn new(at: usize, start: u64, w: &World) -> Self {
        let held = |shard: &usize| w.groups.shards[*shard].nodes().contains(&at);
        let shards = 0..w.groups.shards.len();
        let hosts = shards.clone().filter(held);
        Self {
            at,
            start: StartCount(start),
            front: Front::new(Trie::new()),
            meta: Meta::default(),
            meta_applied: 0,
            routes: Routes::new(ROUTES_MAX),
            routes_applied: 0,
            routes_seen: 0,
            routes_asked: BTreeMap::new(),
            hosts: hosts.map(|shard| (shard, Host::new(shard, w))).collect(),
            streams: shards.map(|_| Stream::default()).collect(),
            peers: BTreeMap::new(),
            receiver: Receiver::default(),
            origins: Origins::new(1_000, 3_600),
            local: None,
            local_sent_ms: None,
            clean: BTreeMap::new(),
            entering: None,
            sightings: Sightings::default(),
            told_leads: BTreeMap::new(),
            told_applied: BTreeMap::new(),
            heard: BTreeMap::new(),
            grants: None,
            round: None,
            ends: BTreeSet::new(),
            seats: Vec::new(),
            seated: BTreeSet::new(),
            retained: Vec::new(),
            has_ended: false,
            asked_ms: None,
        }
    }

    pub(crate) fn is_serving(&self) -> bool {
        let entering = self.entering.as_ref();
        entering.is_some_and(Entering::is_serving) && !self.has_ended
    }

    /// The node whose epoch this is, as far as it is known and lasts.
    pub(super) fn node_of(&self, epoch: NodeEpoch) -> Option<usize> {
        self.meta.node_of(epoch).map(|node| node.0 as usize - 1)
    }

    /// Applies what is committed of meta.
    pub(crate) fn apply_meta(&mut self, w: &mut World) {
        while self.meta_applied < w.groups.meta.committed(self.at) {
            let command = w.groups.meta.get(self.at, self.meta_applied);
            self.meta_applied += 1;
            let Some(command) = command else { continue };
            let index = self.meta_applied as u64;
            let answer = self.meta.apply(index, WallMs(0), &command);
            while let Some(effect) = self.meta.poll_effect() {
                match effect {
                    MetaEffect::Begun { epoch, .. } => self.front.visible.handle_begun(epoch),
                    MetaEffect::Ended { epoch, .. } => self.ended(epoch, w),
                    _ => {}
                }
            }
            if let (MetaCommand::Begin(begin), MetaAnswer::Begun { epoch }) = (&*command, answer)
                && (begin.node, begin.start) == (node_id(self.at), self.start)
                && self.front.epoch.is_none()
                && self.meta.standing(epoch) == Standing::Current
            {
                self.begin(epoch, index, w);
            }
        }
        self.receiver.renew_epochs(&self.meta.epochs());
    }

    fn begin(&mut self, epoch: NodeEpoch, index: u64, w: &World) {
        self.front.epoch = Some(epoch);
        self.front.lease = Some(Lease::new(epoch, false, w.ctx.boot()));
        self.local = Some(LocalRoutes::new(epoch, ROUTES_MAX));
        let current = self.meta.epochs().current;
        let mut entering = Entering::new(epoch, index, current);
        entering.handle_routes_applied(self.routes_seen);
        self.entering = Some(entering);
        self.front.visible.handle_applied(epoch, self.routes_seen);
    }

    fn ended(&mut self, epoch: NodeEpoch, w: &mut World) {
        let now = w.ctx.boot().0;
        w.ctx.ended.entry(epoch).or_insert(now);
        self.front.visible.handle_ended(epoch);
        self.heard.remove(&epoch);
        if let Some(entering) = &mut self.entering {
            entering.handle_ended(epoch);
        }
        if let Some((_, grants)) = &mut self.grants {
            grants.handle_ended(epoch);
        }
        if let Some(peer) = self.peers.remove(&epoch) {
            for owed in peer.owed {
                self.discharge(owed);
            }
        }
        if self.front.epoch == Some(epoch) {
            self.has_ended = true;
            if let Some(lease) = &mut self.front.lease {
                lease.handle_ended();
            }
        }
    }

    /// Applies what is committed of the routes.
    pub(crate) fn apply_routes(&mut self, w: &mut World) {
        while self.routes_applied < w.groups.routes.committed(self.at) {
            let command = w.groups.routes.get(self.at, self.routes_applied);
            self.routes_applied += 1;
            let Some(command) = command else { continue };
            let index = self.routes_applied as u64;
            let answer = self.routes.apply(index, &command);
            let Some(term) = w.groups.routes.leads(self.at) else {
                self.routes_asked.clear();
                continue;
            };
            let asked = self.routes_asked.remove(&(self.routes_applied, term));
            if let Some((node, source)) = asked {
                let letter = Letter::RoutesAnswered { source, answer };
                self.post(node, letter, w);
            }
        }
    }

    /// Publishes a new trie; only now publishes are matched with it.
    pub(crate) fn refresh_trie(&mut self, ctx: &mut Ctx) {
        while let Some(effect) = self.routes.poll_effect() {
            match effect {
                RoutesEffect::Add { filter, source } => {
                    self.front.trie.insert(&filter, source, ());
                }
                RoutesEffect::Remove { filter, source } => {
                    self.front.trie.remove(&filter, &source);
                }
                RoutesEffect::Applied {
                    source,
                    version,
                    index,
                } => self.front.visible.handle_entry(source, version, index),
            }
        }
        // Also entries that say nothing count: a leader commits one as it begins.
        self.routes_seen = self.routes_applied as u64;
        let index = self.routes_seen;
        if let Some(epoch) = self.front.epoch {
            self.front.visible.handle_applied(epoch, index);
        }
        if let Some(entering) = &mut self.entering {
            entering.handle_routes_applied(index);
        }
        self.release(ctx);
    }

    /// Lets go what waits for versions of the routes, or the lease.
    pub(crate) fn release(&mut self, ctx: &mut Ctx) {
        while self.front.visible.poll_visible().is_some() {}
        for (home, version, from, row) in std::mem::take(&mut self.seats) {
            let seen = self.front.seen(Source::Shard(ShardId(home as u16)));
            if RouteVersion(version) <= seen {
                if let Some(host) = self.hosts.get_mut(&from) {
                    host.memberships.handle_seated(row);
                }
            } else {
                self.seats.push((home, version, from, row));
            }
        }
        self.release_opened(ctx);
        self.release_subacks(ctx);
        self.settle(ctx);
    }

    /// What time makes due.
    pub(crate) fn tick(&mut self, w: &mut World) {
        self.time_out(&mut w.ctx);
        self.tick_epoch(w);
        self.tick_meta(w);
        self.tick_routes(w);
        self.tick_streams(w);
        self.tick_shards(w);
        self.ping(w);
        self.ask_seated(w);
        let mut applied = self.told_applied.clone();
        for host in self.hosts.values() {
            let known = applied.entry(ShardId(host.shard as u16)).or_default();
            *known = host.machine.durable.index().max(*known);
        }
        self.sightings.handle_applied(applied, w.ctx.boot());
        self.release(&mut w.ctx);
    }

    /// Asks for an epoch, then for its lease, then for how far the routes are.
    fn tick_epoch(&mut self, w: &mut World) {
        let now = w.ctx.boot();
        let Some(epoch) = self.front.epoch else {
            if self.asked_ms.is_none_or(|at| now.0 >= at + 500) {
                self.asked_ms = Some(now.0);
                let begin = MetaCommand::Begin(Begin {
                    node: node_id(self.at),
                    folder: folder(self.at),
                    start: self.start,
                    address: String::new(),
                    level: FeatureLevel(1),
                });
                self.tell_meta(Letter::Meta(begin), w);
            }
            return;
        };
        let routes_applied = self.routes_seen;
        let lease = self.front.lease.as_mut().expect("with the epoch");
        if let Some(id) = lease.poll_renewal(now) {
            let heard = self.heard.iter();
            let heard = heard.filter(|(_, at)| now.0 < **at + 1_000);
            let leads = self.hosts.values().filter(|host| host.leads.is_some());
            let renewal = tidewire_cluster_core::Renewal {
                epoch,
                id,
                meta_applied: self.meta_applied as u64,
                routes_applied,
                heard: heard.map(|(epoch, _)| *epoch).chain([epoch]).collect(),
                leads: leads.count() as u16,
            };
            self.tell_meta(Letter::Renew(renewal), w);
        }
        let Some(entering) = &mut self.entering else {
            return;
        };
        if let Some(EnteringEffect::ReadRoutes) = entering.poll_effect() {
            let leader = w.groups.routes.leader(self.at);
            let leader = leader.map(|(_, leader)| leader).filter(|leader| {
                let net = &w.net;
                *leader == self.at
                    || (net.reaches(self.at, *leader) && net.reaches(*leader, self.at))
            });
            match leader {
                Some(leader) if w.groups.routes.is_confirmed(leader, &w.net) => {
                    entering.handle_routes_read(w.groups.routes.committed(leader) as u64);
                }
                _ => entering.handle_read_failed(),
            }
        }
    }

    fn tick_meta(&mut self, w: &mut World) {
        let now = w.ctx.boot();
        let is_up = self.meta_applied >= w.groups.meta.committed(self.at);
        let known = self.grants.as_ref().map(|(term, _)| *term);
        let term = w.groups.meta.leads_committed(self.at);
        let term = term.filter(|term| is_up || known == Some(*term));
        if self.grants.as_ref().map(|(term, _)| *term) != term {
            self.grants = term.map(|term| (term, Grants::new(now)));
            self.round = None;
            self.ends.clear();
        }
        let Some((_, grants)) = &mut self.grants else {
            return;
        };
        grants.handle_routes(w.groups.routes.committed(self.at) as u64, now);
        let view = self.meta.epochs();
        if w.groups.meta.is_fresh(self.at, now.0)
            && let Some(epoch) = grants.poll_end(&view, now)
            && self.ends.insert(epoch)
        {
            let reason = tidewire_cluster_core::EndReason::Dead;
            w.groups
                .meta
                .append(self.at, MetaCommand::End { epoch, reason });
        }
    }

    fn tick_routes(&mut self, w: &mut World) {
        let now = w.ctx.boot();
        if w.groups.routes.leads_committed(self.at).is_some()
            && w.groups.routes.is_fresh(self.at, now.0)
            && self.routes.epochs().index < self.meta.epochs().index
        {
            let view = RoutesCommand::Epochs(self.meta.epochs());
            w.groups.routes.append(self.at, view);
        }
        if self.local_sent_ms.is_some_and(|at| now.0 >= at + 1_000) {
            self.local_sent_ms = None;
            if let Some(local) = &mut self.local {
                local.handle_failed(now);
            }
        }
        if let Some(local) = &mut self.local
            && let Some(deltas) = local.poll_deltas(now)
        {
            self.local_sent_ms = Some(now.0);
            self.tell_routes(deltas, w);
        }
    }

    fn ping(&mut self, w: &mut World) {
        let Some(epoch) = self.front.epoch else {
            return;
        };
        let leading = self.hosts.values().filter(|host| host.leads.is_some());
        let hosts = self.hosts.values();
        let ping = Ping {
            epoch,
            meta_applied: self.meta_applied as u64,
            routes_applied: self.routes_seen,
            leads: leading.map(|h| (h.shard, h.leads.unwrap_or(0))).collect(),
            applied: hosts
                .map(|h| (ShardId(h.shard as u16), h.machine.durable.index()))
                .collect(),
        };
        for to in (0..w.nodes).filter(|to| *to != self.at) {
            w.net.send(self.at, to, Letter::Ping(ping.clone()));
        }
    }

    /// Gives a message to the clean sessions here that want it.
    pub(super) fn deliver_clean(
        &mut self,
        message: &Arc<Message>,
        origin: Option<&Origin>,
        ctx: &mut Ctx,
    ) {
        let wall = ctx.now().wall;
        if origin.is_some_and(|origin| !self.origins.admit(origin, wall)) {
            return;
        }
        let mut all = Vec::new();
        for (id, filters) in &self.clean {
            let mut matched = Match::default();
            for (filter, subscription) in filters {
                if filter.matches(&message.topic) {
                    matched.add(subscription, false);
                }
            }
            all.push((*id, matched));
        }
        for (id, matched) in all {
            self.with_live(id, ctx, |live, now| {
                live.handle_message(Arc::clone(message), matched, now);
            });
        }
    }

    /// What is still to be done here.
    pub(crate) fn waiting(&self, waiting: &mut Vec<String>) {
        let at = self.at;
        for host in self.hosts.values().filter(|host| host.leads.is_some()) {
            if let Some(owed) = host.owes() {
                waiting.push(format!("{owed} of shard {} at {at}", host.shard));
            }
        }
        for (shard, stream) in self.streams.iter().enumerate() {
            if !stream.items.is_empty() {
                waiting.push(format!("stream of {at} to shard {shard}"));
            }
        }
        for (epoch, peer) in &self.peers {
            if !peer.items.is_empty() {
                waiting.push(format!("stream of {at} to epoch {epoch}"));
            }
        }
        let front = &self.front;
        if !front.obligations.is_empty() || !front.subacks.is_empty() || !self.seats.is_empty() {
            waiting.push(format!("obligations of {at}"));
        }
        if !self.is_serving() {
            waiting.push(format!("node {at}"));
        }
        let has_packets =
            |conn: &super::super::conns::Conn| !conn.up.is_empty() || !conn.down.is_empty();
        if front.conns.values().any(has_packets) {
            waiting.push(format!("links of {at}"));
        }
    }
}

pub(super) fn node_id(at: usize) -> NodeId {
    NodeId(at as u32 + 1)
}

impl Serve for Node {
    fn front(&self) -> &Front {
        &self.front
    }

    fn front_mut(&mut self) -> &mut Front {
        &mut self.front
    }

    fn shards(&self) -> usize {
        self.streams.len()
    }

    fn push(&mut self, at: usize, item: Item, owner: Option<ConnectionId>) {
        self.streams[at].push(item, owner);
    }

    fn push_node(&mut self, to: NodeEpoch, message: ForClean, owner: Option<ConnectionId>) {
        let is_own = self.front.epoch == Some(to);
        if !is_own && self.meta.standing(to) == Standing::Ended {
            return self.discharge(message.owed);
        }
        // Its own too goes by a stream: the order of both is the same.
        let peer = self.peers.entry(to).or_default();
        peer.push_message(message, owner);
    }

    fn known_epoch(&self, at: usize, client: &ClientId) -> Option<Epoch> {
        self.hosts.get(&at)?.machine.durable.epoch(client)
    }

    fn sighting(&mut self, ctx: &mut Ctx) -> Arc<Sighting> {
        self.sightings.at(ctx.boot())
    }

    fn ask_retained(&mut self, asked: AskedRetained, _: &mut Ctx) {
        self.retained.push(asked);
    }

    fn subscribe(
        &mut self,
        id: ConnectionId,
        token: Token,
        subscriptions: Vec<(Filter, Subscription)>,
        _: &mut Ctx,
    ) {
        let local = self.local.as_mut().expect("it serves");
        let mut last = RouteVersion(0);
        for (filter, subscription) in subscriptions {
            let version = local.handle_subscribed(&filter);
            last = version.expect("few filters").max(last);
            let filters = self.clean.entry(id).or_default();
            filters.push((filter, subscription));
        }
        self.front.subacks.push(Suback {
            source: Source::Node(local_epoch(self.front.epoch)),
            version: last.0,
            id,
            token,
            answer: None,
            command: None,
        });
    }

    fn forget(&mut self, id: ConnectionId) {
        let filters = self.clean.remove(&id).unwrap_or_default();
        let local = self.local.as_mut();
        if let Some(local) = local {
            for (filter, _) in filters {
                local.handle_unsubscribed(&filter);
            }
        }
    }

    fn will_published(&mut self, at: usize, key: WillKey) {
        if let Some(host) = self.hosts.get_mut(&at) {
            host.drain.handle_will_published(key);
        }
    }

    fn seat(&mut self, home: usize, from: usize, version: u64, route: u64, ctx: &mut Ctx) {
        self.seats.push((home, route, from, version));
        self.release(ctx);
    }

    fn is_seated(&self, _: usize, suback: &Suback) -> bool {
        let Some(Answer::Subscribed(all)) = &suback.answer else {
            return true;
        };
        let is_none = all.iter().all(|one| one.membership == 0);
        is_none || self.seated.contains(&(suback.id, suback.token))
    }
}

fn local_epoch(epoch: Option<NodeEpoch>) -> NodeEpoch {
    epoch.expect("it serves")
}
