//! What an operator sees of a shard; reading changes nothing.

use std::ops::Bound;
use std::sync::Arc;

use mqtt::{ClientId, Filter, QoS, Topic, VISITED_NODES_MAX, VisitLimit};

use super::Durable;
use super::session::Session;
use crate::{ConnectionId, Epoch, NodeEpoch, WallMs};

/// One session at a moment. Times are of the shard's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Its client.
    pub client: ClientId,
    /// The `Open` that began it.
    pub incarnation: Epoch,
    /// Its ownership.
    pub epoch: Epoch,
    /// The node of the connection that owns it, or owned it last.
    pub node_epoch: NodeEpoch,
    /// That connection.
    pub connection: ConnectionId,
    /// When the owner went; `None` while it is there.
    pub disconnected: Option<WallMs>,
    /// When it ends unless its client comes back; `None` also for one that never does.
    pub expires: Option<WallMs>,
    /// Whether its state lives here; that of a clean one is on its node.
    pub is_persistent: bool,
    /// Session Expiry Interval in seconds; `u32::MAX` is for ever.
    pub expiry_s: u32,
    /// Receive Maximum of its owner.
    pub receive_maximum: u16,
    /// Subscriptions here, shared ones among them.
    pub subscriptions: usize,
    /// Messages in its queue.
    pub queue_messages: usize,
    /// Their bytes, as accounted.
    pub queue_bytes: usize,
}

/// What one session holds, beyond [`SessionView`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionDetails {
    /// At a glance.
    pub view: SessionView,
    /// Subscriptions and the QoS that they ask for, shared ones behind the others. At most as many
    /// as [`crate::Limits::subscriptions`].
    pub subscriptions: Vec<(Filter, QoS)>,
    /// Messages of the queue that may have been sent and are not acknowledged.
    pub unacknowledged: usize,
    /// When the oldest message of the queue was received; `None` also while its payload is on disk
    /// alone.
    pub oldest: Option<WallMs>,
    /// QoS 2 messages of the client whose PUBREL has not come.
    pub unreleased: usize,
    /// Topic, QoS and delay in seconds of its will, if it has one.
    pub will: Option<(Topic, QoS, u32)>,
}

/// Which sessions are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// Those whose client id begins so.
    pub prefix: String,
    /// Those with an owner, or those without one.
    pub is_connected: Option<bool>,
    /// Persistent ones, or clean ones.
    pub is_persistent: Option<bool>,
    /// Those whose owner is, or was, on this node.
    pub node_epoch: Option<NodeEpoch>,
}

/// Sessions in the order of their client ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionPage {
    /// All that are wanted up to `next`.
    pub rows: Vec<SessionView>,
    /// Behind which client to go on; `None` at the end.
    pub next: Option<ClientId>,
}

/// A persistent session that takes messages of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Its client.
    pub client: ClientId,
    /// The filters for which it does, and their QoS.
    pub filters: Vec<(Filter, QoS)>,
    /// The node of its owner; `None` while it is away.
    pub node_epoch: Option<NodeEpoch>,
}

/// A shared group whose home is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// Its filter, `$share` and name included.
    pub filter: Filter,
    /// Members.
    pub members: usize,
    /// Those of them that are connected.
    pub connected: usize,
    /// Messages that wait for members or their acknowledgement.
    pub queue_messages: usize,
    /// Their bytes, as accounted.
    pub queue_bytes: usize,
}

impl SessionFilter {
    fn takes(&self, session: &Session) -> bool {
        let is = |wanted: Option<bool>, is: bool| wanted.is_none_or(|wanted| wanted == is);
        is(self.is_connected, session.is_connected())
            && is(self.is_persistent, session.state.is_some())
            && self.node_epoch.is_none_or(|of| of == session.node_epoch)
    }
}

impl Durable {
    /// Sessions that `wanted` takes, of the clients behind `after`: at most `limit`, found among at
    /// most `visited_max`.
    pub fn session_page(
        &self,
        wanted: &SessionFilter,
        after: Option<&ClientId>,
        limit: usize,
        visited_max: usize,
    ) -> SessionPage {
        let prefix = ClientId::try_from(wanted.prefix.as_str()).ok();
        let start = match (after, &prefix) {
            (Some(after), Some(prefix)) if after < prefix => Bound::Included(prefix),
            (Some(after), _) => Bound::Excluded(after),
            (None, Some(prefix)) => Bound::Included(prefix),
            (None, None) => Bound::Unbounded,
        };
        let mut page = SessionPage::default();
        let mut last: Option<&ClientId> = None;
        let sessions = self
            .sessions
            .range::<ClientId, _>((start, Bound::Unbounded));
        for (visited, (client, session)) in sessions.enumerate() {
            if !client.as_str().starts_with(&wanted.prefix) {
                return page;
            }
            if visited == visited_max || page.rows.len() == limit {
                page.next = last.or(after).cloned();
                return page;
            }
            last = Some(client);
            if wanted.takes(session) {
                page.rows.push(self.view_of(client, session));
            }
        }
        page
    }

    /// What there is of a client's session.
    pub fn session_details(&self, client: &ClientId) -> Option<SessionDetails> {
        let session = self.sessions.get(client)?;
        let state = session.state.as_ref();
        let own = state.map_or(&[][..], |state| &state.subscriptions);
        let own = own.iter().map(|(f, s)| (f.clone(), s.options.qos));
        let shared = self.shares.filters(client).into_iter().map(|filter| {
            let share = self.shares.get(client, &filter);
            let qos = share.map(|share| share.subscription.options.qos);
            (filter, qos.unwrap_or_default())
        });
        let oldest = state.and_then(|state| {
            let message = self.payloads.get(state.queue.messages().next()?)?;
            Some(message.received)
        });
        let will = session.will.as_ref();
        Some(SessionDetails {
            view: self.view_of(client, session),
            subscriptions: own.chain(shared).collect(),
            unacknowledged: state.map_or(0, |state| state.queue.sent_len()),
            oldest,
            unreleased: state.map_or(0, |state| state.q2.len()),
            will: will.map(|will| (will.topic.clone(), will.qos, will.delay_s.unwrap_or(0))),
        })
    }

    /// Persistent sessions that take messages of `topic`, in order of their client ids, at most
    /// `limit`, and how many there are. As costly as a message to all of them.
    ///
    /// # Errors
    /// [`VisitLimit`] if the topic matches more of the tree than a PUBLISH may visit.
    pub fn recipients(
        &self,
        topic: &Topic,
        limit: usize,
    ) -> Result<(Vec<Recipient>, usize), VisitLimit> {
        let mut clients: Vec<ClientId> = Vec::new();
        self.trie.matches(topic, VISITED_NODES_MAX, |client, _| {
            clients.push(client.clone());
        })?;
        clients.sort_unstable();
        clients.dedup();
        let total = clients.len();
        let all = clients.into_iter().take(limit);
        let rows = all.filter_map(|client| {
            let session = self.sessions.get(&client)?;
            let subscriptions = session.state.as_ref()?.subscriptions.iter();
            let matching = subscriptions.filter(|(filter, _)| filter.matches(topic));
            Some(Recipient {
                filters: matching
                    .map(|(filter, of)| (filter.clone(), of.options.qos))
                    .collect(),
                node_epoch: session.is_connected().then_some(session.node_epoch),
                client,
            })
        });
        Ok((rows.collect(), total))
    }

    /// Groups whose home is here and that take messages of `topic`, at most `limit`, and how many
    /// there are.
    pub fn groups_of(&self, topic: &Topic, limit: usize) -> (Vec<GroupView>, usize) {
        let matching = self.groups.matching(topic);
        let total = matching.len();
        let rows = matching.into_iter().take(limit).filter_map(|filter| {
            let group = self.groups.of.get(&filter)?;
            Some(GroupView {
                members: group.len(),
                connected: group.connected(),
                queue_messages: group.queue.len(),
                queue_bytes: group.queue.bytes(),
                filter,
            })
        });
        (rows.collect(), total)
    }

    /// The retained message of a topic.
    pub fn retained_of(&self, topic: &Topic, now: WallMs) -> Option<Arc<crate::Message>> {
        self.retained.get(topic, now)
    }

    fn view_of(&self, client: &ClientId, session: &Session) -> SessionView {
        let state = session.state.as_ref();
        let own = state.map_or(0, |state| state.subscriptions.len());
        SessionView {
            client: client.clone(),
            incarnation: session.incarnation,
            epoch: session.epoch,
            node_epoch: session.node_epoch,
            connection: session.connection,
            disconnected: session.disconnected,
            expires: session.expires(),
            is_persistent: state.is_some(),
            expiry_s: session.expiry_s,
            receive_maximum: session.receive_maximum,
            subscriptions: own + self.shares.filters(client).len(),
            queue_messages: state.map_or(0, |state| state.queue.len()),
            queue_bytes: state.map_or(0, |state| state.queue.bytes()),
        }
    }
}
