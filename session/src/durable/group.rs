//! One group of shared subscribers: its members, its queue, and who of them has what.

use std::collections::{BTreeMap, BTreeSet};

use mqtt::{ClientId, QoS};

use super::GroupRow;
use super::queue::{Entry, Queue};
use crate::{Epoch, Member, MessageId, NodeEpoch, Owner, Seq, WallMs};

/// A group, in its home shard.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// The command that began it; 0 only while its row is awaited in a restore.
    pub(super) incarnation: Epoch,
    pub(super) queue: Queue,
    seats: BTreeMap<ClientId, Seat>,
    /// The entry of the deadline index.
    pub(super) deadline: Option<WallMs>,
    /// Whether it stands in the list of those with deliveries. Nor is what follows replicated.
    pub(super) is_ready: bool,
    /// Messages that were handed to a member and are not acknowledged.
    in_flight: BTreeMap<Seq, ClientId>,
    /// Messages whose member went before it acknowledged them.
    returned: BTreeSet<Seq>,
    /// Counts what was handed out, so that equal members take turns.
    turns: u64,
    /// Messages below this may have been handed out by another leader.
    dup_end: u64,
}

/// A member, and what it has. Only the member is replicated.
#[derive(Debug)]
struct Seat {
    member: Member,
    in_flight: usize,
    turn: u64,
}

/// What a group has to deliver.
pub(super) struct Next<'a> {
    pub(super) client: ClientId,
    pub(super) owner: Owner,
    pub(super) member: &'a Member,
    pub(super) entry: &'a Entry,
    pub(super) dup: bool,
}

impl Group {
    pub(super) fn begin(incarnation: Epoch) -> Self {
        Self {
            incarnation,
            ..Self::default()
        }
    }

    /// Members.
    pub(super) fn len(&self) -> usize {
        self.seats.len()
    }

    /// Members whose client is connected.
    pub(super) fn connected(&self) -> usize {
        let present = |seat: &&Seat| seat.member.owner.is_some();
        self.seats.values().filter(present).count()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    pub(super) fn member(&self, client: &ClientId) -> Option<&Member> {
        self.seats.get(client).map(|seat| &seat.member)
    }

    /// Members whose connection is one of this node epoch.
    pub(super) fn owned_by(&self, node_epoch: NodeEpoch) -> Vec<ClientId> {
        let is_one = |seat: &&Seat| {
            seat.member
                .owner
                .is_some_and(|o| o.node_epoch == node_epoch)
        };
        let seats = self.seats.iter();
        let owned = seats.filter(|(_, seat)| is_one(seat));
        owned.map(|(client, _)| client.clone()).collect()
    }

    /// The highest QoS that a member takes: what waits for the group waits at no higher one.
    pub(super) fn qos_max(&self) -> QoS {
        let all = self.seats.values();
        let all = all.map(|seat| seat.member.subscription.options.qos);
        all.max().unwrap_or_default()
    }

    /// Seats a client, or changes what it is. What it had not acknowledged on another connection
    /// goes to the next.
    pub(super) fn seat(&mut self, client: &ClientId, member: Member) {
        let before = self.member(client).and_then(|known| known.owner);
        if before != member.owner {
            self.take_back(client);
        }
        match self.seats.get_mut(client) {
            Some(seat) => seat.member = member,
            None => {
                let seat = Seat {
                    member,
                    in_flight: 0,
                    turn: self.turns,
                };
                self.seats.insert(client.clone(), seat);
            }
        }
    }

    /// The member's connection is gone.
    pub(super) fn disconnect(&mut self, client: &ClientId) {
        self.take_back(client);
        if let Some(seat) = self.seats.get_mut(client) {
            seat.member.owner = None;
        }
    }

    /// Takes a member away; says whether it was one.
    pub(super) fn unseat(&mut self, client: &ClientId) -> bool {
        self.take_back(client);
        self.seats.remove(client).is_some()
    }

    /// Extends what may be sent over what the present members may have unacknowledged.
    pub(super) fn advance_sent(&mut self, window: usize) {
        let owners = self.seats.values().filter_map(|seat| seat.member.owner);
        let credits: usize = owners.map(|owner| credit(owner, window)).sum();
        self.queue.advance_sent(credits);
    }

    /// The next message, and the present member with the fewest unacknowledged that takes it, on a
    /// node that is not full; among equals the one that had its turn first. Looks at every member.
    pub(super) fn next(
        &self,
        window: usize,
        is_full: impl Fn(NodeEpoch) -> bool,
    ) -> Option<Next<'_>> {
        let (entry, dup) = self.next_entry()?;
        let present = self.seats.iter().filter_map(|(client, seat)| {
            let owner = seat.member.owner?;
            let takes = seat.in_flight < credit(owner, window) && !is_full(owner.node_epoch);
            takes.then_some((client, seat, owner))
        });
        let (client, seat, owner) =
            present.min_by_key(|(_, seat, _)| (seat.in_flight, seat.turn))?;
        Some(Next {
            client: client.clone(),
            owner,
            member: &seat.member,
            entry,
            dup,
        })
    }

    /// Messages that are next, the first ones first.
    pub(super) fn upcoming(&self) -> impl Iterator<Item = (MessageId, usize)> {
        let returned = self.returned.iter().filter_map(|seq| self.queue.get(*seq));
        let all = returned.chain(self.queue.deliverable());
        all.map(|entry| (entry.message, entry.bytes as usize))
    }

    /// A message was handed to a member.
    pub(super) fn handle_delivered(&mut self, seq: Seq, client: &ClientId) {
        if !self.returned.remove(&seq) {
            self.queue.handle_delivered(seq);
        }
        self.in_flight.insert(seq, client.clone());
        self.turns += 1;
        if let Some(seat) = self.seats.get_mut(client) {
            seat.in_flight += 1;
            seat.turn = self.turns;
        }
    }

    /// The present member whose turn it is to get what is never stored.
    pub(super) fn next_qos0(&mut self) -> Option<(Owner, Member)> {
        let present = self.seats.values_mut();
        let present = present.filter(|seat| seat.member.owner.is_some());
        let seat = present.min_by_key(|seat| seat.turn)?;
        self.turns += 1;
        seat.turn = self.turns;
        Some((seat.member.owner?, seat.member.clone()))
    }

    /// Removes an acknowledged message.
    pub(super) fn ack(&mut self, seq: Seq, left: &mut Vec<MessageId>) {
        self.queue.ack(seq, left);
        self.returned.remove(&seq);
        if let Some(client) = self.in_flight.remove(&seq)
            && let Some(seat) = self.seats.get_mut(&client)
        {
            seat.in_flight -= 1;
        }
    }

    pub(super) fn row(&self) -> GroupRow {
        let (next_seq, sent_end, _) = self.queue.counts();
        GroupRow {
            incarnation: self.incarnation,
            next_seq,
            sent_end,
        }
    }

    /// Nobody knows any longer who has what: whatever may have been sent goes out again.
    pub(super) fn restart_delivery(&mut self) {
        self.dup_end = self.queue.restart_delivery();
        self.in_flight.clear();
        self.returned.clear();
        for seat in self.seats.values_mut() {
            seat.in_flight = 0;
        }
    }

    /// Takes its stored row; its members and messages may be there already.
    pub(super) fn restore(&mut self, row: &GroupRow) {
        self.incarnation = row.incarnation;
        self.queue.count_from((row.next_seq, row.sent_end, 0));
    }

    /// What the client had goes to others.
    fn take_back(&mut self, client: &ClientId) {
        let Some(seat) = self.seats.get_mut(client) else {
            return;
        };
        if std::mem::take(&mut seat.in_flight) == 0 {
            return;
        }
        let returned = &mut self.returned;
        self.in_flight.retain(|seq, has| {
            let is_back = has == client;
            if is_back {
                returned.insert(*seq);
            }
            !is_back
        });
    }

    /// The next message, and whether somebody may have been sent it.
    fn next_entry(&self) -> Option<(&Entry, bool)> {
        let returned = self.returned.first();
        if let Some(entry) = returned.and_then(|seq| self.queue.get(*seq)) {
            return Some((entry, true));
        }
        let entry = self.queue.deliverable().next()?;
        Some((entry, entry.seq.0 < self.dup_end))
    }
}

/// Messages that a member may have unacknowledged.
fn credit(owner: Owner, window: usize) -> usize {
    usize::from(owner.receive_maximum).min(window)
}
