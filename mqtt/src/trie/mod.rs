//! The subscription trie.

mod children;
mod entries;
mod iter;

use std::sync::Arc;

use smallvec::SmallVec;

use crate::Filter;
use children::Children;
use entries::Entries;
pub use iter::Iter;

/// Children or subscribers that a node keeps in a sorted vector before it takes a persistent map.
///
/// A map's smallest node has room for 16 entries, far too much for the millions of trie nodes that
/// hold one.
const FEW_MAX: usize = 8;

/// How many trie nodes a publish may visit by default.
pub const VISITED_NODES_MAX: usize = 10_000;

/// A persistent map of `(Filter, K) -> V` that finds the entries whose filter matches a topic.
///
/// Cloning is O(1) and gives a snapshot: later changes of either copy the changed path only,
/// also below a node with a million children and in a filter with a hundred thousand keys.
///
/// A shared filter (`$share/{group}/{filter}`) is stored under the filter that follows its group,
/// since that is what topics match; `K` has to tell groups apart.
#[derive(Clone)]
pub struct Trie<K, V> {
    root: Arc<Node<K, V>>,
    len: usize,
}

/// One level. `below` holds the subscribers of the filter that ends here with `/#` (for the root:
/// of `#`), so that no node exists for `#`.
#[derive(Clone)]
struct Node<K, V> {
    children: Children<K, V>,
    plus: Option<Arc<Node<K, V>>>,
    here: Entries<K, V>,
    below: Entries<K, V>,
}

/// Nodes still to be visited, each with what is left of the topic. Every level adds one at most.
type Pending<'a, K, V> = SmallVec<[(&'a Node<K, V>, Option<&'a str>); 36]>;

/// The walk was given up because it had visited as many nodes as allowed; entries found so far
/// have been reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("topic visits more than {nodes_max} nodes of the subscription trie")]
pub struct VisitLimit {
    /// The limit.
    pub nodes_max: usize,
}

impl<K, V> std::fmt::Debug for Trie<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trie")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl<K, V> Default for Trie<K, V> {
    fn default() -> Self {
        Self {
            root: Arc::new(Node::default()),
            len: 0,
        }
    }
}

impl<K, V> Default for Node<K, V> {
    fn default() -> Self {
        Self {
            children: Children::default(),
            plus: None,
            here: Entries::default(),
            below: Entries::default(),
        }
    }
}

impl<K: Clone + Ord, V: Clone> Trie<K, V> {
    /// An empty trie.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many `(Filter, K)` entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets the entry and returns the value it replaces.
    pub fn insert(&mut self, filter: &Filter, key: K, value: V) -> Option<V> {
        let mut node = Arc::make_mut(&mut self.root);
        let mut filter = filter.topic_filter();
        let replaced = loop {
            let (level, rest) = first_level(filter);
            if level == "#" {
                break node.below.insert(key, value);
            }
            node = node.child_or_insert(level);
            match rest {
                Some(rest) => filter = rest,
                None => break node.here.insert(key, value),
            }
        };
        self.len += usize::from(replaced.is_none());
        replaced
    }

    /// Removes the entry and returns its value; branches left without entries go too.
    pub fn remove(&mut self, filter: &Filter, key: &K) -> Option<V> {
        // Looking first keeps a miss from copying the path out of a snapshot.
        self.get(filter, key)?;
        let removed = Arc::make_mut(&mut self.root).remove(filter.topic_filter(), key);
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// The value of an entry.
    pub fn get(&self, filter: &Filter, key: &K) -> Option<&V> {
        self.subscribers_at(filter)?.get(key)
    }

    /// How many keys the filter has.
    pub fn filter_len(&self, filter: &Filter) -> usize {
        self.subscribers_at(filter).map_or(0, Entries::len)
    }

    /// The entries of exactly this filter, in the order of their keys.
    pub fn entries_of(&self, filter: &Filter) -> impl Iterator<Item = (&K, &V)> {
        self.subscribers_at(filter)
            .into_iter()
            .flat_map(Entries::iter)
    }

    /// Reports each entry whose filter matches the topic and returns how many nodes were visited.
    ///
    /// The order is the same for equal tries: filters by depth-first walk, keys ascending.
    /// Allocates nothing for topics of up to 32 levels. Wildcards at the first level do not match
    /// a topic that begins with `$` `[MQTT-4.7.2-1]`.
    ///
    /// # Errors
    /// [`VisitLimit`] if the walk would visit more than `nodes_max` nodes
    /// ([`VISITED_NODES_MAX`] by default).
    pub fn matches(
        &self,
        topic: &str,
        nodes_max: usize,
        mut report: impl FnMut(&K, &V),
    ) -> Result<usize, VisitLimit> {
        let mut pending = Pending::new();
        pending.push((&self.root, Some(topic)));
        let mut wildcards = !topic.starts_with('$');
        let mut visited = 0;
        while let Some((node, rest)) = pending.pop() {
            visited += 1;
            if visited > nodes_max {
                return Err(VisitLimit { nodes_max });
            }
            if wildcards {
                node.below.for_each(&mut report);
            }
            match rest {
                None => node.here.for_each(&mut report),
                Some(rest) => {
                    let (level, rest) = first_level(rest);
                    if wildcards && let Some(plus) = &node.plus {
                        pending.push((plus, rest));
                    }
                    if let Some(child) = node.children.get(level) {
                        pending.push((child, rest));
                    }
                }
            }
            wildcards = true;
        }
        Ok(visited)
    }

    /// All entries, filters in the order of their levels (each compared as bytes, a prefix
    /// first), keys ascending. Of a shared filter the part after the group is given.
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter::new(&self.root)
    }

    fn subscribers_at(&self, filter: &Filter) -> Option<&Entries<K, V>> {
        let mut node = &*self.root;
        let mut filter = filter.topic_filter();
        loop {
            let (level, rest) = first_level(filter);
            if level == "#" {
                return Some(&node.below);
            }
            node = node.child(level)?;
            match rest {
                Some(rest) => filter = rest,
                None => return Some(&node.here),
            }
        }
    }
}

/// The first level and what follows its `/`, if one follows.
fn first_level(text: &str) -> (&str, Option<&str>) {
    match text.as_bytes().iter().position(|byte| *byte == b'/') {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

impl<K: Clone + Ord, V: Clone> Node<K, V> {
    fn child(&self, level: &str) -> Option<&Self> {
        let child = if level == "+" {
            self.plus.as_ref()
        } else {
            self.children.get(level)
        };
        child.map(|child| &**child)
    }

    fn child_or_insert(&mut self, level: &str) -> &mut Self {
        let child = if level == "+" {
            self.plus.get_or_insert_default()
        } else {
            self.children.get_or_insert(level)
        };
        Arc::make_mut(child)
    }

    /// Recurses once per level, of which a filter has at most [`crate::LEVELS_MAX`].
    fn remove(&mut self, filter: &str, key: &K) -> Option<V> {
        let (level, rest) = first_level(filter);
        if level == "#" {
            return self.below.remove(key);
        }
        let slot = if level == "+" {
            self.plus.as_mut()
        } else {
            self.children.get_mut(level)
        };
        let child = Arc::make_mut(slot?);
        let removed = match rest {
            Some(rest) => child.remove(rest, key),
            None => child.here.remove(key),
        };
        if child.is_empty() {
            if level == "+" {
                self.plus = None;
            } else {
                self.children.remove(level);
            }
        }
        removed
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty()
            && self.plus.is_none()
            && self.here.is_empty()
            && self.below.is_empty()
    }
}
