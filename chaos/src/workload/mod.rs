//! Clients that publish and receive while something is broken, and record what they do and see.
//!
//! [`Config`] says how many of which kind; who they are and what they do follows from it and the seed. They
//! go from node to node as firmware does, at random but seeded; what the nodes answer and when is not.

mod actor;
mod cast;
mod config;
mod plan;
mod telemetry;
mod world;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mqtt::{Filter, Topic};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use telemetry::Telemetry;
pub use world::Counts;

use crate::checkers;
use crate::client::Nodes;
use crate::history::{self, Budget, History, Log, Role};
use actor::Actor;
use cast::Cast;
use plan::Plan;
use world::{Phase, Stats, World};

/// Time between two looks at whether everything has come.
const LOOK: Duration = Duration::from_millis(500);

/// After everything has come: time in which what comes too often may come.
const LINGER: Duration = Duration::from_secs(2);

/// Time for all clients to disconnect in the end.
const GOODBYE: Duration = Duration::from_secs(5);

/// Says why a workload cannot be run or has come to no history.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No client could go anywhere; nothing was started.
    #[error("a workload needs the address of a node")]
    NoNode,
    /// The fleet or its ledger failed.
    #[error("telemetry of the workload: {0}")]
    Telemetry(String),
    /// A client's task panicked, so its history says nothing.
    #[error("a client of the workload panicked: {0}")]
    Panicked(String),
}

/// Is a running workload; dropped, its clients end without a word to anybody.
#[derive(Debug)]
pub struct Workload {
    world: Arc<World>,
    start: Instant,
    actors: Vec<(Plan, Log)>,
    texts: (Vec<String>, Vec<String>),
    tasks: JoinSet<()>,
    watching_stop: AbortOnDrop,
    phase: watch::Sender<Phase>,
    cuts: watch::Sender<u64>,
    nodes: watch::Sender<Arc<Nodes>>,
    telemetry: Option<Telemetry>,
    drained_us: Option<u64>,
    panicked: Option<String>,
}

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Workload {
    /// Starts the clients on the current runtime. With `ledger`, a file that is not there yet, the fleet of
    /// `config.devices` publishes telemetry too. `stop` ends everything at once.
    ///
    /// # Errors
    /// [`Error::NoNode`]; [`Error::Telemetry`] when the ledger cannot be created.
    ///
    /// # Panics
    /// Outside a runtime of tokio.
    pub fn start(
        config: Config,
        addresses: &[SocketAddr],
        seed: u64,
        ledger: Option<&Path>,
        stop: &CancellationToken,
    ) -> Result<Self, Error> {
        if addresses.is_empty() {
            return Err(Error::NoNode);
        }
        let cast = Cast::of(&config, seed);
        let telemetry = match ledger {
            Some(path) if config.devices > 0 => {
                Some(Telemetry::start(path, addresses, config.devices, seed)?)
            }
            _ => None,
        };
        let mut nodes = Nodes::default();
        nodes.use_only(addresses);
        let (tell_phase, phase) = watch::channel(Phase::Running);
        let (tell_cut, cuts) = watch::channel(0);
        let (tell_nodes, nodes) = watch::channel(Arc::new(nodes));
        let world = Arc::new(World {
            seed,
            topics: parsed(&cast.topics, |text| Topic::try_from(text).ok()),
            filters: parsed(&cast.filters, |text| Filter::try_from(text).ok()),
            budget: Arc::new(Budget::default()),
            stats: Stats::default(),
            phase,
            cuts,
            nodes,
            awaited: counter(&cast.plans, |plan| match plan.is_awaited() {
                true if plan.is_alternating => 1,
                true => plan.wants.len(),
                false => 0,
            }),
            busy: counter(&cast.plans, |plan| usize::from(plan.publishes.is_some())),
            reading: counter(&cast.plans, |plan| usize::from(plan.role == Role::Reader)),
            config,
        });
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        let mut actors = Vec::new();
        for (number, plan) in (0_u32..).zip(cast.plans) {
            let log = Log::new(start, Arc::clone(&world.budget));
            let actor = Actor::new(number, plan.clone(), Arc::clone(&world), log.clone());
            tasks.spawn(actor.run());
            actors.push((plan, log));
        }
        let (stop, ended) = (stop.clone(), tell_phase.clone());
        let watching_stop = tokio::spawn(async move {
            stop.cancelled().await;
            ended.send_replace(Phase::Over);
        });
        Ok(Self {
            world,
            start,
            actors,
            texts: (cast.topics, cast.filters),
            tasks,
            watching_stop: AbortOnDrop(watching_stop.abort_handle()),
            phase: tell_phase,
            cuts: tell_cut,
            nodes: tell_nodes,
            telemetry,
            drained_us: None,
            panicked: None,
        })
    }

    /// Returns the time since the start, from which the history counts.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Returns what it has done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.world.stats.counts()
    }

    /// Returns true once every subscription is there and publishers publish.
    #[must_use]
    pub fn is_flowing(&self) -> bool {
        self.world.is_flowing()
    }

    /// Has clients go to these nodes from now on, whenever they connect: a node that joined is added, one that
    /// is to go is left out. The simulated devices keep to those of the start.
    pub fn set_addresses(&self, addresses: &[SocketAddr]) {
        self.nodes.send_modify(|nodes| {
            let mut changed = Nodes::clone(nodes);
            changed.use_only(addresses);
            *nodes = Arc::new(changed);
        });
    }

    /// Cuts the connections of all clients at once.
    pub fn cut_all(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Returns the history so far.
    #[must_use]
    pub fn history(&self) -> History {
        let actors = self.actors.iter().map(|(plan, log)| history::Actor {
            client_id: plan.client_id.clone(),
            role: plan.role,
            expiry_s: plan.expiry_s,
            events: log.events(),
        });
        History {
            seed: self.world.seed,
            actors: actors.collect(),
            nodes: self.nodes.borrow().all.clone(),
            topics: self.texts.0.clone(),
            filters: self.texts.1.clone(),
            unrecorded: self.world.budget.unrecorded(),
            drained_us: self.drained_us,
            taken_us: u64::try_from(self.now().as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// Publishes nothing new, and waits until everything acknowledged has come, at most `drain` (the T of
    /// SEMANTICS); then ends all clients and returns what they did and saw.
    ///
    /// # Errors
    /// [`Error::Panicked`], [`Error::Telemetry`].
    pub async fn finish(mut self, drain: Duration) -> Result<History, Error> {
        self.drained_us = u64::try_from(self.now().as_micros()).ok();
        let deadline = Instant::now() + drain;
        self.enter(Phase::Draining);
        if let Some(telemetry) = self.telemetry.take() {
            telemetry.finish().await?;
        }
        self.wait_until_zero(deadline, |world| &world.busy).await;
        self.enter(Phase::Settled);
        while Instant::now() < deadline && !self.has_all_come().await {
            sleep(LOOK).await;
        }
        self.wait_until_zero(deadline, |world| &world.reading).await;
        sleep(LINGER).await;
        let history = self.history();
        self.enter(Phase::Over);
        let end = tokio::time::timeout(GOODBYE, self.join_all());
        if end.await.is_err() {
            tracing::debug!(left = self.tasks.len(), "clients did not end in time");
        }
        self.reap();
        drop(self.watching_stop);
        match self.panicked {
            Some(words) => Err(Error::Panicked(words)),
            None => Ok(history),
        }
    }

    /// The stop may have been first.
    fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let is_later = *now < phase;
            *now = phase.max(*now);
            is_later
        });
    }

    async fn wait_until_zero(&mut self, deadline: Instant, of: impl Fn(&World) -> &AtomicUsize) {
        while of(&self.world).load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            self.reap();
            if self.panicked.is_some() || self.world.phase() == Phase::Over {
                return;
            }
            sleep(LOOK / 5).await;
        }
    }

    /// Whether nothing acknowledged is missing, by the checkers' own words.
    async fn has_all_come(&mut self) -> bool {
        self.reap();
        if self.panicked.is_some() || self.world.phase() == Phase::Over {
            return true;
        }
        let history = self.history();
        let missing = tokio::task::spawn_blocking(move || checkers::missing(&history));
        missing.await.is_ok_and(|missing| missing == 0)
    }

    fn reap(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            self.note(ended);
        }
    }

    async fn join_all(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            self.note(ended);
        }
    }

    fn note(&mut self, ended: Result<(), tokio::task::JoinError>) {
        if let Err(error) = ended {
            self.panicked.get_or_insert(error.to_string());
        }
    }
}

/// The cast makes no text that is not good, which its tests show.
fn parsed<T>(texts: &[String], parse: impl Fn(&str) -> Option<T>) -> Vec<T> {
    let parsed = texts.iter().map(|text| parse(text));
    let parsed: Option<Vec<T>> = parsed.collect();
    parsed.expect("topics and filters of the cast are good")
}

fn counter(plans: &[Plan], of: impl Fn(&Plan) -> usize) -> AtomicUsize {
    AtomicUsize::new(plans.iter().map(of).sum())
}
