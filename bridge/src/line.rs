//! The telemetry line of a node: log, writer, hot store, queries.

use std::path::Path;
use std::sync::Arc;

use admin::query::{PipelineStatus, TsdbStatus};
use runtime::Clock;
use storage::fs::Fs;

use crate::config::Config;
use crate::ingest::Ingest;
use crate::query::QueryService;

/// Says that the line cannot go on: a disk failed or a stored thing is damaged. Nothing more is
/// acknowledged; the process is to end.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the telemetry line cannot go on: {0}")]
pub struct Fatal(pub String);

/// Is called, perhaps from several threads, when the line cannot go on. In production it ends the
/// process.
pub type OnFatal = Arc<dyn Fn(Fatal) + Send + Sync>;

/// Says why the line could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A value of the configuration is out of its range; nothing was touched.
    #[error("{0}")]
    Config(String),
    /// The log could not be opened or does not fit the store.
    #[error("telemetry log: {0}")]
    Log(String),
    /// The hot store could not be opened.
    #[error("hot store: {0}")]
    Store(String),
    /// The machine gave no thread or actor.
    #[error("cannot start {0}")]
    Start(String),
}

/// Is the telemetry line of a node, the one object that the broker holds.
#[derive(Debug)]
pub struct Telemetry {
    ingest: Ingest,
    query: QueryService,
}

impl Telemetry {
    /// Opens or creates the line in `data_dir` (folders `log`, `dlq` and `tsdb`) and starts its
    /// writer, which replays what the log holds beyond the store. Must be called within a tokio
    /// runtime; blocks on the disk while log and store are checked.
    ///
    /// # Errors
    /// Nothing was started. A torn tail of the log may have been cut.
    pub async fn open(
        data_dir: &Path,
        fs: Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
        config: Config,
        on_fatal: OnFatal,
    ) -> Result<Self, OpenError> {
        let _ = (data_dir, fs, clock, config, on_fatal);
        Err(OpenError::Store("being built".to_owned()))
    }

    /// Takes batches from the broker.
    pub fn ingest(&self) -> Ingest {
        self.ingest.clone()
    }

    /// Answers questions.
    pub fn query(&self) -> QueryService {
        self.query.clone()
    }

    /// Is what passed the line since the start.
    pub fn status(&self) -> PipelineStatus {
        let counts = self.ingest.counts();
        PipelineStatus {
            accepted_messages: counts.accepted_messages,
            ..PipelineStatus::default()
        }
    }

    /// Is the state of the hot store.
    pub fn tsdb_status(&self) -> TsdbStatus {
        TsdbStatus::default()
    }

    /// Refuses new batches, makes durable what was submitted, stops the writer after what it is
    /// doing. Rows not yet sealed stay in the log and are replayed by the next start.
    pub async fn shutdown(self) {
        self.ingest.stopped();
    }
}
