//! What Raft keeps, as the bytes that `storage` takes: payloads of entries, votes, committed
//! positions, and the membership beside an applied entry. `docs/formats/raft-group.md`.
//!
//! All numbers are little-endian; each kind begins with a version of its own.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use cluster_core::NodeId;
use storage::raft as log;

use super::types::{Command, Entry, LeaderId, LogId, Membership, Payload, StoredMembership, Vote};

/// The version of all of them but memberships.
const VERSION: u8 = 1;
/// The version of memberships: with the node of each member. In version 1 that is its Raft id.
const MEMBERSHIP_VERSION: u8 = 2;
pub(super) const HEADER_BYTES: usize = 2;

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
    #[error("member {0} cannot be a node's number")]
    Node(u64),
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

pub(super) fn write_payload(payload: &Payload) -> Bytes {
    let mut out = BytesMut::new();
    match payload {
        Payload::Blank => out.put_slice(&[VERSION, BLANK]),
        Payload::Normal(Command(command)) => {
            out.reserve(HEADER_BYTES + command.len());
            out.put_slice(&[VERSION, NORMAL]);
            out.put_slice(command);
        }
        Payload::Membership(membership) => {
            out.put_slice(&[MEMBERSHIP_VERSION, MEMBERSHIP]);
            write_membership(&mut out, membership);
        }
    }
    out.freeze()
}

pub(super) fn read_payload(bytes: &Bytes) -> Result<Payload, Unreadable> {
    let (version, mut reader) = Reader::versioned(bytes)?;
    match (version, reader.byte()?) {
        (VERSION, BLANK) => {
            reader.end()?;
            Ok(Payload::Blank)
        }
        (VERSION, NORMAL) => Ok(Payload::Normal(Command(bytes.slice(HEADER_BYTES..)))),
        (_, MEMBERSHIP) => {
            let membership = reader.membership(version)?;
            reader.end()?;
            Ok(Payload::Membership(membership))
        }
        (_, kind) => Err(Unreadable::Kind(kind)),
    }
}

pub(super) fn write_vote(vote: &Vote) -> Bytes {
    let mut out = BytesMut::with_capacity(18);
    out.put_u8(VERSION);
    put_vote(&mut out, vote);
    out.freeze()
}

pub(super) fn put_vote(out: &mut BytesMut, vote: &Vote) {
    out.put_u8(u8::from(vote.committed));
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.node_id);
}

pub(super) fn read_vote(bytes: &[u8]) -> Result<Vote, Unreadable> {
    let mut reader = Reader::new(bytes)?;
    let vote = reader.vote()?;
    reader.end()?;
    Ok(vote)
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
    out.put_u8(MEMBERSHIP_VERSION);
    write_id(&mut out, stored.log_id().as_ref());
    write_membership(&mut out, stored.membership());
    out.freeze()
}

pub(super) fn read_stored_membership(bytes: &[u8]) -> Result<StoredMembership, Unreadable> {
    let (version, mut reader) = Reader::versioned(bytes)?;
    let id = reader.id()?;
    let membership = reader.membership(version)?;
    reader.end()?;
    Ok(StoredMembership::new(id, membership))
}

pub(super) fn write_id(out: &mut BytesMut, id: Option<&LogId>) {
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
    let members: BTreeMap<u64, NodeId> =
        membership.nodes().map(|(id, node)| (*id, *node)).collect();
    out.put_u32_le(count(members.len()));
    for (id, node) in members {
        out.put_u64_le(id);
        out.put_u32_le(node.0);
    }
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

/// There is one form of every set.
fn ascending<T>(items: &[T], id: impl Fn(&T) -> u64) -> Result<(), Unreadable> {
    match items.is_sorted_by(|one, next| id(one) < id(next)) {
        true => Ok(()),
        false => Err(Unreadable::Membership("ids do not rise".to_owned())),
    }
}

/// Takes fields off the front of bytes.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Takes the version of what has one only.
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        match Self::versioned(bytes)? {
            (VERSION, reader) => Ok(reader),
            (version, _) => Err(Unreadable::Version(version)),
        }
    }

    /// Takes the version.
    fn versioned(bytes: &'a [u8]) -> Result<(u8, Self), Unreadable> {
        let mut reader = Self(bytes);
        match reader.byte()? {
            version @ (VERSION | MEMBERSHIP_VERSION) => Ok((version, reader)),
            version => Err(Unreadable::Version(version)),
        }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let (field, rest) = self.0.split_first_chunk().ok_or(Unreadable::Short)?;
        self.0 = rest;
        Ok(*field)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Unreadable> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn flag(&mut self) -> Result<bool, Unreadable> {
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

    pub(super) fn word(&mut self) -> Result<u64, Unreadable> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn id(&mut self) -> Result<Option<LogId>, Unreadable> {
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
        let ids: Vec<u64> = (0..self.count()?)
            .map(|_| self.word())
            .collect::<Result<_, _>>()?;
        ascending(&ids, |id| *id)?;
        Ok(ids.into_iter().collect())
    }

    fn members(&mut self, version: u8) -> Result<BTreeMap<u64, NodeId>, Unreadable> {
        let count = self.count()?;
        let member = |_| {
            let id = self.word()?;
            let node = match version {
                VERSION => u32::try_from(id).map_err(|_| Unreadable::Node(id))?,
                _ => u32::from_le_bytes(self.array()?),
            };
            Ok((id, NodeId(node)))
        };
        let members: Vec<(u64, NodeId)> = (0..count).map(member).collect::<Result<_, _>>()?;
        ascending(&members, |(id, _)| *id)?;
        Ok(members.into_iter().collect())
    }

    fn membership(&mut self, version: u8) -> Result<Membership, Unreadable> {
        let configs: Vec<BTreeSet<u64>> = (0..self.count()?)
            .map(|_| self.ids())
            .collect::<Result<_, _>>()?;
        let members = self.members(version)?;
        // One that was never set is empty, which Raft does not let anybody make.
        if configs.is_empty() && members.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(configs, members).map_err(|error| Unreadable::Membership(error.to_string()))
    }

    pub(super) fn vote(&mut self) -> Result<Vote, Unreadable> {
        let committed = self.flag()?;
        let leader_id = LeaderId {
            term: self.word()?,
            node_id: self.word()?,
        };
        Ok(Vote {
            leader_id,
            committed,
        })
    }

    pub(super) fn long(&mut self) -> Result<u32, Unreadable> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Takes so many bytes.
    pub(super) fn take(&mut self, len: u32) -> Result<&'a [u8], Unreadable> {
        let len = usize::try_from(len).map_err(|_| Unreadable::Short)?;
        let (field, rest) = self.0.split_at_checked(len).ok_or(Unreadable::Short)?;
        self.0 = rest;
        Ok(field)
    }

    /// Takes the rest.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn end(&self) -> Result<(), Unreadable> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(Unreadable::Long(left)),
        }
    }
}
