//! The machine of the routes group.

use std::collections::BTreeSet;

use cluster_core::{Routes, RoutesAnswer, RoutesCommand, Source, Standing};
use mqtt::Filter;
use storage::state::{Changes, Row};

use crate::stored::RoutesEntry;
use crate::stored::routes_rows::{
    HEAD_KIND, ROW_KIND, RoutesHead, RoutesRow, SOURCE_KIND, row_key, source_key,
};
use crate::stored::row::{damaged, encode_value, readable};
use crate::stored::wire::Why;
use crate::{Damaged, Machine};

const NAME: &str = "the routes";

/// Bounds of the routes; replicated settings, equal on all replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutesConfig {
    /// Rows of all sources; one beyond is not taken, and its SUBACK waits.
    pub rows_max: usize,
}

/// The replicated state of the routes group. Its effects wait in [`Routes::poll_effect`]: the host
/// is to drain them after each entry. A restored machine has none: the host builds its trie of
/// [`Routes::sources`] and [`Routes::filters`].
#[derive(Debug)]
pub struct RoutesMachine {
    routes: Routes,
    /// What entries since the last flush may have touched; the rows are read when they are
    /// written. At most what the log since then holds.
    touched: BTreeSet<(Source, Filter)>,
    touched_sources: BTreeSet<Source>,
    is_changed: bool,
    is_restored: bool,
}

impl RoutesMachine {
    /// The state.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// The state, to drain its effects. Entries alone may change what is replicated.
    pub fn routes_mut(&mut self) -> &mut Routes {
        &mut self.routes
    }

    /// Whether it was restored since the last call: then its effects are not all there is to know, and
    /// the host builds its trie anew.
    pub fn take_restored(&mut self) -> bool {
        std::mem::take(&mut self.is_restored)
    }

    /// Notes which rows a command may change, before it is applied.
    fn touch(&mut self, command: &RoutesCommand) {
        self.is_changed = true;
        match command {
            RoutesCommand::Deltas(deltas) => {
                self.touched_sources.insert(deltas.source);
                let filters = deltas.rows.iter().map(|row| row.filter.clone());
                let rows = filters.map(|filter| (deltas.source, filter));
                self.touched.extend(rows);
            }
            // Rows that stay are written again in vain: this happens once in a recovery.
            RoutesCommand::Restated { shard, .. } => self.touch_all(Source::Shard(*shard)),
            RoutesCommand::Epochs(view) => {
                let sources: Vec<Source> = self.routes.sources().collect();
                for source in sources {
                    if matches!(source, Source::Node(e) if view.standing(e) == Standing::Ended) {
                        self.touch_all(source);
                    }
                }
            }
        }
    }

    fn touch_all(&mut self, source: Source) {
        self.touched_sources.insert(source);
        let filters = self.routes.filters(source);
        self.touched
            .extend(filters.map(|filter| (source, filter.clone())));
    }
}

impl Machine for RoutesMachine {
    type Config = RoutesConfig;
    type Answer = RoutesAnswer;
    const VERSION: u32 = 1;

    fn restore(
        config: &RoutesConfig,
        rows: &mut dyn Iterator<Item = Result<Row, storage::state::Error>>,
    ) -> Result<Self, Damaged> {
        let mut routes = None;
        for row in rows {
            let row = readable(NAME, row)?;
            let decoded = RoutesRow::decode(&row).map_err(|why| damaged(NAME, &row, &why))?;
            match (decoded, &mut routes) {
                (RoutesRow::Head(head), None) => {
                    let restored = Routes::restore(config.rows_max, head.index, head.epochs);
                    routes = Some(restored);
                }
                (RoutesRow::Source(source, applied), Some(routes)) => {
                    routes.restore_source(source, applied);
                }
                (RoutesRow::Row(source, filter, version), Some(routes)) => {
                    if !routes.is_known(source) {
                        let why = Why::State("its source has no row".to_owned());
                        return Err(damaged(NAME, &row, &why));
                    }
                    routes.restore_row(source, filter, version);
                }
                (RoutesRow::Head(_), Some(_)) => {
                    let why = Why::State("a second head".to_owned());
                    return Err(damaged(NAME, &row, &why));
                }
                (_, None) => {
                    let why = Why::State("no head stands before it".to_owned());
                    return Err(damaged(NAME, &row, &why));
                }
            }
        }
        Ok(Self {
            routes: routes.unwrap_or_else(|| Routes::new(config.rows_max)),
            touched: BTreeSet::new(),
            touched_sources: BTreeSet::new(),
            is_changed: false,
            is_restored: true,
        })
    }

    fn apply(&mut self, index: u64, entry: &[u8]) -> Result<RoutesAnswer, Damaged> {
        let entry = RoutesEntry::decode(entry)?;
        self.touch(&entry.command);
        Ok(self.routes.apply(index, &entry.command))
    }

    fn changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        if !std::mem::take(&mut self.is_changed) {
            return changes;
        }
        let head = RoutesHead {
            index: self.routes.index(),
            epochs: self.routes.epochs().clone(),
        };
        changes.put(HEAD_KIND, &[], &encode_value(&head));
        for source in std::mem::take(&mut self.touched_sources) {
            let key = source_key(source);
            if self.routes.is_known(source) {
                let applied = encode_value(&self.routes.applied(source));
                changes.put(SOURCE_KIND, &key, &applied);
            } else {
                changes.delete(SOURCE_KIND, &key);
            }
        }
        for (source, filter) in std::mem::take(&mut self.touched) {
            let key = row_key(source, &filter);
            match self.routes.version(source, &filter) {
                Some(version) => changes.put(ROW_KIND, &key, &encode_value(&version)),
                None => changes.delete(ROW_KIND, &key),
            }
        }
        changes
    }

    fn handle_flushed(&mut self) {}
}
