//! Who wants which topics: the replicated state of the routes group.

mod command;
mod local;
#[cfg(test)]
mod routes_test;
mod visible;

use std::collections::{BTreeMap, VecDeque};

use mqtt::Filter;

pub use command::{Deltas, ROWS_PER_ENTRY, RouteDelta, RoutesAnswer, RoutesCommand, Source};
pub use local::{FiltersFull, LocalRoutes};
pub use visible::Visible;

use crate::{EpochView, RouteVersion, ShardId, Standing};

/// The rows of all sources, and how far each source is applied.
///
/// Equal logs give equal states. What waits in [`Self::poll_effect`] is the only part that is not
/// replicated: it keeps a node's trie as the rows are.
#[derive(Clone, Debug)]
pub struct Routes {
    rows_max: usize,
    index: u64,
    sources: BTreeMap<Source, Rows>,
    /// Rows of all sources.
    len: usize,
    epochs: EpochView,
    /// Not replicated.
    effects: VecDeque<RoutesEffect>,
}

#[derive(Clone, Debug, Default)]
struct Rows {
    applied: RouteVersion,
    filters: BTreeMap<Filter, RouteVersion>,
}

/// A change for the trie that publishes are matched with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutesEffect {
    /// Put the entry (filter, source) in.
    Add {
        /// The filter.
        filter: Filter,
        /// Where messages go.
        source: Source,
    },
    /// Take the entry (filter, source) out.
    Remove {
        /// The filter.
        filter: Filter,
        /// Where messages went.
        source: Source,
    },
    /// All before is in the trie once this is reached: a source is visible up to a version.
    Applied {
        /// The source.
        source: Source,
        /// Its highest version.
        version: RouteVersion,
        /// The entry.
        index: u64,
    },
}

impl Routes {
    /// No rows yet; a row beyond `rows_max` is not taken, and its SUBACK waits. `rows_max` is a
    /// replicated setting, equal on all replicas.
    pub fn new(rows_max: usize) -> Self {
        Self {
            rows_max,
            index: 0,
            sources: BTreeMap::new(),
            len: 0,
            epochs: EpochView::default(),
            effects: VecDeque::new(),
        }
    }

    /// The state that [`Self::index`] and [`Self::epochs`] tell, without its sources:
    /// [`Self::restore_source`] and [`Self::restore_row`] bring them. No effects come of that; the
    /// host builds its trie of the whole.
    pub fn restore(rows_max: usize, index: u64, epochs: EpochView) -> Self {
        Self {
            index,
            epochs,
            ..Self::new(rows_max)
        }
    }

    /// Brings a source back, and how far it was applied.
    pub fn restore_source(&mut self, source: Source, applied: RouteVersion) {
        self.sources.entry(source).or_default().applied = applied;
    }

    /// Brings a row back. Its source may follow.
    pub fn restore_row(&mut self, source: Source, filter: Filter, version: RouteVersion) {
        let rows = self.sources.entry(source).or_default();
        let is_new = rows.filters.insert(filter, version).is_none();
        self.len += usize::from(is_new);
    }

    /// Applies one log entry. `index` rises with each call.
    ///
    /// # Panics
    /// If `index` does not rise.
    pub fn apply(&mut self, index: u64, command: &RoutesCommand) -> RoutesAnswer {
        assert!(
            index > self.index,
            "log index {index} of routes does not rise"
        );
        self.index = index;
        match command {
            RoutesCommand::Deltas(deltas) => self.change(deltas),
            RoutesCommand::Restated { shard, from } => self.restated(*shard, *from),
            RoutesCommand::Epochs(view) => self.renew_epochs(view),
        }
    }

    /// The next change of the trie. Bounded by what an entry changes, if drained after each.
    pub fn poll_effect(&mut self) -> Option<RoutesEffect> {
        self.effects.pop_front()
    }

    /// The highest index applied.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Rows of all sources.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody wants anything.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How far a source is applied.
    pub fn applied(&self, source: Source) -> RouteVersion {
        let rows = self.sources.get(&source);
        rows.map_or(RouteVersion(0), |rows| rows.applied)
    }

    /// The filters of a source, in order: for a trie that is built anew.
    pub fn filters(&self, source: Source) -> impl Iterator<Item = &Filter> {
        let rows = self.sources.get(&source);
        rows.into_iter().flat_map(|rows| rows.filters.keys())
    }

    /// The sources that are known, in order.
    pub fn sources(&self) -> impl Iterator<Item = Source> {
        self.sources.keys().copied()
    }

    /// Whether a source is known: one that never had a row is not, nor one that has ended.
    pub fn is_known(&self, source: Source) -> bool {
        self.sources.contains_key(&source)
    }

    /// The version of a row, if its source wants the filter.
    pub fn version(&self, source: Source, filter: &Filter) -> Option<RouteVersion> {
        self.sources.get(&source)?.filters.get(filter).copied()
    }

    /// The node epochs that were current by the last view.
    pub fn epochs(&self) -> &EpochView {
        &self.epochs
    }

    fn change(&mut self, deltas: &Deltas) -> RoutesAnswer {
        let source = deltas.source;
        if self.is_ended(source) {
            return RoutesAnswer::Ended;
        }
        let mut full = false;
        let rows = self.sources.entry(source).or_default();
        for delta in &deltas.rows {
            if delta.version <= rows.applied {
                continue;
            }
            let is_new = !rows.filters.contains_key(&delta.filter);
            full = delta.wanted && is_new && self.len >= self.rows_max;
            if full {
                break;
            }
            rows.applied = delta.version;
            let filter = delta.filter.clone();
            if delta.wanted {
                rows.filters.insert(filter.clone(), delta.version);
                self.len += usize::from(is_new);
            } else if rows.filters.remove(&filter).is_some() {
                self.len -= 1;
            }
            let effect = match (delta.wanted, is_new) {
                (true, true) => RoutesEffect::Add { filter, source },
                (false, false) => RoutesEffect::Remove { filter, source },
                _ => continue,
            };
            self.effects.push_back(effect);
        }
        let version = self.told(source);
        if full {
            RoutesAnswer::Full { version }
        } else {
            RoutesAnswer::Done { version }
        }
    }

    fn restated(&mut self, shard: ShardId, from: RouteVersion) -> RoutesAnswer {
        let source = Source::Shard(shard);
        if let Some(rows) = self.sources.get_mut(&source) {
            let old = rows.filters.iter().filter(|(_, version)| **version < from);
            let old: Vec<Filter> = old.map(|(filter, _)| filter.clone()).collect();
            for filter in old {
                rows.filters.remove(&filter);
                self.len -= 1;
                self.effects
                    .push_back(RoutesEffect::Remove { filter, source });
            }
        }
        let version = self.told(source);
        RoutesAnswer::Done { version }
    }

    fn renew_epochs(&mut self, view: &EpochView) -> RoutesAnswer {
        self.epochs.renew(view);
        let sources = self.sources.keys().copied();
        let ended: Vec<Source> = sources.filter(|source| self.is_ended(*source)).collect();
        for source in ended {
            let rows = self.sources.remove(&source).unwrap_or_default();
            self.len -= rows.filters.len();
            let removed = rows.filters.into_keys();
            self.effects
                .extend(removed.map(|filter| RoutesEffect::Remove { filter, source }));
        }
        RoutesAnswer::Done {
            version: RouteVersion(0),
        }
    }

    fn told(&mut self, source: Source) -> RouteVersion {
        let version = self.applied(source);
        self.effects.push_back(RoutesEffect::Applied {
            source,
            version,
            index: self.index,
        });
        version
    }

    fn is_ended(&self, source: Source) -> bool {
        match source {
            Source::Shard(_) => false,
            Source::Node(epoch) => self.epochs.standing(epoch) == Standing::Ended,
        }
    }
}
