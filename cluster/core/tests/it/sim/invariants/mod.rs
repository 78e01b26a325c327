//! What must hold at the end of every run, one file each.
//!
//! What is seen while a run goes on (a session that is gone, an ended connection that unseats a
//! newer one, an item of an ended epoch) is noted where it happens.

mod exactly_once;
mod groups;
mod lost;
mod order;
mod retained;
mod routes;
mod wills;

use std::collections::BTreeSet;

use mqtt::{Filter, Templates, Trie};
use session::{Durable, WallMs};
use tidewire_cluster_core::Source;

use super::client::{Client, Label, Spec};

/// What a run leaves behind.
pub(crate) struct Seen<'a> {
    pub(crate) clients: &'a [Client],
    /// Violations that were noted while it went on.
    pub(crate) noted: &'a [String],
    /// Messages that were sent again although their connection had ended.
    pub(crate) sent_again: &'a BTreeSet<Label>,
    /// Of each node, what publishes are matched with.
    pub(crate) tries: Vec<&'a Trie<Source, ()>>,
    /// The shards, as their leaders know them.
    pub(crate) shards: Vec<&'a Durable>,
    /// Whom a client's subscription is routed to.
    pub(crate) source_of: &'a dyn Fn(&Spec, &Filter) -> Source,
    pub(crate) templates: &'a Templates,
    pub(crate) now: WallMs,
}

/// Everything that does not hold.
pub(crate) fn all(seen: &Seen<'_>) -> Vec<String> {
    let mut violations = seen.noted.to_vec();
    for client in seen.clients {
        violations.extend(client.faults.iter().cloned());
    }
    violations.extend(lost::check(seen));
    violations.extend(groups::check(seen));
    violations.extend(exactly_once::check(seen));
    violations.extend(order::check(seen));
    violations.extend(wills::check(seen));
    violations.extend(retained::check(seen));
    violations.extend(routes::check(seen));
    violations
}
