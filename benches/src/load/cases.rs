//! The cases: which connections there are, and what happens in which order.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::LoadError;
use super::crew::{Crew, Launch};
use super::outcome::Outcome;
use super::packet::Version;
use super::plan::{Command, Group, Plan, Publishers, Role, Tally, WINDOW_MAX};
use super::process::{Usage, usage};

/// Connections of one worker at most: below the 20 000 descriptors that many systems allow.
const CONNECTIONS_PER_WORKER: u32 = 18_000;
/// Most workers.
const WORKERS_MAX: u32 = 64;
/// Connections that wait for a CONNACK at a time, of all workers, where no case says otherwise: less
/// than the backlog of 100 that brokers listen with, beyond which the kernel lets seconds pass.
const IN_FLIGHT: u32 = 64;
/// Nothing moved for this long: what has not come will not come.
const QUIET_MS: u64 = 3_000;
/// How long a storm is awaited, and its aftermath watched.
const STORM_WATCH_MS: u64 = 1_000;

/// What all cases share.
#[derive(Clone, Debug)]
pub struct Load {
    /// The broker.
    pub address: SocketAddr,
    /// Version of MQTT.
    pub version: Version,
    /// QoS of messages and subscriptions, 0 or 1.
    pub qos: u8,
    /// Payload bytes, at least 24.
    pub payload_bytes: usize,
    /// How long publishers publish.
    pub duration: Duration,
    /// Workers; 0: as many as the connections need.
    pub workers: u32,
    /// Source addresses 127.0.0.1 to this; 0: the system chooses.
    pub sources: u8,
    /// The broker's process, for CPU and memory; with its children.
    pub pid: Option<u32>,
    /// What workers are.
    pub launch: Launch,
}

impl Load {
    /// Returns the settings of the comparison: 256 bytes at QoS 1 in MQTT 3.1.1, for 5 s, by
    /// workers that are `program bench worker`.
    #[must_use]
    pub fn new(address: SocketAddr, program: PathBuf) -> Self {
        Self {
            address,
            version: Version::V311,
            qos: 1,
            payload_bytes: 256,
            duration: Duration::from_secs(5),
            workers: 0,
            sources: 0,
            pid: None,
            launch: Launch::Program(program, vec!["bench".into(), "worker".into()]),
        }
    }
}

/// What is measured.
#[derive(Clone, Debug, PartialEq)]
pub enum Case {
    /// Connects, then memory of connections that do nothing.
    Conn {
        /// Connections.
        connections: u32,
        /// Connections that may wait for their CONNACK at a time.
        in_flight: u32,
        /// Each subscribes to a topic of its own.
        subscribe: bool,
    },
    /// Many publishers, no subscriber or one to everything.
    Ingest {
        /// Publishers.
        publishers: u32,
        /// Messages each may have unacknowledged.
        window: u32,
        /// Messages a second of all; `None`: closed loop.
        rate_per_s: Option<f64>,
        /// Whether there is the one subscriber.
        subscriber: bool,
    },
    /// One publisher, many subscribers.
    Fanout {
        /// Subscribers.
        subscribers: u32,
        /// Messages the publisher may have outstanding.
        window: u32,
        /// Messages a second; `None`: closed loop.
        rate_per_s: Option<f64>,
    },
    /// Pairs of one publisher and one subscriber.
    P2p {
        /// Pairs.
        pairs: u32,
        /// Messages each may have outstanding.
        window: u32,
        /// Messages a second of all; `None`: closed loop.
        rate_per_s: Option<f64>,
    },
    /// Messages for sessions that are away, then the sessions come for them.
    Offline {
        /// Sessions, each with a publisher of its own.
        sessions: u32,
        /// Messages for each.
        messages: u64,
        /// Messages each publisher may have unacknowledged.
        window: u32,
    },
    /// All sessions reconnect at once, beside pairs that carry on.
    Storm {
        /// Sessions.
        sessions: u32,
        /// Each waits for a random part of this first; zero: `--no-jitter`.
        jitter: Duration,
        /// Pairs beside.
        pairs: u32,
        /// Their messages a second together.
        rate_per_s: f64,
    },
}

/// Runs a case.
///
/// # Errors
/// [`LoadError`]; what the broker did wrong is in the outcome instead.
pub fn run(load: &Load, case: &Case) -> Result<Outcome, LoadError> {
    check(load, case)?;
    let mut outcome = Outcome::new(match case {
        Case::Conn { .. } => "conn",
        Case::Ingest { .. } => "ingest",
        Case::Fanout { .. } => "fanout",
        Case::P2p { .. } => "p2p",
        Case::Offline { .. } => "offline",
        Case::Storm { .. } => "storm",
    });
    outcome.setting(
        "mqtt",
        if load.version == Version::V5 {
            "5"
        } else {
            "3.1.1"
        },
    );
    match *case {
        Case::Conn {
            connections,
            in_flight,
            subscribe,
        } => conn(load, connections, in_flight, subscribe, &mut outcome)?,
        Case::Ingest {
            publishers,
            window,
            rate_per_s,
            subscriber,
        } => {
            let flow = Flow::ingest(load, publishers, window, rate_per_s, subscriber);
            flow.run(load, &mut outcome)?;
        }
        Case::Fanout {
            subscribers,
            window,
            rate_per_s,
        } => Flow::fanout(load, subscribers, window, rate_per_s).run(load, &mut outcome)?,
        Case::P2p {
            pairs,
            window,
            rate_per_s,
        } => Flow::p2p(load, pairs, window, rate_per_s).run(load, &mut outcome)?,
        Case::Offline {
            sessions,
            messages,
            window,
        } => offline(load, sessions, messages, window, &mut outcome)?,
        Case::Storm {
            sessions,
            jitter,
            pairs,
            rate_per_s,
        } => storm(load, sessions, jitter, pairs, rate_per_s, &mut outcome)?,
    }
    Ok(outcome)
}

fn check(load: &Load, case: &Case) -> Result<(), LoadError> {
    let refuse = |text: String| Err(LoadError::Setting(text));
    if load.qos > 1 {
        return refuse(format!("qos {}: must be 0 or 1", load.qos));
    }
    if load.payload_bytes > 1 << 20 {
        return refuse(format!(
            "payload of {} bytes: at most 1 MiB",
            load.payload_bytes
        ));
    }
    if load.workers > WORKERS_MAX {
        return refuse(format!("{} workers: at most {WORKERS_MAX}", load.workers));
    }
    let (window, rate, count) = match *case {
        Case::Conn {
            connections,
            in_flight,
            ..
        } => (in_flight.min(WINDOW_MAX), None, connections),
        Case::Ingest {
            publishers,
            window,
            rate_per_s,
            ..
        } => (window, rate_per_s, publishers),
        Case::Fanout {
            subscribers,
            window,
            rate_per_s,
        } => (window, rate_per_s, subscribers),
        Case::P2p {
            pairs,
            window,
            rate_per_s,
        } => (window, rate_per_s, pairs),
        Case::Offline {
            sessions, window, ..
        } => (window, None, sessions),
        Case::Storm {
            sessions,
            pairs,
            rate_per_s,
            ..
        } => (1, Some(rate_per_s), sessions.min(pairs)),
    };
    if window == 0 || window > WINDOW_MAX {
        return refuse(format!("window {window}: must be 1 to {WINDOW_MAX}"));
    }
    if rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e9)) {
        return refuse("a rate must be above 0 and at most 1e9 messages a second".into());
    }
    if count == 0 {
        return refuse("no connections: nothing to measure".into());
    }
    Ok(())
}

fn workers_for(load: &Load, connections: u32) -> u32 {
    match load.workers {
        0 => connections
            .div_ceil(CONNECTIONS_PER_WORKER)
            .clamp(1, WORKERS_MAX),
        workers => workers,
    }
}

/// First number and count of a worker's part of `total`.
fn share(total: u32, workers: u32, worker: u32) -> (u32, u32) {
    let start = |worker| (u64::from(total) * u64::from(worker) / u64::from(workers)) as u32;
    (start(worker), start(worker + 1) - start(worker))
}

/// A prefix of ids and topics that no other run has.
fn run_prefix() -> String {
    format!("b{:x}", super::clock::now_ns() & 0xFF_FFFF_FFFF)
}

fn plan(load: &Load, groups: Vec<Group>) -> Plan {
    Plan {
        address: load.address,
        sources: (1..=load.sources)
            .map(|last| Ipv4Addr::new(127, 0, 0, last))
            .collect(),
        version: load.version,
        groups,
        deliveries_window: None,
        deliveries_per_message: 0,
    }
}

fn measured(load: &Load) -> Result<Option<Usage>, LoadError> {
    load.pid.map(usage).transpose()
}

/// Connects a group at a pace every broker stands.
fn connect(crew: &mut Crew, load: &Load, workers: u32, group: usize) -> Result<Tally, LoadError> {
    let tally = crew.all(Command::Connect {
        group,
        in_flight: (IN_FLIGHT / workers).max(1),
        jitter_ms: 0,
        subscribe: true,
    })?;
    reached(load, &tally)?;
    Ok(tally)
}

fn reached(load: &Load, tally: &Tally) -> Result<(), LoadError> {
    if tally.connected == 0 && tally.failed > 0 {
        return Err(LoadError::Unreachable(load.address));
    }
    Ok(())
}

fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

fn conn(
    load: &Load,
    connections: u32,
    in_flight: u32,
    subscribe: bool,
    outcome: &mut Outcome,
) -> Result<(), LoadError> {
    let workers = workers_for(load, connections);
    let prefix = run_prefix();
    let plans: Vec<Plan> = (0..workers)
        .map(|worker| {
            let (first, count) = share(connections, workers, worker);
            let role = match subscribe {
                true => Role::Subscriber {
                    filter: format!("{prefix}/{{}}"),
                    qos: load.qos,
                    publishers: Publishers::Own,
                },
                false => Role::Idle,
            };
            let group = Group {
                prefix: format!("{prefix}c"),
                first,
                count,
                persistent: false,
                role,
            };
            plan(load, vec![group])
        })
        .collect();
    let mut crew = Crew::start(&load.launch, &plans)?;
    let before = measured(load)?;
    let tally = crew.all(Command::Connect {
        group: 0,
        in_flight: (in_flight / workers).max(1),
        jitter_ms: 0,
        subscribe: true,
    })?;
    reached(load, &tally)?;
    let connected = measured(load)?;
    // What a broker frees or settles after the rush is not the connections'.
    crew.all(Command::Run { ms: 500 })?;
    let idle = measured(load)?;
    outcome.setting("connections", connections);
    outcome.setting("in_flight", in_flight);
    outcome.setting("subscribe", subscribe);
    outcome.setting("workers", workers);
    outcome.push("connected", tally.connected as f64);
    let seconds = tally.last_connect_ns.saturating_sub(tally.first_ns) as f64 / 1e9;
    outcome.push("connects_per_s", per_second(tally.connected, seconds));
    outcome.push("retries", tally.retries as f64);
    outcome.latency(
        [
            "connect_p50_us",
            "connect_p99_us",
            "connect_p999_us",
            "connect_max_us",
        ],
        &tally.connect,
    );
    if let (Some(before), Some(connected), Some(idle)) = (before, connected, idle) {
        let cpu_us = (connected.cpu_s - before.cpu_s) * 1e6;
        outcome.push("cpu_us_per_connect", cpu_us / tally.connected as f64);
        let grown = idle.rss_bytes.saturating_sub(before.rss_bytes);
        outcome.push(
            "rss_bytes_per_connection",
            grown as f64 / tally.connected as f64,
        );
        outcome.push("rss_bytes", idle.rss_bytes as f64);
    }
    outcome.check(&tally);
    crew.all(Command::Close {
        group: 0,
        abrupt: false,
    })?;
    Ok(())
}

/// A case in which publishers publish for a time: who, to whom, and how fast.
struct Flow {
    plans: Vec<Plan>,
    rate_per_s: Option<f64>,
    /// Each worker's part of the rate.
    publishers: Vec<u32>,
    /// Subscribers that each message reaches.
    fan: u64,
    settings: Vec<(&'static str, String)>,
}

/// Places of the groups of a [`Flow`].
const SUBSCRIBERS: usize = 0;
const PUBLISHERS: usize = 1;

impl Flow {
    fn ingest(
        load: &Load,
        publishers: u32,
        window: u32,
        rate_per_s: Option<f64>,
        subscriber: bool,
    ) -> Self {
        let workers = workers_for(load, publishers + 1);
        let prefix = run_prefix();
        let mut flow = Self::new(rate_per_s, u64::from(subscriber));
        for worker in 0..workers {
            let (first, count) = share(publishers, workers, worker);
            let subscribers = u32::from(subscriber && worker == 0);
            let everything = Publishers::All(publishers);
            let groups = vec![
                subscriber_group(load, &prefix, "#", (0, subscribers), everything),
                publisher_group(load, &prefix, "{}", (first, count), window),
            ];
            let mut plan = plan(load, groups);
            // Other workers' messages come here too and would be taken for our own.
            if workers == 1 && subscriber {
                plan.deliveries_per_message = 1;
                plan.deliveries_window = closed(rate_per_s, u64::from(count) * u64::from(window));
            }
            flow.push(plan, count);
        }
        flow.setting("publishers", publishers);
        flow.setting("subscribers", u32::from(subscriber));
        flow.setting("window", window);
        flow
    }

    fn fanout(load: &Load, subscribers: u32, window: u32, rate_per_s: Option<f64>) -> Self {
        let workers = workers_for(load, subscribers + 1);
        let prefix = run_prefix();
        let mut flow = Self::new(rate_per_s, u64::from(subscribers));
        for worker in 0..workers {
            let (first, count) = share(subscribers, workers, worker);
            let publishers = u32::from(worker == 0);
            let groups = vec![
                subscriber_group(load, &prefix, "all", (first, count), Publishers::All(1)),
                publisher_group(load, &prefix, "all", (0, publishers), window),
            ];
            let mut plan = plan(load, groups);
            plan.deliveries_per_message = u64::from(count);
            plan.deliveries_window = closed(rate_per_s, u64::from(count) * u64::from(window));
            flow.push(plan, publishers);
        }
        flow.setting("publishers", 1);
        flow.setting("subscribers", subscribers);
        flow.setting("window", window);
        flow
    }

    fn p2p(load: &Load, pairs: u32, window: u32, rate_per_s: Option<f64>) -> Self {
        let workers = workers_for(load, pairs * 2);
        let prefix = run_prefix();
        let mut flow = Self::new(rate_per_s, 1);
        for worker in 0..workers {
            let (first, count) = share(pairs, workers, worker);
            let mut plan = plan(load, pair_groups(load, &prefix, (first, count), window));
            plan.deliveries_per_message = 1;
            plan.deliveries_window = closed(rate_per_s, u64::from(count) * u64::from(window));
            flow.push(plan, count);
        }
        flow.setting("pairs", pairs);
        flow.setting("window", window);
        flow
    }

    fn new(rate_per_s: Option<f64>, fan: u64) -> Self {
        Self {
            plans: Vec::new(),
            rate_per_s,
            publishers: Vec::new(),
            fan,
            settings: Vec::new(),
        }
    }

    fn push(&mut self, plan: Plan, publishers: u32) {
        self.plans.push(plan);
        self.publishers.push(publishers);
    }

    fn setting(&mut self, name: &'static str, value: u32) {
        self.settings.push((name, value.to_string()));
    }

    fn run(self, load: &Load, outcome: &mut Outcome) -> Result<(), LoadError> {
        let workers = self.plans.len() as u32;
        let mut crew = Crew::start(&load.launch, &self.plans)?;
        let mut connects = connect(&mut crew, load, workers, SUBSCRIBERS)?;
        connects.merge(&connect(&mut crew, load, workers, PUBLISHERS)?);
        let before = measured(load)?;
        let publishers: u32 = self.publishers.iter().sum();
        let mut tally = crew.each(|worker| {
            let part = f64::from(self.publishers[worker]) / f64::from(publishers);
            (part > 0.0).then_some(Command::Publish {
                group: PUBLISHERS,
                rate_per_s: self.rate_per_s.map(|rate| rate * part),
                messages: None,
            })
        })?;
        let ms = load.duration.as_millis() as u64;
        tally.merge(&crew.all(Command::Run { ms })?);
        tally.merge(&crew.all(Command::Drain { quiet_ms: QUIET_MS })?);
        let expected = tally.sent * self.fan;
        if self.fan > 0 {
            let sent = tally.sent;
            tally.merge(&crew.each(|worker| {
                let subscribers = &self.plans[worker].groups[SUBSCRIBERS];
                // A pair's messages stay within its worker.
                let total = match subscribers.role {
                    Role::Subscriber {
                        publishers: Publishers::Own,
                        ..
                    } => {
                        return Some(Command::Receive {
                            total: u64::MAX,
                            quiet_ms: 200,
                        });
                    }
                    _ => sent * u64::from(subscribers.count),
                };
                Some(Command::Receive {
                    total,
                    quiet_ms: QUIET_MS,
                })
            })?);
        }
        let after = measured(load)?;

        outcome.settings.extend(self.settings);
        outcome.setting("qos", load.qos);
        outcome.setting("payload_bytes", load.payload_bytes);
        outcome.setting(
            "loop",
            match self.rate_per_s {
                Some(rate) => format!("open at {rate}/s"),
                None => "closed".into(),
            },
        );
        outcome.setting("workers", workers);
        let messages = if self.fan > 0 {
            tally.received
        } else {
            tally.acked
        };
        outcome.push("sent", tally.sent as f64);
        outcome.push("acked", tally.acked as f64);
        if self.fan > 0 {
            outcome.deliveries(load.qos, expected, &tally);
        }
        outcome.push("seconds", tally.seconds());
        outcome.push("messages_per_s", per_second(messages, tally.seconds()));
        outcome.cpu(messages, before.zip(after));
        outcome.latency(
            ["ack_p50_us", "ack_p99_us", "ack_p999_us", "ack_max_us"],
            &tally.ack,
        );
        outcome.latency(
            [
                "delivery_p50_us",
                "delivery_p99_us",
                "delivery_p999_us",
                "delivery_max_us",
            ],
            &tally.delivery,
        );
        outcome.acknowledged(&tally);
        tally.merge(&connects);
        outcome.check(&tally);
        crew.all(Command::Close {
            group: PUBLISHERS,
            abrupt: false,
        })?;
        crew.all(Command::Close {
            group: SUBSCRIBERS,
            abrupt: false,
        })?;
        Ok(())
    }
}

/// A limit for closed loops; an open one does not wait.
fn closed(rate_per_s: Option<f64>, window: u64) -> Option<u64> {
    rate_per_s.is_none().then_some(window)
}

fn subscriber_group(
    load: &Load,
    prefix: &str,
    filter: &str,
    (first, count): (u32, u32),
    publishers: Publishers,
) -> Group {
    Group {
        prefix: format!("{prefix}s"),
        first,
        count,
        persistent: false,
        role: Role::Subscriber {
            filter: format!("{prefix}/{filter}"),
            qos: load.qos,
            publishers,
        },
    }
}

fn publisher_group(
    load: &Load,
    prefix: &str,
    topic: &str,
    (first, count): (u32, u32),
    window: u32,
) -> Group {
    Group {
        prefix: format!("{prefix}p"),
        first,
        count,
        persistent: false,
        role: Role::Publisher {
            topic: format!("{prefix}/{topic}"),
            qos: load.qos,
            window,
            payload_bytes: load.payload_bytes,
        },
    }
}

fn pair_groups(load: &Load, prefix: &str, part: (u32, u32), window: u32) -> Vec<Group> {
    vec![
        subscriber_group(load, prefix, "{}", part, Publishers::Own),
        publisher_group(load, prefix, "{}", part, window),
    ]
}

/// The sessions again, as clean ones: connecting and closing them leaves nothing behind.
fn cleanup_group(sessions: &Group) -> Group {
    Group {
        persistent: false,
        role: Role::Idle,
        ..sessions.clone()
    }
}

/// Place of the group of [`cleanup_group`].
const CLEANUP: usize = 2;

fn clean_up(crew: &mut Crew, load: &Load, workers: u32) -> Result<(), LoadError> {
    crew.all(Command::Close {
        group: SUBSCRIBERS,
        abrupt: false,
    })?;
    connect(crew, load, workers, CLEANUP)?;
    crew.all(Command::Close {
        group: CLEANUP,
        abrupt: false,
    })?;
    Ok(())
}

fn offline(
    load: &Load,
    sessions: u32,
    messages: u64,
    window: u32,
    outcome: &mut Outcome,
) -> Result<(), LoadError> {
    let workers = workers_for(load, sessions * 2);
    let prefix = run_prefix();
    let plans: Vec<Plan> = (0..workers)
        .map(|worker| {
            let mut groups = pair_groups(load, &prefix, share(sessions, workers, worker), window);
            groups[SUBSCRIBERS].persistent = true;
            groups.push(cleanup_group(&groups[SUBSCRIBERS]));
            plan(load, groups)
        })
        .collect();
    let mut crew = Crew::start(&load.launch, &plans)?;
    let mut others = connect(&mut crew, load, workers, SUBSCRIBERS)?;
    crew.all(Command::Close {
        group: SUBSCRIBERS,
        abrupt: false,
    })?;
    others.merge(&connect(&mut crew, load, workers, PUBLISHERS)?);

    let before = measured(load)?;
    let mut enqueue = crew.all(Command::Publish {
        group: PUBLISHERS,
        rate_per_s: None,
        messages: Some(messages),
    })?;
    enqueue.merge(&crew.all(Command::Drain { quiet_ms: QUIET_MS })?);
    let queued = measured(load)?;
    crew.all(Command::Close {
        group: PUBLISHERS,
        abrupt: false,
    })?;

    let before_drain = measured(load)?;
    let mut drain = crew.all(Command::Connect {
        group: SUBSCRIBERS,
        in_flight: (IN_FLIGHT / workers).max(1),
        jitter_ms: 0,
        subscribe: false,
    })?;
    drain.merge(&crew.each(|worker| {
        let count = u64::from(plans[worker].groups[SUBSCRIBERS].count);
        Some(Command::Receive {
            total: count * messages,
            quiet_ms: QUIET_MS,
        })
    })?);
    let drained = measured(load)?;

    outcome.setting("sessions", sessions);
    outcome.setting("messages_per_session", messages);
    outcome.setting("window", window);
    outcome.setting("qos", load.qos);
    outcome.setting("payload_bytes", load.payload_bytes);
    outcome.setting("workers", workers);
    outcome.push("enqueued", enqueue.acked as f64);
    outcome.push(
        "enqueues_per_s",
        per_second(enqueue.acked, enqueue.seconds()),
    );
    if let (Some(before), Some(queued)) = (before, queued) {
        let grown = queued.rss_bytes.saturating_sub(before.rss_bytes);
        outcome.push("rss_bytes_per_message", grown as f64 / enqueue.acked as f64);
        let cpu_s = queued.cpu_s - before.cpu_s;
        outcome.push(
            "enqueue_cpu_s_per_million",
            cpu_s * 1e6 / enqueue.acked as f64,
        );
    }
    outcome.deliveries(load.qos, enqueue.sent, &drain);
    outcome.push("drains_per_s", per_second(drain.received, drain.seconds()));
    if let (Some(before), Some(after), true) = (before_drain, drained, drain.received > 0) {
        let cpu_s = after.cpu_s - before.cpu_s;
        outcome.push(
            "drain_cpu_s_per_million",
            cpu_s * 1e6 / drain.received as f64,
        );
    }
    outcome.latency(
        ["ack_p50_us", "ack_p99_us", "ack_p999_us", "ack_max_us"],
        &enqueue.ack,
    );
    outcome.acknowledged(&enqueue);
    for tally in [&enqueue, &drain] {
        others.merge(tally);
    }
    outcome.check(&others);
    clean_up(&mut crew, load, workers)
}

fn storm(
    load: &Load,
    sessions: u32,
    jitter: Duration,
    pairs: u32,
    rate_per_s: f64,
    outcome: &mut Outcome,
) -> Result<(), LoadError> {
    let workers = workers_for(load, sessions);
    let prefix = run_prefix();
    let mut plans: Vec<Plan> = (0..workers)
        .map(|worker| {
            let part = share(sessions, workers, worker);
            let mut groups = pair_groups(load, &format!("{prefix}r"), part, 1);
            groups[SUBSCRIBERS].persistent = true;
            groups[PUBLISHERS].count = 0;
            groups.push(cleanup_group(&groups[SUBSCRIBERS]));
            plan(load, groups)
        })
        .collect();
    // The pairs have a worker of their own, so that the reconnecting ones do not delay them here.
    let beside = workers as usize;
    let mut groups = pair_groups(
        load,
        &format!("{prefix}b"),
        (0, pairs),
        WINDOW_MAX.min(1_024),
    );
    groups.push(Group {
        count: 0,
        ..cleanup_group(&groups[SUBSCRIBERS])
    });
    plans.push(plan(load, groups));

    let mut crew = Crew::start(&load.launch, &plans)?;
    let mut all = connect(&mut crew, load, workers, SUBSCRIBERS)?;
    all.merge(&connect(&mut crew, load, workers, PUBLISHERS)?);
    let publish = Command::Publish {
        group: PUBLISHERS,
        rate_per_s: Some(rate_per_s),
        messages: None,
    };
    let only_beside = |command: Command| move |worker: usize| (worker == beside).then_some(command);
    all.merge(&crew.each(only_beside(publish))?);
    let calm = crew.each(only_beside(Command::Run { ms: STORM_WATCH_MS }))?;
    let before = measured(load)?;
    crew.each(|worker| {
        (worker != beside).then_some(Command::Close {
            group: SUBSCRIBERS,
            abrupt: true,
        })
    })?;
    let storm = crew.each(|worker| {
        (worker != beside).then_some(Command::Connect {
            group: SUBSCRIBERS,
            in_flight: u32::MAX,
            jitter_ms: jitter.as_millis() as u64,
            subscribe: false,
        })
    })?;
    reached(load, &storm)?;
    let after = measured(load)?;
    let mut during = crew.each(only_beside(Command::Run { ms: 0 }))?;
    let mut rest = crew.each(only_beside(Command::Drain { quiet_ms: QUIET_MS }))?;
    rest.merge(&crew.each(only_beside(Command::Receive {
        total: u64::MAX,
        quiet_ms: 200,
    }))?);

    outcome.setting("sessions", sessions);
    outcome.setting("jitter_ms", jitter.as_millis());
    outcome.setting("pairs", pairs);
    outcome.setting("rate_per_s", rate_per_s);
    outcome.setting("workers", workers + 1);
    outcome.push("reconnected", storm.connected as f64);
    let seconds = storm.last_connect_ns.saturating_sub(storm.first_ns) as f64 / 1e9;
    outcome.push("seconds", seconds);
    outcome.push("retries", storm.retries as f64);
    outcome.latency(
        [
            "connect_p50_us",
            "connect_p99_us",
            "connect_p999_us",
            "connect_max_us",
        ],
        &storm.connect,
    );
    outcome.latency(
        ["calm_p50_us", "calm_p99_us", "calm_p999_us", "calm_max_us"],
        &calm.delivery,
    );
    outcome.latency(
        [
            "others_p50_us",
            "others_p99_us",
            "others_p999_us",
            "others_max_us",
        ],
        &during.delivery,
    );
    if let Some((before, after)) = before.zip(after) {
        let cpu_us = (after.cpu_s - before.cpu_s) * 1e6;
        outcome.push(
            "cpu_us_per_reconnect",
            cpu_us / storm.connected.max(1) as f64,
        );
        outcome.push("rss_bytes", after.rss_bytes as f64);
    }
    during.merge(&calm);
    during.merge(&rest);
    outcome.deliveries(load.qos, during.sent, &during);
    outcome.acknowledged(&during);
    all.merge(&storm);
    all.merge(&during);
    outcome.check(&all);
    crew.all(Command::Close {
        group: PUBLISHERS,
        abrupt: false,
    })?;
    clean_up(&mut crew, load, workers)
}
