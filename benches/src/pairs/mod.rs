//! Pairs of a publisher and a subscriber with QoS 1 whose sessions outlive their connections and
//! move from node to node: what a cluster is for, and the check of it.
//!
//! Every acknowledged message has to reach the subscriber, in the order in which it was sent, and
//! every reconnect has to find the session. A message may come again, as QoS 1 permits.

mod client;
mod publisher;
mod subscriber;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::fleet::Backoff;

/// Says what the pairs do.
#[derive(Clone, Debug)]
pub struct Config {
    /// MQTT addresses of the nodes; publisher and subscriber of a pair begin at different ones.
    pub addresses: Arc<[SocketAddr]>,
    /// Number of pairs.
    pub pairs: u32,
    /// Time between two messages of a publisher; it has one under way at a time.
    pub interval: Duration,
    /// How long the publishers publish.
    pub duration: Duration,
    /// After `duration`, how long is waited for what is missing.
    pub drain_deadline: Duration,
    /// Seed of every random choice.
    pub seed: u64,
    /// Wait before a reconnect.
    pub backoff: Backoff,
    /// The subscriber of every other pair leaves after such a time with its subscription, and comes
    /// to another node when `away` has passed; its messages wait for it meanwhile.
    pub stay: Duration,
    /// How long it is away.
    pub away: Duration,
}

impl Config {
    /// Returns the demo's choices.
    #[must_use]
    pub fn new(addresses: Arc<[SocketAddr]>, pairs: u32, duration: Duration) -> Self {
        Self {
            addresses,
            pairs,
            interval: Duration::from_millis(50),
            duration,
            drain_deadline: Duration::from_secs(30),
            seed: 0,
            backoff: Backoff::default(),
            stay: Duration::from_secs(2),
            away: Duration::from_secs(1),
        }
    }
}

/// Says what became of the messages of all pairs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Pairs of a publisher and a subscriber.
    pub pairs: u32,
    /// Messages sent, each counted once.
    pub published: u64,
    /// Of these, those whose PUBACK came.
    pub acked: u64,
    /// Messages that came to their subscriber, each counted once.
    pub received: u64,
    /// Acknowledged messages that did not come.
    pub lost: u64,
    /// Messages that came for the first time after a later one.
    pub out_of_order: u64,
    /// Messages that came again.
    pub repeated: u64,
    /// Connects that did not find the session which was there.
    pub sessions_missing: u64,
    /// Connects after the first one, of publishers and subscribers.
    pub reconnects: u64,
}

impl Summary {
    /// Returns true when nothing acknowledged is lost or out of order, and no session was.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.lost == 0 && self.out_of_order == 0 && self.sessions_missing == 0
    }

    fn add(&mut self, other: &Self) {
        self.pairs += other.pairs;
        self.published += other.published;
        self.acked += other.acked;
        self.received += other.received;
        self.lost += other.lost;
        self.out_of_order += other.out_of_order;
        self.repeated += other.repeated;
        self.sessions_missing += other.sessions_missing;
        self.reconnects += other.reconnects;
    }
}

/// Counts what the pairs do while they do it.
#[derive(Debug, Default)]
pub struct Stats {
    acknowledged: AtomicU64,
}

impl Stats {
    /// Returns the messages acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }
}

/// What all pairs share.
#[derive(Debug)]
struct Shared {
    config: Config,
    stats: Arc<Stats>,
    stop: CancellationToken,
    start: Instant,
}

impl Shared {
    /// Waits for the end of all waiting. Cancel-safe.
    async fn over(&self) {
        let deadline = self.start + self.config.duration + self.config.drain_deadline;
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => {}
            () = self.stop.cancelled() => {}
        }
    }
}

/// Lets the pairs publish for `config.duration` and waits until everything acknowledged has come,
/// or until `config.drain_deadline`. Ends early when `stop` is cancelled.
///
/// # Errors
/// The words of a task that panicked; all others are ended.
pub async fn run(
    config: Config,
    stats: Arc<Stats>,
    stop: CancellationToken,
) -> Result<Summary, String> {
    let shared = Arc::new(Shared {
        config,
        stats,
        stop: stop.child_token(),
        start: Instant::now(),
    });
    let mut tasks = JoinSet::new();
    for number in 0..shared.config.pairs {
        tasks.spawn(pair(number, Arc::clone(&shared)));
    }
    let mut summary = Summary::default();
    while let Some(ended) = tasks.join_next().await {
        summary.add(&ended.map_err(|error| format!("a pair's task: {error}"))?);
    }
    Ok(summary)
}

async fn pair(number: u32, shared: Arc<Shared>) -> Summary {
    // Nothing is published that the subscription does not cover yet.
    let (tell_subscribed, subscribed) = oneshot::channel();
    let (tell_acked, acked) = watch::channel(None);
    let (publisher, subscriber) = tokio::join!(
        publisher::run(number, &shared, subscribed, tell_acked),
        subscriber::run(number, &shared, tell_subscribed, acked),
    );
    let receipts = &subscriber.receipts;
    Summary {
        pairs: 1,
        published: publisher.published,
        acked: publisher.acked,
        received: receipts.distinct(),
        lost: receipts.missing(publisher.acked),
        out_of_order: receipts.out_of_order(),
        repeated: receipts.repeated(),
        sessions_missing: publisher.sessions_missing + subscriber.sessions_missing,
        reconnects: publisher.reconnects + subscriber.reconnects,
    }
}

/// The one topic of a pair; no telemetry stream takes it.
fn topic(pair: u32) -> String {
    format!("pairs/{pair}")
}
