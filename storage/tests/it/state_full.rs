//! State files on a disk that is full at times: what was refused is offered again, and is there.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tidewire_storage::fs::{Fault, FaultFs, FaultKind, Operation};
use tidewire_storage::raft::LogId;
use tidewire_storage::state::{Applied, Changes, Config, Error, StateFile};

const FILE: &str = "/data/shards/7.redb";
const SEEDS: u64 = 60;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn open(fs: &FaultFs) -> StateFile {
    let config = Config {
        cache_bytes: 64 << 10,
        ..Config::new(3)
    };
    StateFile::open(Arc::new(fs.clone()), Path::new(FILE), config).expect("it opens")
}

fn applied(index: u64) -> Applied {
    Applied {
        id: LogId {
            index,
            term: 4,
            leader: 2,
        },
        opaque: Bytes::new(),
    }
}

fn put(key: &[u8], value: &[u8]) -> Changes {
    let mut changes = Changes::default();
    changes.put(1, key, value);
    changes
}

fn rows(state: &StateFile) -> Rows {
    let read = state.read(|snapshot| snapshot.rows()?.collect::<Result<Vec<_>, _>>());
    let rows = read.expect("readable").into_iter();
    rows.map(|row| (row.key.to_vec(), row.value.to_vec()))
        .collect()
}

fn fault(operation: Operation, kind: FaultKind) -> Fault {
    Fault {
        operation: Some(operation),
        path: "7.redb".to_owned(),
        skip: 0,
        kind,
    }
}

#[test]
fn a_refused_flush_can_be_tried_again_until_there_is_room() {
    let fs = FaultFs::new(1);
    let state = open(&fs);
    state
        .apply(&put(b"old", b"kept"), &applied(1))
        .expect("possible");
    state.flush().expect("possible");
    fs.limit_bytes(Some(0));
    let large = put(b"new", &[7; 8 << 20]);

    for _ in 0..3 {
        let refused = state
            .apply(&large, &applied(2))
            .and_then(|()| state.flush());
        assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
        // Pages in memory can still be read.
        match state.get(1, b"old") {
            Ok(old) => assert_eq!(old, Some(Bytes::from_static(b"kept"))),
            Err(error) => assert!(error.may_pass(), "{error}"),
        }

        state.reopen().expect("it needs no room");
        assert_eq!(state.applied(), Some(applied(1)));
        assert_eq!(state.flushed(), Some(applied(1)));
        assert_eq!(rows(&state).len(), 1);
    }
    fs.limit_bytes(None);
    state.apply(&large, &applied(2)).expect("there is room");
    state.flush().expect("there is room");

    let state = open(&fs.crash());
    assert_eq!(state.flushed(), Some(applied(2)));
    assert_eq!(rows(&state).len(), 2);
}

#[test]
fn a_file_that_cannot_be_opened_for_want_of_room_stays_closed_and_is_opened_later() {
    let fs = FaultFs::new(2);
    let state = open(&fs);
    state
        .apply(&put(b"old", b"kept"), &applied(1))
        .expect("possible");
    state.flush().expect("possible");
    fs.inject(fault(Operation::SetLen, FaultKind::NoSpace));
    state
        .apply(&put(b"new", &[7; 8 << 20]), &applied(2))
        .and_then(|()| state.flush())
        .expect_err("injected");
    // Not every file system overwrites in place.
    fs.inject(fault(Operation::Write, FaultKind::NoSpace));

    let refused = state.reopen().expect_err("injected");

    assert!(matches!(refused, Error::NoSpace { .. }), "{refused}");
    assert!(state.is_closed());
    let early = state.get(1, b"old").expect_err("closed");
    assert!(early.may_pass(), "{early}");
    assert!(state.apply(&put(b"x", b"y"), &applied(2)).is_err());
    state.reopen().expect("there is room");
    assert!(!state.is_closed());
    assert_eq!(rows(&state).len(), 1);
}

#[test]
fn a_full_disk_that_shows_at_an_fsync_does_not_pass() {
    let fs = FaultFs::new(3);
    let state = open(&fs);
    state
        .apply(&put(b"a", b"lost"), &applied(1))
        .expect("possible");
    fs.inject(fault(Operation::SyncData, FaultKind::NoSpace));

    let error = state.flush().expect_err("injected");

    assert!(
        matches!(error, Error::Failed { .. }) && !error.may_pass(),
        "{error}"
    );
    let never = state.reopen().expect_err("the process is to end");
    assert!(!never.may_pass(), "{never}");
}

#[test]
fn after_an_error_of_the_disk_nothing_is_opened_again() {
    for operation in [Operation::Write, Operation::SyncData] {
        let fs = FaultFs::new(4);
        let state = open(&fs);
        state
            .apply(&put(b"a", b"lost"), &applied(1))
            .expect("possible");
        fs.inject(fault(operation, FaultKind::Io));

        let error = state.flush().expect_err("injected");

        assert!(!error.may_pass(), "{error}");
        assert!(!state.reopen().expect_err("it failed").may_pass());
    }
}

#[test]
fn whoever_reads_while_the_file_is_opened_again_reads_anew() {
    let fs = FaultFs::new(5);
    let state = open(&fs);
    state
        .apply(&put(b"a", b"kept"), &applied(1))
        .expect("possible");
    state.flush().expect("possible");
    let readings = std::cell::Cell::new(0);

    let read = state.read(|snapshot| {
        readings.set(readings.get() + 1);
        if readings.get() == 1 {
            fs.inject(fault(Operation::SetLen, FaultKind::NoSpace));
            state
                .apply(&put(b"b", &[7; 8 << 20]), &applied(2))
                .expect_err("injected");
            state.reopen()?;
            // What the view before would read now may be another's.
            return Err(Error::Fs(error_of_the_test()));
        }
        snapshot.get(1, b"a")
    });

    assert_eq!(read.expect("readable"), Some(Bytes::from_static(b"kept")));
    assert_eq!(readings.get(), 2);
}

fn error_of_the_test() -> tidewire_storage::fs::Error {
    tidewire_storage::fs::Error {
        operation: Operation::Read,
        path: FILE.into(),
        source: io::Error::other("of the test"),
    }
}

#[test]
fn nothing_is_lost_or_made_up_by_full_disks_and_crashes() {
    let (mut refused, mut crashes_behind) = (0, 0);
    for seed in 0..SEEDS {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut fs = FaultFs::new(seed);
        let (mut model, mut flushed) = (Rows::new(), Rows::new());
        let mut index = 0;
        for _ in 0..4 {
            let state = open(&fs);
            model.clone_from(&rows(&state));
            assert_eq!(model, flushed, "seed {seed}");
            index = state.flushed().map_or(index, |flushed| flushed.id.index);
            for _ in 0..random.random_range(1..8) {
                let mut changes = Changes::default();
                for _ in 0..random.random_range(1..20) {
                    let key = [random.random_range(0..40_u8)];
                    let value = vec![random.random(); random.random_range(0..120_000)];
                    changes.put(1, &key, &value);
                    model.insert(key.to_vec(), value);
                }
                index += 1;
                let mut tries = 0;
                let mut outcome = Err(Error::Closed { path: FILE.into() });
                while outcome.is_err() && tries < 4 {
                    let used = fs.bytes();
                    fs.limit_bytes(match tries {
                        3 => None,
                        _ => Some(used + random.random_range(0..2 << 20)),
                    });
                    outcome = state
                        .apply(&changes, &applied(index))
                        .and_then(|()| state.flush())
                        .map(drop);
                    if let Err(error) = &outcome {
                        assert!(error.may_pass(), "seed {seed}: {error}");
                        refused += 1;
                        state.reopen().expect("it needs no room");
                        assert_eq!(rows(&state), flushed, "seed {seed}");
                        if random.random_ratio(1, 8) {
                            break;
                        }
                    }
                    tries += 1;
                }
                if outcome.is_err() {
                    crashes_behind += 1;
                    break;
                }
                flushed.clone_from(&model);
            }
            fs.limit_bytes(None);
            fs = fs.crash();
        }
    }
    assert!(refused > SEEDS, "{refused} flushes were refused");
    assert!(crashes_behind > 0, "no crash met a refused flush");
}
