//! Iteration over a trie in order.

use super::Node;
use super::entries::{Entries, EntriesIter};
use crate::Filter;

/// Iterates over all entries of a [`super::Trie`]; see [`super::Trie::iter`].
///
/// Holds the siblings of one path, sorted, so up to the width of its widest nodes.
pub struct Iter<'a, K, V> {
    /// What is still to be visited, the next one last.
    pending: Vec<Step<'a, K, V>>,
    /// The levels down to the node visited last.
    path: String,
    entries: Option<(Filter, EntriesIter<'a, K, V>)>,
}

struct Step<'a, K, V> {
    /// Length of the parent's path; `None` below the root, where no `/` precedes the level.
    parent_len: Option<usize>,
    level: &'a str,
    target: Target<'a, K, V>,
}

enum Target<'a, K, V> {
    Node(&'a Node<K, V>),
    Below(&'a Entries<K, V>),
}

impl<'a, K: Clone + Ord, V: Clone> Iter<'a, K, V> {
    pub(super) fn new(root: &'a Node<K, V>) -> Self {
        let mut iter = Self {
            pending: Vec::new(),
            path: String::new(),
            entries: None,
        };
        iter.push_children(root, None);
        iter
    }

    fn push_children(&mut self, node: &'a Node<K, V>, parent_len: Option<usize>) {
        let mut steps: Vec<Step<'a, K, V>> = node
            .children
            .collect()
            .into_iter()
            .map(|(level, child)| Step {
                parent_len,
                level,
                target: Target::Node(child),
            })
            .collect();
        if let Some(plus) = &node.plus {
            steps.push(Step {
                parent_len,
                level: "+",
                target: Target::Node(plus),
            });
        }
        if !node.below.is_empty() {
            steps.push(Step {
                parent_len,
                level: "#",
                target: Target::Below(&node.below),
            });
        }
        steps.sort_unstable_by(|a, b| b.level.cmp(a.level));
        self.pending.append(&mut steps);
    }

    fn visit(&mut self, step: &Step<'a, K, V>) {
        self.path.truncate(step.parent_len.unwrap_or(0));
        if step.parent_len.is_some() {
            self.path.push('/');
        }
        self.path.push_str(step.level);
        let entries = match step.target {
            Target::Below(entries) => entries,
            Target::Node(node) => {
                self.push_children(node, Some(self.path.len()));
                &node.here
            }
        };
        if !entries.is_empty() {
            let filter = Filter::try_from(self.path.as_str())
                .expect("joined from an inserted filter's levels");
            self.entries = Some((filter, entries.iter()));
        }
    }
}

impl<'a, K: Clone + Ord, V: Clone> Iterator for Iter<'a, K, V> {
    type Item = (Filter, &'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((filter, entries)) = &mut self.entries
                && let Some((key, value)) = entries.next()
            {
                return Some((filter.clone(), key, value));
            }
            let step = self.pending.pop()?;
            self.entries = None;
            self.visit(&step);
        }
    }
}
