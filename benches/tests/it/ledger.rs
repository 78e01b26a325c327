use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use tidewire_benches::ledger::{Entry, Error, Header, Reader, Writer};
use tidewire_benches::profile;

fn header() -> Header {
    Header {
        seed: 5,
        devices: 3,
        metrics: profile::METRIC_NAMES.map(str::to_owned).to_vec(),
    }
}

fn sent(device: u32, sequence: u64) -> Entry {
    let values = profile::values(5, device, sequence);
    Entry::Sent {
        device,
        sequence,
        ts_ms: 1_000 * sequence as i64,
        values,
    }
}

fn acknowledged(device: u32, sequence: u64) -> Entry {
    Entry::Acknowledged {
        device,
        sequence,
        ts_ms: 1_000 * sequence as i64,
    }
}

pub(crate) fn write(path: &Path, header: &Header, entries: &[Entry]) {
    let writer = Writer::create(path, header).unwrap();
    let handle = writer.handle();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        for entry in entries {
            handle.enter(entry.clone()).await.unwrap();
        }
    });
    drop(handle);
    writer.finish().unwrap();
}

fn read(path: &Path) -> Result<(Vec<Entry>, bool), Error> {
    let mut reader = Reader::open(path)?;
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        entries.push(entry);
    }
    Ok((entries, reader.is_torn()))
}

fn three_entries() -> Vec<Entry> {
    vec![
        sent(2, 1),
        Entry::SentAgain {
            device: 2,
            sequence: 1,
        },
        acknowledged(2, 1),
    ]
}

#[test]
fn a_ledger_reads_back_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let entries: Vec<Entry> = (0..5_000)
        .flat_map(|n| [sent(n as u32 % 3, n), acknowledged(n as u32 % 3, n)])
        .collect();

    write(&path, &header(), &entries);

    assert_eq!(Reader::open(&path).unwrap().header(), &header());
    assert_eq!(read(&path).unwrap(), (entries, false));
}

#[test]
fn a_ledger_cut_off_at_any_byte_gives_all_whole_entries_before_the_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let entries = three_entries();
    write(&path, &header(), &entries[..2]);
    let two = std::fs::metadata(&path).unwrap().len();
    std::fs::remove_file(&path).unwrap();
    write(&path, &header(), &entries);
    let three = std::fs::metadata(&path).unwrap().len();

    for length in (two..three).rev() {
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(length)
            .unwrap();
        let (read, torn) = read(&path).unwrap();
        assert_eq!(read, entries[..2], "cut at {length}");
        assert_eq!(torn, length != two, "cut at {length}");
    }
}

#[test]
fn a_damaged_entry_is_an_error_that_names_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    write(&path, &header(), &three_entries());
    write(&folder.path().join("empty"), &header(), &[]);
    let first_frame = std::fs::metadata(folder.path().join("empty"))
        .unwrap()
        .len();

    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(first_frame + 20)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(first_frame + 20)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();

    match read(&path) {
        Err(Error::Damaged { offset, .. }) => assert_eq!(offset, first_frame),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_is_no_ledger_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    for bytes in [
        &b""[..],
        b"TWLEDG",
        b"SQLite format 3\0",
        b"TWLEDGR1\x04\0\0\0",
    ] {
        std::fs::write(&path, bytes).unwrap();
        assert!(
            matches!(Reader::open(&path), Err(Error::Foreign { .. })),
            "{bytes:?}"
        );
    }
}

#[test]
fn an_existing_ledger_is_never_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    write(&path, &header(), &three_entries());

    assert!(matches!(
        Writer::create(&path, &header()),
        Err(Error::Io { .. })
    ));

    assert_eq!(read(&path).unwrap().0.len(), 3);
}
