//! Pulls the records of this node's buckets from the logs of the other nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use storage::log::EmbeddedLog;
use storage::tsdb::Tsdb;
use tokio::task::AbortHandle;

use super::exchange::{Pull, PullBucket, Pulled, Wanted};
use super::keeper::Signs;
use super::pulls::{Places, Pulls};
use super::status::Heard;
use super::{Asked, Cluster, Table};
use crate::log::{LogId, Position};

/// Bytes of records asked for at once.
const BYTES_MAX: u32 = 1 << 20;
/// Pause after a node gave no answer, or nothing that can be used.
const RETRY: Duration = Duration::from_millis(200);

/// Is what all pulls of a line have in common.
pub(crate) struct Puller {
    pub(crate) node: u32,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) pulls: Arc<Pulls>,
    pub(crate) signs: Arc<Signs>,
    pub(crate) heard: Arc<Heard>,
    /// Knows which buckets have changed hands.
    pub(crate) tsdb: Tsdb,
    /// This node's log, whose reader is woken when something was pulled.
    pub(crate) log: EmbeddedLog,
}

/// How far one log was pulled.
#[derive(Default)]
struct Pulling {
    /// The writer's run that it was pulled for.
    run: u64,
    next: Places,
}

impl Puller {
    /// Pulls from every other member, one question at a time to each, until it is aborted.
    pub(crate) async fn run(self) {
        let this = Arc::new(self);
        let mut table = this.cluster.table();
        let mut tasks = BTreeMap::<u32, Task>::new();
        loop {
            let known = table.borrow_and_update().clone();
            if let Some(known) = known {
                this.heard.set_members(&known.members);
                tasks.retain(|node, _| known.members.contains(node));
                for node in known.others(this.node) {
                    let start = || Task(tokio::spawn(Arc::clone(&this).pull(node)).abort_handle());
                    tasks.entry(node).or_insert_with(start);
                }
            }
            if table.changed().await.is_err() {
                return;
            }
        }
    }

    /// Pulls from one node.
    async fn pull(self: Arc<Self>, from: u32) {
        let (mut table, mut run) = (self.cluster.table(), self.pulls.run());
        let mut pulling = Pulling::default();
        loop {
            let known = table.borrow_and_update().clone();
            run.mark_unchanged();
            let pull = known.and_then(|table| self.ask_for(&table, from, &mut pulling));
            let outcome = async {
                match pull {
                    None => std::future::pending().await,
                    Some(pull) => self.ask(from, &pull).await,
                }
            };
            let pulled = tokio::select! {
                // What is asked for has changed.
                changed = table.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                _ = run.changed() => continue,
                pulled = outcome => pulled,
            };
            match pulled {
                Ok(pulled) => {
                    if !self.take(from, pulled, &mut pulling).await {
                        return;
                    }
                }
                Err(why) => {
                    self.heard.note_failed(from, &why);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// What to ask a node for; nothing while the writer has not begun, or has no buckets.
    fn ask_for(&self, table: &Table, from: u32, pulling: &mut Pulling) -> Option<Pull> {
        let log = LogId(from);
        let (run, starts) = self.pulls.starts(log);
        if run == 0 {
            return None;
        }
        if run != pulling.run {
            *pulling = Pulling { run, next: starts };
        }
        let sealed = self.pulls.sealed(log);
        let marks = self.tsdb.marks();
        let own = table.of(self.node).filter(|(bucket, row)| {
            // One that has come is read from where its copy ends, once the writer has begun there.
            let has_come = !marks.contains_key(bucket) || self.pulls.takes(*bucket);
            !row.holds_rows || (row.moving_to.is_none() && has_come)
        });
        let buckets = own.map(|(bucket, row)| PullBucket {
            bucket,
            epoch: row.epoch,
            wanted: match pulling.next.get(&bucket) {
                _ if !row.holds_rows => Wanted::Sign,
                Some(position) => Wanted::From(*position),
                None => Wanted::All,
            },
            sealed: sealed.get(&bucket).copied(),
        });
        let buckets: Vec<PullBucket> = buckets.collect();
        (!buckets.is_empty()).then_some(Pull {
            buckets,
            bytes_max: BYTES_MAX,
        })
    }

    async fn ask(&self, from: u32, pull: &Pull) -> Result<Pulled, String> {
        let answer = self.cluster.ask(from, Asked::Pull, pull.encode()).await?;
        Pulled::decode(&answer).map_err(|error| format!("its answer cannot be read: {error}"))
    }

    /// Hands on what was pulled; false once nobody takes it.
    async fn take(&self, from: u32, pulled: Pulled, pulling: &mut Pulling) -> bool {
        let Pulled {
            incarnation,
            ends,
            signs,
            refused,
            records,
        } = pulled;
        for one in &records {
            let bucket = one.record.partition;
            let position = Position {
                incarnation,
                offset: one.offset + 1,
            };
            let before = pulling.next.insert(bucket, position);
            if before.is_some_and(|before| before.offset != one.offset) {
                // A gap would be sealed over. The writer's run tells where to go on.
                tracing::error!(from, bucket, "a node gave records out of their order");
                pulling.run = 0;
                tokio::time::sleep(RETRY).await;
                return true;
            }
        }
        self.heard
            .note_pulled(from, &ends, &refused, &records, &pulling.next);
        if !refused.is_empty() {
            tokio::time::sleep(RETRY).await;
        }
        if !signs.is_empty() {
            self.signs.give(signs);
            // The table will say when they are held, and is looked at between two questions.
            tokio::time::sleep(RETRY).await;
        }
        if records.is_empty() {
            return true;
        }
        let given = self
            .pulls
            .give(pulling.run, LogId(from), incarnation, records)
            .await;
        self.log.nudge();
        given
    }
}

/// Ends with its entry.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
