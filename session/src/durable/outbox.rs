//! Effects on others that survive their executor: rows that leave only by a later entry.

use std::collections::{BTreeMap, BTreeSet};

use mqtt::Filter;

use super::{RouteRow, RouteState, RowKey, WillRow, rows as stored};
use crate::WillId;

/// Route rows and wills that are to be carried out.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Rows of wanted filters, and of unwanted ones until the routes know.
    rows: BTreeMap<Filter, Row>,
    pending: BTreeMap<u64, Filter>,
    version: u64,
    wills: BTreeMap<WillId, WillRow>,
    will_ids: u64,
    /// Handed out to the host up to here. Not replicated.
    routes_told: u64,
    wills_told: u64,
    /// Rows that changed since they were taken last.
    changed_routes: BTreeSet<Filter>,
    changed_wills: BTreeSet<WillId>,
}

#[derive(Debug)]
struct Row {
    version: u64,
    wanted: bool,
}

impl Outbox {
    pub(super) fn routes_len(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn wills_len(&self) -> usize {
        self.wills.len()
    }

    /// The version of a filter's row, 0 without one.
    pub(super) fn version(&self, filter: &Filter) -> u64 {
        self.rows.get(filter).map_or(0, |row| row.version)
    }

    /// Writes a filter's new row; an older one of it that still waits is replaced.
    pub(super) fn route(&mut self, filter: &Filter, wanted: bool) {
        self.version += 1;
        self.changed_routes.insert(filter.clone());
        let version = self.version;
        let row = Row { version, wanted };
        if let Some(old) = self.rows.insert(filter.clone(), row) {
            self.pending.remove(&old.version);
        }
        self.pending.insert(version, filter.clone());
    }

    /// Forgets rows that the routes have applied.
    pub(super) fn routes_done(&mut self, version: u64) {
        let later = self.pending.split_off(&version.saturating_add(1));
        for (_, filter) in std::mem::replace(&mut self.pending, later) {
            if self.rows.get(&filter).is_some_and(|row| !row.wanted) {
                self.rows.remove(&filter);
            }
            self.changed_routes.insert(filter);
        }
    }

    /// Writes a will; its id is filled in.
    pub(super) fn will(&mut self, mut row: WillRow) {
        self.will_ids += 1;
        row.id = WillId(self.will_ids);
        self.changed_wills.insert(row.id);
        self.wills.insert(row.id, row);
    }

    pub(super) fn will_done(&mut self, id: WillId) {
        if self.wills.remove(&id).is_some() {
            self.changed_wills.insert(id);
        }
    }

    /// The version of the last route row, and the id of the last will.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.version, self.will_ids)
    }

    /// Goes on from [`Outbox::counts`], in a state that is restored.
    pub(super) fn count_from(&mut self, version: u64, will_ids: u64) {
        self.version = version;
        self.will_ids = will_ids;
    }

    /// Takes the rows that changed since the last call.
    pub(super) fn take_changes(&mut self) -> Vec<(RowKey, Option<stored::Row>)> {
        let mut changes = Vec::new();
        for id in std::mem::take(&mut self.changed_wills) {
            let row = self.wills.get(&id).cloned().map(stored::Row::Will);
            changes.push((RowKey::Will(id), row));
        }
        for filter in std::mem::take(&mut self.changed_routes) {
            let row = self.rows.get(&filter).map(|row| {
                let state = RouteState {
                    version: row.version,
                    wanted: row.wanted,
                    pending: self.pending.contains_key(&row.version),
                };
                stored::Row::Route(filter.clone(), state)
            });
            changes.push((RowKey::Route(filter), row));
        }
        changes
    }

    /// Takes a stored will back.
    pub(super) fn restore_will(&mut self, row: WillRow) {
        self.wills.insert(row.id, row);
    }

    /// Takes a stored route row back.
    pub(super) fn restore_route(&mut self, filter: Filter, state: RouteState) {
        if state.pending {
            self.pending.insert(state.version, filter.clone());
        }
        let row = Row {
            version: state.version,
            wanted: state.wanted,
        };
        self.rows.insert(filter, row);
    }

    pub(super) fn next_route(&mut self) -> Option<RouteRow> {
        let (&version, filter) = self.pending.range(self.routes_told + 1..).next()?;
        self.routes_told = version;
        let wanted = self.rows.get(filter).is_some_and(|row| row.wanted);
        Some(RouteRow {
            filter: filter.clone(),
            wanted,
            version,
        })
    }

    pub(super) fn next_will(&mut self) -> Option<WillRow> {
        let (id, row) = self.wills.range(WillId(self.wills_told + 1)..).next()?;
        self.wills_told = id.0;
        Some(row.clone())
    }

    pub(super) fn resume(&mut self) {
        self.routes_told = 0;
        self.wills_told = 0;
    }
}
