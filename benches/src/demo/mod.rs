//! The demo: one node or several as child processes, a fleet that publishes to them, and the check
//! of what the stores kept.

mod answers;
mod caught_up;
pub mod check;
mod folder;
mod kept;
pub mod node;
pub(crate) mod nodes;
mod options;
mod progress;
mod publish;
mod report;
mod run;
mod show;
mod store;
pub mod view;

use std::io::Write;
use std::path::Path;

pub use folder::{ClusterRecord, Folder, Kafka, Record};
pub use kept::{Kept, compare, wait_until_sealed};
pub use options::{DEVICES_MAX, INTERVAL_MIN, NODES_MAX, Options};
pub use report::{Report, VIOLATIONS_SHOWN_MAX, Violation, ViolationKind};
pub use store::copy;

/// Says why a demo or a check did not come to a verdict.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option is wrong or names what is not built yet; nothing was started.
    #[error("{0}")]
    Usage(String),
    /// Something was started and failed; its children are stopped.
    #[error("{0}")]
    Failed(String),
    /// Ctrl-C or SIGTERM; the children are stopped.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Returns the exit code of the command: 2 usage, 1 failed, 130 interrupted.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Failed(_) => 1,
            Self::Interrupted => 130,
        }
    }
}

/// Runs the demo to its end and returns what the check found.
///
/// Writes the result to `out` (the table, or with `options.json` one line of JSON and nothing
/// after it) and progress to standard error. Blocks, and builds an async runtime of its own, so
/// it must not be called from within one. With `options.keep` it returns at Ctrl-C, still with
/// the report of the check.
///
/// # Errors
/// [`Error`]; its [`Error::exit_code`] is the command's. The caller prints the message.
pub fn run(options: &Options, out: &mut dyn Write) -> Result<Report, Error> {
    run::run(options, out)
}

/// Checks the folder of an ended demo: reads the ledger and scans the store.
///
/// The report prints itself (`Display` is the table, [`Report::to_json`] the line of `--json`),
/// and [`Report::exit_code`] is the command's.
///
/// # Errors
/// [`Error::Usage`] when `dir` is not the folder of a demo, [`Error::Failed`] when its files
/// cannot be read, or when it is of a demo through Kafka or of several nodes that did not reach its
/// end: what the stores had not sealed then is in Kafka, or in logs that no one node reads alone.
/// Nothing in the folder is changed.
pub fn check(dir: &Path) -> Result<Report, Error> {
    run::check_folder(dir)
}
