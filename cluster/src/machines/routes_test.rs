use cluster_core::{
    Deltas, EpochView, NodeEpoch, RouteDelta, RouteVersion, RoutesCommand, RoutesEffect, ShardId,
    Source, WallMs,
};
use mqtt::Filter;
use rand::Rng;
use rand::rngs::StdRng;

use super::kept_test::{Kept, crashes_change_nothing, harmed_rows_are_named, restored};
use crate::{Machine, RoutesConfig, RoutesEntry, RoutesMachine};

const CONFIG: RoutesConfig = RoutesConfig { rows_max: 12 };
const FILTERS: [&str; 6] = ["a", "a/+", "b/#", "$share/g/a", "c", "ü"];

fn command(rng: &mut StdRng, count: usize) -> RoutesCommand {
    let count = count as u64;
    let from = RouteVersion(rng.random_range(0..=count * 4));
    match rng.random_range(0..8) {
        0 => RoutesCommand::Restated {
            shard: ShardId(rng.random_range(0..2)),
            from,
        },
        1 => RoutesCommand::Epochs(EpochView {
            index: count.saturating_sub(rng.random_range(0..3)),
            begun: NodeEpoch(count / 20 + 2),
            current: [NodeEpoch(count / 20 + 1), NodeEpoch(count / 20 + 2)].into(),
        }),
        _ => {
            let source = if rng.random_bool(0.5) {
                Source::Shard(ShardId(rng.random_range(0..2)))
            } else {
                Source::Node(NodeEpoch(rng.random_range(count / 20..count / 20 + 3)))
            };
            let rows = (0..rng.random_range(1..4)).map(|at| RouteDelta {
                filter: filter(FILTERS[rng.random_range(0..FILTERS.len())]),
                wanted: rng.random_bool(0.7),
                version: RouteVersion(count * 4 + at),
            });
            let rows = rows.collect();
            RoutesCommand::Deltas(Deltas { source, rows })
        }
    }
}

fn filter(text: &str) -> Filter {
    text.try_into().unwrap()
}

fn entry(command: RoutesCommand) -> Vec<u8> {
    let time = WallMs(0);
    RoutesEntry { time, command }.encode()
}

#[test]
fn a_crash_changes_nothing_of_the_routes() {
    for seed in 0..60 {
        let (crashed, spared) = crashes_change_nothing::<RoutesMachine>(
            &CONFIG,
            seed,
            |rng, count, _| entry(command(rng, count)),
            |_, _| {},
        );
        harmed_rows_are_named::<RoutesMachine>(&CONFIG, &spared.rows(), seed);
        let (crashed, spared) = (crashed.machine.routes(), spared.machine.routes());
        assert_eq!(crashed.len(), spared.len());
        assert!(crashed.sources().eq(spared.sources()));
        for source in spared.sources() {
            assert_eq!(crashed.applied(source), spared.applied(source));
            assert!(crashed.filters(source).eq(spared.filters(source)));
        }
    }
}

fn two_sources() -> Kept<RoutesMachine> {
    let mut kept = Kept::<RoutesMachine>::new(CONFIG);
    let sources = [
        Source::Node(NodeEpoch(0x0102)),
        Source::Shard(ShardId(0x0304)),
    ];
    for source in sources {
        let rows = vec![RouteDelta {
            filter: filter("a/+"),
            wanted: true,
            version: RouteVersion(5),
        }];
        kept.apply(&entry(RoutesCommand::Deltas(Deltas { source, rows })));
    }
    kept.apply(&entry(RoutesCommand::Epochs(EpochView {
        index: 4,
        begun: NodeEpoch(0x0102),
        current: [NodeEpoch(0x0102)].into(),
    })));
    kept.flush();
    kept
}

#[test]
fn the_rows_of_the_routes_have_these_bytes() {
    let kept = two_sources();

    let rows = kept.rows();
    let rows: Vec<(u8, &[u8], &[u8])> = rows
        .iter()
        .map(|row| (row.kind, &row.key[..], &row.value[..]))
        .collect();
    let golden: [(u8, &[u8], &[u8]); 5] = [
        (1, b"", b"\x01\x03\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x02\x01\0\0\0\0\0\0\x01\0\0\0\x02\x01\0\0\0\0\0\0"),
        (2, b"\x01\x03\x04", b"\x01\x05\0\0\0\0\0\0\0"),
        (2, b"\x02\0\0\0\0\0\0\x01\x02", b"\x01\x05\0\0\0\0\0\0\0"),
        (3, b"\x01\x03\x04a/+\0", b"\x01\x05\0\0\0\0\0\0\0"),
        (
            3,
            b"\x02\0\0\0\0\0\0\x01\x02a/+\0",
            b"\x01\x05\0\0\0\0\0\0\0",
        ),
    ];
    assert_eq!(rows, golden);
}

#[test]
fn the_effects_of_the_routes_reach_the_host() {
    let mut kept = two_sources();

    let mut effects = Vec::new();
    while let Some(effect) = kept.machine.routes_mut().poll_effect() {
        effects.push(effect);
    }

    assert_eq!(effects.len(), 4);
    assert!(matches!(effects[0], RoutesEffect::Add { .. }));
    kept.crash();
    assert_eq!(kept.machine.routes_mut().poll_effect(), None);
    assert!(kept.machine.changes().is_empty());
}

#[test]
fn a_damaged_row_of_the_routes_is_named() {
    let kept = two_sources();
    let error = |harm: &dyn Fn(&mut Vec<storage::state::Row>)| {
        let mut rows = kept.rows();
        harm(&mut rows);
        let error = restored::<RoutesMachine>(&CONFIG, rows).unwrap_err();
        error.to_string()
    };

    assert_eq!(
        error(&|rows| rows[3].value.truncate(5)),
        r#"row 3 "\x01\x03\x04a/+\x00" of the routes: ends 4 bytes early"#
    );
    assert_eq!(
        error(&|rows| rows[3].key.truncate(4)),
        r#"row 3 "\x01\x03\x04a" of the routes: ends 1 bytes early"#
    );
    assert_eq!(
        error(&|rows| drop(rows.remove(1))),
        r#"row 3 "\x01\x03\x04a/+\x00" of the routes: its source has no row"#
    );
    assert_eq!(
        error(&|rows| drop(rows.remove(0))),
        r#"row 2 "\x01\x03\x04" of the routes: no head stands before it"#
    );
}
