//! What a line answers other nodes, and says of how far they are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::ask::Page;
use super::exchange::{CopyOf, End, EndOf, Malformed, Pull};
use super::{Asked, MoveCounts, OwnerLag, PullStatus, Reply};
use crate::line::Telemetry;
use crate::query::{QueryError, QueryRequest};

/// Queries of other nodes that are answered at a time; one more is told so.
pub(crate) const QUERIES_MAX: usize = 256;

impl Telemetry {
    /// Takes what the line of another node asks; answers later, on any thread, or drops the reply
    /// where there is no answer. Must be called within a tokio runtime; returns at once.
    pub fn handle_asked(&self, from: u32, asked: Asked, said: &Bytes, reply: Reply) {
        let handled = match asked {
            Asked::Pull => Pull::decode(said).map(|pull| {
                if let Some(reader) = &self.running.reader {
                    reader.pull(from, pull, reply);
                }
            }),
            Asked::End => EndOf::decode(said).map(|EndOf { bucket }| {
                // Who has another kind of log is no part of this.
                let ends = self
                    .running
                    .reader
                    .is_some()
                    .then(|| self.running.context.log.ends());
                let end = ends.and_then(|ends| ends.get(usize::from(bucket)).copied());
                if let Some(offset) = end {
                    reply(End { offset }.encode());
                }
            }),
            Asked::Query => serde_json::from_slice::<QueryRequest>(said)
                .map_err(|error| Malformed::Record(error.to_string()))
                .map(|request| self.answer_query(request, reply)),
            Asked::Copy => CopyOf::decode(said).map(|asked| self.answer_copy(from, asked, reply)),
        };
        if let Err(error) = handled {
            tracing::warn!(from, ?asked, %error, "what another node asks cannot be read");
        }
    }

    fn answer_query(&self, request: QueryRequest, reply: Reply) {
        let turn = Arc::clone(&self.peers_queries).try_acquire_owned();
        let Ok(turn) = turn else {
            let busy = QueryError::Busy { limit: QUERIES_MAX };
            return reply(Page::of(Err(busy.to_string())).encode());
        };
        let query = self.query();
        tokio::spawn(async move {
            let answer = query.query_of_peer(request).await;
            reply(Page::of(answer).encode());
            drop(turn);
        });
    }

    /// What each owner of buckets has not got of this node's log, this node included; nothing with
    /// Kafka. At most one for each member.
    #[must_use]
    pub fn owner_lags(&self) -> Vec<OwnerLag> {
        let context = &self.running.context;
        let table = context.table.borrow().clone();
        let (Some(reader), Some(table)) = (&self.running.reader, table) else {
            return Vec::new();
        };
        let asked = reader.progress();
        let mean_bytes = reader.mean_record_bytes();
        let mut lags = BTreeMap::<u32, OwnerLag>::new();
        for (bucket, end) in (0..).zip(context.log.ends()) {
            let Some(row) = table.row(bucket) else {
                continue;
            };
            let next = match row.owner == context.node {
                true => context.progress.position(context.log.id(), bucket),
                false => asked
                    .get(&row.owner)
                    .and_then(|asked| asked.get(&bucket).copied())
                    .unwrap_or(0),
            };
            let lag = lags.entry(row.owner).or_default();
            lag.owner = row.owner;
            lag.records += end.saturating_sub(next.max(reader.start_of(bucket)));
        }
        let with_bytes = |lag: OwnerLag| OwnerLag {
            bytes: lag.records * mean_bytes,
            ..lag
        };
        lags.into_values().map(with_bytes).collect()
    }

    /// What this node has taken over of the stores of other nodes.
    #[must_use]
    pub fn move_counts(&self) -> MoveCounts {
        let counters = &self.running.context.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MoveCounts {
            buckets: load(&counters.bucket_moves),
            bytes: load(&counters.copied_bytes),
        }
    }

    /// What this node's store has got of the logs of other nodes.
    #[must_use]
    pub fn pulls(&self) -> Vec<PullStatus> {
        self.running.heard.all()
    }
}

/// The turns of other nodes' queries.
pub(crate) fn turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(QUERIES_MAX))
}
