//! The subscribers of one filter.

use super::FEW_MAX;

/// A persistent map sorted by key.
#[derive(Clone)]
pub(super) enum Entries<K, V> {
    /// Up to [`FEW_MAX`], sorted.
    Few(Vec<(K, V)>),
    /// Any number; stays so until it is empty.
    Many(Box<imbl::OrdMap<K, V>>),
}

impl<K, V> Default for Entries<K, V> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl<K: Clone + Ord, V: Clone> Entries<K, V> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        match self {
            Self::Few(few) => position(few, key).ok().map(|at| &few[at].1),
            Self::Many(many) => many.get(key),
        }
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self {
            Self::Few(few) => match position(few, &key) {
                Ok(at) => Some(std::mem::replace(&mut few[at].1, value)),
                Err(at) if few.len() < FEW_MAX => {
                    // Most filters have one subscriber; `Vec` would start with room for four.
                    if few.is_empty() {
                        few.reserve_exact(1);
                    }
                    few.insert(at, (key, value));
                    None
                }
                Err(_) => {
                    let mut many: imbl::OrdMap<K, V> = std::mem::take(few).into_iter().collect();
                    many.insert(key, value);
                    *self = Self::Many(Box::new(many));
                    None
                }
            },
            Self::Many(many) => many.insert(key, value),
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let removed = match self {
            Self::Few(few) => {
                let at = position(few, key).ok()?;
                Some(few.remove(at).1)
            }
            Self::Many(many) => many.remove(key),
        };
        if self.is_empty() {
            *self = Self::default();
        }
        removed
    }

    pub(super) fn for_each(&self, report: &mut impl FnMut(&K, &V)) {
        match self {
            Self::Few(few) => few.iter().for_each(|(key, value)| report(key, value)),
            Self::Many(many) => many.iter().for_each(|(key, value)| report(key, value)),
        }
    }

    pub(super) fn iter(&self) -> EntriesIter<'_, K, V> {
        match self {
            Self::Few(few) => EntriesIter::Few(few.iter()),
            Self::Many(many) => EntriesIter::Many(many.iter()),
        }
    }
}

fn position<K: Ord, V>(few: &[(K, V)], key: &K) -> Result<usize, usize> {
    few.binary_search_by(|(other, _)| other.cmp(key))
}

pub(super) enum EntriesIter<'a, K, V> {
    Few(std::slice::Iter<'a, (K, V)>),
    Many(imbl::ordmap::Iter<'a, K, V, imbl::shared_ptr::DefaultSharedPtr>),
}

impl<'a, K: Ord, V> Iterator for EntriesIter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Few(few) => few.next().map(|(key, value)| (key, value)),
            Self::Many(many) => many.next(),
        }
    }
}
