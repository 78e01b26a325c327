//! What a group's log is after some records: a pure fold, without the entries themselves.

use bytes::Bytes;

use super::record::{OPAQUE_BYTES_MAX, word};
use super::{Conflict, LogEntry, LogId, LogState};

/// The log of one group as a value. The callers' view and the durable one are both this.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct GroupState {
    /// The last entry that was purged.
    pub(super) purged: Option<LogId>,
    /// The index of the first entry; equal to `next` if there is none.
    pub(super) first: u64,
    /// The index behind the last entry.
    pub(super) next: u64,
    /// The first entry of each leader, among those that are there.
    pub(super) leaders: Vec<LogId>,
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
}

impl GroupState {
    pub(super) fn is_empty(&self) -> bool {
        self.first == self.next
    }

    /// Whether nothing is known of this group.
    pub(super) fn is_absent(&self) -> bool {
        self.is_empty() && self.purged.is_none() && self.vote.is_none() && self.committed.is_none()
    }

    pub(super) fn log_state(&self) -> LogState {
        let last = match self.is_empty() {
            true => self.purged,
            false => self.id_at(self.next - 1),
        };
        LogState {
            last_purged: self.purged,
            last,
        }
    }

    /// The id of the entry at this index, if it is there.
    pub(super) fn id_at(&self, index: u64) -> Option<LogId> {
        if !(self.first..self.next).contains(&index) {
            return None;
        }
        let behind = self.leaders.partition_point(|first| first.index <= index);
        let first = self.leaders[behind.checked_sub(1).expect("the first entry has a leader")];
        Some(LogId { index, ..first })
    }

    /// The last entry of each leader.
    pub(super) fn leader_ends(&self) -> Vec<LogId> {
        let behind = self.leaders.iter().skip(1).map(|next| next.index);
        self.leaders
            .iter()
            .zip(behind.chain([self.next]))
            .map(|(first, behind)| LogId {
                index: behind - 1,
                ..*first
            })
            .collect()
    }

    /// Whether these entries can be appended, all of them.
    pub(super) fn check_append(&self, entries: &[LogEntry]) -> Result<(), Conflict> {
        let Some(first) = entries.first() else {
            return Ok(());
        };
        for (expected, entry) in (self.next_for(first.id)..).zip(entries) {
            if entry.id.index != expected {
                return Err(Conflict::Hole {
                    index: entry.id.index,
                    expected,
                });
            }
        }
        Ok(())
    }

    /// The index that the next entry must have, if it is to be this one.
    fn next_for(&self, id: LogId) -> u64 {
        match (self.is_empty(), self.purged) {
            // A log of which nothing is known may begin anywhere.
            (true, None) => id.index,
            (true, Some(purged)) => purged.index + 1,
            (false, _) => self.next,
        }
    }

    /// Takes entries of one leader behind the last one.
    pub(super) fn append(&mut self, first: LogId, count: u32) -> Result<(), Conflict> {
        let expected = self.next_for(first);
        if first.index != expected {
            return Err(Conflict::Hole {
                index: first.index,
                expected,
            });
        }
        if self.is_empty() {
            self.first = first.index;
            self.leaders.clear();
        }
        if !self
            .leaders
            .last()
            .is_some_and(|last| last.same_leader(first))
        {
            self.leaders.push(first);
        }
        self.next = first.index + u64::from(count);
        Ok(())
    }

    /// Forgets the entries from this index on; false if there are none.
    pub(super) fn truncate(&mut self, from: u64) -> Result<bool, Conflict> {
        if let Some(purged) = self.purged.filter(|purged| purged.index >= from) {
            return Err(Conflict::Purged {
                index: from,
                purged,
            });
        }
        if from >= self.next || self.is_empty() {
            return Ok(false);
        }
        self.next = from.max(self.first);
        self.leaders.retain(|first| first.index < from);
        Ok(true)
    }

    /// Forgets the entries up to this one; false if that changes nothing: it never goes back.
    pub(super) fn purge(&mut self, upto: LogId) -> bool {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return false;
        }
        self.purged = Some(upto);
        let first = upto.index + 1;
        if first >= self.next {
            (self.first, self.next) = (first, first);
            self.leaders.clear();
        } else if first > self.first {
            let id = self.id_at(first).expect("it lies between first and next");
            self.first = first;
            self.leaders.retain(|leader| leader.index > first);
            self.leaders.insert(0, id);
        }
        true
    }

    /// Appends the bytes of this state; [`GroupState::read`] is the other side.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let flag = |bit: u8, set: bool| if set { bit } else { 0 };
        let flags = flag(1, self.purged.is_some())
            | flag(2, self.vote.is_some())
            | flag(4, self.committed.is_some());
        out.extend_from_slice(&[flags, 0, 0, 0]);
        let leaders =
            u32::try_from(self.leaders.len()).expect("fewer leaders than entries of memory");
        out.extend_from_slice(&leaders.to_le_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.next.to_le_bytes());
        for id in self.purged.iter().chain(&self.leaders) {
            id.write(out);
        }
        for opaque in self.vote.iter().chain(&self.committed) {
            let len = u32::try_from(opaque.len()).expect("bounded where it is taken");
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(opaque);
        }
    }

    /// Reads a state from the beginning of `bytes`, which then begin behind it.
    ///
    /// # Errors
    /// Says what is wrong, for a person.
    pub(super) fn read(bytes: &mut &[u8]) -> Result<Self, String> {
        let cut = || "the state of a group is cut short".to_owned();
        let head = take(bytes, 24).ok_or_else(cut)?;
        let flags = head[0];
        if flags & !7 != 0 {
            return Err(format!("flags {flags} of a group's state are not known"));
        }
        let leaders = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        let (first, next) = (word(head, 8), word(head, 16));
        let (first, next) = first.zip(next).expect("of this length");
        let purged = match flags & 1 {
            0 => None,
            _ => Some(take_id(bytes).ok_or_else(cut)?),
        };
        let mut state = Self {
            purged,
            first,
            next,
            ..Self::default()
        };
        for _ in 0..leaders {
            state.leaders.push(take_id(bytes).ok_or_else(cut)?);
        }
        if flags & 2 != 0 {
            state.vote = Some(take_opaque(bytes).ok_or_else(cut)?);
        }
        if flags & 4 != 0 {
            state.committed = Some(take_opaque(bytes).ok_or_else(cut)?);
        }
        state.check()?;
        Ok(state)
    }

    fn check(&self) -> Result<(), String> {
        let begins = match self.leaders.first() {
            None => self.first == self.next,
            Some(leader) => leader.index == self.first && self.first < self.next,
        };
        let rises = self
            .leaders
            .is_sorted_by(|one, next| one.index < next.index)
            && self
                .leaders
                .last()
                .is_none_or(|last| last.index < self.next);
        let behind = self.purged.is_none_or(|purged| purged.index < self.first);
        match begins && rises && behind {
            true => Ok(()),
            false => Err(format!(
                "the state of a group contradicts itself: entries {} to {}, {} leaders, purged {:?}",
                self.first,
                self.next,
                self.leaders.len(),
                self.purged
            )),
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(head)
}

fn take_id(bytes: &mut &[u8]) -> Option<LogId> {
    LogId::read(take(bytes, LogId::BYTES)?)
}

fn take_opaque(bytes: &mut &[u8]) -> Option<Bytes> {
    let len = u32::from_le_bytes(*take(bytes, 4)?.first_chunk()?) as usize;
    let opaque = take(bytes, len).filter(|_| len <= OPAQUE_BYTES_MAX)?;
    Some(Bytes::copy_from_slice(opaque))
}

#[cfg(test)]
mod test {
    use super::*;

    fn id(term: u64, index: u64) -> LogId {
        LogId {
            term,
            leader: term + 100,
            index,
        }
    }

    /// Entries 3 to 8 of terms 1, 1, 2, 2, 2, 5.
    fn log() -> GroupState {
        let mut state = GroupState::default();
        state.append(id(1, 3), 2).expect("a fresh log");
        state.append(id(2, 5), 3).expect("behind");
        state.append(id(5, 8), 1).expect("behind");
        state
    }

    #[test]
    fn ids_are_known_by_their_leaders() {
        let log = log();
        let terms: Vec<_> = (2..10).map(|at| log.id_at(at).map(|id| id.term)).collect();
        let known = [1, 1, 2, 2, 2, 5].map(Some);
        assert_eq!(terms, [&[None], &known[..], &[None]].concat());
        assert_eq!(log.log_state().last, Some(id(5, 8)));
        assert_eq!(log.leader_ends(), [id(1, 4), id(2, 7), id(5, 8)]);
        assert_eq!(GroupState::default().leader_ends(), []);
    }

    #[test]
    fn a_hole_is_refused() {
        let mut log = log();
        let refused = log.append(id(5, 10), 1);
        assert_eq!(
            refused,
            Err(Conflict::Hole {
                index: 10,
                expected: 9
            })
        );
        assert!(log.append(id(5, 8), 1).is_err(), "an entry twice");
        log.purge(id(7, 20));
        assert!(log.append(id(7, 20), 1).is_err(), "a purged entry");
        assert_eq!(log.append(id(7, 21), 1), Ok(()));
    }

    #[test]
    fn a_truncation_forgets_leaders_and_the_log_goes_on_where_it_cut() {
        let mut log = log();
        assert_eq!(log.truncate(9), Ok(false));
        assert_eq!(log.truncate(6), Ok(true));
        assert_eq!(log.log_state().last, Some(id(2, 5)));
        assert_eq!(log.append(id(6, 6), 1), Ok(()));
        assert_eq!(log.leaders, [id(1, 3), id(2, 5), id(6, 6)]);
        assert_eq!(log.truncate(0), Ok(true));
        assert_eq!(log.log_state().last, None);
        assert_eq!(log.append(id(6, 0), 1), Ok(()));
        log.purge(id(6, 0));
        assert!(matches!(log.truncate(0), Err(Conflict::Purged { .. })));
    }

    #[test]
    fn a_purge_never_goes_back() {
        let mut log = log();
        assert!(log.purge(id(2, 6)));
        assert!(!log.purge(id(1, 4)));
        assert_eq!(
            log.log_state(),
            LogState {
                last_purged: Some(id(2, 6)),
                last: Some(id(5, 8))
            }
        );
        assert_eq!(log.leaders, [id(2, 7), id(5, 8)]);
        assert!(log.purge(id(9, 30)));
        assert_eq!(log.log_state().last, Some(id(9, 30)));
        assert_eq!((log.first, log.next), (31, 31));
    }

    #[test]
    fn a_purge_before_the_first_entry_leaves_the_entries() {
        let mut log = log();
        assert!(log.purge(id(1, 1)));
        assert_eq!((log.first, log.next), (3, 9));
    }

    #[test]
    fn a_state_comes_back_from_its_bytes() {
        let mut state = log();
        state.purge(id(1, 3));
        state.vote = Some(Bytes::from_static(b"vote"));
        let mut out = Vec::new();
        state.write(&mut out);
        let mut rest = &out[..];
        assert_eq!(GroupState::read(&mut rest), Ok(state));
        assert!(rest.is_empty());
        for len in 0..out.len() {
            assert!(GroupState::read(&mut &out[..len]).is_err(), "{len}");
        }
        out[0] = 9;
        assert!(GroupState::read(&mut &out[..]).is_err());
    }
}
