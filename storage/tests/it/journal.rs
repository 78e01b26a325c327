//! The journal's files: damage, foreign folders, owners.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};

use proptest::prelude::*;
use tidewire_storage::fs::{Fault, FaultFs, FaultKind, Fs, Operation, RealFs};
use tidewire_storage::journal::{
    Batch, Config, Frame, Journal, Layout, OpenError, Position, SegmentStart,
};

use crate::log::DEADLINE;

const FOLDER: &str = "/data/journal";

#[test]
fn every_flipped_bit_in_fsynced_segments_is_reported_with_its_file_or_changes_nothing() {
    let written = {
        let fs = FaultFs::new(1);
        write(&fs, 40);
        fs
    };
    let names = segments(&written);
    assert!(names.len() >= 3, "{names:?}");
    let whole = reopen(&written.copy()).expect("sound");

    let mut reported = 0;
    for (number, name) in names.iter().enumerate() {
        let path = Path::new(FOLDER).join(name);
        let len = written
            .open(&path)
            .expect("it exists")
            .len()
            .expect("it has a length");
        for offset in (0..len).step_by(97) {
            let fs = written.copy();
            fs.flip_bit(&path, offset, (offset % 8) as u8);
            match reopen(&fs) {
                Ok(found) => {
                    // Reserved space, padding and unused header bytes mean nothing.
                    assert_eq!(found, whole, "{name} at {offset}");
                }
                Err(OpenError::Damaged {
                    file, offset: at, ..
                }) => {
                    // A segment's claim about the one before is checked there, too.
                    let near = number.saturating_sub(1)..=number;
                    let reported_in = names
                        .iter()
                        .position(|name| file.ends_with(name))
                        .expect("one of ours");
                    assert!(near.contains(&reported_in), "{file:?} for {name}");
                    assert!(at <= offset || reported_in != number, "{at} for {offset}");
                    reported += 1;
                }
                Err(error) => panic!("{name} at {offset}: {error}"),
            }
        }
    }
    assert!(reported > 50, "{reported} flips reported");
}

#[test]
fn damage_in_the_middle_of_the_last_segment_is_told_from_a_torn_tail() {
    let fs = FaultFs::new(2);
    let config = Config {
        segment_bytes: 1 << 20,
        ..config()
    };
    let (journal, layout) = open_with(&fs, &config).expect("an empty disk");
    for id in 0..10 {
        append(&journal, id);
    }
    let positions = layout.positions();
    // The process dies without closing.
    let fs = fs.kill();
    drop(journal);
    let (file, at) = (path(1), positions[5].offset + 40);
    fs.flip_bit(&file, at, 3);

    let refused = open_with(&fs, &config).map(|_| ()).expect_err("damaged");

    let OpenError::Damaged { file, offset, .. } = &refused else {
        panic!("{refused}");
    };
    assert_eq!(
        (file.as_path(), *offset),
        (path(1).as_path(), positions[5].offset)
    );
    let text = refused.to_string();
    assert!(
        text.contains("0000000000000001.seg is damaged at offset"),
        "{text}"
    );
}

#[test]
fn damage_to_the_last_group_after_a_clean_close_is_no_torn_tail() {
    let fs = FaultFs::new(3);
    let (journal, layout) = open_with(&fs, &config()).expect("an empty disk");
    append(&journal, 0);
    let last = layout.positions()[0];
    journal.close();
    fs.flip_bit(&path(1), last.offset + 40, 0);

    let refused = open_with(&fs, &config()).map(|_| ()).expect_err("damaged");

    assert!(
        matches!(refused, OpenError::Damaged { offset, .. } if offset == last.offset),
        "{refused}"
    );
}

#[test]
fn a_frame_of_a_later_version_is_refused_and_never_cut() {
    let fs = FaultFs::new(15);
    let (journal, layout) = open_with(&fs, &config()).expect("an empty disk");
    append(&journal, 0);
    let last = layout.positions()[0];
    let fs = fs.kill();
    drop(journal);
    let file = fs.open(&path(1)).expect("it exists");
    file.write_at(last.offset + 4, &[2]).expect("possible");

    let refused = reopen(&fs).expect_err("unknown");

    let text = refused.to_string();
    assert!(
        text.contains("version 2 of the frame is not known"),
        "{text}"
    );
}

#[test]
fn any_bytes_written_over_a_segment_are_refused_or_cut_but_never_panic_or_invent() {
    let written = FaultFs::new(16);
    let (journal, _) = open_with(&written, &config()).expect("an empty disk");
    for id in 0..10 {
        append(&journal, id);
    }
    let written = written.kill();
    drop(journal);
    let range = (0_u64..3000, proptest::collection::vec(any::<u8>(), 1..200));
    proptest!(ProptestConfig::with_cases(300), |((offset, bytes) in range)| {
        let fs = written.copy();
        let file = fs.open(&path(1)).expect("it exists");
        file.write_at(offset, &bytes).expect("possible");
        if let Ok(found) = reopen(&fs) {
            let expected: Vec<u64> = (0..found.len() as u64).collect();
            prop_assert_eq!(found, expected);
        }
    });
}

#[test]
fn a_lost_segment_in_the_middle_is_named() {
    let fs = FaultFs::new(4);
    write(&fs, 40);
    fs.unlink(&path(2)).expect("it exists");

    let refused = reopen(&fs).expect_err("a gap");

    assert!(
        matches!(refused, OpenError::Missing { sequence: 2, .. }),
        "{refused}"
    );
}

#[test]
fn a_folder_with_other_files_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    std::fs::write(folder.path().join("holiday.jpg"), b"...").expect("writable");

    let (layout, _) = Recorder::new();
    let fs = Arc::new(RealFs);
    let refused = Journal::open(fs, folder.path(), &config(), layout, |_| {}).expect_err("foreign");

    assert!(refused.to_string().contains("holiday.jpg"), "{refused}");
    let names = RealFs.list(folder.path()).expect("readable");
    assert_eq!(names, ["holiday.jpg"]);
}

#[test]
fn a_segment_that_is_no_segment_is_refused() {
    let fs = FaultFs::new(5);
    fs.create_dir_all(Path::new(FOLDER)).expect("possible");
    let file = fs.create(&path(1)).expect("possible");
    file.write_at(0, &[7; 500]).expect("possible");

    let refused = reopen(&fs).expect_err("foreign bytes");

    assert!(
        refused.to_string().contains("no segment of a journal"),
        "{refused}"
    );
}

#[test]
fn the_journal_of_another_owner_is_refused() {
    let fs = FaultFs::new(6);
    write(&fs, 1);
    let other = Config {
        owner: *b"RAFT",
        ..config()
    };
    let refused = open_with(&fs, &other)
        .map(|_| ())
        .expect_err("another owner");
    assert!(
        refused.to_string().contains("`TEST`, not to `RAFT`"),
        "{refused}"
    );
}

#[test]
fn a_second_owner_of_the_folder_is_refused_by_process_and_folder() {
    let fs = FaultFs::new(7);
    let (journal, _) = open_with(&fs, &config()).expect("an empty disk");

    let refused = open_with(&fs, &config()).map(|_| ()).expect_err("taken");

    let text = refused.to_string();
    assert!(matches!(refused, OpenError::Locked(_)), "{text}");
    assert!(
        text.contains(FOLDER) && text.contains(&std::process::id().to_string()),
        "{text}"
    );
    drop(journal);
    open_with(&fs, &config()).map(|_| ()).expect("let go");
}

#[test]
fn an_unfinished_segment_is_no_part_of_the_journal() {
    let fs = FaultFs::new(8);
    write(&fs, 3);
    let unfinished = Path::new(FOLDER).join("0000000000000002.seg.tmp");
    let file = fs.create(&unfinished).expect("possible");
    file.write_at(0, &[7; 500]).expect("possible");

    assert_eq!(reopen(&fs).expect("sound").len(), 3);
    assert!(!fs.exists(&unfinished).expect("possible"));
}

#[test]
fn an_error_while_a_segment_is_begun_ends_the_journal_and_loses_nothing() {
    let beginnings = [
        Operation::Create,
        Operation::Write,
        Operation::SyncData,
        Operation::Rename,
        Operation::SyncDir,
        Operation::Open,
    ];
    for operation in beginnings {
        let fs = FaultFs::new(9);
        let (journal, _) = open_with(&fs, &config()).expect("an empty disk");
        fs.inject(Fault {
            operation: Some(operation),
            path: if operation == Operation::SyncDir {
                ""
            } else {
                "0002.seg"
            }
            .to_owned(),
            skip: 0,
            kind: FaultKind::Io,
        });
        let mut acknowledged = 0;
        while try_append(&journal, acknowledged).is_ok() {
            acknowledged += 1;
            assert!(acknowledged < 1000, "{operation} never failed");
        }
        drop(journal);
        for fs in [fs.crash(), fs.kill()] {
            let found = reopen(&fs).expect("recoverable");
            assert!(
                found.len() >= acknowledged as usize,
                "{operation}: {found:?}"
            );
        }
    }
}

#[test]
fn a_disk_that_fills_while_a_segment_is_begun_is_no_end() {
    for operation in [Operation::Create, Operation::Preallocate, Operation::Write] {
        let fs = FaultFs::new(10);
        let (journal, _) = open_with(&fs, &config()).expect("an empty disk");
        fs.inject(Fault {
            operation: Some(operation),
            path: "0002.seg".to_owned(),
            skip: 0,
            kind: FaultKind::NoSpace,
        });
        let mut id = 0;
        while try_append(&journal, id).is_ok() {
            id += 1;
            assert!(id < 1000, "{operation} never failed");
        }
        let refused_at = id;
        for id in refused_at..refused_at + 40 {
            assert_eq!(try_append(&journal, id), Ok(()), "after {operation}");
        }
        drop(journal);
        let found = reopen(&fs).expect("sound");
        assert_eq!(found, (0..refused_at + 40).collect::<Vec<_>>());
    }
}

#[test]
fn what_was_written_but_never_fsynced_is_made_durable_before_it_is_believed() {
    let fs = FaultFs::new(11);
    let (journal, _) = open_with(&fs, &config()).expect("an empty disk");
    append(&journal, 0);
    fs.inject(Fault {
        operation: Some(Operation::SyncData),
        path: ".seg".to_owned(),
        skip: 0,
        kind: FaultKind::Io,
    });
    assert!(try_append(&journal, 1).is_err());
    drop(journal);

    // The kernel holds the record as clean: only writing it again brings it to the disk.
    let fs = fs.kill();
    let believed = reopen_and_die(&fs).expect("sound");
    let after_power_loss = reopen(&fs.crash()).expect("sound");

    assert_eq!(believed, [0, 1]);
    assert_eq!(after_power_loss, believed);
}

#[test]
fn the_bytes_of_a_segment_are_these() {
    let fs = FaultFs::new(12);
    let (journal, _) = open_with(&fs, &config()).expect("an empty disk");
    let room = journal.reserve(100).expect("empty");
    let mut batch = Batch::default();
    batch.push(0x0a0b, |out| out.extend_from_slice(b"hello"));
    batch.push(2, |out| out.extend_from_slice(b""));
    let (done, completion) = mpsc::sync_channel(64);
    let done = Box::new(move |result| done.send(result).expect("the test listens"));
    journal.append(room, batch, done);
    completion
        .recv_timeout(DEADLINE)
        .expect("done")
        .expect("fsynced");

    let bytes = fs.read(&path(1)).expect("readable");

    let hex = |range: std::ops::Range<usize>| -> String {
        bytes[range]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    };
    // Segment header, the preamble's frame ("state"), the frame of the two entries.
    assert_eq!(hex(0..64), GOLDEN_HEADER);
    assert_eq!(hex(64..104), GOLDEN_PREAMBLE);
    assert_eq!(hex(104..176), GOLDEN_ENTRIES);
    assert!(bytes[176..].iter().all(|byte| *byte == 0), "reserved space");
}

const GOLDEN_HEADER: &str = "54574a4f55524e4c01004000544553540100000000000000010000007fd0c5cf20f5aa57577da3190000000000000000000000000000000000000000d00874ce";
const GOLDEN_PREAMBLE: &str =
    "54574a46010100000500000005000000000000009ffea0a700000000000000007374617465000000";
const GOLDEN_ENTRIES: &str = "54574a46010200002500000025000000020000002bc2b0b868000000000000000b0a000005000000000000000000000068656c6c6f02000000000000000100000000000000000000";

#[test]
fn entries_that_repeat_themselves_are_stored_smaller_and_come_back() {
    let fs = FaultFs::new(13);
    let large = Config {
        segment_bytes: 1 << 20,
        ..config()
    };
    let (journal, _) = open_with(&fs, &large).expect("an empty disk");
    let mut batch = Batch::default();
    for id in 0..100_u64 {
        batch.push(0, |out| {
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&[b'x'; 1000]);
        });
    }
    let room = journal.reserve(batch.bytes()).expect("empty");
    journal.append(room, batch, Box::new(|result| result.expect("fsynced")));
    journal.close();

    assert!(journal.counters().written_bytes < 20_000);
    let (_, layout) = open_with(&fs, &large).expect("sound");
    assert_eq!(layout.ids(), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_panic_on_the_writer_thread_ends_the_journal() {
    let fs = Arc::new(FaultFs::new(14));
    let (layout, _) = Recorder::new();
    let (fatal, fatals) = mpsc::sync_channel(64);
    let journal = Journal::open(fs, Path::new(FOLDER), &config(), layout, move |why| {
        fatal.send(why.cause).expect("the test listens");
    })
    .expect("an empty disk");
    let room = journal.reserve(10).expect("empty");
    let broken = Box::new(|_| panic!("a callback with a mistake"));
    let mut batch = Batch::default();
    batch.push(0, |out| out.extend_from_slice(&[0; 8]));

    journal.append(room, batch, broken);

    let cause = fatals.recv_timeout(DEADLINE).expect("told");
    assert!(cause.contains("panicked"), "{cause}");
    assert!(journal.reserve(10).is_err());
}

// ---

/// Counts entries and remembers what it was told.
struct Recorder {
    told: Arc<Told>,
    number: u64,
}

#[derive(Default)]
struct Told {
    frames: Mutex<Vec<Arc<Frame>>>,
}

impl Recorder {
    fn new() -> (Self, Arc<Told>) {
        let told = Arc::new(Told::default());
        let layout = Self {
            told: Arc::clone(&told),
            number: 0,
        };
        (layout, told)
    }
}

impl Told {
    fn positions(&self) -> Vec<Position> {
        let frames = self.frames.lock().expect("unpoisoned");
        frames.iter().map(|frame| frame.position).collect()
    }

    fn ids(&self) -> Vec<u64> {
        let frames = self.frames.lock().expect("unpoisoned");
        frames
            .iter()
            .flat_map(|frame| frame.entries().collect::<Vec<_>>())
            .map(|entry| u64::from_le_bytes(*entry.payload.first_chunk().expect("an id")))
            .collect()
    }
}

impl Layout for Recorder {
    fn recover_segment(&mut self, _: &SegmentStart, preamble: &[u8]) -> Result<(), String> {
        if preamble != b"state" {
            return Err("another preamble".to_owned());
        }
        Ok(())
    }

    fn recover_frame(&mut self, frame: &Frame) -> Result<(), String> {
        for entry in frame.entries() {
            if entry.number != self.number {
                return Err(format!(
                    "number {} instead of {}",
                    entry.number, self.number
                ));
            }
            self.number += 1;
        }
        let mut frames = self.told.frames.lock().expect("unpoisoned");
        frames.push(Arc::new(frame.clone()));
        Ok(())
    }

    fn preamble(&mut self, _: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"state");
    }

    fn segment_started(&mut self, _: &SegmentStart) {}

    fn number(&mut self, _: u32) -> u64 {
        self.number += 1;
        self.number - 1
    }

    fn synced(&mut self, frames: Vec<Arc<Frame>>) {
        self.told.frames.lock().expect("unpoisoned").extend(frames);
    }

    fn closed(&mut self) {}
}

fn config() -> Config {
    Config {
        segment_bytes: 4096,
        seed: Some(1),
        ..Config::new(*b"TEST", "test-writer")
    }
}

fn path(sequence: u64) -> PathBuf {
    Path::new(FOLDER).join(format!("{sequence:016x}.seg"))
}

fn segments(fs: &FaultFs) -> Vec<String> {
    let mut names = fs.list(Path::new(FOLDER)).expect("it exists");
    names.retain(|name| name.ends_with(".seg"));
    names
}

fn open_with(fs: &FaultFs, config: &Config) -> Result<(Journal, Arc<Told>), OpenError> {
    let (layout, told) = Recorder::new();
    let fs = Arc::new(fs.clone());
    let journal = Journal::open(fs, Path::new(FOLDER), config, layout, |_| {})?;
    Ok((journal, told))
}

/// Writes entries one by one and closes.
fn write(fs: &FaultFs, entries: u64) {
    let (journal, _) = open_with(fs, &config()).expect("sound");
    for id in 0..entries {
        append(&journal, id);
    }
}

fn reopen(fs: &FaultFs) -> Result<Vec<u64>, OpenError> {
    let (_journal, told) = open_with(fs, &config())?;
    Ok(told.ids())
}

/// Opens, and lets the process die without closing.
fn reopen_and_die(fs: &FaultFs) -> Result<Vec<u64>, OpenError> {
    let (journal, told) = open_with(fs, &config())?;
    fs.freeze_at(fs.operations());
    drop(journal);
    Ok(told.ids())
}

fn try_append(journal: &Journal, id: u64) -> Result<(), tidewire_storage::journal::AppendError> {
    let mut batch = Batch::default();
    batch.push(1, |out| {
        out.extend_from_slice(&id.to_le_bytes());
        out.extend((0..200_u64).map(|n| (n.wrapping_mul(id + 7919) >> 3) as u8));
    });
    let room = journal.reserve(batch.bytes()).expect("there is room");
    let (done, completion) = mpsc::sync_channel(64);
    let done = Box::new(move |result| done.send(result).expect("the test listens"));
    journal.append(room, batch, done);
    completion.recv_timeout(DEADLINE).expect("completed")
}

fn append(journal: &Journal, id: u64) {
    try_append(journal, id).expect("fsynced");
}
