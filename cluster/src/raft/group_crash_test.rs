//! Shared groups on a faulty disk. The sessions of the members live in one shard, the groups in
//! another, the routes in a third group; a crash comes between any two steps. Whoever was told that
//! he is a member is one, what was acknowledged is handed to a member again until one of them
//! acknowledges it, with DUP if one may have it, in order as far as a member can tell.

use std::collections::{BTreeMap, BTreeSet};

use cluster_core::{
    Deltas, NodeEpoch, RouteDelta, RouteVersion, RoutesAnswer, RoutesCommand, ShardId, Source,
    WallMs,
};
use mqtt::{ClientId, Filter, QoS, Topic};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use session::{
    Answer, Close, Command, ConnectionId, DurableEffect, Enqueue, GroupDelivery, GroupSeq,
    Identity, MembershipRow, Open, RouteRow, Subs, Subscription, Unsubs, WillFate,
};
use storage::fs::FaultFs;
use storage::raft::Defects;

use super::Group;
use super::test_node::{Setup, TestNode};
use super::test_shard::{Stop, TestShard, message, number_of, start, view};
use crate::{RoutesConfig, RoutesEntry, RoutesMachine};

const SEEDS: u64 = 40;
const CRASHES: u64 = 6;
const ROUNDS: u64 = 25;

/// A group of many, and one of a single member, which gets everything in order.
const SHARED: &str = "$share/many/t";
const ALONE: &str = "$share/one/+";

/// The number of the members' shard among the sources, and that of the groups' home.
const SESSIONS: u16 = 0;
const HOME: ShardId = ShardId(1);

struct Client {
    name: &'static str,
    is_persistent: bool,
    filters: &'static [&'static str],
    qos: QoS,
}

const CLIENTS: [Client; 4] = [
    Client {
        name: "a",
        is_persistent: true,
        filters: &[SHARED, ALONE],
        qos: QoS::AtLeastOnce,
    },
    Client {
        name: "b",
        is_persistent: true,
        filters: &[SHARED],
        qos: QoS::AtLeastOnce,
    },
    Client {
        name: "forgetful",
        is_persistent: true,
        filters: &[SHARED],
        qos: QoS::AtMostOnce,
    },
    Client {
        name: "clean",
        is_persistent: false,
        filters: &[SHARED],
        qos: QoS::AtLeastOnce,
    },
];

/// What is known of a group.
#[derive(Default)]
struct Told {
    /// Clients whose SUBACK came.
    members: BTreeSet<usize>,
    /// Acknowledged to their publisher while a persistent member was known, and not by a member.
    owed: BTreeSet<u64>,
    /// Handed to a member at QoS 1.
    handed: BTreeSet<u64>,
    /// Removed from the group.
    acked: BTreeSet<u64>,
}

/// What a run went through.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    acknowledged: u64,
    restored: u64,
    handed_on: u64,
    /// Rows of memberships and routes that a start found in an outbox.
    resumed: u64,
    resumed_routes: u64,
}

struct Run {
    random: SmallRng,
    fs: FaultFs,
    defects: Defects,
    told: BTreeMap<&'static str, Told>,
    published: u64,
    connections: u64,
    is_last: bool,
    seen: Seen,
}

/// One life of the node.
struct Life<'a> {
    run: &'a mut Run,
    sessions: TestShard,
    home: TestShard,
    routes: Group<RoutesMachine>,
    epoch: NodeEpoch,
    connected: [Option<Connection>; CLIENTS.len()],
    /// Handed out in this life.
    handed: BTreeMap<&'static str, BTreeSet<u64>>,
    /// What home shard was told in this life, the newest of each membership: whether it is one.
    rows: BTreeMap<(usize, &'static str), bool>,
}

struct Connection {
    id: ConnectionId,
    epoch: session::Epoch,
    held: Vec<(GroupSeq, u64)>,
    /// The last message without DUP of each group.
    last: BTreeMap<&'static str, u64>,
}

#[tokio::test]
async fn groups_lose_nothing_that_was_acknowledged_to_crashes_of_a_faulty_disk() {
    let mut all = Seen::default();
    for seed in 0..SEEDS {
        let run = Run::new(seed, Defects::default()).go().await;
        let seen = run.unwrap_or_else(|lost| panic!("seed {seed}: {lost}"));
        all.acknowledged += seen.acknowledged;
        all.restored += seen.restored;
        all.handed_on += seen.handed_on;
        all.resumed += seen.resumed;
        all.resumed_routes += seen.resumed_routes;
    }
    println!("{SEEDS} seeds: {all:?}");
    // Else the runs would show nothing.
    assert!(all.acknowledged > 20 * SEEDS, "{all:?}");
    assert!(all.restored > 20 * SEEDS, "{all:?}");
    assert!(all.handed_on > 20 * SEEDS, "{all:?}");
    assert!(all.resumed > SEEDS, "{all:?}");
    assert!(all.resumed_routes > SEEDS / 20, "{all:?}");
}

#[tokio::test]
async fn groups_on_a_log_that_acknowledges_before_its_fsync_are_found_to_lose() {
    let defects = Defects {
        acknowledge_before_fsync: true,
        ..Defects::default()
    };
    for seed in 0..SEEDS {
        if Run::new(seed, defects).go().await.is_err() {
            return;
        }
    }
    panic!("no seed finds it");
}

impl Run {
    fn new(seed: u64, defects: Defects) -> Self {
        Self {
            random: SmallRng::seed_from_u64(seed),
            fs: FaultFs::new(seed),
            defects,
            told: [(SHARED, Told::default()), (ALONE, Told::default())].into(),
            published: 0,
            connections: 0,
            is_last: false,
            seen: Seen::default(),
        }
    }

    async fn go(mut self) -> Result<Seen, String> {
        for crash in 0..CRASHES {
            let is_last = crash + 1 == CRASHES;
            if !is_last {
                let operations = self.random.random_range(20..700);
                self.fs.freeze_at(self.fs.operations() + operations);
            }
            let setup = Setup {
                seed: self.random.random(),
                defects: self.defects,
                flush_log_bytes: self.random.random_range(500..8_000),
                ..Setup::default()
            };
            let node = match TestNode::open_as(&self.fs, &setup) {
                Ok(node) => node,
                Err(_) if self.fs.is_frozen() => {
                    self.fs = self.fs.crash();
                    continue;
                }
                Err(error) => return Err(format!("crash {crash}: {error}")),
            };
            self.is_last = is_last;
            let lived = self.live(&node, NodeEpoch(crash + 1)).await;
            self.fs = self.fs.crash();
            // Nothing it does reaches the disk any more.
            let _ = node.node.close().await;
            match lived {
                Err(Stop::Broken(what)) => return Err(format!("crash {crash}: {what}")),
                Err(Stop::StoodStill) if is_last => return Err("the last disk stands".to_owned()),
                Ok(()) | Err(Stop::StoodStill) => {}
            }
        }
        Ok(self.seen)
    }

    async fn live(&mut self, node: &TestNode, epoch: NodeEpoch) -> Result<(), Stop> {
        let routes = RoutesConfig { rows_max: 100 };
        let routes: Group<RoutesMachine> = start(node, 1, "routes", routes).await?;
        let sessions = TestShard::begin(node, 3, "sessions", epoch).await?;
        let home = TestShard::begin(node, 4, "home", epoch).await?;
        // Clean sessions ended with their node.
        for told in self.told.values_mut() {
            told.members.retain(|at| CLIENTS[*at].is_persistent);
        }
        let mut life = Life {
            run: self,
            sessions,
            home,
            routes,
            epoch,
            connected: Default::default(),
            handed: BTreeMap::new(),
            rows: BTreeMap::new(),
        };
        life.go().await
    }
}

impl Life<'_> {
    async fn go(&mut self) -> Result<(), Stop> {
        self.change_routes(RoutesCommand::Epochs(view(self.epoch)))
            .await?;
        self.check_route()?;
        let waiting = |shard: &TestShard| shard.with(|machine| machine.durable().counters());
        self.run.seen.resumed += waiting(&self.sessions).outbox_memberships;
        self.run.seen.resumed_routes += waiting(&self.home).outbox_routes;
        self.settle().await?;
        let first = self.run.random.random_range(0..CLIENTS.len());
        for at in 0..CLIENTS.len() {
            self.open((first + at) % CLIENTS.len()).await?;
        }
        self.compare()?;
        for _ in 0..ROUNDS {
            self.publish().await?;
            self.check_present()?;
            match self.run.random.random_range(0..12) {
                0..=3 => self.acknowledge().await?,
                4 => self.bounce().await?,
                5 => self.leave_and_join().await?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Carries out whatever the shards ask for.
    async fn settle(&mut self) -> Result<(), Stop> {
        loop {
            if let Some(effect) = self.home.effect()? {
                match effect {
                    DurableEffect::Route(row) => self.route(row).await?,
                    DurableEffect::DeliverShared(delivery) => self.hand(delivery).await?,
                    _ => {}
                }
            } else if let Some(effect) = self.sessions.effect()? {
                if let DurableEffect::Membership(row) = effect {
                    self.seat(row).await?;
                }
            } else {
                return Ok(());
            }
        }
    }

    /// Brings a route of the home shard into the routes.
    async fn route(&mut self, row: RouteRow) -> Result<(), Stop> {
        let version = RouteVersion(row.version);
        let source = Source::Shard(HOME);
        let rows = vec![RouteDelta {
            filter: row.filter,
            wanted: row.wanted,
            version,
        }];
        let deltas = RoutesCommand::Deltas(Deltas { source, rows });
        match self.change_routes(deltas).await? {
            RoutesAnswer::Done { version } => {
                let version = version.0;
                self.home.duty(Command::RoutesDone { version }).await
            }
            other => Err(format!("the routes answer {other:?}").into()),
        }
    }

    async fn change_routes(&self, command: RoutesCommand) -> Result<RoutesAnswer, Stop> {
        let time = WallMs(0);
        let entry = RoutesEntry { time, command }.encode();
        let answer = self.routes.propose(entry.into()).await;
        answer.map_err(|_| Stop::StoodStill)
    }

    /// Tells the home shard of a membership; then its row may go.
    async fn seat(&mut self, row: MembershipRow) -> Result<(), Stop> {
        let version = row.version;
        let at = CLIENTS.iter().position(|one| *one.name == *row.client);
        let at = at.expect("one of ours");
        let is_member = row.member.is_some();
        let filter = name_of(&row.filter);
        let membership = Command::Membership(Box::new(row.to_command(SESSIONS)));
        match self.home.command(membership).await? {
            Answer::Membership { version: route } => self.await_route(route).await?,
            other => return Err(format!("a membership is answered {other:?}").into()),
        }
        self.rows.insert((at, filter), is_member);
        let done = Command::MembershipDone { version };
        self.sessions.duty(done).await
    }

    /// Has the routes learn what the home shard's outbox holds up to this version.
    async fn await_route(&mut self, version: u64) -> Result<(), Stop> {
        let source = Source::Shard(HOME);
        let mut handed = Vec::new();
        while self
            .routes
            .with(|machine| machine.routes().applied(source).0 < version)
        {
            match self.home.effect()? {
                Some(DurableEffect::Route(row)) => self.route(row).await?,
                Some(DurableEffect::DeliverShared(delivery)) => handed.push(delivery),
                Some(_) => {}
                None => return Err(format!("the route {version} is nowhere").into()),
            }
        }
        for delivery in handed {
            self.hand(delivery).await?;
        }
        Ok(())
    }

    /// A member's connection takes a message.
    async fn hand(&mut self, delivery: GroupDelivery) -> Result<(), Stop> {
        let filter = name_of(&delivery.group_seq.filter);
        let number = number_of(&delivery.message);
        let told = self.run.told.get_mut(filter).expect("one of ours");
        if told.acked.contains(&number) {
            return Err(format!("{number} of {filter} comes after its acknowledgement").into());
        }
        self.handed.entry(filter).or_default().insert(number);
        let connected = self.connected.iter_mut().flatten();
        let mut connected = connected.filter(|one| one.id == delivery.connection);
        let connection = connected.next();
        if delivery.qos == QoS::AtMostOnce {
            if connection.is_none() {
                // It is lost on the way; the next member gets it.
                return Ok(());
            }
            // Sent is acknowledged.
            told.owed.remove(&number);
            let acks = vec![delivery.group_seq];
            self.home.command(Command::GroupAck(acks)).await?;
            told.acked.insert(number);
            return Ok(());
        }
        let was_handed = told.handed.contains(&number);
        if was_handed && !delivery.dup {
            return Err(format!("{number} of {filter} was handed out before, without DUP").into());
        }
        let newest = told.handed.last().is_none_or(|last| *last < number);
        if filter == ALONE && !was_handed && !newest {
            return Err(format!("{number} comes to the only member after a later one").into());
        }
        told.handed.insert(number);
        self.run.seen.handed_on += u64::from(was_handed);
        let Some(connection) = connection else {
            return Ok(());
        };
        if !delivery.dup
            && let Some(last) = connection.last.insert(filter, number)
            && last >= number
        {
            return Err(format!("{number} of {filter} comes to a member after {last}").into());
        }
        connection.held.push((delivery.group_seq, number));
        Ok(())
    }

    /// Opens a session, and sees that it is what it was told to be.
    async fn open(&mut self, at: usize) -> Result<(), Stop> {
        let client = client(at);
        self.run.connections += 1;
        let id = ConnectionId(self.run.connections);
        let expected_epoch = self
            .sessions
            .with(|machine| machine.durable().epoch(&client));
        let open = Command::Open(Box::new(Open {
            identity: Identity(client.text().clone()),
            client: client.clone(),
            expected_epoch,
            node_epoch: session::NodeEpoch(self.epoch.0),
            connection: id,
            clean_start: !CLIENTS[at].is_persistent,
            persistent: CLIENTS[at].is_persistent,
            expiry_s: if CLIENTS[at].is_persistent {
                u32::MAX
            } else {
                0
            },
            receive_maximum: 1_000,
            will: None,
        }));
        let answer = self.sessions.command(open).await?;
        let Answer::Opened {
            epoch,
            session_present,
            ..
        } = answer
        else {
            return Err(format!("{client:?} is answered {answer:?}").into());
        };
        self.connected[at] = Some(Connection {
            id,
            epoch,
            held: Vec::new(),
            last: BTreeMap::new(),
        });
        let filters = CLIENTS[at].filters.iter().copied();
        let told = |filter: &&str| self.run.told[*filter].members.contains(&at);
        let (told, rest): (Vec<&'static str>, Vec<_>) = filters.partition(told);
        if !told.is_empty() && !session_present {
            return Err(format!("the session of {client:?} is gone").into());
        }
        self.rows.retain(|(of, _), _| *of != at);
        self.settle().await?;
        for filter in told {
            if self.rows.get(&(at, filter)) != Some(&true) {
                return Err(format!("{client:?} is no member of {filter} any more").into());
            }
        }
        match rest.is_empty() {
            true => Ok(()),
            false => self.join(at, &rest).await,
        }
    }

    async fn join(&mut self, at: usize, filters: &[&'static str]) -> Result<(), Stop> {
        let mut subscription = Subscription::default();
        subscription.options.qos = CLIENTS[at].qos;
        let named = |name: &&str| (filter(name), subscription);
        let subs = Subs {
            client: client(at),
            epoch: self.connection(at).epoch,
            filters: filters.iter().map(named).collect(),
        };
        self.sessions.command(Command::Subs(Box::new(subs))).await?;
        self.settle().await?;
        // Here the SUBACK leaves.
        for filter in filters {
            let told = self.run.told.get_mut(filter).expect("one of ours");
            told.members.insert(at);
        }
        self.check_route()
    }

    /// Ends a connection and begins the next; what it held goes to others meanwhile.
    async fn bounce(&mut self) -> Result<(), Stop> {
        self.may_crash();
        let at = self.run.random.random_range(0..CLIENTS.len());
        let connection = self.connected[at].take().expect("all are open");
        if !CLIENTS[at].is_persistent {
            for told in self.run.told.values_mut() {
                told.members.remove(&at);
            }
        }
        let close = Close {
            client: client(at),
            epoch: connection.epoch,
            will: WillFate::Discard,
            expiry_s: None,
        };
        self.sessions.command(Command::Close(close)).await?;
        self.settle().await?;
        self.check_present()?;
        for (group_seq, number) in connection.held {
            let name = name_of(&group_seq.filter);
            let others = self.run.told[name].members.iter();
            let other = others.filter(|one| **one != at).count();
            if other > 0 && !self.is_handed_on(name, number) {
                return Err(format!("{number} of {name} stays with who has gone").into());
            }
        }
        self.open(at).await
    }

    /// Whether somebody who is connected has the message, or whoever had it has acknowledged it.
    fn is_handed_on(&self, name: &str, number: u64) -> bool {
        let mut held = self.connected.iter().flatten().flat_map(|one| &one.held);
        self.run.told[name].acked.contains(&number)
            || held.any(|(group_seq, held)| *held == number && group_seq.filter == filter(name))
    }

    /// Has the disk stop somewhere in the steps that follow, perhaps.
    fn may_crash(&mut self) {
        if !self.run.is_last && self.run.random.random_ratio(1, 4) {
            let operations = self.run.random.random_range(0..16);
            let fs = &self.run.fs;
            fs.freeze_at(fs.operations() + operations);
        }
    }

    /// A member of many leaves, or the only one: then the group ends and begins again, and so does
    /// its route.
    async fn leave_and_join(&mut self) -> Result<(), Stop> {
        self.may_crash();
        let (at, name) = match self.run.random.random() {
            true => (1, SHARED),
            false => (0, ALONE),
        };
        let told = self.run.told.get_mut(name).expect("one of ours");
        told.members.remove(&at);
        if name == ALONE {
            *told = Told::default();
        }
        let unsubs = Unsubs {
            client: client(at),
            epoch: self.connection(at).epoch,
            filters: vec![filter(name)],
        };
        let unsubs = Command::Unsubs(Box::new(unsubs));
        self.sessions.command(unsubs).await?;
        self.settle().await?;
        self.check_present()?;
        let connection = self.connected[at].as_mut().expect("it is open");
        let left = filter(name);
        connection
            .held
            .retain(|(group_seq, _)| group_seq.filter != left);
        self.join(at, &[name]).await
    }

    async fn publish(&mut self) -> Result<(), Stop> {
        self.run.published += 1;
        let number = self.run.published;
        let bytes = self.run.random.random_range(8..400);
        let enqueue = Command::Enqueue(Enqueue {
            message: message(number, QoS::AtLeastOnce, bytes),
            origin: None,
        });
        let answer = self.home.command(enqueue).await?;
        if !matches!(answer, Answer::Enqueued { taken: 2, .. }) {
            return Err(format!("two groups want {number}, answered is {answer:?}").into());
        }
        self.run.seen.acknowledged += 1;
        for told in self.run.told.values_mut() {
            told.owed.insert(number);
        }
        self.settle().await
    }

    /// A member acknowledges some of what it has.
    async fn acknowledge(&mut self) -> Result<(), Stop> {
        let at = self.run.random.random_range(0..CLIENTS.len());
        let connection = self.connected[at].as_mut().expect("all are open");
        let count = self.run.random.random_range(0..=connection.held.len());
        let (acks, numbers): (Vec<_>, Vec<_>) = connection.held.drain(..count).unzip();
        for (ack, number) in acks.iter().zip(&numbers) {
            let told = self.run.told.get_mut(name_of(&ack.filter));
            // From now on nobody may count on it.
            told.expect("one of ours").owed.remove(number);
        }
        self.home.command(Command::GroupAck(acks.clone())).await?;
        for (ack, number) in acks.iter().zip(numbers) {
            let told = self.run.told.get_mut(name_of(&ack.filter));
            told.expect("one of ours").acked.insert(number);
        }
        self.settle().await
    }

    /// Everything owed was handed to some member again.
    fn compare(&mut self) -> Result<(), Stop> {
        for (filter, told) in &mut self.run.told {
            let handed = self.handed.entry(filter).or_default();
            if let Some(lost) = told.owed.difference(handed).next() {
                return Err(format!("message {lost} of {filter} is lost").into());
            }
            self.run.seen.restored += told.owed.len() as u64;
            // Whatever is there now is owed from now on: it is in the log.
            told.owed = handed.difference(&told.acked).copied().collect();
        }
        Ok(())
    }

    /// The routes send to the home shard what the groups of somebody who was told want.
    fn check_route(&self) -> Result<(), Stop> {
        let source = Source::Shard(HOME);
        for (name, told) in &self.run.told {
            let (_, plain) = name.rsplit_once('/').expect("a shared filter");
            let plain = filter(plain);
            let has = self.routes.with(|machine| {
                let routes = machine.routes();
                routes.version(source, &plain).is_some()
            });
            if !has && !told.members.is_empty() {
                return Err(format!("the route of {name} is gone").into());
            }
        }
        Ok(())
    }

    /// Who is present takes turns with what is never stored; nobody else gets any of it.
    fn check_present(&self) -> Result<(), Stop> {
        let topic = Topic::try_from("t").expect("a topic");
        let mut found = BTreeSet::new();
        for _ in 0..CLIENTS.len() {
            let recipients = self.home.with(|machine| {
                let durable = machine.durable_mut();
                durable.next_qos0_members(&topic, QoS::AtMostOnce)
            });
            found.extend(recipients.into_iter().map(|one| one.connection));
        }
        let members = &self.run.told[SHARED].members;
        let mut present = members.iter().filter_map(|at| self.connected[*at].as_ref());
        let alone = self.connected[0].as_ref();
        let strangers = found.iter().filter(|id| {
            let mut known = members.iter().filter_map(|at| self.connected[*at].as_ref());
            !known.any(|one| one.id == **id) && alone.is_none_or(|one| one.id != **id)
        });
        let strangers: Vec<_> = strangers.collect();
        if !strangers.is_empty() {
            return Err(format!("{strangers:?} are members, and were told otherwise").into());
        }
        match present.find(|one| !found.contains(&one.id)) {
            Some(missing) => Err(format!("{:?} is a member, and gets nothing", missing.id).into()),
            None => Ok(()),
        }
    }

    fn connection(&self, at: usize) -> &Connection {
        self.connected[at].as_ref().expect("it is open")
    }
}

fn client(at: usize) -> ClientId {
    CLIENTS[at].name.try_into().expect("a client id")
}

fn filter(text: &str) -> Filter {
    Filter::try_from(text).expect("a filter")
}

fn name_of(filter: &Filter) -> &'static str {
    let mut names = [SHARED, ALONE].into_iter();
    let name = names.find(|name| *name == filter.as_str());
    name.expect("one of ours")
}
