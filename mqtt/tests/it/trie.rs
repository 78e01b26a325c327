//! The subscription trie against a list of filters.

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use tidewire_mqtt::*;

use crate::bytes_of::{filter, topic};

type Model = BTreeMap<(Filter, u16), u32>;

fn level(wildcards: bool) -> impl Strategy<Value = String> {
    let names: Vec<String> = (0..12)
        .map(|n| format!("l{n}"))
        .chain(["", "$SYS", "é"].map(str::to_owned))
        .collect();
    let names = prop::sample::select(names);
    if wildcards {
        prop_oneof![3 => names, 1 => Just("+".to_owned())].boxed()
    } else {
        names.boxed()
    }
}

fn a_filter() -> impl Strategy<Value = Filter> {
    (vec(level(true), 1..4), any::<bool>()).prop_map(|(mut levels, hash)| {
        if hash {
            levels.push("#".to_owned());
        }
        let text = levels.join("/");
        filter(if text.is_empty() { "/" } else { &text })
    })
}

fn a_topic() -> impl Strategy<Value = Topic> {
    vec(level(false), 1..5).prop_map(|levels| {
        let text = levels.join("/");
        topic(if text.is_empty() { "/" } else { &text })
    })
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Filter, u16, u32),
    /// Removes the entry at this place of the model, or one that is not there.
    Remove(prop::sample::Index),
    RemoveOther(Filter, u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    vec(
        prop_oneof![
            4 => (a_filter(), 0..20_u16, any::<u32>()).prop_map(|(f, k, v)| Step::Insert(f, k, v)),
            2 => any::<prop::sample::Index>().prop_map(Step::Remove),
            1 => (a_filter(), 0..20_u16).prop_map(|(f, k)| Step::RemoveOther(f, k)),
        ],
        0..150,
    )
}

fn apply(step: &Step, trie: &mut Trie<u16, u32>, model: &mut Model) -> Result<(), TestCaseError> {
    match step {
        Step::Insert(filter, key, value) => {
            prop_assert_eq!(
                trie.insert(filter, *key, *value),
                model.insert((filter.clone(), *key), *value)
            );
        }
        Step::Remove(at) if !model.is_empty() => {
            let (filter, key) = model
                .keys()
                .nth(at.index(model.len()))
                .expect("in range")
                .clone();
            prop_assert_eq!(trie.remove(&filter, &key), model.remove(&(filter, key)));
        }
        Step::Remove(_) => {}
        Step::RemoveOther(filter, key) => {
            prop_assert_eq!(
                trie.remove(filter, key),
                model.remove(&(filter.clone(), *key))
            );
        }
    }
    Ok(())
}

fn assert_same(
    trie: &Trie<u16, u32>,
    model: &Model,
    topics: &[Topic],
) -> Result<(), TestCaseError> {
    prop_assert_eq!(trie.len(), model.len());
    for topic in topics {
        let mut found = Vec::new();
        trie.matches(topic, usize::MAX, |key, value| found.push((*key, *value)))
            .expect("no limit");
        found.sort_unstable();
        let mut expected: Vec<(u16, u32)> = model
            .iter()
            .filter(|((filter, _), _)| filter.matches(topic))
            .map(|((_, key), value)| (*key, *value))
            .collect();
        expected.sort_unstable();
        prop_assert_eq!(found, expected, "{}", topic);
    }
    let mut expected: Vec<(Vec<&str>, u16, u32)> = model
        .iter()
        .map(|((filter, key), value)| (filter.split('/').collect(), *key, *value))
        .collect();
    expected.sort();
    let listed: Vec<(Filter, u16, u32)> = trie.iter().map(|(f, k, v)| (f, *k, *v)).collect();
    let listed: Vec<(Vec<&str>, u16, u32)> = listed
        .iter()
        .map(|(f, k, v)| (f.split('/').collect(), *k, *v))
        .collect();
    prop_assert_eq!(listed, expected, "iteration in order");
    for ((filter, key), value) in model {
        prop_assert_eq!(trie.get(filter, key), Some(value));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_trie_agrees_with_a_list_of_filters_and_snapshots_stay(
        before in steps(),
        after in steps(),
        topics in vec(a_topic(), 1..12),
    ) {
        let (mut trie, mut model) = (Trie::new(), Model::new());
        for step in &before {
            apply(step, &mut trie, &mut model)?;
        }
        assert_same(&trie, &model, &topics)?;

        let (snapshot, snapshot_model) = (trie.clone(), model.clone());
        for step in &after {
            apply(step, &mut trie, &mut model)?;
        }

        assert_same(&trie, &model, &topics)?;
        assert_same(&snapshot, &snapshot_model, &topics)?;
    }

    #[test]
    fn removing_everything_leaves_a_single_node(filters in vec((a_filter(), 0..20_u16), 0..80)) {
        let mut trie = Trie::new();
        for (filter, key) in &filters {
            trie.insert(filter, *key, ());
        }
        for (filter, key) in &filters {
            trie.remove(filter, key);
        }

        prop_assert!(trie.is_empty());
        for (filter, _) in &filters {
            // Where branches were left over, a topic below them would visit them.
            let name = filter.replace(['+', '#'], "x");
            prop_assert_eq!(trie.matches(&name, usize::MAX, |_, _| {}), Ok(1));
        }
    }
}

#[test]
fn a_walk_ends_at_the_visit_limit() {
    let mut trie = Trie::new();
    for depth in 1..=12 {
        // 2^depth combinations of a and + under each other.
        for bits in 0..1_u32 << depth {
            let levels: Vec<&str> = (0..depth)
                .map(|at| if bits >> at & 1 == 0 { "a" } else { "+" })
                .collect();
            trie.insert(&filter(&levels.join("/")), bits, ());
        }
    }
    let topic = ["a"; 12].join("/");
    let nodes = 1 + (1..=12).map(|depth| 1_usize << depth).sum::<usize>();

    assert_eq!(trie.matches(&topic, nodes, |_, _| {}), Ok(nodes));
    let mut reported = 0;
    let ended = trie.matches(&topic, nodes - 1, |_, _| reported += 1);
    assert_eq!(
        ended,
        Err(VisitLimit {
            nodes_max: nodes - 1
        })
    );
    assert!(reported <= nodes);
}

#[test]
fn a_filter_with_many_keys_and_a_node_with_many_children_stay_correct() {
    let mut trie = Trie::new();
    for n in 0..3_000_u32 {
        trie.insert(&filter("fleet/#"), n, n);
        trie.insert(&filter(&format!("cmd/{n}/#")), n, n);
    }
    let snapshot = trie.clone();
    for n in (0..3_000).step_by(2) {
        assert_eq!(trie.remove(&filter("fleet/#"), &n), Some(n));
        assert_eq!(trie.remove(&filter(&format!("cmd/{n}/#")), &n), Some(n));
    }

    assert_eq!((trie.len(), snapshot.len()), (3_000, 6_000));
    assert_eq!(trie.filter_len(&filter("fleet/#")), 1_500);
    assert_eq!(snapshot.filter_len(&filter("fleet/#")), 3_000);
    assert_eq!(
        trie.entries_of(&filter("fleet/#"))
            .map(|(key, _)| *key)
            .take(2)
            .collect::<Vec<_>>(),
        [1, 3]
    );
    let hits = |trie: &Trie<u32, u32>, topic: &str| {
        let mut hits = Vec::new();
        trie.matches(topic, VISITED_NODES_MAX, |key, _| hits.push(*key))
            .expect("few nodes");
        hits
    };
    assert_eq!(hits(&trie, "cmd/2999/reboot"), [2_999]);
    assert_eq!(hits(&trie, "cmd/2998/reboot"), [] as [u32; 0]);
    assert_eq!(hits(&snapshot, "cmd/2998/reboot"), [2_998]);
    assert_eq!(hits(&trie, "fleet/x").len(), 1_500);
}

#[test]
fn mqtt_4_7_2_1_wildcards_at_the_first_level_leave_dollar_topics_alone() {
    let mut trie = Trie::new();
    for (key, text) in ["#", "+/x", "$SYS/#", "$SYS/+"].into_iter().enumerate() {
        trie.insert(&filter(text), key, ());
    }

    let mut found = Vec::new();
    trie.matches("$SYS/x", VISITED_NODES_MAX, |key, ()| found.push(*key))
        .expect("few nodes");

    found.sort_unstable();
    assert_eq!(found, [2, 3]);
}

#[test]
fn a_shared_filter_is_found_by_what_follows_its_group() {
    let mut trie = Trie::new();
    trie.insert(&filter("$share/g/a/+"), "g", ());

    let mut found = 0;
    trie.matches("a/b", VISITED_NODES_MAX, |_, ()| found += 1)
        .expect("few nodes");

    assert_eq!(found, 1);
    assert_eq!(
        trie.iter().map(|(filter, ..)| filter).collect::<Vec<_>>(),
        [filter("a/+")]
    );
    assert_eq!(trie.remove(&filter("$share/g/a/+"), &"g"), Some(()));
}

#[test]
fn the_deepest_filter_is_inserted_matched_listed_and_removed() {
    let text = "/".repeat(LEVELS_MAX - 1);
    let mut trie = Trie::new();
    trie.insert(&filter(&text), 1, ());

    assert_eq!(
        trie.matches(&text, VISITED_NODES_MAX, |_, ()| {}),
        Ok(LEVELS_MAX + 1)
    );
    assert_eq!(trie.iter().count(), 1);
    assert_eq!(trie.clone().remove(&filter(&text), &1), Some(()));
}

#[test]
fn removing_what_is_not_there_copies_nothing_out_of_a_snapshot() {
    struct Counted<'a>(&'a Cell<u32>);
    impl Clone for Counted<'_> {
        fn clone(&self) -> Self {
            self.0.set(self.0.get() + 1);
            Self(self.0)
        }
    }
    let clones = Cell::new(0);
    let mut trie = Trie::new();
    trie.insert(&filter("a/b"), 1, Counted(&clones));
    let _snapshot = trie.clone();

    assert!(trie.remove(&filter("a/b"), &2).is_none());
    assert!(trie.remove(&filter("a/b/c"), &1).is_none());
    assert_eq!(clones.get(), 0);

    assert!(trie.remove(&filter("a/b"), &1).is_some());
    assert!(clones.get() > 0);
}
