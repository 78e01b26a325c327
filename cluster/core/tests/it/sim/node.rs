//! One run of the node's process: groups, routes, shards; connections are in `conns`.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU16;
use std::sync::Arc;

use mqtt::Trie;
use session::{Command, Config, ConnectionId, DurableEffect, WillId};
use tidewire_cluster_core::{
    Begin, Body, DrainEffect, FeatureLevel, FolderId, Found, Lease, MembershipEffect, Meta,
    MetaAnswer, MetaCommand, NodeEpoch, NodeId, RouteVersion, Routes, RoutesCommand, RoutesEffect,
    ShardId, Source, Standing, StartCount, Visible, WallMs, WillKey,
};

use super::conns::{Conn, Settles};
use super::ctx::Ctx;
use super::defect::Defect;
use super::disk::{ShardEntry, ShardWhat};
use super::machine::{INDEXES_PER_ENTRY, Outcome};
use super::shard::{Item, Reply, Shard};

const FOLDER: FolderId = FolderId(7);
const NODE: NodeId = NodeId(1);
const ROUTES_MAX: usize = 1_000;

pub(crate) struct Node {
    pub(crate) config: Arc<Config>,
    meta: Meta,
    meta_applied: usize,
    /// Position of the entry that begins this run's epoch.
    begin_at: usize,
    /// This run's epoch, once begun.
    pub(crate) epoch: Option<NodeEpoch>,
    pub(crate) lease: Option<Lease>,
    pub(crate) routes: Routes,
    routes_applied: usize,
    /// Batches of shards in the log of routes, by position.
    batches: BTreeMap<usize, usize>,
    pub(crate) trie: Trie<Source, ()>,
    pub(crate) visible: Visible,
    pub(crate) shards: Vec<Shard>,
    pub(crate) conns: BTreeMap<ConnectionId, Conn>,
    pub(crate) kicks: VecDeque<ConnectionId>,
    pub(crate) obligations: BTreeMap<u64, (usize, Settles)>,
    pub(crate) obligation_ids: u64,
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
            config: Arc::new(Config::default()),
            meta,
            meta_applied,
            begin_at,
            epoch: None,
            lease: None,
            routes,
            routes_applied,
            batches: BTreeMap::new(),
            trie,
            visible: Visible::default(),
            shards: (0..shards).map(|at| Shard::replayed(at, ctx)).collect(),
            conns: BTreeMap::new(),
            kicks: VecDeque::new(),
            obligations: BTreeMap::new(),
            obligation_ids: 0,
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
        self.epoch = Some(epoch);
        self.lease = Some(Lease::new(epoch, self.meta.is_lone(), ctx.boot()));
        self.visible.handle_begun(epoch);
        for source in self.routes.sources() {
            let (version, index) = (self.routes.applied(source), self.routes.index());
            self.visible.handle_entry(source, version, index);
        }
        self.visible.handle_applied(epoch, self.routes.index());
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
                    self.trie.insert(&filter, source, ());
                }
                RoutesEffect::Remove { filter, source } => {
                    self.trie.remove(&filter, &source);
                }
                RoutesEffect::Applied {
                    source,
                    version,
                    index,
                } => self.visible.handle_entry(source, version, index),
            }
        }
        if let Some(epoch) = self.epoch {
            self.visible.handle_applied(epoch, self.routes.index());
        }
        while self.visible.poll_visible().is_some() {}
        self.release_subacks(ctx);
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
                DurableEffect::TakenOver { connection, .. } => self.kicks.push_back(connection),
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
                if ctx.defect != Defect::OutboxNotResumed {
                    self.shards[at].machine.durable.resume_outbox();
                }
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
        if self.epoch.is_none() {
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

    pub(crate) fn seen(&self, at: usize) -> RouteVersion {
        self.visible.version(Source::Shard(ShardId(at as u16)))
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
