//! Names and schemas that a decoder has seen, so that rows share their memory.

use std::collections::HashSet;

use crate::row::{MetricName, Schema};

/// Names kept; beyond it the set starts anew, which costs only sharing.
const NAMES_MAX: usize = 16_384;

/// Schemas kept; beyond it the set starts anew, which costs only sharing.
const SCHEMAS_MAX: usize = 1_024;

/// The names seen. It decides only what is shared, never what is decoded.
#[derive(Debug, Default)]
pub(super) struct Names {
    names: HashSet<MetricName>,
    schemas: HashSet<Schema>,
}

impl Names {
    /// Gives the name of a checked text (1 to 128 bytes).
    pub(super) fn name(&mut self, text: &str) -> MetricName {
        if let Some(known) = self.names.get(text) {
            return known.clone();
        }
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
        }
        let name = MetricName::parse(text).expect("the caller checked its length");
        self.names.insert(name.clone());
        name
    }

    /// Gives the schema of distinct ascending names.
    pub(super) fn schema(&mut self, names: Vec<MetricName>) -> Schema {
        let schema = Schema::new(names);
        if let Some(known) = self.schemas.get(&schema) {
            return known.clone();
        }
        if self.schemas.len() >= SCHEMAS_MAX {
            self.schemas.clear();
        }
        self.schemas.insert(schema.clone());
        schema
    }
}
