//! The machine of the simulated shards: it keeps which value each entry brought, and tells the
//! record of the run what it applies.

use std::collections::BTreeMap;

use storage::state::{Changes, Row};
use tidewire_cluster::{Damaged, Machine};

use super::record::Record;

/// Whose machine it is.
#[derive(Clone)]
pub(crate) struct Owner {
    pub(crate) record: Record,
    pub(crate) node: u32,
    pub(crate) group: u32,
}

/// Values by the index of their entry.
pub(crate) struct Ledger {
    owner: Owner,
    pub(crate) values: BTreeMap<u64, u64>,
    changed_from: u64,
}

/// An entry: its value, and bytes that fill the log.
pub(crate) fn entry(value: u64, filling: usize) -> Vec<u8> {
    let mut entry = value.to_le_bytes().to_vec();
    entry.resize(8 + filling, 0x5a);
    entry
}

fn value(bytes: &[u8]) -> Result<u64, Damaged> {
    let first = bytes.first_chunk().copied().map(u64::from_le_bytes);
    first.ok_or_else(|| Damaged {
        what: "a value".to_owned(),
        why: format!("it has {} bytes", bytes.len()),
    })
}

impl Machine for Ledger {
    type Config = Owner;
    /// The entry's index.
    type Answer = u64;
    const VERSION: u32 = 1;

    fn restore(
        owner: &Owner,
        rows: &mut dyn Iterator<Item = Result<Row, storage::state::Error>>,
    ) -> Result<Self, Damaged> {
        let mut values = BTreeMap::new();
        for row in rows {
            let row = row.expect("a disk that answers");
            let index = row.key.first_chunk().copied().map(u64::from_be_bytes);
            values.insert(index.expect("eight bytes"), value(&row.value)?);
        }
        owner.record.restored(owner, &values);
        let changed_from = values.last_key_value().map_or(0, |(last, _)| last + 1);
        Ok(Self {
            owner: owner.clone(),
            values,
            changed_from,
        })
    }

    fn apply(&mut self, index: u64, entry: &[u8]) -> Result<u64, Damaged> {
        let value = value(entry)?;
        self.owner.record.applied(&self.owner, index, value);
        self.values.insert(index, value);
        Ok(index)
    }

    fn changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        for (index, value) in self.values.range(self.changed_from..) {
            changes.put(1, &index.to_be_bytes(), &value.to_le_bytes());
        }
        self.changed_from = self.values.last_key_value().map_or(0, |(last, _)| last + 1);
        changes
    }

    fn handle_flushed(&mut self) {}
}
