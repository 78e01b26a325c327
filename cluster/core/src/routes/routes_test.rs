//! The routes group's state, entry by entry.

use super::*;
use crate::NodeEpoch;

const SHARD: Source = Source::Shard(ShardId(1));
const NODE: Source = Source::Node(NodeEpoch(5));

fn filter(text: &str) -> Filter {
    text.try_into().unwrap()
}

fn delta(text: &str, wanted: bool, version: u64) -> RouteDelta {
    RouteDelta {
        filter: filter(text),
        wanted,
        version: RouteVersion(version),
    }
}

fn deltas(source: Source, rows: &[(&str, bool, u64)]) -> RoutesCommand {
    let rows = rows.iter();
    RoutesCommand::Deltas(Deltas {
        source,
        rows: rows.map(|(text, w, v)| delta(text, *w, *v)).collect(),
    })
}

fn done(version: u64) -> RoutesAnswer {
    RoutesAnswer::Done {
        version: RouteVersion(version),
    }
}

fn filters(routes: &Routes, source: Source) -> Vec<&str> {
    routes.filters(source).map(Filter::as_str).collect()
}

/// A trie kept by the effects holds what the state holds.
fn mirrored(routes: &mut Routes, trie: &mut mqtt::Trie<Source, ()>) {
    while let Some(effect) = routes.poll_effect() {
        match effect {
            RoutesEffect::Add { filter, source } => {
                assert_eq!(trie.insert(&filter, source, ()), None, "{filter} twice");
            }
            RoutesEffect::Remove { filter, source } => {
                assert!(trie.remove(&filter, &source).is_some(), "{filter} unknown");
            }
            RoutesEffect::Applied { .. } => {}
        }
    }
    assert_eq!(trie.len(), routes.len());
    for source in routes.sources() {
        for filter in routes.filters(source) {
            assert!(trie.get(filter, &source).is_some(), "{filter} is missing");
        }
    }
}

#[test]
fn rows_that_are_not_newer_are_ignored_one_by_one() {
    let mut routes = Routes::new(100);

    let first = routes.apply(1, &deltas(SHARD, &[("a", true, 1), ("b", true, 2)]));
    // A later leader of the shard sends row 2 again and row 3 after it.
    let second = routes.apply(2, &deltas(SHARD, &[("b", true, 2), ("b", false, 3)]));
    // What an earlier leader had sent comes last.
    let late = routes.apply(3, &deltas(SHARD, &[("b", true, 2)]));

    assert_eq!((first, second, late), (done(2), done(3), done(3)));
    assert_eq!(filters(&routes, SHARD), ["a"]);
}

#[test]
fn the_trie_of_a_node_follows_the_rows() {
    let mut routes = Routes::new(100);
    let mut trie = mqtt::Trie::new();

    routes.apply(1, &deltas(SHARD, &[("a", true, 1), ("a", true, 2)]));
    routes.apply(2, &deltas(NODE, &[("a", true, 1), ("b/#", true, 2)]));
    mirrored(&mut routes, &mut trie);
    routes.apply(3, &deltas(NODE, &[("b/#", false, 3), ("c", false, 4)]));
    mirrored(&mut routes, &mut trie);

    assert_eq!(trie.len(), 2);
}

#[test]
fn the_rows_of_an_ended_epoch_vanish_with_one_entry_and_never_come_back() {
    let mut routes = Routes::new(100);
    let mut trie = mqtt::Trie::new();
    routes.apply(1, &deltas(NODE, &[("a", true, 1), ("b", true, 2)]));
    routes.apply(2, &deltas(SHARD, &[("a", true, 1)]));
    let view = EpochView {
        index: 40,
        begun: NodeEpoch(8),
        current: [NodeEpoch(8)].into(),
    };

    routes.apply(3, &RoutesCommand::Epochs(view));
    let late = routes.apply(4, &deltas(NODE, &[("c", true, 3)]));
    let next = routes.apply(5, &deltas(Source::Node(NodeEpoch(8)), &[("d", true, 1)]));

    assert_eq!((late, next), (RoutesAnswer::Ended, done(1)));
    mirrored(&mut routes, &mut trie);
    assert_eq!(routes.len(), 2);
    // An older view, delayed.
    let older = EpochView {
        index: 30,
        begun: NodeEpoch(5),
        current: [NodeEpoch(5)].into(),
    };
    routes.apply(6, &RoutesCommand::Epochs(older));
    assert_eq!(
        routes.apply(7, &deltas(NODE, &[("c", true, 3)])),
        RoutesAnswer::Ended
    );
}

#[test]
fn rows_beyond_the_bound_wait_at_their_source() {
    let mut routes = Routes::new(2);

    let rows = [("a", true, 1), ("b", true, 2), ("c", true, 3)];
    let full = routes.apply(1, &deltas(SHARD, &rows));
    let version = RouteVersion(2);
    assert_eq!(full, RoutesAnswer::Full { version });

    routes.apply(2, &deltas(SHARD, &[("c", true, 3)]));
    assert_eq!(filters(&routes, SHARD), ["a", "b"]);
    // Room comes from another source; a removal needs none.
    let mut other = Routes::new(2);
    other.apply(1, &deltas(NODE, &[("a", true, 1), ("b", true, 2)]));
    other.apply(2, &deltas(NODE, &[("a", false, 3)]));
    assert_eq!(other.apply(3, &deltas(SHARD, &[("c", true, 3)])), done(3));
}

#[test]
fn a_recovered_shard_replaces_its_rows_without_a_gap() {
    let mut routes = Routes::new(100);
    let mut trie = mqtt::Trie::new();
    let second = |count| crate::Rising::new(crate::Incarnation(1), count).get();
    routes.apply(1, &deltas(SHARD, &[("kept", true, 1), ("lost", true, 9)]));

    // It counts from the beginning, above everything that it counted before.
    let again = deltas(SHARD, &[("kept", true, second(1))]);
    assert_eq!(routes.apply(2, &again), done(second(1)));
    assert_eq!(filters(&routes, SHARD), ["kept", "lost"]);
    let from = RouteVersion(second(0));
    let shard = ShardId(1);
    routes.apply(3, &RoutesCommand::Restated { shard, from });

    assert_eq!(filters(&routes, SHARD), ["kept"]);
    mirrored(&mut routes, &mut trie);
}

#[test]
fn each_entry_says_how_far_its_source_is_applied() {
    let mut routes = Routes::new(100);

    routes.apply(4, &deltas(SHARD, &[("a", true, 6)]));

    let last = std::iter::from_fn(|| routes.poll_effect()).last();
    let expected = RoutesEffect::Applied {
        source: SHARD,
        version: RouteVersion(6),
        index: 4,
    };
    assert_eq!(last, Some(expected));
}

#[test]
fn restored_routes_answer_as_those_before() {
    let mut routes = Routes::new(3);
    routes.apply(1, &deltas(SHARD, &[("a", true, 1), ("b", true, 2)]));
    routes.apply(2, &deltas(NODE, &[("a", true, 7), ("a", false, 8)]));
    let view = EpochView {
        index: 4,
        begun: NodeEpoch(5),
        current: [NodeEpoch(5)].into(),
    };
    routes.apply(3, &RoutesCommand::Epochs(view));

    let mut restored = Routes::restore(3, routes.index(), routes.epochs().clone());
    for source in routes.sources() {
        for filter in routes.filters(source) {
            let version = routes.version(source, filter).unwrap();
            restored.restore_row(source, filter.clone(), version);
        }
        restored.restore_source(source, routes.applied(source));
    }

    assert_eq!(restored.poll_effect(), None);
    assert_eq!(restored.len(), 2);
    assert!(restored.is_known(NODE));
    assert_eq!(restored.applied(NODE), RouteVersion(8));
    let late = deltas(Source::Node(NodeEpoch(4)), &[("c", true, 1)]);
    assert_eq!(restored.apply(4, &late), RoutesAnswer::Ended);
    // The second row finds no room, as without the restart.
    let more = deltas(SHARD, &[("c", true, 3), ("d", true, 4)]);
    let full = RoutesAnswer::Full {
        version: RouteVersion(3),
    };
    assert_eq!(restored.apply(5, &more), full);
}
