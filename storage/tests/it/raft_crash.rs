//! The Raft log against a model: reopened at random, crashed at random operations with torn and
//! lost writes. What comes back must be exactly the log as it was after some change, and not before
//! the last one that was acknowledged.

use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tidewire_storage::fs::{Fault, FaultFs, FaultKind, Operation};
use tidewire_storage::raft::{Config, Defects, GroupId, LogEntry, LogId, RaftLog, Refused};

use crate::log::DEADLINE;
use crate::raft::{ALL, FOLDER, Model, bytes, entry};

const SEEDS: u64 = 200;
const LIVES: usize = 8;
const GROUPS: u32 = 4;
/// The group that hardly ever purges.
const LAGGING: u32 = 3;

#[test]
fn no_crash_loses_or_changes_what_was_acknowledged() {
    let mut sum = End::default();
    for seed in 0..SEEDS {
        let end = run(seed, Defects::default(), true)
            .unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        sum.add(&end);
    }
    // The runs must have passed what they are for.
    assert!(sum.acknowledged > 50 * SEEDS, "{sum:?}");
    assert!(sum.unfinished > SEEDS / 2, "{sum:?}");
    assert!(sum.truncations > 5 * SEEDS, "{sum:?}");
    assert!(sum.copied > SEEDS, "{sum:?}");
    assert!(sum.dropped > 10 * SEEDS, "{sum:?}");
}

#[test]
fn every_reopening_brings_back_exactly_what_was_there() {
    let mut sum = End::default();
    for seed in 0..SEEDS / 2 {
        let end = run(seed, Defects::default(), false)
            .unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        sum.add(&end);
    }
    assert_eq!(sum.unfinished, 0, "{sum:?}");
    assert!(sum.copied > SEEDS / 2, "{sum:?}");
}

#[test]
fn an_acknowledgement_before_the_fsync_is_found() {
    let found = found_by(Defects {
        acknowledge_before_fsync: true,
        ..Defects::default()
    });
    assert!(found.contains("was acknowledged"), "{found}");
}

#[test]
fn votes_that_are_not_copied_forward_are_found() {
    found_by(Defects {
        votes_not_copied: true,
        ..Defects::default()
    });
}

#[test]
fn a_truncation_that_is_not_recorded_is_found() {
    found_by(Defects {
        truncation_not_recorded: true,
        ..Defects::default()
    });
}

#[test]
fn entries_that_are_not_copied_forward_are_found() {
    found_by(Defects {
        copies_not_written: true,
        ..Defects::default()
    });
}

fn found_by(defects: Defects) -> String {
    (0..SEEDS)
        .find_map(|seed| run(seed, defects, true).err())
        .expect("a defect is found")
}

/// What a run came to.
#[derive(Debug, Default)]
struct End {
    acknowledged: u64,
    /// Changes that were not acknowledged and are gone.
    unfinished: u64,
    truncations: u64,
    copied: u64,
    dropped: u64,
}

impl End {
    fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.unfinished += other.unfinished;
        self.truncations += other.truncations;
        self.copied += other.copied;
        self.dropped += other.dropped;
    }
}

/// Every state that a group's log went through since the last start; the last one is what callers
/// see.
struct History {
    states: Vec<Model>,
    /// A committed position that goes with the next record.
    committed: Option<Bytes>,
    term: u64,
}

impl History {
    fn of(model: Model, term: u64) -> Self {
        Self {
            states: vec![model],
            committed: None,
            term,
        }
    }

    fn head(&self) -> &Model {
        self.states.last().expect("a history has a state")
    }

    fn push(&mut self, change: impl FnOnce(&mut Model)) {
        let mut state = self.head().clone();
        change(&mut state);
        self.states.push(state);
    }

    /// What is queued behind a record; the number of the state that is durable with it.
    fn end_of_batch(&mut self) -> usize {
        if let Some(committed) = self.committed.take() {
            self.push(|state| state.committed = Some(committed));
        }
        self.states.len() - 1
    }

    /// What callers see: committed positions do not wait there.
    fn seen(&self) -> Model {
        let mut head = self.head().clone();
        if let Some(committed) = &self.committed {
            head.committed = Some(committed.clone());
        }
        head
    }
}

struct World {
    random: SmallRng,
    histories: Vec<History>,
    /// The state of each group that was acknowledged last.
    acknowledged: Arc<Mutex<Vec<usize>>>,
    fatal: Arc<Mutex<Option<String>>>,
    stamp: u64,
    end: End,
}

fn run(seed: u64, defects: Defects, crashes: bool) -> Result<End, String> {
    let mut world = World {
        random: SmallRng::seed_from_u64(seed),
        histories: (0..GROUPS)
            .map(|_| History::of(Model::default(), 1))
            .collect(),
        acknowledged: Arc::new(Mutex::new(vec![0; GROUPS as usize])),
        fatal: Arc::default(),
        stamp: 0,
        end: End::default(),
    };
    let mut fs = FaultFs::new(seed);
    for life in 0..LIVES {
        world
            .live(&fs, defects, crashes)
            .map_err(|violation| format!("life {life}: {violation}"))?;
        fs = match world.random.random_range(0..3) {
            _ if !crashes => fs.kill(),
            0 => fs.kill(),
            _ => fs.crash(),
        };
    }
    // A last life without faults shows the end.
    let log = world.open(&fs, Defects::default())?;
    world
        .verify(&log)
        .map_err(|violation| format!("at the end: {violation}"))?;
    Ok(world.end)
}

impl World {
    fn open(&mut self, fs: &FaultFs, defects: Defects) -> Result<RaftLog, String> {
        let config = Config {
            segment_bytes: 4096,
            cache_bytes_limit: [0, 3000, 1 << 20][self.random.random_range(0..3)],
            read_cache_bytes_limit: [0, 1 << 20][self.random.random_range(0..2)],
            copy_entries_max: 8,
            ..Config::default()
        };
        let fatal = Arc::clone(&self.fatal);
        RaftLog::open_sabotaged(
            Arc::new(fs.clone()),
            Path::new(FOLDER),
            &config,
            self.random.random(),
            defects,
            move |told| *fatal.lock().expect("unpoisoned") = Some(told.cause),
        )
        .map_err(|error| error.to_string())
    }

    /// One life of the process, from opening to the crash.
    fn live(&mut self, fs: &FaultFs, defects: Defects, crashes: bool) -> Result<(), String> {
        if crashes && self.random.random_bool(0.2) {
            fs.freeze_at(fs.operations() + self.random.random_range(0..60));
        }
        let log = match self.open(fs, defects) {
            Ok(log) => log,
            Err(_) if fs.is_frozen() => return Ok(()),
            Err(error) => return Err(error),
        };
        match self.verify(&log) {
            Err(_) if fs.is_frozen() => return Ok(()),
            verified => verified?,
        }
        if crashes {
            self.inject(fs);
        }
        for _ in 0..self.random.random_range(1..30) {
            self.round(&log);
            if self.random.random_bool(0.1) {
                match self.compare(&log) {
                    Err(_) if fs.is_frozen() => {}
                    compared => compared?,
                }
            }
        }
        if crashes && self.random.random_bool(0.5) {
            fs.freeze_at(fs.operations());
        }
        log.close();
        let counters = log.counters();
        self.end.copied += counters.copied_entries;
        let fatal = self.fatal.lock().expect("unpoisoned").take();
        // A disk that fails is part of the game, a writer that panics is not.
        match fatal.filter(|cause| cause.contains("panicked")) {
            Some(cause) => Err(cause),
            None => Ok(()),
        }
    }

    fn inject(&mut self, fs: &FaultFs) {
        fs.freeze_at(fs.operations() + self.random.random_range(0..150));
        for (operation, kind) in [
            (Operation::SyncData, FaultKind::Io),
            (Operation::Write, FaultKind::TornWrite),
        ] {
            if self.random.random_bool(0.1) {
                fs.inject(Fault {
                    operation: Some(operation),
                    path: ".seg".to_owned(),
                    skip: self.random.random_range(0..30),
                    kind,
                });
            }
        }
    }

    /// Some changes that become one group of the journal, whatever the threads' luck.
    fn round(&mut self, log: &RaftLog) {
        let (entered, inside) = mpsc::sync_channel(1);
        let (open_gate, gate) = mpsc::sync_channel::<()>(1);
        let held = log.flush(move |_| {
            entered.send(()).expect("the test listens");
            gate.recv_timeout(DEADLINE).expect("the gate opens");
        });
        if held.is_err() {
            return;
        }
        inside.recv_timeout(DEADLINE).expect("the writer runs");
        for _ in 0..self.random.random_range(1..5) {
            let group = self.random.random_range(0..GROUPS);
            let due = group != LAGGING || self.random.random_bool(0.3);
            if due && self.change(log, group).is_err() {
                // The log was closed, and is unchanged.
                break;
            }
        }
        let (done, completion) = mpsc::sync_channel(1);
        let flushed = log.flush(move |_| done.send(()).expect("the test listens"));
        open_gate.send(()).expect("the writer waits");
        if flushed.is_ok() {
            completion.recv_timeout(DEADLINE).expect("completed");
        }
    }

    fn change(&mut self, log: &RaftLog, group: u32) -> Result<(), Refused> {
        self.stamp += 1;
        let stamp = Bytes::from(format!("stamp {}", self.stamp));
        let lagging = group == LAGGING;
        let id = GroupId(group);
        let history = &mut self.histories[group as usize];
        match self.random.random_range(0..100) {
            0..45 => {
                if self.random.random_bool(0.2) {
                    history.term += 1;
                }
                let count = self.random.random_range(1..6);
                let sent = some_entries(&mut self.random, history, count);
                let Ok(room) = log.reserve(bytes(&sent)) else {
                    return Err(Refused::Closed);
                };
                let acknowledged = Arc::clone(&self.acknowledged);
                let at = history.states.len() + sent.len() - 1
                    + usize::from(history.committed.is_some());
                log.append(room, id, &sent, acknowledge(acknowledged, group, at))?;
                for entry in sent {
                    history.push(|state| drop(state.entries.insert(entry.id.index, entry)));
                }
                assert_eq!(history.end_of_batch(), at);
            }
            45..60 => {
                let first = history.head().entries.keys().next().copied();
                let Some(first) = first.filter(|_| !lagging || self.stamp.is_multiple_of(4)) else {
                    return Ok(());
                };
                let from = self.random.random_range(first..=history.head().next());
                log.truncate(id, from)?;
                if from < history.head().next() {
                    history.push(|state| state.truncate(from));
                    history.end_of_batch();
                    // The new leader's entries differ from those it takes away.
                    history.term += 1;
                    self.end.truncations += 1;
                }
            }
            60..80 => {
                if lagging && !self.stamp.is_multiple_of(8) {
                    return Ok(());
                }
                let (first, last) = (history.head().entries.keys().next(), history.head().next());
                let first = first.copied().unwrap_or(last);
                let beyond = u64::from(self.random.random_bool(0.05)) * 3;
                let index = self.random.random_range(first..=last) + beyond;
                let held = history.head().entries.get(&index).map(|entry| entry.id);
                let upto = held.unwrap_or(entry(history.term, index, 0).id);
                log.purge(id, upto)?;
                history.push(|state| state.purge(upto));
                history.end_of_batch();
            }
            80..92 => {
                let acknowledged = Arc::clone(&self.acknowledged);
                let at = history.states.len() + usize::from(history.committed.is_some());
                log.save_vote(id, stamp.clone(), acknowledge(acknowledged, group, at))?;
                history.push(|state| state.vote = Some(stamp));
                assert_eq!(history.end_of_batch(), at);
            }
            92..99 => {
                log.save_committed(id, stamp.clone());
                history.committed = Some(stamp);
            }
            _ => {
                log.remove(id)?;
                history.committed = None;
                history.push(|state| *state = Model::default());
            }
        }
        Ok(())
    }

    /// Compares what callers see now.
    fn compare(&mut self, log: &RaftLog) -> Result<(), String> {
        for (group, history) in (0..GROUPS).zip(&self.histories) {
            let read = Model::read(log, GroupId(group))?;
            if read != history.seen() {
                return Err(format!(
                    "group {group} shows {}, not {}",
                    brief(&read),
                    brief(&history.seen())
                ));
            }
            let (from, to) = (
                self.random.random_range(0..40),
                self.random.random_range(0..80),
            );
            let part = log.entries(GroupId(group), from..to, usize::MAX);
            let expected: Vec<&LogEntry> = history
                .head()
                .entries
                .values()
                .filter(|entry| (from..to).contains(&entry.id.index))
                .collect();
            let part = part.map_err(|error| error.to_string())?;
            if part.iter().collect::<Vec<_>>() != expected {
                return Err(format!("group {group} from {from} to {to} is {part:?}"));
            }
        }
        Ok(())
    }

    /// Looks for what came back in the history, and begins a new one with it.
    fn verify(&mut self, log: &RaftLog) -> Result<(), String> {
        let mut acknowledged = self.acknowledged.lock().expect("unpoisoned");
        for group in 0..GROUPS {
            let history = &mut self.histories[group as usize];
            // A close writes what waited.
            history.end_of_batch();
            let read = Model::read(log, GroupId(group))?;
            let at = acknowledged[group as usize];
            let found = history.states.iter().rposition(|state| *state == read);
            match found {
                Some(found) if found >= at => {
                    self.end.acknowledged += at as u64;
                    self.end.unfinished += (history.states.len() - 1 - found) as u64;
                }
                Some(found) => {
                    return Err(format!(
                        "group {group} came back as after change {found}, {at} was acknowledged"
                    ));
                }
                None => {
                    return Err(format!(
                        "group {group} came back as it never was: {}, acknowledged {}, last {}",
                        brief(&read),
                        brief(&history.states[at]),
                        brief(history.head()),
                    ));
                }
            }
            self.end.dropped += read.purged.map_or(0, |purged| purged.index);
            // Terms never come again, or two leaders would name different entries alike.
            *history = History::of(read, history.term + 1);
            acknowledged[group as usize] = 0;
        }
        Ok(())
    }
}

fn some_entries(random: &mut SmallRng, history: &History, count: u64) -> Vec<LogEntry> {
    let next = history.head().next();
    (next..next + count)
        .map(|index| entry(history.term, index, random.random_range(0..300)))
        .collect()
}

fn acknowledge(
    acknowledged: Arc<Mutex<Vec<usize>>>,
    group: u32,
    at: usize,
) -> impl FnOnce(Result<(), tidewire_storage::raft::AppendError>) + Send + 'static {
    move |result| {
        if result.is_ok() {
            let mut acknowledged = acknowledged.lock().expect("unpoisoned");
            let last = &mut acknowledged[group as usize];
            assert!(*last <= at, "acknowledged in order");
            *last = at;
        }
    }
}

fn brief(model: &Model) -> String {
    let ids: Vec<String> = model
        .entries
        .values()
        .map(|entry| entry.id.to_string())
        .collect();
    let purged = model.purged.map(|id: LogId| id.to_string());
    format!(
        "[{}] purged {purged:?}, vote {:?}, committed {:?}",
        ids.join(" "),
        model.vote,
        model.committed
    )
}

#[test]
fn a_flipped_bit_is_reported_or_changes_nothing_or_cuts_the_torn_tail() {
    let mut world = World {
        random: SmallRng::seed_from_u64(1),
        histories: (0..GROUPS)
            .map(|_| History::of(Model::default(), 1))
            .collect(),
        acknowledged: Arc::new(Mutex::new(vec![0; GROUPS as usize])),
        fatal: Arc::default(),
        stamp: 0,
        end: End::default(),
    };
    let written = FaultFs::new(1);
    let log = world
        .open(&written, Defects::default())
        .expect("an empty disk");
    for _ in 0..60 {
        world.round(&log);
    }
    // Killed, not closed: the end of the last segment counts as a tail that may be torn.
    let written = written.kill();
    drop(log);
    let (mut reported, mut cut, mut same) = (0, 0, 0);
    for name in crate::raft::segments(&written) {
        for _ in 0..150 {
            let fs = written.copy();
            let at = fs.rot(&name);
            let log = match crate::raft::try_open(&fs, &crate::raft::small()) {
                Ok(log) => log,
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains(".seg") && text.contains("offset"), "{text}");
                    reported += 1;
                    continue;
                }
            };
            let mut whole = true;
            for group in 0..GROUPS {
                let read = Model::read(&log, GroupId(group)).expect("readable");
                let history = &world.histories[group as usize];
                whole &= read == *history.head();
                assert!(
                    history.states.contains(&read),
                    "{name:?} at {at}: group {group} never was so: {}",
                    brief(&read)
                );
            }
            match whole {
                true => same += 1,
                false => cut += 1,
            }
        }
    }
    assert!(
        reported > 200 && cut > 0 && same > 0,
        "{reported} {cut} {same}"
    );
}

#[test]
fn a_bit_that_rots_while_the_log_is_open_is_reported_by_the_reader() {
    let fs = FaultFs::new(2);
    let config = Config {
        cache_bytes_limit: 0,
        read_cache_bytes_limit: 0,
        ..crate::raft::small()
    };
    let log = crate::raft::open(&fs, &config);
    let sent: Vec<LogEntry> = (0..10).map(|index| entry(1, index, 100)).collect();
    let (done, completion) = mpsc::sync_channel(1);
    let room = log.reserve(bytes(&sent)).expect("room");
    log.append(room, GroupId(1), &sent, move |_| {
        done.send(()).expect("the test listens");
    })
    .expect("taken");
    completion.recv_timeout(DEADLINE).expect("completed");
    let segment = &crate::raft::segments(&fs)[0];
    fs.flip_bit(segment, 500, 1);

    let refused = log
        .entries(GroupId(1), ALL, usize::MAX)
        .expect_err("damaged");

    let text = refused.to_string();
    assert!(
        text.contains("0000000000000001.seg is damaged at offset"),
        "{text}"
    );
}
