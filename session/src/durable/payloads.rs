//! The queued messages of a shard, each once for all its recipients; on disk they may leave memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::{Message, MessageId};

/// Messages by id, with the number of queue entries that name them.
///
/// What is in no durable row stays in memory: the host bounds that by flushing early
/// ([`super::Durable::unflushed_bytes`]). What is durable stays up to `cache_bytes` and is read
/// again when it is needed. Nothing that is in memory or not may decide what an entry does.
#[derive(Debug, Default)]
pub(super) struct Payloads {
    cache_bytes: usize,
    held: BTreeMap<MessageId, Held>,
    next: u64,
    /// In no row that was given out.
    fresh: Vec<MessageId>,
    /// In rows that were given out and are not known to be durable.
    given: Vec<MessageId>,
    /// Durable rows whose message nobody needs any longer.
    deleted: Vec<MessageId>,
    unflushed_bytes: usize,
    /// Durable ones in memory, the longest unneeded first; may name some that have left.
    cached: VecDeque<MessageId>,
    cached_bytes: usize,
}

#[derive(Debug)]
struct Held {
    message: Option<Arc<Message>>,
    entries: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In no row.
    Fresh,
    /// In a row that was given out.
    Given,
    /// In a durable row.
    Durable,
}

impl Payloads {
    pub(super) fn new(cache_bytes: usize) -> Self {
        Self {
            cache_bytes,
            ..Self::default()
        }
    }

    /// The id that the next message gets.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Goes on counting at `next`, in a state that is restored.
    pub(super) fn count_from(&mut self, next: u64) {
        self.next = next;
    }

    /// Holds a message that no queue entry names yet.
    pub(super) fn add(&mut self, message: &Arc<Message>) -> MessageId {
        let id = MessageId(self.next);
        self.next += 1;
        self.unflushed_bytes += message.bytes();
        self.fresh.push(id);
        let held = Held {
            message: Some(Arc::clone(message)),
            entries: 0,
            state: State::Fresh,
        };
        self.held.insert(id, held);
        id
    }

    /// Knows of a durable message that is not in memory.
    pub(super) fn restore(&mut self, id: MessageId) {
        let held = self.held.entry(id).or_insert(Held {
            message: None,
            entries: 0,
            state: State::Durable,
        });
        held.entries += 1;
    }

    /// One more queue entry names it.
    pub(super) fn keep(&mut self, id: MessageId) {
        if let Some(held) = self.held.get_mut(&id) {
            held.entries += 1;
        }
    }

    /// One queue entry less names it.
    pub(super) fn release(&mut self, id: MessageId) {
        let Some(held) = self.held.get_mut(&id) else {
            debug_assert!(false, "message {id} is held by its entries");
            return;
        };
        held.entries = held.entries.saturating_sub(1);
        self.drop_unneeded(id);
    }

    /// Lets go of a message that no queue entry names.
    pub(super) fn drop_unneeded(&mut self, id: MessageId) {
        if self.held.get(&id).is_none_or(|held| held.entries > 0) {
            return;
        }
        let Some(held) = self.held.remove(&id) else {
            return;
        };
        let bytes = held.message.as_ref().map_or(0, |message| message.bytes());
        match held.state {
            State::Fresh => self.unflushed_bytes -= bytes,
            State::Given => {
                self.unflushed_bytes -= bytes;
                self.deleted.push(id);
            }
            State::Durable => {
                self.cached_bytes -= bytes;
                self.deleted.push(id);
            }
        }
    }

    /// The message, if it is in memory.
    pub(super) fn get(&self, id: MessageId) -> Option<&Arc<Message>> {
        self.held.get(&id)?.message.as_ref()
    }

    /// A message was read again; says whether somebody still needs it.
    pub(super) fn loaded(&mut self, id: MessageId, message: Arc<Message>) -> bool {
        let Some(held) = self.held.get_mut(&id) else {
            return false;
        };
        if held.message.is_none() {
            self.cached_bytes += message.bytes();
            held.message = Some(message);
            self.cached.push_back(id);
        }
        true
    }

    /// Bytes of messages that are in no durable row.
    pub(super) fn unflushed_bytes(&self) -> usize {
        self.unflushed_bytes
    }

    /// Takes the messages that are in no row yet, and those whose rows are to go.
    pub(super) fn take_changes(&mut self) -> (Vec<(MessageId, Arc<Message>)>, Vec<MessageId>) {
        let mut put = Vec::new();
        for id in std::mem::take(&mut self.fresh) {
            let Some(held) = self.held.get_mut(&id) else {
                continue;
            };
            held.state = State::Given;
            self.given.push(id);
            put.extend(held.message.clone().map(|message| (id, message)));
        }
        (put, std::mem::take(&mut self.deleted))
    }

    /// Everything that was given out is durable.
    pub(super) fn handle_flushed(&mut self) {
        for id in std::mem::take(&mut self.given) {
            let Some(held) = self.held.get_mut(&id) else {
                continue;
            };
            held.state = State::Durable;
            let bytes = held.message.as_ref().map_or(0, |message| message.bytes());
            self.unflushed_bytes -= bytes;
            self.cached_bytes += bytes;
            self.cached.push_back(id);
        }
        self.evict();
    }

    /// The longest unneeded leave memory. Not while deliveries are being handed out, or what was
    /// read for them could leave before its turn.
    pub(super) fn evict(&mut self) {
        while self.cached_bytes > self.cache_bytes {
            let Some(id) = self.cached.pop_front() else {
                return;
            };
            if let Some(held) = self.held.get_mut(&id)
                && let Some(message) = held.message.take()
            {
                self.cached_bytes -= message.bytes();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WallMs;

    fn message(topic: &str, payload: &'static [u8]) -> Arc<Message> {
        Arc::new(Message {
            topic: topic.try_into().expect("a topic"),
            payload: bytes::Bytes::from_static(payload),
            qos: mqtt::QoS::AtLeastOnce,
            retain: false,
            properties: None,
            publisher: None,
            received: WallMs(0),
            expiry: None,
        })
    }

    fn held(payloads: &mut Payloads) -> MessageId {
        let id = payloads.add(&message("a", b"payload"));
        payloads.keep(id);
        id
    }

    #[test]
    fn what_is_durable_leaves_memory_and_comes_back() {
        let mut payloads = Payloads::new(0);
        let (first, second) = (held(&mut payloads), held(&mut payloads));
        assert_eq!(payloads.take_changes().0.len(), 2);
        assert!(payloads.get(first).is_some(), "not yet durable");

        payloads.handle_flushed();
        assert!(payloads.get(first).is_none());
        assert!(payloads.loaded(first, message("a", b"payload")));
        assert!(payloads.get(first).is_some(), "until it was handed out");
        assert!(payloads.get(second).is_none());
        payloads.evict();
        assert!(payloads.get(first).is_none());
        assert_eq!(payloads.unflushed_bytes(), 0);
    }

    #[test]
    fn a_message_that_nobody_names_any_longer_leaves_no_row() {
        let mut payloads = Payloads::new(1 << 20);
        let (gone, given) = (held(&mut payloads), held(&mut payloads));
        payloads.release(gone);
        let (put, deleted) = payloads.take_changes();
        assert_eq!((put.len(), deleted.len()), (1, 0));

        payloads.release(given);
        assert_eq!(payloads.take_changes().1, [given]);
        payloads.handle_flushed();
        assert_eq!(payloads.unflushed_bytes(), 0);
    }
}
