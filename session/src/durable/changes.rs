//! Which rows changed since they were taken last.

use std::collections::BTreeSet;

use mqtt::ClientId;

use super::session::{Session, State};
use super::{Durable, HeadRow, PersistentRow, QueuePlace, Row, RowKey, SessionRow};

/// Sessions that are to be looked at, and rows of those that ended. Bounded by what the entries
/// between two flushes change.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Those that are marked ([`Session::is_marked`]).
    sessions: BTreeSet<ClientId>,
    /// Sessions that had a row, with the rows of their queues.
    ended: Vec<(ClientId, Vec<QueuePlace>)>,
    /// Whether anything was applied.
    is_applied: bool,
}

impl Changes {
    pub(super) fn applied(&mut self) {
        self.is_applied = true;
    }

    /// A session changed.
    pub(super) fn mark(&mut self, client: &ClientId, session: &mut Session) {
        if !session.is_marked {
            session.is_marked = true;
            self.sessions.insert(client.clone());
        }
    }

    /// A session has ended.
    pub(super) fn ended(&mut self, client: &ClientId, session: &Session) {
        if session.is_marked {
            self.sessions.remove(client);
        }
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
        if let Some(session) = self.sessions.get_mut(client) {
            self.changes.mark(client, session);
        }
    }

    /// Takes the rows that changed since the last call, as they are now, in order of their keys,
    /// each once; `None` deletes. They are to be stored together. Their messages stay in memory
    /// until [`Self::handle_flushed`].
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
            let session = self.sessions.get_mut(&client);
            let session = session.expect("an ended session is marked no longer");
            session.is_marked = false;
            session.is_stored = true;
            take_session(&client, session, &mut rows);
        }
        let (put, deleted) = self.payloads.take_changes();
        let message = |(id, message)| (RowKey::Message(id), Some(Row::Message(id, message)));
        rows.extend(put.into_iter().map(message));
        rows.extend(deleted.into_iter().map(|id| (RowKey::Message(id), None)));
        rows.extend(self.retained.take_changes());
        rows.extend(self.origins.take_changes());
        rows.extend(self.outbox.take_changes());
        rows.extend(self.groups.take_changes(self.shares.version()));
        rows.extend(self.shares.take_changes());
        // What ended may have begun again under the same name: the later row holds.
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        rows.dedup_by(|later, kept| {
            let is_same = later.0 == kept.0;
            if is_same {
                std::mem::swap(later, kept);
            }
            is_same
        });
        rows
    }

    /// Everything that [`Self::take_rows`] gave so far is durable.
    pub fn handle_flushed(&mut self) {
        self.payloads.handle_flushed();
    }

    /// Bytes ([`crate::Message::bytes`]) of queued messages that are in no durable row yet, and
    /// therefore in memory.
    pub fn unflushed_bytes(&self) -> usize {
        self.payloads.unflushed_bytes()
    }

    /// Bytes of queued messages that are kept in memory although they are in a durable row.
    pub fn cached_bytes(&self) -> usize {
        self.payloads.cached_bytes()
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
}
