//! The memberships of a shard's clients in groups, wherever those have their home; and the outbox
//! that tells the home shards.

use std::collections::BTreeMap;

use mqtt::{ClientId, Filter, QoS, ReasonCode};

use super::changed::Changed;
use super::{Durable, MembershipRow, MembershipState, Row, RowKey, Share, granted};
use crate::{Answer, Epoch, Member, Owner, Subscribed, Subscription, Unsubscribed};

/// Memberships of the shard's sessions, persistent or not, and rows of ended ones until the home
/// shards know.
#[derive(Debug, Default)]
pub(super) struct Shares {
    of: BTreeMap<ClientId, BTreeMap<Filter, Held>>,
    pending: BTreeMap<u64, (ClientId, Filter)>,
    version: u64,
    /// Handed out to the host up to here. Not replicated.
    told: u64,
    changed: Changed<(ClientId, Filter)>,
}

#[derive(Debug)]
struct Held {
    share: Option<Share>,
    version: u64,
    /// The lowest version of this membership that this leader told nobody before. Nor is what
    /// follows replicated.
    since: u64,
    /// The lowest version that no entry has said to be done since: a leader before may have told
    /// it, and nobody knows what became of that.
    undone: u64,
}

impl Shares {
    pub(super) fn pending_len(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn get(&self, client: &ClientId, filter: &Filter) -> Option<&Share> {
        self.of.get(client)?.get(filter)?.share.as_ref()
    }

    /// The filters that a client shares.
    pub(super) fn filters(&self, client: &ClientId) -> Vec<Filter> {
        let Some(held) = self.of.get(client) else {
            return Vec::new();
        };
        let shared = held.iter().filter(|(_, held)| held.share.is_some());
        shared.map(|(filter, _)| filter.clone()).collect()
    }

    /// The version of the row if its home shard is still to be told, else 0.
    pub(super) fn pending_version(&self, client: &ClientId, filter: &Filter) -> u64 {
        let held = self.of.get(client).and_then(|all| all.get(filter));
        let pending = held.filter(|held| self.pending.contains_key(&held.version));
        pending.map_or(0, |held| held.version)
    }

    /// Writes a membership's new row; an older one of it that still waits is replaced. Returns
    /// its version.
    fn put(&mut self, client: &ClientId, filter: &Filter, share: Option<Share>) -> u64 {
        self.version += 1;
        let version = self.version;
        let all = self.of.entry(client.clone()).or_default();
        let mut held = Held {
            share,
            version,
            since: version,
            undone: version,
        };
        let old = all.get(filter);
        if let Some(old) = old
            && self.pending.remove(&old.version).is_some()
        {
            held.undone = old.undone;
            if old.version > self.told {
                held.since = old.since;
            }
        }
        let key = (client.clone(), filter.clone());
        self.changed.mark(key.clone(), old.is_some());
        all.insert(filter.clone(), held);
        self.pending.insert(version, key);
        version
    }

    /// Goes on above a number, and has every membership told anew.
    pub(super) fn restate(&mut self, floor: u64) {
        self.version = self.version.max(floor);
        let of = self.of.iter();
        let rows = of.flat_map(|(client, all)| {
            let all = all.iter();
            all.map(move |(filter, held)| (client.clone(), filter.clone(), held.share))
        });
        let rows: Vec<(ClientId, Filter, Option<Share>)> = rows.collect();
        for (client, filter, share) in rows {
            self.put(&client, &filter, share);
        }
    }

    /// Forgets the row of this version if it still waits: its home shard has it.
    pub(super) fn done(&mut self, version: u64) {
        let Some((client, filter)) = self.pending.remove(&version) else {
            return;
        };
        if let Some(all) = self.of.get_mut(&client)
            && all.get(&filter).is_some_and(|held| held.share.is_none())
        {
            all.remove(&filter);
            if all.is_empty() {
                self.of.remove(&client);
            }
        }
        self.changed.mark((client, filter), true);
    }

    /// The next row to be told: versions rise.
    fn poll(&mut self) -> Option<(ClientId, Filter, &Held)> {
        let (&version, (client, filter)) = self.pending.range(self.told + 1..).next()?;
        self.told = version;
        let held = self.of.get(client).and_then(|all| all.get(filter));
        let held = held.expect("a row that waits is there");
        Some((client.clone(), filter.clone(), held))
    }

    /// A new leader tells every row that waits, each for all that its predecessors may have told.
    pub(super) fn resume(&mut self) {
        self.told = 0;
        for (client, filter) in self.pending.values() {
            let held = self.of.get_mut(client).and_then(|all| all.get_mut(filter));
            let held = held.expect("a row that waits is there");
            held.since = held.undone;
        }
    }

    /// The version of the last row.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Goes on from [`Shares::version`], in a state that is restored.
    pub(super) fn count_from(&mut self, version: u64) {
        self.version = version;
    }

    /// Takes the rows that changed since the last call.
    pub(super) fn take_changes(&mut self) -> Vec<(RowKey, Option<Row>)> {
        let (of, pending) = (&self.of, &self.pending);
        let changed = self.changed.take(|(client, filter)| {
            let held = of.get(client)?.get(filter)?;
            let state = MembershipState {
                share: held.share,
                version: held.version,
                pending: pending.contains_key(&held.version),
            };
            Some(Row::Membership(client.clone(), filter.clone(), state))
        });
        let named = |((client, filter), row)| (RowKey::Membership(client, filter), row);
        changed.into_iter().map(named).collect()
    }

    /// Takes a stored row back; says whether membership and version are the first of their name.
    pub(super) fn restore(
        &mut self,
        client: &ClientId,
        filter: &Filter,
        state: &MembershipState,
    ) -> bool {
        let key = (client.clone(), filter.clone());
        let same = state
            .pending
            .then(|| self.pending.insert(state.version, key));
        let held = Held {
            share: state.share,
            version: state.version,
            since: state.version,
            undone: state.version,
        };
        let all = self.of.entry(client.clone()).or_default();
        let same_filter = all.insert(filter.clone(), held);
        same.flatten().is_none() && same_filter.is_none()
    }

    /// Every membership with its version, and whether it is one.
    pub(super) fn all(&self) -> impl Iterator<Item = (&ClientId, &Filter, u64, bool)> {
        self.of.iter().flat_map(|(client, all)| {
            let each = all.iter();
            each.map(move |(filter, held)| (client, filter, held.version, held.share.is_some()))
        })
    }
}

impl Durable {
    /// Subscribes a session to a shared filter; nothing retained is replayed (§4.8.2).
    pub(super) fn share(
        &mut self,
        client: &ClientId,
        filter: &Filter,
        subscription: &Subscription,
    ) -> Subscribed {
        let known = self.shares.get(client, filter).copied();
        let state = self.sessions.get(client).and_then(|s| s.state.as_ref());
        let others = state.map_or(0, |state| state.subscriptions.len());
        let too_many = known.is_none()
            && others + self.shares.filters(client).len() >= self.limits.subscriptions;
        if too_many || self.shares.pending_len() >= self.limits.outbox_memberships {
            return Subscribed {
                reason: ReasonCode::QuotaExceeded,
                version: 0,
                replay: false,
                membership: 0,
            };
        }
        let share = Share {
            subscription: shared(*subscription),
            joined: known.map_or(Epoch(self.index), |known| known.joined),
        };
        Subscribed {
            reason: granted(share.subscription.options.qos),
            version: 0,
            replay: false,
            membership: self.shares.put(client, filter, Some(share)),
        }
    }

    pub(super) fn unshare(&mut self, client: &ClientId, filter: &Filter) -> Unsubscribed {
        let (reason, membership) = match self.shares.get(client, filter) {
            Some(_) => (ReasonCode::Success, self.shares.put(client, filter, None)),
            None => (ReasonCode::NoSubscriptionExisted, 0),
        };
        Unsubscribed {
            reason,
            version: 0,
            membership,
        }
    }

    /// The owner of a session came or went: its groups are told.
    pub(super) fn touch_shares(&mut self, client: &ClientId) {
        for filter in self.shares.filters(client) {
            let share = self.shares.get(client, &filter).copied();
            self.shares.put(client, &filter, share);
        }
    }

    /// The session ended: it leaves its groups.
    pub(super) fn end_shares(&mut self, client: &ClientId) {
        for filter in self.shares.filters(client) {
            self.shares.put(client, &filter, None);
        }
    }

    pub(super) fn membership_done(&mut self, version: u64) -> Answer {
        self.shares.done(version);
        Answer::Done
    }

    /// The next row for a home shard, as the session is now: whatever changes it writes a newer
    /// row.
    pub(super) fn next_membership(&mut self) -> Option<MembershipRow> {
        let (client, filter, held) = self.shares.poll()?;
        let session = self.sessions.get(&client);
        let owner = session.filter(|s| s.is_connected()).map(|session| Owner {
            node_epoch: session.node_epoch,
            connection: session.connection,
            epoch: session.epoch,
            receive_maximum: session.receive_maximum,
        });
        let persistent = session.is_some_and(|session| session.state.is_some());
        let member = held.share.map(|share| Member {
            joined: share.joined,
            owner,
            subscription: share.subscription,
            persistent,
        });
        Some(MembershipRow {
            version: held.version,
            since: held.since,
            filter,
            client,
            member,
        })
    }
}

/// A subscription as it is granted to a member: QoS 2 is not `[MQTT-4.8.2-3]`.
pub(super) fn shared(mut subscription: Subscription) -> Subscription {
    let qos = &mut subscription.options.qos;
    *qos = QoS::AtLeastOnce.min(*qos);
    subscription
}
