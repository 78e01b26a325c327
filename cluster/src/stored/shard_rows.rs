//! The state file of a shard: one row of the streams, the rows of the sessions.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cluster_core::{EpochView, Next, NodeEpoch};
use mqtt::{ClientId, Filter, Topic};
use session::{
    Counters, GroupRow, GroupsRow, HeadRow, MembershipState, Message, MessageId, OriginKind,
    OriginRow, PersistentRow, QueuePlace, QueuedRow, RetainedRow, RouteState, RowKey, Seq,
    SessionRow, Share, WallMs, WillId, WillRow,
};
use storage::state::{Changes, Row};

use super::row::{KeyPart, damaged, decode_shared_value, decode_value, encode_value, whole_key};
use super::wire::{Reader, Sink, Stored, Why, choice, record, wrapped};
use crate::Damaged;

/// The receiving ends of the streams; its key is empty.
pub(crate) const STREAMS_KIND: u8 = 1;
/// See [`RowKey::Head`]; its key is empty. Kinds rise as the sessions want their rows.
const HEAD_KIND: u8 = 2;
const SESSION_KIND: u8 = 3;
const QUEUED_KIND: u8 = 4;
/// Payloads: not read at a start.
pub(crate) const MESSAGE_KIND: u8 = 5;
const RETAINED_KIND: u8 = 6;
const ORIGIN_KIND: u8 = 7;
const WILL_KIND: u8 = 8;
const ROUTE_KIND: u8 = 9;
/// See [`RowKey::Groups`]; its key is empty.
const GROUPS_KIND: u8 = 10;
const MEMBERSHIP_KIND: u8 = 11;
const GROUP_KIND: u8 = 12;
const MEMBER_KIND: u8 = 13;
const GROUP_QUEUED_KIND: u8 = 14;

/// Name of the state in errors.
pub(crate) const NAME: &str = "a shard";

/// The value of the row of the streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamsRow {
    pub(crate) epochs: EpochView,
    pub(crate) streams: BTreeMap<NodeEpoch, Next>,
    /// What the wall clock showed at the last entry, if one was believed.
    pub(crate) wall: Option<cluster_core::WallMs>,
}

record!(StreamsRow {
    epochs,
    streams,
    wall
});
record!(Next { n, attempt });

/// Where a queued message lies in the state file of its shard: kind and key.
pub fn message_row_key(id: MessageId) -> (u8, Vec<u8>) {
    (MESSAGE_KIND, id.0.to_be_bytes().to_vec())
}

/// Reads the value of such a row. The message's payload is a slice of it.
///
/// # Errors
/// The value is damaged or of an unknown version.
pub fn decode_message(id: MessageId, value: &Bytes) -> Result<Message, Damaged> {
    decode_shared_value(value).map_err(|why| {
        let (kind, key) = message_row_key(id);
        let key = Bytes::from(key);
        let value = Bytes::new();
        damaged(NAME, &Row { kind, key, value }, &why)
    })
}

/// Notes that a row of the sessions is written.
pub(crate) fn put_row(row: &session::Row, changes: &mut Changes) {
    let (kind, key) = row_key(&name(row));
    changes.put(kind, &key, &encode_row(row));
}

/// Notes that a row of the sessions is gone.
pub(crate) fn delete_row(key: &RowKey, changes: &mut Changes) {
    let (kind, key) = row_key(key);
    changes.delete(kind, &key);
}

/// The bytes of a row's value.
pub(crate) fn encode_row(row: &session::Row) -> Vec<u8> {
    match row {
        session::Row::Head(head) => encode_value(head),
        session::Row::Session(_, session) => encode_value(session),
        session::Row::Queued(_, _, queued) => encode_value(queued),
        session::Row::Message(_, message) => encode_value(message),
        session::Row::Retained(_, retained) => encode_value(retained),
        session::Row::Origin(_, _, origin) => encode_value(origin),
        session::Row::Will(will) => encode_value(will),
        session::Row::Route(_, state) => encode_value(state),
        session::Row::Groups(groups) => encode_value(groups),
        session::Row::Membership(_, _, state) => encode_value(state),
        session::Row::Group(_, group) => encode_value(group),
        session::Row::Member(_, _, member) => encode_value(member),
        session::Row::GroupQueued(_, _, queued) => encode_value(queued),
    }
}

/// The name of a row.
pub(crate) fn name(row: &session::Row) -> RowKey {
    match row {
        session::Row::Head(_) => RowKey::Head,
        session::Row::Session(client, _) => RowKey::Session(client.clone()),
        session::Row::Queued(client, place, _) => RowKey::Queued(client.clone(), *place),
        session::Row::Message(id, _) => RowKey::Message(*id),
        session::Row::Retained(topic, _) => RowKey::Retained(topic.clone()),
        session::Row::Origin(client, kind, _) => RowKey::Origin(client.clone(), *kind),
        session::Row::Will(will) => RowKey::Will(will.id),
        session::Row::Route(filter, _) => RowKey::Route(filter.clone()),
        session::Row::Groups(_) => RowKey::Groups,
        session::Row::Membership(client, filter, _) => {
            RowKey::Membership(client.clone(), filter.clone())
        }
        session::Row::Group(filter, _) => RowKey::Group(filter.clone()),
        session::Row::Member(filter, client, _) => RowKey::Member(filter.clone(), client.clone()),
        session::Row::GroupQueued(filter, place, _) => RowKey::GroupQueued(filter.clone(), *place),
    }
}

/// Reads a row of the sessions.
pub(crate) fn decode_row(row: &Row) -> Result<session::Row, Why> {
    let key = &row.key[..];
    let value = &row.value;
    Ok(match row.kind {
        HEAD_KIND => {
            whole_key(key, |_| Ok(()))?;
            session::Row::Head(decode_value(value)?)
        }
        SESSION_KIND => {
            let client = whole_key(key, ClientId::get_key)?;
            session::Row::Session(client, decode_value(value)?)
        }
        QUEUED_KIND => {
            let (client, place) = whole_key(key, |from| {
                Ok((ClientId::get_key(from)?, QueuePlace::get_key(from)?))
            })?;
            session::Row::Queued(client, place, decode_value(value)?)
        }
        MESSAGE_KIND => {
            let id = MessageId(whole_key(key, u64::get_key)?);
            session::Row::Message(id, decode_shared_value(value)?)
        }
        RETAINED_KIND => {
            let topic = whole_key(key, Topic::get_key)?;
            session::Row::Retained(topic, decode_shared_value(value)?)
        }
        ORIGIN_KIND => {
            let (client, kind) = whole_key(key, |from| {
                Ok((ClientId::get_key(from)?, OriginKind::get(from)?))
            })?;
            session::Row::Origin(client, kind, decode_value(value)?)
        }
        WILL_KIND => {
            let id = WillId(whole_key(key, u64::get_key)?);
            let will: WillRow = decode_value(value)?;
            if will.id != id {
                return Err(Why::State(format!("it holds will {}", will.id)));
            }
            session::Row::Will(will)
        }
        ROUTE_KIND => {
            let filter = whole_key(key, Filter::get_key)?;
            session::Row::Route(filter, decode_value(value)?)
        }
        GROUPS_KIND => {
            whole_key(key, |_| Ok(()))?;
            session::Row::Groups(decode_value(value)?)
        }
        MEMBERSHIP_KIND => {
            let (client, filter) = whole_key(key, |from| {
                Ok((ClientId::get_key(from)?, Filter::get_key(from)?))
            })?;
            session::Row::Membership(client, shared(filter)?, decode_value(value)?)
        }
        GROUP_KIND => {
            let filter = whole_key(key, Filter::get_key)?;
            session::Row::Group(shared(filter)?, decode_value(value)?)
        }
        MEMBER_KIND => {
            let (filter, client) = whole_key(key, |from| {
                Ok((Filter::get_key(from)?, ClientId::get_key(from)?))
            })?;
            session::Row::Member(shared(filter)?, client, decode_value(value)?)
        }
        GROUP_QUEUED_KIND => {
            let (filter, place) = whole_key(key, |from| {
                Ok((Filter::get_key(from)?, QueuePlace::get_key(from)?))
            })?;
            session::Row::GroupQueued(shared(filter)?, place, decode_value(value)?)
        }
        tag => {
            return Err(Why::Tag {
                what: "kind of row",
                tag,
            });
        }
    })
}

/// A group is named by a shared filter.
fn shared(filter: Filter) -> Result<Filter, Why> {
    match filter.shared() {
        Some(_) => Ok(filter),
        None => Err(Why::Text(format!("filter {filter} is not shared"))),
    }
}

/// Kind and key of a row.
pub(crate) fn row_key(key: &RowKey) -> (u8, Vec<u8>) {
    let mut bytes = Vec::with_capacity(32);
    let kind = match key {
        RowKey::Head => HEAD_KIND,
        RowKey::Session(client) => {
            client.put_key(&mut bytes);
            SESSION_KIND
        }
        RowKey::Queued(client, place) => {
            client.put_key(&mut bytes);
            place.put_key(&mut bytes);
            QUEUED_KIND
        }
        RowKey::Message(id) => return message_row_key(*id),
        RowKey::Retained(topic) => {
            topic.put_key(&mut bytes);
            RETAINED_KIND
        }
        RowKey::Origin(client, kind) => {
            client.put_key(&mut bytes);
            kind.put(&mut bytes);
            ORIGIN_KIND
        }
        RowKey::Will(id) => {
            id.0.put_key(&mut bytes);
            WILL_KIND
        }
        RowKey::Route(filter) => {
            filter.put_key(&mut bytes);
            ROUTE_KIND
        }
        RowKey::Groups => GROUPS_KIND,
        RowKey::Membership(client, filter) => {
            client.put_key(&mut bytes);
            filter.put_key(&mut bytes);
            MEMBERSHIP_KIND
        }
        RowKey::Group(filter) => {
            filter.put_key(&mut bytes);
            GROUP_KIND
        }
        RowKey::Member(filter, client) => {
            filter.put_key(&mut bytes);
            client.put_key(&mut bytes);
            MEMBER_KIND
        }
        RowKey::GroupQueued(filter, place) => {
            filter.put_key(&mut bytes);
            place.put_key(&mut bytes);
            GROUP_QUEUED_KIND
        }
    };
    (kind, bytes)
}

const SEQUENCED_TAG: u8 = 1;
const HELD_TAG: u8 = 2;

impl KeyPart for QueuePlace {
    fn put_key(&self, out: &mut Vec<u8>) {
        match self {
            Self::Sequenced(seq) => {
                out.push(SEQUENCED_TAG);
                seq.0.put_key(out);
            }
            Self::Held(n) => {
                out.push(HELD_TAG);
                n.put_key(out);
            }
        }
    }

    fn get_key(from: &mut Reader<'_>) -> Result<Self, Why> {
        match u8::get(from)? {
            SEQUENCED_TAG => u64::get_key(from).map(|seq| Self::Sequenced(Seq(seq))),
            HELD_TAG => u64::get_key(from).map(Self::Held),
            tag => Err(Why::Tag {
                what: "place in a queue",
                tag,
            }),
        }
    }
}

wrapped!(MessageId);

record!(HeadRow {
    index,
    time,
    next_message,
    route_version,
    will_ids,
    gone,
    counters,
});
record!(SessionRow {
    identity,
    incarnation,
    epoch,
    connection,
    node_epoch,
    disconnected,
    session_present,
    expiry_s,
    receive_maximum,
    will,
    dup_end,
    persistent,
});
record!(PersistentRow {
    subscriptions,
    q2_open,
    q2_next,
    replays,
    next_seq,
    sent_end,
    next_held,
});
record!(QueuedRow {
    message,
    bytes,
    expiry,
    qos,
    retain,
    ids,
    released,
    held_topic,
});
record!(RetainedRow { content, stamp });
choice!(Result<Arc<Message>, WallMs>, "content of a topic" {
    0 => Err(deleted),
    1 => Ok(message),
});
record!(OriginRow {
    incarnation,
    floor,
    seen,
    used,
});
record!(GroupsRow {
    memberships,
    applied,
});
record!(MembershipState {
    share,
    version,
    pending,
});
record!(Share {
    subscription,
    joined,
});
record!(GroupRow {
    incarnation,
    next_seq,
    sent_end,
});
record!(RouteState {
    version,
    wanted,
    pending,
});
record!(WillRow {
    id,
    client,
    epoch,
    message,
});

/// Totals only: what is held now is counted anew at a start.
impl Stored for Counters {
    fn put(&self, out: &mut impl Sink) {
        let Self {
            queued,
            dropped_full,
            dropped_expired,
            dropped_session_end,
            repeats,
            retained_full,
            replays_missed,
            queue_bytes: _,
            queue_messages: _,
            retained_bytes: _,
            retained_messages: _,
            outbox_routes: _,
            outbox_wills: _,
            connected: _,
            groups: _,
            group_members: _,
            outbox_memberships: _,
        } = self;
        queued.put(out);
        dropped_full.put(out);
        dropped_expired.put(out);
        dropped_session_end.put(out);
        repeats.put(out);
        retained_full.put(out);
        replays_missed.put(out);
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Why> {
        Ok(Self {
            queued: u64::get(from)?,
            dropped_full: u64::get(from)?,
            dropped_expired: u64::get(from)?,
            dropped_session_end: u64::get(from)?,
            repeats: u64::get(from)?,
            retained_full: u64::get(from)?,
            replays_missed: u64::get(from)?,
            ..Self::default()
        })
    }
}
