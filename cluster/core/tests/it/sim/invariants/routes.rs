//! Publishes are matched with the subscriptions that clients have, and with no others.

use std::collections::BTreeSet;

use mqtt::Filter;
use tidewire_cluster_core::{ShardId, Source};

use super::super::Sim;

pub(super) fn check(sim: &Sim) -> Vec<String> {
    let Some(node) = &sim.node else {
        return Vec::new();
    };
    let mut wanted = BTreeSet::new();
    for client in sim.clients.iter().filter(|c| c.subscribed.is_some()) {
        for filter in client.spec.filters {
            let filter: Filter = (*filter).try_into().expect("a filter");
            // A group's route is that of the plain filter in its home shard.
            let home = filter.shared().map_or(client.spec.id, |_| filter.as_str());
            let source = Source::Shard(ShardId(node.shard_of(home) as u16));
            let plain: Filter = filter.topic_filter().try_into().expect("a filter");
            wanted.insert((plain, source));
        }
    }
    let mut violations = Vec::new();
    for (filter, source) in &wanted {
        if node.trie.get(filter, source).is_none() {
            violations.push(format!("the route of {filter} to {source:?} is missing"));
        }
    }
    if node.trie.len() > wanted.len() {
        violations.push(format!(
            "{} routes for {} filters",
            node.trie.len(),
            wanted.len()
        ));
    }
    violations
}
