//! The groups whose home is the shard: who joins and leaves, and what becomes of their messages.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mqtt::{ClientId, Filter, QoS, SubscriptionIds, Topic, Trie};

use super::changed::Changed;
use super::group::Group;
use super::queue::{Entry, Ids};
use super::{Durable, GroupDelivery, GroupsRow, QoS0Recipient, QueuePlace, Row, RowKey};
use crate::{
    Answer, Command, Epoch, GroupSeq, Match, Member, Membership, Message, MessageId, NodeEpoch,
    Seq, WallMs,
};

/// Groups by their shared filters.
#[derive(Debug, Default)]
pub(super) struct Groups {
    pub(super) of: BTreeMap<Filter, Group>,
    /// The same, to be matched.
    pub(super) trie: Trie<Filter, ()>,
    /// The last version that each shard's memberships had.
    applied: BTreeMap<u16, u64>,
    pub(super) deadlines: BTreeSet<(WallMs, Filter)>,
    /// Those that may have something to deliver. Not replicated.
    pub(super) ready: VecDeque<Filter>,
    changed: Changed<Filter>,
    changed_members: Changed<(Filter, ClientId)>,
    /// Rows of the queues of groups that ended. Bounded by what the entries between two flushes
    /// change.
    ended: Vec<(Filter, Vec<QueuePlace>)>,
}

/// What a group has to deliver.
pub(super) enum NextShared {
    Delivery(GroupDelivery),
    /// This message has to be read first.
    Waits(MessageId),
    Nothing,
}

impl Groups {
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    /// Members of all groups.
    pub(super) fn members(&self) -> usize {
        self.of.values().map(Group::len).sum()
    }

    /// The groups that a topic matches, in order of their filters.
    pub(super) fn matching(&self, topic: &Topic) -> BTreeSet<Filter> {
        let mut matching = BTreeSet::new();
        if self.is_empty() {
            return matching;
        }
        let visited = self.trie.matches(topic, usize::MAX, |filter, ()| {
            matching.insert(filter.clone());
        });
        visited.expect("no limit was set: a stored message must reach all that match");
        matching
    }

    /// A new leader hands everything out again that is not acknowledged.
    pub(super) fn lead(&mut self) {
        for (filter, group) in &mut self.of {
            group.restart_delivery();
            if !std::mem::replace(&mut group.is_ready, true) {
                self.ready.push_back(filter.clone());
            }
        }
    }

    /// Forgets who has what.
    pub(super) fn follow(&mut self) {
        self.ready = VecDeque::new();
        for group in self.of.values_mut() {
            group.restart_delivery();
            group.is_ready = false;
        }
    }

    /// Counts what is handed out under this command from now on.
    pub(super) fn begin_anew(&mut self, incarnation: Epoch) {
        for (filter, group) in &mut self.of {
            group.incarnation = incarnation;
            group.restart_delivery();
            self.changed.mark(filter.clone(), true);
        }
    }

    fn make_ready(&mut self, filter: &Filter) {
        if let Some(group) = self.of.get_mut(filter)
            && !group.is_ready
        {
            group.is_ready = true;
            self.ready.push_back(filter.clone());
        }
    }

    /// Takes the rows that changed since the last call.
    pub(super) fn take_changes(&mut self, memberships: u64) -> Vec<(RowKey, Option<Row>)> {
        let mut rows = Vec::new();
        for (filter, places) in std::mem::take(&mut self.ended) {
            for place in places {
                rows.push((RowKey::GroupQueued(filter.clone(), place), None));
            }
        }
        let of = &mut self.of;
        let changed = self.changed.take(|filter| of.get(filter).map(Group::row));
        for (filter, row) in changed {
            if let Some(group) = of.get_mut(&filter) {
                let (put, deleted) = group.queue.take_changes();
                for place in deleted {
                    rows.push((RowKey::GroupQueued(filter.clone(), place), None));
                }
                for (place, row) in put {
                    let row = Row::GroupQueued(filter.clone(), place, row);
                    rows.push((RowKey::GroupQueued(filter.clone(), place), Some(row)));
                }
            }
            let row = row.map(|row| Row::Group(filter.clone(), row));
            rows.push((RowKey::Group(filter), row));
        }
        let members = self.changed_members.take(|(filter, client)| {
            let member = of.get(filter)?.member(client)?.clone();
            Some(Row::Member(filter.clone(), client.clone(), member))
        });
        let named = |((filter, client), row)| (RowKey::Member(filter, client), row);
        rows.extend(members.into_iter().map(named));
        if memberships > 0 || !self.applied.is_empty() {
            let row = GroupsRow {
                memberships,
                applied: self.applied.clone(),
            };
            rows.push((RowKey::Groups, Some(Row::Groups(row))));
        }
        rows
    }

    /// Goes on from the versions that were applied.
    pub(super) fn count_from(&mut self, applied: BTreeMap<u16, u64>) {
        self.applied = applied;
    }
}

impl Durable {
    /// Seats a client in a group or takes it away.
    pub(super) fn membership(&mut self, membership: &Membership) -> Answer {
        let applied = self.groups.applied.entry(membership.source).or_default();
        if membership.version > *applied {
            *applied = membership.version;
            let (filter, client) = (&membership.filter, &membership.client);
            match &membership.member {
                Some(member) => self.join(filter, client, member.clone()),
                None => self.leave(filter, client),
            }
        }
        self.answer_membership(&membership.filter)
    }

    pub(super) fn answer_membership(&self, filter: &Filter) -> Answer {
        let version = self.outbox.version(&plain(filter));
        Answer::Membership { version }
    }

    fn join(&mut self, filter: &Filter, client: &ClientId, mut member: Member) {
        let group = self.groups.of.get(filter);
        let known = group.and_then(|group| group.member(client));
        let existed = known.is_some();
        if known.is_some_and(|known| known.joined != member.joined) {
            self.leave(filter, client);
        }
        let is_gone = |owner: crate::Owner| self.gone.contains(&owner.node_epoch);
        if member.owner.is_some_and(is_gone) {
            member.owner = None;
        }
        if member.owner.is_none() && !member.persistent {
            return self.leave(filter, client);
        }
        if !self.groups.of.contains_key(filter) {
            let plain = plain(filter);
            if !self.needs_route(&plain) {
                self.outbox.route(&plain, true, self.index);
            }
            self.groups.trie.insert(filter, filter.clone(), ());
            self.groups.changed.mark(filter.clone(), false);
            let group = Group::begin(Epoch(self.index));
            self.groups.of.insert(filter.clone(), group);
        }
        let key = (filter.clone(), client.clone());
        self.groups.changed_members.mark(key, existed);
        if let Some(group) = self.groups.of.get_mut(filter) {
            group.seat(client, member);
        }
        self.touch_group(filter);
    }

    /// Takes a member away; with the last one the group ends and what it had is gone.
    fn leave(&mut self, filter: &Filter, client: &ClientId) {
        let Some(group) = self.groups.of.get_mut(filter) else {
            return;
        };
        if !group.unseat(client) {
            return;
        }
        let is_over = group.is_empty();
        let key = (filter.clone(), client.clone());
        self.groups.changed_members.mark(key, true);
        if is_over {
            self.end_group(filter);
        } else {
            self.touch_group(filter);
        }
    }

    fn end_group(&mut self, filter: &Filter) {
        let group = self.groups.of.remove(filter);
        let group = group.expect("the caller found it");
        self.groups.changed.mark(filter.clone(), true);
        self.groups.trie.remove(filter, filter);
        if let Some(at) = group.deadline {
            self.groups.deadlines.remove(&(at, filter.clone()));
        }
        if group.is_ready {
            self.groups.ready.retain(|ready| ready != filter);
        }
        let places = group.queue.stored_places();
        self.groups.ended.push((filter.clone(), places));
        self.let_go(group.queue.messages().collect());
        self.counters.dropped_session_end += group.queue.len() as u64;
        self.account((group.queue.len(), group.queue.bytes()), (0, 0));
        let plain = plain(filter);
        if !self.needs_route(&plain) {
            self.outbox.route(&plain, false, self.index);
        }
    }

    /// The members on a node that ended are away, or, if their sessions ended with it, leave.
    /// The rows of their own shards will say the same.
    pub(super) fn groups_node_gone(&mut self, node_epoch: NodeEpoch) {
        let filters: Vec<Filter> = self.groups.of.keys().cloned().collect();
        for filter in filters {
            let Some(group) = self.groups.of.get_mut(&filter) else {
                continue;
            };
            let gone = group.owned_by(node_epoch);
            let (stay, leave): (Vec<_>, Vec<_>) = gone
                .into_iter()
                .partition(|client| group.member(client).is_some_and(|one| one.persistent));
            for client in &stay {
                group.disconnect(client);
                let key = (filter.clone(), client.clone());
                self.groups.changed_members.mark(key, true);
            }
            if !stay.is_empty() {
                self.touch_group(&filter);
            }
            for client in &leave {
                self.leave(&filter, client);
            }
        }
    }

    /// Queues a message once in each group that it matches; says how many took it and how many
    /// messages were dropped for it.
    pub(super) fn enqueue_shared(
        &mut self,
        message: &Arc<Message>,
        held: &mut Option<MessageId>,
        left: &mut Vec<MessageId>,
    ) -> (u32, u32) {
        let mut answer = (0, 0);
        for filter in self.groups.matching(&message.topic) {
            let Some(group) = self.groups.of.get_mut(&filter) else {
                continue;
            };
            if message.qos.min(group.qos_max()) == QoS::AtMostOnce {
                continue;
            }
            let entry = Entry {
                seq: Seq(0),
                message: *held.get_or_insert_with(|| self.payloads.take_id()),
                bytes: u32::try_from(message.bytes()).unwrap_or(u32::MAX),
                expiry: message.expiry.into(),
                qos: QoS::AtLeastOnce,
                retain: message.retain,
                ids: Ids::None,
                released: false,
            };
            let before = (group.queue.len(), group.queue.bytes());
            let pushed = group.queue.push(entry, None, &self.limits, left);
            let after = (group.queue.len(), group.queue.bytes());
            answer.0 += u32::from(pushed.taken);
            answer.1 += pushed.dropped;
            self.account(before, after);
            self.touch_group(&filter);
        }
        answer
    }

    pub(super) fn group_ack(&mut self, acks: &[GroupSeq]) -> Answer {
        let mut left = std::mem::take(&mut self.left);
        for ack in acks {
            let group = self.groups.of.get_mut(&ack.filter);
            let Some(group) = group.filter(|group| group.incarnation == ack.incarnation) else {
                continue;
            };
            let before = (group.queue.len(), group.queue.bytes());
            group.ack(ack.seq, &mut left);
            let after = (group.queue.len(), group.queue.bytes());
            self.account(before, after);
            self.touch_group(&ack.filter);
        }
        self.let_go(left);
        Answer::Done
    }

    pub(super) fn expire_group(&mut self, filter: &Filter, incarnation: Epoch) -> Answer {
        let group = self.groups.of.get_mut(filter);
        let Some(group) = group.filter(|group| group.incarnation == incarnation) else {
            return Answer::Done;
        };
        let mut left = Vec::new();
        let before = (group.queue.len(), group.queue.bytes());
        self.counters.dropped_expired += group.queue.expire(self.time, &mut left) as u64;
        let after = (group.queue.len(), group.queue.bytes());
        self.account(before, after);
        self.let_go(left);
        self.touch_group(filter);
        Answer::Done
    }

    /// What time makes due in the groups, up to `limit` commands.
    pub(super) fn groups_due(&self, now: WallMs, limit: usize, commands: &mut Vec<Command>) {
        for (at, filter) in &self.groups.deadlines {
            if *at > now || commands.len() >= limit {
                return;
            }
            if let Some(group) = self.groups.of.get(filter) {
                commands.push(Command::ExpireGroup {
                    filter: filter.clone(),
                    incarnation: group.incarnation,
                });
            }
        }
    }

    /// One present member of each group that takes a message at QoS 0: for them the host calls
    /// [`crate::Live::handle_message`], as for [`Self::qos0_recipients`]. For the leader only:
    /// whose turn it is is not replicated.
    pub fn next_qos0_members(&mut self, topic: &Topic, qos: QoS) -> Vec<QoS0Recipient> {
        let mut recipients = Vec::new();
        for filter in self.groups.matching(topic) {
            let group = self.groups.of.get_mut(&filter);
            let group = group.filter(|group| qos.min(group.qos_max()) == QoS::AtMostOnce);
            let Some((owner, member)) = group.and_then(Group::next_qos0) else {
                continue;
            };
            let mut matched = Match::default();
            matched.add(&member.subscription, false);
            recipients.push(QoS0Recipient {
                node_epoch: owner.node_epoch,
                connection: owner.connection,
                matched,
            });
        }
        recipients
    }

    /// After any change of a group: its row, its deadline, what may be sent, and its place among
    /// those with deliveries.
    pub(super) fn touch_group(&mut self, filter: &Filter) {
        let window = self.limits.group_window;
        let Some(group) = self.groups.of.get_mut(filter) else {
            return;
        };
        group.advance_sent(window);
        let deadline = group.queue.expiry_min();
        if deadline != group.deadline {
            let old = std::mem::replace(&mut group.deadline, deadline);
            if let Some(at) = old {
                self.groups.deadlines.remove(&(at, filter.clone()));
            }
            if let Some(at) = deadline {
                self.groups.deadlines.insert((at, filter.clone()));
            }
        }
        self.groups.changed.mark(filter.clone(), true);
        self.make_group_ready(filter);
    }

    /// What a message that was read is awaited for goes on.
    pub(super) fn make_group_ready(&mut self, filter: &Filter) {
        if self.leads {
            self.groups.make_ready(filter);
        }
    }

    pub(super) fn leave_ready_group(&mut self, filter: &Filter) {
        self.groups.ready.pop_front();
        if let Some(group) = self.groups.of.get_mut(filter) {
            group.is_ready = false;
        }
    }

    /// The next delivery of a group.
    pub(super) fn deliver_shared(&mut self, filter: &Filter) -> NextShared {
        let window = self.limits.group_window;
        let Some(group) = self.groups.of.get_mut(filter) else {
            return NextShared::Nothing;
        };
        let full = &mut self.full;
        let Some(next) = group.next(window, |node_epoch| full.is_full(node_epoch)) else {
            full.hold_group(filter);
            return NextShared::Nothing;
        };
        let Some(message) = self.payloads.deliver(next.entry.message) else {
            let first = next.entry.message;
            for (message, bytes) in group.upcoming().take(super::messages::LOADS_AHEAD) {
                let is_away = self.payloads.get(message).is_none();
                if is_away && !self.loads.ask(message, bytes) {
                    break;
                }
            }
            return NextShared::Waits(first);
        };
        let subscription = next.member.subscription;
        let delivery = GroupDelivery {
            node_epoch: next.owner.node_epoch,
            connection: next.owner.connection,
            epoch: next.owner.epoch,
            group_seq: GroupSeq {
                filter: filter.clone(),
                incarnation: group.incarnation,
                seq: next.entry.seq,
            },
            message: Arc::clone(message),
            //# [MQTT-4.8.2-3] ... MUST respect the granted QoS for the Client's subscription
            qos: next.entry.qos.min(subscription.options.qos),
            retain: next.entry.retain && subscription.options.retain_as_published,
            subscription_ids: subscription.id.into_iter().collect::<SubscriptionIds>(),
            dup: next.dup,
        };
        let client = next.client;
        group.handle_delivered(delivery.group_seq.seq, &client);
        NextShared::Delivery(delivery)
    }
}

/// The filter that topics are matched with, which has the route.
pub(super) fn plain(filter: &Filter) -> Filter {
    let plain = Filter::try_from(filter.topic_filter());
    plain.expect("what follows a share name was checked as a filter")
}
