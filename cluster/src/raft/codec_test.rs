//! What Raft keeps has these bytes, comes back, and is refused when it is nonsense.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cluster_core::NodeId;

use super::codec::*;
use super::types::{Command, LeaderId, LogId, Membership, Payload, StoredMembership, Vote};

fn id(term: u64, node_id: u64, index: u64) -> LogId {
    LogId {
        leader_id: LeaderId { term, node_id },
        index,
    }
}

fn joint() -> Membership {
    let configs = vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])];
    let members = [
        (1, NodeId(1)),
        (2, NodeId(2)),
        (3, NodeId(3)),
        (9, NodeId(2)),
    ];
    Membership::new(configs, BTreeMap::from(members)).unwrap()
}

#[test]
fn every_payload_comes_back_and_none_is_read_when_cut() {
    let command = Command(Bytes::from_static(b"entry"));
    for payload in [
        Payload::Blank,
        Payload::Normal(command),
        Payload::Membership(joint()),
    ] {
        let bytes = write_payload(&payload);
        assert_eq!(read_payload(&bytes), Ok(payload.clone()));
        let shortest = match payload {
            // What a command holds is the machine's to check.
            Payload::Normal(_) => HEADER_BYTES,
            _ => bytes.len(),
        };
        for len in 0..shortest {
            assert!(read_payload(&bytes.slice(..len)).is_err(), "{len}");
        }
    }
}

#[test]
fn payloads_have_these_bytes() {
    assert_eq!(&write_payload(&Payload::Blank)[..], [1, 0]);
    let command = Payload::Normal(Command(Bytes::from_static(b"\x07")));
    assert_eq!(&write_payload(&command)[..], [1, 1, 7]);
    let members = BTreeMap::from([(5, NodeId(7))]);
    let membership = Membership::new(vec![BTreeSet::from([5])], members).unwrap();
    assert_eq!(
        &write_payload(&Payload::Membership(membership))[..],
        [
            2, 2, 1, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0,
            0, 7, 0, 0, 0
        ]
    );
}

#[test]
fn a_membership_of_version_1_names_ids_that_are_nodes() {
    let old = [
        1, 2, 1, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0,
    ];
    let members = BTreeMap::from([(5, NodeId(5))]);
    let membership = Membership::new(vec![BTreeSet::from([5])], members).unwrap();
    let read = read_payload(&Bytes::copy_from_slice(&old));
    assert_eq!(read, Ok(Payload::Membership(membership.clone())));

    let stored = [&[1, 0][..], &old[2..]].concat();
    let read = read_stored_membership(&stored);
    assert_eq!(read, Ok(StoredMembership::new(None, membership)));

    let mut large = old;
    large[14] = 1;
    large[26] = 1;
    let read = read_payload(&Bytes::copy_from_slice(&large));
    assert_eq!(read, Err(Unreadable::Node(5 | 1 << 32)));
}

#[test]
fn votes_and_positions_have_these_bytes_and_come_back() {
    let vote = Vote {
        leader_id: LeaderId {
            term: 3,
            node_id: 7,
        },
        committed: true,
    };
    let bytes = write_vote(&vote);
    let golden = [1, 1, 3, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(&bytes[..], golden);
    assert_eq!(read_vote(&bytes), Ok(vote));

    let none = write_committed(None);
    assert_eq!(&none[..], [1, 0]);
    assert_eq!(read_committed(&none), Ok(None));
    let some = write_committed(Some(&id(3, 7, 9)));
    assert_eq!(some[..4], [1, 1, 9, 0]);
    assert_eq!(read_committed(&some), Ok(Some(id(3, 7, 9))));
    assert_eq!(read_committed(&some[..20]), Err(Unreadable::Short));
}

#[test]
fn a_membership_comes_back_and_nonsense_is_refused() {
    for stored in [
        StoredMembership::default(),
        StoredMembership::new(Some(id(2, 1, 4)), joint()),
    ] {
        let bytes = write_stored_membership(&stored);
        assert_eq!(read_stored_membership(&bytes), Ok(stored));
        for len in 0..bytes.len() {
            assert!(read_stored_membership(&bytes[..len]).is_err(), "{len}");
        }
    }
    let endless = [1, 0, 255, 255, 255, 255];
    assert_eq!(
        read_stored_membership(&endless),
        Err(Unreadable::Members(u32::MAX))
    );
    assert_eq!(read_vote(&[2, 0]), Err(Unreadable::Version(2)));
    assert_eq!(read_vote(&[3, 0]), Err(Unreadable::Version(3)));
    assert_eq!(
        read_payload(&Bytes::from_static(&[2, 0])),
        Err(Unreadable::Kind(0))
    );
    assert_eq!(
        read_payload(&Bytes::from_static(&[1, 9])),
        Err(Unreadable::Kind(9))
    );
}
