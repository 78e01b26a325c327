//! The telemetry line at a glance: `GET /v1/tsdb`, `tidewire ctl tsdb status`.

use serde::{Deserialize, Serialize};

use crate::query::{PipelineStatus, TsdbStatus};

/// State of the hot store, and what passed the line since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The hot store.
    pub store: TsdbStatus,
    /// The line that fills it.
    pub pipeline: PipelineStatus,
}
