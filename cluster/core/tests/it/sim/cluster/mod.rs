//! The simulation of several nodes: groups, links, processes and clients in one seeded loop.

mod group;
mod host;
mod leading;
mod net;
mod node;
mod raft;
mod streams;

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use mqtt::{QoS, Templates};
use rand::Rng;
use session::{Answer, Command, ConnectionId};
use tidewire_cluster_core::{
    Body, FeatureLevel, FolderId, Found, Join, MetaCommand, RoutesCommand, ShardId, Source,
};

use super::client::{Client, Spec};
use super::conns::{Serve, shard_of};
use super::ctx::Ctx;
use super::defect::Defect;
use super::disk::{ShardEntry, ShardWhat};
use super::invariants::{self, Seen};
use super::machine::{INDEXES_PER_ENTRY, Outcome};
use super::owned;
use super::{ALL, Report, SHARDS, SHARED, acknowledged};
use group::Group;
use net::Net;
use node::{Node, node_id};

const STEPS: u64 = 1_500;
/// What nodes do for each thing that happens.
const DILIGENCE: u32 = 40;
/// Rounds in which everything that is owed must arrive once nothing goes wrong any longer.
const HEALING_ROUNDS: u32 = 600;

const fn spec(id: &'static str) -> Spec {
    Spec {
        id,
        publishes: false,
        filters: &[],
        has_will: false,
        expiry_s: 100_000,
        cleans: false,
    }
}

/// Publishes what nobody wants: only the lease stands between that and its PUBACK.
const UNWANTED: &str = "pub-v";

pub(crate) const SPECS: [Spec; 8] = [
    Spec {
        publishes: true,
        ..spec(UNWANTED)
    },
    Spec {
        publishes: true,
        has_will: true,
        ..spec("pub-a")
    },
    Spec {
        publishes: true,
        has_will: true,
        ..spec("pub-b")
    },
    Spec {
        filters: ALL,
        ..spec("sub-c")
    },
    Spec {
        publishes: true,
        filters: &["t/+"],
        expiry_s: 5,
        cleans: true,
        ..spec("brief-e")
    },
    Spec {
        filters: &["t/#"],
        expiry_s: 0,
        cleans: true,
        ..spec("clean-h")
    },
    Spec {
        filters: &[SHARED],
        ..spec("grp-f")
    },
    Spec {
        filters: &[SHARED],
        expiry_s: 5,
        cleans: true,
        ..spec("grp-gg")
    },
];

/// What lies outside the processes.
pub(crate) struct World {
    pub(crate) ctx: Ctx,
    pub(crate) nodes: usize,
    pub(crate) net: Net,
    pub(crate) groups: Groups,
    /// For the checkers: what each position of each shard was applied with, first of all.
    applied: BTreeMap<(usize, usize), Outcome>,
}

pub(crate) struct Groups {
    pub(crate) meta: Group<MetaCommand>,
    pub(crate) routes: Group<RoutesCommand>,
    pub(crate) shards: Vec<Group<ShardEntry>>,
}

struct Cluster {
    w: World,
    nodes: Vec<Option<Node>>,
    starts: Vec<u64>,
    /// Until when each is stopped.
    asleep_ms: Vec<u64>,
    clients: Vec<Client>,
    /// The node of each client's connection.
    homes: Vec<usize>,
    /// Connections whose client is gone; their nodes do not know.
    ghosts: Vec<(usize, ConnectionId)>,
    connections: u64,
    step: u64,
}

/// Runs one seed of so many nodes to its end.
pub(crate) fn run_cluster(seed: u64, defect: Defect) -> Report {
    run_nodes(seed, defect, &SPECS, Templates::default())
}

/// The same of these clients, in a cluster that was founded with templates.
pub(crate) fn run_nodes(seed: u64, defect: Defect, specs: &[Spec], templates: Templates) -> Report {
    let nodes = if seed % 4 == 3 { 5 } else { 3 };
    let mut cluster = Cluster::new(seed, nodes, defect, specs);
    cluster.w.ctx.templates = templates;
    cluster.begin();
    for _ in 0..STEPS {
        cluster.step();
    }
    cluster.heal();
    cluster.report()
}

pub(super) fn folder(at: usize) -> FolderId {
    FolderId(100 + at as u128)
}

/// A cluster whose nodes have joined.
fn founded(nodes: usize) -> Vec<MetaCommand> {
    let level = FeatureLevel(1);
    let mut commands = vec![MetaCommand::Found(Found {
        node: node_id(0),
        folder: folder(0),
        shards: NonZeroU16::new(SHARDS as u16).expect("there are shards"),
        buckets: NonZeroU16::MIN,
        level,
    })];
    commands.extend((1..nodes).map(|at| {
        MetaCommand::Join(Join {
            node: Some(node_id(at)),
            folder: folder(at),
            level,
        })
    }));
    commands
}

impl World {
    fn new(seed: u64, nodes: usize, defect: Defect) -> Self {
        let mut ctx = Ctx::new(seed, defect, 0);
        ctx.begin_cluster(nodes);
        let all: Vec<usize> = (0..nodes).collect();
        let voters = |first: usize| (0..3).map(|n| (first + n) % nodes).collect::<Vec<_>>();
        let learners = |voters: &[usize]| {
            let others = all.iter().filter(|at| !voters.contains(at));
            others.copied().collect::<Vec<_>>()
        };
        let meta = voters(0);
        let routes = voters(1);
        Self {
            ctx,
            nodes,
            net: Net::new(nodes),
            groups: Groups {
                meta: Group::new(meta.clone(), &learners(&meta), founded(nodes)),
                routes: Group::new(routes.clone(), &learners(&routes), Vec::new()),
                shards: (0..SHARDS)
                    .map(|shard| Group::new(voters(2 * shard), &[], Vec::new()))
                    .collect(),
            },
            applied: BTreeMap::new(),
        }
    }

    /// What the checkers see of an applied entry.
    fn watch(&mut self, shard: usize, position: usize, entry: &ShardEntry, outcome: &Outcome) {
        let known = self.applied.get(&(shard, position));
        if let Some(known) = known {
            if known != outcome {
                let what = format!("{position} of shard {shard}: {outcome:?}, not {known:?}");
                self.ctx.violations.push(what);
            }
            return;
        }
        self.applied.insert((shard, position), outcome.clone());
        self.ctx.trace.note(&(shard, position, outcome));
        let (ShardWhat::Item { body, .. }, Outcome::Applied(answer)) = (&entry.what, outcome)
        else {
            return;
        };
        let (Body::Item(Command::Open(open)), Answer::Opened { epoch, .. }) = (body, answer) else {
            return;
        };
        if epoch.0 != position as u64 * INDEXES_PER_ENTRY {
            return;
        }
        if open.expected_epoch.is_some_and(|former| former >= *epoch) {
            let what = format!("{}: epoch {epoch} does not rise", open.client);
            self.ctx.violations.push(what);
        }
        let newest = self.ctx.opened.entry(open.client.clone()).or_default();
        if open.connection < *newest && open.expected_epoch.is_some() {
            self.ctx.violations.push(format!(
                "{}: connection {} unseated {newest}, which came later",
                open.client, open.connection
            ));
        }
        *newest = open.connection.max(*newest);
    }
}

impl Cluster {
    fn new(seed: u64, nodes: usize, defect: Defect, specs: &[Spec]) -> Self {
        let clients = specs.iter().enumerate();
        let clients: Vec<Client> = clients.map(|(at, spec)| Client::new(*spec, at)).collect();
        Self {
            w: World::new(seed, nodes, defect),
            nodes: std::iter::repeat_with(|| None).take(nodes).collect(),
            starts: vec![0; nodes],
            asleep_ms: vec![0; nodes],
            homes: vec![0; clients.len()],
            clients,
            ghosts: Vec::new(),
            connections: 0,
            step: 0,
        }
    }

    /// Every node starts and serves.
    fn begin(&mut self) {
        self.w.ctx.faults = false;
        for _ in 0..100 {
            self.w.ctx.pass(20);
            self.work_on_everything();
        }
        let serving = self.nodes.iter().flatten().filter(|node| node.is_serving());
        assert_eq!(serving.count(), self.nodes.len(), "the cluster begins");
        self.w.ctx.faults = true;
    }

    fn step(&mut self) {
        self.step += 1;
        let who = self.w.ctx.rng.random_range(0..self.clients.len());
        let what = self.w.ctx.rng.random_range(0..1_000);
        self.w.ctx.trace.note(&(what, who));
        let passed = self.w.ctx.rng.random_range(0..40);
        self.w.ctx.pass(passed);
        self.wake();
        match what {
            0..3 => self.crash(),
            3..6 => self.stop(),
            6..8 => self.step_clock(),
            8..15 => self.part(),
            // After some seconds: an epoch ends 3.5 s after its last lease.
            15..20 => self.w.net.mend(),
            20..35 => self.cut(who),
            35..55 => self.take_over(who),
            55..65 => self.disconnect(who),
            65..160 => self.notice(),
            160..300 => self.connect(who),
            300..450 => self.publish(who),
            _ => self.talk(who),
        }
        for _ in 0..DILIGENCE {
            self.work();
        }
        self.talk(who);
        self.answer_retained();
        self.forget_closed();
    }

    /// One thing that one node does.
    fn work(&mut self) {
        let at = self.w.ctx.rng.random_range(0..self.nodes.len());
        let what = self.w.ctx.rng.random_range(0..100);
        let shard = self.w.ctx.rng.random_range(0..SHARDS);
        let peer = self.w.ctx.rng.random_range(0..self.nodes.len());
        if !self.w.net.is_awake(at) {
            return;
        }
        let w = &mut self.w;
        w.ctx.turn_to(at);
        let Some(node) = &mut self.nodes[at] else {
            if what < 20 {
                self.starts[at] += 1;
                self.nodes[at] = Some(Node::new(at, self.starts[at], w));
            }
            return;
        };
        match what {
            0..30 => {
                for _ in 0..4 {
                    node.receive(w);
                }
            }
            30..38 => node.send(shard, w),
            38..42 => node.send_peers(w),
            42..52 => node.lead(shard, w),
            52..58 => w.sync(at),
            58..72 => w.replicate(at, peer),
            72..80 => node.apply_shard(shard, 5, w),
            80..84 => node.apply_meta(w),
            84..88 => node.apply_routes(w),
            88..92 => node.refresh_trie(&mut w.ctx),
            92..96 => node.tick(w),
            96..97 => {
                node.kick(&mut w.ctx);
            }
            97..98 => node.round(w),
            _ => w.elect(at),
        }
        node.front.sweep();
        if node.has_ended {
            self.end(at);
        }
    }

    /// A process whose epoch has ended closes everything and begins anew; so does one that dies.
    fn end(&mut self, at: usize) {
        self.nodes[at] = None;
        self.w.crash(at);
        self.ghosts.retain(|(node, _)| *node != at);
        for (client, home) in self.clients.iter_mut().zip(&self.homes) {
            if *home == at {
                client.lost_connection(self.w.ctx.lasted_ms(client.conn));
            }
        }
    }

    fn crash(&mut self) {
        let at = self.w.ctx.rng.random_range(0..self.nodes.len());
        if self.nodes[at].is_some() {
            self.w.ctx.crashes += 1;
            self.end(at);
        }
    }

    /// A process stands still for a while.
    fn stop(&mut self) {
        let at = self.w.ctx.rng.random_range(0..self.nodes.len());
        let ms = self.w.ctx.rng.random_range(500..7_000);
        self.asleep_ms[at] = self.w.ctx.boot().0 + ms;
        self.w.net.sleep(at);
    }

    fn wake(&mut self) {
        for (at, until_ms) in self.asleep_ms.iter().enumerate() {
            if *until_ms <= self.w.ctx.boot().0 {
                self.w.net.wake(at);
            }
        }
    }

    fn step_clock(&mut self) {
        let at = self.w.ctx.rng.random_range(0..self.nodes.len());
        let ms = self.w.ctx.rng.random_range(-200_000_000..400_000_000);
        self.w.ctx.turn_to(at);
        self.w.ctx.step_clock(ms);
    }

    /// Links fail: one direction, one link, a node's, or all between two parts.
    fn part(&mut self) {
        let (rng, net) = (&mut self.w.ctx.rng, &mut self.w.net);
        let nodes = self.nodes.len();
        let (a, b) = (rng.random_range(0..nodes), rng.random_range(0..nodes));
        match rng.random_range(0..8) {
            0..3 => net.cut(a, b),
            3 => {
                net.cut(a, b);
                net.cut(b, a);
            }
            4 => (0..nodes).for_each(|other| net.cut(a, other)),
            5 => (0..nodes).for_each(|other| net.cut(other, a)),
            _ => {
                let side = rng.random_range(1..(1 << nodes) - 1);
                for from in 0..nodes {
                    for to in 0..nodes {
                        if (side >> from & 1) != (side >> to & 1) {
                            net.cut(from, to);
                        }
                    }
                }
            }
        }
    }

    fn connect(&mut self, who: usize) {
        let at = self.w.ctx.rng.random_range(0..self.nodes.len());
        let client = &mut self.clients[who];
        let Some(node) = &mut self.nodes[at] else {
            return;
        };
        if client.conn.is_some() || !node.is_serving() || !self.w.net.is_awake(at) {
            return;
        }
        self.w.ctx.turn_to(at);
        self.connections += 1;
        let id = ConnectionId(self.connections);
        node.accept(id, &mut self.w.ctx);
        let clean_start = client.spec.cleans && self.w.ctx.fails(3);
        let clean_start = clean_start || client.spec.expiry_s == 0;
        let connect = client.connect(id, clean_start, self.w.ctx.boot().0);
        let conn = node.front.conns.get_mut(&id).expect("accepted just before");
        conn.up.push_back(connect);
        self.homes[who] = at;
    }

    /// The client's end of its connection breaks.
    fn cut(&mut self, who: usize) {
        let client = &mut self.clients[who];
        let at = self.homes[who];
        let (Some(id), Some(node)) = (client.conn, &mut self.nodes[at]) else {
            return;
        };
        if let Some(conn) = node.front.conns.get_mut(&id) {
            let kept = self.w.ctx.rng.random_range(0..=conn.up.len());
            conn.up.truncate(kept);
            conn.is_cut = true;
        }
        client.lost_connection(self.w.ctx.lasted_ms(Some(id)));
        self.ghosts.push((at, id));
    }

    /// The client begins another connection while the node still believes in the old one.
    fn take_over(&mut self, who: usize) {
        if self.clients[who].conn.is_some() {
            self.cut(who);
            self.connect(who);
        }
    }

    /// The client ends its connection in order.
    fn disconnect(&mut self, who: usize) {
        let client = &mut self.clients[who];
        let at = self.homes[who];
        let (Some(id), Some(node)) = (client.conn, &mut self.nodes[at]) else {
            return;
        };
        if !client.is_connected {
            return;
        }
        if let Some(conn) = node.front.conns.get_mut(&id) {
            conn.up.push_back(client.disconnect());
            conn.is_cut = true;
        }
        client.lost_connection(self.w.ctx.lasted_ms(Some(id)));
        self.ghosts.push((at, id));
    }

    /// A node reads what a ghost had sent, or notices that it is gone.
    fn notice(&mut self) {
        if self.ghosts.is_empty() {
            return;
        }
        let index = self.w.ctx.rng.random_range(0..self.ghosts.len());
        let (at, id) = self.ghosts[index];
        if !self.w.net.is_awake(at) {
            return;
        }
        self.w.ctx.turn_to(at);
        let Some(node) = &mut self.nodes[at] else {
            return;
        };
        let ctx = &mut self.w.ctx;
        let left = node.front.conns.get(&id).map_or(0, |conn| conn.up.len());
        if left > 0 && ctx.rng.random_bool(0.6) {
            return node.move_up(id, 1, ctx);
        }
        node.move_up(id, left, ctx);
        node.notice(id, ctx);
        self.ghosts.swap_remove(index);
    }

    fn publish(&mut self, who: usize) {
        let client = &mut self.clients[who];
        if !client.spec.publishes {
            return;
        }
        let kind = self.w.ctx.rng.random_range(0..10);
        let (topic, qos) = match kind {
            0..4 if client.spec.id != UNWANTED => {
                (format!("t/{}", client.spec.id), QoS::ExactlyOnce)
            }
            _ if client.spec.id == UNWANTED => ("v/none".to_owned(), QoS::AtLeastOnce),
            4..8 => (format!("t/{}", client.spec.id), QoS::AtLeastOnce),
            8 => (
                owned::topic(&self.w.ctx.templates, client),
                QoS::ExactlyOnce,
            ),
            _ if client.spec.has_will => (format!("r/{}", client.spec.id), QoS::AtLeastOnce),
            _ => return,
        };
        client.publish(topic, qos);
    }

    /// A client and its connection exchange some packets.
    fn talk(&mut self, who: usize) {
        let client = &mut self.clients[who];
        let at = self.homes[who];
        if !self.w.net.is_awake(at) {
            return;
        }
        let (Some(id), Some(node)) = (client.conn, &mut self.nodes[at]) else {
            return;
        };
        self.w.ctx.turn_to(at);
        let up = self.w.ctx.rng.random_range(0..5);
        let down = self.w.ctx.rng.random_range(0..5);
        let now_ms = self.w.ctx.boot().0;
        let Some(conn) = node.front.conns.get_mut(&id) else {
            return;
        };
        conn.up.extend(client.poll(self.step));
        for _ in 0..down {
            let Some(packet) = conn.down.pop_front() else {
                break;
            };
            self.w.ctx.trace.note(&packet);
            conn.up.extend(client.handle(&packet, self.step, now_ms));
        }
        node.move_up(id, up, &mut self.w.ctx);
    }

    /// Asks the leaders of all shards for retained messages; where one does not answer, it is asked
    /// again.
    fn answer_retained(&mut self) {
        for at in 0..self.nodes.len() {
            let Some(node) = &mut self.nodes[at] else {
                continue;
            };
            if !self.w.net.is_awake(at) || node.retained.is_empty() {
                continue;
            }
            let leaders = (0..SHARDS).map(|shard| {
                let leader = self.w.groups.shards[shard].true_leader()?;
                let net = &self.w.net;
                let is_near = leader == at || (net.reaches(at, leader) && net.reaches(leader, at));
                is_near.then_some(leader)
            });
            let Some(leaders) = leaders.collect::<Option<Vec<usize>>>() else {
                continue;
            };
            let mut confirmed = leaders.iter().enumerate();
            let groups = &mut self.w.groups.shards;
            if !confirmed.all(|(shard, at)| groups[shard].is_confirmed(*at, &self.w.net)) {
                continue;
            }
            let asked = std::mem::take(&mut node.retained);
            for one in asked {
                self.w.ctx.turn_to(at);
                let wall = self.w.ctx.now().wall;
                let rows = one.filters.iter().map(|filter| {
                    let all = leaders.iter().enumerate();
                    let of = |(shard, at): (usize, &usize)| {
                        let host = self.nodes[*at].as_ref()?.hosts.get(&shard)?;
                        let durable = &host.machine.durable;
                        Some(durable.retained_matching(filter, one.limit, wall))
                    };
                    all.filter_map(of).flatten().collect()
                });
                let rows: Vec<Vec<_>> = rows.collect();
                if let Some(node) = &mut self.nodes[at] {
                    node.with_live(one.id, &mut self.w.ctx, |live, now| {
                        live.handle_retained(one.token, rows, now);
                    });
                }
            }
        }
    }

    /// Clients learn that the node closed their connection.
    fn forget_closed(&mut self) {
        for (client, at) in self.clients.iter_mut().zip(&self.homes) {
            let Some(id) = client.conn else { continue };
            let conns = self.nodes[*at].as_ref().map(|node| &node.front.conns);
            let conn = conns.and_then(|conns| conns.get(&id));
            if conn.is_none_or(|conn| conn.is_closed && conn.down.is_empty()) {
                client.lost_connection(self.w.ctx.lasted_ms(Some(id)));
            }
        }
    }

    /// No more faults: everything that is owed arrives.
    fn heal(&mut self) {
        self.w.ctx.faults = false;
        self.w.ctx.set_clocks();
        self.w.net.mend();
        self.asleep_ms.fill(0);
        self.wake();
        for who in 0..self.clients.len() {
            if self.clients[who].spec.publishes && self.clients[who].spec.id != UNWANTED {
                let topic = format!("t/{}", self.clients[who].spec.id);
                self.clients[who].publish(topic, QoS::AtLeastOnce);
            }
        }
        for _ in 0..HEALING_ROUNDS {
            self.step += 1;
            self.w.ctx.pass(20);
            for who in 0..self.clients.len() {
                self.connect(who);
                self.talk(who);
            }
            for _ in 0..self.ghosts.len() {
                self.notice();
            }
            self.work_on_everything();
            self.answer_retained();
            self.forget_closed();
            if self.waiting().is_empty() {
                return;
            }
        }
        let waiting = self.waiting();
        let what = format!("not at rest after healing: {}", waiting.join(", "));
        self.w.ctx.violations.push(what);
    }

    fn work_on_everything(&mut self) {
        for at in 0..self.nodes.len() {
            let w = &mut self.w;
            w.ctx.turn_to(at);
            if self.nodes[at].is_none() {
                self.starts[at] += 1;
                self.nodes[at] = Some(Node::new(at, self.starts[at], w));
            }
            let node = self.nodes[at].as_mut().expect("started just before");
            w.elect(at);
            node.apply_meta(w);
            node.apply_routes(w);
            node.refresh_trie(&mut w.ctx);
            node.tick(w);
            for _ in 0..4 {
                for _ in 0..100 {
                    node.receive(w);
                }
                for shard in 0..SHARDS {
                    node.send(shard, w);
                    node.lead(shard, w);
                }
                node.send_peers(w);
                w.sync(at);
                for peer in 0..w.nodes {
                    w.replicate(at, peer);
                }
                for shard in 0..SHARDS {
                    node.apply_shard(shard, 1_000, w);
                }
            }
            node.round(w);
            while node.kick(&mut w.ctx) {}
            node.front.sweep();
            if node.has_ended {
                self.end(at);
            }
        }
    }

    /// What is still to be done.
    fn waiting(&self) -> Vec<String> {
        let mut waiting = Vec::new();
        for client in self.clients.iter().filter(|client| !client.is_done()) {
            waiting.push(client.spec.id.to_owned());
        }
        for (at, node) in self.nodes.iter().enumerate() {
            match node {
                Some(node) => node.waiting(&mut waiting),
                None => waiting.push(format!("node {at}")),
            }
        }
        for shard in 0..SHARDS {
            let leader = self.w.groups.shards[shard].true_leader();
            let node = leader.and_then(|at| self.nodes[at].as_ref());
            let host = node.and_then(|node| node.hosts.get(&shard));
            if host.is_none_or(|host| host.leads.is_none()) {
                waiting.push(format!("a leader of shard {shard}"));
            }
        }
        waiting
    }

    fn report(self) -> Report {
        let leader = |shard: usize| {
            let at = self.w.groups.shards[shard].true_leader()?;
            let host = self.nodes[at].as_ref()?.hosts.get(&shard)?;
            Some(&host.machine.durable)
        };
        let clean = self
            .clients
            .iter()
            .zip(&self.homes)
            .filter_map(|(client, at)| {
                let is_clean = client.spec.expiry_s == 0;
                let epoch = self.nodes[*at].as_ref()?.front.epoch.filter(|_| is_clean)?;
                Some((client.spec.id, Source::Node(epoch)))
            });
        let seen = Seen {
            clients: &self.clients,
            noted: &self.w.ctx.violations,
            sent_again: &self.w.ctx.sent_again,
            tries: self
                .nodes
                .iter()
                .flatten()
                .map(|node| &node.front.trie)
                .collect(),
            shards: (0..SHARDS).filter_map(leader).collect(),
            source_of: &|spec, filter| {
                let home = filter.shared().map_or(spec.id, |_| filter.as_str());
                let clean: BTreeMap<_, _> = clean.clone().collect();
                let shard = Source::Shard(ShardId(shard_of(home, SHARDS) as u16));
                clean.get(spec.id).copied().unwrap_or(shard)
            },
            templates: &self.w.ctx.templates,
            now: self.w.ctx.now().wall,
        };
        let violations = invariants::all(&seen);
        Report {
            violations,
            trace: self.w.ctx.trace,
            steps: self.step,
            crashes: self.w.ctx.crashes,
            acknowledged: acknowledged(&self.clients),
        }
    }
}
