//! Records that are on their way, by number.

use storage::log::Record;

use crate::log::{PortId, Ticket, memory_bytes};

/// Is the number of a record on its way; used again once the record has left.
pub(crate) type SlotId = u32;

/// Is a record on its way, and what is known about it.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) record: Record,
    /// What it settles, and who hears of it; taken once it is settled.
    pub(crate) ticket: Option<(PortId, Ticket)>,
    /// Number of its topic.
    pub(super) topic: u16,
    /// When it came, from the broker or out of the spool; monotonic milliseconds.
    pub(super) since_ms: u64,
    /// Its place in the spool, if it is or will be there.
    pub(super) spool_offset: Option<u64>,
    /// What became of it at Kafka's client.
    pub(super) fate: Fate,
    /// Whether it came out of the spool and counts against what may be drained at once.
    pub(super) is_drained: bool,
    /// Whether it counts against the room for what is not durable.
    pub(super) holds_room: bool,
    /// How many queues name it; it leaves with the last one.
    pub(super) pins: u8,
}

/// Says what became of a record at Kafka's client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing yet.
    Open,
    /// Kafka has it, or it needs no Kafka any more.
    Confirmed,
    /// It came back and will be sent again.
    Failed,
}

/// Keeps slots under small numbers.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<SlotId>,
}

impl Slots {
    /// Puts a record into a slot that nothing names yet.
    ///
    /// # Panics
    /// When 2^32 records are on their way: their bytes are bounded far below that.
    pub(super) fn insert(&mut self, slot: Slot) -> SlotId {
        if let Some(id) = self.free.pop() {
            self.slots[id as usize] = Some(slot);
            return id;
        }
        let id = SlotId::try_from(self.slots.len()).expect("bytes in memory bound the records");
        self.slots.push(Some(slot));
        id
    }

    pub(super) fn get(&self, id: SlotId) -> &Slot {
        let slot = self.slots.get(id as usize).and_then(Option::as_ref);
        slot.expect("a queue names only slots that are taken")
    }

    pub(super) fn get_mut(&mut self, id: SlotId) -> &mut Slot {
        let slot = self.slots.get_mut(id as usize).and_then(Option::as_mut);
        slot.expect("a queue names only slots that are taken")
    }

    pub(super) fn pin(&mut self, id: SlotId) {
        self.get_mut(id).pins += 1;
    }

    /// Takes one name off a slot; the last one frees it.
    pub(super) fn unpin(&mut self, id: SlotId) {
        let slot = self.get_mut(id);
        slot.pins -= 1;
        if slot.pins == 0 {
            debug_assert!(slot.ticket.is_none() && !slot.holds_room, "left unsettled");
            self.slots[id as usize] = None;
            self.free.push(id);
        }
    }

    pub(super) fn bytes(&self, id: SlotId) -> u64 {
        memory_bytes(&self.get(id).record)
    }

    /// Is the number of records on their way.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
