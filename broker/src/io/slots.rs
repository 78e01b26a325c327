//! The connections of an io thread, by slot.

use runtime::Mailbox;
use session::{Answer, ConnectionId, Delivery, GroupDelivery, Match, Message, Opened, Token};
use std::sync::Arc;

use mqtt::ReasonCode;

use super::report::ReportAsked;
use crate::ids::{Place, SLOTS_MAX};
use crate::rebalance::HomeAsked;
use crate::shard::RowsAt;

/// What a connection actor is told.
#[derive(Debug)]
pub(crate) enum ConnectionMessage {
    Opened(Opened),
    /// The session has another ownership: propose again, expecting it.
    WrongEpoch(Option<session::Epoch>),
    Answer(Token, Answer),
    Settled(Token),
    /// What the token stands for will not be settled.
    Unsettled,
    Delivery(Box<Delivery>),
    Shared(Box<GroupDelivery>),
    Message(Arc<Message>, Match),
    Retained(Token, Vec<RowsAt>),
    Kick(ReasonCode),
    /// As `Kick`, and the session ends with the connection.
    EndSession(ReasonCode),
    /// This shard has lost what it may have told the connection: end, if the client is of it.
    ShardRecovered(u16),
    /// Say something about itself.
    Report(ReportAsked),
    /// Go to the node that leads the client's shard.
    GoHome(HomeAsked),
    /// There is room again for what it publishes.
    ReadOn,
    /// The node has its lease again.
    Leased,
    Timer,
    /// Somebody else needs its place before it is connected: be gone.
    GiveWay,
    /// It is its turn to open its session.
    OpenNow,
    /// It has waited too long for that.
    OpenLate,
}

/// The mailboxes of an io thread's connections.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    thread: usize,
    /// Slots whose connections were told to end, at a stop.
    kicked: usize,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    mailbox: Option<Mailbox<ConnectionMessage>>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Slots {
    pub(crate) fn new(thread: usize) -> Self {
        Self {
            thread,
            ..Self::default()
        }
    }

    /// Gives a connection a slot; `None` when all are taken. `generation` is no other connection's.
    pub(crate) fn insert(
        &mut self,
        mailbox: Mailbox<ConnectionMessage>,
        generation: u32,
    ) -> Option<ConnectionId> {
        let slot = match self.free.pop() {
            Some(slot) => slot as usize,
            None if self.slots.len() < SLOTS_MAX => {
                self.slots.push(Slot::default());
                self.slots.len() - 1
            }
            None => return None,
        };
        let at = &mut self.slots[slot];
        at.generation = generation;
        at.mailbox = Some(mailbox);
        Some(
            Place {
                thread: self.thread,
                slot,
                generation: at.generation,
            }
            .id(),
        )
    }

    /// Takes a connection out.
    pub(crate) fn remove(&mut self, id: ConnectionId) {
        let place = Place::of(id);
        if self.get(id).is_some() {
            self.slots[place.slot].mailbox = None;
            self.free.push(place.slot as u32);
        }
    }

    /// The mailbox of a connection that has not ended.
    pub(crate) fn get(&self, id: ConnectionId) -> Option<&Mailbox<ConnectionMessage>> {
        let place = Place::of(id);
        let slot = self.slots.get(place.slot)?;
        slot.mailbox
            .as_ref()
            .filter(|_| slot.generation == place.generation)
    }

    /// The mailboxes of all connections.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Mailbox<ConnectionMessage>> {
        self.slots.iter().filter_map(|slot| slot.mailbox.as_ref())
    }

    /// Whoever is told to end next is the first again: nobody is told to any more.
    pub(crate) fn kick_from_first(&mut self) {
        self.kicked = 0;
    }

    /// The mailboxes of up to `count` connections from a slot on, and where the others begin.
    pub(crate) fn from(
        &self,
        from: usize,
        count: usize,
    ) -> (
        impl Iterator<Item = &Mailbox<ConnectionMessage>>,
        Option<usize>,
    ) {
        let end = from.saturating_add(count).min(self.slots.len());
        let some = self.slots.get(from..end).unwrap_or_default();
        let next = (end < self.slots.len()).then_some(end);
        (some.iter().filter_map(|slot| slot.mailbox.as_ref()), next)
    }

    /// The mailboxes of the next `count` connections: each is handed out once, since one that is
    /// told to end does.
    pub(crate) fn next_to_kick(
        &mut self,
        count: usize,
    ) -> impl Iterator<Item = &Mailbox<ConnectionMessage>> {
        let rest = self.slots.get(self.kicked..).unwrap_or_default();
        let open = rest.iter().enumerate();
        let mut open = open.filter(|(_, slot)| slot.mailbox.is_some());
        let end = open.nth(count).map_or(rest.len(), |(at, _)| at);
        self.kicked += end;
        rest[..end].iter().filter_map(|slot| slot.mailbox.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_used_again_does_not_answer_to_its_old_id() {
        let mut slots = Slots::new(1);
        let first = slots.insert(Mailbox::new(1, 1), 1).expect("a slot");
        slots.remove(first);
        slots.remove(first);
        let second = slots.insert(Mailbox::new(1, 1), 2).expect("a slot");
        assert_eq!(Place::of(first).slot, Place::of(second).slot);
        assert!(slots.get(first).is_none() && slots.get(second).is_some());
        assert_eq!(slots.next_to_kick(5).count(), 1);
    }

    #[test]
    fn everybody_is_told_to_end_once() {
        let mut slots = Slots::new(0);
        let ids: Vec<_> = (0..5)
            .map(|number| slots.insert(Mailbox::new(1, 1), number).expect("a slot"))
            .collect();
        slots.remove(ids[1]);
        let counts: Vec<_> = (0..4).map(|_| slots.next_to_kick(2).count()).collect();
        assert_eq!(counts, [2, 2, 0, 0]);
        slots.kick_from_first();
        assert_eq!(slots.next_to_kick(9).count(), 4);
    }

    #[test]
    fn all_connections_are_looked_at_in_parts() {
        let mut slots = Slots::new(0);
        let ids: Vec<_> = (0..5)
            .map(|number| slots.insert(Mailbox::new(1, 1), number).expect("a slot"))
            .collect();
        slots.remove(ids[1]);
        let part = |from| {
            let (some, next) = slots.from(from, 2);
            (some.count(), next)
        };
        assert_eq!(part(0), (1, Some(2)));
        assert_eq!(part(2), (2, Some(4)));
        assert_eq!(part(4), (1, None));
        assert_eq!(part(6), (0, None));
    }
}
