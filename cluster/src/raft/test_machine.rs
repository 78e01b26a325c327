//! A small machine for tests: it keeps every entry in order.

use std::collections::BTreeMap;

use storage::state::{Changes, Row};

use crate::machine::{Damaged, Machine};

/// How the machine is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Journal {
    /// It finds its first row damaged.
    pub(crate) refuses_rows: bool,
}

/// Keeps entries by the order in which they came; an entry `damaged` cannot be read, one that
/// begins with `panic` panics.
#[derive(Debug, Default)]
pub(crate) struct TestMachine {
    pub(crate) entries: BTreeMap<u64, Vec<u8>>,
    changed_from: u64,
    /// How many entries came by `apply` since the start.
    pub(crate) applied: u64,
    /// How many rows it was restored from.
    pub(crate) restored: u64,
    pub(crate) flushes: u64,
    flushing: bool,
}

impl Machine for TestMachine {
    type Config = Journal;
    type Answer = u64;
    const VERSION: u32 = 7;

    fn restore(
        config: &Journal,
        rows: &mut dyn Iterator<Item = Result<Row, storage::state::Error>>,
    ) -> Result<Self, Damaged> {
        let mut machine = Self::default();
        for row in rows {
            let damaged = |why: String| Damaged {
                what: "a row".to_owned(),
                why,
            };
            let row = row.map_err(|error| damaged(error.to_string()))?;
            if config.refuses_rows {
                return Err(damaged("the test says so".to_owned()));
            }
            let key = row.key.first_chunk().copied();
            let key = key.ok_or_else(|| damaged("a short key".to_owned()))?;
            machine
                .entries
                .insert(u64::from_be_bytes(key), row.value.to_vec());
            machine.restored += 1;
        }
        machine.changed_from = machine.next();
        Ok(machine)
    }

    fn apply(&mut self, _index: u64, entry: &[u8]) -> Result<u64, Damaged> {
        if entry == b"damaged" {
            return Err(Damaged {
                what: "an entry".to_owned(),
                why: "the test says so".to_owned(),
            });
        }
        assert!(!entry.starts_with(b"panic"), "the test says so");
        let number = self.next();
        self.entries.insert(number, entry.to_vec());
        self.applied += 1;
        Ok(number)
    }

    fn reached(&self) -> u64 {
        self.entries.len() as u64
    }

    fn handle_recovered(&mut self, incarnation: cluster_core::Incarnation) {
        let number = self.next();
        let entry = format!("recovered {incarnation}");
        self.entries.insert(number, entry.into_bytes());
    }

    fn changes(&mut self) -> Changes {
        assert!(!self.flushing, "one flush at a time");
        self.flushing = true;
        let mut changes = Changes::default();
        for (number, entry) in self.entries.range(self.changed_from..) {
            changes.put(1, &number.to_be_bytes(), entry);
        }
        self.changed_from = self.next();
        changes
    }

    fn handle_flushed(&mut self) {
        assert!(self.flushing, "a flush begins with the changes");
        self.flushing = false;
        self.flushes += 1;
    }
}

impl TestMachine {
    fn next(&self) -> u64 {
        self.entries
            .last_key_value()
            .map_or(0, |(last, _)| last + 1)
    }
}
