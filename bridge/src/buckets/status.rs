//! How far pulls are, on both sides.

use std::collections::{BTreeMap, BTreeSet};
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

/// Takes note of what other members answer; nobody knows of a node that was forgotten.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<Notes>);

#[derive(Debug, Default)]
struct Notes {
    members: BTreeSet<u32>,
    by_node: BTreeMap<u32, PullStatus>,
}

impl Notes {
    /// A pull that is being ended may still have something to say.
    fn of(&mut self, node: u32) -> Option<&mut PullStatus> {
        let is_member = self.members.contains(&node);
        is_member.then(|| self.by_node.entry(node).or_default())
    }
}

impl Heard {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are the members now; what was noted of others goes.
    pub(crate) fn set_members(&self, members: &BTreeSet<u32>) {
        let mut notes = self.notes();
        notes.members.clone_from(members);
        notes.by_node.retain(|node, _| members.contains(node));
    }

    /// A node gave no answer.
    pub(crate) fn note_failed(&self, node: u32, why: &str) {
        let mut notes = self.notes();
        let Some(status) = notes.of(node) else {
            return;
        };
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
        let mut notes = self.notes();
        let Some(status) = notes.of(node) else {
            return;
        };
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
        self.notes()
            .by_node
            .iter()
            .map(|(node, status)| PullStatus {
                node: *node,
                ..status.clone()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_node_that_was_forgotten_nothing_is_known_whoever_speaks_of_it_still() {
        let heard = Heard::default();
        heard.set_members(&BTreeSet::from([1, 2, 3]));
        heard.note_failed(2, "no answer");
        heard.note_failed(3, "no answer");
        heard.set_members(&BTreeSet::from([1, 2]));
        heard.note_failed(3, "the connection ended");
        heard.note_pulled(3, &[], &[], &[], &Places::default());

        let known: Vec<u32> = heard.all().iter().map(|one| one.node).collect();
        assert_eq!(known, [2]);
    }
}
