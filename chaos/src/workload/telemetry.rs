//! The simulated fleet beside the clients, and its ledger.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use benches::fleet::{self, Stats, Summary};
use benches::ledger::{Header, Writer};
use benches::profile;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Error;

/// Longer than any run; the fleet ends when it is told.
const ENDLESS: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Time between two messages of a device.
const INTERVAL: Duration = Duration::from_secs(1);

/// Is a running fleet; dropped, it ends.
#[derive(Debug)]
pub struct Telemetry {
    ledger: Writer,
    running: JoinHandle<Result<Summary, fleet::Error>>,
    stop: DropGuard,
}

impl Telemetry {
    /// Starts the devices, which write down what is sent and acknowledged into a new ledger.
    pub(super) fn start(
        ledger: &Path,
        addresses: &[SocketAddr],
        devices: u32,
        seed: u64,
    ) -> Result<Self, Error> {
        let header = Header {
            seed,
            devices,
            metrics: profile::METRIC_NAMES.map(str::to_owned).to_vec(),
        };
        let ledger = Writer::create(ledger, &header);
        let ledger = ledger.map_err(|error| Error::Telemetry(error.to_string()))?;
        let config = fleet::Config {
            addresses: addresses.into(),
            seed,
            ..fleet::Config::new(addresses[0], devices, INTERVAL, ENDLESS)
        };
        let stop = CancellationToken::new();
        let running = fleet::run(
            config,
            ledger.handle(),
            Arc::new(Stats::default()),
            stop.clone(),
        );
        Ok(Self {
            ledger,
            running: tokio::spawn(running),
            stop: stop.drop_guard(),
        })
    }

    /// Ends the fleet and waits until the ledger is written.
    pub(super) async fn finish(self) -> Result<(), Error> {
        let failed = |words: String| Error::Telemetry(words);
        drop(self.stop);
        let ended = self.running.await;
        let ledger = self.ledger;
        let written = tokio::task::spawn_blocking(move || ledger.finish()).await;
        ended
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(error.to_string()))?;
        written
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(error.to_string()))
    }
}
