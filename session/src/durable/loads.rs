//! Messages that are read again for deliveries that wait for them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mqtt::{ClientId, Filter};

use crate::MessageId;

/// What was asked for, and who waits. Nothing of it is replicated.
///
/// About as many bytes are asked for at a time as the cache may hold, at least one message; who
/// finds that too many are under way waits for room, first come, first served.
#[derive(Debug, Default)]
pub(super) struct Loads {
    bytes_max: usize,
    bytes: usize,
    asked: VecDeque<MessageId>,
    under_way: BTreeMap<MessageId, Load>,
    /// Wait for room, each once: at most the sessions and groups of the shard.
    parked: VecDeque<Waiter>,
    is_parked: BTreeSet<Waiter>,
}

/// Who needs a message for a delivery.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Waiter {
    Session(ClientId),
    Group(Filter),
}

#[derive(Debug, Default)]
struct Load {
    bytes: usize,
    waiting: BTreeSet<Waiter>,
}

impl Loads {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            ..Self::default()
        }
    }

    /// Asks for a message of so many bytes, once; false if too many are under way.
    pub(super) fn ask(&mut self, id: MessageId, bytes: usize) -> bool {
        if self.under_way.contains_key(&id) {
            return true;
        }
        if !self.has_room() {
            return false;
        }
        self.bytes += bytes;
        let waiting = BTreeSet::new();
        self.under_way.insert(id, Load { bytes, waiting });
        self.asked.push_back(id);
        true
    }

    /// A session or group goes on once the message is there, or once there is room to ask for it.
    pub(super) fn wait(&mut self, id: MessageId, waiter: Waiter) {
        if let Some(load) = self.under_way.get_mut(&id) {
            load.waiting.insert(waiter);
        } else if self.is_parked.insert(waiter.clone()) {
            self.parked.push_back(waiter);
        }
    }

    /// The next message to be read.
    pub(super) fn poll(&mut self) -> Option<MessageId> {
        self.asked.pop_front()
    }

    /// The next one for which there is room.
    pub(super) fn unpark(&mut self) -> Option<Waiter> {
        if !self.has_room() {
            return None;
        }
        let waiter = self.parked.pop_front()?;
        self.is_parked.remove(&waiter);
        Some(waiter)
    }

    /// A message was read, or is nowhere: who is to go on. `None` if it was not asked for.
    pub(super) fn answered(&mut self, id: MessageId) -> Option<BTreeSet<Waiter>> {
        let load = self.under_way.remove(&id)?;
        self.bytes -= load.bytes;
        Some(load.waiting)
    }

    fn has_room(&self) -> bool {
        self.under_way.is_empty() || self.bytes < self.bytes_max
    }
}
