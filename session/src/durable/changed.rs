//! Which elements of one kind changed since their rows were taken.

use std::collections::BTreeMap;

/// Keys of changed elements, and whether each has a row. Bounded by what the entries between two
/// flushes change.
#[derive(Debug)]
pub(super) struct Changed<K>(BTreeMap<K, bool>);

impl<K> Default for Changed<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Changed<K> {
    /// An element changed; `existed` says whether it was there before that.
    pub(super) fn mark(&mut self, key: K, existed: bool) {
        // Unchanged until now, it had a row exactly if it was there.
        self.0.entry(key).or_insert(existed);
    }

    /// Takes the keys with their rows as `row_of` finds them; what came and went in between
    /// leaves nothing.
    pub(super) fn take<R>(&mut self, row_of: impl Fn(&K) -> Option<R>) -> Vec<(K, Option<R>)> {
        let mut rows = Vec::new();
        for (key, had_row) in std::mem::take(&mut self.0) {
            let row = row_of(&key);
            if had_row || row.is_some() {
                rows.push((key, row));
            }
        }
        rows
    }
}
