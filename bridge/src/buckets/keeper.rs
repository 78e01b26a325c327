//! Says that buckets of this node hold rows, before any is taken.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Claim, Cluster, Table};
use crate::log::Log;

/// Longest wait until it is looked again: for a table that does not show what was asked for, and
/// for a log that does not say when it grows.
const LOOK: Duration = Duration::from_secs(1);
/// Pause after the table could not be told.
const RETRY: Duration = Duration::from_millis(200);

/// Holds buckets of which records were seen in logs of other nodes.
#[derive(Debug, Default)]
pub(crate) struct Signs {
    seen: Mutex<BTreeSet<u16>>,
    wake: Notify,
}

impl Signs {
    /// These buckets have records somewhere.
    pub(crate) fn give(&self, buckets: Vec<u16>) {
        self.seen().extend(buckets);
        self.wake.notify_one();
    }

    /// This node's log may have grown.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    fn take(&self) -> BTreeSet<u16> {
        std::mem::take(&mut *self.seen())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, BTreeSet<u16>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the table about the first record of each bucket.
pub(crate) struct Keeper {
    pub(crate) node: u32,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) signs: Arc<Signs>,
    /// Buckets of which the store has rows already, whatever the table says.
    pub(crate) stored: BTreeSet<u16>,
}

impl Keeper {
    /// Runs until it is aborted.
    pub(crate) async fn run(self) {
        let mut table = self.cluster.table();
        loop {
            let known = table.borrow_and_update().clone();
            let is_empty_somewhere = known
                .as_ref()
                .is_some_and(|table| table.empty_of(self.node).next().is_some());
            let claims = known.map_or_else(Vec::new, |table| self.due(&table));
            if !claims.is_empty() {
                let buckets = claims.len();
                match self.cluster.hold_rows(claims).await {
                    Ok(()) => tracing::debug!(buckets, "buckets are about to hold rows"),
                    Err(why) => {
                        tracing::warn!(why, buckets, "the bucket table cannot be told of rows");
                        tokio::time::sleep(RETRY).await;
                        continue;
                    }
                }
                // Else the table has changed otherwise, and it is to be asked again.
                let shown = tokio::time::timeout(LOOK, table.changed()).await;
                if matches!(shown, Ok(Err(_))) {
                    return;
                }
                continue;
            }
            if !is_empty_somewhere {
                if table.changed().await.is_err() {
                    return;
                }
                continue;
            }
            // A branch that is dropped loses nothing.
            tokio::select! {
                changed = table.changed() => if changed.is_err() {
                    return;
                },
                () = self.signs.wake.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// The empty buckets of this node that have records somewhere.
    fn due(&self, table: &Table) -> Vec<Claim> {
        let signs = self.signs.take();
        let own = self.log.unread();
        let is_due = |claim: &Claim| {
            let bucket = claim.bucket;
            signs.contains(&bucket)
                || self.stored.contains(&bucket)
                || own.get(usize::from(bucket)).is_some_and(|has| *has)
        };
        table.empty_of(self.node).filter(is_due).collect()
    }
}
