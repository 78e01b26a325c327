//! The simulation: clients, one node, and what goes wrong between them, in one seeded loop.

mod client;
mod cluster;
mod conns;
mod ctx;
mod defect;
mod disk;
mod invariants;
mod machine;
mod node;
mod owned;
mod shard;
mod trace;

use mqtt::QoS;
use rand::Rng;
use session::ConnectionId;
use tidewire_cluster_core::{ShardId, Source};

use client::{Client, Spec};
pub(crate) use cluster::run_cluster;
use conns::Serve;
use ctx::Ctx;
pub(crate) use defect::Defect;
use invariants::Seen;
use node::Node;
pub(crate) use owned::run_cluster_owned;
pub(crate) use trace::Trace;

const SHARDS: usize = 2;
const STEPS: u64 = 2_500;
/// Rounds in which everything that is owed must arrive once nothing goes wrong any longer.
const HEALING_ROUNDS: u32 = 2_000;

const ALL: &[&str] = &["t/#", "r/+", "u/only"];

const SPECS: [Spec; 5] = [
    Spec {
        id: "pub-a",
        publishes: true,
        filters: &[],
        has_will: true,
        expiry_s: 100_000,
        cleans: false,
    },
    Spec {
        id: "pub-b",
        publishes: true,
        filters: &[],
        has_will: true,
        expiry_s: 100_000,
        cleans: false,
    },
    Spec {
        id: "sub-c",
        publishes: false,
        filters: ALL,
        has_will: false,
        expiry_s: 100_000,
        cleans: false,
    },
    Spec {
        id: "sub-dd",
        publishes: false,
        filters: ALL,
        has_will: false,
        expiry_s: 100_000,
        cleans: false,
    },
    Spec {
        id: "brief-e",
        publishes: true,
        filters: &["t/+"],
        has_will: false,
        expiry_s: 5,
        cleans: true,
    },
];

/// Members of a group whose home is the one shard, that of their sessions the other or the same.
const SHARED: &str = "$share/g/t/#";

const MEMBERS: [Spec; 2] = [
    Spec {
        id: "grp-f",
        publishes: false,
        filters: &[SHARED],
        has_will: false,
        expiry_s: 100_000,
        cleans: false,
    },
    Spec {
        id: "grp-gg",
        publishes: false,
        filters: &[SHARED],
        has_will: false,
        expiry_s: 5,
        cleans: true,
    },
];

pub(crate) struct Sim {
    ctx: Ctx,
    node: Option<Node>,
    clients: Vec<Client>,
    /// Connections whose client is gone; the server does not know.
    ghosts: Vec<ConnectionId>,
    connections: u64,
    step: u64,
    /// How much the node does for each thing that happens: a member is seated by many steps of
    /// two shards.
    diligence: u32,
    /// Whether connections pass as those of several nodes, which are in no order.
    is_apart: bool,
}

/// What a run showed.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) violations: Vec<String>,
    pub(crate) trace: Trace,
    pub(crate) steps: u64,
    pub(crate) crashes: u64,
    pub(crate) acknowledged: usize,
}

/// Runs one seed to its end.
pub(crate) fn run(seed: u64, defect: Defect) -> Report {
    run_with(seed, defect, &SPECS, 1)
}

/// The same with clients that share a filter.
pub(crate) fn run_shared(seed: u64, defect: Defect) -> Report {
    run_with(seed, defect, &[&SPECS[..], &MEMBERS].concat(), 6)
}

/// The same with clients that have topics of their own.
pub(crate) fn run_owned(seed: u64, defect: Defect) -> Report {
    let specs = [&SPECS[..], &owned::OWNERS].concat();
    let mut sim = Sim::new(seed, defect, &specs, 6);
    sim.ctx.templates = owned::templates();
    report(sim)
}

/// The same with a node that does six steps for each event.
pub(crate) fn run_diligent(seed: u64, defect: Defect) -> Report {
    run_with(seed, defect, &SPECS, 6)
}

/// The same with connections that pass as those of several nodes, each of whose replicas of the
/// shards may be behind when it accepts one. An `Open` then replaces only what was known there
/// when its connection was accepted.
pub(crate) fn run_apart(seed: u64, defect: Defect) -> Report {
    let mut sim = Sim::new(seed, defect, &SPECS, 6);
    sim.is_apart = true;
    sim.ctx.looks_back = defect != Defect::LateConnectTaken;
    report(sim)
}

fn run_with(seed: u64, defect: Defect, specs: &[Spec], diligence: u32) -> Report {
    report(Sim::new(seed, defect, specs, diligence))
}

fn report(mut sim: Sim) -> Report {
    for _ in 0..STEPS {
        sim.step();
    }
    sim.heal();
    let violations = invariants::all(&sim.seen());
    Report {
        violations,
        trace: sim.ctx.trace,
        steps: sim.step,
        crashes: sim.ctx.crashes,
        acknowledged: acknowledged(&sim.clients),
    }
}

/// Messages that were acknowledged to their publishers.
fn acknowledged(clients: &[Client]) -> usize {
    let sent = clients.iter().flat_map(|client| client.sent.values());
    sent.filter(|sent| sent.acked_on.is_some()).count()
}

impl Sim {
    fn new(seed: u64, defect: Defect, specs: &[Spec], diligence: u32) -> Self {
        let clients = specs.iter().enumerate();
        Self {
            ctx: Ctx::new(seed, defect, SHARDS),
            node: None,
            clients: clients.map(|(at, spec)| Client::new(*spec, at)).collect(),
            ghosts: Vec::new(),
            connections: 0,
            step: 0,
            diligence,
            // Else their order would hide what the expected epoch is for.
            is_apart: defect == Defect::OpenWithoutExpectedEpoch,
        }
    }

    fn step(&mut self) {
        self.step += 1;
        let who = self.ctx.rng.random_range(0..self.clients.len());
        let shard = self.ctx.rng.random_range(0..SHARDS);
        let what = self.ctx.rng.random_range(0..1_000);
        self.ctx.trace.note(&(what, who, shard));
        let passed = self.ctx.rng.random_range(0..40);
        self.ctx.pass(passed);
        match what {
            0..3 => self.crash(),
            3..5 => self.pause(),
            5..7 => self.step_clock(),
            7..17 => self.cut(who),
            17..22 => self.take_over(who),
            22..27 => self.disconnect(who),
            27..60 => self.notice(),
            60..120 => self.connect(who),
            120..180 => self.publish(who),
            180..400 => self.talk(who),
            400..960 => {
                self.work(what, shard);
                for _ in 1..self.diligence {
                    let what = self.ctx.rng.random_range(400..960);
                    let shard = self.ctx.rng.random_range(0..SHARDS);
                    self.work(what, shard);
                }
            }
            _ => self.stale(),
        }
        self.forget_closed();
    }

    /// One thing that the node does.
    fn work(&mut self, what: u32, at: usize) {
        let count = self.ctx.rng.random_range(1..8);
        let Some(node) = &mut self.node else {
            self.node = Some(Node::start(&mut self.ctx));
            return;
        };
        let ctx = &mut self.ctx;
        match what {
            400..480 => send(node, at),
            480..560 => node.shards[at].carry(count, ctx),
            560..620 => node.shards[at].propose(ctx),
            620..680 => node.sync(ctx),
            680..760 => {
                for _ in 0..count {
                    node.apply_shard(at, ctx);
                }
            }
            760..830 => while node.answer(at, ctx) {},
            830..860 => {
                node.drain(at, ctx);
            }
            860..880 => {
                node.apply_meta(ctx);
            }
            880..900 => {
                node.apply_routes(ctx);
            }
            900..920 => node.refresh_trie(ctx),
            920..935 => node.tick(ctx),
            935..945 => {
                node.kick(ctx);
            }
            _ => node.settle(ctx),
        }
        node.front.sweep();
    }

    fn crash(&mut self) {
        let Some(mut node) = self.node.take() else {
            return;
        };
        self.ctx.crashes += 1;
        for shard in &mut node.shards {
            shard.leave_behind(&mut self.ctx);
        }
        let Ctx { rng, disk, .. } = &mut self.ctx;
        disk.crash(rng);
        self.ghosts.clear();
        for client in &mut self.clients {
            client.lost_connection(self.ctx.lasted_ms(client.conn));
        }
    }

    /// Nothing happens for a while.
    fn pause(&mut self) {
        let ms = self.ctx.rng.random_range(500..9_000);
        self.ctx.pass(ms);
    }

    fn step_clock(&mut self) {
        let ms = self.ctx.rng.random_range(-200_000_000..400_000_000);
        self.ctx.step_clock(ms);
    }

    fn connect(&mut self, who: usize) {
        let Some(node) = &mut self.node else { return };
        let client = &mut self.clients[who];
        if client.conn.is_some() || node.front.epoch.is_none() {
            return;
        }
        self.connections += 1;
        let id = ConnectionId(self.connections << if self.is_apart { 32 } else { 0 });
        node.accept(id, &mut self.ctx);
        let clean_start = client.spec.cleans && self.ctx.fails(3);
        let connect = client.connect(id, clean_start, self.ctx.boot().0);
        let conn = node.front.conns.get_mut(&id).expect("accepted just before");
        conn.up.push_back(connect);
    }

    /// The client's end of its connection breaks.
    fn cut(&mut self, who: usize) {
        let client = &mut self.clients[who];
        let (Some(id), Some(node)) = (client.conn, &mut self.node) else {
            return;
        };
        if let Some(conn) = node.front.conns.get_mut(&id) {
            let kept = self.ctx.rng.random_range(0..=conn.up.len());
            conn.up.truncate(kept);
            conn.is_cut = true;
        }
        client.lost_connection(self.ctx.lasted_ms(Some(id)));
        self.ghosts.push(id);
    }

    /// The client begins another connection while the server still believes in the old one.
    fn take_over(&mut self, who: usize) {
        if self.clients[who].conn.is_some() {
            self.cut(who);
            self.connect(who);
        }
    }

    /// The client ends its connection in order.
    fn disconnect(&mut self, who: usize) {
        let client = &mut self.clients[who];
        let (Some(id), Some(node)) = (client.conn, &mut self.node) else {
            return;
        };
        if !client.is_connected {
            return;
        }
        if let Some(conn) = node.front.conns.get_mut(&id) {
            conn.up.push_back(client.disconnect());
            conn.is_cut = true;
        }
        client.lost_connection(self.ctx.lasted_ms(Some(id)));
        self.ghosts.push(id);
    }

    /// The server reads what a ghost had sent, or notices that it is gone.
    fn notice(&mut self) {
        if self.ghosts.is_empty() {
            return;
        }
        let Some(node) = &mut self.node else { return };
        let at = self.ctx.rng.random_range(0..self.ghosts.len());
        let id = self.ghosts[at];
        let left = node.front.conns.get(&id).map_or(0, |conn| conn.up.len());
        if left > 0 && self.ctx.rng.random_bool(0.6) {
            return node.move_up(id, 1, &mut self.ctx);
        }
        node.move_up(id, left, &mut self.ctx);
        node.notice(id, &mut self.ctx);
        self.ghosts.swap_remove(at);
    }

    fn publish(&mut self, who: usize) {
        let client = &mut self.clients[who];
        if !client.spec.publishes {
            return;
        }
        let kind = self.ctx.rng.random_range(0..10);
        let (topic, qos) = match kind {
            0..4 => (format!("t/{}", client.spec.id), QoS::ExactlyOnce),
            4..8 => (format!("t/{}", client.spec.id), QoS::AtLeastOnce),
            8 => (owned::topic(&self.ctx.templates, client), QoS::ExactlyOnce),
            _ if client.spec.has_will => (format!("r/{}", client.spec.id), QoS::AtLeastOnce),
            _ => return,
        };
        client.publish(topic, qos);
    }

    /// A client and its connection exchange some packets.
    fn talk(&mut self, who: usize) {
        let client = &mut self.clients[who];
        let (Some(id), Some(node)) = (client.conn, &mut self.node) else {
            return;
        };
        let up = self.ctx.rng.random_range(0..5);
        let down = self.ctx.rng.random_range(0..5);
        let now_ms = self.ctx.boot().0;
        let Some(conn) = node.front.conns.get_mut(&id) else {
            return;
        };
        conn.up.extend(client.poll(self.step));
        for _ in 0..down {
            let Some(packet) = conn.down.pop_front() else {
                break;
            };
            self.ctx.trace.note(&packet);
            conn.up.extend(client.handle(&packet, self.step, now_ms));
        }
        node.move_up(id, up, &mut self.ctx);
    }

    fn stale(&mut self) {
        if self.ctx.stale.is_empty() {
            return;
        }
        let Some(node) = &mut self.node else { return };
        let at = self.ctx.rng.random_range(0..self.ctx.stale.len());
        let (shard, what) = self.ctx.stale.swap_remove(at);
        node.stale(shard, what, &self.ctx);
    }

    /// Clients learn that the server closed their connection.
    fn forget_closed(&mut self) {
        for client in &mut self.clients {
            let Some(id) = client.conn else { continue };
            let conns = self.node.as_ref().map(|node| &node.front.conns);
            let conn = conns.and_then(|conns| conns.get(&id));
            if conn.is_none_or(|conn| conn.is_closed && conn.down.is_empty()) {
                client.lost_connection(self.ctx.lasted_ms(Some(id)));
            }
        }
    }

    /// No more faults: everything that is owed arrives.
    fn heal(&mut self) {
        self.ctx.faults = false;
        // What comes after all faults finds out whether everybody is still served.
        for who in 0..self.clients.len() {
            if self.clients[who].spec.publishes {
                let topic = format!("t/{}", self.clients[who].spec.id);
                self.clients[who].publish(topic, QoS::AtLeastOnce);
            }
        }
        for _ in 0..HEALING_ROUNDS {
            self.step += 1;
            self.ctx.pass(20);
            for who in 0..self.clients.len() {
                self.connect(who);
                self.talk(who);
            }
            while !self.ghosts.is_empty() && self.node.is_some() {
                self.notice();
            }
            self.work_on_everything();
            self.forget_closed();
            if self.is_quiet() {
                return;
            }
        }
        let waiting = self.waiting();
        self.ctx
            .violations
            .push(format!("not at rest after healing: {waiting}"));
    }

    fn work_on_everything(&mut self) {
        let node = self.node.get_or_insert_with(|| Node::start(&mut self.ctx));
        let ctx = &mut self.ctx;
        while node.apply_meta(ctx) {}
        node.tick(ctx);
        for at in 0..SHARDS {
            send(node, at);
            node.shards[at].carry(usize::MAX, ctx);
            node.shards[at].propose(ctx);
        }
        node.sync(ctx);
        while node.apply_routes(ctx) {}
        node.refresh_trie(ctx);
        for at in 0..SHARDS {
            while node.apply_shard(at, ctx) {}
            while node.answer(at, ctx) {}
            while node.drain(at, ctx) {}
        }
        while node.kick(ctx) {}
        node.settle(ctx);
        node.front.sweep();
    }

    /// What the checkers look at.
    fn seen(&self) -> Seen<'_> {
        let node = self.node.as_ref();
        let shards = node.map(|node| node.shards.iter().map(|s| &s.machine.durable).collect());
        Seen {
            clients: &self.clients,
            noted: &self.ctx.violations,
            sent_again: &self.ctx.sent_again,
            tries: node.map(|node| &node.front.trie).into_iter().collect(),
            shards: shards.unwrap_or_default(),
            source_of: &|spec, filter| {
                // A group's route is that of the plain filter in its home shard.
                let home = filter.shared().map_or(spec.id, |_| filter.as_str());
                Source::Shard(ShardId(conns::shard_of(home, SHARDS) as u16))
            },
            templates: &self.ctx.templates,
            now: self.ctx.now().wall,
        }
    }

    fn is_quiet(&self) -> bool {
        self.waiting().is_empty()
    }

    /// What is still to be done.
    fn waiting(&self) -> String {
        let Some(node) = &self.node else {
            return "the node".to_owned();
        };
        let mut waiting = Vec::new();
        for client in self.clients.iter().filter(|client| !client.is_done()) {
            waiting.push(client.spec.id.to_owned());
        }
        for shard in node.shards.iter().filter(|shard| !shard.is_idle()) {
            waiting.push(format!("shard {}", shard.at));
        }
        let queued = |shard: &shard::Shard| shard.machine.durable.counters().queue_messages;
        if node.shards.iter().any(|shard| queued(shard) > 0) {
            waiting.push("queues".to_owned());
        }
        if !node.front.obligations.is_empty() || !node.front.subacks.is_empty() {
            waiting.push("obligations".to_owned());
        }
        let has_packets = |conn: &conns::Conn| !conn.up.is_empty() || !conn.down.is_empty();
        if node.front.conns.values().any(has_packets) {
            waiting.push("links".to_owned());
        }
        waiting.join(", ")
    }
}

fn send(node: &mut Node, at: usize) {
    let Node { shards, front, .. } = node;
    if let Some(epoch) = front.epoch {
        shards[at].send(epoch, |id| front.is_open(id));
    }
}
