//! Messages of members come back, have these bytes, and are refused when they are cut.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cluster_core::NodeId;

use super::CHANNELS;
use super::codec::Unreadable;
use super::types::{Command, Entry, LeaderId, LogId, Membership, Payload, StoredMembership, Vote};
use super::wire::*;

fn id(index: u64) -> LogId {
    let leader_id = LeaderId {
        term: 3,
        node_id: 1,
    };
    LogId { leader_id, index }
}

fn membership() -> Membership {
    let members = BTreeMap::from([(1, NodeId(1)), (9, NodeId(2))]);
    Membership::new(vec![BTreeSet::from([1])], members).unwrap()
}

fn requests() -> Vec<Request> {
    let vote = Vote::new_committed(3, 1);
    let entry = |index, payload| Entry {
        log_id: id(index),
        payload,
    };
    let command = Payload::Normal(Command(Bytes::from_static(b"command")));
    let entries = vec![
        entry(8, Payload::Blank),
        entry(9, command),
        entry(10, Payload::Membership(membership())),
    ];
    let campaign = Campaign {
        vote: Vote::new(4, 2),
        last: Some(id(9)),
        is_transfer: true,
    };
    let part = |content| {
        let (copy, nth) = (5, 6);
        Request::Snapshot(Part {
            vote,
            copy,
            nth,
            content,
        })
    };
    vec![
        Request::Append {
            vote,
            prev: None,
            commit: None,
            entries: Vec::new(),
        },
        Request::Append {
            vote,
            prev: Some(id(7)),
            commit: Some(id(6)),
            entries,
        },
        Request::Vote(campaign.clone()),
        Request::PreVote(campaign),
        Request::Transfer {
            from: vote,
            to: 2,
            last: Some(id(9)),
        },
        part(Content::Begin {
            last: id(9),
            membership: StoredMembership::new(Some(id(2)), membership()),
            version: 7,
        }),
        part(Content::Rows(Bytes::from_static(b"rows"))),
        part(Content::End { rows: 1 }),
    ]
}

fn replies() -> Vec<Reply> {
    let (vote, actual) = (Vote::new_committed(3, 1), Vote::new(4, 2));
    vec![
        Reply::Done,
        Reply::Partly(Some(id(9))),
        Reply::Conflict,
        Reply::Higher(vote),
        Reply::Voted {
            vote,
            granted: true,
            last: Some(id(9)),
        },
        Reply::OtherVote {
            expected: vote,
            actual,
        },
        Reply::NotFlushed {
            expected: Some(id(9)),
            actual: Some(id(8)),
        },
        Reply::Anew,
        Reply::Installed(vote),
    ]
}

#[test]
fn every_request_comes_back_and_is_not_read_when_cut() {
    for request in requests() {
        let bytes = write_request(7, &request);
        let kind = kind(&request);
        assert!(CHANNELS.contains(&kind));
        assert_eq!(read_request(kind, &bytes), Ok((7, request.clone())));
        // What ends with bytes of no length of their own is as long as its payload.
        let open = matches!(
            &request,
            Request::Append { .. }
                | Request::Snapshot(Part {
                    content: Content::Rows(_),
                    ..
                })
        );
        for len in 0..bytes.len() {
            let cut = read_request(kind, &bytes.slice(..len));
            assert!(open || cut.is_err(), "{request:?} cut to {len}");
            assert_ne!(cut, Ok((7, request.clone())));
        }
        let longer = [&bytes[..], b"\x00"].concat().into();
        assert_ne!(read_request(kind, &longer), Ok((7, request)));
    }
    let unknown = read_request(21, &write_request(7, &requests()[0]));
    assert!(unknown.is_err());
}

#[test]
fn every_reply_comes_back_fits_its_room_and_is_not_read_when_cut() {
    for reply in replies() {
        let bytes = write_reply(&reply);
        assert!(bytes.len() <= REPLY_BYTES_MAX as usize, "{reply:?}");
        assert_eq!(read_reply(&bytes), Ok(reply));
        for len in 0..bytes.len() {
            assert!(read_reply(&bytes[..len]).is_err());
        }
    }
    assert_eq!(read_reply(&[2, 0]), Err(Unreadable::Version(2)));
    assert_eq!(read_reply(&[1, 9]), Err(Unreadable::Kind(9)));
}

#[test]
fn messages_have_these_bytes() {
    let heartbeat = write_request(7, &requests()[0]);
    let golden = [
        1, 7, 0, 0, 0, 0, 0, 0, 0, 1, 3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(&heartbeat[..], golden);
    assert_eq!(&write_reply(&Reply::Done)[..], [1, 0]);
    let partly = write_reply(&Reply::Partly(Some(id(9))));
    assert_eq!(partly[..4], [1, 1, 1, 9]);
}
