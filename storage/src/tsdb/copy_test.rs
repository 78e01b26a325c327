//! Buckets that go from one store to another, with crashes after any operation.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use telemetry::{DeviceId, MetricName, Row, Stamp};

use super::{BucketMark, Config, Error, RawPoint, ReplayOffset, Standing, Tsdb};
use crate::fs::FaultFs;

const FOLDER: &str = "/tsdb";
/// The bucket that moves, and one that stays.
const MOVED: u16 = 1;
const STAYS: u16 = 2;
/// Small, so that a bucket has several pages.
const PAGE_BYTES: usize = 100;

fn try_open(fs: &FaultFs) -> Result<Tsdb, Error> {
    let config = Config {
        buckets: 4,
        block_rows: 3,
        merge_fan_in: 2,
    };
    Tsdb::open(Arc::new(fs.clone()), Path::new(FOLDER), config)
}

fn open(fs: &FaultFs) -> Tsdb {
    try_open(fs).expect("the store opens")
}

fn device(bucket: u16, number: u32) -> DeviceId {
    DeviceId::parse(&format!("car{bucket}-{number}")).expect("a device id")
}

fn at(source: &str, partition: u16, offset: u64) -> ReplayOffset {
    ReplayOffset {
        source: source.to_owned(),
        partition,
        incarnation: 7,
        offset,
    }
}

fn insert(store: &Tsdb, bucket: u16, number: u32, ts_ms: i64) {
    try_insert(store, bucket, number, ts_ms).expect("inserts");
}

fn try_insert(store: &Tsdb, bucket: u16, number: u32, ts_ms: i64) -> Result<(), Error> {
    let name = MetricName::parse("m").expect("a name");
    let row = Row::from_pairs(ts_ms, [(name, ts_ms as f64)]).expect("distinct");
    let stamp = Stamp {
        received_ms: ts_ms,
        node: 1,
        sequence: ts_ms as u64,
    };
    store.insert(bucket, &device(bucket, number), &row, stamp)?;
    Ok(())
}

/// Rows of both buckets in several segments of two levels: times 0 to 8 of three devices each.
fn filled() -> FaultFs {
    let fs = FaultFs::new(1);
    let store = open(&fs);
    for ts_ms in 0..9 {
        for (bucket, number) in
            [MOVED, STAYS]
                .into_iter()
                .zip([0, 1])
                .chain([(MOVED, 1), (MOVED, 2), (STAYS, 2)])
        {
            insert(&store, bucket, number, ts_ms);
        }
        let offset = ts_ms as u64 + 1;
        store
            .seal(&[at("log", MOVED, offset), at("log", STAYS, offset)])
            .expect("seals");
        if ts_ms == 5 {
            store.merge(&AtomicBool::new(false)).expect("merges");
        }
    }
    fs
}

/// How often each point of a bucket lies in a store.
fn points(store: &Tsdb, bucket: u16) -> BTreeMap<(String, i64), u32> {
    let mut points = BTreeMap::new();
    let prefix = format!("car{bucket}-");
    let visit = |point: &RawPoint<'_>| {
        if point.device.to_string().starts_with(&prefix) {
            *points
                .entry((point.device.to_string(), point.ts_ms))
                .or_default() += 1;
        }
    };
    store.scan_raw(visit).expect("reads");
    let devices = store.devices(bucket, None, 100).expect("reads");
    let named: std::collections::BTreeSet<_> =
        points.keys().map(|(device, _)| device.clone()).collect();
    let devices: std::collections::BTreeSet<_> = devices.iter().map(DeviceId::to_string).collect();
    assert_eq!(devices, named, "the index agrees with the rows");
    points
}

fn all(bucket: u16) -> BTreeMap<(String, i64), u32> {
    let numbers = if bucket == MOVED { 0..3 } else { 1..3 };
    let keys = numbers.flat_map(|number| (0..9).map(move |ts| (number, ts)));
    keys.map(|(number, ts)| ((device(bucket, number).to_string(), ts), 1))
        .collect()
}

fn offsets(store: &Tsdb, bucket: u16) -> Vec<ReplayOffset> {
    let mut offsets = store.replay_offsets().expect("reads");
    offsets.retain(|offset| offset.partition == bucket);
    offsets
}

fn mark(standing: Standing, epoch: u64) -> Option<BucketMark> {
    Some(BucketMark { standing, epoch })
}

/// Copies the bucket page by page, unless it was adopted under that epoch.
fn copy(from: &Tsdb, to: &Tsdb, epoch: u64) -> Result<(), Error> {
    let mut page = from.bucket_page(MOVED, None, PAGE_BYTES)?;
    let Some(mut adoption) = to.adopt(MOVED, epoch, page.level)? else {
        return Ok(());
    };
    loop {
        for (device, rows) in &page.rows {
            adoption.push(device, rows)?;
        }
        if page.is_last {
            break;
        }
        let (device, rows) = page.rows.last().expect("a page has a row");
        let after = (device, rows.last().expect("a device has a row").ts_ms);
        page = from.bucket_page(MOVED, Some(after), PAGE_BYTES)?;
    }
    let offset = offsets(from, MOVED)[0].offset;
    assert!(adoption.commit(&[at("log@1", MOVED, offset)])?);
    Ok(())
}

fn merge_all(store: &Tsdb) {
    while store.merge(&AtomicBool::new(false)).expect("merges") {}
}

/// Runs steps on a copy of a disk with a crash at each operation in turn, and gives what the disk
/// has after each.
fn crashed_at_each(fs: &FaultFs, steps: impl Fn(&Tsdb) -> Result<(), Error>) -> Vec<Tsdb> {
    let mut after = Vec::new();
    for operation in 0.. {
        let disk = fs.copy();
        disk.reseed(operation);
        let store = open(&disk);
        disk.freeze_at(disk.operations() + operation);
        let outcome = steps(&store);
        drop(store);
        let is_through = !disk.is_frozen();
        assert!(outcome.is_ok() || !is_through, "operation {operation}");
        after.push(open(&disk.crash()));
        if is_through {
            break;
        }
    }
    assert!(after.len() > 3, "there is something to crash in");
    after
}

#[test]
fn a_bucket_read_in_pages_is_whole_and_a_page_read_again_is_the_same() {
    let store = open(&filled());
    let (mut pages, mut rows, mut after) = (0, BTreeMap::new(), None);
    loop {
        let key = after.as_ref().map(|(device, ts)| (device, *ts));
        let page = store.bucket_page(MOVED, key, PAGE_BYTES).expect("reads");
        let again = store.bucket_page(MOVED, key, PAGE_BYTES).expect("reads");
        assert_eq!(format!("{page:?}"), format!("{again:?}"));
        pages += 1;
        for (device, of_device) in &page.rows {
            for row in of_device {
                *rows.entry((device.to_string(), row.ts_ms)).or_default() += 1;
                after = Some((device.clone(), row.ts_ms));
            }
        }
        if pages == 1 {
            assert_eq!(page.level, 1);
            // What merges change is where rows lie.
            merge_all(&store);
        }
        if page.is_last {
            break;
        }
    }

    assert_eq!(rows, all(MOVED));
    assert!(pages > 3, "{pages} pages");
}

#[test]
fn a_bucket_without_rows_is_one_page_and_can_be_adopted() {
    let (from, to) = (open(&filled()), open(&FaultFs::new(0)));
    let page = from.bucket_page(3, None, PAGE_BYTES).expect("reads");
    assert!(page.is_last && page.rows.is_empty());

    let adoption = to
        .adopt(3, 5, page.level)
        .expect("begins")
        .expect("is free");
    assert!(adoption.commit(&[]).expect("commits"));

    assert_eq!(to.mark(3), mark(Standing::Adopted, 5));
    assert_eq!(to.stats().levels, []);
}

#[test]
fn a_crash_while_freezing_leaves_the_bucket_open_or_frozen_with_all_its_rows() {
    let fs = filled();
    let freeze = |store: &Tsdb| {
        try_insert(store, MOVED, 0, 9)?;
        store.seal_and_freeze(&[at("log", MOVED, 10)], &[(MOVED, 4)])
    };
    let mut frozen = 0;
    for store in crashed_at_each(&fs, freeze) {
        let mut expected = all(MOVED);
        if store.mark(MOVED).is_some() {
            frozen += 1;
            assert_eq!(store.mark(MOVED), mark(Standing::Frozen, 4));
            expected.insert((device(MOVED, 0).to_string(), 9), 1);
            assert_eq!(offsets(&store, MOVED), [at("log", MOVED, 10)]);
        } else {
            assert_eq!(offsets(&store, MOVED), [at("log", MOVED, 9)]);
        }
        assert_eq!(points(&store, MOVED), expected);
    }
    assert!(frozen > 0);
}

#[test]
fn a_crash_while_adopting_leaves_all_or_nothing_and_what_is_begun_again_is_whole() {
    let source = open(&filled());
    let fs = FaultFs::new(2);
    // What it has of the bucket is of no worth: it is not the owner.
    let store = open(&fs);
    for ts_ms in 0..4 {
        insert(&store, MOVED, 7, ts_ms);
        insert(&store, STAYS, 1, ts_ms);
        store.seal(&[at("log", MOVED, 3)]).expect("seals");
    }
    drop(store);
    let stays = points(&open(&fs), STAYS);
    let mut adopted = 0;
    for store in crashed_at_each(&fs, |store| copy(&source, store, 4)) {
        match store.mark(MOVED) {
            None => assert_eq!(offsets(&store, MOVED), [at("log", MOVED, 3)]),
            is_begun if is_begun == mark(Standing::Dropped, 4) => {
                assert_eq!(points(&store, MOVED), BTreeMap::new());
                assert_eq!(offsets(&store, MOVED), []);
            }
            other => {
                assert_eq!(other, mark(Standing::Adopted, 4));
                assert_eq!(points(&store, MOVED), all(MOVED));
                adopted += 1;
            }
        }
        copy(&source, &store, 4).expect("copies");
        for _ in 0..2 {
            assert_eq!(points(&store, MOVED), all(MOVED));
            assert_eq!(points(&store, STAYS), stays);
            assert_eq!(offsets(&store, MOVED), [at("log@1", MOVED, 9)]);
            merge_all(&store);
        }
    }
    assert!(adopted > 0);
}

#[test]
fn a_crash_while_dropping_or_merging_then_leaves_all_or_nothing_and_nothing_comes_back() {
    let fs = filled();
    let stays = points(&open(&fs), STAYS);
    open(&fs)
        .seal_and_freeze(&[], &[(MOVED, 4)])
        .expect("freezes");
    let steps = |store: &Tsdb| {
        store.drop_bucket(MOVED, 5)?;
        while store.merge(&AtomicBool::new(false))? {}
        Ok(())
    };
    let (mut held, mut gone) = (0, 0);
    for store in crashed_at_each(&fs, steps) {
        if store.mark(MOVED) == mark(Standing::Frozen, 4) {
            held += 1;
            assert_eq!(points(&store, MOVED), all(MOVED));
            assert_eq!(offsets(&store, MOVED), [at("log", MOVED, 9)]);
            store.drop_bucket(MOVED, 5).expect("drops");
        } else {
            gone += 1;
        }
        merge_all(&store);
        assert_eq!(store.mark(MOVED), mark(Standing::Dropped, 5));
        assert_eq!(points(&store, MOVED), BTreeMap::new());
        assert_eq!(offsets(&store, MOVED), []);
        assert_eq!(points(&store, STAYS), stays);
    }
    assert!(held > 0 && gone > 0);
}

#[test]
fn a_merge_under_way_when_a_bucket_goes_does_not_bring_it_back() {
    let fs = filled();
    let store = open(&fs);
    let merging = store.begin_merge().expect("there is something to merge");
    let written = store.write_merged(&merging, &AtomicBool::new(false));
    let written = written.expect("writes").expect("was not stopped");

    store.drop_bucket(MOVED, 5).expect("drops");

    assert!(!store.end_merge(&merging, &written).expect("ends"));
    assert_eq!(points(&store, MOVED), BTreeMap::new());
    drop(merging);
    drop(store);
    let store = open(&fs);
    merge_all(&store);
    assert_eq!(points(&store, MOVED), BTreeMap::new());
    assert_eq!(points(&store, STAYS), all(STAYS));
}

#[test]
fn a_bucket_that_comes_back_has_what_was_copied_and_takes_rows_again() {
    let fs = filled();
    let (here, there) = (open(&fs), open(&FaultFs::new(3)));
    here.seal_and_freeze(&[], &[(MOVED, 4)]).expect("freezes");
    copy(&here, &there, 4).expect("copies");
    here.drop_bucket(MOVED, 5).expect("drops");
    insert(&there, MOVED, 0, 9);
    insert(&there, MOVED, 0, 8);
    let sealed = there.seal_and_freeze(&[at("log@1", MOVED, 10)], &[(MOVED, 6)]);
    sealed.expect("freezes");
    // A merge that never ended has used up a number that the dead count to.
    drop(here);
    let here = open(&fs);

    copy(&there, &here, 6).expect("copies back");

    let mut expected = all(MOVED);
    expected.insert((device(MOVED, 0).to_string(), 9), 1);
    for _ in 0..2 {
        assert_eq!(points(&here, MOVED), expected);
        merge_all(&here);
    }
    insert(&here, MOVED, 0, 9);
    assert_eq!(points(&here, MOVED), expected, "it is known already");
    insert(&here, MOVED, 0, 10);
    assert_eq!(points(&here, MOVED).len(), expected.len() + 1);
}

#[test]
fn an_older_epoch_and_one_that_was_adopted_are_not_adopted_again() {
    let (source, store) = (open(&filled()), open(&FaultFs::new(0)));
    copy(&source, &store, 4).expect("copies");

    for epoch in [3, 4] {
        assert!(store.adopt(MOVED, epoch, 0).expect("looks").is_none());
    }
    assert_eq!(points(&store, MOVED), all(MOVED));
    let late = store.adopt(MOVED, 5, 0).expect("begins").expect("is newer");
    store.drop_bucket(MOVED, 6).expect("drops");
    assert!(!late.commit(&[]).expect("ends"), "the store has gone on");
    assert_eq!(store.mark(MOVED), mark(Standing::Dropped, 6));
}

#[test]
fn what_was_written_of_a_copy_that_ends_early_is_deleted() {
    let fs = FaultFs::new(0);
    let (source, store) = (open(&filled()), open(&fs));
    let page = source.bucket_page(MOVED, None, PAGE_BYTES).expect("reads");
    let mut adoption = store.adopt(MOVED, 4, 0).expect("begins").expect("is free");
    let (device, rows) = &page.rows[0];
    adoption.push(device, rows).expect("writes");
    let files = || crate::fs::Fs::list(&fs, Path::new(FOLDER)).expect("lists");
    assert!(files().iter().any(|name| name.starts_with("segment-")));

    drop(adoption);

    assert!(!files().iter().any(|name| name.starts_with("segment-")));
}
