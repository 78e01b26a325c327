//! The time in which the clients of a demo publish, and a node is killed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::folder::{Folder, Record};
use super::node::{READY_DEADLINE, is_ready};
use super::nodes::Nodes;
use super::progress::{Progress, TICK};
use super::run::Interrupts;
use super::view::{View, is_led_without, leader_of};
use super::{Error, Options};
use crate::fleet::{self, Stats};
use crate::ledger::{self, Header};
use crate::pairs;
use crate::profile::{self, METRICS};

/// Time between `--kill` and the new start.
const KILL_PAUSE: Duration = Duration::from_secs(5);

/// Time between two looks at what changes after a kill.
const LOOK: Duration = Duration::from_millis(100);

/// How long after a kill it is awaited that all shards are led again.
const LED_DEADLINE: Duration = Duration::from_secs(30);

/// Pairs for each node whose messages go through sessions.
const PAIRS_PER_NODE: u32 = 2;

/// Returns the pairs of a demo; a lone node has none.
pub(super) fn pairs_of(nodes: u32) -> u32 {
    if nodes > 1 { nodes * PAIRS_PER_NODE } else { 0 }
}

/// Lets the clients publish until their end; afterwards all nodes run again.
pub(super) async fn publish(
    options: &Options,
    nodes: &mut Nodes,
    folder: &Folder,
    record: &mut Record,
    interrupts: &mut Interrupts,
) -> Result<(), Error> {
    let header = Header {
        seed: record.seed,
        devices: options.devices,
        metrics: profile::METRIC_NAMES.map(str::to_owned).to_vec(),
    };
    let ledger = ledger::Writer::create(&folder.ledger(), &header)
        .map_err(|error| Error::Failed(error.to_string()))?;
    let stop = CancellationToken::new();
    let stats = Arc::new(Stats::default());
    let pair_stats = Arc::new(pairs::Stats::default());
    let mut running = tokio::spawn(run_clients(
        fleet_of(options, record.seed, nodes.mqtt()),
        ledger.handle(),
        Arc::clone(&stats),
        Arc::clone(&pair_stats),
        stop.clone(),
    ));
    let mut watch = Watch {
        view: (options.nodes > 1).then(|| View::of(nodes.admins())),
        nodes,
        record,
        stats: &stats,
        pair_stats: &pair_stats,
        progress: Progress::new(options.duration),
        kill: match options.kill {
            true => Kill::At(Instant::now() + options.duration / 2),
            false => Kill::Over,
        },
        killed: None,
    };
    let outcome = watch.run(&mut running, interrupts).await;
    if outcome.is_ok() {
        watch.progress.finish(&stats);
    } else {
        stop.cancel();
        // Its own end says nothing beside the error that is on its way already.
        drop(running.await);
    }
    let finished = tokio::task::spawn_blocking(move || ledger.finish())
        .await
        .map_err(|error| Error::Failed(error.to_string()))?;
    let (summary, sessions) = outcome?;
    finished.map_err(|error| Error::Failed(error.to_string()))?;
    take_summary(&summary, &stats, record);
    if let (Some(cluster), Some(sessions)) = (&mut record.cluster, sessions) {
        cluster.sessions = sessions;
    }
    Ok(())
}

fn fleet_of(options: &Options, seed: u64, addresses: Vec<SocketAddr>) -> fleet::Config {
    let first = addresses[0];
    fleet::Config {
        addresses: addresses.into(),
        seed,
        ..fleet::Config::new(first, options.devices, options.interval, options.duration)
    }
}

fn take_summary(summary: &fleet::Summary, stats: &Stats, record: &mut Record) {
    let seconds = summary.elapsed.as_secs_f64();
    if seconds > 0.0 {
        record.points_per_s = (stats.acknowledged() * METRICS as u64) as f64 / seconds;
    }
    record.p99_ms = stats
        .latencies()
        .quantile(0.99)
        .map_or(0.0, |p99| p99.as_secs_f64() * 1e3);
    record.reconnects = stats.reconnects();
    if summary.devices_unfinished > 0 {
        eprintln!(
            "{} devices ended with messages unsent or unacknowledged",
            summary.devices_unfinished
        );
    }
    if summary.skipped > 0 {
        eprintln!(
            "{} measurements were not taken, for their devices were full",
            summary.skipped
        );
    }
}

type Ended = Result<(fleet::Summary, Option<pairs::Summary>), Error>;

/// Runs the fleet, and pairs beside it where there are several nodes.
async fn run_clients(
    fleet: fleet::Config,
    ledger: ledger::Handle,
    stats: Arc<Stats>,
    pair_stats: Arc<pairs::Stats>,
    stop: CancellationToken,
) -> Ended {
    let failed = |error: String| Error::Failed(error);
    let nodes = u32::try_from(fleet.addresses.len()).unwrap_or(u32::MAX);
    let pairs = pairs::Config {
        seed: fleet.seed,
        drain_deadline: fleet.drain_deadline,
        ..pairs::Config::new(
            Arc::clone(&fleet.addresses),
            pairs_of(nodes),
            fleet.duration,
        )
    };
    let publishing = async {
        let ended = fleet::run(fleet, ledger, stats, stop.clone()).await;
        if ended.is_err() {
            stop.cancel();
        }
        ended.map_err(|error| failed(error.to_string()))
    };
    if pairs.pairs == 0 {
        return Ok((publishing.await?, None));
    }
    let (summary, sessions) = tokio::join!(publishing, pairs::run(pairs, pair_stats, stop.clone()));
    Ok((summary?, Some(sessions.map_err(failed)?)))
}

/// Where `--kill` stands.
enum Kill {
    At(Instant),
    StartAt(Instant),
    /// Started at this moment; the task ends when the node is ready.
    Starting(Instant, JoinHandle<()>),
    Over,
}

/// The node that was killed.
#[derive(Clone, Copy)]
struct Killed {
    place: usize,
    number: u32,
    at: Instant,
}

/// One look after the other at everything that can happen.
struct Watch<'a> {
    nodes: &'a mut Nodes,
    record: &'a mut Record,
    stats: &'a Stats,
    pair_stats: &'a pairs::Stats,
    progress: Progress,
    view: Option<View>,
    kill: Kill,
    killed: Option<Killed>,
}

impl Watch<'_> {
    /// Watches until the clients have ended and no node is away.
    async fn run(&mut self, running: &mut JoinHandle<Ended>, interrupts: &mut Interrupts) -> Ended {
        let mut ended = None;
        let mut ticks = tokio::time::interval(TICK);
        let mut looks = tokio::time::interval(LOOK);
        loop {
            // With `--kill` and a short run the clients may end while the node is away.
            if ended.is_some() && matches!(self.kill, Kill::Over) && !self.awaits_leaders() {
                return ended.take().expect("it was looked at");
            }
            tokio::select! {
                done = &mut *running, if ended.is_none() => {
                    let done = done.map_err(|error| Error::Failed(error.to_string()))?;
                    ended = Some(Ok(done?));
                }
                _ = ticks.tick() => self.show(),
                _ = looks.tick(), if self.killed.is_some() => self.look_for_leaders(),
                error = self.nodes.ended_by_itself() => return Err(error),
                () = interrupts.recv() => return Err(Error::Interrupted),
                () = due(&mut self.kill) => self.step().await?,
            }
        }
    }

    fn show(&mut self) {
        let cluster = self.view.as_ref().map(|view| {
            let through = self.pair_stats.acknowledged();
            format!("{}; {through} messages through sessions", view.standing())
        });
        self.progress.tick(self.stats, cluster);
    }

    /// Carries out what is due of `--kill`.
    async fn step(&mut self) -> Result<(), Error> {
        self.kill = match std::mem::replace(&mut self.kill, Kill::Over) {
            Kill::At(_) => {
                self.kill_one().await?;
                Kill::StartAt(Instant::now() + KILL_PAUSE)
            }
            Kill::StartAt(_) => {
                let place = self.killed.map_or(0, |killed| killed.place);
                self.nodes.spawn(place)?;
                let admin = self.nodes.launches()[place].admin;
                let ready = tokio::spawn(async move {
                    while !is_ready(admin).await {
                        sleep(LOOK).await;
                    }
                });
                Kill::Starting(Instant::now(), ready)
            }
            Kill::Starting(started, ready) => {
                let number = self.killed.map_or(1, |killed| killed.number);
                if !ready.is_finished() {
                    ready.abort();
                    return Err(Error::Failed(format!(
                        "node {number} is not ready {READY_DEADLINE:?} after its new start"
                    )));
                }
                if let Some(cluster) = &mut self.record.cluster {
                    cluster.ready_again_s = Some(seconds_since(started));
                }
                self.progress
                    .say(&format!("node {number} started again and ready"));
                Kill::Over
            }
            Kill::Over => Kill::Over,
        };
        Ok(())
    }

    async fn kill_one(&mut self) -> Result<(), Error> {
        let place = self.victim();
        let number = self.nodes.launches()[place].number;
        let leads = self
            .view
            .as_ref()
            .map(|view| format!(" ({})", view.standing()));
        if let Some(node) = self.nodes.node(place) {
            let status = node.ask(|client| client.tsdb()).await?;
            let counted = status.pipeline.stored_points;
            self.record.points_counted_as_new.push(counted);
        }
        self.nodes.kill(place).await?;
        self.killed = Some(Killed {
            place,
            number,
            at: Instant::now(),
        });
        if let Some(cluster) = &mut self.record.cluster {
            cluster.killed = Some(number);
        }
        self.progress.say(&format!(
            "node {number} killed with SIGKILL{}",
            leads.unwrap_or_default()
        ));
        Ok(())
    }

    /// The place of the node that leads meta, so that the hardest case is shown; without a word of
    /// that the first.
    fn victim(&self) -> usize {
        let statuses = self.view.as_ref().map(View::statuses).unwrap_or_default();
        let mut leaders = statuses.iter().flatten();
        let leader = leaders.find_map(|status| leader_of(status, "meta"));
        let launches = self.nodes.launches().iter();
        let mut numbers = launches.map(|launch| launch.number);
        numbers
            .position(|number| Some(number) == leader)
            .unwrap_or(0)
    }

    /// Whether it is not known yet when all shards were led again.
    fn awaits_leaders(&self) -> bool {
        let Some((killed, cluster)) = self.killed.zip(self.record.cluster.as_ref()) else {
            return false;
        };
        cluster.led_again_s.is_none() && killed.at.elapsed() < LED_DEADLINE
    }

    fn look_for_leaders(&mut self) {
        let (Some(killed), Some(view)) = (self.killed, &self.view) else {
            return;
        };
        if !self.awaits_leaders() {
            return;
        }
        // Once it is back it may lead as well as any other.
        let away = (!matches!(self.kill, Kill::Over)).then_some(killed.number);
        let statuses = view.statuses().into_iter().enumerate();
        let mut others = statuses.filter(|(place, _)| *place != killed.place);
        let is_led =
            others.all(|(_, status)| status.is_some_and(|status| is_led_without(&status, away)));
        if is_led && let Some(cluster) = &mut self.record.cluster {
            let seconds = seconds_since(killed.at);
            cluster.led_again_s = Some(seconds);
            self.progress.say(&format!(
                "all shards are led again {seconds:.1} s after the kill ({})",
                view.standing()
            ));
        }
    }
}

fn seconds_since(moment: Instant) -> f64 {
    (moment.elapsed().as_secs_f64() * 1e3).round() / 1e3
}

/// Waits until something of `--kill` is due, for ever if nothing is. Cancel-safe.
async fn due(kill: &mut Kill) {
    match kill {
        Kill::At(due) | Kill::StartAt(due) => tokio::time::sleep_until(*due).await,
        Kill::Starting(started, ready) => {
            let deadline = *started + READY_DEADLINE;
            tokio::select! {
                // A panic there shows as a node that is ready never.
                _ = ready => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
        Kill::Over => std::future::pending().await,
    }
}
