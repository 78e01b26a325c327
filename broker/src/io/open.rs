//! Which connections of the node are open, for whoever sends again what they asked for.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use session::ConnectionId;

use crate::ids::{Place, SLOTS_MAX};

/// Slots of the first segment; each further one has twice as many as the one before.
const FIRST_SLOTS: usize = 1 << 10;
/// Segments that hold every slot.
const SEGMENTS: usize = (SLOTS_MAX / FIRST_SLOTS).ilog2() as usize + 1;
/// Stands beside the generation of a connection that is open, of which every number may be one.
const OPEN: u64 = 1 << 32;

/// What is in each slot of each io thread: written by the thread, read by everybody, never waited
/// for. Takes 8 bytes a slot that was ever used.
///
/// What a connection asks for goes through mailboxes, so whoever has it sees that it was open; who sees that
/// it has ended has all of it in his mailbox, before the answer to anything that he asks from then on.
pub(super) struct OpenConnections(Box<[[Segment; SEGMENTS]]>);

/// Slots of which each has the generation of the connection that is open there; made when one is used.
type Segment = OnceLock<Box<[AtomicU64]>>;

impl OpenConnections {
    pub(super) fn new(threads: usize) -> Self {
        let of_thread = || std::array::from_fn(|_| OnceLock::new());
        Self(std::iter::repeat_with(of_thread).take(threads).collect())
    }

    /// A connection begins.
    pub(super) fn begin(&self, id: ConnectionId) {
        let place = Place::of(id);
        let (segment, at) = segment_of(place.slot);
        let slots = self.0[place.thread][segment].get_or_init(|| {
            let slots = FIRST_SLOTS << segment;
            std::iter::repeat_with(AtomicU64::default)
                .take(slots)
                .collect()
        });
        slots[at].store(OPEN | u64::from(place.generation), Ordering::Relaxed);
    }

    /// A connection has ended, promises its client nothing any more, and all that it asked for is in
    /// the mailboxes of those who do it. Its slot may have another one by now.
    pub(super) fn end(&self, id: ConnectionId) {
        let open = OPEN | u64::from(Place::of(id).generation);
        if let Some(slot) = self.slot(id)
            && slot.load(Ordering::Relaxed) == open
        {
            slot.store(0, Ordering::Release);
        }
    }

    pub(super) fn is_open(&self, id: ConnectionId) -> bool {
        let open = OPEN | u64::from(Place::of(id).generation);
        self.slot(id)
            .is_some_and(|slot| slot.load(Ordering::Acquire) == open)
    }

    fn slot(&self, id: ConnectionId) -> Option<&AtomicU64> {
        let place = Place::of(id);
        let (segment, at) = segment_of(place.slot);
        self.0[place.thread][segment].get()?.get(at)
    }
}

/// The segment of a slot, and its place there.
fn segment_of(slot: usize) -> (usize, usize) {
    let segment = (slot / FIRST_SLOTS + 1).ilog2() as usize;
    (segment, slot - FIRST_SLOTS * ((1 << segment) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(thread: usize, slot: usize, generation: u32) -> ConnectionId {
        Place {
            thread,
            slot,
            generation,
        }
        .id()
    }

    #[test]
    fn a_connection_is_open_from_its_beginning_to_its_end() {
        let open = OpenConnections::new(2);
        for slot in [0, 1, FIRST_SLOTS - 1, FIRST_SLOTS] {
            let (one, other) = (id(0, slot, 0), id(1, slot, 0));
            assert!(!open.is_open(one));
            open.begin(one);
            assert!(open.is_open(one) && !open.is_open(other));

            open.end(one);
            assert!(!open.is_open(one));
            open.begin(id(0, slot, 7));
            open.end(one);
            assert!(!open.is_open(one) && open.is_open(id(0, slot, 7)));
        }
    }

    #[test]
    fn every_slot_has_a_place_of_its_own() {
        let ends = [0, FIRST_SLOTS, 3 * FIRST_SLOTS, 7 * FIRST_SLOTS];
        for (segment, begin) in ends.into_iter().enumerate() {
            let last = begin + (FIRST_SLOTS << segment) - 1;
            assert_eq!(segment_of(begin), (segment, 0));
            assert_eq!(segment_of(last), (segment, (FIRST_SLOTS << segment) - 1));
        }
        assert!(segment_of(SLOTS_MAX - 1).0 < SEGMENTS);
    }
}
