//! The cases: which connections there are, and what happens in which order.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::LoadError;
use super::crew::{Crew, Launch};
use super::outcome::Outcome;
use super::packet::Version;
use super::plan::{Command, Group, Plan, Publishers, Role, Tally, WINDOW_MAX};
use super::process::{Moment, Usage, usage};

mod away;
mod conn;
mod flow;

use away::{fill, offline, storm};
use conn::conn;
use flow::Flow;
pub(super) use flow::{PUBLISHERS, SUBSCRIBERS};

/// Connections of one worker at most: below the 20 000 descriptors that many systems allow.
pub(crate) const CONNECTIONS_PER_WORKER: u32 = 18_000;
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
    /// Its further nodes: connections go to one after the other, and the publisher of a pair to the
    /// node behind its subscriber's.
    pub others: Vec<Other>,
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
    /// Sessions of subscribers and of idle connections outlive their connections.
    pub persistent: bool,
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
            others: Vec::new(),
            version: Version::V311,
            qos: 1,
            payload_bytes: 256,
            duration: Duration::from_secs(5),
            workers: 0,
            persistent: false,
            sources: 0,
            pid: None,
            launch: Launch::Program(program, vec!["bench".into(), "worker".into()]),
        }
    }
}

/// A further node of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process, measured as [`Load::pid`] is.
    pub pid: u32,
}

impl Load {
    /// Processes that are measured, of several nodes.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        let others = self.others.iter().map(|other| other.pid);
        self.pid.into_iter().chain(others)
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
    /// Messages for sessions that are away, which stay there.
    Fill {
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
        Case::Fill { .. } => "fill",
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
        Case::Fill {
            sessions,
            messages,
            window,
        } => fill(load, sessions, messages, window, &mut outcome)?,
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
        }
        | Case::Fill {
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

pub(super) fn workers_for(load: &Load, connections: u32) -> u32 {
    match load.workers {
        0 => connections
            .div_ceil(CONNECTIONS_PER_WORKER)
            .clamp(1, WORKERS_MAX),
        workers => workers,
    }
}

/// First number and count of a worker's part of `total`.
pub(super) fn share(total: u32, workers: u32, worker: u32) -> (u32, u32) {
    let start = |worker| (u64::from(total) * u64::from(worker) / u64::from(workers)) as u32;
    (start(worker), start(worker + 1) - start(worker))
}

/// A prefix of ids and topics that no other run has.
pub(super) fn run_prefix() -> String {
    format!("b{:x}", super::clock::now_ns() & 0xFF_FFFF_FFFF)
}

pub(super) fn plan(load: &Load, groups: Vec<Group>) -> Plan {
    Plan {
        addresses: [load.address]
            .into_iter()
            .chain(load.others.iter().map(|other| other.address))
            .collect(),
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
    if load.pid.is_none() {
        return Ok(None);
    }
    load.pids()
        .map(usage)
        .try_fold(Usage::default(), |sum, one| {
            one.map(|one| Usage {
                cpu_s: sum.cpu_s + one.cpu_s,
                rss_bytes: sum.rss_bytes + one.rss_bytes,
            })
        })
        .map(Some)
}

/// Connects a group at a pace every broker stands.
pub(super) fn connect(
    crew: &mut Crew,
    load: &Load,
    workers: u32,
    group: usize,
) -> Result<Tally, LoadError> {
    let tally = crew.all(Command::Connect {
        group,
        in_flight: (IN_FLIGHT / workers).max(1),
        jitter_ms: 0,
        subscribe: true,
        rule: None,
    })?;
    reached(load, &tally)?;
    Ok(tally)
}

pub(super) fn reached(load: &Load, tally: &Tally) -> Result<(), LoadError> {
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
        home: 0,
        persistent: load.persistent,
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
        home: 1,
        persistent: false,
        role: Role::Publisher {
            topic: format!("{prefix}/{topic}"),
            qos: load.qos,
            window,
            payload_bytes: load.payload_bytes,
        },
    }
}

pub(super) fn pair_groups(load: &Load, prefix: &str, part: (u32, u32), window: u32) -> Vec<Group> {
    vec![
        subscriber_group(load, prefix, "{}", part, Publishers::Own),
        publisher_group(load, prefix, "{}", part, window),
    ]
}
