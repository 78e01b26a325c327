//! What an io thread asks of the shards for clients that connect.

use std::collections::{HashMap, VecDeque};

use session::{ConnectionId, MonoMs};

/// Bounds the `Open`s under way to each shard. Each is an entry in the shard's log, before which
/// messages of those that are connected would have to wait; what is beyond waits here, the longest
/// waiting first, and not for longer than its client would.
#[derive(Debug)]
pub(crate) struct Opens {
    /// Of one shard.
    limit: u32,
    wait_ms: u64,
    shards: Vec<OfShard>,
    under_way: HashMap<ConnectionId, u16>,
}

#[derive(Clone, Debug, Default)]
struct OfShard {
    under_way: u32,
    /// Since when each waits. It is bounded by the handshakes.
    waiting: VecDeque<(MonoMs, ConnectionId)>,
}

impl Opens {
    /// `limit` of each shard, at least 1; who has waited for `wait_ms` is late.
    pub(crate) fn new(shards: usize, limit: u32, wait_ms: u64) -> Self {
        Self {
            limit: limit.max(1),
            wait_ms,
            shards: vec![OfShard::default(); shards],
            under_way: HashMap::new(),
        }
    }

    /// A client wants to open a session of this shard: whether it may now. Else it waits.
    pub(crate) fn handle_open(&mut self, shard: u16, id: ConnectionId, now: MonoMs) -> bool {
        let of_shard = &mut self.shards[usize::from(shard)];
        // Nobody overtakes those that wait.
        if of_shard.under_way >= self.limit || !of_shard.waiting.is_empty() {
            of_shard.waiting.push_back((now, id));
            return false;
        }
        of_shard.under_way += 1;
        self.under_way.insert(id, shard);
        true
    }

    /// What the connection had under way, if anything, is answered, or it has ended: its shard, of
    /// which [`Self::poll_next`] may go on.
    pub(crate) fn handle_done(&mut self, id: ConnectionId) -> Option<u16> {
        let shard = self.under_way.remove(&id)?;
        self.shards[usize::from(shard)].under_way -= 1;
        Some(shard)
    }

    /// The next that may open. One that has ended is handed out all the same, and is done then.
    pub(crate) fn poll_next(&mut self, shard: u16) -> Option<ConnectionId> {
        let of_shard = &mut self.shards[usize::from(shard)];
        if of_shard.under_way >= self.limit {
            return None;
        }
        let (_, id) = of_shard.waiting.pop_front()?;
        of_shard.under_way += 1;
        self.under_way.insert(id, shard);
        Some(id)
    }

    /// The next that has waited too long. It waits no more.
    pub(crate) fn poll_late(&mut self, now: MonoMs) -> Option<ConnectionId> {
        let is_late = |(since, _): &(MonoMs, ConnectionId)| since.plus_ms(self.wait_ms) <= now;
        let mut shards = self.shards.iter_mut();
        let late = shards.find(|of_shard| of_shard.waiting.front().is_some_and(is_late))?;
        late.waiting.pop_front().map(|(_, id)| id)
    }

    /// How many are under way to the shards, and how many wait here.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let waiting = self.shards.iter().map(|of_shard| of_shard.waiting.len());
        (self.under_way.len(), waiting.sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(number: u64) -> ConnectionId {
        ConnectionId(number)
    }

    #[test]
    fn what_is_beyond_the_limit_of_a_shard_waits_in_its_order_and_no_other_shard_does() {
        let mut opens = Opens::new(2, 2, 1_000);
        let mut open = |shard, number| opens.handle_open(shard, id(number), MonoMs(0));
        assert!(open(0, 1) && open(0, 2));
        assert!(!open(0, 3) && !open(0, 4));
        assert!(open(1, 5));
        assert_eq!(opens.poll_next(0), None);

        assert_eq!(opens.handle_done(id(2)), Some(0));
        assert_eq!(opens.handle_done(id(2)), None);
        assert!(!opens.handle_open(0, id(6), MonoMs(0)), "nobody overtakes");
        assert_eq!(opens.poll_next(0), Some(id(3)));
        assert_eq!(opens.poll_next(0), None);
        assert_eq!(opens.counts(), (3, 2));
    }

    #[test]
    fn who_waits_too_long_waits_no_more() {
        let mut opens = Opens::new(3, 1, 1_000);
        for (number, at) in [(1, 0), (2, 0), (3, 400)] {
            opens.handle_open(2, id(number), MonoMs(at));
        }
        assert_eq!(opens.poll_late(MonoMs(999)), None);
        assert_eq!(opens.poll_late(MonoMs(1_000)), Some(id(2)));
        assert_eq!(opens.poll_late(MonoMs(1_000)), None);
        assert_eq!(opens.poll_late(MonoMs(1_400)), Some(id(3)));
        assert_eq!(opens.handle_done(id(1)), Some(2));
        assert_eq!(opens.poll_next(2), None);
        assert_eq!(opens.counts(), (0, 0));
    }
}
