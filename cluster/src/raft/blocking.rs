//! Where what blocks on the disk runs.

use tokio::task::JoinError;

/// Where it runs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Blocking {
    /// On a thread that may block.
    #[default]
    Threads,
    /// Where it is asked for, at once: in a simulation, whose only thread decides what comes next.
    InPlace,
}

impl Blocking {
    /// Runs it to its end, whether anybody waits or not.
    ///
    /// # Errors
    /// It panicked, or the runtime ends.
    pub(super) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        match self {
            Self::Threads => tokio::task::spawn_blocking(work).await,
            Self::InPlace => Ok(work()),
        }
    }
}
