//! The machine of the meta group.

use std::collections::{BTreeMap, BTreeSet};

use cluster_core::{
    BucketId, Layout, Meta, MetaAnswer, MetaState, NodeId, Offer, Recovered, ShardId,
};
use mqtt::Templates;
use storage::state::{Changes, Row};

use crate::stored::MetaEntry;
use crate::stored::meta_rows::{
    HOLDING_KIND, LAYOUT_KIND, MOVING_KIND, OFFERS_KIND, PINS_KIND, RECOVERED_KIND, STATE_KIND,
    TEMPLATES_KIND,
};
use crate::stored::row::{damaged, decode_value, encode_value, readable};
use crate::stored::wire::Why;
use crate::{Damaged, Machine};

const NAME: &str = "meta";

/// The replicated state of the meta group. Its effects wait in [`Meta::poll_effect`]: the host is
/// to drain them after each entry; a restored machine has none.
#[derive(Debug, Default)]
pub struct MetaMachine {
    meta: Meta,
    is_changed: bool,
    /// Whether the layout was ever another than a lone node's: from then on it has a row.
    has_layout: bool,
    /// Whether a bucket with rows was ever being moved: from then on there is a row for that.
    has_moved: bool,
    /// Whether there ever was a pin, an offer, and a recovery: likewise.
    has_pins: bool,
    has_offers: bool,
    has_recovered: bool,
}

impl MetaMachine {
    /// The state.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The state, to drain its effects. Entries alone may change what is replicated.
    pub fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }
}

impl Machine for MetaMachine {
    type Config = ();
    type Answer = MetaAnswer;
    const VERSION: u32 = 1;

    fn restore(
        (): &(),
        rows: &mut dyn Iterator<Item = Result<Row, storage::state::Error>>,
    ) -> Result<Self, Damaged> {
        let mut state: Option<MetaState> = None;
        let mut layout = None;
        let mut holding = None;
        let mut templates = None;
        let mut moving = None;
        let mut pins = None;
        let mut offers = None;
        let mut recovered = None;
        for row in rows {
            let row = readable(NAME, row)?;
            let read = match row.kind {
                STATE_KIND => decode_value(&row.value).map(|value| state = Some(value)),
                LAYOUT_KIND => decode_value(&row.value)
                    .and_then(|value| checked(value, state.as_ref()))
                    .map(|value| layout = Some(value)),
                HOLDING_KIND => decode_value(&row.value)
                    .and_then(|value| of_table(value, state.as_ref()))
                    .map(|value| holding = Some(value)),
                TEMPLATES_KIND => decode_value(&row.value)
                    .and_then(|value| of_cluster(value, state.as_ref()))
                    .map(|value| templates = Some(value)),
                MOVING_KIND => decode_value(&row.value)
                    .and_then(|value| of_rows(value, state.as_ref(), holding.as_ref()))
                    .map(|value| moving = Some(value)),
                PINS_KIND => decode_value(&row.value)
                    .and_then(|value| of_shards(value, state.as_ref()))
                    .map(|value| pins = Some(value)),
                OFFERS_KIND => decode_value(&row.value)
                    .and_then(|value| of_members(value, state.as_ref()))
                    .map(|value| offers = Some(value)),
                RECOVERED_KIND => decode_value(&row.value)
                    .and_then(|value| of_recovered(value, state.as_ref()))
                    .map(|value| recovered = Some(value)),
                tag => Err(Why::Tag {
                    what: "kind of row",
                    tag,
                }),
            };
            read.map_err(|why| damaged(NAME, &row, &why))?;
        }
        let (has_layout, has_moved) = (layout.is_some(), moving.is_some());
        let moving = moving.unwrap_or_default();
        let templates = templates.unwrap_or_default();
        let (has_pins, has_offers) = (pins.is_some(), offers.is_some());
        let has_recovered = recovered.is_some();
        let recovered = recovered.unwrap_or_default();
        let (pins, offers) = (pins.unwrap_or_default(), offers.unwrap_or_default());
        let meta = state.map(|state| {
            let meta = Meta::restore(state, layout, holding, moving, templates);
            meta.steered(pins, offers).having_recovered(recovered)
        });
        Ok(Self {
            meta: meta.unwrap_or_default(),
            is_changed: false,
            has_layout,
            has_moved,
            has_pins,
            has_offers,
            has_recovered,
        })
    }

    fn apply(&mut self, index: u64, entry: &[u8]) -> Result<MetaAnswer, Damaged> {
        let entry = MetaEntry::decode(entry)?;
        self.is_changed = true;
        let answer = self.meta.apply(index, entry.time, &entry.command);
        // By entries alone: one that is undone before the next flush counts too.
        self.has_layout |= !self.meta.is_layout_plain();
        self.has_moved |= !self.meta.moving().is_empty();
        self.has_pins |= !self.meta.pins().is_empty();
        self.has_offers |= !self.meta.offers().is_empty();
        self.has_recovered |= !self.meta.recovered().is_empty();
        Ok(answer)
    }

    fn changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        if std::mem::take(&mut self.is_changed) {
            changes.put(STATE_KIND, &[], &encode_value(&self.meta.state()));
            changes.put(HOLDING_KIND, &[], &encode_value(self.meta.holding()));
            if !self.meta.templates().is_empty() {
                changes.put(TEMPLATES_KIND, &[], &encode_value(self.meta.templates()));
            }
            if self.has_layout {
                changes.put(LAYOUT_KIND, &[], &encode_value(self.meta.layout()));
            }
            if self.has_moved {
                changes.put(MOVING_KIND, &[], &encode_value(self.meta.moving()));
            }
            if self.has_pins {
                changes.put(PINS_KIND, &[], &encode_value(self.meta.pins()));
            }
            if self.has_offers {
                changes.put(OFFERS_KIND, &[], &encode_value(self.meta.offers()));
            }
            if self.has_recovered {
                changes.put(RECOVERED_KIND, &[], &encode_value(self.meta.recovered()));
            }
        }
        changes
    }

    fn handle_flushed(&mut self) {}
}

/// A layout that fits the state that was read before it.
fn checked(layout: Layout, state: Option<&MetaState>) -> Result<Layout, Why> {
    let fault = match state {
        Some(state) => layout.fault(state),
        None => Some("the layout stands without the state"),
    };
    fault.map_or(Ok(layout), |fault| Err(Why::State(fault.to_owned())))
}

/// Buckets that stand in the table of the state that was read before them.
fn of_table(
    holding: BTreeSet<BucketId>,
    state: Option<&MetaState>,
) -> Result<BTreeSet<BucketId>, Why> {
    let stands = |bucket| state.is_some_and(|state| state.buckets.contains_key(bucket));
    match holding.iter().find(|bucket| !stands(bucket)) {
        None => Ok(holding),
        Some(bucket) => Err(Why::State(format!(
            "bucket {bucket} holds rows and is none"
        ))),
    }
}

/// Templates of a cluster that is founded, as the state says that was read before them.
fn of_cluster(templates: Templates, state: Option<&MetaState>) -> Result<Templates, Why> {
    match state {
        Some(state) if state.founded.is_some() && !templates.is_empty() => Ok(templates),
        _ => Err(Why::State(
            "device templates stand without a cluster, or are none".to_owned(),
        )),
    }
}

/// Moves of buckets that hold rows, as the state and the row of those say that were read before.
fn of_rows(
    moving: BTreeMap<BucketId, NodeId>,
    state: Option<&MetaState>,
    holding: Option<&BTreeSet<BucketId>>,
) -> Result<BTreeMap<BucketId, NodeId>, Why> {
    let fault = match (state, holding) {
        (Some(_), Some(holding)) if !moving.keys().all(|bucket| holding.contains(bucket)) => {
            Some("a bucket without rows is moved")
        }
        (Some(state), Some(_)) => state.fault_of_moves(&moving),
        _ => Some("moves of buckets stand without the buckets"),
    };
    fault.map_or(Ok(moving), |fault| Err(Why::State(fault.to_owned())))
}

/// Pins of shards, at members of the state that was read before them.
fn of_shards(
    pins: BTreeMap<ShardId, BTreeSet<NodeId>>,
    state: Option<&MetaState>,
) -> Result<BTreeMap<ShardId, BTreeSet<NodeId>>, Why> {
    let fault = match state {
        Some(state) => state.fault_of_pins(&pins),
        None => Some("pins stand without the shards"),
    };
    fault.map_or(Ok(pins), |fault| Err(Why::State(fault.to_owned())))
}

/// Offers of members of the state that was read before them.
fn of_members(
    offers: BTreeMap<NodeId, Offer>,
    state: Option<&MetaState>,
) -> Result<BTreeMap<NodeId, Offer>, Why> {
    let fault = match state {
        Some(state) => state.fault_of_offers(&offers),
        None => Some("offers stand without the members"),
    };
    fault.map_or(Ok(offers), |fault| Err(Why::State(fault.to_owned())))
}

/// Recoveries of shards of the state that was read before them.
fn of_recovered(
    recovered: BTreeMap<ShardId, Recovered>,
    state: Option<&MetaState>,
) -> Result<BTreeMap<ShardId, Recovered>, Why> {
    let fault = match state {
        Some(state) => state.fault_of_recovered(&recovered),
        None => Some("recoveries stand without the shards"),
    };
    fault.map_or(Ok(recovered), |fault| Err(Why::State(fault.to_owned())))
}
