//! The batching proposer of one group: where bytes on their way to a log are bounded.

use std::collections::VecDeque;

use crate::share::Shares;
use crate::{BootMs, NodeId, Share, ShareLimits};

/// Bounds of a proposer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProposerLimits {
    /// Bytes that wait or are in flight; what finds no room is refused, and its sender goes back.
    pub shares: ShareLimits,
    /// Items of a batch.
    pub batch_items: usize,
    /// Bytes of a batch; its first item may be larger.
    pub batch_bytes: u64,
    /// Milliseconds between attempts while the group takes nothing.
    pub retry_ms: u64,
    /// Milliseconds an item may wait before it is refused.
    pub deadline_ms: u64,
}

impl Default for ProposerLimits {
    fn default() -> Self {
        Self {
            shares: ShareLimits::default(),
            batch_items: 1_000,
            batch_bytes: 1 << 20,
            retry_ms: 20,
            deadline_ms: 5_000,
        }
    }
}

/// Collects the next batch while one is in flight, so that a lone write goes at once and a busy
/// group gets large ones.
#[derive(Clone, Debug)]
pub struct Proposer<T> {
    limits: ProposerLimits,
    shares: Shares,
    /// In order of arrival, which is that of their deadlines.
    waiting: VecDeque<Waiting<T>>,
    in_flight: Option<Flight>,
    batches: u64,
    /// Until when the group is not asked again.
    retry: Option<BootMs>,
    wants_wake: bool,
    refusals: VecDeque<(T, Refused)>,
}

#[derive(Clone, Debug)]
struct Waiting<T> {
    item: T,
    room: Room,
}

#[derive(Clone, Copy, Debug)]
struct Room {
    share: Share,
    bytes: u64,
    since: BootMs,
}

#[derive(Clone, Debug)]
struct Flight {
    batch: Batch,
    rooms: Vec<Room>,
}

/// Names a batch between its proposal and its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Batch(pub u64);

/// Work for the proposer's host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProposerEffect<T> {
    /// Append these, in this order; then [`Proposer::handle_committed`],
    /// [`Proposer::handle_unavailable`] or [`Proposer::handle_lost`].
    Propose {
        /// Names the batch.
        batch: Batch,
        /// Never empty.
        items: Vec<T>,
    },
    /// The group's lease is stale: send a heartbeat, then [`Proposer::handle_awake`].
    Wake,
    /// Tell the sender that the item is in no log.
    Refuse {
        /// The item.
        item: T,
        /// Why.
        reason: Refused,
    },
}

/// Why an item was not proposed. It is in no log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its share is full.
    #[error("the proposer's share is full")]
    Busy,
    /// The group took nothing in time.
    #[error("the group took nothing in time")]
    Deadline,
    /// Another node leads the group.
    #[error("node {0} leads the group")]
    Led(NodeId),
}

/// Why a group appended nothing of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// It leads, but no quorum confirmed it lately: it sleeps, or has just been elected.
    LeaseExpired,
    /// No leader is known.
    NoLeader,
    /// Another node leads.
    Led(NodeId),
}

impl<T> Proposer<T> {
    /// A proposer of a group that is taken to be awake.
    pub fn new(limits: ProposerLimits) -> Self {
        Self {
            limits,
            shares: Shares::new(limits.shares),
            waiting: VecDeque::new(),
            in_flight: None,
            batches: 0,
            retry: None,
            wants_wake: false,
            refusals: VecDeque::new(),
        }
    }

    /// Takes an item of so many bytes, or refuses it at once.
    pub fn handle_item(&mut self, item: T, share: Share, bytes: u64, now: BootMs) {
        if !self.shares.take(share, bytes) {
            self.refusals.push_back((item, Refused::Busy));
            return;
        }
        let room = Room {
            share,
            bytes,
            since: now,
        };
        self.waiting.push_back(Waiting { item, room });
    }

    /// The batch is committed.
    pub fn handle_committed(&mut self, batch: Batch) {
        self.land(batch);
    }

    /// It is not known what became of the batch: the senders of its items go back, and the
    /// machine tells repeats.
    pub fn handle_lost(&mut self, batch: Batch) {
        self.land(batch);
    }

    /// Nothing of the batch was appended. Its items come back, and are proposed again, before all
    /// others, unless another node leads.
    pub fn handle_unavailable(
        &mut self,
        batch: Batch,
        items: Vec<T>,
        why: Unavailable,
        now: BootMs,
    ) {
        let Some(flight) = self.in_flight.take_if(|flight| flight.batch == batch) else {
            return;
        };
        assert_eq!(items.len(), flight.rooms.len(), "a batch comes back whole");
        let back = items.into_iter().zip(flight.rooms).rev();
        for (item, room) in back {
            self.waiting.push_front(Waiting { item, room });
        }
        match why {
            Unavailable::LeaseExpired => {
                self.wants_wake = true;
                self.retry = Some(now.plus_ms(self.limits.retry_ms));
            }
            Unavailable::NoLeader => self.retry = Some(now.plus_ms(self.limits.retry_ms)),
            Unavailable::Led(node) => self.refuse_all(Refused::Led(node)),
        }
    }

    /// The group is awake, or has a leader: what waits is proposed at once.
    pub fn handle_awake(&mut self) {
        self.retry = None;
        self.wants_wake = false;
    }

    /// Time passed: asks again, and refuses what waited too long.
    pub fn handle_timeout(&mut self, now: BootMs) {
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
        }
        while let Some(first) = self.waiting.front() {
            if first.room.since.plus_ms(self.limits.deadline_ms) > now {
                break;
            }
            self.refuse_first(Refused::Deadline);
        }
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub fn deadline(&self) -> Option<BootMs> {
        let first = self.waiting.front();
        let refuse = first.map(|first| first.room.since.plus_ms(self.limits.deadline_ms));
        [self.retry, refuse].into_iter().flatten().min()
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<ProposerEffect<T>> {
        if let Some((item, reason)) = self.refusals.pop_front() {
            return Some(ProposerEffect::Refuse { item, reason });
        }
        if std::mem::take(&mut self.wants_wake) {
            return Some(ProposerEffect::Wake);
        }
        if self.in_flight.is_some() || self.retry.is_some() || self.waiting.is_empty() {
            return None;
        }
        Some(self.launch())
    }

    /// Bytes of a share that wait or are in flight.
    pub fn bytes(&self, share: Share) -> u64 {
        self.shares.taken(share)
    }

    /// Whether nothing waits and nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_none()
    }

    fn launch(&mut self) -> ProposerEffect<T> {
        let mut bytes = 0;
        let mut items = Vec::new();
        let mut rooms = Vec::new();
        while let Some(next) = self.waiting.front() {
            bytes += next.room.bytes;
            let is_full = items.len() >= self.limits.batch_items || bytes > self.limits.batch_bytes;
            if is_full && !items.is_empty() {
                break;
            }
            let Some(Waiting { item, room }) = self.waiting.pop_front() else {
                break;
            };
            items.push(item);
            rooms.push(room);
        }
        self.batches += 1;
        let batch = Batch(self.batches);
        self.in_flight = Some(Flight { batch, rooms });
        ProposerEffect::Propose { batch, items }
    }

    /// Gives the room of a batch back. An outcome that comes twice is ignored.
    fn land(&mut self, batch: Batch) {
        if let Some(flight) = self.in_flight.take_if(|flight| flight.batch == batch) {
            for room in flight.rooms {
                self.shares.give(room.share, room.bytes);
            }
        }
    }

    fn refuse_all(&mut self, reason: Refused) {
        while !self.waiting.is_empty() {
            self.refuse_first(reason);
        }
    }

    fn refuse_first(&mut self, reason: Refused) {
        if let Some(Waiting { item, room }) = self.waiting.pop_front() {
            self.shares.give(room.share, room.bytes);
            self.refusals.push_back((item, reason));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: BootMs = BootMs(1_000);

    fn limits() -> ProposerLimits {
        ProposerLimits {
            batch_items: 2,
            batch_bytes: 10,
            shares: ShareLimits {
                enqueue_bytes: 30,
                ..ShareLimits::default()
            },
            ..ProposerLimits::default()
        }
    }

    fn with(items: &str) -> Proposer<char> {
        let mut proposer = Proposer::new(limits());
        for item in items.chars() {
            proposer.handle_item(item, Share::Enqueue, 1, T0);
        }
        proposer
    }

    fn proposed(proposer: &mut Proposer<char>) -> Option<(Batch, String)> {
        match proposer.poll_effect()? {
            ProposerEffect::Propose { batch, items } => Some((batch, items.iter().collect())),
            other => panic!("no proposal: {other:?}"),
        }
    }

    fn refused(proposer: &mut Proposer<char>) -> Vec<(char, Refused)> {
        let mut refused = Vec::new();
        while let Some(effect) = proposer.poll_effect() {
            if let ProposerEffect::Refuse { item, reason } = effect {
                refused.push((item, reason));
            }
        }
        refused
    }

    #[test]
    fn the_next_batch_is_collected_while_one_is_in_flight() {
        let mut proposer = with("a");
        let (first, items) = proposed(&mut proposer).unwrap();
        assert_eq!(items, "a");
        for item in "bcd".chars() {
            proposer.handle_item(item, Share::Enqueue, 1, T0);
        }
        assert_eq!(proposed(&mut proposer), None);

        proposer.handle_committed(first);

        let (second, items) = proposed(&mut proposer).unwrap();
        assert_eq!(items, "bc");
        proposer.handle_committed(first);
        assert_eq!(proposed(&mut proposer), None, "an outcome counts once");
        proposer.handle_committed(second);
        assert_eq!(proposed(&mut proposer).unwrap().1, "d");
    }

    #[test]
    fn a_batch_is_bounded_in_bytes_but_never_empty() {
        let mut proposer = Proposer::new(limits());
        for (item, bytes) in [('a', 25), ('b', 1)] {
            proposer.handle_item(item, Share::Enqueue, bytes, T0);
        }

        assert_eq!(proposed(&mut proposer).unwrap().1, "a");
    }

    #[test]
    fn a_full_share_refuses_its_own_kind_only() {
        let mut proposer = Proposer::new(limits());
        proposer.handle_item('a', Share::Enqueue, 30, T0);
        proposer.handle_item('b', Share::Enqueue, 1, T0);
        proposer.handle_item('c', Share::Open, 1, T0);
        proposer.handle_item('d', Share::Ack, 1, T0);

        assert_eq!(refused(&mut proposer), [('b', Refused::Busy)]);
        assert_eq!(proposer.bytes(Share::Open), 1);
        // In flight still counts; committed does not.
        proposer.handle_committed(Batch(1));
        assert_eq!(proposer.bytes(Share::Enqueue), 0);
    }

    #[test]
    fn an_expired_lease_wakes_the_group_and_the_batch_keeps_its_place() {
        let mut proposer = with("ab");
        let (batch, _) = proposed(&mut proposer).unwrap();
        proposer.handle_item('c', Share::Enqueue, 1, T0);

        proposer.handle_unavailable(batch, vec!['a', 'b'], Unavailable::LeaseExpired, T0);

        assert_eq!(proposer.poll_effect(), Some(ProposerEffect::Wake));
        assert_eq!(proposer.poll_effect(), None);
        proposer.handle_awake();
        assert_eq!(proposed(&mut proposer).unwrap().1, "ab");
    }

    #[test]
    fn without_a_leader_it_asks_again_until_the_deadline() {
        let mut proposer = with("ab");
        let (batch, _) = proposed(&mut proposer).unwrap();
        proposer.handle_unavailable(batch, vec!['a', 'b'], Unavailable::NoLeader, T0);
        assert_eq!(proposer.poll_effect(), None);

        let retry = proposer.deadline().unwrap();
        proposer.handle_timeout(retry);
        let (batch, items) = proposed(&mut proposer).unwrap();
        assert_eq!(items, "ab");
        proposer.handle_unavailable(batch, vec!['a', 'b'], Unavailable::NoLeader, retry);

        proposer.handle_timeout(T0.plus_ms(5_000));
        let both = [('a', Refused::Deadline), ('b', Refused::Deadline)];
        assert_eq!(refused(&mut proposer), both);
        assert!(proposer.is_idle());
        assert_eq!(proposer.bytes(Share::Enqueue), 0);
    }

    #[test]
    fn where_another_node_leads_everything_is_sent_there() {
        let mut proposer = with("abc");
        let (batch, _) = proposed(&mut proposer).unwrap();

        let led = Unavailable::Led(NodeId(2));
        proposer.handle_unavailable(batch, vec!['a', 'b'], led, T0);

        let refused: String = refused(&mut proposer).iter().map(|(c, _)| *c).collect();
        assert_eq!(refused, "abc");
    }

    #[test]
    fn the_fate_of_a_lost_batch_is_not_guessed() {
        let mut proposer = with("abc");
        let (batch, _) = proposed(&mut proposer).unwrap();

        proposer.handle_lost(batch);

        assert_eq!(proposed(&mut proposer).unwrap().1, "c");
        assert_eq!(proposer.bytes(Share::Enqueue), 1);
    }
}
