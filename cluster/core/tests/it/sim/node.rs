//! One run of the node's process: groups, routes, shards; connections are in `conns`.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use mqtt::{ClientId, Filter, Trie};
use rand::Rng;
use session::{Answer, Command, ConnectionId, DurableEffect, Subscription, Token, WillId};
use tidewire_cluster_core::{
    Begin, Body, BootMs, DrainEffect, FeatureLevel, FolderId, Found, Lease, MembershipEffect, Meta,
    MetaAnswer, MetaCommand, NodeEpoch, NodeId, Routes, RoutesCommand, RoutesEffect, ShardId,
    Sighting, Sightings, Source, Standing, StartCount, WallMs, WillKey,
};

use super::conns::{AskedRetained, ForClean, Front, Serve, Suback};
use super::ctx::Ctx;
use super::defect::Defect;
use super::disk::{ShardEntry, ShardWhat};
use super::machine::{INDEXES_PER_ENTRY, Outcome};
use super::shard::{Item, Reply, Shard};

const FOLDER: FolderId = FolderId(7);
const NODE: NodeId = NodeId(1);
const ROUTES_MAX: usize = 1_000;

pub(crate) struct Node {
    pub(crate) front: Front,
    meta: Meta,
    meta_applied: usize,
    /// Position of the entry that begins this run's epoch.
    begin_at: usize,
    pub(crate) routes: Routes,
    routes_applied: usize,
    /// Batches of shards in the log of routes, by position.
    batches: BTreeMap<usize, usize>,
    pub(crate) shards: Vec<Shard>,
}

impl Node {
    /// Starts on what the disk holds: replays it, then asks for an epoch.
    pub(crate) fn start(ctx: &mut Ctx) -> Self {
        ctx.start();
        let shards = ctx.disk.shards.len();
        let mut meta = Meta::default();
        for position in 0..ctx.disk.meta.durable() {
            let command = ctx.disk.meta.get(position);
            meta.apply(position as u64 + 1, WallMs(0), command);
            while meta.poll_effect().is_some() {}
        }
        let mut routes = Routes::new(ROUTES_MAX);
        for position in 0..ctx.disk.routes.durable() {
            routes.apply(position as u64 + 1, ctx.disk.routes.get(position));
            while routes.poll_effect().is_some() {}
        }
        let mut trie = Trie::new();
        for source in routes.sources().collect::<Vec<_>>() {
            for filter in routes.filters(source) {
                trie.insert(filter, source, ());
            }
        }
        let meta_applied = ctx.disk.meta.durable();
        let routes_applied = ctx.disk.routes.durable();
        let begin_at = ask_for_an_epoch(meta.shards() == 0, ctx);
        Self {
            front: Front::new(trie),
            meta,
            meta_applied,
            begin_at,
            routes,
            routes_applied,
            batches: BTreeMap::new(),
            shards: (0..shards).map(|at| Shard::replayed(at, ctx)).collect(),
        }
    }

    pub(crate) fn sync(&mut self, ctx: &mut Ctx) {
        ctx.disk.sync();
        for shard in &mut self.shards {
            shard.synced(ctx);
        }
    }

    /// Applies the next entry of meta; false if there is none.
    pub(crate) fn apply_meta(&mut self, ctx: &mut Ctx) -> bool {
        if self.meta_applied >= ctx.disk.meta.durable() {
            return false;
        }
        let command = ctx.disk.meta.get(self.meta_applied).clone();
        self.meta_applied += 1;
        let answer = self
            .meta
            .apply(self.meta_applied as u64, WallMs(0), &command);
        ctx.trace.note(&answer);
        while self.meta.poll_effect().is_some() {}
        if self.meta_applied == self.begin_at {
            match answer {
                MetaAnswer::Begun { epoch } => self.serve(epoch, ctx),
                other => panic!("the node's own start was refused: {other:?}"),
            }
        }
        true
    }

    /// The epoch is begun: shards and routes are led from here.
    fn serve(&mut self, epoch: NodeEpoch, ctx: &mut Ctx) {
        self.front.epoch = Some(epoch);
        self.front.lease = Some(Lease::new(epoch, self.meta.is_lone(), ctx.boot()));
        self.front.visible.handle_begun(epoch);
        for source in self.routes.sources() {
            let (version, index) = (self.routes.applied(source), self.routes.index());
            self.front.visible.handle_entry(source, version, index);
        }
        self.front
            .visible
            .handle_applied(epoch, self.routes.index());
        ctx.disk
            .routes
            .append(RoutesCommand::Epochs(self.meta.epochs()));
        for shard in &mut self.shards {
            shard.drain.handle_lead();
        }
        self.tell_epochs(ctx);
    }

    /// Proposes the epochs wherever they are not known yet.
    pub(crate) fn tell_epochs(&mut self, ctx: &Ctx) {
        let view = self.meta.epochs();
        for shard in &mut self.shards {
            if shard.machine.receiver.epochs().index < view.index {
                shard.duty(ShardWhat::Epochs(view.clone()), ctx);
            }
        }
    }

    /// Applies the next entry of routes; false if there is none.
    pub(crate) fn apply_routes(&mut self, ctx: &mut Ctx) -> bool {
        if self.routes_applied >= ctx.disk.routes.durable() {
            return false;
        }
        let command = ctx.disk.routes.get(self.routes_applied).clone();
        self.routes_applied += 1;
        let answer = self.routes.apply(self.routes_applied as u64, &command);
        ctx.trace.note(&answer);
        if let Some(at) = self.batches.remove(&self.routes_applied) {
            let drain = &mut self.shards[at].drain;
            if ctx.fails(10) {
                drain.handle_routes_failed(ctx.boot());
            } else {
                drain.handle_routes_answer(answer, ctx.boot());
            }
        }
        true
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
        if let Some(epoch) = self.front.epoch {
            self.front
                .visible
                .handle_applied(epoch, self.routes.index());
        }
        while self.front.visible.poll_visible().is_some() {}
        self.release(ctx);
    }

    /// Applies the next entry of a shard; false if there is none.
    pub(crate) fn apply_shard(&mut self, at: usize, ctx: &mut Ctx) -> bool {
        let Some((entry, outcome)) = self.shards[at].apply(ctx) else {
            return false;
        };
        self.watch(at, &entry, &outcome, ctx);
        self.carry_out(at, ctx);
        true
    }

    fn carry_out(&mut self, at: usize, ctx: &mut Ctx) {
        for effect in self.shards[at].effects(ctx) {
            match effect {
                DurableEffect::Deliver(delivery) => self.deliver(delivery, ctx),
                DurableEffect::TakenOver { connection, .. } => {
                    self.front.kicks.push_back(connection);
                }
                DurableEffect::DeliverShared(delivery) => self.deliver_shared(delivery, ctx),
                DurableEffect::Route(_)
                | DurableEffect::WillDue(_)
                | DurableEffect::Membership(_) => {}
                DurableEffect::Load { .. } => {
                    unreachable!("the state is never flushed, so all of it is in memory")
                }
            }
        }
    }

    /// What the checkers see of an applied entry.
    fn watch(&mut self, at: usize, entry: &ShardEntry, outcome: &Outcome, ctx: &mut Ctx) {
        let ShardWhat::Item {
            epoch,
            attempt,
            n,
            body,
        } = &entry.what
        else {
            return;
        };
        let Outcome::Applied(answer) = outcome else {
            return;
        };
        if !self.shards[at].follows(*epoch, *attempt) {
            ctx.violations.push(format!(
                "item {n} of an earlier sending was applied after one of a later"
            ));
        }
        let known = self.shards[at].machine.receiver.epochs();
        if known.standing(*epoch) == Standing::Ended {
            ctx.violations
                .push(format!("an item of ended epoch {epoch} was applied"));
        }
        let now = session::Epoch(self.shards[at].applied as u64 * INDEXES_PER_ENTRY);
        if let (Body::Item(Command::Open(open)), session::Answer::Opened { epoch, .. }) =
            (body, answer)
            && *epoch == now
        {
            let newest = ctx.opened.entry(open.client.clone()).or_default();
            if open.connection < *newest {
                ctx.violations.push(format!(
                    "{}: connection {} unseated {newest}, which came later",
                    open.client, open.connection
                ));
            }
            *newest = open.connection;
        }
    }

    /// Does the next thing of a shard's outbox; false if there is none.
    pub(crate) fn drain(&mut self, at: usize, ctx: &mut Ctx) -> bool {
        let Some(effect) = self.shards[at].drain.poll_effect(ctx.boot()) else {
            return self.drain_memberships(at, ctx);
        };
        match effect {
            DrainEffect::Resume => {
                self.shards[at].memberships.handle_lead();
                self.shards[at].lead(ctx);
                self.carry_out(at, ctx);
            }
            DrainEffect::SendRoutes(deltas) => {
                let is_sent = !ctx.fails(6);
                if is_sent || ctx.fails(2) {
                    let command = RoutesCommand::Deltas(deltas);
                    let position = ctx.disk.routes.append(command);
                    if is_sent {
                        self.batches.insert(position, at);
                    }
                }
                if !is_sent {
                    self.shards[at].drain.handle_routes_failed(ctx.boot());
                }
            }
            DrainEffect::RoutesDone { version } => {
                let version = version.0;
                let done = Command::RoutesDone { version };
                self.shards[at].duty(ShardWhat::Duty(done), ctx);
            }
            DrainEffect::Publish { key, row } => self.publish_will(at, key, &row, ctx),
            DrainEffect::WillDone { key: WillKey(id) } => {
                let done = Command::WillDone { id: WillId(id) };
                self.shards[at].duty(ShardWhat::Duty(done), ctx);
            }
        }
        true
    }

    /// Does the next thing that the outbox asks of a group's home shard; false if there is none.
    fn drain_memberships(&mut self, at: usize, ctx: &Ctx) -> bool {
        let Some(effect) = self.shards[at].memberships.poll_effect(ctx.boot()) else {
            return false;
        };
        match effect {
            MembershipEffect::Send(row) => {
                let (home, reply) = (self.shard_of(&row.filter), Reply::Member(at, row.version));
                let command = Command::Membership(Box::new(row.to_command(at as u16)));
                self.shards[home].push(Item { command, reply }, None);
            }
            MembershipEffect::Done { version } => {
                let done = Command::MembershipDone { version };
                self.shards[at].duty(ShardWhat::Duty(done), ctx);
            }
        }
        true
    }

    /// What time makes due.
    pub(crate) fn tick(&mut self, ctx: &mut Ctx) {
        self.time_out(ctx);
        for shard in &mut self.shards {
            shard.proposer.handle_timeout(ctx.boot());
        }
        if self.front.epoch.is_none() {
            return;
        }
        self.tell_epochs(ctx);
        for shard in &mut self.shards {
            let stamped = shard.stamp(ctx);
            let now = session::WallMs(stamped.time.time.0);
            for command in shard.machine.durable.due(now, 100) {
                // The end of a wait ends nothing that a client counts on.
                if stamped.may_expire || matches!(command, Command::ReplayEnd { .. }) {
                    shard.duty(ShardWhat::Duty(command), ctx);
                }
            }
        }
    }

    /// An item that some link kept arrives after all.
    pub(crate) fn stale(&mut self, at: usize, what: ShardWhat, ctx: &Ctx) {
        let is_current = match &what {
            ShardWhat::Item { epoch, .. } => self.meta.standing(*epoch) == Standing::Current,
            ShardWhat::Duty(_) | ShardWhat::Epochs(_) => true,
        };
        if is_current || ctx.defect == Defect::EndedEpochServed {
            self.shards[at].stale(what, ctx);
        }
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

    /// Lets go what waits for versions of the routes.
    fn release(&mut self, ctx: &mut Ctx) {
        for at in 0..self.shards.len() {
            let seen = self.front.seen(Source::Shard(ShardId(at as u16))).0;
            for (version, from, row) in std::mem::take(&mut self.shards[at].seats) {
                if version <= seen {
                    self.shards[from].memberships.handle_seated(row);
                } else {
                    self.shards[at].seats.push((version, from, row));
                }
            }
        }
        self.release_subacks(ctx);
    }
}

impl Serve for Node {
    fn front(&self) -> &Front {
        &self.front
    }

    fn front_mut(&mut self) -> &mut Front {
        &mut self.front
    }

    fn shards(&self) -> usize {
        self.shards.len()
    }

    fn push(&mut self, at: usize, item: Item, owner: Option<ConnectionId>) {
        self.shards[at].push(item, owner);
    }

    fn push_node(&mut self, _: NodeEpoch, _: ForClean, _: Option<ConnectionId>) {
        unreachable!("no session here is clean");
    }

    fn known_epoch(&self, at: usize, client: &ClientId) -> Option<session::Epoch> {
        self.shards[at].machine.durable.epoch(client)
    }

    /// As the replicas of the connection's node know it, which may be behind.
    fn sighting(&mut self, ctx: &mut Ctx) -> Arc<Sighting> {
        let mut sightings = Sightings::default();
        let applied = self.shards.iter().map(|shard| {
            let behind = if ctx.fails(2) {
                ctx.rng.random_range(0..20)
            } else {
                0
            };
            let entries = shard.applied.saturating_sub(behind) as u64;
            (ShardId(shard.at as u16), entries * INDEXES_PER_ENTRY)
        });
        let applied: Vec<_> = applied.collect();
        sightings.handle_applied(applied, BootMs(0));
        sightings.at(BootMs(0))
    }

    fn ask_retained(&mut self, asked: AskedRetained, ctx: &mut Ctx) {
        let wall = ctx.now().wall;
        let rows = asked.filters.iter().map(|filter| {
            let shards = self.shards.iter();
            let of = |shard: &Shard| {
                let durable = &shard.machine.durable;
                durable.retained_matching(filter, asked.limit, wall)
            };
            shards.flat_map(of).collect()
        });
        let rows = rows.collect();
        let conn = self.front.conns.get_mut(&asked.id);
        let conn = conn.expect("looked at just before");
        conn.live.handle_retained(asked.token, rows, ctx.now());
    }

    fn subscribe(
        &mut self,
        _: ConnectionId,
        _: Token,
        _: Vec<(Filter, Subscription)>,
        _: &mut Ctx,
    ) {
        panic!("every session here is persistent");
    }

    fn forget(&mut self, _: ConnectionId) {}

    fn will_published(&mut self, at: usize, key: WillKey) {
        self.shards[at].drain.handle_will_published(key);
    }

    fn seat(&mut self, home: usize, from: usize, version: u64, route: u64, ctx: &mut Ctx) {
        self.shards[home].seats.push((route, from, version));
        self.release(ctx);
    }

    fn is_seated(&self, at: usize, suback: &Suback) -> bool {
        let Some(Answer::Subscribed(all)) = &suback.answer else {
            return true;
        };
        let memberships = &self.shards[at].memberships;
        all.iter().all(|one| memberships.is_seated(one.membership))
    }
}

fn ask_for_an_epoch(is_new: bool, ctx: &mut Ctx) -> usize {
    let shards = ctx.disk.shards.len() as u16;
    let level = FeatureLevel(1);
    if is_new {
        ctx.disk.meta.append(MetaCommand::Found(Found {
            node: NODE,
            folder: FOLDER,
            shards: NonZeroU16::new(shards).expect("there are shards"),
            buckets: NonZeroU16::MIN,
            level,
        }));
    }
    ctx.disk.starts += 1;
    ctx.disk.meta.append(MetaCommand::Begin(Begin {
        node: NODE,
        folder: FOLDER,
        start: StartCount(ctx.disk.starts),
        address: String::new(),
        level,
    }))
}
