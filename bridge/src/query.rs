//! Questions to the hot store: any device, any moment.

/// Is a question about one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryRequest {
    /// Device id.
    pub device: String,
    /// Names of the metrics wanted; empty means all.
    pub metrics: Vec<String>,
    /// First moment wanted, in milliseconds since the Unix epoch.
    pub from_ms: i64,
    /// Last moment wanted, inclusive.
    pub to_ms: i64,
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
    /// The line is shut down.
    #[error("the telemetry line is shut down")]
    Stopped,
}

/// Answers questions; cloning it is cheap and any thread may hold one.
#[derive(Clone, Debug)]
pub struct QueryService {}

impl QueryService {
    /// Waits up to `query_wait` for the store's writer to pass the log's end as of now, then
    /// reads; `partial` is true when it waited in vain. Dropping the future abandons the question.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn query(
        &self,
        request: QueryRequest,
    ) -> Result<admin::query::QueryAnswer, QueryError> {
        let _ = request;
        Err(QueryError::Stopped)
    }
}
