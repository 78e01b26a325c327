//! The machine of the meta group.

use cluster_core::{Layout, Meta, MetaAnswer, MetaState};
use storage::state::{Changes, Row};

use crate::stored::MetaEntry;
use crate::stored::meta_rows::{LAYOUT_KIND, STATE_KIND};
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
    /// Whether the layout has a row: from then on it is kept up to date.
    has_layout: bool,
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
        for row in rows {
            let row = readable(NAME, row)?;
            let read = match row.kind {
                STATE_KIND => decode_value(&row.value).map(|value| state = Some(value)),
                LAYOUT_KIND => decode_value(&row.value)
                    .and_then(|value| checked(value, state.as_ref()))
                    .map(|value| layout = Some(value)),
                tag => Err(Why::Tag {
                    what: "kind of row",
                    tag,
                }),
            };
            read.map_err(|why| damaged(NAME, &row, &why))?;
        }
        let has_layout = layout.is_some();
        let meta = state.map(|state| Meta::restore(state, layout));
        Ok(Self {
            meta: meta.unwrap_or_default(),
            is_changed: false,
            has_layout,
        })
    }

    fn apply(&mut self, index: u64, entry: &[u8]) -> Result<MetaAnswer, Damaged> {
        let entry = MetaEntry::decode(entry)?;
        self.is_changed = true;
        Ok(self.meta.apply(index, entry.time, &entry.command))
    }

    fn changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        if std::mem::take(&mut self.is_changed) {
            changes.put(STATE_KIND, &[], &encode_value(&self.meta.state()));
            self.has_layout |= !self.meta.is_layout_plain();
            if self.has_layout {
                changes.put(LAYOUT_KIND, &[], &encode_value(self.meta.layout()));
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
