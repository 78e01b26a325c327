//! The machine of the meta group.

use cluster_core::{Meta, MetaAnswer};
use storage::state::{Changes, Row};

use crate::stored::MetaEntry;
use crate::stored::meta_rows::STATE_KIND;
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
        let mut machine = Self::default();
        for row in rows {
            let row = readable(NAME, row)?;
            let state = match row.kind {
                STATE_KIND => decode_value(&row.value),
                tag => Err(Why::Tag {
                    what: "kind of row",
                    tag,
                }),
            };
            machine.meta = Meta::restore(state.map_err(|why| damaged(NAME, &row, &why))?);
        }
        Ok(machine)
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
        }
        changes
    }

    fn handle_flushed(&mut self) {}
}
