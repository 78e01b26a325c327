//! The bytes of what lines say to each other.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use storage::log::{ContentType, Record, StoredRecord};

use super::exchange::*;
use crate::log::Position;

fn at(incarnation: u64, offset: u64) -> Position {
    Position {
        incarnation,
        offset,
    }
}

fn pull() -> Pull {
    let one = |bucket, wanted, sealed| PullBucket {
        bucket,
        epoch: 9,
        wanted,
        sealed,
    };
    Pull {
        buckets: vec![
            one(1, Wanted::Sign, None),
            one(2, Wanted::All, None),
            one(3, Wanted::From(at(4, 5)), Some(at(4, 2))),
        ],
        bytes_max: 0x0102,
    }
}

fn pulled() -> Pulled {
    Pulled {
        incarnation: 7,
        ends: vec![(1, 8)],
        signs: vec![5],
        refused: vec![(6, "gone".to_owned())],
        records: vec![StoredRecord {
            offset: 3,
            record: Record {
                partition: 1,
                key: Bytes::from_static(b"car"),
                payload: Bytes::from_static(b"{}"),
                content_type: ContentType::Json,
                received_ms: 2,
                node: 1,
                connection_epoch: 4,
                packet_seq: 5,
                retransmit: false,
                droppable: true,
            },
        }],
    }
}

#[test]
fn a_question_for_records_has_these_bytes() {
    let golden = [
        &b"\x01\x02\x01\0\0\x03\0\0\0"[..],
        b"\x01\0\x09\0\0\0\0\0\0\0\0\0",
        b"\x02\0\x09\0\0\0\0\0\0\0\x01\0",
        b"\x03\0\x09\0\0\0\0\0\0\0\x02\x04\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0",
        b"\x01\x04\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0",
    ]
    .concat();
    assert_eq!(pull().encode(), golden);
    assert_eq!(Pull::decode(&golden.into()), Ok(pull()));
}

#[test]
fn an_answer_with_records_has_these_bytes() {
    let golden = [
        &b"\x01\x07\0\0\0\0\0\0\0"[..],
        b"\x01\0\0\0\x01\0\x08\0\0\0\0\0\0\0",
        b"\x01\0\0\0\x05\0",
        b"\x01\0\0\0\x06\0\x04\0\0\0gone",
        b"\x01\0\0\0\x01\0\x03\0\0\0\0\0\0\0\x27\0\0\0",
        b"\x01\x01\x02\0\x01\0\0\0\x02\0\0\0\0\0\0\0",
        b"\x04\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x03\0car{}",
    ]
    .concat();
    assert_eq!(pulled().encode(), golden);
    assert_eq!(Pulled::decode(&golden.into()), Ok(pulled()));
}

#[test]
fn the_question_for_an_end_and_its_answer_have_these_bytes() {
    assert_eq!(EndOf { bucket: 2 }.encode(), &b"\x01\x02\0"[..]);
    assert_eq!(
        EndOf::decode(&EndOf { bucket: 2 }.encode()),
        Ok(EndOf { bucket: 2 })
    );
    let end = End { offset: 3 };
    assert_eq!(end.encode(), &b"\x01\x03\0\0\0\0\0\0\0"[..]);
    assert_eq!(End::decode(&end.encode()), Ok(end));
}

fn copied() -> Copied {
    Copied::Part(Part {
        level: 3,
        offsets: vec![("log@2".to_owned(), 7, 8)],
        schemas: Bytes::from_static(b"names"),
        blocks: vec![(Bytes::from_static(b"car"), Bytes::from_static(b"rows"))],
        is_last: true,
    })
}

#[test]
fn the_question_for_a_part_of_a_bucket_and_its_answers_have_these_bytes() {
    let first = CopyOf {
        bucket: 2,
        epoch: 9,
        after: None,
    };
    let golden = &b"\x01\x02\0\x09\0\0\0\0\0\0\0\0"[..];
    assert_eq!(first.encode(), golden);
    assert_eq!(CopyOf::decode(&golden.into()), Ok(first.clone()));
    let next = CopyOf {
        after: Some((Bytes::from_static(b"car"), -2)),
        ..first
    };
    let golden = [
        &b"\x01\x02\0\x09\0\0\0\0\0\0\0"[..],
        b"\x01\x03\0\0\0car\xfe\xff\xff\xff\xff\xff\xff\xff",
    ]
    .concat();
    assert_eq!(next.encode(), golden);
    assert_eq!(CopyOf::decode(&golden.into()), Ok(next));
    let golden = [
        &b"\x01\x01\x03\0\0\0"[..],
        b"\x01\0\0\0\x05\0\0\0log@2\x07\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0",
        b"\x05\0\0\0names",
        b"\x01\0\0\0\x03\0\0\0car\x04\0\0\0rows",
        b"\x01",
    ]
    .concat();
    assert_eq!(copied().encode(), golden);
    assert_eq!(Copied::decode(&golden.into()), Ok(copied()));
    let not_yet = Copied::NotYet("why".to_owned());
    assert_eq!(not_yet.encode(), &b"\x01\0\x03\0\0\0why"[..]);
    assert_eq!(Copied::decode(&not_yet.encode()), Ok(not_yet));
}

#[test]
fn nothing_is_read_that_is_cut_goes_on_or_is_of_another_version() {
    let whole = pulled().encode();
    for len in 0..whole.len() {
        assert!(Pulled::decode(&whole.slice(..len)).is_err(), "{len} bytes");
    }
    let part = copied().encode();
    for len in 0..part.len() {
        assert!(Copied::decode(&part.slice(..len)).is_err(), "{len} bytes");
    }
    let mut longer = whole.to_vec();
    longer.push(0);
    assert_eq!(Pulled::decode(&longer.into()), Err(Malformed::Trailing(1)));
    let mut later = pull().encode().to_vec();
    later[0] = 2;
    assert_eq!(Pull::decode(&later.into()), Err(Malformed::Version(2)));
}

#[test]
fn any_bytes_are_read_without_a_panic_and_come_back_as_they_were() {
    let mut rng = StdRng::seed_from_u64(1);
    let good = [pull().encode(), pulled().encode(), copied().encode()];
    for _ in 0..20_000 {
        let mut bytes = good[rng.random_range(0..3)].to_vec();
        match rng.random_range(0..3) {
            0 => rng.fill_bytes(&mut bytes[1..]),
            1 => bytes.truncate(rng.random_range(0..bytes.len())),
            _ => {
                let place = rng.random_range(0..bytes.len());
                bytes[place] = rng.random();
            }
        }
        let bytes = Bytes::from(bytes);
        if let Ok(read) = Pull::decode(&bytes) {
            assert_eq!(read.encode(), bytes);
        }
        if let Ok(read) = Pulled::decode(&bytes) {
            assert_eq!(Pulled::decode(&read.encode()), Ok(read));
        }
        if let Ok(read) = Copied::decode(&bytes) {
            assert_eq!(Copied::decode(&read.encode()), Ok(read));
        }
        if let Ok(read) = CopyOf::decode(&bytes) {
            assert_eq!(read.encode(), bytes);
        }
        assert!(EndOf::decode(&bytes).is_err() || bytes.len() == 3);
        assert!(End::decode(&bytes).is_err() || bytes.len() == 9);
    }
}
