//! What a node takes from outside itself, apart from its configuration.

use std::sync::Arc;
use std::time::Duration;

use cluster::control::ControlKind;
use cluster_core::NodeEpoch;
use defects::Strain;
use runtime::{Clock, SystemClock};
use storage::fs::{FrailFs, Fs, RealFs};

use crate::defects::Defects;

/// Why nothing more may be acknowledged (SEMANTICS, Damage).
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The Raft groups cannot go on.
    #[error(transparent)]
    Groups(#[from] cluster::raft::Fatal),
    /// The telemetry line cannot go on.
    #[error(transparent)]
    Telemetry(#[from] bridge::Fatal),
    /// Meta ended the epoch of a process that still runs: nothing of it counts any more.
    #[error("the epoch {0} of this node has ended")]
    EpochEnded(NodeEpoch),
    /// What was acknowledged to its publisher cannot be delivered.
    #[error("a queued message of shard {shard} cannot be read: {why}")]
    Unreadable {
        /// The shard.
        shard: u16,
        /// What the state file says.
        why: String,
    },
}

/// Is called, from any thread and perhaps several times, when the node can promise nothing more.
/// Whoever returns from it must end the node at once, by [`crate::Node::abandon`].
pub type OnFatal = Arc<dyn Fn(Fatal) + Send + Sync>;

/// Disk, time, and the end of a node. By default the machine's, and the end of the process.
#[derive(Clone)]
pub struct Environment {
    /// Where the data folder is. The spools of Kafka's topics are there too.
    pub fs: Arc<dyn Fs>,
    /// Deadlines are looked at every 100 ms (connections) and 250 ms (sessions) of real time.
    pub clock: Arc<dyn Clock>,
    /// What happens when the node can promise nothing more.
    pub on_fatal: OnFatal,
    /// What carries the control plane: a node that has its process for itself takes
    /// [`ControlKind::Distributed`].
    pub control: ControlKind,
    /// What is broken on purpose.
    pub defects: Defects,
}

impl Default for Environment {
    fn default() -> Self {
        Self {
            fs: disk(),
            clock: Arc::new(SystemClock::default()),
            on_fatal: Arc::new(|fatal| end_process(&fatal)),
            control: ControlKind::default(),
            defects: Defects::default(),
        }
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment")
            .field("fs", &self.fs)
            .field("defects", &self.defects)
            .finish_non_exhaustive()
    }
}

/// The machine's; in a build with defects perhaps under a strain.
fn disk() -> Arc<dyn Fs> {
    let delay = Duration::from_millis(u64::from(defects::value(Strain::SlowSync)));
    let cuts = defects::value(Strain::PowerCut) > 0;
    if delay.is_zero() && !cuts {
        Arc::new(RealFs)
    } else {
        Arc::new(FrailFs::new(delay, cuts))
    }
}

/// What is in memory cannot be trusted any more either: the process ends here and now.
fn end_process(fatal: &Fatal) {
    tracing::error!(%fatal, "the process ends");
    std::process::abort();
}
