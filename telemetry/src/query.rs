//! Reading: rows of several sources made one, and steps of time.

mod merge;
mod step;

pub use merge::{MergeRows, SourceRow, merge_rows};
pub use step::{Aggregate, StepRow, Steps};
