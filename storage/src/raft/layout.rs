//! The Raft log's side of the journal's writer thread: folds what is fsynced into the durable view,
//! and writes that view at the beginning of each segment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::group::Group;
use super::index::Place;
use super::record::{Record, word};
use super::shared::Shared;
use super::state::GroupState;
use super::{Defects, GroupId};
use crate::journal::{Entry, Frame, Layout, SegmentStart};

const PREAMBLE_VERSION: u8 = 1;

/// The Raft log's side of the journal's writer thread.
pub(super) struct RaftLayout {
    shared: Arc<Shared>,
    /// The number of the next record: ahead of `folded` while a group is written.
    next: u64,
    /// The number of the next record to be folded.
    folded: u64,
    defects: Defects,
}

impl RaftLayout {
    pub(super) fn new(shared: Arc<Shared>, defects: Defects) -> Self {
        Self {
            shared,
            next: 0,
            folded: 0,
            defects,
        }
    }

    /// Folds one record; whether something on disk may be worthless now.
    fn fold(&mut self, frame: &Frame, entry: &Entry) -> Result<bool, String> {
        if entry.number != self.folded {
            return Err(format!(
                "record {} stands where record {} is expected",
                entry.number, self.folded
            ));
        }
        let record = Record::read(&entry.payload)?;
        let bytes = frame.next.offset - frame.position.offset;
        let place = Place {
            position: frame.position,
            bytes: u32::try_from(bytes).map_err(|_| format!("a frame of {bytes} bytes"))?,
        };
        let group = self.shared.group(GroupId(entry.tag));
        let freed = Shared::lock(&group)
            .fold(&record, place)
            .map_err(|cause| format!("group {}, record {}: {cause}", entry.tag, entry.number))?;
        if !matches!(record, Record::Copy(_)) {
            let bytes = entry.payload.len() as u64;
            self.shared.fresh_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        self.folded += 1;
        Ok(freed)
    }

    fn durable(&self) -> BTreeMap<u32, GroupState> {
        let groups = self.shared.groups();
        let states = groups
            .iter()
            .map(|(id, group)| (id.0, Shared::lock(group).durable.clone()));
        states.filter(|(_, state)| !state.is_absent()).collect()
    }
}

impl Layout for RaftLayout {
    fn recover_segment(&mut self, start: &SegmentStart, preamble: &[u8]) -> Result<(), String> {
        let (next, states) = read_preamble(preamble)?;
        if self.shared.segments().is_empty() {
            self.folded = next;
            for (id, state) in states {
                let group = self.shared.group(GroupId(id));
                Shared::lock(&group).durable = state;
            }
        } else if next != self.folded || states != self.durable() {
            return Err("the segment does not go on where the one before ends".to_owned());
        }
        self.next = self.folded;
        self.shared.start_segment(start);
        Ok(())
    }

    fn recover_frame(&mut self, frame: &Frame) -> Result<(), String> {
        for entry in frame.entries() {
            self.fold(frame, &entry)?;
        }
        self.next = self.folded;
        self.shared.grow_segment(frame);
        Ok(())
    }

    fn preamble(&mut self, _incarnation: u64, out: &mut Vec<u8>) {
        let mut states = self.durable();
        if self.defects.votes_not_copied {
            states.values_mut().for_each(|state| state.vote = None);
        }
        write_preamble(out, self.folded, &states);
    }

    fn segment_started(&mut self, start: &SegmentStart) {
        self.shared.start_segment(start);
        self.shared.reclaimer.wake();
    }

    fn number(&mut self, _tag: u32) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    fn synced(&mut self, frames: Vec<Arc<Frame>>) {
        let mut freed = false;
        for frame in frames {
            for entry in frame.entries() {
                freed |= self
                    .fold(&frame, &entry)
                    .unwrap_or_else(|cause| panic!("the log contradicts itself: {cause}"));
            }
            self.shared.grow_segment(&frame);
        }
        if freed {
            self.shared.reclaimer.wake();
        }
        self.shared.evict();
    }

    fn closed(&mut self) {}
}

/// Appends what a segment begins with: every group as it is before the segment's first record. So
/// votes, purges and truncations need not be looked for in segments before.
fn write_preamble(out: &mut Vec<u8>, next: u64, states: &BTreeMap<u32, GroupState>) {
    out.extend_from_slice(&[PREAMBLE_VERSION, 0, 0, 0]);
    let groups = u32::try_from(states.len()).expect("groups are named by 32 bits");
    out.extend_from_slice(&groups.to_le_bytes());
    out.extend_from_slice(&next.to_le_bytes());
    for (id, state) in states {
        out.extend_from_slice(&id.to_le_bytes());
        state.write(out);
    }
}

fn read_preamble(preamble: &[u8]) -> Result<(u64, BTreeMap<u32, GroupState>), String> {
    let cut = || "the segment's preamble is cut short".to_owned();
    let (head, mut rest) = preamble.split_first_chunk::<16>().ok_or_else(cut)?;
    if head[0] != PREAMBLE_VERSION {
        return Err(format!(
            "version {} of the segment's preamble is not known to this release",
            head[0]
        ));
    }
    let groups = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    let next = word(head, 8).expect("of this length");
    let mut states = BTreeMap::new();
    for _ in 0..groups {
        let (id, behind) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        rest = behind;
        let id = u32::from_le_bytes(*id);
        let state = GroupState::read(&mut rest).map_err(|cause| format!("group {id}: {cause}"))?;
        if states.insert(id, state).is_some() {
            return Err(format!("group {id} stands twice in the segment's preamble"));
        }
    }
    match rest.is_empty() {
        true => Ok((next, states)),
        false => Err("the segment's preamble has a wrong length".to_owned()),
    }
}

/// Whether every entry that a group says it has was found.
pub(super) fn hole(group: &Group) -> Option<u64> {
    let live = group.durable.first..group.durable.next;
    if group.index.entries() == live.end - live.start {
        return None;
    }
    group.index.hole(live)
}

#[cfg(test)]
mod test {
    use bytes::Bytes;

    use super::super::LogId;
    use super::*;

    #[test]
    fn the_preamble_of_a_segment_has_these_bytes() {
        let id = |index| LogId {
            index,
            term: 2,
            leader: 3,
        };
        let mut state = GroupState::default();
        state.append(id(4), 3).expect("a fresh log");
        state.purge(id(4));
        state.vote = Some(Bytes::from_static(b"vote"));
        let states = BTreeMap::from([(7, state)]);
        let mut out = Vec::new();

        write_preamble(&mut out, 9, &states);

        let expected: &[u8] = b"\x01\0\0\0\x01\0\0\0\x09\0\0\0\0\0\0\0\
            \x07\0\0\0\x03\0\0\0\x01\0\0\0\x05\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\
            \x04\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\
            \x05\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\
            \x04\0\0\0vote";
        assert_eq!(out, expected);
        assert_eq!(read_preamble(&out), Ok((9, states)));
        for len in 0..out.len() {
            assert!(read_preamble(&out[..len]).is_err(), "{len}");
        }
        out[0] = 2;
        assert_eq!(
            read_preamble(&out),
            Err("version 2 of the segment's preamble is not known to this release".to_owned())
        );
    }
}
