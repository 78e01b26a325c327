//! The index of retained messages.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::{Filter, Topic};

/// A map of topics that finds those a filter matches.
#[derive(Clone, Debug)]
pub struct TopicTree<V> {
    root: Node<V>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Node<V> {
    entry: Option<(Topic, V)>,
    children: BTreeMap<Box<str>, Node<V>>,
}

impl<V> Default for TopicTree<V> {
    fn default() -> Self {
        Self {
            root: Node::default(),
            len: 0,
        }
    }
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Self {
            entry: None,
            children: BTreeMap::new(),
        }
    }
}

impl<V> TopicTree<V> {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many topics it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no topic.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets the value of a topic and returns the one it replaces. The topic is kept as it is:
    /// [`Topic::detach`] it first if it shares a read buffer.
    pub fn insert(&mut self, topic: Topic, value: V) -> Option<V> {
        let mut node = &mut self.root;
        for level in topic.levels() {
            if !node.children.contains_key(level) {
                node.children.insert(Box::from(level), Node::default());
            }
            node = node
                .children
                .get_mut(level)
                .expect("inserted just before if it was missing");
        }
        let replaced = node.entry.replace((topic, value)).map(|(_, value)| value);
        self.len += usize::from(replaced.is_none());
        replaced
    }

    /// Removes a topic and returns its value; branches left without topics go too.
    pub fn remove(&mut self, topic: &Topic) -> Option<V> {
        let removed = self.root.remove(Some(topic.as_str()))?;
        self.len -= 1;
        Some(removed)
    }

    /// The value of a topic.
    pub fn get(&self, topic: &Topic) -> Option<&V> {
        let mut node = &self.root;
        for level in topic.levels() {
            node = node.children.get(level)?;
        }
        node.entry.as_ref().map(|(_, value)| value)
    }

    /// The value of a topic, to be changed in place.
    pub fn get_mut(&mut self, topic: &Topic) -> Option<&mut V> {
        let mut node = &mut self.root;
        for level in topic.levels() {
            node = node.children.get_mut(level)?;
        }
        node.entry.as_mut().map(|(_, value)| value)
    }

    /// Reports the topics that the filter matches in the order of their levels, a prefix first,
    /// until `report` breaks; says whether it did. Of a shared filter, what follows the share name
    /// decides. Wildcards at the first level leave `$`-topics alone `[MQTT-4.7.2-1]`.
    pub fn matching(
        &self,
        filter: &Filter,
        mut report: impl FnMut(&Topic, &V) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.root
            .matching(Some(filter.topic_filter()), true, &mut report)
    }

    /// Reports all topics, `$`-topics included, in the order of their levels.
    pub fn for_each(&self, mut report: impl FnMut(&Topic, &V)) {
        let all = self.root.all(false, &mut |topic, value| {
            report(topic, value);
            ControlFlow::Continue(())
        });
        debug_assert!(all.is_continue());
    }
}

/// The walks below recurse once per level, of which a topic has at most [`crate::LEVELS_MAX`].
impl<V> Node<V> {
    fn remove(&mut self, topic: Option<&str>) -> Option<V> {
        let Some(topic) = topic else {
            return self.entry.take().map(|(_, value)| value);
        };
        let (level, rest) = split(topic);
        let child = self.children.get_mut(level)?;
        let removed = child.remove(rest);
        if child.entry.is_none() && child.children.is_empty() {
            self.children.remove(level);
        }
        removed
    }

    fn matching(
        &self,
        filter: Option<&str>,
        is_root: bool,
        report: &mut impl FnMut(&Topic, &V) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let Some(filter) = filter else {
            return self.report(report);
        };
        match split(filter) {
            ("#", _) => self.all(is_root, report),
            ("+", rest) => {
                for (level, child) in &self.children {
                    if !(is_root && level.starts_with('$')) {
                        child.matching(rest, false, report)?;
                    }
                }
                ControlFlow::Continue(())
            }
            (level, rest) => match self.children.get(level) {
                Some(child) => child.matching(rest, false, report),
                None => ControlFlow::Continue(()),
            },
        }
    }

    fn all(
        &self,
        skip_dollar: bool,
        report: &mut impl FnMut(&Topic, &V) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.report(report)?;
        for (level, child) in &self.children {
            if !(skip_dollar && level.starts_with('$')) {
                child.all(false, report)?;
            }
        }
        ControlFlow::Continue(())
    }

    fn report(&self, report: &mut impl FnMut(&Topic, &V) -> ControlFlow<()>) -> ControlFlow<()> {
        match &self.entry {
            Some((topic, value)) => report(topic, value),
            None => ControlFlow::Continue(()),
        }
    }
}

fn split(levels: &str) -> (&str, Option<&str>) {
    match levels.split_once('/') {
        Some((level, rest)) => (level, Some(rest)),
        None => (levels, None),
    }
}
