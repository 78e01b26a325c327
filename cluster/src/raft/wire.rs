//! What members of a group say to each other, as the payloads of a link. `docs/formats/raft-wire.md`.
//!
//! All numbers are little-endian. A request begins with its version and the replica it is for; what
//! kind it is, and of which group, the link's channel says.

use bytes::{BufMut, Bytes, BytesMut};
use storage::raft as log;

use super::codec::{self, Reader, Unreadable, put_vote, raft_entry, stored_entry, write_id};
use super::types::{Entry, LogId, StoredMembership, Vote};

/// Log entries, or none: a heartbeat.
pub(super) const APPEND: u16 = 16;
/// Asks for a vote.
pub(super) const VOTE: u16 = 17;
/// Asks whether it would get a vote.
pub(super) const PRE_VOTE: u16 = 18;
/// A leader names who is to lead next.
pub(super) const TRANSFER: u16 = 19;
/// A part of a state.
pub(super) const SNAPSHOT: u16 = 20;

/// Bytes that every reply fits into.
pub(super) const REPLY_BYTES_MAX: u32 = 128;

/// Bytes of an entry beside its payload.
const ENTRY_HEADER_BYTES: usize = 28;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Request {
    Append {
        vote: Vote,
        prev: Option<LogId>,
        commit: Option<LogId>,
        entries: Vec<Entry>,
    },
    Vote(Campaign),
    PreVote(Campaign),
    Transfer {
        from: Vote,
        to: u64,
        last: Option<LogId>,
    },
    Snapshot(Part),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Campaign {
    pub(super) vote: Vote,
    pub(super) last: Option<LogId>,
    /// Whether the leader has asked for it: then its lease does not count.
    pub(super) is_transfer: bool,
}

/// A part of a state that is copied. The parts of one copy have its number and count up from 0.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    pub(super) vote: Vote,
    /// Of the copy, drawn by the sender.
    pub(super) copy: u64,
    pub(super) nth: u64,
    pub(super) content: Content,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// The first part: what the state goes up to, and the version of its rows.
    Begin {
        last: LogId,
        membership: StoredMembership,
        version: u32,
    },
    /// The next bytes of its rows, in order of kind and key: see [`super::rows`].
    Rows(Bytes),
    /// The last part: how many rows there were.
    End { rows: u64 },
}

/// What is answered. Nobody answers for a replica that is not there.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reply {
    /// The entries are durable; a heartbeat was heard; a transfer is accepted; a part was taken.
    Done,
    /// The entries up to here are durable.
    Partly(Option<LogId>),
    /// The entry before the first one is not there.
    Conflict,
    /// A newer leader or candidate is known.
    Higher(Vote),
    Voted {
        vote: Vote,
        granted: bool,
        last: Option<LogId>,
    },
    /// The vote that a transfer names is not the one here.
    OtherVote { expected: Vote, actual: Vote },
    /// The log that a transfer names is not durable here.
    NotFlushed {
        expected: Option<LogId>,
        actual: Option<LogId>,
    },
    /// This part does not follow on what was taken: the copy is to begin anew.
    Anew,
    /// The state was installed.
    Installed(Vote),
}

const VERSION: u8 = 1;

pub(super) fn kind(request: &Request) -> u16 {
    match request {
        Request::Append { .. } => APPEND,
        Request::Vote(_) => VOTE,
        Request::PreVote(_) => PRE_VOTE,
        Request::Transfer { .. } => TRANSFER,
        Request::Snapshot(_) => SNAPSHOT,
    }
}

/// The replica that a request is for, and the request.
pub(super) fn read_request(kind: u16, bytes: &Bytes) -> Result<(u64, Request), Unreadable> {
    let mut reader = Reader::new(bytes)?;
    let target = reader.word()?;
    let request = match kind {
        APPEND => Request::Append {
            vote: reader.vote()?,
            prev: reader.id()?,
            commit: reader.id()?,
            entries: read_entries(&mut reader, bytes)?,
        },
        VOTE => Request::Vote(read_campaign(&mut reader)?),
        PRE_VOTE => Request::PreVote(read_campaign(&mut reader)?),
        TRANSFER => Request::Transfer {
            from: reader.vote()?,
            to: reader.word()?,
            last: reader.id()?,
        },
        SNAPSHOT => Request::Snapshot(read_part(&mut reader, bytes)?),
        _ => return Err(Unreadable::Kind(u8::MAX)),
    };
    reader.end()?;
    Ok((target, request))
}

pub(super) fn write_request(target: u64, request: &Request) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(VERSION);
    out.put_u64_le(target);
    match request {
        Request::Append {
            vote,
            prev,
            commit,
            entries,
        } => {
            put_vote(&mut out, vote);
            write_id(&mut out, prev.as_ref());
            write_id(&mut out, commit.as_ref());
            for entry in entries {
                write_entry(&mut out, entry);
            }
        }
        Request::Vote(campaign) | Request::PreVote(campaign) => {
            put_vote(&mut out, &campaign.vote);
            write_id(&mut out, campaign.last.as_ref());
            out.put_u8(u8::from(campaign.is_transfer));
        }
        Request::Transfer { from, to, last } => {
            put_vote(&mut out, from);
            out.put_u64_le(*to);
            write_id(&mut out, last.as_ref());
        }
        Request::Snapshot(part) => write_part(&mut out, part),
    }
    out.freeze()
}

/// As the log has it: id, length, payload.
fn write_entry(out: &mut BytesMut, entry: &Entry) {
    let stored = stored_entry(entry);
    out.reserve(ENTRY_HEADER_BYTES + stored.payload.len());
    out.put_u64_le(stored.id.index);
    out.put_u64_le(stored.id.term);
    out.put_u64_le(stored.id.leader);
    let len = u32::try_from(stored.payload.len()).expect("the journal takes no longer entry");
    out.put_u32_le(len);
    out.put_slice(&stored.payload);
}

/// Entries to the end; commands are slices of `bytes`.
fn read_entries(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<Vec<Entry>, Unreadable> {
    let mut entries = Vec::new();
    while !reader.is_empty() {
        let id = log::LogId {
            index: reader.word()?,
            term: reader.word()?,
            leader: reader.word()?,
        };
        let len = reader.long()?;
        let payload = bytes.slice_ref(reader.take(len)?);
        entries.push(raft_entry(&log::LogEntry { id, payload })?);
    }
    Ok(entries)
}

fn read_campaign(reader: &mut Reader<'_>) -> Result<Campaign, Unreadable> {
    Ok(Campaign {
        vote: reader.vote()?,
        last: reader.id()?,
        is_transfer: reader.flag()?,
    })
}

const BEGIN: u8 = 0;
const ROWS: u8 = 1;
const END: u8 = 2;

fn write_part(out: &mut BytesMut, part: &Part) {
    put_vote(out, &part.vote);
    out.put_u64_le(part.copy);
    out.put_u64_le(part.nth);
    match &part.content {
        Content::Begin {
            last,
            membership,
            version,
        } => {
            out.put_u8(BEGIN);
            write_id(out, Some(last));
            out.put_u32_le(*version);
            out.put_slice(&codec::write_stored_membership(membership));
        }
        Content::Rows(rows) => {
            out.put_u8(ROWS);
            out.put_slice(rows);
        }
        Content::End { rows } => {
            out.put_u8(END);
            out.put_u64_le(*rows);
        }
    }
}

fn read_part(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<Part, Unreadable> {
    let (vote, copy, nth) = (reader.vote()?, reader.word()?, reader.word()?);
    let content = match reader.byte()? {
        BEGIN => Content::Begin {
            last: reader.id()?.ok_or(Unreadable::Kind(0))?,
            version: reader.long()?,
            membership: codec::read_stored_membership(reader.rest())?,
        },
        ROWS => Content::Rows(bytes.slice_ref(reader.rest())),
        END => Content::End {
            rows: reader.word()?,
        },
        kind => return Err(Unreadable::Kind(kind)),
    };
    Ok(Part {
        vote,
        copy,
        nth,
        content,
    })
}

pub(super) fn write_reply(reply: &Reply) -> Bytes {
    let mut out = BytesMut::with_capacity(REPLY_BYTES_MAX as usize);
    out.put_u8(VERSION);
    match reply {
        Reply::Done => out.put_u8(0),
        Reply::Partly(upto) => {
            out.put_u8(1);
            write_id(&mut out, upto.as_ref());
        }
        Reply::Conflict => out.put_u8(2),
        Reply::Higher(vote) => {
            out.put_u8(3);
            put_vote(&mut out, vote);
        }
        Reply::Voted {
            vote,
            granted,
            last,
        } => {
            out.put_u8(4);
            put_vote(&mut out, vote);
            out.put_u8(u8::from(*granted));
            write_id(&mut out, last.as_ref());
        }
        Reply::OtherVote { expected, actual } => {
            out.put_u8(5);
            put_vote(&mut out, expected);
            put_vote(&mut out, actual);
        }
        Reply::NotFlushed { expected, actual } => {
            out.put_u8(6);
            write_id(&mut out, expected.as_ref());
            write_id(&mut out, actual.as_ref());
        }
        Reply::Anew => out.put_u8(7),
        Reply::Installed(vote) => {
            out.put_u8(8);
            put_vote(&mut out, vote);
        }
    }
    out.freeze()
}

pub(super) fn read_reply(bytes: &[u8]) -> Result<Reply, Unreadable> {
    let mut reader = Reader::new(bytes)?;
    let reply = match reader.byte()? {
        0 => Reply::Done,
        1 => Reply::Partly(reader.id()?),
        2 => Reply::Conflict,
        3 => Reply::Higher(reader.vote()?),
        4 => Reply::Voted {
            vote: reader.vote()?,
            granted: reader.flag()?,
            last: reader.id()?,
        },
        5 => Reply::OtherVote {
            expected: reader.vote()?,
            actual: reader.vote()?,
        },
        6 => Reply::NotFlushed {
            expected: reader.id()?,
            actual: reader.id()?,
        },
        7 => Reply::Anew,
        8 => Reply::Installed(reader.vote()?),
        kind => return Err(Unreadable::Kind(kind)),
    };
    reader.end()?;
    Ok(reply)
}

/// Reads a request of a kind of [`super::CHANNELS`], or with kind 0 a reply, and writes it again:
/// for those who check that every bytes are read or refused. `None` if they are refused.
#[doc(hidden)]
#[must_use]
pub fn reread(kind: u16, bytes: &Bytes) -> Option<Bytes> {
    if kind == 0 {
        return read_reply(bytes).ok().map(|reply| write_reply(&reply));
    }
    let (target, request) = read_request(kind, bytes).ok()?;
    Some(write_request(target, &request))
}
