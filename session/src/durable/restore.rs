//! A shard's state made of its rows.

use std::collections::BTreeMap;

use mqtt::{ClientId, QoS, Templates};

use super::session::{PendingReplay, Session, State};
use super::{
    Durable, HeadRow, Limits, PersistentRow, QueuePlace, QueuedRow, RestoreError, Row, RowKey,
    SessionRow,
};

/// Queued messages whose session was not met yet.
type Early = BTreeMap<ClientId, Vec<(QueuePlace, QueuedRow)>>;

impl Durable {
    /// Makes the state of its rows, in any order; of none, the state before any entry. In the
    /// order of [`RowKey`] none has to wait for another. Rows of messages are not needed and not
    /// looked at: payloads are read when they are delivered. `templates` are those of
    /// [`Durable::with_templates`].
    ///
    /// # Errors
    /// When the rows contradict each other, or were written under other templates.
    pub fn restore(
        limits: Limits,
        templates: Templates,
        rows: impl IntoIterator<Item = Row>,
    ) -> Result<Self, RestoreError> {
        let mut durable = Self::with_templates(limits, templates);
        let (mut head, mut groups, mut early) = (None, None, Early::new());
        let mut any = false;
        for row in rows {
            any = true;
            if let Row::Head(row) = row {
                if head.replace(row).is_some() {
                    return Err(RestoreError::Twice(RowKey::Head));
                }
            } else if let Row::Groups(row) = row {
                if groups.replace(row).is_some() {
                    return Err(RestoreError::Twice(RowKey::Groups));
                }
            } else {
                durable.restore_row(row, &mut early)?;
            }
        }
        for (client, queued) in early {
            for (place, row) in queued {
                if let Some((client, ..)) = durable.restore_queued(client.clone(), place, row)? {
                    return Err(RestoreError::NoSession { client, place });
                }
            }
        }
        match head {
            Some(head) => durable.restore_head(head)?,
            None if any => return Err(RestoreError::NoHead),
            None => {}
        }
        durable.restore_groups(groups.unwrap_or_default())?;
        durable.restored()?;
        Ok(durable)
    }

    fn restore_row(&mut self, row: Row, early: &mut Early) -> Result<(), RestoreError> {
        let (is_first, key) = match row {
            Row::Queued(client, place, row) => {
                if let Some((client, place, row)) = self.restore_queued(client, place, row)? {
                    early.entry(client).or_default().push((place, row));
                }
                return Ok(());
            }
            Row::Head(_) | Row::Groups(_) | Row::Message(..) => return Ok(()),
            Row::Session(client, row) => {
                let key = RowKey::Session(client.clone());
                (self.restore_session(client, *row), key)
            }
            Row::Retained(topic, row) => {
                let key = RowKey::Retained(topic.clone());
                (self.retained.restore(topic, row), key)
            }
            Row::Origin(client, kind, row) => {
                let key = RowKey::Origin(client.clone(), kind);
                (self.origins.restore(client, kind, row), key)
            }
            Row::Will(row) => {
                let key = RowKey::Will(row.id);
                (self.outbox.restore_will(row), key)
            }
            Row::Route(filter, state) => {
                let key = RowKey::Route(filter.clone());
                (self.outbox.restore_route(filter, state), key)
            }
            Row::Membership(client, filter, state) => {
                let is_first = self.shares.restore(&client, &filter, &state);
                (is_first, RowKey::Membership(client, filter))
            }
            Row::Group(..) | Row::Member(..) | Row::GroupQueued(..) => {
                return self.restore_group_row(row);
            }
        };
        if is_first {
            Ok(())
        } else {
            Err(RestoreError::Twice(key))
        }
    }

    /// Puts a message into its queue; gives it back if there is no session of the name.
    fn restore_queued(
        &mut self,
        client: ClientId,
        place: QueuePlace,
        row: QueuedRow,
    ) -> Result<Option<(ClientId, QueuePlace, QueuedRow)>, RestoreError> {
        let Some(session) = self.sessions.get_mut(&client) else {
            return Ok(Some((client, place, row)));
        };
        let Some(state) = &mut session.state else {
            return Err(RestoreError::NoSession { client, place });
        };
        if !is_queued(place, &row) {
            return Err(RestoreError::Queued { client, place });
        }
        self.payloads.restore(row.message);
        state.queue.restore(place, row);
        Ok(None)
    }

    /// Says whether it is the first of its client.
    fn restore_session(&mut self, client: ClientId, row: SessionRow) -> bool {
        if let Some(persistent) = &row.persistent {
            for (filter, subscription) in &persistent.subscriptions {
                self.trie.insert(filter, client.clone(), *subscription);
            }
        }
        self.sessions
            .insert(client, Box::new(Session::restore(row)))
            .is_none()
    }

    /// Takes the numbers from which the state goes on; every other row has lower ones.
    fn restore_head(&mut self, head: HeadRow) -> Result<(), RestoreError> {
        let given = |key, number, next| match number < next {
            true => Ok(()),
            false => Err(RestoreError::NotGiven { key, number, next }),
        };
        if let Some(id) = self.payloads.last() {
            given(RowKey::Message(id), id.0, head.next_message)?;
        }
        if let Some(id) = self.outbox.last_will() {
            given(RowKey::Will(id), id.0, head.will_ids + 1)?;
        }
        for (filter, version, _) in self.outbox.routes() {
            given(
                RowKey::Route(filter.clone()),
                version,
                head.route_version + 1,
            )?;
        }
        for (client, session) in &self.sessions {
            given(
                RowKey::Session(client.clone()),
                session.epoch.0,
                head.index + 1,
            )?;
        }
        self.index = head.index;
        self.time = head.time;
        self.payloads.count_from(head.next_message);
        self.outbox.count_from(head.route_version, head.will_ids);
        self.gone = head.gone;
        self.counters = head.counters;
        // What is held now is counted by the rows that say so.
        self.counters.queue_messages = 0;
        self.counters.queue_bytes = 0;
        Ok(())
    }

    /// Derives what no row says.
    fn restored(&mut self) -> Result<(), RestoreError> {
        for (client, session) in &mut self.sessions {
            let is_bound = session.is_bound(client);
            if let Some(state) = &mut session.state {
                let key = |place| RowKey::Queued(client.clone(), place);
                state.queue.restored(key)?;
                self.counters.queue_messages += state.queue.len() as u64;
                self.counters.queue_bytes += state.queue.bytes() as u64;
                for (filter, _) in &state.subscriptions {
                    let owner = self.templates.owner_of_filter(filter);
                    let is_owned = is_bound && owner == Some(client.as_str());
                    if !is_owned && !self.outbox.is_wanted(filter) {
                        return Err(RestoreError::Route(filter.clone()));
                    }
                }
            }
            session.deadline = session.next_deadline();
            if let Some(at) = session.deadline {
                self.deadlines.insert((at, client.clone()));
            }
            if session.is_connected() {
                self.owners.add(session.node_epoch);
            }
        }
        for (filter, _, is_wanted) in self.outbox.routes() {
            if is_wanted && !self.needs_route(filter) {
                return Err(RestoreError::Route(filter.clone()));
            }
        }
        Ok(())
    }
}

pub(super) fn is_queued(place: QueuePlace, row: &QueuedRow) -> bool {
    let is_held = matches!(place, QueuePlace::Held(_));
    let may_be_released = row.qos == QoS::ExactlyOnce && !is_held;
    is_held == row.held_topic.is_some()
        && row.qos != QoS::AtMostOnce
        && (may_be_released || !row.released)
}

impl Session {
    fn restore(row: SessionRow) -> Self {
        Self {
            identity: row.identity,
            incarnation: row.incarnation,
            epoch: row.epoch,
            connection: row.connection,
            node_epoch: row.node_epoch,
            disconnected: row.disconnected,
            session_present: row.session_present,
            expiry_s: row.expiry_s,
            receive_maximum: row.receive_maximum,
            will: row.will,
            deadline: None,
            dup_end: row.dup_end,
            is_ready: false,
            is_marked: false,
            is_stored: true,
            state: row.persistent.map(|row| Box::new(State::restore(row))),
        }
    }
}

impl State {
    fn restore(row: PersistentRow) -> Self {
        let mut state = Self {
            subscriptions: row.subscriptions,
            ..Self::default()
        };
        state.q2.restore(row.q2_open, row.q2_next);
        let replays = row.replays.into_iter();
        state.replays = replays
            .map(|(filter, until)| PendingReplay { filter, until })
            .collect();
        let counts = (row.next_seq, row.sent_end, row.next_held);
        state.queue.count_from(counts);
        state
    }
}
