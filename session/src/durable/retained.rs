//! The retained messages of the topics that hash here.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use mqtt::{Filter, Topic, TopicTree};

use super::changed::Changed;
use super::{Limits, RetainedRow, RowKey, rows as stored};
use crate::{Message, Retain, Retained, Stamp, WallMs};

/// Rows removed by one `ExpireRetained`.
const EXPIRED_PER_ENTRY: usize = 256;

/// Retained messages, and for a while the stamps of deleted ones.
#[derive(Debug, Default)]
pub(super) struct RetainedMessages {
    rows: TopicTree<Row>,
    messages: usize,
    bytes: usize,
    expiries: BTreeSet<(WallMs, Topic)>,
    tombstones: BTreeSet<(WallMs, Topic)>,
    /// Rows that changed since they were taken last.
    changed: Changed<Topic>,
}

#[derive(Debug)]
struct Row {
    content: Content,
    stamp: Stamp,
}

#[derive(Debug)]
enum Content {
    Message(Arc<Message>),
    Deleted(WallMs),
}

impl RetainedMessages {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.messages
    }

    /// Replaces or deletes a topic's message unless the same publisher's stamp is lower.
    pub(super) fn retain(&mut self, retain: &Retain, time: WallMs, limits: &Limits) -> Retained {
        self.forget_tombstones(time, limits);
        let mut held = 0;
        let mut known = false;
        if let Some(row) = self.rows.get(&retain.topic) {
            if is_older(&retain.stamp, &row.stamp) {
                return Retained::Older;
            }
            if let Content::Message(message) = &row.content {
                held = message.bytes();
                known = true;
            }
        }
        if let Some(message) = &retain.message {
            let fits = self.bytes - held + message.bytes() <= limits.retained_bytes;
            if !fits || (!known && self.messages >= limits.retained_messages) {
                return Retained::Full;
            }
        }
        self.remove(&retain.topic);
        self.insert(retain, time);
        Retained::Stored
    }

    /// Live messages that match, in order of their topics, of those behind `after`.
    pub(super) fn matching(
        &self,
        filter: &Filter,
        after: Option<&Topic>,
        limit: usize,
        now: WallMs,
    ) -> Vec<Arc<Message>> {
        let mut found = Vec::new();
        if limit == 0 {
            return found;
        }
        let is_behind = |topic: &Topic| after.is_none_or(|after| topic.levels().gt(after.levels()));
        let _stopped_at_limit = self.rows.matching(filter, |topic, row| {
            if let Content::Message(message) = &row.content
                && is_behind(topic)
                && !message.is_expired(now)
            {
                found.push(Arc::clone(message));
            }
            if found.len() < limit {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        found
    }

    /// The live message of a topic.
    pub(super) fn get(&self, topic: &Topic, now: WallMs) -> Option<Arc<Message>> {
        match &self.rows.get(topic)?.content {
            Content::Message(message) if !message.is_expired(now) => Some(Arc::clone(message)),
            _ => None,
        }
    }

    pub(super) fn next_expiry(&self) -> Option<WallMs> {
        self.expiries.first().map(|(at, _)| *at)
    }

    /// Removes expired messages, up to [`EXPIRED_PER_ENTRY`].
    pub(super) fn expire(&mut self, time: WallMs) {
        for _ in 0..EXPIRED_PER_ENTRY {
            match self.expiries.first() {
                Some((at, topic)) if *at <= time => {
                    let topic = topic.clone();
                    self.remove(&topic);
                }
                _ => return,
            }
        }
    }

    /// Takes the rows that changed since the last call.
    pub(super) fn take_changes(&mut self) -> Vec<(RowKey, Option<stored::Row>)> {
        let rows = &self.rows;
        let changes = self.changed.take(|topic| {
            let row = rows.get(topic)?;
            let content = match &row.content {
                Content::Message(message) => Ok(Arc::clone(message)),
                Content::Deleted(at) => Err(*at),
            };
            let stamp = row.stamp.clone();
            let row = RetainedRow { content, stamp };
            Some(stored::Row::Retained(topic.clone(), row))
        });
        let keyed = |(topic, row)| (RowKey::Retained(topic), row);
        changes.into_iter().map(keyed).collect()
    }

    /// Takes a stored row back; false, and nothing is changed, if the topic has one already.
    pub(super) fn restore(&mut self, topic: Topic, row: RetainedRow) -> bool {
        if self.rows.get(&topic).is_some() {
            return false;
        }
        let content = match row.content {
            Ok(message) => Content::Message(message),
            Err(at) => Content::Deleted(at),
        };
        self.put(topic, content, row.stamp);
        true
    }

    fn insert(&mut self, retain: &Retain, time: WallMs) {
        let topic = retain.topic.clone();
        let content = match &retain.message {
            Some(message) => Content::Message(Arc::clone(message)),
            None => Content::Deleted(time),
        };
        self.changed.mark(topic.clone(), false);
        self.put(topic, content, retain.stamp.clone());
    }

    fn put(&mut self, topic: Topic, content: Content, stamp: Stamp) {
        match &content {
            Content::Message(message) => {
                self.messages += 1;
                self.bytes += message.bytes();
                if let Some(at) = message.expiry {
                    self.expiries.insert((at, topic.clone()));
                }
            }
            Content::Deleted(at) => {
                self.tombstones.insert((*at, topic.clone()));
            }
        }
        self.rows.insert(topic, Row { content, stamp });
    }

    fn remove(&mut self, topic: &Topic) {
        let Some(row) = self.rows.remove(topic) else {
            return;
        };
        self.changed.mark(topic.clone(), true);
        match row.content {
            Content::Message(message) => {
                self.messages -= 1;
                self.bytes -= message.bytes();
                if let Some(at) = message.expiry {
                    self.expiries.remove(&(at, topic.clone()));
                }
            }
            Content::Deleted(at) => {
                self.tombstones.remove(&(at, topic.clone()));
            }
        }
    }

    fn forget_tombstones(&mut self, time: WallMs, limits: &Limits) {
        while let Some((deleted, topic)) = self.tombstones.first() {
            let old = deleted.plus_s(limits.tombstone_s) <= time;
            if !old && self.tombstones.len() < limits.tombstones {
                return;
            }
            let topic = topic.clone();
            self.remove(&topic);
        }
    }
}

fn is_older(new: &Stamp, present: &Stamp) -> bool {
    let same = new.publisher.is_some() && new.publisher == present.publisher;
    same && (new.epoch, new.seq) < (present.epoch, present.seq)
}
