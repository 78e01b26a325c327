//! The queued messages of a shard, each once for all its recipients; on disk they may leave memory.

use std::collections::VecDeque;
use std::sync::Arc;

use super::dense::Dense;
use crate::{Message, MessageId};

/// Ids that the cache's list may hold beyond twice those that are in memory.
const CACHED_SLACK: usize = 64;

/// Messages by id, with the number of queue entries that name them.
///
/// What is in no durable row stays in memory: the host bounds that by flushing early
/// ([`super::Durable::unflushed_bytes`]). What is durable stays up to `cache_bytes` and is read
/// again when it is needed. Nothing that is in memory or not may decide what an entry does.
#[derive(Debug, Default)]
pub(super) struct Payloads {
    cache_bytes: usize,
    held: Dense<Held>,
    next: u64,
    /// Messages from this id on are in no row that was given out.
    fresh_from: u64,
    /// Messages from this id on are in no row that is known to be durable.
    given_from: u64,
    /// Rows that were given out and whose message nobody needs any longer.
    deleted: Vec<MessageId>,
    unflushed_bytes: usize,
    /// Durable ones in memory, the longest unneeded first; also some that were let go.
    cached: VecDeque<MessageId>,
    cached_len: usize,
    cached_bytes: usize,
}

/// A queued message; a million of them are in memory without their payloads.
#[derive(Debug)]
pub(super) struct Held {
    message: Option<Arc<Message>>,
    entries: u32,
    /// Needed since it was last considered for leaving.
    is_needed: bool,
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
        self.fresh_from = next;
        self.given_from = next;
    }

    /// The highest message that is held.
    pub(super) fn last(&self) -> Option<MessageId> {
        self.held.last().map(MessageId)
    }

    /// The id of a message that is about to be queued; then [`Self::hold`].
    pub(super) fn take_id(&mut self) -> MessageId {
        let id = MessageId(self.next);
        self.next += 1;
        id
    }

    /// Holds a new message that so many queue entries name, if any does.
    pub(super) fn hold(&mut self, id: MessageId, message: &Arc<Message>, entries: u32) {
        if entries == 0 {
            return;
        }
        self.unflushed_bytes += message.bytes();
        let held = Held {
            message: Some(Arc::clone(message)),
            entries,
            is_needed: false,
        };
        self.held.get_or_insert_with(id.0, || held);
    }

    /// Knows of a durable message that is not in memory, by one of its queue entries.
    pub(super) fn restore(&mut self, id: MessageId) {
        let held = self.held.get_or_insert_with(id.0, || Held {
            message: None,
            entries: 0,
            is_needed: false,
        });
        held.entries += 1;
    }

    /// One queue entry less names it; the last one lets it go.
    pub(super) fn release(&mut self, id: MessageId) {
        let Some(held) = self.held.get_mut(id.0) else {
            panic!("message {id} is not held although an entry names it");
        };
        held.entries -= 1;
        if held.entries > 0 {
            return;
        }
        let held = self.held.remove(id.0).expect("found just before");
        let bytes = held.message.as_ref().map_or(0, |message| message.bytes());
        if id.0 >= self.given_from {
            self.unflushed_bytes -= bytes;
        } else if held.message.is_some() {
            self.cached_bytes -= bytes;
            self.cached_len -= 1;
        }
        if id.0 < self.fresh_from {
            self.deleted.push(id);
        }
    }

    /// The message, if it is in memory.
    pub(super) fn get(&self, id: MessageId) -> Option<&Arc<Message>> {
        self.held.get(id.0)?.message.as_ref()
    }

    /// The message, if it is in memory, for a delivery.
    pub(super) fn deliver(&mut self, id: MessageId) -> Option<&Arc<Message>> {
        let held = self.held.get_mut(id.0)?;
        held.is_needed = true;
        held.message.as_ref()
    }

    /// Whether entries name a message that is not in memory.
    pub(super) fn is_away(&self, id: MessageId) -> bool {
        self.held
            .get(id.0)
            .is_some_and(|held| held.message.is_none())
    }

    /// A message was read again.
    pub(super) fn loaded(&mut self, id: MessageId, message: Arc<Message>) {
        if let Some(held) = self.held.get_mut(id.0)
            && held.message.is_none()
        {
            let bytes = message.bytes();
            held.message = Some(message);
            held.is_needed = true;
            self.cache(id, bytes);
        }
    }

    /// Bytes of messages that are in no durable row.
    pub(super) fn unflushed_bytes(&self) -> usize {
        self.unflushed_bytes
    }

    /// Bytes of messages that are kept although they are in a durable row.
    pub(super) fn cached_bytes(&self) -> usize {
        self.cached_bytes
    }

    /// Takes the messages that are in no row yet, and those whose rows are to go.
    pub(super) fn take_changes(&mut self) -> (Vec<(MessageId, Arc<Message>)>, Vec<MessageId>) {
        let mut put = Vec::new();
        for (id, held) in self.held.range(self.fresh_from, self.next) {
            let message = held.message.as_ref();
            let message = message.expect("what is in no row stays in memory");
            put.push((MessageId(id), Arc::clone(message)));
        }
        self.fresh_from = self.next;
        (put, std::mem::take(&mut self.deleted))
    }

    /// Everything that was given out is durable.
    pub(super) fn handle_flushed(&mut self) {
        let given: Vec<(MessageId, usize)> = self
            .held
            .range(self.given_from, self.fresh_from)
            .filter_map(|(id, held)| Some((MessageId(id), held.message.as_ref()?.bytes())))
            .collect();
        self.given_from = self.fresh_from;
        for (id, bytes) in given {
            self.unflushed_bytes -= bytes;
            self.cache(id, bytes);
        }
        self.evict();
    }

    /// The longest unneeded leave memory. While deliveries are handed out it is not called, or
    /// what was read for them could leave before its turn.
    pub(super) fn evict(&mut self) {
        while self.cached_bytes > self.cache_bytes {
            let Some(id) = self.cached.pop_front() else {
                debug_assert!(false, "what is in memory is in the list");
                return;
            };
            let Some(held) = self.held.get_mut(id.0) else {
                continue;
            };
            if std::mem::take(&mut held.is_needed) {
                self.cached.push_back(id);
            } else if let Some(message) = held.message.take() {
                self.cached_bytes -= message.bytes();
                self.cached_len -= 1;
            }
        }
    }

    fn cache(&mut self, id: MessageId, bytes: usize) {
        self.cached.push_back(id);
        self.cached_len += 1;
        self.cached_bytes += bytes;
        if self.cached.len() > 2 * self.cached_len + CACHED_SLACK {
            let held = &self.held;
            self.cached.retain(|id| held.get(id.0).is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WallMs;

    fn message(payload: &[u8]) -> Arc<Message> {
        Arc::new(Message {
            topic: "a".try_into().expect("a topic"),
            payload: bytes::Bytes::copy_from_slice(payload),
            qos: mqtt::QoS::AtLeastOnce,
            retain: false,
            properties: None,
            publisher: None,
            received: WallMs(0),
            expiry: None,
        })
    }

    fn held(payloads: &mut Payloads) -> MessageId {
        let id = payloads.take_id();
        payloads.hold(id, &message(b"payload"), 1);
        id
    }

    fn flush(payloads: &mut Payloads) {
        payloads.take_changes();
        payloads.handle_flushed();
    }

    #[test]
    fn what_is_durable_leaves_memory_and_comes_back() {
        let mut payloads = Payloads::new(0);
        let (first, second) = (held(&mut payloads), held(&mut payloads));
        assert_eq!(payloads.take_changes().0.len(), 2);
        assert!(payloads.get(first).is_some(), "not yet durable");
        let third = held(&mut payloads);

        payloads.handle_flushed();
        assert!(payloads.is_away(first));
        assert!(payloads.get(third).is_some(), "in no row");
        assert_eq!(payloads.unflushed_bytes(), message(b"payload").bytes());
        payloads.loaded(first, message(b"payload"));
        assert!(payloads.get(first).is_some(), "until it was handed out");
        assert!(payloads.is_away(second));
        payloads.evict();
        assert!(payloads.is_away(first));
    }

    #[test]
    fn the_longest_unneeded_leaves_first() {
        let mut payloads = Payloads::new(2 * message(b"payload").bytes());
        let (needed, other) = (held(&mut payloads), held(&mut payloads));
        payloads.deliver(needed);
        flush(&mut payloads);

        let third = held(&mut payloads);
        flush(&mut payloads);

        assert!(payloads.is_away(other));
        assert!(payloads.get(needed).is_some());
        assert!(payloads.get(third).is_some());
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
        assert_eq!(payloads.cached_bytes, 0);
    }

    #[test]
    fn the_cache_forgets_what_was_let_go() {
        let mut payloads = Payloads::new(1 << 20);
        for _ in 0..10_000 {
            let id = held(&mut payloads);
            flush(&mut payloads);
            payloads.release(id);
        }
        assert!(payloads.cached.len() <= CACHED_SLACK + 1);
        assert_eq!((payloads.cached_len, payloads.cached_bytes), (0, 0));
    }
}
