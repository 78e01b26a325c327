//! The Raft log as its users see it, and the model that the other tests hold it to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};

use bytes::Bytes;
use tidewire_storage::fs::{Fault, FaultFs, FaultKind, Fs, Operation};
use tidewire_storage::raft::{
    AppendError, Config, Conflict, Defects, GroupId, LogEntry, LogId, LogState, OpenError, RaftLog,
    ReadError, Refusal, Refused,
};

use crate::log::DEADLINE;

pub(crate) const FOLDER: &str = "/data/raft";
pub(crate) const ALL: std::ops::Range<u64> = 0..u64::MAX;
const ONE: GroupId = GroupId(1);
const TWO: GroupId = GroupId(2);

/// What a group's log is, entry by entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Model {
    pub(crate) purged: Option<LogId>,
    pub(crate) entries: BTreeMap<u64, LogEntry>,
    pub(crate) vote: Option<Bytes>,
    pub(crate) committed: Option<Bytes>,
}

impl Model {
    pub(crate) fn next(&self) -> u64 {
        let last = self.entries.keys().next_back().copied();
        last.or(self.purged.map(|purged| purged.index))
            .map_or(0, |last| last + 1)
    }

    pub(crate) fn truncate(&mut self, from: u64) {
        self.entries.retain(|index, _| *index < from);
    }

    pub(crate) fn purge(&mut self, upto: LogId) {
        if self.purged.is_none_or(|purged| purged.index < upto.index) {
            self.purged = Some(upto);
            self.entries.retain(|index, _| *index > upto.index);
        }
    }

    /// What an open log says about a group, read in full and checked against itself.
    pub(crate) fn read(log: &RaftLog, group: GroupId) -> Result<Self, String> {
        let entries = log
            .entries(group, ALL, usize::MAX)
            .map_err(|error| error.to_string())?;
        let state = log.log_state(group);
        let last = entries.last().map(|entry| entry.id);
        if state.last != last.or(state.last_purged) {
            return Err(format!("group {group} ends at {last:?}, it says {state:?}"));
        }
        let follow = entries
            .iter()
            .zip(entries.iter().skip(1))
            .all(|(one, next)| one.id.index + 1 == next.id.index);
        if !follow {
            return Err(format!("group {group} has a hole"));
        }
        let mut ends: Vec<LogId> = Vec::new();
        for entry in &entries {
            let same =
                |end: &&mut LogId| (end.term, end.leader) == (entry.id.term, entry.id.leader);
            match ends.last_mut().filter(same) {
                Some(end) => *end = entry.id,
                None => ends.push(entry.id),
            }
        }
        if ends != log.leader_ends(group) {
            return Err(format!("group {group}: {ends:?} are not its leaders' ends"));
        }
        Ok(Self {
            purged: state.last_purged,
            entries: entries
                .into_iter()
                .map(|entry| (entry.id.index, entry))
                .collect(),
            vote: log.vote(group),
            committed: log.committed(group),
        })
    }
}

pub(crate) fn small() -> Config {
    Config {
        segment_bytes: 4096,
        ..Config::default()
    }
}

pub(crate) fn open(fs: &FaultFs, config: &Config) -> RaftLog {
    try_open(fs, config).expect("it opens")
}

pub(crate) fn try_open(fs: &FaultFs, config: &Config) -> Result<RaftLog, OpenError> {
    let (fs, folder) = (Arc::new(fs.clone()), Path::new(FOLDER));
    RaftLog::open_sabotaged(fs, folder, config, 7, Defects::default(), |_| {})
}

pub(crate) fn entry(term: u64, index: u64, bytes: usize) -> LogEntry {
    let id = LogId {
        index,
        term,
        leader: term % 3,
    };
    let mut payload = format!("{id}:").into_bytes();
    // Noise, or lz4 would leave nothing of it.
    let mut noise = (index << 1 | 1) ^ (term << 32);
    while payload.len() < bytes {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        payload.push(noise as u8);
    }
    LogEntry {
        id,
        payload: payload.into(),
    }
}

pub(crate) fn entries(term: u64, range: std::ops::Range<u64>) -> Vec<LogEntry> {
    range.map(|index| entry(term, index, 100)).collect()
}

/// Appends and waits for the fsync.
pub(crate) fn append(log: &RaftLog, group: GroupId, entries: &[LogEntry]) {
    let (done, completion) = mpsc::sync_channel(1);
    let room = log.reserve(bytes(entries)).expect("room");
    log.append(room, group, entries, move |result| {
        done.send(result).expect("the test listens");
    })
    .expect("taken");
    let completed = completion.recv_timeout(DEADLINE).expect("completed");
    assert_eq!(completed, Ok(()));
}

pub(crate) fn bytes(entries: &[LogEntry]) -> usize {
    entries.iter().map(LogEntry::log_bytes).sum()
}

fn flush(log: &RaftLog) -> Result<(), AppendError> {
    let (done, completion) = mpsc::sync_channel(1);
    log.flush(move |result| done.send(result).expect("the test listens"))
        .expect("open");
    completion.recv_timeout(DEADLINE).expect("completed")
}

pub(crate) fn segments(fs: &FaultFs) -> Vec<PathBuf> {
    let folder = Path::new(FOLDER);
    let names = fs.list(folder).expect("the folder is there");
    names
        .into_iter()
        .filter(|name| name.ends_with(".seg"))
        .map(|name| folder.join(name))
        .collect()
}

/// Waits until what other threads do has come to this.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let (tick, ticks) = mpsc::sync_channel::<()>(0);
    for _ in 0..DEADLINE.as_millis() / 5 {
        if condition() {
            return;
        }
        let waited = ticks.recv_timeout(std::time::Duration::from_millis(5));
        waited.expect_err("nobody sends");
    }
    drop(tick);
    panic!("never came: {what}");
}

#[test]
fn entries_can_be_read_before_they_are_fsynced_and_after_a_restart() {
    let fs = FaultFs::new(1);
    let log = open(&fs, &small());
    let sent = entries(1, 0..5);
    let room = log.reserve(bytes(&sent)).expect("room");
    // The writer thread is held, so that nothing is fsynced yet.
    let (entered, inside) = mpsc::sync_channel(1);
    let (open_gate, gate) = mpsc::sync_channel::<()>(1);
    log.flush(move |_| {
        entered.send(()).expect("the test listens");
        gate.recv_timeout(DEADLINE).expect("the gate opens");
    })
    .expect("open");
    inside.recv_timeout(DEADLINE).expect("the writer runs");
    log.append(room, ONE, &sent, |_| {}).expect("taken");

    let read = log.entries(ONE, ALL, usize::MAX).expect("readable");

    assert_eq!(read, sent);
    assert_eq!(log.cached_entries(ONE, ALL, usize::MAX), Some(sent.clone()));
    open_gate.send(()).expect("the writer waits");
    log.close();
    drop(log);
    let log = open(&fs, &small());
    assert_eq!(
        log.cached_entries(ONE, ALL, usize::MAX),
        None,
        "after a start the disk has them"
    );
    assert_eq!(log.entries(ONE, ALL, usize::MAX).expect("readable"), sent);
    assert_eq!(
        log.entries(ONE, 1..3, usize::MAX).expect("readable"),
        sent[1..3]
    );
    assert_eq!(
        log.entries(ONE, 1..3, 0).expect("readable"),
        sent[1..2],
        "at least one"
    );
    assert_eq!(log.entries(ONE, 1..5, 250).expect("readable"), sent[1..3]);
    assert_eq!(log.entries(ONE, 3..3, 250).expect("readable"), []);
    assert_eq!(log.entries(TWO, ALL, 250).expect("readable"), []);
    assert_eq!(log.groups(), [ONE]);
}

#[test]
fn a_truncated_log_goes_on_with_other_entries_and_so_it_comes_back() {
    let fs = FaultFs::new(2);
    for cache_bytes_limit in [0, 1 << 20] {
        let config = Config {
            cache_bytes_limit,
            ..small()
        };
        let log = open(&fs, &config);
        log.remove(ONE).expect("open");
        append(&log, ONE, &entries(1, 0..30));
        log.truncate(ONE, 20).expect("open");
        append(&log, ONE, &entries(2, 20..25));
        log.truncate(ONE, 22).expect("open");
        append(&log, ONE, &entries(3, 22..24));
        let expected = [entries(1, 0..20), entries(2, 20..22), entries(3, 22..24)].concat();
        assert_eq!(
            log.entries(ONE, ALL, usize::MAX).expect("readable"),
            expected
        );
        log.close();
        drop(log);

        let log = open(&fs, &config);

        assert_eq!(
            log.entries(ONE, ALL, usize::MAX).expect("readable"),
            expected
        );
        let ends: Vec<u64> = log.leader_ends(ONE).iter().map(|id| id.index).collect();
        assert_eq!(ends, [19, 21, 23]);
    }
}

#[test]
fn a_change_that_contradicts_the_log_is_refused_whole() {
    let log = open(&FaultFs::new(3), &small());
    append(&log, ONE, &entries(1, 0..5));
    let mut sent = entries(1, 5..7);
    sent.extend(entries(1, 8..9));

    let room = log.reserve(bytes(&sent)).expect("room");
    let refused = log.append(room, ONE, &sent, |_| panic!("nothing was taken"));

    let hole = Conflict::Hole {
        index: 8,
        expected: 7,
    };
    assert_eq!(refused, Err(Refused::Conflict(hole)));
    assert_eq!(
        log.entries(ONE, ALL, usize::MAX).expect("readable").len(),
        5
    );
    log.purge(ONE, entry(1, 3, 0).id).expect("open");
    log.purge(ONE, entry(1, 1, 0).id).expect("open");
    assert_eq!(
        log.log_state(ONE),
        LogState {
            last_purged: Some(entry(1, 3, 0).id),
            last: Some(entry(1, 4, 0).id)
        }
    );
    let refused = log.truncate(ONE, 3).expect_err("purged");
    assert_eq!(
        refused.to_string(),
        "entry 3 cannot be truncated, the log is purged up to 1-1-3"
    );
}

#[test]
fn a_lagging_group_is_copied_forward_with_votes_and_the_log_stays_short() {
    let fs = FaultFs::new(4);
    let log = open(&fs, &small());
    log.save_vote(TWO, Bytes::from_static(b"vote"), |_| {})
        .expect("open");
    log.save_committed(TWO, Bytes::from_static(b"committed"));
    let lagging = entries(4, 0..5);
    append(&log, TWO, &lagging);
    log.purge(TWO, lagging[0].id).expect("open");
    for round in 0..100 {
        append(&log, ONE, &entries(1, round * 10..round * 10 + 10));
        if round > 0 {
            log.purge(ONE, entry(1, round * 10 - 1, 0).id)
                .expect("open");
        }
    }
    until("segments are dropped", || segments(&fs).len() < 8);
    assert!(log.counters().copied_entries >= 4, "{:?}", log.counters());
    assert_eq!(
        log.entries(TWO, ALL, usize::MAX).expect("readable"),
        lagging[1..]
    );
    log.close();
    drop(log);

    let log = open(&fs, &small());

    assert_eq!(
        log.entries(TWO, ALL, usize::MAX).expect("readable"),
        lagging[1..]
    );
    assert_eq!(log.vote(TWO), Some(Bytes::from_static(b"vote")));
    assert_eq!(log.committed(TWO), Some(Bytes::from_static(b"committed")));
    assert_eq!(log.log_state(TWO).last_purged, Some(lagging[0].id));
}

#[test]
fn a_group_with_more_entries_holds_the_log_and_is_named() {
    let fs = FaultFs::new(5);
    let config = Config {
        copy_entries_max: 4,
        ..small()
    };
    let log = open(&fs, &config);
    append(&log, TWO, &entries(4, 0..5));
    for round in 0..20 {
        append(&log, ONE, &entries(1, round * 10..round * 10 + 10));
    }
    log.purge(ONE, entry(1, 199, 0).id).expect("open");
    assert_eq!(flush(&log), Ok(()));

    let holders = log.holders();

    assert_eq!(holders.len(), 1, "{holders:?}");
    assert_eq!(
        (holders[0].group, holders[0].segment, holders[0].entries),
        (TWO, 1, 5)
    );
    assert!(holders[0].bytes > 20_000, "{holders:?}");
    assert_eq!(segments(&fs).len() as u64, log.counters().segments);

    log.purge(TWO, entry(4, 0, 0).id).expect("open");
    until("the rest is copied", || log.holders().is_empty());
    until("segments are dropped", || segments(&fs).len() <= 2);
}

#[test]
fn what_was_truncated_or_removed_does_not_hold_the_log() {
    let fs = FaultFs::new(11);
    let config = Config {
        copy_entries_max: 4,
        ..small()
    };
    let log = open(&fs, &config);
    append(&log, TWO, &entries(4, 0..10));
    log.truncate(TWO, 2).expect("open");
    append(&log, GroupId(3), &entries(4, 0..10));
    log.remove(GroupId(3)).expect("open");
    for round in 0..20 {
        append(&log, ONE, &entries(1, round * 10..round * 10 + 10));
    }
    log.purge(ONE, entry(1, 199, 0).id).expect("open");

    until("nobody holds it", || log.holders().is_empty());
    until("segments are dropped", || segments(&fs).len() <= 2);
    assert_eq!(
        log.entries(TWO, ALL, usize::MAX).expect("readable"),
        entries(4, 0..2)
    );
    assert_eq!(log.groups(), [ONE, TWO]);
}

#[test]
fn a_full_disk_holds_appends_in_order_until_there_is_space() {
    let fs = FaultFs::new(6);
    let config = Config {
        segment_bytes: 64 << 10,
        ..small()
    };
    let log = open(&fs, &config);
    append(&log, ONE, &entries(1, 0..1));
    fs.limit_bytes(Some(0));
    let order = Arc::new(Mutex::new(Vec::new()));
    let (done, completions) = mpsc::sync_channel(2000);
    let mut next = 1;
    while !log.counters().journal.waits_for_space || next < 500 {
        let sent = entries(1, next..next + 10);
        let room = log.reserve(bytes(&sent)).expect("room");
        let (order, done) = (Arc::clone(&order), done.clone());
        log.append(room, ONE, &sent, move |result| {
            order.lock().expect("unpoisoned").push((next, result));
            done.send(()).expect("the test listens");
        })
        .expect("taken");
        next += 10;
        assert!(next < 20_000, "the disk never fills");
    }
    let last = next - 10;
    let acknowledged = order.lock().expect("unpoisoned").len();
    assert!(log.counters().journal.waits_for_space);
    assert_eq!(
        log.log_state(ONE).last.map(|id| id.index),
        Some(next - 1),
        "readable"
    );

    fs.limit_bytes(None);
    until("all is acknowledged", || {
        order
            .lock()
            .expect("unpoisoned")
            .last()
            .is_some_and(|(at, _)| *at == last)
    });

    let order = order.lock().expect("unpoisoned").clone();
    assert!(order.len() > acknowledged);
    assert!(order.iter().all(|(_, result)| *result == Ok(())));
    assert!(order.is_sorted_by_key(|(at, _)| *at));
    drop(completions);
    assert!(!log.counters().journal.waits_for_space);
    let fs = fs.crash();
    drop(log);
    let read = Model::read(&open(&fs, &config), ONE).expect("readable");
    assert_eq!(read.entries.len() as u64, next);
}

#[test]
fn a_close_on_a_full_disk_acknowledges_nothing_and_leaves_no_hole() {
    let fs = FaultFs::new(7);
    let log = open(&fs, &small());
    append(&log, ONE, &entries(1, 0..1));
    fs.limit_bytes(Some(0));
    let results = Arc::new(Mutex::new(Vec::new()));
    for next in 1..100 {
        let sent = entries(1, next..next + 1);
        let room = log.reserve(bytes(&sent)).expect("room");
        let results = Arc::clone(&results);
        log.append(room, ONE, &sent, move |result| {
            results.lock().expect("unpoisoned").push(result);
        })
        .expect("taken");
    }
    until("the disk is full", || {
        log.counters().journal.waits_for_space
    });
    log.close();
    drop(log);

    let acknowledged = results.lock().expect("unpoisoned").clone();
    assert_eq!(acknowledged.len(), 99, "every callback comes");
    let kept = acknowledged.iter().filter(|result| result.is_ok()).count();
    assert!(kept < 99);
    assert!(acknowledged[kept..].iter().all(Result::is_err));
    fs.limit_bytes(None);
    let log = open(&fs, &small());
    assert_eq!(
        log.log_state(ONE).last.map(|id| id.index),
        Some(kept as u64)
    );
}

#[test]
fn a_failed_fsync_ends_the_log_and_is_told() {
    let fs = FaultFs::new(8);
    let (told, fatal) = mpsc::sync_channel(1);
    let log = RaftLog::open(
        Arc::new(fs.clone()),
        Path::new(FOLDER),
        &small(),
        move |fatal| {
            told.send(fatal.cause).expect("the test listens");
        },
    )
    .expect("an empty disk");
    append(&log, ONE, &entries(1, 0..1));
    fs.inject(Fault {
        operation: Some(Operation::SyncData),
        path: String::new(),
        skip: 0,
        kind: FaultKind::Io,
    });
    let (done, completion) = mpsc::sync_channel(2);
    let second = done.clone();
    log.save_vote(ONE, Bytes::from_static(b"v"), move |result| {
        done.send(result).expect("the test listens");
    })
    .expect("open");

    let completed = completion.recv_timeout(DEADLINE).expect("completed");
    assert_eq!(completed, Err(AppendError::Failed));
    let cause = fatal.recv_timeout(DEADLINE).expect("told");
    assert!(
        cause.contains("input/output error") && cause.contains(".seg"),
        "{cause}"
    );
    let refused = log.save_vote(ONE, Bytes::from_static(b"w"), move |result| {
        second.send(result).expect("the test listens");
    });
    assert_eq!(refused, Err(Refused::Closed));
    assert_eq!(log.reserve(10).map(|_| ()), Err(Refusal::Closed));
}

#[test]
fn the_queue_is_bounded_and_tells_when_there_is_room() {
    let config = Config {
        queue_bytes_limit: 20_000,
        ..small()
    };
    let log = open(&FaultFs::new(9), &config);
    let (entered, inside) = mpsc::sync_channel(1);
    let (open_gate, gate) = mpsc::sync_channel::<()>(1);
    log.flush(move |_| {
        entered.send(()).expect("the test listens");
        gate.recv_timeout(DEADLINE).expect("the gate opens");
    })
    .expect("open");
    inside.recv_timeout(DEADLINE).expect("the writer runs");
    let held = log.reserve(19_000).expect("room");

    assert_eq!(log.reserve(19_000).map(|_| ()), Err(Refusal::Full));
    // A vote is never refused for this.
    log.save_vote(ONE, Bytes::from_static(b"v"), |_| {})
        .expect("open");
    let (told, room) = mpsc::sync_channel(1);
    log.on_room(move || told.send(()).expect("the test listens"));
    drop(held);
    open_gate.send(()).expect("the writer waits");
    room.recv_timeout(DEADLINE).expect("told");
}

#[test]
fn the_cache_stays_within_its_bytes() {
    let config = Config {
        cache_bytes_limit: 10_000,
        segment_bytes: 1 << 20,
        ..small()
    };
    let log = open(&FaultFs::new(10), &config);
    for round in 0..50 {
        append(&log, ONE, &entries(1, round * 10..round * 10 + 10));
        append(&log, TWO, &entries(1, round * 10..round * 10 + 10));
        assert!(
            log.counters().cached_bytes <= 10_000,
            "{:?}",
            log.counters()
        );
    }
    assert!(log.counters().cached_bytes > 5_000, "{:?}", log.counters());
    assert_eq!(log.cached_entries(ONE, ALL, usize::MAX), None);
    assert_eq!(
        log.cached_entries(ONE, 499..500, 0),
        Some(entries(1, 499..500))
    );
    assert_eq!(
        log.entries(ONE, ALL, usize::MAX).expect("readable"),
        entries(1, 0..500)
    );
}

/// Each group has a writer of its own, and all are read meanwhile, from files that are being
/// removed and entries that are being copied.
#[test]
fn readers_beside_writers_see_logs_without_holes_or_strangers() {
    let config = Config {
        cache_bytes_limit: 2000,
        read_cache_bytes_limit: 2000,
        ..small()
    };
    let log = open(&FaultFs::new(12), &config);
    let ended = std::sync::atomic::AtomicBool::new(false);
    let reads = std::thread::scope(|scope| {
        let log = &log;
        let ended = &ended;
        let readers: Vec<_> = (0..2)
            .map(|_| scope.spawn(move || read_until(log, ended)))
            .collect();
        let writers: Vec<_> = (1..4)
            .map(|group| scope.spawn(move || write_rounds(log, GroupId(group), 150)))
            .collect();
        for writer in writers {
            writer.join().expect("a writer ends well");
        }
        ended.store(true, std::sync::atomic::Ordering::Release);
        readers
            .into_iter()
            .map(|reader| reader.join().expect("a reader ends well"))
            .sum::<u64>()
    });
    assert!(reads > 100, "{reads} entries read");
    assert!(log.counters().journal.groups > 100);
}

/// Appends, truncates and purges as one leader after the other; keeps a few entries.
fn write_rounds(log: &RaftLog, group: GroupId, rounds: u64) {
    let mut next = 0;
    for term in 1..rounds {
        append(log, group, &entries(term, next..next + 8));
        next += 8;
        if term % 3 == 0 {
            next -= 5;
            log.truncate(group, next).expect("open");
        }
        if let Some(upto) = next.checked_sub(20).filter(|_| term % 4 == 0) {
            let held = log.entries(group, upto..upto + 1, 0).expect("readable");
            log.purge(group, held[0].id).expect("open");
        }
    }
}

/// Reads everything again and again; returns how many entries.
fn read_until(log: &RaftLog, ended: &std::sync::atomic::AtomicBool) -> u64 {
    let mut reads = 0;
    while !ended.load(std::sync::atomic::Ordering::Acquire) {
        for group in (1..4).map(GroupId) {
            let read = match log.entries(group, ALL, usize::MAX) {
                Err(ReadError::Changing(_)) => continue,
                read => read.expect("readable"),
            };
            reads += read.len() as u64;
            let first = read.first().map_or(0, |first| first.id.index);
            for (index, found) in (first..).zip(&read) {
                assert_eq!(*found, entry(found.id.term, index, 100), "group {group}");
            }
            assert!(
                read.is_sorted_by_key(|entry| entry.id.term),
                "group {group}"
            );
        }
    }
    reads
}
