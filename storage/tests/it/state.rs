//! The state file of a shard, whole and damaged, against a model over crashes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tidewire_storage::fs::{Fault, FaultFs, FaultKind, Fs, Operation, RealFs};
use tidewire_storage::raft::LogId;
use tidewire_storage::state::{Applied, Changes, Config, Defects, Error, Row, StateFile};

const FILE: &str = "/data/shards/7.redb";
const VERSION: u32 = 3;
const SEEDS: u64 = 60;
const LIVES: usize = 5;

type Rows = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

fn open(fs: &FaultFs) -> StateFile {
    try_open(fs, Config::new(VERSION)).expect("it opens")
}

fn try_open(fs: &FaultFs, config: Config) -> Result<StateFile, Error> {
    StateFile::open(Arc::new(fs.clone()), Path::new(FILE), config)
}

fn applied(index: u64) -> Applied {
    Applied {
        id: LogId {
            index,
            term: 4,
            leader: 2,
        },
        opaque: Bytes::from(format!("membership {}", index / 10)),
    }
}

fn put(kind: u8, key: &[u8], value: &[u8]) -> Changes {
    let mut changes = Changes::default();
    changes.put(kind, key, value);
    changes
}

fn read(state: &StateFile) -> Result<(Option<Applied>, Rows), Error> {
    let snapshot = state.snapshot()?;
    let rows: Result<Vec<Row>, Error> = snapshot.rows()?.collect();
    let rows = rows?
        .into_iter()
        .map(|row| ((row.kind, row.key.to_vec()), row.value.to_vec()))
        .collect();
    Ok((snapshot.applied().cloned(), rows))
}

#[test]
fn rows_come_back_by_kind_in_the_order_of_their_keys() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let path = scratch.path().join("shards/1.redb");
    let state = StateFile::open(Arc::new(RealFs), &path, Config::new(VERSION)).expect("it opens");
    let mut changes = Changes::default();
    for (kind, key) in [
        (2, "b"),
        (1, "z"),
        (2, "a"),
        (255, "y"),
        (2, ""),
        (1, "gone"),
    ] {
        changes.put(kind, key.as_bytes(), format!("{kind}{key}").as_bytes());
    }
    changes.delete(1, b"gone");
    changes.delete(9, b"never there");
    state.apply(&changes, &applied(5)).expect("possible");
    assert_eq!(state.flush().expect("possible"), Some(applied(5)));
    drop(state);

    let state = StateFile::open(Arc::new(RealFs), &path, Config::new(VERSION)).expect("it opens");

    assert_eq!(state.applied(), Some(applied(5)));
    assert_eq!(state.flushed(), Some(applied(5)));
    let names = |rows: tidewire_storage::state::Rows| -> Vec<String> {
        rows.map(|row| String::from_utf8(row.expect("readable").value.to_vec()).expect("text"))
            .collect()
    };
    let snapshot = state.snapshot().expect("possible");
    assert_eq!(
        names(snapshot.rows().expect("possible")),
        ["1z", "2", "2a", "2b", "255y"]
    );
    assert_eq!(
        names(snapshot.rows_of(2, b"").expect("possible")),
        ["2", "2a", "2b"]
    );
    assert_eq!(names(snapshot.rows_of(2, b"aa").expect("possible")), ["2b"]);
    assert_eq!(
        names(snapshot.rows_of(255, b"").expect("possible")),
        ["255y"]
    );
    assert_eq!(
        state.get(2, b"a").expect("possible"),
        Some(Bytes::from_static(b"2a"))
    );
    assert_eq!(state.get(2, b"c").expect("possible"), None);
}

#[test]
fn what_was_not_flushed_is_gone_after_a_crash_and_nothing_else() {
    let fs = FaultFs::new(1);
    let state = open(&fs);
    assert_eq!(state.applied(), None);
    state
        .apply(&put(1, b"a", b"old"), &applied(1))
        .expect("possible");
    state.flush().expect("possible");
    state
        .apply(&put(1, b"a", b"new"), &applied(2))
        .expect("possible");
    assert_eq!(
        state.get(1, b"a").expect("possible"),
        Some(Bytes::from_static(b"new"))
    );
    assert_eq!(
        (state.applied(), state.flushed()),
        (Some(applied(2)), Some(applied(1)))
    );

    let state = open(&fs.crash());

    assert_eq!(
        (state.applied(), state.flushed()),
        (Some(applied(1)), Some(applied(1)))
    );
    assert_eq!(
        state.get(1, b"a").expect("possible"),
        Some(Bytes::from_static(b"old"))
    );
}

#[test]
fn a_snapshot_shows_one_moment_whatever_comes_later() {
    let fs = FaultFs::new(2);
    let state = open(&fs);
    state
        .apply(&put(1, b"a", b"old"), &applied(1))
        .expect("possible");
    let snapshot = state.snapshot().expect("possible");
    state
        .apply(&put(1, b"a", b"new"), &applied(2))
        .expect("possible");
    state.flush().expect("possible");

    let mut other = state.install().expect("possible");
    other.put(3, b"b", b"from elsewhere").expect("possible");
    other.finish(&applied(50)).expect("possible");

    assert_eq!(snapshot.applied(), Some(&applied(1)));
    assert_eq!(
        snapshot.get(1, b"a").expect("possible"),
        Some(Bytes::from_static(b"old"))
    );
    assert_eq!(state.get(1, b"a").expect("possible"), None);
    assert_eq!(
        state.get(3, b"b").expect("possible"),
        Some(Bytes::from_static(b"from elsewhere"))
    );
    assert_eq!(state.flushed(), Some(applied(50)));
    drop((snapshot, state));
    let state = open(&fs.crash());
    assert_eq!(state.applied(), Some(applied(50)));
    assert_eq!(
        state.get(3, b"b").expect("possible"),
        Some(Bytes::from_static(b"from elsewhere"))
    );
}

#[test]
fn an_installation_that_is_given_up_changes_nothing() {
    let fs = FaultFs::new(3);
    let state = open(&fs);
    state
        .apply(&put(1, b"a", b"kept"), &applied(1))
        .expect("possible");
    let mut other = state.install().expect("possible");
    other.put(1, b"a", b"from elsewhere").expect("possible");
    drop(other);
    state.flush().expect("possible");
    assert_eq!(
        state.get(1, b"a").expect("possible"),
        Some(Bytes::from_static(b"kept"))
    );
    drop(state);

    let state = open(&fs);

    assert_eq!(
        state.get(1, b"a").expect("possible"),
        Some(Bytes::from_static(b"kept"))
    );
    let names = fs.list(Path::new("/data/shards")).expect("it is there");
    assert_eq!(names, ["7.redb"]);
}

#[test]
fn a_file_of_another_version_is_refused_with_both() {
    let fs = FaultFs::new(4);
    drop(open(&fs));

    let refused = try_open(&fs, Config::new(VERSION + 1)).expect_err("older");

    assert_eq!(
        refused.to_string(),
        "/data/shards/7.redb has version 3, this program reads 4"
    );
    drop(open(&fs));
}

#[test]
fn a_file_that_is_none_is_refused_and_left() {
    let fs = FaultFs::new(5);
    fs.create_dir_all(Path::new("/data/shards"))
        .expect("possible");
    let file = fs.create(Path::new(FILE)).expect("possible");
    let refused = try_open(&fs, Config::new(VERSION)).expect_err("empty");
    assert_eq!(
        refused.to_string(),
        "/data/shards/7.redb is damaged: the file is empty"
    );
    file.write_at(0, &[b'x'; 9000]).expect("possible");
    let refused = try_open(&fs, Config::new(VERSION)).expect_err("foreign");
    assert_eq!(
        refused.to_string(),
        "/data/shards/7.redb is no state file: no redb database"
    );
    assert_eq!(fs.read(Path::new(FILE)).expect("readable"), [b'x'; 9000]);
}

#[test]
fn a_full_disk_is_told_and_the_file_is_as_it_was_flushed_last() {
    let fs = FaultFs::new(6);
    let state = open(&fs);
    state
        .apply(&put(1, b"a", b"kept"), &applied(1))
        .expect("possible");
    state.flush().expect("possible");
    fs.limit_bytes(Some(0));
    let mut index = 1;
    let error = loop {
        index += 1;
        let grown = state
            .apply(&put(1, &[index as u8], &[1; 100_000]), &applied(index))
            .and_then(|()| state.flush());
        match grown {
            Ok(_) => assert!(index < 1000, "the disk never fills"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    let last = state.flushed().expect("flushed").id.index;
    state
        .apply(&Changes::default(), &applied(index + 10))
        .and_then(|()| state.flush())
        .expect_err("it takes nothing more");
    drop(state);
    fs.limit_bytes(None);

    let state = open(&fs);

    assert_eq!(state.applied(), Some(applied(last)));
    let (_, rows) = read(&state).expect("readable");
    assert_eq!(rows.len() as u64, last);
}

#[test]
fn a_failed_fsync_is_told_and_latches() {
    let fs = FaultFs::new(7);
    let state = open(&fs);
    state
        .apply(&put(1, b"a", b"lost"), &applied(1))
        .expect("possible");
    fs.inject(Fault {
        operation: Some(Operation::SyncData),
        path: String::new(),
        skip: 0,
        kind: FaultKind::Io,
    });

    let error = state.flush().expect_err("injected");

    assert!(matches!(error, Error::Failed { .. }), "{error}");
    assert!(error.to_string().contains("7.redb"), "{error}");
    assert_eq!(state.flushed(), None);
    state.flush().expect_err("nothing goes on");
}

#[test]
fn no_crash_leaves_anything_but_a_flushed_state() {
    let mut sum = End::default();
    for seed in 0..SEEDS {
        let end = run(seed, Defects::default())
            .unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        sum.flushes += end.flushes;
        sum.installs += end.installs;
        sum.behind += end.behind;
        sum.ahead += end.ahead;
    }
    // The runs must have passed what they are for.
    assert!(sum.flushes > SEEDS && sum.installs > SEEDS / 2, "{sum:?}");
    assert!(sum.behind > SEEDS && sum.ahead > SEEDS / 20, "{sum:?}");
}

#[test]
fn a_flush_that_makes_nothing_durable_is_found() {
    let defects = Defects {
        flush_without_fsync: true,
        ..Defects::default()
    };
    let found = (0..SEEDS).find_map(|seed| run(seed, defects).err());
    assert!(found.expect("found").contains("was flushed"));
}

#[test]
fn rows_apart_from_their_entry_are_found() {
    let defects = Defects {
        rows_apart_from_applied: true,
        ..Defects::default()
    };
    let found = (0..SEEDS).find_map(|seed| run(seed, defects).err());
    assert!(found.expect("found").contains("never was"));
}

/// What a run came to.
#[derive(Debug, Default)]
struct End {
    flushes: u64,
    installs: u64,
    /// States that were not flushed and are gone.
    behind: u64,
    /// States that came back although their flush was not answered.
    ahead: u64,
}

/// States since the last start; and which of them was flushed last.
struct History {
    states: Vec<(Option<Applied>, Rows)>,
    flushed: usize,
}

fn run(seed: u64, defects: Defects) -> Result<End, String> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut fs = FaultFs::new(seed);
    let mut history = History {
        states: vec![(None, Rows::new())],
        flushed: 0,
    };
    let mut end = End::default();
    for life in 0..=LIVES {
        let config = Config {
            cache_bytes: [16 << 10, 4 << 20][random.random_range(0..2)],
            defects,
            ..Config::new(VERSION)
        };
        if life < LIVES && random.random_bool(0.3) {
            fs.freeze_at(fs.operations() + random.random_range(0..100));
        }
        let opened = try_open(&fs, config).map_err(|error| error.to_string());
        match opened.and_then(|state| {
            verify(&state, &mut history, &mut end)?;
            Ok(state)
        }) {
            Ok(state) if life < LIVES => {
                live(&fs, &state, &mut random, &mut history, &mut end);
            }
            Ok(_) => {}
            Err(_) if fs.is_frozen() => {}
            Err(violation) => return Err(format!("life {life}: {violation}")),
        }
        fs = match random.random_range(0..4) {
            0 => fs.kill(),
            _ => fs.crash(),
        };
    }
    Ok(end)
}

/// One life of the process; it ends with the first error.
fn live(
    fs: &FaultFs,
    state: &StateFile,
    random: &mut SmallRng,
    history: &mut History,
    end: &mut End,
) {
    fs.freeze_at(fs.operations() + random.random_range(0..600));
    for _ in 0..random.random_range(1..60) {
        let (before, mut rows) = history.states.last().expect("a state").clone();
        let index = before.map_or(0, |before| before.id.index) + random.random_range(1..4);
        match random.random_range(0..20) {
            0..15 => {
                let mut changes = Changes::default();
                for _ in 0..random.random_range(0..6) {
                    let (kind, key) = (random.random_range(0..3), [random.random_range(0..30)]);
                    if random.random_bool(0.7) {
                        let value = vec![random.random(); random.random_range(0..3000)];
                        changes.put(kind, &key, &value);
                        rows.insert((kind, key.to_vec()), value);
                    } else {
                        changes.delete(kind, &key);
                        rows.remove(&(kind, key.to_vec()));
                    }
                }
                if state.apply(&changes, &applied(index)).is_err() {
                    return;
                }
                history.states.push((Some(applied(index)), rows));
            }
            15..19 => {
                let Ok(flushed) = state.flush() else { return };
                assert_eq!(flushed, history.states.last().expect("a state").0);
                history.flushed = history.states.len() - 1;
                end.flushes += 1;
            }
            _ => {
                let rows: Rows = (0..random.random_range(0..20))
                    .map(|key| ((5, vec![key]), vec![random.random(); 700]))
                    .collect();
                // It may be there although nobody was told.
                history.states.push((Some(applied(index)), rows.clone()));
                let install = || -> Result<(), Error> {
                    let mut other = state.install()?;
                    for ((kind, key), value) in &rows {
                        other.put(*kind, key, value)?;
                    }
                    other.finish(&applied(index))
                };
                if install().is_err() {
                    return;
                }
                history.flushed = history.states.len() - 1;
                end.installs += 1;
            }
        }
    }
    if random.random_bool(0.8) {
        // Else it is closed in order.
        fs.freeze_at(fs.operations());
    }
}

fn verify(state: &StateFile, history: &mut History, end: &mut End) -> Result<(), String> {
    let read = read(state).map_err(|error| error.to_string())?;
    if state.applied() != read.0 || state.flushed() != read.0 {
        return Err(format!(
            "it says {:?}, its rows {:?}",
            state.applied(),
            read.0
        ));
    }
    let found = history.states.iter().rposition(|state| *state == read);
    match found {
        None => return Err(format!("the state at {:?} never was", read.0)),
        Some(found) if found < history.flushed => {
            return Err(format!(
                "it came back as after change {found}, {} was flushed",
                history.flushed
            ));
        }
        Some(found) => {
            end.behind += (history.states.len() - 1 - found) as u64;
            end.ahead += u64::from(found > history.flushed);
        }
    }
    history.states = vec![read];
    history.flushed = 0;
    Ok(())
}

#[test]
fn a_flipped_bit_is_reported_or_changes_nothing() {
    let fs = FaultFs::new(8);
    let state = open(&fs);
    let mut flushed = Vec::new();
    for index in 1..40 {
        let value = vec![index as u8; 500];
        state
            .apply(&put(1, &[index as u8], &value), &applied(index))
            .expect("possible");
        if index % 13 == 0 {
            state.flush().expect("possible");
            flushed.push(read(&state).expect("readable"));
        }
    }
    drop(state);
    flushed.push(read(&open(&fs)).expect("readable"));
    let (mut reported, mut same) = (0, 0);
    for _ in 0..400 {
        let fs = fs.copy();
        let at = fs.rot(Path::new(FILE));
        match try_open(&fs, Config::new(VERSION)).and_then(|state| read(&state)) {
            Ok(found) => {
                // A damaged commit slot leaves the commit before it; its log is still there or the
                // log's purge shows the gap.
                assert!(flushed.contains(&found), "at {at}: {:?}", found.0);
                same += 1;
            }
            Err(error) => {
                assert!(error.to_string().contains("7.redb"), "{error}");
                reported += 1;
            }
        }
    }
    assert!(reported > 5 && same > 5, "{reported} {same}");
}

#[test]
fn a_row_that_rots_while_the_file_is_open_is_reported_by_its_reader() {
    let fs = FaultFs::new(9);
    let state = open(&fs);
    let mut changes = Changes::default();
    for key in 0..100_u8 {
        changes.put(1, &[key], &[0x5a; 2000]);
    }
    state.apply(&changes, &applied(1)).expect("possible");
    state.flush().expect("possible");
    drop(state);
    let config = Config {
        cache_bytes: 0,
        ..Config::new(VERSION)
    };
    let state = try_open(&fs, config).expect("sound");
    let bytes = fs.read(Path::new(FILE)).expect("readable");
    let values: Vec<usize> = bytes
        .windows(64)
        .enumerate()
        .filter(|(_, window)| window.iter().all(|byte| *byte == 0x5a))
        .map(|(at, _)| at)
        .collect();
    for at in values.iter().step_by(50) {
        fs.flip_bit(Path::new(FILE), *at as u64, 3);
    }

    let refused = read(&state).expect_err("damaged").to_string();

    assert!(refused.contains("the checksum of row `\\x01"), "{refused}");
}
