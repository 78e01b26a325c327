//! How far pulls are, on both sides.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use storage::log::StoredRecord;

use super::pulls::Places;

/// Is what an owner of buckets has not got of this node's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnerLag {
    /// The owner; it may be this node.
    pub owner: u32,
    /// Records.
    pub records: u64,
    /// Bytes of these records: their number times the mean of the log.
    pub bytes: u64,
}

/// Is what this node's store has got of another node's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullStatus {
    /// The node whose log it is.
    pub node: u32,
    /// Records pulled since the start, also those that came again.
    pub records: u64,
    /// Bytes of these records.
    pub bytes: u64,
    /// Records that its last answer knew of and that were not pulled.
    pub lag: u64,
    /// Why it gave no answer, or cannot give what is asked for.
    pub trouble: Option<String>,
}

/// Is what this node has taken over of other nodes' stores since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MoveCounts {
    /// Buckets with rows.
    pub buckets: u64,
    /// Bytes that came for that, also those that came in vain.
    pub bytes: u64,
}

/// Takes note of what other nodes answer.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<BTreeMap<u32, PullStatus>>);

impl Heard {
    fn of(&self) -> MutexGuard<'_, BTreeMap<u32, PullStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node gave no answer.
    pub(crate) fn note_failed(&self, node: u32, why: &str) {
        let mut heard = self.of();
        let status = heard.entry(node).or_default();
        if status.trouble.is_none() {
            tracing::info!(node, why, "the log of a node cannot be pulled");
        }
        status.trouble = Some(why.to_owned());
    }

    /// A node has answered.
    pub(crate) fn note_pulled(
        &self,
        node: u32,
        ends: &[(u16, u64)],
        refused: &[(u16, String)],
        records: &[StoredRecord],
        next: &Places,
    ) {
        let mut heard = self.of();
        let status = heard.entry(node).or_default();
        status.node = node;
        status.records += records.len() as u64;
        let bytes = records.iter().map(|one| one.record.stored_bytes() as u64);
        status.bytes += bytes.sum::<u64>();
        let lags = ends.iter().filter_map(|(bucket, end)| {
            let next = next.get(bucket)?;
            Some(end.saturating_sub(next.offset))
        });
        status.lag = lags.sum();
        let trouble = refused.first().map(|(bucket, why)| {
            format!("bucket {bucket} cannot be pulled from node {node}: {why}")
        });
        if trouble.is_some() && trouble != status.trouble {
            tracing::error!(node, trouble, "an owner cannot go on with a node's log");
        } else if status.trouble.is_some() && trouble.is_none() {
            tracing::info!(node, "the log of a node is pulled again");
        }
        status.trouble = trouble;
    }

    /// What is known of all nodes.
    pub(crate) fn all(&self) -> Vec<PullStatus> {
        self.of()
            .iter()
            .map(|(node, status)| PullStatus {
                node: *node,
                ..status.clone()
            })
            .collect()
    }
}
