//! The store of a stopped node, as the check scans it.

use std::path::Path;

use bridge::StoppedNode;

use super::Error;
use super::check::{Store, StoredPoint};

/// Is the store in the data folder of a node that does not run.
#[derive(Debug)]
pub(super) struct Scanned(StoppedNode);

impl Scanned {
    /// Opens the store and takes into its head, in memory, what only the log holds.
    pub(super) fn open(data: &Path) -> Result<Self, Error> {
        StoppedNode::open(data)
            .map(Self)
            .map_err(|error| Error::Failed(error.to_string()))
    }
}

impl Store for Scanned {
    fn for_each_point(&self, each: &mut dyn FnMut(StoredPoint<'_>)) -> Result<(), Error> {
        let scanned = self.0.tsdb().scan_raw(|point| {
            each(StoredPoint {
                device: point.device.as_str(),
                ts_ms: point.ts_ms,
                metric: point.metric,
                value: point.value,
            });
        });
        scanned.map_err(|error| Error::Failed(error.to_string()))
    }
}
