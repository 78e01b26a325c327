//! The named children of a trie node.

use std::sync::Arc;

use super::{FEW_MAX, Node};

type Child<K, V> = Arc<Node<K, V>>;

/// A persistent map from level to child. Level names come from clients, so the hash is keyed; its
/// order is never seen.
#[derive(Clone)]
pub(super) enum Children<K, V> {
    /// Up to [`FEW_MAX`], sorted.
    Few(Vec<(Arc<str>, Child<K, V>)>),
    /// Any number; stays so until it is empty.
    Many(Box<imbl::HashMap<Arc<str>, Child<K, V>>>),
}

impl<K, V> Default for Children<K, V> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl<K, V> Children<K, V> {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Few(few) => few.is_empty(),
            Self::Many(many) => many.is_empty(),
        }
    }

    pub(super) fn get(&self, level: &str) -> Option<&Child<K, V>> {
        match self {
            Self::Few(few) => position(few, level).ok().map(|at| &few[at].1),
            Self::Many(many) => many.get(level),
        }
    }

    pub(super) fn get_mut(&mut self, level: &str) -> Option<&mut Child<K, V>> {
        match self {
            Self::Few(few) => position(few, level).ok().map(|at| &mut few[at].1),
            Self::Many(many) => many.get_mut(level),
        }
    }

    pub(super) fn get_or_insert(&mut self, level: &str) -> &mut Child<K, V> {
        if let Self::Few(few) = self
            && few.len() == FEW_MAX
            && position(few, level).is_err()
        {
            *self = Self::Many(Box::new(std::mem::take(few).into_iter().collect()));
        }
        match self {
            Self::Few(few) => {
                let at = position(few, level).unwrap_or_else(|at| {
                    if few.is_empty() {
                        few.reserve_exact(1);
                    }
                    few.insert(at, (Arc::from(level), Arc::default()));
                    at
                });
                &mut few[at].1
            }
            Self::Many(many) => {
                if !many.contains_key(level) {
                    many.insert(Arc::from(level), Arc::default());
                }
                many.get_mut(level)
                    .expect("inserted just before if it was missing")
            }
        }
    }

    pub(super) fn remove(&mut self, level: &str) {
        match self {
            Self::Few(few) => {
                if let Ok(at) = position(few, level) {
                    few.remove(at);
                }
            }
            Self::Many(many) => {
                many.remove(level);
            }
        }
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// The children by level, in no order.
    pub(super) fn collect(&self) -> Vec<(&str, &Child<K, V>)> {
        match self {
            Self::Few(few) => few.iter().map(|(level, child)| (&**level, child)).collect(),
            Self::Many(many) => many
                .iter()
                .map(|(level, child)| (&**level, child))
                .collect(),
        }
    }
}

fn position<K, V>(few: &[(Arc<str>, Child<K, V>)], level: &str) -> Result<usize, usize> {
    few.binary_search_by(|(other, _)| (**other).cmp(level))
}
