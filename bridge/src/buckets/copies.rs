//! Gives buckets that move away, part by part.
//!
//! A bucket that is frozen does not change, so that nothing has to be remembered of who copies it: the
//! same question has the same answer, also after a restart.

use std::sync::Arc;

use bytes::Bytes;
use storage::tsdb::{Standing, Tsdb};
use telemetry::block::{self, EncodeError};
use telemetry::{DeviceId, Schemas};
use tokio::sync::Semaphore;

use super::exchange::{Copied, CopyOf, Part};
use super::{Reply, Table};
use crate::line::Telemetry;

/// Parts that are read at a time; one more is asked for again.
pub(crate) const COPIES_MAX: usize = 2;
/// Bytes of rows in a part, about, before they are packed.
const PART_BYTES: usize = 1 << 20;
/// Bytes of an answer: packed, rows are smaller than that; the last one may be as long as a packet.
pub(super) const REPLY_BYTES_MAX: u32 = 4 << 20;

impl Telemetry {
    pub(super) fn answer_copy(&self, from: u32, asked: CopyOf, reply: Reply) {
        let Ok(turn) = Arc::clone(&self.peers_copies).try_acquire_owned() else {
            let busy = format!("{COPIES_MAX} parts of buckets are read already");
            return reply(Copied::NotYet(busy).encode());
        };
        let context = Arc::clone(&self.running.context);
        tokio::task::spawn_blocking(move || {
            let table = context.table.borrow().clone();
            let moves = table.is_some_and(|table| is_moving(&table, context.node, from, &asked));
            let copied = if moves {
                part(&context.tsdb, &asked)
            } else {
                Err("it knows of no such move".to_owned())
            };
            let copied = copied.map_or_else(Copied::NotYet, Copied::Part);
            reply(copied.encode());
            drop(turn);
        });
    }
}

fn is_moving(table: &Table, node: u32, to: u32, asked: &CopyOf) -> bool {
    let row = table.row(asked.bucket);
    row.is_some_and(|row| {
        row.owner == node && row.moving_to == Some(to) && row.epoch == asked.epoch
    })
}

/// Reads a part of a bucket that is frozen.
fn part(tsdb: &Tsdb, asked: &CopyOf) -> Result<Part, String> {
    let CopyOf { bucket, epoch, .. } = *asked;
    let mark = tsdb.mark(bucket);
    let is_frozen =
        mark.is_some_and(|mark| mark.standing == Standing::Frozen && mark.epoch == epoch);
    if !is_frozen {
        return Err("the bucket is not frozen yet".to_owned());
    }
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let after = match &asked.after {
        None => None,
        Some((device, ts_ms)) => {
            let device = DeviceId::from_bytes(device).map_err(|error| text(&error))?;
            Some((device, *ts_ms))
        }
    };
    let after = after.as_ref().map(|(device, ts_ms)| (device, *ts_ms));
    let page = tsdb.bucket_page(bucket, after, PART_BYTES);
    let page = page.map_err(|error| {
        tracing::error!(%error, bucket, "a bucket that moves cannot be read");
        text(&error)
    })?;
    let offsets = tsdb.replay_offsets().map_err(|error| text(&error))?;
    let offsets = offsets.into_iter().filter(|at| at.partition == bucket);
    let mut part = Part {
        level: page.level,
        offsets: offsets
            .map(|at| (at.source, at.incarnation, at.offset))
            .collect(),
        is_last: page.is_last,
        ..Part::default()
    };
    let mut schemas = Schemas::new();
    'rows: for (device, rows) in &page.rows {
        let mut rest = &rows[..];
        while !rest.is_empty() {
            let (rows, behind) = rest.split_at(block::rows_that_fit(rest).max(1));
            match block::encode(rows, &mut schemas) {
                Ok(block) => {
                    let device = Bytes::copy_from_slice(device.as_bytes());
                    part.blocks.push((device, block.into()));
                }
                // The next part begins with schemas of its own.
                Err(EncodeError::SchemasFull(_)) => {
                    part.is_last = false;
                    break 'rows;
                }
                Err(error) => panic!("rows of blocks make a block: {error}"),
            }
            rest = behind;
        }
    }
    part.schemas = schemas.to_bytes().into();
    Ok(part)
}

/// The turns of who copies buckets.
pub(crate) fn turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(COPIES_MAX))
}
