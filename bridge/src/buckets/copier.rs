//! Takes over buckets that the table moves to this node.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use storage::tsdb::{self, Adoption, ReplayOffset, Standing, Tsdb};
use telemetry::{DeviceId, Row, Schemas, block};

use super::exchange::{Copied, CopyOf, Part};
use super::{Asked, Claim, Cluster, Table};
use crate::counters::Counters;
use crate::line::{Fatal, OnFatal};
use crate::log::Log;

/// Bytes of parts that are copied in a second at most, so that a move leaves the disks and the link
/// to others.
const BYTES_PER_S_MAX: u64 = 32 << 20;
/// Pause after a part that did not come, or that the disk did not take.
const RETRY: Duration = Duration::from_millis(200);
/// Longest wait for the table to show what was proposed.
const LOOK: Duration = Duration::from_secs(1);

/// Copies one bucket at a time.
pub(crate) struct Copier {
    pub(crate) node: u32,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) tsdb: Tsdb,
    pub(crate) counters: Arc<Counters>,
    pub(crate) on_fatal: OnFatal,
}

/// A move to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Move {
    bucket: u16,
    epoch: u64,
    from: u32,
}

/// Says why a copy ended.
#[derive(Debug)]
enum CopyError {
    /// What is on disk is unknown.
    Fatal(String),
    /// It begins again.
    Again(String),
}

/// What was copied so far.
#[derive(Debug, Default)]
struct Copying {
    adoption: Option<Adoption>,
    /// The last row.
    after: Option<(DeviceId, i64)>,
}

impl Copier {
    /// Runs until it is aborted; what was not copied whole goes then.
    pub(crate) async fn run(self) {
        let this = Arc::new(self);
        let mut table = this.cluster.table();
        loop {
            let known = table.borrow_and_update().clone();
            let Some(due) = known.and_then(|table| move_to(&table, this.node)) else {
                if table.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let mark = this.tsdb.mark(due.bucket);
            let is_adopted = mark
                .is_some_and(|mark| mark.standing == Standing::Adopted && mark.epoch == due.epoch);
            let done = match is_adopted {
                true => this.propose(due).await,
                false => this.copy(due).await,
            };
            match done {
                // The table says what is next, unless it is to be proposed now.
                Ok(()) if !is_adopted => {}
                Ok(()) => drop(tokio::time::timeout(LOOK, table.changed()).await),
                Err(CopyError::Fatal(why)) => return (this.on_fatal)(Fatal(why)),
                Err(CopyError::Again(why)) => {
                    tracing::warn!(
                        why,
                        bucket = due.bucket,
                        from = due.from,
                        "a bucket has not moved"
                    );
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// All of the bucket is here: so the table should say.
    async fn propose(&self, due: Move) -> Result<(), CopyError> {
        let Move { bucket, epoch, .. } = due;
        let proposed = self.cluster.bucket_moved(Claim { bucket, epoch }).await;
        proposed.map_err(CopyError::Again)
    }

    fn is_due(&self, due: Move) -> bool {
        let table = self.cluster.table().borrow().clone();
        table.and_then(|table| move_to(&table, self.node)) == Some(due)
    }

    /// Copies the bucket, unless the table says otherwise meanwhile.
    async fn copy(self: &Arc<Self>, due: Move) -> Result<(), CopyError> {
        let Move {
            bucket,
            epoch,
            from,
        } = due;
        tracing::info!(bucket, from, "a bucket is being moved to this node");
        let mut copying = Copying::default();
        let mut trouble = None;
        while self.is_due(due) {
            let after = copying.after.as_ref();
            let asked = CopyOf {
                bucket,
                epoch,
                after: after
                    .map(|(device, ts_ms)| (Bytes::copy_from_slice(device.as_bytes()), *ts_ms)),
            };
            let answer = self.cluster.ask(from, Asked::Copy, asked.encode()).await;
            let copied = answer.and_then(|answer| {
                let copied = Copied::decode(&answer);
                let copied =
                    copied.map_err(|error| format!("its answer cannot be read: {error}"))?;
                Ok((copied, answer.len() as u64))
            });
            let (part, bytes) = match copied {
                Ok((Copied::Part(part), bytes)) => (part, bytes),
                Ok((Copied::NotYet(why), _)) | Err(why) => {
                    if trouble.as_ref() != Some(&why) {
                        tracing::info!(bucket, from, why, "a part of a bucket is asked for again");
                        trouble = Some(why);
                    }
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            Counters::add(&self.counters.copied_bytes, bytes);
            let is_last = part.is_last;
            let this = Arc::clone(self);
            let taken = tokio::task::spawn_blocking(move || this.take(due, &part, copying)).await;
            let taken = taken.map_err(|error| {
                CopyError::Fatal(format!("a broken invariant of the store: {error}"))
            })?;
            match taken? {
                Some(going_on) => copying = going_on,
                None => return Ok(()),
            }
            if is_last {
                return Ok(());
            }
            let pause = Duration::from_secs(1).mul_f64(bytes as f64 / BYTES_PER_S_MAX as f64);
            tokio::time::sleep(pause).await;
        }
        tracing::info!(
            bucket,
            from,
            "the bucket is not moved to this node any more"
        );
        Ok(())
    }

    /// Writes a part, and with the last one makes all of them durable. `None` if the store has gone on
    /// to another epoch of the bucket.
    fn take(
        &self,
        due: Move,
        part: &Part,
        mut copying: Copying,
    ) -> Result<Option<Copying>, CopyError> {
        let again = |error: &dyn std::fmt::Display| CopyError::Again(error.to_string());
        let fatal = |error: tsdb::Error| match error {
            // Closed by a shutdown.
            tsdb::Error::Closed { .. } => CopyError::Again(error.to_string()),
            error => CopyError::Fatal(error.to_string()),
        };
        let rows = self.rows_of(due, part, copying.after.as_ref());
        let rows = rows.map_err(|why| again(&why))?;
        let offsets = self.offsets_of(due, part).map_err(|why| again(&why))?;
        let adoption = match copying.adoption.take() {
            Some(adoption) => Some(adoption),
            None => {
                let begun = self.tsdb.adopt(due.bucket, due.epoch, part.level);
                begun.map_err(fatal)?
            }
        };
        let Some(mut adoption) = adoption else {
            return Ok(None);
        };
        for (device, rows) in rows {
            adoption
                .push(&device, &rows)
                .map_err(|error| again(&error))?;
            let last = rows.last().map(|row| row.ts_ms);
            copying.after = last.map(|ts_ms| (device, ts_ms));
        }
        if !part.is_last {
            copying.adoption = Some(adoption);
            return Ok(Some(copying));
        }
        if adoption.commit(&offsets).map_err(fatal)? {
            Counters::add(&self.counters.bucket_moves, 1_u64);
            tracing::info!(bucket = due.bucket, from = due.from, "a bucket was copied");
        }
        Ok(None)
    }

    /// The rows of a part, checked: they are the bucket's, and follow those before.
    fn rows_of(
        &self,
        due: Move,
        part: &Part,
        after: Option<&(DeviceId, i64)>,
    ) -> Result<Vec<(DeviceId, Vec<Row>)>, String> {
        let buckets = u32::from(self.log.partitions());
        let schemas = Schemas::from_bytes(&part.schemas).map_err(|error| error.to_string())?;
        let mut all: Vec<(DeviceId, Vec<Row>)> = Vec::with_capacity(part.blocks.len());
        let mut last = after.cloned();
        for (device, block) in &part.blocks {
            let device = DeviceId::from_bytes(device).map_err(|error| error.to_string())?;
            let rows = block::decode(block, &schemas).map_err(|error| error.to_string())?;
            let (Some(first), Some(end)) = (rows.first(), rows.last()) else {
                return Err(format!("a block of {device} has no rows"));
            };
            let begin = (device.clone(), first.ts_ms);
            let ascends = rows.windows(2).all(|pair| pair[0].ts_ms < pair[1].ts_ms);
            if !ascends || last.is_some_and(|last| last >= begin) {
                return Err(format!("a block of {device} is out of its order"));
            }
            if telemetry::bucket_of(device.as_bytes(), buckets) != due.bucket {
                return Err(format!("{device} is not of bucket {}", due.bucket));
            }
            last = Some((device.clone(), end.ts_ms));
            all.push((device, rows));
        }
        if all.is_empty() && !part.is_last {
            return Err("a part that is not the last has no rows".to_owned());
        }
        Ok(all)
    }

    /// Where this node goes on in logs, as its store names them.
    fn offsets_of(&self, due: Move, part: &Part) -> Result<Vec<ReplayOffset>, String> {
        let own = |(name, incarnation, offset): &(String, u64, u64)| {
            let source = self.log.name_of_peer(due.from, name);
            let source = source.ok_or_else(|| {
                let own = self.log.source();
                format!(
                    "node {} fills its store from {name:?}, this node from {own:?}",
                    due.from
                )
            })?;
            Ok(ReplayOffset {
                source,
                partition: due.bucket,
                incarnation: *incarnation,
                offset: *offset,
            })
        };
        part.offsets.iter().map(own).collect()
    }
}

/// The move to a node, if there is one: of several the first.
fn move_to(table: &Table, node: u32) -> Option<Move> {
    let mut rows = (0..).zip(&table.rows);
    let (bucket, row) = rows.find(|(_, row)| row.moving_to == Some(node) && row.owner != node)?;
    Some(Move {
        bucket,
        epoch: row.epoch,
        from: row.owner,
    })
}
