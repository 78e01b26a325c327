//! Exactly once: open inbound exchanges of a session, and the sources a target knows.

use std::collections::{BTreeMap, BTreeSet};

use mqtt::{ClientId, PacketId};

use super::changed::Changed;
use super::{Limits, OriginRow, RowKey, rows as stored};
use crate::{Epoch, Origin, OriginKind, WallMs};

/// What the numbers of a recovered shard have in common is above these bits.
const COUNT: u64 = (1 << 48) - 1;

/// Inbound QoS 2 exchanges of a session that wait for PUBREL.
#[derive(Debug, Default)]
pub(super) struct Q2Open {
    open: BTreeMap<PacketId, u64>,
    next: u64,
}

impl Q2Open {
    /// Open exchanges.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// The number of an exchange, new or known, and the lowest open one; `None` when too many
    /// numbers are open.
    pub(super) fn begin(&mut self, packet_id: PacketId, limits: &Limits) -> Option<(u64, u64)> {
        if let Some(&n) = self.open.get(&packet_id) {
            return Some((n, self.floor()));
        }
        // A recovery has left out numbers between an open exchange and the next.
        if (self.next - self.floor()) & COUNT >= limits.q2_open {
            return None;
        }
        let n = self.next;
        self.next += 1;
        self.open.insert(packet_id, n);
        Some((n, self.floor()))
    }

    /// Numbers exchanges that begin from now on above `floor`: those of a lost entry had lower ones, and
    /// targets may know them.
    pub(super) fn count_above(&mut self, floor: u64) {
        self.next = floor + (self.next & COUNT);
    }

    /// Ends an exchange; says whether it was open.
    pub(super) fn end(&mut self, packet_id: PacketId) -> bool {
        self.open.remove(&packet_id).is_some()
    }

    /// The open exchanges with their numbers, and the next number.
    pub(super) fn row(&self) -> (Vec<(PacketId, u64)>, u64) {
        let open = self.open.iter().map(|(id, n)| (*id, *n));
        (open.collect(), self.next)
    }

    /// Takes back what [`Q2Open::row`] gave.
    pub(super) fn restore(&mut self, open: Vec<(PacketId, u64)>, next: u64) {
        self.open = open.into_iter().collect();
        self.next = next;
    }

    /// The number of an open exchange and the lowest open one.
    pub(super) fn number(&self, packet_id: PacketId) -> Option<(u64, u64)> {
        let n = self.open.get(&packet_id).copied()?;
        Some((n, self.floor()))
    }

    fn floor(&self) -> u64 {
        self.open.values().copied().min().unwrap_or(self.next)
    }
}

/// What a target remembers of the sources of QoS 2 messages and wills, to drop repeats: a shard
/// in its state, a node in memory for its clean sessions.
#[derive(Debug, Default)]
pub struct Origins {
    rows_max: usize,
    keep_s: u64,
    rows: BTreeMap<(ClientId, OriginKind), Row>,
    by_age: BTreeSet<(WallMs, ClientId, OriginKind)>,
    /// Where rows are stored: those that changed since they were taken last.
    changed: Option<Changed<(ClientId, OriginKind)>>,
}

#[derive(Debug)]
struct Row {
    incarnation: Epoch,
    floor: u64,
    seen: BTreeSet<u64>,
    used: WallMs,
}

impl Origins {
    /// Remembers up to `rows_max` sources, each for `keep_s` seconds after its last message.
    pub fn new(rows_max: usize, keep_s: u64) -> Self {
        Self {
            rows_max,
            keep_s,
            ..Self::default()
        }
    }

    /// As [`Origins::new`], where [`Origins::take_changes`] is called now and then.
    pub(super) fn stored(rows_max: usize, keep_s: u64) -> Self {
        Self {
            changed: Some(Changed::default()),
            ..Self::new(rows_max, keep_s)
        }
    }

    /// Takes the rows that changed since the last call.
    pub(super) fn take_changes(&mut self) -> Vec<(RowKey, Option<stored::Row>)> {
        let Some(changed) = &mut self.changed else {
            return Vec::new();
        };
        let rows = &self.rows;
        let changes = changed.take(|key| {
            let row = rows.get(key)?;
            let origin = OriginRow {
                incarnation: row.incarnation,
                floor: row.floor,
                seen: row.seen.clone(),
                used: row.used,
            };
            Some(stored::Row::Origin(key.0.clone(), key.1, origin))
        });
        let keyed = |((client, kind), row)| (RowKey::Origin(client, kind), row);
        changes.into_iter().map(keyed).collect()
    }

    /// Takes a stored row back; says whether it is the first of its source.
    pub(super) fn restore(&mut self, client: ClientId, kind: OriginKind, row: OriginRow) -> bool {
        self.by_age.insert((row.used, client.clone(), kind));
        let row = Row {
            incarnation: row.incarnation,
            floor: row.floor,
            seen: row.seen,
            used: row.used,
        };
        self.rows.insert((client, kind), row).is_none()
    }

    /// Whether a message of this origin is new here; remembers it.
    pub fn admit(&mut self, origin: &Origin, time: WallMs) -> bool {
        self.forget(time);
        let key = (origin.client.clone(), origin.kind);
        let existed = self.rows.contains_key(&key);
        let row = self.rows.entry(key).or_insert_with(|| Row {
            incarnation: origin.incarnation,
            floor: 0,
            seen: BTreeSet::new(),
            used: time,
        });
        if origin.incarnation < row.incarnation {
            return false;
        }
        if origin.incarnation > row.incarnation {
            row.incarnation = origin.incarnation;
            row.floor = 0;
            row.seen.clear();
        }
        let age = (row.used, origin.client.clone(), origin.kind);
        self.by_age.remove(&age);
        self.by_age
            .insert((time, origin.client.clone(), origin.kind));
        row.used = time;
        if let Some(changed) = &mut self.changed {
            changed.mark((origin.client.clone(), origin.kind), existed);
        }
        if origin.floor > row.floor {
            row.floor = origin.floor;
            row.seen = row.seen.split_off(&origin.floor);
        }
        origin.n >= row.floor && row.seen.insert(origin.n)
    }

    fn forget(&mut self, time: WallMs) {
        while let Some((used, ..)) = self.by_age.first() {
            let old = used.plus_s(self.keep_s) <= time;
            if !old && self.rows.len() < self.rows_max {
                return;
            }
            let (_, client, kind) = self.by_age.pop_first().expect("looked at just before");
            let key = (client, kind);
            self.rows.remove(&key);
            if let Some(changed) = &mut self.changed {
                changed.mark(key, true);
            }
        }
    }
}
