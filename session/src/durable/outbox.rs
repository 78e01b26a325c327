//! Effects on others that survive their executor: rows that leave only by a later entry.

use std::collections::BTreeMap;

use defects::Defect;
use mqtt::Filter;

use super::changed::Changed;
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
    changed_routes: Changed<Filter>,
    changed_wills: Changed<WillId>,
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
    pub(super) fn route(&mut self, filter: &Filter, wanted: bool, index: u64) {
        self.version = match defects::is(Defect::RouteVersionIsLogIndex) {
            false => self.version + 1,
            true => index,
        };
        let version = self.version;
        let row = Row { version, wanted };
        let old = self.rows.insert(filter.clone(), row);
        self.changed_routes.mark(filter.clone(), old.is_some());
        if let Some(old) = old {
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
            self.changed_routes.mark(filter, true);
        }
    }

    /// Writes a will; its id is filled in.
    pub(super) fn will(&mut self, mut row: WillRow) {
        self.will_ids += 1;
        row.id = WillId(self.will_ids);
        self.changed_wills.mark(row.id, false);
        self.wills.insert(row.id, row);
    }

    pub(super) fn will_done(&mut self, id: WillId) {
        if self.wills.remove(&id).is_some() {
            self.changed_wills.mark(id, true);
        }
    }

    /// Goes on above a number, and has every row told anew: nobody knows what the routes were told of
    /// rows that are lost.
    pub(super) fn restate(&mut self, floor: u64) {
        self.version = self.version.max(floor);
        self.will_ids = self.will_ids.max(floor);
        let rows = self.rows.iter();
        let rows: Vec<(Filter, bool)> = rows.map(|(f, row)| (f.clone(), row.wanted)).collect();
        for (filter, wanted) in rows {
            self.route(&filter, wanted, self.version + 1);
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
        let (wills, rows, pending) = (&self.wills, &self.rows, &self.pending);
        let changed = self.changed_wills.take(|id| wills.get(id).cloned());
        let will = |(id, row): (_, Option<_>)| (RowKey::Will(id), row.map(stored::Row::Will));
        let mut changes: Vec<_> = changed.into_iter().map(will).collect();
        let changed = self.changed_routes.take(|filter| {
            let row = rows.get(filter)?;
            let state = RouteState {
                version: row.version,
                wanted: row.wanted,
                pending: pending.contains_key(&row.version),
            };
            Some(stored::Row::Route(filter.clone(), state))
        });
        let route = |(filter, row)| (RowKey::Route(filter), row);
        changes.extend(changed.into_iter().map(route));
        changes
    }

    /// Takes a stored will back; says whether it is the first of its id.
    pub(super) fn restore_will(&mut self, row: WillRow) -> bool {
        self.wills.insert(row.id, row).is_none()
    }

    /// Takes a stored route row back; says whether filter and version are the first of their
    /// name.
    pub(super) fn restore_route(&mut self, filter: Filter, state: RouteState) -> bool {
        let same = state
            .pending
            .then(|| self.pending.insert(state.version, filter.clone()));
        let row = Row {
            version: state.version,
            wanted: state.wanted,
        };
        let same_filter = self.rows.insert(filter, row);
        same.flatten().is_none() && same_filter.is_none()
    }

    /// The filters of all rows with their versions, and whether they are wanted.
    pub(super) fn routes(&self) -> impl Iterator<Item = (&Filter, u64, bool)> {
        let rows = self.rows.iter();
        rows.map(|(filter, row)| (filter, row.version, row.wanted))
    }

    /// The last will that waits.
    pub(super) fn last_will(&self) -> Option<WillId> {
        self.wills.last_key_value().map(|(id, _)| *id)
    }

    /// Whether the routes are told that the filter is wanted, or are to be.
    pub(super) fn is_wanted(&self, filter: &Filter) -> bool {
        self.rows.get(filter).is_some_and(|row| row.wanted)
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

    /// A defect: what is there counts as handed out.
    pub(super) fn pass_over(&mut self) {
        (self.routes_told, self.wills_told) = self.counts();
    }

    pub(super) fn resume(&mut self) {
        self.routes_told = 0;
        self.wills_told = 0;
    }
}
