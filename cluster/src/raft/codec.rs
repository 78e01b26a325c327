//! What Raft keeps, as the bytes that `storage` takes: payloads of entries, votes, committed
//! positions, and the membership beside an applied entry. `docs/formats/raft-group.md`.
//!
//! All numbers are little-endian; each kind begins with a version of its own.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use storage::raft as log;

use super::types::{Command, Entry, LeaderId, LogId, Membership, Payload, StoredMembership, Vote};

/// The version of all of them so far.
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 2;

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// More members than any group will have: bounds what is taken from damaged bytes.
const MEMBERS_MAX: u32 = 1024;

/// Why bytes cannot be read, for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("version {0} is not known")]
    Version(u8),
    #[error("kind {0} is not known")]
    Kind(u8),
    #[error("it is cut short")]
    Short,
    #[error("{0} bytes are left over")]
    Long(usize),
    #[error("a membership of {0} members is too large")]
    Members(u32),
    #[error("the membership contradicts itself: {0}")]
    Membership(String),
}

/// The name of an entry, as the log keeps it.
pub(super) fn stored_id(id: &LogId) -> log::LogId {
    log::LogId {
        index: id.index,
        term: id.leader_id.term,
        leader: id.leader_id.node_id,
    }
}

/// The name of an entry, as Raft wants it.
pub(super) fn raft_id(id: log::LogId) -> LogId {
    LogId {
        leader_id: LeaderId {
            term: id.term,
            node_id: id.leader,
        },
        index: id.index,
    }
}

/// An entry for the log. Copies a command once, so that it pins nothing else.
pub(super) fn stored_entry(entry: &Entry) -> log::LogEntry {
    log::LogEntry {
        id: stored_id(&entry.log_id),
        payload: write_payload(&entry.payload),
    }
}

/// An entry from the log; a command is a slice of it.
pub(super) fn raft_entry(entry: &log::LogEntry) -> Result<Entry, Unreadable> {
    Ok(Entry {
        log_id: raft_id(entry.id),
        payload: read_payload(&entry.payload)?,
    })
}

fn write_payload(payload: &Payload) -> Bytes {
    let mut out = BytesMut::new();
    match payload {
        Payload::Blank => out.put_slice(&[VERSION, BLANK]),
        Payload::Normal(Command(command)) => {
            out.reserve(HEADER_BYTES + command.len());
            out.put_slice(&[VERSION, NORMAL]);
            out.put_slice(command);
        }
        Payload::Membership(membership) => {
            out.put_slice(&[VERSION, MEMBERSHIP]);
            write_membership(&mut out, membership);
        }
    }
    out.freeze()
}

fn read_payload(bytes: &Bytes) -> Result<Payload, Unreadable> {
    let mut reader = Reader::new(bytes)?;
    match reader.byte()? {
        BLANK => {
            reader.end()?;
            Ok(Payload::Blank)
        }
        NORMAL => Ok(Payload::Normal(Command(bytes.slice(HEADER_BYTES..)))),
        MEMBERSHIP => {
            let membership = reader.membership()?;
            reader.end()?;
            Ok(Payload::Membership(membership))
        }
        kind => Err(Unreadable::Kind(kind)),
    }
}

pub(super) fn write_vote(vote: &Vote) -> Bytes {
    let mut out = BytesMut::with_capacity(18);
    out.put_slice(&[VERSION, u8::from(vote.committed)]);
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.node_id);
    out.freeze()
}

pub(super) fn read_vote(bytes: &[u8]) -> Result<Vote, Unreadable> {
    let mut reader = Reader::new(bytes)?;
    let committed = reader.flag()?;
    let leader_id = LeaderId {
        term: reader.word()?,
        node_id: reader.word()?,
    };
    reader.end()?;
    Ok(Vote {
        leader_id,
        committed,
    })
}

pub(super) fn write_committed(committed: Option<&LogId>) -> Bytes {
    let mut out = BytesMut::with_capacity(26);
    out.put_u8(VERSION);
    write_id(&mut out, committed);
    out.freeze()
}

pub(super) fn read_committed(bytes: &[u8]) -> Result<Option<LogId>, Unreadable> {
    let mut reader = Reader::new(bytes)?;
    let committed = reader.id()?;
    reader.end()?;
    Ok(committed)
}

/// The membership as of an applied entry, for [`storage::state::Applied::opaque`].
pub(super) fn write_stored_membership(stored: &StoredMembership) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(VERSION);
    write_id(&mut out, stored.log_id().as_ref());
    write_membership(&mut out, stored.membership());
    out.freeze()
}

pub(super) fn read_stored_membership(bytes: &[u8]) -> Result<StoredMembership, Unreadable> {
    let mut reader = Reader::new(bytes)?;
    let id = reader.id()?;
    let membership = reader.membership()?;
    reader.end()?;
    Ok(StoredMembership::new(id, membership))
}

fn write_id(out: &mut BytesMut, id: Option<&LogId>) {
    out.put_u8(u8::from(id.is_some()));
    if let Some(id) = id {
        out.put_u64_le(id.index);
        out.put_u64_le(id.leader_id.term);
        out.put_u64_le(id.leader_id.node_id);
    }
}

fn write_membership(out: &mut BytesMut, membership: &Membership) {
    let configs = membership.get_joint_config();
    out.put_u32_le(count(configs.len()));
    for voters in configs {
        write_ids(out, voters);
    }
    let members: BTreeSet<u64> = membership.nodes().map(|(id, ())| *id).collect();
    write_ids(out, &members);
}

fn write_ids(out: &mut BytesMut, ids: &BTreeSet<u64>) {
    out.put_u32_le(count(ids.len()));
    for id in ids {
        out.put_u64_le(*id);
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).expect("a group has few members")
}

/// Takes fields off the front of bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Takes the version.
    fn new(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let mut reader = Self(bytes);
        match reader.byte()? {
            VERSION => Ok(reader),
            version => Err(Unreadable::Version(version)),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let (field, rest) = self.0.split_first_chunk().ok_or(Unreadable::Short)?;
        self.0 = rest;
        Ok(*field)
    }

    fn byte(&mut self) -> Result<u8, Unreadable> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Result<bool, Unreadable> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Unreadable::Kind(other)),
        }
    }

    fn count(&mut self) -> Result<u32, Unreadable> {
        match u32::from_le_bytes(self.array()?) {
            count if count <= MEMBERS_MAX => Ok(count),
            count => Err(Unreadable::Members(count)),
        }
    }

    fn word(&mut self) -> Result<u64, Unreadable> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn id(&mut self) -> Result<Option<LogId>, Unreadable> {
        if !self.flag()? {
            return Ok(None);
        }
        let index = self.word()?;
        let leader_id = LeaderId {
            term: self.word()?,
            node_id: self.word()?,
        };
        Ok(Some(LogId { leader_id, index }))
    }

    fn ids(&mut self) -> Result<BTreeSet<u64>, Unreadable> {
        (0..self.count()?).map(|_| self.word()).collect()
    }

    fn membership(&mut self) -> Result<Membership, Unreadable> {
        let configs: Vec<BTreeSet<u64>> = (0..self.count()?)
            .map(|_| self.ids())
            .collect::<Result<_, _>>()?;
        let members = self.ids()?;
        // One that was never set is empty, which Raft does not let anybody make.
        if configs.is_empty() && members.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(configs, members).map_err(|error| Unreadable::Membership(error.to_string()))
    }

    fn end(&self) -> Result<(), Unreadable> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(Unreadable::Long(left)),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn id(term: u64, node_id: u64, index: u64) -> LogId {
        LogId {
            leader_id: LeaderId { term, node_id },
            index,
        }
    }

    fn joint() -> Membership {
        let configs = vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])];
        Membership::new(configs, BTreeSet::from([1, 2, 3, 9])).unwrap()
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
        let membership = Membership::new(vec![BTreeSet::from([5])], BTreeSet::from([5])).unwrap();
        assert_eq!(
            &write_payload(&Payload::Membership(membership))[..],
            [
                1, 2, 1, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0,
                0, 0
            ]
        );
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
        assert_eq!(
            read_payload(&Bytes::from_static(&[1, 9])),
            Err(Unreadable::Kind(9))
        );
    }
}
