//! One actor: connects, does what its plan says, records, connects again.

mod habits;
mod messages;
mod subscriptions;

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use benches::fleet::Backoff;
use bytes::Bytes;
use mqtt::{Connect, ConnectProperties, Packet, QoS, ReasonCode, Text, Version, Will};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::plan::{Habit, Leaving, Plan, Publishes};
use super::world::{Phase, Stats, World};
use crate::client::{Homes, Lost, Session, Wire};
use crate::history::{End, Log, Payload, Role, What};
use habits::Timers;
use subscriptions::Subscription;

/// Keep Alive in CONNECT.
const KEEP_ALIVE_S: u16 = 10;
/// A PINGREQ goes when nothing was written for so long.
const PING_AFTER: Duration = Duration::from_secs(4);
/// Time for anything to come after a PINGREQ.
const PONG_DEADLINE: Duration = Duration::from_secs(8);
/// Longer than any answer is awaited, see [`Wire::open`].
const PATIENCE: Duration = Duration::from_mins(1);
/// How often an actor looks around that has nothing to do.
const LOOK: Duration = Duration::from_millis(250);

/// The rule of the firmware, with times for a run of minutes.
const BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(50),
    delay_max: Duration::from_secs(2),
    jitter: Duration::from_millis(400),
};

/// Is an actor.
#[derive(Debug)]
pub(super) struct Actor {
    /// Its place in the history.
    number: u32,
    plan: Plan,
    world: Arc<World>,
    log: Log,
    phase: watch::Receiver<Phase>,
    cuts: watch::Receiver<u64>,
    random: SmallRng,
    homes: Homes,
    failures: u32,
    /// Number of the next attempt to connect.
    attempt: u32,
    session: Session,
    subscriptions: Vec<Subscription>,
    /// SUBSCRIBEs and UNSUBSCRIBEs without an answer: places of what each is about, by packet id.
    requests: BTreeMap<u16, Vec<usize>>,
    /// A clean start that no CONNACK has confirmed is to be repeated: it may have been carried out.
    starts_clean: bool,
    /// Which filter an alternating actor wants.
    turn: usize,
    /// Number of the next message.
    next: u32,
    timers: Timers,
    is_idle_told: bool,
    is_done: bool,
}

/// Says how a connection ended.
#[derive(Debug)]
struct Ending {
    why: End,
    /// The reason of the node's DISCONNECT.
    reason: u8,
    /// Whether the plan wanted it.
    is_wanted: bool,
}

impl Ending {
    fn wanted(why: End) -> Self {
        Self {
            why,
            reason: 0,
            is_wanted: true,
        }
    }
}

impl From<Lost> for Ending {
    fn from(lost: Lost) -> Self {
        let why = match lost {
            Lost::Unreachable(_) => End::Unreachable,
            Lost::Broken(_) | Lost::Closed => End::Closed,
            Lost::Slow(_) => End::Slow,
            Lost::Malformed(_) => End::Malformed,
        };
        Self {
            why,
            reason: 0,
            is_wanted: false,
        }
    }
}

impl Actor {
    pub(super) fn new(number: u32, plan: Plan, world: Arc<World>, log: Log) -> Self {
        let seed = benches::profile::mix(&[world.seed, u64::from(number), 17]);
        let subscriptions = plan.wants.iter().map(|want| Subscription::of(*want));
        Self {
            number,
            log,
            phase: world.phase.clone(),
            cuts: world.cuts.clone(),
            random: SmallRng::seed_from_u64(seed),
            homes: Homes::new(world.nodes.clone(), number as usize),
            failures: 0,
            attempt: 0,
            session: Session::default(),
            subscriptions: subscriptions.collect(),
            requests: BTreeMap::new(),
            starts_clean: false,
            turn: 0,
            next: 0,
            timers: Timers::default(),
            is_idle_told: false,
            is_done: false,
            plan,
            world,
        }
    }

    /// Runs until the workload is over, or the actor's part in it.
    pub(super) async fn run(mut self) {
        // Not all at one moment, which is a scenario of its own.
        let spread = Duration::from_millis(self.random.random_range(0..500));
        if !self.wait(spread).await {
            return;
        }
        while !self.is_over() {
            let ending = self.connect_and_serve().await;
            self.log.record(What::Ended {
                why: ending.why,
                reason: ending.reason,
            });
            tracing::debug!(client_id = self.plan.client_id, ?ending, "connection ended");
            self.tell_idle();
            if self.is_over() {
                break;
            }
            let delay = self.absence(&ending);
            let random = self.random.random();
            self.homes.turn(random);
            self.wait(delay).await;
        }
        self.give_up();
    }

    fn is_over(&self) -> bool {
        self.is_done || self.world.phase() == Phase::Over
    }

    /// Waits; who is away comes back at once when a phase begins. False when all is over.
    async fn wait(&mut self, delay: Duration) -> bool {
        tokio::select! {
            () = sleep(delay) => {}
            // The sender lives as long as the workload.
            _ = self.phase.changed() => {}
        }
        self.world.phase() != Phase::Over
    }

    /// How long it stays away after a connection that ended so.
    fn absence(&mut self, ending: &Ending) -> Duration {
        let is_taken_over = ending.reason == ReasonCode::SessionTakenOver as u8;
        if let Some(patience) = &self.plan.patience
            && !ending.is_wanted
        {
            return patience.away.draw(&mut self.random);
        }
        match &self.plan.habit {
            Habit::Leaves { away, .. } if ending.is_wanted => {
                let at = self.timers.leaves as usize % away.len();
                self.timers.leaves += 1;
                away[at].draw(&mut self.random)
            }
            Habit::Contends { away, .. } if is_taken_over => away.draw(&mut self.random),
            _ => {
                let delay = BACKOFF.delay(self.failures, self.random.random());
                self.failures += 1;
                delay
            }
        }
    }

    async fn connect_and_serve(&mut self) -> Ending {
        let (node, address) = self.homes.node();
        let connection = self.attempt;
        self.attempt += 1;
        let clean_start = self.chooses_clean_start();
        self.log.record(What::Connecting {
            connection,
            node,
            clean_start,
            will: self.plan.will.is_some(),
        });
        let connect = self.connect_packet(connection, clean_start);
        let patience = self.plan.patience.as_ref();
        // Beyond what any client waits.
        let patience = patience.map_or(PATIENCE, |one| one.waits.draw(&mut self.random));
        let mut phase = self.phase.clone();
        let mut cuts = self.cuts.clone();
        cuts.borrow_and_update();
        let opened = tokio::select! {
            opened = Wire::open(address, connect) => opened,
            () = sleep(patience) => Err(Lost::Slow("the node")),
            _ = phase.wait_for(|phase| *phase == Phase::Over) => return Ending::wanted(End::Cut),
            _ = cuts.changed() => return Ending { is_wanted: false, ..Ending::wanted(End::Cut) },
        };
        let opened = opened.map_err(Ending::from).and_then(|(wire, first)| {
            let present = self.handle_first(&first)?;
            Ok((wire, present))
        });
        let (wire, session_present) = match opened {
            Ok(opened) => opened,
            Err(ending) => {
                Stats::add(&self.world.stats.refused);
                return ending;
            }
        };
        self.failures = 0;
        self.world.stats.connected.fetch_add(1, Ordering::Relaxed);
        let ending = self.serve(wire, session_present).await;
        self.timers.connected_until = Some(Instant::now());
        self.world.stats.connected.fetch_sub(1, Ordering::Relaxed);
        if !ending.is_wanted {
            Stats::add(&self.world.stats.lost);
        }
        ending
    }

    fn chooses_clean_start(&mut self) -> bool {
        let one_in = self.plan.clean_start_one_in;
        if one_in > 0 && self.world.phase() == Phase::Running {
            self.starts_clean |= self.random.random_range(0..one_in) == 0;
        }
        self.starts_clean || self.plan.expiry_s == 0
    }

    fn connect_packet(&self, connection: u32, clean_start: bool) -> Connect {
        let will = self.plan.will.map(|(topic, qos)| {
            let payload = Payload {
                publisher: self.number,
                number: connection,
                topic,
            };
            let bytes = self.world.config.payload_bytes;
            Box::new(Will {
                topic: self.world.topics[topic as usize].clone(),
                payload: payload.encode(self.world.seed, bytes).into(),
                qos: qos_of(qos),
                retain: false,
                delay_s: None,
                properties: None,
            })
        });
        let client_id = Bytes::copy_from_slice(self.plan.client_id.as_bytes());
        Connect {
            version: Version::V5,
            clean_start,
            keep_alive_s: KEEP_ALIVE_S,
            client_id: Text::parse(client_id).unwrap_or_default(),
            will,
            user_name: None,
            password: None,
            properties: ConnectProperties {
                session_expiry_s: Some(self.plan.expiry_s),
                receive_maximum: NonZeroU16::new(self.plan.receive_maximum),
                ..ConnectProperties::default()
            },
        }
    }

    /// Takes what came first; the session-present flag if the client is connected.
    fn handle_first(&mut self, packet: &Packet) -> Result<bool, Ending> {
        let ended = |why: End| Ending {
            why,
            reason: 0,
            is_wanted: false,
        };
        match packet {
            Packet::ConnAck(connack) if connack.reason == ReasonCode::Success => {
                self.log.record(What::Connected {
                    session_present: connack.session_present,
                });
                Stats::add(&self.world.stats.connects);
                Ok(connack.session_present)
            }
            Packet::ConnAck(connack) => {
                let reason = connack.reason as u8;
                self.log.record(What::Refused { reason });
                Err(ended(End::Closed))
            }
            _ => Err(ended(End::Malformed)),
        }
    }

    /// One connection, from its CONNACK to its end.
    async fn serve(&mut self, mut wire: Wire, session_present: bool) -> Ending {
        self.handle_connected(&mut wire, session_present);
        match self.attend(&mut wire).await {
            Ok(Some(Leaving::Abruptly)) => Ending::wanted(End::Cut),
            Ok(_) => {
                // What was gathered and not written would make DISCONNECT come too early.
                let is_flushed = wire.flush().await.is_ok();
                let is_seen = wire.leave().await && is_flushed;
                Ending::wanted(if is_seen { End::Left } else { End::LeftUnseen })
            }
            Err(ending) => ending,
        }
    }

    fn handle_connected(&mut self, wire: &mut Wire, session_present: bool) {
        if self.starts_clean {
            self.turn += 1;
        }
        self.starts_clean = false;
        if !session_present {
            self.give_up();
        }
        // It may have expired, and an attempt whose CONNACK was lost may have begun another one.
        if !session_present || self.may_have_expired() {
            self.forget_subscriptions();
        }
        self.choose_subscriptions();
        self.resend(wire);
        self.begin_connection();
    }

    /// Does what is due until the plan or the connection ends it: `Ok` says how to leave.
    async fn attend(&mut self, wire: &mut Wire) -> Result<Option<Leaving>, Ending> {
        self.cuts.borrow_and_update();
        loop {
            while let Some(packet) = wire.next_packet()? {
                self.handle_packet(wire, packet)?;
            }
            self.tell_idle();
            if let Some(how) = self.leaves() {
                return Ok(how);
            }
            self.subscribe_due(wire);
            self.publish_due(wire);
            self.ping_due(wire)?;
            wire.flush().await?;
            let wake = self.next_wake();
            let is_stalled = self.is_stalled();
            tokio::select! {
                read = wire.read_more(), if !is_stalled => {
                    read?;
                    self.timers.last_read = Instant::now();
                }
                () = sleep_until(wake) => {}
                _ = self.phase.changed() => {}
                _ = self.cuts.changed() => {
                    return Err(Ending { is_wanted: false, ..Ending::wanted(End::Cut) });
                }
            }
        }
    }

    /// Tells once that nothing of this publisher is under way any more.
    fn tell_idle(&mut self) {
        let is_publisher = self.plan.publishes.is_some();
        let is_idle = self.session.outgoing().len() == 0 && self.world.phase() > Phase::Running;
        if is_publisher && is_idle && !self.is_idle_told {
            self.is_idle_told = true;
            self.world.busy.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// What was under way is not pursued any more.
    fn give_up(&mut self) {
        for number in self.session.forget() {
            self.log.record(What::GivenUp { number });
        }
        self.tell_idle();
    }

    fn publishes(&self) -> Option<&Publishes> {
        self.plan.publishes.as_ref()
    }

    fn is_role(&self, role: Role) -> bool {
        self.plan.role == role
    }
}

fn qos_of(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}
