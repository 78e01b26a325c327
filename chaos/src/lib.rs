//! Chaos: a cluster of real processes, a workload with a recorded history, faults by a scenario, and
//! checkers of what was promised.
//!
//! [`scenario`] says what is to happen, [`plan`] when and to whom; [`run`](run()) sees to it for one
//! scenario after the other, each in a process of its own. [`workload`] lets clients of the crate's own
//! publish and receive, [`history`] is what each of them did and saw, [`checkers`] compare it with what was
//! promised.

#![forbid(unsafe_code)]

mod client;
mod cluster;
mod faults;
mod figures;
mod finish;
mod network;
mod operations;
mod options;
pub mod plan;
mod proxy;
mod report;
mod run;
mod sabotage;
pub mod scenario;
mod suite;
mod timeline;
mod waited;
mod watch;

pub mod checkers;
pub mod history;
pub mod workload;

use std::io::Write;

pub use options::{DURATION_MAX, DURATION_MIN, Options, Place};
pub use report::{FaultRecord, Report};
pub use run::{Job, run_here};
pub use sabotage::Row;
pub use suite::{Outcome, Summary};

/// Says why a run did not come to a verdict.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option or a scenario is wrong; nothing was started.
    #[error("{0}")]
    Usage(String),
    /// Something was started and failed; its children are ended.
    #[error("{0}")]
    Failed(String),
    /// Ctrl-C or SIGTERM; the children are ended.
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

impl From<workload::Error> for Error {
    fn from(error: workload::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<benches::demo::Error> for Error {
    fn from(error: benches::demo::Error) -> Self {
        use benches::demo::Error as Of;
        match error {
            Of::Usage(text) => Self::Usage(text),
            Of::Failed(text) => Self::Failed(text),
            Of::Interrupted => Self::Interrupted,
        }
    }
}

/// Runs scenarios one after the other and writes a table to `out`, or with `options.json` one line of
/// JSON and nothing after it; progress goes to standard error. Blocks.
///
/// # Errors
/// [`Error`]; its [`Error::exit_code`] is the command's. What a checker found is no error but in the
/// summary, whose [`Summary::exit_code`] is the command's.
pub fn run(options: &Options, out: &mut dyn Write) -> Result<Summary, Error> {
    suite::run(options, out)
}

/// Writes the names of the shipped scenarios, each with a sentence, to `out`.
///
/// # Errors
/// [`Error::Failed`] when `out` does not take it.
pub fn list(out: &mut dyn Write) -> Result<(), Error> {
    suite::list(out)
}

/// Runs every defect, or those that `options.scenarios` names, and the same without it; writes a row for
/// each to `out`, or with `options.json` one line of JSON. Blocks.
///
/// # Errors
/// [`Error`]; its [`Error::exit_code`] is the command's. A defect that no checker found is no error but
/// in its row.
pub fn sabotage(options: &Options, out: &mut dyn Write) -> Result<Vec<Row>, Error> {
    sabotage::run(options, out)
}
