//! The retained index against a sorted map.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use proptest::collection::vec;
use proptest::prelude::*;
use tidewire_mqtt::*;

use crate::bytes_of::{filter, topic};

fn text(levels: &'static [&'static str]) -> impl Strategy<Value = String> {
    vec(prop::sample::select(levels), 1..4).prop_map(|levels| {
        let text = levels.join("/");
        if text.is_empty() {
            "/".to_owned()
        } else {
            text
        }
    })
}

fn a_topic() -> impl Strategy<Value = Topic> {
    text(&["a", "b", "", "$SYS", "!"]).prop_map(|text| topic(&text))
}

fn a_filter() -> impl Strategy<Value = Filter> {
    (text(&["a", "b", "", "$SYS", "!", "+"]), any::<bool>())
        .prop_map(|(text, hash)| filter(&if hash { text + "/#" } else { text }))
}

fn found(tree: &TopicTree<u32>, filter: &Filter) -> Vec<(Topic, u32)> {
    let mut found = Vec::new();
    let end = tree.matching(filter, |topic, value| {
        found.push((topic.clone(), *value));
        ControlFlow::Continue(())
    });
    assert!(end.is_continue());
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_tree_agrees_with_a_map(
        steps in vec((a_topic(), prop::option::weighted(0.7, any::<u32>())), 0..80),
        filters in vec(a_filter(), 1..10),
    ) {
        let (mut tree, mut model) = (TopicTree::new(), BTreeMap::new());
        for (topic, value) in steps {
            match value {
                Some(value) => {
                    prop_assert_eq!(tree.insert(topic.clone(), value), model.insert(topic, value));
                }
                None => prop_assert_eq!(tree.remove(&topic), model.remove(&topic)),
            }
        }

        prop_assert_eq!(tree.len(), model.len());
        for (topic, value) in &model {
            prop_assert_eq!(tree.get(topic), Some(value));
        }
        for filter in filters.iter().chain([&filter("#")]) {
            let mut expected: Vec<(Topic, u32)> = model
                .iter()
                .filter(|(topic, _)| filter.matches(topic))
                .map(|(topic, value)| (topic.clone(), *value))
                .collect();
            expected.sort_by(|(a, _), (b, _)| a.levels().cmp(b.levels()));
            prop_assert_eq!(found(&tree, filter), expected, "{}", filter);
        }
        let mut all = 0;
        tree.for_each(|topic, value| {
            assert_eq!(model.get(topic), Some(value));
            all += 1;
        });
        prop_assert_eq!(all, model.len());
    }
}

#[test]
fn a_break_ends_the_walk_and_is_handed_back() {
    let mut tree = TopicTree::new();
    for name in ["a", "a/b", "c"] {
        tree.insert(topic(name), 0);
    }
    for pattern in ["#", "+/#"] {
        let mut seen = Vec::new();
        let end = tree.matching(&filter(pattern), |topic, _| {
            seen.push(topic.clone());
            if seen.len() == 2 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        assert!(end.is_break());
        assert_eq!(seen, [topic("a"), topic("a/b")]);
    }
}

#[test]
fn get_mut_changes_a_value_in_place() {
    let mut tree = TopicTree::new();
    tree.insert(topic("a/b"), 1);

    *tree.get_mut(&topic("a/b")).expect("inserted") += 1;

    assert_eq!(tree.get(&topic("a/b")), Some(&2));
    assert_eq!(tree.get_mut(&topic("a")), None);
}

#[test]
fn removing_a_topic_leaves_those_below_it() {
    let mut tree = TopicTree::new();
    tree.insert(topic("a"), 1);
    tree.insert(topic("a/b"), 2);

    assert_eq!(tree.remove(&topic("a")), Some(1));
    assert_eq!(tree.remove(&topic("a")), None);

    assert_eq!(found(&tree, &filter("#")), [(topic("a/b"), 2)]);
}
