//! Route rows of one source on their way to the routes group.

use std::collections::BTreeMap;

use mqtt::Filter;

use super::{DRAIN_RETRY_MS, Step};
use crate::{BootMs, Deltas, ROWS_PER_ENTRY, RouteDelta, RouteVersion, RoutesAnswer, Source};

/// Sends a source's route rows until the routes group has them.
///
/// One batch is under way at a time, and each begins with the lowest row: the routes group ignores
/// what is not newer, so a batch that overtook another would make it lost.
#[derive(Clone, Debug)]
pub struct RouteDrain {
    source: Source,
    rows: BTreeMap<RouteVersion, (Filter, bool)>,
    /// The row of each filter: a later one replaces it, so that a filter that flaps costs one.
    versions: BTreeMap<Filter, RouteVersion>,
    batch: Step,
    applied: RouteVersion,
}

impl RouteDrain {
    /// No rows yet.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            rows: BTreeMap::new(),
            versions: BTreeMap::new(),
            batch: Step::Due,
            applied: RouteVersion(0),
        }
    }

    /// Takes a row; versions rise with each new one.
    pub fn handle_row(&mut self, row: RouteDelta) {
        let RouteDelta {
            filter,
            wanted,
            version,
        } = row;
        if let Some(old) = self.versions.insert(filter.clone(), version) {
            self.rows.remove(&old);
        }
        self.rows.insert(version, (filter, wanted));
    }

    /// The routes group applied a batch. Says whether it has more of the source than was known.
    pub fn handle_answer(&mut self, answer: RoutesAnswer, now: BootMs) -> bool {
        let (version, next) = match answer {
            RoutesAnswer::Done { version } => (version, Step::Due),
            RoutesAnswer::Full { version } => (version, Step::At(now.plus_ms(DRAIN_RETRY_MS))),
            // The source's epoch has ended: nothing of it is wanted any longer.
            RoutesAnswer::Ended => return false,
        };
        self.batch = next;
        let has_more = version > self.applied;
        self.applied = version.max(self.applied);
        has_more
    }

    /// It is not known that the routes group applied a batch: it is sent again.
    pub fn handle_failed(&mut self, now: BootMs) {
        self.batch = Step::At(now.plus_ms(DRAIN_RETRY_MS));
    }

    /// Rows up to here need not be sent again.
    pub fn handle_done(&mut self, version: RouteVersion) {
        let later = RouteVersion(version.0.saturating_add(1));
        let later = self.rows.split_off(&later);
        for (version, (filter, _)) in std::mem::replace(&mut self.rows, later) {
            if self.versions.get(&filter) == Some(&version) {
                self.versions.remove(&filter);
            }
        }
    }

    /// The next batch, unless one is under way.
    pub fn poll_deltas(&mut self, now: BootMs) -> Option<Deltas> {
        let has_more = self.rows.last_key_value()?.0 > &self.applied;
        if !has_more || !self.batch.is_due(now) {
            return None;
        }
        self.batch = Step::UnderWay;
        let above = RouteVersion(self.applied.0 + 1);
        let rows = self.rows.range(above..).take(ROWS_PER_ENTRY);
        let rows = rows.map(|(version, (filter, wanted))| RouteDelta {
            filter: filter.clone(),
            wanted: *wanted,
            version: *version,
        });
        Some(Deltas {
            source: self.source,
            rows: rows.collect(),
        })
    }

    /// When [`Self::poll_deltas`] may have more, if nothing else happens.
    pub fn deadline(&self) -> Option<BootMs> {
        self.batch.at().filter(|_| !self.rows.is_empty())
    }

    /// How far the routes group has the source, as far as it told.
    pub fn applied(&self) -> RouteVersion {
        self.applied
    }

    /// Whether a row that the routes group has was not said to be done.
    pub fn has_applied_rows(&self) -> bool {
        let first = self.rows.first_key_value();
        first.is_some_and(|(version, _)| *version <= self.applied)
    }

    /// Whether no row is left.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}
