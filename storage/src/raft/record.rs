//! The record: what one entry of the journal says about one group.

use bytes::Bytes;

use super::{LogEntry, LogId};

/// A run of entries is cut at this many bytes, so that reading one entry reads little else.
pub(super) const RUN_BYTES_TARGET: usize = 64 << 10;
/// The longest vote or committed position.
pub const OPAQUE_BYTES_MAX: usize = 4096;
/// Bytes of a run beside its entries.
pub(super) const RUN_OVERHEAD_BYTES: usize = HEAD_BYTES + LogId::BYTES;
/// Bytes of an entry in a run beside its payload.
pub(super) const ENTRY_OVERHEAD_BYTES: usize = 4;

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 8;

/// What a record does. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Append = 1,
    Truncate = 2,
    Purge = 3,
    Vote = 4,
    Committed = 5,
    Copy = 6,
    Remove = 7,
}

/// A change of one group's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// Entries behind the last one.
    Append(Run),
    /// The entries from this index on are gone.
    Truncate(u64),
    /// The entries up to this one are gone.
    Purge(LogId),
    /// The current vote.
    Vote(Bytes),
    /// How far the group is known to be committed.
    Committed(Bytes),
    /// Entries that are there already lie here, too: where they lay is to be removed.
    Copy(Run),
    /// The group left this node.
    Remove,
}

/// Entries of one leader with indexes that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: LogId,
    pub(super) count: u32,
    /// Of each entry its length and its payload; checked.
    body: Bytes,
}

impl Run {
    /// The index behind the last entry.
    pub(super) fn end(&self) -> u64 {
        self.first.index + u64::from(self.count)
    }

    /// The entries, in order.
    pub(super) fn entries(&self) -> impl Iterator<Item = LogEntry> + '_ {
        let mut at = 0;
        (self.first.index..self.end()).map(move |index| {
            let len = length(&self.body[at..]).expect("runs are checked when they are read");
            let start = at + ENTRY_OVERHEAD_BYTES;
            at = start + len;
            LogEntry {
                id: LogId {
                    index,
                    ..self.first
                },
                payload: self.body.slice(start..at),
            }
        })
    }
}

/// The length before an entry, if the entry is whole.
fn length(bytes: &[u8]) -> Option<usize> {
    let len = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    (bytes.len() - ENTRY_OVERHEAD_BYTES >= len).then_some(len)
}

/// Whether a record may say this about the entries that begin with `first`.
fn is_run(first: LogId, count: u32, body: &[u8]) -> bool {
    let mut rest = body;
    for _ in 0..count {
        let Some(len) = length(rest) else {
            return false;
        };
        rest = &rest[ENTRY_OVERHEAD_BYTES + len..];
    }
    count > 0 && rest.is_empty() && first.index.checked_add(u64::from(count)).is_some()
}

impl Record {
    /// Reads a record.
    ///
    /// # Errors
    /// Says what is wrong, for a person.
    pub(super) fn read(bytes: &Bytes) -> Result<Self, String> {
        let Some(head) = bytes.first_chunk::<HEAD_BYTES>() else {
            return Err(format!("a record of {} bytes is too short", bytes.len()));
        };
        if head[0] != VERSION {
            return Err(format!(
                "version {} of the record is not known to this release",
                head[0]
            ));
        }
        let count = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        let body = bytes.slice(HEAD_BYTES..);
        let exact = |len: usize| match body.len() == len {
            true => Ok(()),
            false => Err(format!(
                "a record of {} bytes has a wrong length",
                bytes.len()
            )),
        };
        let run = || {
            let first = LogId::read(&body).ok_or("a run of entries is cut short")?;
            let body = body.slice(LogId::BYTES..);
            match is_run(first, count, &body) {
                true => Ok(Run { first, count, body }),
                false => Err(format!(
                    "the entries of a run at {} are damaged",
                    first.index
                )),
            }
        };
        let opaque = || match body.len() <= OPAQUE_BYTES_MAX {
            true => Ok(body.clone()),
            false => Err(format!("a record of {} bytes is too long", bytes.len())),
        };
        Ok(match head[1] {
            1 => Self::Append(run()?),
            2 => {
                exact(8)?;
                Self::Truncate(word(&body, 0).expect("of this length"))
            }
            3 => {
                exact(LogId::BYTES)?;
                let upto = LogId::read(&body).expect("of this length");
                if upto.index == u64::MAX {
                    return Err("a purge goes beyond every index".to_owned());
                }
                Self::Purge(upto)
            }
            4 => Self::Vote(opaque()?),
            5 => Self::Committed(opaque()?),
            6 => Self::Copy(run()?),
            7 => {
                exact(0)?;
                Self::Remove
            }
            kind => {
                return Err(format!(
                    "kind {kind} of the record is not known to this release"
                ));
            }
        })
    }
}

fn head(out: &mut Vec<u8>, kind: Kind, count: u32) {
    out.extend_from_slice(&[VERSION, kind as u8, 0, 0]);
    out.extend_from_slice(&count.to_le_bytes());
}

fn write_run(out: &mut Vec<u8>, kind: Kind, entries: &[LogEntry]) {
    let first = entries.first().expect("a run has an entry").id;
    head(
        out,
        kind,
        u32::try_from(entries.len()).expect("runs are cut in bytes"),
    );
    first.write(out);
    for entry in entries {
        let len = u32::try_from(entry.payload.len()).expect("the journal bounds entries");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&entry.payload);
    }
}

pub(super) fn write_append(out: &mut Vec<u8>, entries: &[LogEntry]) {
    write_run(out, Kind::Append, entries);
}

pub(super) fn write_copy(out: &mut Vec<u8>, entries: &[LogEntry]) {
    write_run(out, Kind::Copy, entries);
}

pub(super) fn write_truncate(out: &mut Vec<u8>, from: u64) {
    head(out, Kind::Truncate, 0);
    out.extend_from_slice(&from.to_le_bytes());
}

pub(super) fn write_purge(out: &mut Vec<u8>, upto: LogId) {
    head(out, Kind::Purge, 0);
    upto.write(out);
}

pub(super) fn write_vote(out: &mut Vec<u8>, vote: &[u8]) {
    head(out, Kind::Vote, 0);
    out.extend_from_slice(vote);
}

pub(super) fn write_committed(out: &mut Vec<u8>, committed: &[u8]) {
    head(out, Kind::Committed, 0);
    out.extend_from_slice(committed);
}

pub(super) fn write_remove(out: &mut Vec<u8>) {
    head(out, Kind::Remove, 0);
}

/// The number at this place.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Cuts entries into runs: of one leader, and not much longer than [`RUN_BYTES_TARGET`].
pub(super) fn runs(entries: &[LogEntry]) -> impl Iterator<Item = &[LogEntry]> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let first = rest.first()?.id;
        let mut bytes = 0;
        let count = rest.iter().enumerate().position(|(nth, entry)| {
            bytes += entry.payload.len() + ENTRY_OVERHEAD_BYTES;
            let next = first.index.wrapping_add(nth as u64);
            let follows = entry.id.same_leader(first) && entry.id.index == next;
            nth > 0 && (bytes > RUN_BYTES_TARGET || !follows)
        });
        let (run, behind) = rest.split_at(count.unwrap_or(rest.len()));
        rest = behind;
        Some(run)
    })
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    fn entry(index: u64, payload: &'static [u8]) -> LogEntry {
        LogEntry {
            id: LogId {
                index,
                term: 2,
                leader: 3,
            },
            payload: Bytes::from_static(payload),
        }
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        let mut out = Vec::new();
        write(&mut out);
        out.into()
    }

    #[test]
    fn records_have_these_bytes() {
        let entries = [entry(5, b"ab"), entry(6, b"")];
        let run = b"\x02\x00\x00\x00\
            \x05\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\
            \x03\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00ab\x00\x00\x00\x00";
        assert_eq!(
            written(|out| write_append(out, &entries)),
            [b"\x01\x01\x00\x00", &run[..]].concat()
        );
        assert_eq!(
            written(|out| write_copy(out, &entries)),
            [b"\x01\x06\x00\x00", &run[..]].concat()
        );
        assert_eq!(
            written(|out| write_truncate(out, 258)),
            &b"\x01\x02\0\0\0\0\0\0\x02\x01\0\0\0\0\0\0"[..]
        );
        assert_eq!(
            written(|out| write_purge(out, entries[0].id)),
            &b"\x01\x03\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0"[..]
        );
        assert_eq!(
            written(|out| write_vote(out, b"v")),
            &b"\x01\x04\0\0\0\0\0\0v"[..]
        );
        assert_eq!(
            written(|out| write_committed(out, b"c")),
            &b"\x01\x05\0\0\0\0\0\0c"[..]
        );
        assert_eq!(written(write_remove), &b"\x01\x07\0\0\0\0\0\0"[..]);
    }

    #[test]
    fn a_run_gives_its_entries_back() {
        let entries = [entry(5, b"ab"), entry(6, b""), entry(7, b"c")];
        let record = Record::read(&written(|out| write_append(out, &entries)));
        let Ok(Record::Append(run)) = record else {
            panic!("{record:?}");
        };
        assert_eq!(run.entries().collect::<Vec<_>>(), entries);
        assert_eq!(run.end(), 8);
    }

    #[test]
    fn records_of_later_versions_and_kinds_are_refused_by_name() {
        let refused = |bytes: &'static [u8]| {
            Record::read(&Bytes::from_static(bytes)).expect_err("not of this release")
        };
        assert_eq!(
            refused(b"\x02\x01\0\0\0\0\0\0"),
            "version 2 of the record is not known to this release"
        );
        assert_eq!(
            refused(b"\x01\x09\0\0\0\0\0\0"),
            "kind 9 of the record is not known to this release"
        );
    }

    #[test]
    fn runs_are_cut_at_leaders_and_bytes() {
        let mut entries: Vec<LogEntry> = (0..4).map(|index| entry(index, b"x")).collect();
        entries[2].id.term = 9;
        entries[3].id.term = 9;
        let large = Bytes::from(vec![0; RUN_BYTES_TARGET]);
        entries.push(LogEntry {
            id: LogId {
                index: 4,
                term: 9,
                leader: 3,
            },
            payload: large,
        });
        let lengths: Vec<usize> = runs(&entries).map(<[LogEntry]>::len).collect();
        assert_eq!(lengths, [2, 2, 1]);
    }

    proptest! {
        #[test]
        fn foreign_bytes_are_read_or_refused_without_panic(
            kind in 0_u8..9,
            count in 0_u32..4,
            body in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut bytes = vec![VERSION, kind, 0, 0];
            bytes.extend_from_slice(&count.to_le_bytes());
            bytes.extend_from_slice(&body);
            if let Ok(Record::Append(run) | Record::Copy(run)) = Record::read(&bytes.into()) {
                prop_assert_eq!(run.entries().count(), count as usize);
            }
        }
    }
}
