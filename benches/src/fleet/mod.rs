//! Simulated devices that publish over real TCP connections, speaking MQTT 3.1.1.

mod backoff;
mod connection;
mod device;
#[cfg(test)]
mod device_test;
pub(crate) mod homes;
mod latency;
pub(crate) mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ledger;

pub use backoff::Backoff;
pub use device::{Acknowledged, BACKFILL_MESSAGES, Device, Message, Outgoing, Plan, Sending};
pub use latency::Latencies;

/// Says what the fleet does.
#[derive(Clone, Debug)]
pub struct Config {
    /// MQTT addresses of the nodes; devices are dealt over them in turn, and go to another one
    /// whenever a connection is lost or refused.
    pub addresses: Arc<[SocketAddr]>,
    /// Number of devices.
    pub devices: u32,
    /// Time between two messages of a device, whole milliseconds.
    pub interval: Duration,
    /// How long the devices measure.
    pub duration: Duration,
    /// After `duration`, how long they wait for the PUBACKs that are missing.
    pub drain_deadline: Duration,
    /// Seed of the data and of every random choice.
    pub seed: u64,
    /// Connects with clean sessions; otherwise with persistent ones, and sends what was not
    /// acknowledged again with DUP.
    pub clean_session: bool,
    /// Messages in flight of one device.
    pub inflight_max: usize,
    /// Keepalive announced in CONNECT, whole seconds.
    pub keepalive: Duration,
    /// The devices' first connects are spread evenly over this time.
    pub connect_spread: Duration,
    /// Wait before a reconnect.
    pub backoff: Backoff,
    /// One message in so many is sent again on purpose after its PUBACK; 0: none.
    pub resend_one_in: u64,
    /// The device that backfills out of order.
    pub backfill_device: Option<u32>,
}

impl Config {
    /// Returns the demo's choices for a fleet of this size at one node.
    #[must_use]
    pub fn new(address: SocketAddr, devices: u32, interval: Duration, duration: Duration) -> Self {
        Self {
            addresses: Arc::new([address]),
            devices,
            interval,
            duration,
            drain_deadline: Duration::from_secs(30),
            seed: 0,
            clean_session: false,
            inflight_max: 16,
            keepalive: Duration::from_secs(30),
            // A thousand connects a second.
            connect_spread: Duration::from_millis(u64::from(devices)),
            backoff: Backoff::default(),
            resend_one_in: 100,
            backfill_device: Some(0),
        }
    }
}

/// Counts what the fleet does while it does it; read by the progress display.
#[derive(Debug, Default)]
pub struct Stats {
    published: AtomicU64,
    acknowledged: AtomicU64,
    sent_again: AtomicU64,
    in_flight: AtomicU64,
    connected: AtomicU64,
    reconnects: AtomicU64,
    refused: AtomicU64,
    latencies: Latencies,
}

impl Stats {
    /// Returns the messages sent at least once.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// Returns the messages acknowledged at least once.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Returns how often a message was sent that had been sent before.
    #[must_use]
    pub fn sent_again(&self) -> u64 {
        self.sent_again.load(Ordering::Relaxed)
    }

    /// Returns the packets that wait for their PUBACK.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Returns the devices that are connected now.
    #[must_use]
    pub fn connected(&self) -> u64 {
        self.connected.load(Ordering::Relaxed)
    }

    /// Returns the connections made after one that was lost.
    #[must_use]
    pub fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    /// Returns the connects that failed or were refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Returns the times from PUBLISH to PUBACK. A packet that was sent again with DUP counts
    /// from its first sending, so an outage of the node shows.
    #[must_use]
    pub fn latencies(&self) -> &Latencies {
        &self.latencies
    }
}

/// Says how a fleet ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Devices that ended with messages unsent or unacknowledged.
    pub devices_unfinished: u32,
    /// Measurements not taken because too much waited in a device.
    pub skipped: u64,
    /// From the first PUBLISH to the last PUBACK.
    pub elapsed: Duration,
}

/// Says why a fleet ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ledger takes no more entries, so what was acknowledged could not be checked.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// A device's task panicked.
    #[error("a simulated device panicked: {0}")]
    Panicked(String),
}

/// What the tasks of all devices share.
#[derive(Debug)]
struct Shared {
    config: Config,
    ledger: ledger::Handle,
    stats: Arc<Stats>,
    stop: CancellationToken,
    start: Instant,
    first_publish_us: AtomicU64,
    last_puback_us: AtomicU64,
}

/// Runs the fleet: connects, publishes for `config.duration`, waits for the missing PUBACKs until
/// `config.drain_deadline`, disconnects. Ends early, with what is unacknowledged left so, when
/// `stop` is cancelled.
///
/// # Errors
/// [`Error`]; all devices are stopped.
pub async fn run(
    config: Config,
    ledger: ledger::Handle,
    stats: Arc<Stats>,
    stop: CancellationToken,
) -> Result<Summary, Error> {
    let deadline = config.duration + config.drain_deadline;
    let start_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        });
    let shared = Arc::new(Shared {
        ledger,
        stats,
        stop: stop.child_token(),
        start: Instant::now(),
        first_publish_us: AtomicU64::new(u64::MAX),
        last_puback_us: AtomicU64::new(0),
        config,
    });
    let mut tasks = JoinSet::new();
    for device in 0..shared.config.devices {
        let device = Device::new(plan_of(&shared.config, device, start_ms));
        tasks.spawn(connection::run(device, Arc::clone(&shared)));
    }
    let mut summary = Summary::default();
    let mut failure = None;
    let end = tokio::time::sleep_until(shared.start + deadline);
    tokio::pin!(end);
    loop {
        let ended = tokio::select! {
            ended = tasks.join_next() => ended,
            () = &mut end, if !shared.stop.is_cancelled() => {
                shared.stop.cancel();
                continue;
            }
        };
        match ended {
            None => break,
            Some(Ok(Ok(device))) => {
                summary.devices_unfinished += u32::from(!device.is_done());
                summary.skipped += device.skipped();
            }
            Some(Ok(Err(error))) => {
                shared.stop.cancel();
                failure.get_or_insert(Error::Ledger(error));
            }
            Some(Err(error)) => {
                shared.stop.cancel();
                failure.get_or_insert(Error::Panicked(error.to_string()));
            }
        }
    }
    let first = shared.first_publish_us.load(Ordering::Relaxed);
    let last = shared.last_puback_us.load(Ordering::Relaxed);
    summary.elapsed = Duration::from_micros(last.saturating_sub(first));
    failure.map_or(Ok(summary), Err)
}

fn plan_of(config: &Config, device: u32, start_ms: i64) -> Plan {
    // Devices measure at different moments of the interval; whole milliseconds keep times unique.
    let phase_ms =
        config.interval.as_millis() as u64 * u64::from(device) / u64::from(config.devices.max(1));
    Plan {
        device,
        seed: config.seed,
        start_ms,
        phase: Duration::from_millis(phase_ms),
        interval: config.interval,
        end: config.duration,
        inflight_max: config.inflight_max,
        resend_one_in: config.resend_one_in,
        backfill: config.backfill_device == Some(device),
    }
}
