//! Which rows changed since they were taken last, and a state made of rows.

use mqtt::ClientId;

use super::session::{Session, State};
use super::{
    Durable, HeadRow, Limits, PersistentRow, QueuePlace, RestoreError, Row, RowKey, SessionRow,
};
use crate::WallMs;

/// Sessions that are to be looked at, and rows of those that ended. Bounded by what the entries
/// between two flushes change.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Marked once each ([`Session::is_marked`]).
    sessions: Vec<ClientId>,
    /// Sessions that had a row, with the rows of their queues.
    ended: Vec<(ClientId, Vec<QueuePlace>)>,
    /// Whether anything was applied.
    is_applied: bool,
}

impl Changes {
    pub(super) fn applied(&mut self) {
        self.is_applied = true;
    }

    /// A session has ended.
    pub(super) fn ended(&mut self, client: &ClientId, session: &Session) {
        if session.is_stored {
            let queue = session.state.as_ref().map(|state| &state.queue);
            let places = queue.map(super::queue::Queue::stored_places);
            self.ended
                .push((client.clone(), places.unwrap_or_default()));
        }
    }
}

impl Durable {
    /// A session changed.
    pub(super) fn mark(&mut self, client: &ClientId) {
        if let Some(session) = self.sessions.get_mut(client)
            && !session.is_marked
        {
            session.is_marked = true;
            self.changes.sessions.push(client.clone());
        }
    }

    /// Takes the rows that changed since the last call, as they are now; `None` deletes. They are
    /// to be stored together and in this order: what ended may have begun again under the same
    /// name. Their messages stay in memory until [`Self::handle_flushed`].
    pub fn take_rows(&mut self) -> Vec<(RowKey, Option<Row>)> {
        let mut rows = Vec::new();
        if !std::mem::take(&mut self.changes.is_applied) {
            return rows;
        }
        rows.push((RowKey::Head, Some(Row::Head(self.head_row()))));
        for (client, places) in std::mem::take(&mut self.changes.ended) {
            let queued = |place| (RowKey::Queued(client.clone(), place), None);
            rows.extend(places.into_iter().map(queued));
            rows.push((RowKey::Session(client), None));
        }
        for client in std::mem::take(&mut self.changes.sessions) {
            if let Some(session) = self.sessions.get_mut(&client)
                && std::mem::take(&mut session.is_marked)
            {
                session.is_stored = true;
                take_session(&client, session, &mut rows);
            }
        }
        let (put, deleted) = self.payloads.take_changes();
        let message = |(id, message)| (RowKey::Message(id), Some(Row::Message(id, message)));
        rows.extend(put.into_iter().map(message));
        rows.extend(deleted.into_iter().map(|id| (RowKey::Message(id), None)));
        rows.extend(self.retained.take_changes());
        rows.extend(self.origins.take_changes());
        rows.extend(self.outbox.take_changes());
        rows
    }

    /// What the last [`Self::take_rows`] gave is durable.
    pub fn handle_flushed(&mut self) {
        self.payloads.handle_flushed();
    }

    /// Bytes ([`crate::Message::bytes`]) of queued messages that are in no durable row yet, and
    /// therefore in memory.
    pub fn unflushed_bytes(&self) -> usize {
        self.payloads.unflushed_bytes()
    }

    /// Makes the state of its rows, which come in the order of [`RowKey`]; of none, the state
    /// before any entry. Rows of messages are not needed: their payloads are read when they are
    /// delivered.
    ///
    /// # Errors
    /// When the rows contradict each other.
    pub fn restore(
        limits: Limits,
        rows: impl IntoIterator<Item = Row>,
    ) -> Result<Self, RestoreError> {
        let mut durable = Self::new(limits);
        for row in rows {
            durable.restore_row(row)?;
        }
        durable.restored();
        Ok(durable)
    }

    fn restore_row(&mut self, row: Row) -> Result<(), RestoreError> {
        match row {
            Row::Head(head) => self.restore_head(head),
            Row::Session(client, row) => self.restore_session(client, *row)?,
            Row::Queued(client, place, row) => {
                let session = self.sessions.get_mut(&client);
                let state = session.and_then(|session| session.state.as_mut());
                let Some(state) = state else {
                    return Err(RestoreError::NoSession { client, place });
                };
                if matches!(place, QueuePlace::Held(_)) && row.held_topic.is_none() {
                    let what = format!("held message {place:?} of {client:?} has no topic");
                    return Err(RestoreError::Contradiction(what));
                }
                self.payloads.restore(row.message);
                state.queue.restore(place, row);
            }
            Row::Message(..) => {}
            Row::Retained(topic, row) => self.retained.restore(topic, row),
            Row::Origin(client, kind, row) => self.origins.restore(client, kind, row),
            Row::Will(row) => self.outbox.restore_will(row),
            Row::Route(filter, state) => self.outbox.restore_route(filter, state),
        }
        Ok(())
    }

    fn head_row(&self) -> HeadRow {
        let (route_version, will_ids) = self.outbox.counts();
        HeadRow {
            index: self.index,
            time: self.time,
            next_message: self.payloads.next(),
            route_version,
            will_ids,
            gone: self.gone.clone(),
            counters: self.counters,
        }
    }

    fn restore_head(&mut self, head: HeadRow) {
        self.index = head.index;
        self.time = head.time;
        self.payloads.count_from(head.next_message);
        self.outbox.count_from(head.route_version, head.will_ids);
        self.gone = head.gone;
        self.counters = head.counters;
        // What is held now is counted by the rows that say so.
        self.counters.queue_messages = 0;
        self.counters.queue_bytes = 0;
    }

    fn restore_session(&mut self, client: ClientId, row: SessionRow) -> Result<(), RestoreError> {
        if self.sessions.contains_key(&client) {
            let what = format!("session {client:?} is there twice");
            return Err(RestoreError::Contradiction(what));
        }
        if let Some(persistent) = &row.persistent {
            for (filter, subscription) in &persistent.subscriptions {
                self.trie.insert(filter, client.clone(), *subscription);
            }
        }
        self.sessions.insert(client, Session::restore(row));
        Ok(())
    }

    /// Derives what no row says.
    fn restored(&mut self) {
        for (client, session) in &mut self.sessions {
            if let Some(state) = &mut session.state {
                state.queue.restored();
                self.counters.queue_messages += state.queue.len() as u64;
                self.counters.queue_bytes += state.queue.bytes() as u64;
            }
            session.deadline = session.next_deadline();
            if let Some(at) = session.deadline {
                self.deadlines.insert((at, client.clone()));
            }
            if session.is_connected() {
                session.is_ready = session.state.is_some();
                self.owners.add(session.node_epoch);
            }
            if session.is_ready {
                self.ready.push_back(client.clone());
            }
        }
    }
}

fn take_session(client: &ClientId, session: &mut Session, rows: &mut Vec<(RowKey, Option<Row>)>) {
    let row = Row::Session(client.clone(), Box::new(session.row()));
    rows.push((RowKey::Session(client.clone()), Some(row)));
    let Some(state) = &mut session.state else {
        return;
    };
    let (put, deleted) = state.queue.take_changes();
    for place in deleted {
        rows.push((RowKey::Queued(client.clone(), place), None));
    }
    for (place, row) in put {
        let key = RowKey::Queued(client.clone(), place);
        rows.push((key, Some(Row::Queued(client.clone(), place, row))));
    }
}

impl Session {
    fn row(&self) -> SessionRow {
        SessionRow {
            identity: self.identity.clone(),
            incarnation: self.incarnation,
            epoch: self.epoch,
            connection: self.connection,
            node_epoch: self.node_epoch,
            disconnected: self.disconnected,
            session_present: self.session_present,
            expiry_s: self.expiry_s,
            receive_maximum: self.receive_maximum,
            will: self.will.clone(),
            dup_end: self.dup_end,
            persistent: self.state.as_ref().map(|state| state.row()),
        }
    }

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
            deadline: None::<WallMs>,
            dup_end: row.dup_end,
            is_ready: false,
            is_marked: false,
            is_stored: true,
            state: row.persistent.map(|row| Box::new(State::restore(row))),
        }
    }
}

impl State {
    fn row(&self) -> PersistentRow {
        let (next_seq, sent_end, next_held) = self.queue.counts();
        let (q2_open, q2_next) = self.q2.row();
        let replays = self.replays.iter();
        PersistentRow {
            subscriptions: self.subscriptions.clone(),
            q2_open,
            q2_next,
            replays: replays.map(|one| (one.filter.clone(), one.until)).collect(),
            next_seq,
            sent_end,
            next_held,
        }
    }

    fn restore(row: PersistentRow) -> Self {
        let mut state = Self {
            subscriptions: row.subscriptions,
            ..Self::default()
        };
        state.q2.restore(row.q2_open, row.q2_next);
        let replays = row.replays.into_iter();
        state.replays = replays
            .map(|(filter, until)| super::session::PendingReplay { filter, until })
            .collect();
        let counts = (row.next_seq, row.sent_end, row.next_held);
        state.queue.count_from(counts);
        state
    }
}
