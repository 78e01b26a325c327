//! The store of a stopped node, read as it lies.

use std::path::{Path, PathBuf};

use super::Error;
use super::check::{Store, StoredRow};

/// Is the store in the data folder of a node that does not run.
#[derive(Debug)]
pub(super) struct StoppedNode {
    data: PathBuf,
}

impl StoppedNode {
    pub(super) fn at(data: &Path) -> Self {
        Self {
            data: data.to_owned(),
        }
    }
}

impl Store for StoppedNode {
    fn for_each_row(&self, _each: &mut dyn FnMut(StoredRow<'_>)) -> Result<(), Error> {
        Err(Error::Failed(format!(
            "{}: reading the store of a stopped node is not built yet",
            self.data.display()
        )))
    }
}
