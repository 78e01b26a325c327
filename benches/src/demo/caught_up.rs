//! Waiting for the store after the fleet has ended.

use std::collections::BTreeMap;
use std::time::Duration;

use admin::question::Question;
use admin::tsdb::Status;
use tokio::time::Instant;

use super::Error;
use super::folder::Kafka;
use super::node::Node;
use super::nodes::Nodes;
use super::progress::TICK;
use crate::profile;

/// Time for the store's writer to reach the end of the log after the fleet has ended; through
/// Kafka also to seal everything.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(30);

fn is_read(status: &Status) -> bool {
    status.pipeline.lag.is_empty() && status.pipeline.inflight_bytes == 0
}

/// Whether a store has read all there is for it, and has no row that is in no segment.
pub(super) fn is_sealed(status: &Status) -> bool {
    is_read(status) && status.store.head_rows == 0
}

/// Waits until the store has read the log to its end.
pub(super) async fn read(node: &Node) -> Result<Status, Error> {
    let deadline = Instant::now() + CATCH_UP_DEADLINE;
    loop {
        let status = node.ask(|client| client.tsdb()).await?;
        if is_read(&status) {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            return Err(Error::Failed(format!(
                "the store has not taken everything {CATCH_UP_DEADLINE:?} after the last message: {:?}",
                status.pipeline.lag
            )));
        }
        tokio::time::sleep(TICK).await;
    }
}

/// Waits until the store has read the topic to its end and sealed every row: the check reads the
/// folder of the stopped node, and what is not sealed is in Kafka only.
pub(super) async fn sealed(node: &Node, kafka: &Kafka, devices: u32) -> Result<Status, Error> {
    let deadline = Instant::now() + CATCH_UP_DEADLINE;
    loop {
        let status = node.ask(|client| client.tsdb()).await?;
        // What waits in the spool is no lag yet, and it is when it has left. So the second look.
        let is_spooled = is_sealed(&status) && is_some_spooled(node, devices).await?;
        if is_sealed(&status) && !is_spooled {
            let status = node.ask(|client| client.tsdb()).await?;
            if is_sealed(&status) {
                return Ok(status);
            }
        }
        if Instant::now() >= deadline {
            let Kafka { bootstrap, topic } = kafka;
            let why = if is_spooled {
                "Kafka has not taken what the node spools".to_owned()
            } else {
                let (rows, lag) = (status.store.head_rows, &status.pipeline.lag);
                format!("{rows} rows are unsealed; unread by partition: {lag:?}")
            };
            return Err(Error::Failed(format!(
                "the store has not everything of topic {topic} of Kafka at {bootstrap} {CATCH_UP_DEADLINE:?} \
                 after the last message: {why}"
            )));
        }
        tokio::time::sleep(TICK).await;
    }
}

/// Asks for one device of each bucket: an answer is partial while some of its bucket is spooled.
async fn is_some_spooled(node: &Node, devices: u32) -> Result<bool, Error> {
    let buckets = u32::from(bridge::Config::default().buckets);
    let ids = (0..devices).map(profile::device_id);
    let one_of_each: BTreeMap<u16, String> = ids
        .map(|id| (telemetry::bucket_of(id.as_bytes(), buckets), id))
        .collect();
    let question = Question {
        limit: Some(1),
        ..Question::default()
    };
    for device in one_of_each.into_values() {
        let question = question.clone();
        let answer = node.ask(move |client| client.query(&device, &question));
        if answer.await?.partial {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Waits until the stores of several nodes have read all there is and sealed every row: the check
/// reads the folders of stopped nodes, and what is not sealed may be in another node's log.
pub(super) async fn sealed_by_all(
    nodes: &Nodes,
    kafka: Option<&Kafka>,
    devices: u32,
) -> Result<Vec<Status>, Error> {
    let deadline = Instant::now() + CATCH_UP_DEADLINE;
    let mut stored_before = None;
    loop {
        let mut statuses = Vec::new();
        let mut is_some_away = false;
        for node in nodes.running() {
            statuses.push(node.ask(|client| client.tsdb()).await?);
            is_some_away |= kafka.is_some() && is_some_spooled(node, devices).await?;
        }
        let is_sealed = !is_some_away && statuses.iter().all(is_sealed);
        let stored: u64 = statuses.iter().map(stored_points).sum();
        // A row on its way from one node to another shows at neither. So the second look.
        if is_sealed && stored_before == Some(stored) {
            return Ok(statuses);
        }
        stored_before = is_sealed.then_some(stored);
        if Instant::now() >= deadline {
            let unsealed: u64 = statuses.iter().map(|one| one.store.head_rows).sum();
            let lags: Vec<_> = statuses.iter().map(|one| &one.pipeline.lag).collect();
            return Err(Error::Failed(format!(
                "the stores of the nodes have not everything {CATCH_UP_DEADLINE:?} after the last message: \
                 {unsealed} rows are unsealed; unread by node and partition: {lags:?}"
            )));
        }
        tokio::time::sleep(TICK).await;
    }
}

fn stored_points(status: &Status) -> u64 {
    status.pipeline.stored_points
}
