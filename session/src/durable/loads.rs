//! Messages that are read again for deliveries that wait for them.

use std::collections::{BTreeMap, VecDeque};

use mqtt::ClientId;

use crate::MessageId;

/// What was asked for, and who waits. Nothing of it is replicated.
///
/// As many bytes are asked for at a time as the cache may hold, at least one message; who finds
/// that too many are under way waits for any answer.
#[derive(Debug, Default)]
pub(super) struct Loads {
    bytes_max: usize,
    bytes: usize,
    asked: VecDeque<MessageId>,
    under_way: BTreeMap<MessageId, Load>,
    /// Wait for room.
    parked: Vec<ClientId>,
}

#[derive(Debug, Default)]
struct Load {
    bytes: usize,
    waiting: Vec<ClientId>,
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
        if !self.under_way.is_empty() && self.bytes + bytes > self.bytes_max {
            return false;
        }
        self.bytes += bytes;
        let waiting = Vec::new();
        self.under_way.insert(id, Load { bytes, waiting });
        self.asked.push_back(id);
        true
    }

    /// A session goes on once the message is there, or once there is room to ask for it.
    pub(super) fn wait(&mut self, id: MessageId, client: ClientId) {
        match self.under_way.get_mut(&id) {
            Some(load) => load.waiting.push(client),
            None => self.parked.push(client),
        }
    }

    /// The next message to be read.
    pub(super) fn poll(&mut self) -> Option<MessageId> {
        self.asked.pop_front()
    }

    /// A message was read, or is nowhere any more: who is to go on.
    pub(super) fn answered(&mut self, id: MessageId) -> Vec<ClientId> {
        let Some(load) = self.under_way.remove(&id) else {
            return Vec::new();
        };
        self.bytes -= load.bytes;
        let mut clients = load.waiting;
        clients.append(&mut self.parked);
        clients
    }
}
