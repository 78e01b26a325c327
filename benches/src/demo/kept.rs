//! The check of a fleet's ledger for whoever ran the fleet elsewhere than in a demo.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use admin::bridge;
use admin::client::{Client, ClientError};
use admin::tsdb::Status;

use super::answers::Answers;
use super::check;
use super::folder::Record;
use super::report::Report;
use super::store::{Scanned, Sealed};
use super::{Error, caught_up};
use crate::ledger::Reader;

/// Time between two looks at what is not sealed.
const PAUSE: Duration = Duration::from_millis(200);
/// With Kafka a node may learn only so long after the last record where a partition ends: its client says so
/// once a second.
const END_KNOWN_AFTER: Duration = Duration::from_millis(1_500);

/// Says where the points are that a ledger is compared with.
#[derive(Clone, Copy, Debug)]
pub enum Kept<'a> {
    /// Running nodes, at these admin addresses; they answer a point once, wherever it is stored.
    Answers(&'a [SocketAddr]),
    /// Data folders of all nodes, of which none runs. Of several everything must be sealed.
    Folders(&'a [PathBuf]),
}

/// Compares the ledger of a fleet that has ended with what is kept. Blocks.
///
/// # Errors
/// [`Error::Failed`] when one of both cannot be read, or no node answers.
pub fn compare(ledger: &Path, kept: &Kept<'_>) -> Result<Report, Error> {
    let reader = Reader::open(ledger).map_err(|error| Error::Failed(error.to_string()))?;
    let (devices, seed) = (reader.header().devices, reader.header().seed);
    let record = |nodes: usize| Record {
        complete: true,
        ..Record::new(u32::try_from(nodes).unwrap_or(u32::MAX), devices, seed)
    };
    match kept {
        Kept::Answers(admins) => {
            let answers = Answers::at(admins, devices);
            check::compare(ledger, &record(admins.len()), &answers)
        }
        Kept::Folders([data]) => check::compare(ledger, &record(1), &Scanned::open(data)?),
        Kept::Folders(data) => {
            let stores = Sealed::open(data.iter().cloned())?;
            check::compare(ledger, &record(data.len()), &stores)
        }
    }
}

/// Waits until the nodes at these admin addresses have read everything and sealed every row. Blocks.
///
/// # Errors
/// [`Error::Failed`] when one does not answer, or at the deadline.
pub fn wait_until_sealed(admins: &[SocketAddr], deadline: Duration) -> Result<(), Error> {
    let end = Instant::now() + deadline;
    // Since when everything is sealed, and how many points that is.
    let mut sealed: Option<(Instant, u64)> = None;
    loop {
        let asked = admins.iter().map(|admin| {
            let client = Client::new(&admin.to_string());
            // In this order: what leaves the spool between the two is in nobody's lag yet.
            let bridge = client.bridge()?;
            Ok((client.tsdb()?, bridge))
        });
        let statuses = asked.collect::<Result<Vec<(Status, bridge::Status)>, ClientError>>();
        let standing = match statuses {
            Ok(statuses) => {
                let waits: u64 = statuses.iter().map(|(_, bridge)| waiting(bridge)).sum();
                let calm = match statuses.iter().any(|(_, bridge)| bridge.kafka.is_some()) {
                    true => END_KNOWN_AFTER,
                    false => PAUSE,
                };
                let statuses: Vec<Status> = statuses.into_iter().map(|(one, _)| one).collect();
                let is_sealed = waits == 0 && statuses.iter().all(caught_up::is_sealed);
                let stored: u64 = statuses.iter().map(|one| one.pipeline.stored_points).sum();
                // A row on its way from one node to another shows at neither. So the second look.
                sealed = is_sealed.then(|| match sealed {
                    Some((since, before)) if before == stored => (since, before),
                    _ => (Instant::now(), stored),
                });
                if sealed.is_some_and(|(since, _)| since.elapsed() >= calm) {
                    return Ok(());
                }
                let rows: u64 = statuses.iter().map(|one| one.store.head_rows).sum();
                let lags: u64 = statuses
                    .iter()
                    .flat_map(|one| one.pipeline.lag.values())
                    .sum();
                format!("{rows} rows are unsealed, {lags} records unread, {waits} not in Kafka yet")
            }
            Err(error) => {
                sealed = None;
                error.to_string()
            }
        };
        if Instant::now() >= end {
            return Err(Error::Failed(format!(
                "the stores of the nodes have not everything after {deadline:?}: {standing}"
            )));
        }
        std::thread::park_timeout(PAUSE);
    }
}

/// Records that a node has acknowledged and that Kafka has not; none without Kafka.
fn waiting(status: &bridge::Status) -> u64 {
    let topics = status.kafka.iter().flat_map(|kafka| &kafka.topics);
    topics
        .map(|one| one.inflight_records + one.waiting_records + one.spool_records)
        .sum()
}
