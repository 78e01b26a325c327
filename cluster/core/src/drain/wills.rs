//! The wills that a leader is carrying out.

use std::collections::{BTreeMap, BTreeSet};

use super::WillKey;
use crate::BootMs;

/// Rows of the will outbox, each in one place, and when each is next to be moved.
#[derive(Clone, Debug)]
pub(super) struct Wills<W> {
    rows: BTreeMap<WillKey, (W, Place)>,
    /// In their order: targets refuse a client's will once they have a later one of it.
    unpublished: BTreeMap<WillKey, BootMs>,
    published: BTreeSet<(BootMs, WillKey)>,
    publishing: usize,
}

/// Where a will stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// To be fanned out from then on.
    Unpublished(BootMs),
    /// Its obligations are not all settled.
    Publishing,
    /// To be proposed as done from then on.
    Published(BootMs),
}

impl<W: Clone> Wills<W> {
    pub(super) fn new() -> Self {
        Self {
            rows: BTreeMap::new(),
            unpublished: BTreeMap::new(),
            published: BTreeSet::new(),
            publishing: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn publishing(&self) -> usize {
        self.publishing
    }

    /// Takes a will that is not known yet.
    pub(super) fn add(&mut self, key: WillKey, row: W) {
        if self.rows.contains_key(&key) {
            return;
        }
        let place = Place::Unpublished(BootMs(0));
        self.rows.insert(key, (row, place));
        self.enter(key, place);
    }

    /// Moves a will that is being published; one elsewhere stays.
    pub(super) fn end_publishing(&mut self, key: WillKey, next: Place) {
        if let Some((_, place @ Place::Publishing)) = self.rows.get_mut(&key) {
            *place = next;
            self.publishing -= 1;
            self.enter(key, next);
        }
    }

    pub(super) fn remove(&mut self, key: WillKey) {
        if let Some((_, place)) = self.rows.remove(&key) {
            self.leave(key, place);
        }
    }

    /// The next will to fan out, if it may be now; it counts as being published. One that is tried again
    /// later holds those after it back.
    pub(super) fn take_unpublished(&mut self, now: BootMs) -> Option<(WillKey, W)> {
        let (&key, &at) = self.unpublished.first_key_value()?;
        if at > now {
            return None;
        }
        let (row, place) = self.rows.get_mut(&key)?;
        *place = Place::Publishing;
        let row = row.clone();
        self.leave(key, Place::Unpublished(at));
        self.enter(key, Place::Publishing);
        Some((key, row))
    }

    /// A will to propose as done now; it comes again at `again`.
    pub(super) fn take_published(&mut self, now: BootMs, again: BootMs) -> Option<WillKey> {
        let &(at, key) = self.published.first()?;
        if at > now {
            return None;
        }
        let (_, place) = self.rows.get_mut(&key)?;
        *place = Place::Published(again);
        self.leave(key, Place::Published(at));
        self.enter(key, Place::Published(again));
        Some(key)
    }

    pub(super) fn unpublished_at(&self) -> Option<BootMs> {
        self.unpublished.first_key_value().map(|(_, at)| *at)
    }

    pub(super) fn published_at(&self) -> Option<BootMs> {
        self.published.first().map(|(at, _)| *at)
    }

    fn enter(&mut self, key: WillKey, place: Place) {
        match place {
            Place::Unpublished(at) => {
                self.unpublished.insert(key, at);
            }
            Place::Publishing => self.publishing += 1,
            Place::Published(at) => {
                self.published.insert((at, key));
            }
        }
    }

    fn leave(&mut self, key: WillKey, place: Place) {
        match place {
            Place::Unpublished(_) => {
                self.unpublished.remove(&key);
            }
            Place::Publishing => self.publishing -= 1,
            Place::Published(at) => {
                self.published.remove(&(at, key));
            }
        }
    }
}
