//! Crashes at random operations, with torn and lost writes, and a checker that holds the log to
//! what was acknowledged and to what readers saw.

use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tidewire_storage::fs::{Fault, FaultFs, FaultKind, Operation};
use tidewire_storage::log::{Config, Consumer, Defects, EmbeddedLog, Incarnation, Start};

use crate::log::{DEADLINE, FOLDER, record, small};

const SEEDS: u64 = 250;
const LIVES: usize = 8;
const PARTITIONS: u16 = 4;

#[test]
fn no_crash_loses_what_was_acknowledged_or_seen() {
    let mut acknowledged = 0;
    let mut torn = 0;
    for seed in 0..SEEDS {
        let end = run(seed, Defects::default(), Released::Never)
            .unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        acknowledged += end.acknowledged;
        torn += end.incarnations;
    }
    // The runs must have passed what they are for.
    assert!(acknowledged > 10 * SEEDS, "{acknowledged} acknowledged");
    assert!(torn > SEEDS / 4, "{torn} torn tails");
}

#[test]
fn no_crash_among_releases_loses_what_was_not_released() {
    let mut released = 0;
    for seed in 0..SEEDS / 2 {
        let end = run(seed, Defects::default(), Released::AsRead)
            .unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        released += end.released;
    }
    assert!(released > SEEDS, "{released} records released");
}

#[test]
fn a_seed_brings_the_same_run_again() {
    for seed in 0..20 {
        let run = || run(seed, Defects::default(), Released::Never).map(|end| end.acknowledged);
        assert_eq!(run(), run(), "seed {seed}");
    }
}

#[test]
fn an_acknowledgement_before_the_fsync_is_found() {
    let defects = Defects {
        acknowledge_before_fsync: true,
        ..Defects::default()
    };
    let found = found_by(defects);
    assert!(
        found.iter().any(|what| what.contains("was acknowledged")),
        "{found:?}"
    );
}

#[test]
fn a_reader_ahead_of_the_fsync_is_found() {
    let defects = Defects {
        read_before_fsync: true,
        ..Defects::default()
    };
    let found = found_by(defects);
    assert!(
        found
            .iter()
            .any(|what| what.contains("was seen") || what.contains("ahead")),
        "{found:?}"
    );
}

fn found_by(defects: Defects) -> Vec<String> {
    (0..SEEDS)
        .filter_map(|seed| run(seed, defects, Released::Never).err())
        .collect()
}

/// Whether the log is told what was read. Segments are removed on a thread of their own, so that a
/// seed no longer decides everything.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Released {
    Never,
    AsRead,
}

/// What a run came to.
struct End {
    acknowledged: u64,
    released: u64,
    incarnations: u64,
}

/// What the world outside the machine remembers over its crashes.
#[derive(Default)]
struct Outside {
    /// Ids of acknowledged records.
    acknowledged: Vec<(u16, u64)>,
    /// Ids that the reader saw, by partition, and under which incarnation it saw the last.
    seen: Vec<Vec<u64>>,
    known: Option<Incarnation>,
    trouble: Option<String>,
}

fn run(seed: u64, defects: Defects, released: Released) -> Result<End, String> {
    let mut random = SmallRng::seed_from_u64(seed);
    let outside = Arc::new(Mutex::new(Outside {
        seen: vec![Vec::new(); usize::from(PARTITIONS)],
        ..Outside::default()
    }));
    let mut fs = FaultFs::new(seed);
    let mut next_id = 0;
    let mut incarnations = 0;
    for life in 0..LIVES {
        if random.random_bool(0.2) {
            fs.freeze_at(random.random_range(0..40));
        }
        let incarnation = live(&fs, &mut random, &outside, &mut next_id, defects, released)
            .map_err(|violation| format!("life {life}: {violation}"))?;
        incarnations = incarnations.max(incarnation.map_or(0, |number| number.get() & 0xffff_ffff));
        fs = if random.random_bool(0.3) {
            fs.kill()
        } else {
            fs.crash()
        };
    }
    // A last life without faults shows the end.
    let log = open(&fs, &mut random, Defects::default())
        .map_err(|error| format!("at the end: {error}"))?;
    verify(&log, &outside).map_err(|violation| format!("at the end: {violation}"))?;
    let outside = outside.lock().expect("unpoisoned");
    Ok(End {
        acknowledged: outside.acknowledged.len() as u64,
        released: (0..PARTITIONS).map(|partition| log.start(partition)).sum(),
        incarnations: incarnations.saturating_sub(1),
    })
}

/// One life of the process, from opening to the crash.
fn live(
    fs: &FaultFs,
    random: &mut SmallRng,
    outside: &Arc<Mutex<Outside>>,
    next_id: &mut u64,
    defects: Defects,
    released: Released,
) -> Result<Option<Incarnation>, String> {
    let log = match open(fs, random, defects) {
        Ok(log) => log,
        Err(_) if fs.is_frozen() => return Ok(None),
        Err(error) => return Err(error),
    };
    let incarnation = log.incarnation();
    match verify(&log, outside) {
        Err(_) if fs.is_frozen() => return Ok(None),
        verified => verified?,
    }
    fs.freeze_at(fs.operations() + random.random_range(0..80));
    for (operation, kind) in [
        (Operation::SyncData, FaultKind::Io),
        (Operation::Write, FaultKind::TornWrite),
    ] {
        if random.random_bool(0.15) {
            fs.inject(Fault {
                operation: Some(operation),
                path: String::new(),
                skip: random.random_range(0..20),
                kind,
            });
        }
    }
    let reader = Mutex::new(resume(&log, outside)?);
    let seen_by = Arc::clone(outside);
    // The reader runs on the writer thread, so that a seed decides what it sees and when.
    let _guard = log.on_readable(move || read(&reader, &seen_by, incarnation));
    for _ in 0..random.random_range(1..20) {
        let batches = random.random_range(1..5);
        as_one_group(&log, || {
            for _ in 0..batches {
                append(&log, random, outside, next_id);
            }
        });
        if released == Released::AsRead && random.random_bool(0.3) {
            let read = starts(&outside.lock().expect("unpoisoned").seen, None);
            let read: Vec<_> = read
                .iter()
                .map(|start| (start.partition, start.offset))
                .collect();
            log.release(&read, i64::MAX);
        }
    }
    if random.random_bool(0.5) {
        fs.freeze_at(fs.operations());
    }
    log.close();
    let mut outside = outside.lock().expect("unpoisoned");
    outside
        .trouble
        .take()
        .filter(|_| !fs.is_frozen())
        .map_or(Ok(Some(incarnation)), Err)
}

fn open(fs: &FaultFs, random: &mut SmallRng, defects: Defects) -> Result<EmbeddedLog, String> {
    let config = Config {
        partitions: PARTITIONS,
        tail_cache_bytes: *[0, 500, 64 << 10]
            .get(random.random_range(0..3))
            .expect("three sizes"),
        ..small()
    };
    EmbeddedLog::open_sabotaged(
        Arc::new(fs.clone()),
        Path::new(FOLDER),
        config,
        random.random(),
        defects,
        |_| {},
    )
    .map_err(|error| error.to_string())
}

/// Holds the writer thread while `append` runs, so that what it appends becomes one group whatever
/// the threads' luck, and waits until that is completed.
fn as_one_group(log: &EmbeddedLog, append: impl FnOnce()) {
    let (entered, inside) = mpsc::sync_channel(1);
    let (open_gate, gate) = mpsc::sync_channel::<()>(1);
    let hold = move |_: Result<(), _>| {
        entered.send(()).expect("the test listens");
        gate.recv_timeout(DEADLINE)
            .expect("the test opens the gate");
    };
    if log.append(Vec::new(), hold).is_err() {
        return;
    }
    inside.recv_timeout(DEADLINE).expect("the writer runs");
    append();
    let (done, completion) = mpsc::sync_channel(1);
    let flushed = log.append(Vec::new(), move |_| {
        done.send(()).expect("the test listens");
    });
    open_gate.send(()).expect("the writer waits");
    if flushed.is_ok() {
        completion.recv_timeout(DEADLINE).expect("completed");
    }
}

fn append(log: &EmbeddedLog, random: &mut SmallRng, outside: &Arc<Mutex<Outside>>, id: &mut u64) {
    let records: Vec<_> = (0..random.random_range(1..6))
        .map(|_| {
            *id += 1;
            let partition = random.random_range(0..PARTITIONS);
            record(partition, *id, random.random_range(0..400))
        })
        .collect();
    let appended: Vec<_> = records
        .iter()
        .map(|record| (record.partition, record.packet_seq))
        .collect();
    let outside = Arc::clone(outside);
    let done = move |result: Result<(), _>| {
        if result.is_ok() {
            let mut outside = outside.lock().expect("unpoisoned");
            outside.acknowledged.extend(appended);
        }
    };
    // A refusal needs no account: its ids are never acknowledged.
    drop(log.append(records, done));
}

fn starts(seen: &[Vec<u64>], known: Option<Incarnation>) -> Vec<Start> {
    (0..PARTITIONS)
        .zip(seen)
        .map(|(partition, seen)| Start {
            partition,
            offset: seen.len() as u64,
            incarnation: known,
        })
        .collect()
}

/// The reader goes on where it stopped before the crash.
fn resume(log: &EmbeddedLog, outside: &Mutex<Outside>) -> Result<Consumer, String> {
    let outside = outside.lock().expect("unpoisoned");
    let mut consumer = log.consumer();
    consumer
        .assign(starts(&outside.seen, outside.known))
        .map_err(|error| error.to_string())?;
    Ok(consumer)
}

fn read(reader: &Mutex<Consumer>, outside: &Mutex<Outside>, incarnation: Incarnation) {
    let mut reader = reader.lock().expect("unpoisoned");
    let mut outside = outside.lock().expect("unpoisoned");
    loop {
        match reader.poll(1000, Duration::ZERO) {
            Ok(stored) if stored.is_empty() => return,
            Ok(stored) => {
                outside.known = Some(incarnation);
                for stored in stored {
                    let seen = &mut outside.seen[usize::from(stored.record.partition)];
                    seen.push(stored.record.packet_seq);
                }
            }
            Err(error) => {
                outside.trouble = Some(error.to_string());
                return;
            }
        }
    }
}

/// Reads the whole log and compares it with what the outside remembers.
fn verify(log: &EmbeddedLog, outside: &Mutex<Outside>) -> Result<(), String> {
    let outside = outside.lock().expect("unpoisoned");
    let mut consumer = log.consumer();
    // What was released was seen; it counts as found.
    let mut found = Vec::new();
    for (partition, seen) in (0..PARTITIONS).zip(&outside.seen) {
        let released = usize::try_from(log.start(partition)).expect("small");
        let released = seen
            .get(..released)
            .ok_or("something unread was released")?;
        found.push(released.to_vec());
    }
    consumer
        .assign(starts(&found, None))
        .map_err(|error| error.to_string())?;
    loop {
        let stored = consumer
            .poll(4000, Duration::ZERO)
            .map_err(|error| error.to_string())?;
        if stored.is_empty() {
            break;
        }
        for stored in stored {
            let partition = stored.record.partition;
            let ids: &mut Vec<u64> = &mut found[usize::from(partition)];
            if stored.offset != ids.len() as u64 {
                return Err(format!("offset {} comes at {}", stored.offset, ids.len()));
            }
            let bytes = stored.record.payload.len();
            if stored.record != record(partition, stored.record.packet_seq, bytes) {
                return Err(format!("{:?} was never sent", stored.record));
            }
            ids.push(stored.record.packet_seq);
        }
    }
    for (partition, ids) in found.iter().enumerate() {
        if !ids.is_sorted_by(|one, next| one < next) {
            return Err(format!(
                "partition {partition} is out of order or twice: {ids:?}"
            ));
        }
        if !ids.starts_with(&outside.seen[partition]) {
            return Err(format!(
                "in partition {partition} {:?} was seen, now there is {ids:?}",
                outside.seen[partition]
            ));
        }
    }
    for (partition, id) in &outside.acknowledged {
        if found[usize::from(*partition)].binary_search(id).is_err() {
            return Err(format!(
                "{id} of partition {partition} was acknowledged and is gone"
            ));
        }
    }
    Ok(())
}
