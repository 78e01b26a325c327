//! The replicated state of one session shard.

mod changed;
mod changes;
mod counters;
mod dense;
#[cfg(test)]
mod durable_test;
mod effect;
mod full_nodes;
#[cfg(test)]
mod full_nodes_test;
mod group;
mod groups;
#[cfg(test)]
mod groups_test;
mod lead;
#[cfg(test)]
mod lead_test;
mod limits;
mod loads;
mod messages;
mod outbox;
mod owned;
#[cfg(test)]
mod owned_test;
mod owners;
mod ownership;
mod payloads;
mod qos2;
mod queue;
#[cfg(test)]
mod queue_test;
mod recovery;
#[cfg(test)]
mod recovery_test;
mod repeat;
mod restore;
mod restore_groups;
mod retained;
mod rows;
mod session;
mod shares;
#[cfg(test)]
mod stored_test;
mod subscriptions;
mod takeovers;
mod views;
#[cfg(test)]
mod views_test;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mqtt::{ClientId, Filter, QoS, Templates, Topic, Trie};

use changes::Changes;
pub use counters::Counters;
pub use effect::{
    Delivery, DeliveryStep, DurableEffect, GroupDelivery, MembershipRow, QoS0Recipient, RouteRow,
    WillRow,
};
use full_nodes::FullNodes;
use groups::Groups;
pub use limits::Limits;
use loads::Loads;
use outbox::Outbox;
use owners::Owners;
use payloads::Payloads;
pub use qos2::Origins;
use retained::RetainedMessages;
pub use rows::{
    GroupRow, GroupsRow, HeadRow, MembershipState, OriginRow, PersistentRow, QueuePlace, QueuedRow,
    RestoreError, RetainedRow, RouteState, Row, RowKey, SessionRow, Share,
};
use session::{Session, State};
use shares::Shares;
pub(crate) use subscriptions::granted;
use takeovers::Takeovers;
pub use views::{GroupView, Recipient, SessionDetails, SessionFilter, SessionPage, SessionView};

use crate::{
    Answer, Command, Epoch, Match, Message, MessageId, NodeEpoch, Retained, Subscription, WallMs,
};

/// Ended node epochs that are remembered; epochs rise, so the lowest go first.
const GONE_NODES: usize = 4_096;

/// The replicated state of one session shard: sessions, groups, queues, retained messages, outbox.
///
/// Equal logs give equal states. Whether this replica leads, and what is then handed out by
/// [`Self::poll_effect`] and how far, is the only part that is not replicated. It begins without
/// the lead ([`Self::handle_lead`]).
#[derive(Debug)]
pub struct Durable {
    limits: Limits,
    /// Fixed before the first entry, equal on all replicas.
    templates: Templates,
    index: u64,
    time: WallMs,
    /// Boxed: a node of the map has room for eleven, and is half full on average.
    sessions: BTreeMap<ClientId, Box<Session>>,
    /// Subscriptions of the persistent sessions.
    trie: Trie<ClientId, Subscription>,
    /// Groups whose home it is.
    groups: Groups,
    /// Memberships of its sessions in groups of any shard.
    shares: Shares,
    retained: RetainedMessages,
    origins: Origins,
    outbox: Outbox,
    deadlines: BTreeSet<(WallMs, ClientId)>,
    gone: BTreeSet<NodeEpoch>,
    counters: Counters,
    /// Whether effects are handed out here. Nor is what follows replicated; without the lead it is
    /// empty.
    leads: bool,
    /// Sessions that may have something to deliver.
    ready: VecDeque<ClientId>,
    full: FullNodes,
    takeovers: Takeovers,
    owners: Owners,
    payloads: Payloads,
    /// Room for the messages that leave queues during an entry; empty between two.
    left: Vec<MessageId>,
    /// Not replicated.
    loads: Loads,
    changes: Changes,
}

impl Default for Durable {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Durable {
    /// An empty shard of a cluster without device-owned templates.
    pub fn new(limits: Limits) -> Self {
        Self::with_templates(limits, Templates::default())
    }

    /// An empty shard. `templates` are those that the cluster was founded with, for ever: on them
    /// depends which subscriptions have a row in the outbox.
    pub fn with_templates(limits: Limits, templates: Templates) -> Self {
        Self {
            templates,
            origins: Origins::stored(limits.origins, limits.origin_s),
            payloads: Payloads::new(limits.payload_cache_bytes),
            loads: Loads::new(limits.payload_cache_bytes),
            limits,
            index: 0,
            time: WallMs(0),
            sessions: BTreeMap::new(),
            trie: Trie::default(),
            groups: Groups::default(),
            shares: Shares::default(),
            retained: RetainedMessages::default(),
            outbox: Outbox::default(),
            deadlines: BTreeSet::new(),
            gone: BTreeSet::new(),
            counters: Counters::default(),
            leads: false,
            ready: VecDeque::new(),
            full: FullNodes::default(),
            takeovers: Takeovers::default(),
            owners: Owners::default(),
            left: Vec::new(),
            changes: Changes::default(),
        }
    }

    /// Applies one log entry. `index` rises with each call; shard time becomes
    /// max(previous, `time`).
    ///
    /// # Panics
    /// If `index` does not rise.
    pub fn apply(&mut self, index: u64, time: WallMs, command: &Command) -> Answer {
        assert!(index > self.index, "log index {index} does not rise");
        self.index = index;
        self.time = self.time.max(time);
        self.changes.applied();
        match command {
            Command::Open(open) => self.open(open),
            Command::Close(close) => self.close(close),
            Command::Subs(subs) => self.subscribe(subs),
            Command::Unsubs(unsubs) => self.unsubscribe(unsubs),
            Command::Enqueue(enqueue) => self.enqueue(enqueue),
            Command::Q2In {
                client,
                epoch,
                packet_id,
            } => self.q2_in(client, *epoch, *packet_id),
            Command::Q2Out {
                client,
                epoch,
                packet_id,
            } => self.q2_out(client, *epoch, *packet_id),
            Command::Rec { client, epoch, seq } => self.rec(client, *epoch, *seq),
            Command::Ack(acks) => self.ack(acks),
            Command::Retain(retain) => self.retain(retain),
            Command::Replay(replay) => self.replay(replay),
            Command::ReplayEnd {
                client,
                incarnation,
                filter,
            } => self.replay_end(client, *incarnation, filter),
            Command::Expire {
                client,
                incarnation,
                epoch,
            } => self.expire(client, *incarnation, *epoch),
            Command::ExpireMessages {
                client,
                incarnation,
            } => self.expire_messages(client, *incarnation),
            Command::ExpireRetained => {
                self.retained.expire(self.time);
                Answer::Done
            }
            Command::WillDelayEnd { client, epoch } => self.will_delay_end(client, *epoch),
            Command::WillDone { id } => {
                self.outbox.will_done(*id);
                Answer::Done
            }
            Command::RoutesDone { version } => {
                self.outbox.routes_done(*version);
                Answer::Done
            }
            Command::NodeGone { node_epoch } => self.node_gone(*node_epoch),
            Command::Membership(membership) => self.membership(membership),
            Command::MembershipDone { version } => self.membership_done(*version),
            Command::GroupAck(acks) => self.group_ack(acks),
            Command::ExpireGroup {
                filter,
                incarnation,
            } => self.expire_group(filter, *incarnation),
        }
    }

    /// The next thing for the leader's host to do; nothing where this replica does not lead. Large
    /// fan-outs are handed out step by step.
    pub fn poll_effect(&mut self) -> Option<DurableEffect> {
        if !self.leads {
            return None;
        }
        if let Some(takeover) = self.takeovers.next() {
            return Some(takeover);
        }
        if let Some(row) = self.outbox.next_route() {
            return Some(DurableEffect::Route(row));
        }
        if let Some(row) = self.outbox.next_will() {
            return Some(DurableEffect::WillDue(row));
        }
        if let Some(row) = self.next_membership() {
            return Some(DurableEffect::Membership(row));
        }
        self.next_delivery()
    }

    /// The node of the last connection that owned a client's session.
    pub fn owner_node(&self, client: &ClientId) -> Option<NodeEpoch> {
        self.sessions.get(client).map(|session| session.node_epoch)
    }

    /// The ownership epoch of a client's session, for [`crate::Open::expected_epoch`].
    pub fn epoch(&self, client: &ClientId) -> Option<Epoch> {
        self.sessions.get(client).map(|session| session.epoch)
    }

    /// Connected persistent sessions that take a message on `topic`, published with `qos`, at
    /// QoS 0, in order of their client ids: for them the host calls
    /// [`crate::Live::handle_message`].
    pub fn qos0_recipients(
        &self,
        topic: &Topic,
        qos: QoS,
        publisher: Option<&ClientId>,
    ) -> Vec<QoS0Recipient> {
        let mut recipients = Vec::new();
        for (client, matched) in self.matches(topic, publisher) {
            let Some(session) = self.sessions.get(&client) else {
                continue;
            };
            if session.is_connected() && matched.qos(qos) == QoS::AtMostOnce {
                recipients.push(QoS0Recipient {
                    node_epoch: session.node_epoch,
                    connection: session.connection,
                    matched,
                });
            }
        }
        recipients
    }

    /// Retained messages that match `filter` and have not expired, in order of their topics, at
    /// most `limit`.
    pub fn retained_matching(
        &self,
        filter: &Filter,
        limit: usize,
        now: WallMs,
    ) -> Vec<Arc<Message>> {
        self.retained_behind(filter, None, limit, now)
    }

    /// The same, of the topics behind `after` in this order: who takes them in parts goes on behind
    /// the last that he has.
    pub fn retained_behind(
        &self,
        filter: &Filter,
        after: Option<&Topic>,
        limit: usize,
        now: WallMs,
    ) -> Vec<Arc<Message>> {
        self.retained.matching(filter, after, limit, now)
    }

    /// When [`Self::due`] will next have something, by wall time.
    pub fn next_deadline(&self) -> Option<WallMs> {
        let session = self.deadlines.first().map(|(at, _)| *at);
        let group = self.groups.deadlines.first().map(|(at, _)| *at);
        [session, group, self.retained.next_expiry()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Commands that time makes due, for the leader to propose with `now` as their time; about
    /// `limit`. Proposing one twice, or too late, does nothing.
    pub fn due(&self, now: WallMs, limit: usize) -> Vec<Command> {
        let mut commands = Vec::new();
        if self.retained.next_expiry().is_some_and(|at| at <= now) {
            commands.push(Command::ExpireRetained);
        }
        for (at, client) in &self.deadlines {
            if *at > now || commands.len() >= limit {
                break;
            }
            if let Some(session) = self.sessions.get(client) {
                session_due(client, session, now, &mut commands);
            }
        }
        self.groups_due(now, limit, &mut commands);
        commands
    }

    /// The version of the last membership row. Those up to it that [`Self::handle_lead`] does not
    /// hand out are done.
    pub fn membership_version(&self) -> u64 {
        self.shares.version()
    }

    /// Totals and what is held now.
    pub fn counters(&self) -> Counters {
        Counters {
            retained_bytes: self.retained.bytes() as u64,
            retained_messages: self.retained.len() as u64,
            outbox_routes: self.outbox.routes_len() as u64,
            outbox_wills: self.outbox.wills_len() as u64,
            connected: self.owners.sessions() as u64,
            groups: self.groups.len() as u64,
            group_members: self.groups.members() as u64,
            outbox_memberships: self.shares.pending_len() as u64,
            ..self.counters
        }
    }

    /// Shard time: the highest time applied.
    pub fn time(&self) -> WallMs {
        self.time
    }

    /// The highest index applied.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Number of sessions.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The node epochs that own sessions, ascending.
    pub fn node_epochs(&self) -> impl Iterator<Item = NodeEpoch> {
        self.owners.node_epochs()
    }

    fn retain(&mut self, retain: &crate::Retain) -> Answer {
        let retained = self.retained.retain(retain, self.time, &self.limits);
        self.counters.retained_full += u64::from(retained == Retained::Full);
        Answer::Retained(retained)
    }

    /// The session of a command that names client and epoch.
    fn owned(&mut self, client: &ClientId, epoch: Epoch) -> Result<&mut Session, Answer> {
        match self.sessions.get_mut(client) {
            Some(session) if session.epoch == epoch => Ok(session),
            session => Err(Answer::WrongEpoch {
                current: session.map(|s| s.epoch),
            }),
        }
    }

    /// The persistent state of a command's session.
    fn owned_state(&mut self, client: &ClientId, epoch: Epoch) -> Result<&mut State, Answer> {
        let session = self.owned(client, epoch)?;
        match &mut session.state {
            Some(state) => Ok(state),
            None => Err(Answer::WrongEpoch {
                current: Some(epoch),
            }),
        }
    }

    /// After any change of a session: its deadline, what may be sent, and its place among those
    /// with deliveries.
    fn touch(&mut self, client: &ClientId) {
        let Some(session) = self.sessions.get_mut(client) else {
            return;
        };
        self.changes.mark(client, session);
        let deadline = session.next_deadline();
        if deadline != session.deadline {
            if let Some(old) = session.deadline.take() {
                self.deadlines.remove(&(old, client.clone()));
            }
            if let Some(at) = deadline {
                self.deadlines.insert((at, client.clone()));
            }
            session.deadline = deadline;
        }
        if !session.is_connected() {
            return;
        }
        if let Some(state) = &mut session.state {
            let window = usize::from(session.receive_maximum) + self.limits.sent_ahead;
            state.queue.advance_sent(window);
            self.make_ready(client);
        }
    }

    /// Puts a session among those with deliveries, once its node has room.
    fn make_ready(&mut self, client: &ClientId) {
        if self.leads
            && let Some(session) = self.sessions.get_mut(client)
            && session.is_connected()
            && session.state.is_some()
            && !session.is_ready
            && !self.full.holds(session.node_epoch, client)
        {
            session.is_ready = true;
            self.ready.push_back(client.clone());
        }
    }

    /// Merged subscriptions per client, in order of the client ids.
    fn matches(&self, topic: &Topic, publisher: Option<&ClientId>) -> BTreeMap<ClientId, Match> {
        let mut matches: BTreeMap<ClientId, Match> = BTreeMap::new();
        let visited = self
            .trie
            .matches(topic, usize::MAX, |client, subscription| {
                let own = publisher == Some(client);
                let matched = matches.entry(client.clone()).or_default();
                matched.add(subscription, own);
            });
        visited.expect("no limit was set: a stored message must reach all that match");
        matches.retain(|_, matched| !matched.is_empty());
        matches
    }
}

fn session_due(client: &ClientId, session: &Session, now: WallMs, commands: &mut Vec<Command>) {
    let is_due = |at: Option<WallMs>| at.is_some_and(|at| at <= now);
    let incarnation = session.incarnation;
    if is_due(session.will_due()) {
        commands.push(Command::WillDelayEnd {
            client: client.clone(),
            epoch: session.epoch,
        });
    }
    if is_due(session.expires()) {
        commands.push(Command::Expire {
            client: client.clone(),
            incarnation,
            epoch: session.epoch,
        });
    }
    let Some(state) = &session.state else { return };
    if is_due(state.queue.expiry_min()) {
        commands.push(Command::ExpireMessages {
            client: client.clone(),
            incarnation,
        });
    }
    for replay in state.replays.iter().filter(|r| r.until <= now) {
        commands.push(Command::ReplayEnd {
            client: client.clone(),
            incarnation,
            filter: replay.filter.clone(),
        });
    }
}
