//! Questions to the hot store: any device, any moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use admin::query::{LevelStatus, MetricValue, QueryAnswer, QueryRow, TsdbStatus};
use crossbeam_channel::{Receiver, Sender, TrySendError};
use serde::{Deserialize, Serialize};
use storage::tsdb::{self, Tsdb};
use telemetry::query::{Aggregate, StepRow, Steps};
use telemetry::{DeviceId, MetricName, Row};
use tokio::sync::oneshot;

use crate::buckets::{Asker, NOT_THE_OWNER, Table};
use crate::log::{Log, LogId};
use crate::progress::Progress;

/// Questions that may wait for a query thread.
const WAITING_MAX: usize = 256;
/// Rows that one summary reads at most: some 40 MB with 20 metrics.
const STEP_ROWS_MAX: usize = 200_000;
/// Pause between two looks whether the log ends before what is waited for.
const END_LOOK: Duration = Duration::from_millis(100);
/// Threads that read the disk for questions.
pub(crate) const QUERY_THREADS: usize = 2;

/// Is a question about one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryRequest {
    /// Device id.
    pub device: String,
    /// Names of the metrics wanted; empty means all.
    pub metrics: Vec<String>,
    /// First moment wanted, in milliseconds since the Unix epoch.
    pub from_ms: i64,
    /// Last moment wanted, inclusive.
    pub to_ms: i64,
    /// Summarise in steps of so many milliseconds, at least 1: then each metric `m` becomes
    /// `m.count`, `m.min`, `m.max`, `m.avg`, `m.first` and `m.last`.
    pub step_ms: Option<i64>,
    /// Greatest number of rows; the oldest in the range come first.
    pub limit: usize,
}

/// Says why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The device id is none: empty or too long.
    #[error("{0}")]
    Device(String),
    /// A block on disk is damaged or could not be read: the file and the place are named.
    #[error("{0}")]
    Store(String),
    /// As many questions wait as may wait.
    #[error("{limit} queries wait already")]
    Busy {
        /// The limit.
        limit: usize,
    },
    /// The node that stores the device does not answer the question.
    #[error("node {node}, which stores the device: {why}")]
    Elsewhere {
        /// The node.
        node: u32,
        /// What it says.
        why: String,
    },
    /// The line is shut down.
    #[error("the telemetry line is shut down")]
    Stopped,
}

/// Answers questions; cloning it is cheap and any thread may hold one.
#[derive(Clone)]
pub struct QueryService {
    jobs: Sender<Job>,
    log: Arc<dyn Log>,
    progress: Arc<Progress>,
    asker: Asker,
    wait: Duration,
    tsdb: Tsdb,
}

impl std::fmt::Debug for QueryService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryService")
            .field("waiting", &self.jobs.len())
            .finish_non_exhaustive()
    }
}

struct Job {
    request: QueryRequest,
    device: DeviceId,
    bucket: u16,
    answer: oneshot::Sender<Result<QueryAnswer, tsdb::Error>>,
}

impl QueryService {
    /// Starts the query threads; they end when the last handle is dropped.
    pub(crate) fn start(
        tsdb: &Tsdb,
        log: Arc<dyn Log>,
        progress: Arc<Progress>,
        asker: Asker,
        wait: Duration,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = crossbeam_channel::bounded(WAITING_MAX);
        for _ in 0..QUERY_THREADS {
            let (tsdb, queue) = (tsdb.clone(), queue.clone());
            std::thread::Builder::new()
                .name("tsdb-query".to_owned())
                .spawn(move || answer_all(&tsdb, &queue))?;
        }
        Ok(Self {
            jobs,
            log,
            progress,
            asker,
            wait,
            tsdb: tsdb.clone(),
        })
    }

    /// Asks the node that stores the device, which may be this one: it waits up to `query_wait` for
    /// its store's writer to pass the ends of all nodes' logs as of now, then reads. `partial` is
    /// true when it waited in vain, or a node cannot be asked. Dropping the future abandons the
    /// question.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn query(&self, request: QueryRequest) -> Result<QueryAnswer, QueryError> {
        let (device, bucket) = self.place(&request)?;
        let mut changes = self.asker.cluster.table();
        changes.mark_unchanged();
        let answer = self.ask_owner(request.clone(), device.clone(), bucket);
        match answer.await {
            Err(QueryError::Elsewhere { why, .. }) if why == NOT_THE_OWNER => {
                // One of the two has not heard yet that the bucket has moved.
                drop(tokio::time::timeout(self.wait, changes.changed()).await);
                self.ask_owner(request, device, bucket).await
            }
            answer => answer,
        }
    }

    /// Asks whom the table names now.
    async fn ask_owner(
        &self,
        request: QueryRequest,
        device: DeviceId,
        bucket: u16,
    ) -> Result<QueryAnswer, QueryError> {
        let table = self.asker.table();
        let owner = table.as_ref().and_then(|table| table.row(bucket));
        match (table, owner) {
            (Some(table), Some(row)) if row.owner == self.asker.node => {
                self.answer(request, device, bucket, &table).await
            }
            (Some(_), Some(row)) => {
                let node = row.owner;
                let answer = self.asker.query(node, request).await;
                answer.map_err(|why| QueryError::Elsewhere { node, why })
            }
            _ => Ok(QueryAnswer {
                partial: true,
                reason: Some("this node does not know yet who stores the device".to_owned()),
                ..QueryAnswer::default()
            }),
        }
    }

    /// Answers another node, which takes this one for the owner.
    ///
    /// # Errors
    /// It is not, or does not know it yet; or as [`QueryService::query`].
    pub(crate) async fn query_of_peer(&self, request: QueryRequest) -> Result<QueryAnswer, String> {
        let placed = self.place(&request);
        let (device, bucket) = placed.map_err(|error| error.to_string())?;
        let table = self.asker.table();
        let owns = |table: &Arc<Table>| {
            let row = table.row(bucket);
            row.is_some_and(|row| row.owner == self.asker.node)
        };
        let table = table.filter(owns).ok_or(NOT_THE_OWNER)?;
        let answer = self.answer(request, device, bucket, &table).await;
        answer.map_err(|error| error.to_string())
    }

    fn place(&self, request: &QueryRequest) -> Result<(DeviceId, u16), QueryError> {
        let device = DeviceId::parse(&request.device)
            .map_err(|error| QueryError::Device(error.to_string()))?;
        let bucket = telemetry::bucket_of(device.as_bytes(), u32::from(self.log.partitions()));
        Ok((device, bucket))
    }

    /// Waits for what the logs hold of a bucket now; why not all of it is seen, if so.
    async fn caught_up(&self, table: &Table, bucket: u16) -> Option<String> {
        let mut missing = Vec::new();
        let reached = tokio::time::timeout(self.wait, async {
            if let Err(why) = self.log.learn_end(bucket).await {
                missing.push(why);
            }
            let end = self.end(bucket);
            let mut others = Vec::new();
            if self.log.is_one_of_many() {
                // A node that is slow to answer leaves time for the others.
                let ends = self.asker.ends(table, bucket, self.wait / 2).await;
                others = ends.known;
                missing.extend(ends.unknown);
            }
            self.reach(bucket, end).await;
            for (node, end) in others {
                self.progress.reach(LogId(node), bucket, end).await;
            }
        });
        if reached.await.is_err() || self.log.is_behind(bucket) {
            missing.push("the store has not caught up with the log yet".to_owned());
        }
        (!missing.is_empty()).then(|| missing.join("; "))
    }

    /// Where this node's log of a bucket ends.
    fn end(&self, bucket: u16) -> u64 {
        let end = self.log.ends().get(usize::from(bucket)).copied();
        end.unwrap_or(0)
    }

    /// Waits until the writer has passed `end` of this node's log, or where the log turns out to end before
    /// it: behind the last record there may be something else.
    async fn reach(&self, bucket: u16, end: u64) {
        loop {
            let due = end.min(self.end(bucket));
            let reached = self.progress.reach(self.log.id(), bucket, due);
            if tokio::time::timeout(END_LOOK, reached).await.is_ok() {
                return;
            }
        }
    }

    /// Answers from this node's store.
    async fn answer(
        &self,
        request: QueryRequest,
        device: DeviceId,
        bucket: u16,
        table: &Table,
    ) -> Result<QueryAnswer, QueryError> {
        let missing = self.caught_up(table, bucket).await;
        let mark = self.tsdb.mark(bucket);
        let (answer, answered) = oneshot::channel();
        self.jobs
            .try_send(Job {
                request,
                device,
                bucket,
                answer,
            })
            .map_err(|error| match error {
                TrySendError::Full(_) => QueryError::Busy { limit: WAITING_MAX },
                TrySendError::Disconnected(_) => QueryError::Stopped,
            })?;
        let answer = answered.await.map_err(|_| QueryError::Stopped)?;
        let mut answer = answer.map_err(|error| QueryError::Store(error.to_string()))?;
        // It may have gone to another node between the table and the rows.
        let is_gone = mark.is_some_and(|mark| mark.standing == tsdb::Standing::Dropped);
        let has_gone = is_gone || self.tsdb.mark(bucket) != mark;
        let missing = match has_gone {
            true => Some("the device's rows were moving between nodes".to_owned()),
            false => missing,
        };
        answer.partial |= missing.is_some();
        answer.reason = missing.or(answer.reason);
        Ok(answer)
    }
}

fn answer_all(tsdb: &Tsdb, queue: &Receiver<Job>) {
    for Job {
        request,
        device,
        bucket,
        answer,
    } in queue
    {
        if answer.is_closed() {
            continue;
        }
        let read = read(tsdb, bucket, &device, &request);
        if answer.send(read).is_err() {
            tracing::debug!("a question was abandoned");
        }
    }
}

/// Reads a device's rows, and sums them up if that is asked for. Partial when a summary would
/// need more than [`STEP_ROWS_MAX`] rows: it ends with the last step that is whole.
pub(crate) fn read(
    tsdb: &Tsdb,
    bucket: u16,
    device: &DeviceId,
    request: &QueryRequest,
) -> Result<QueryAnswer, tsdb::Error> {
    let rows = tsdb.query(&tsdb::Query {
        bucket,
        device,
        metrics: &request.metrics,
        from_ms: request.from_ms,
        to_ms: request.to_ms,
        limit: if request.step_ms.is_some() {
            STEP_ROWS_MAX
        } else {
            request.limit
        },
    })?;
    let Some(step_ms) = request.step_ms else {
        return Ok(QueryAnswer {
            rows: rows.iter().map(answer_row).collect(),
            ..QueryAnswer::default()
        });
    };
    let partial = rows.len() >= STEP_ROWS_MAX;
    let mut steps: Vec<QueryRow> = Steps::new(rows, step_ms).map(step_row).collect();
    if partial {
        steps.pop();
    }
    steps.truncate(request.limit);
    let reason = || format!("a summary reads {STEP_ROWS_MAX} rows at most");
    Ok(QueryAnswer {
        rows: steps,
        partial,
        reason: partial.then(reason),
    })
}

/// Puts a step into the form of the admin API.
fn step_row(step: StepRow) -> QueryRow {
    let of = |(name, sum): (MetricName, Aggregate)| {
        let parts = [
            ("count", sum.count as f64),
            ("min", sum.min),
            ("max", sum.max),
            ("avg", sum.avg()),
            ("first", sum.first),
            ("last", sum.last),
        ];
        parts.map(|(part, value)| (format!("{}.{part}", name.as_str()), MetricValue(value)))
    };
    QueryRow {
        ts: step.ts_ms,
        metrics: step.metrics.into_iter().flat_map(of).collect(),
    }
}

/// Puts a row into the form of the admin API.
pub(crate) fn answer_row(row: &Row) -> QueryRow {
    let metrics: BTreeMap<String, MetricValue> = row
        .metrics()
        .map(|(name, value)| (name.as_str().to_owned(), MetricValue(value)))
        .collect();
    QueryRow {
        ts: row.ts_ms,
        metrics,
    }
}

/// Puts the size of the store into the form of the admin API.
pub(crate) fn status_of(stats: &tsdb::Stats) -> TsdbStatus {
    let levels = stats.levels.iter().map(|level| LevelStatus {
        level: level.level,
        segments: level.segments,
        rows: level.rows,
        points: level.points,
        bytes: level.bytes,
        block_bytes: level.block_bytes,
    });
    TsdbStatus {
        levels: levels.collect(),
        head_rows: stats.head_rows,
        head_points: stats.head_points,
        head_bytes: stats.head_bytes,
        merged_bytes_per_point: stats.merged_bytes_per_point(),
    }
}
