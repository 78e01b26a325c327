//! Publishes are matched with the subscriptions that clients have, and with no others.

use std::collections::BTreeSet;

use mqtt::Filter;

use super::super::owned::is_owned;
use super::Seen;

pub(super) fn check(seen: &Seen<'_>) -> Vec<String> {
    let mut wanted = BTreeSet::new();
    for client in seen.clients.iter().filter(|c| c.subscribed.is_some()) {
        for filter in client.spec.filters {
            let filter: Filter = (*filter).try_into().expect("a filter");
            if is_owned(seen.templates, &client.spec, &filter) {
                continue;
            }
            let source = (seen.source_of)(&client.spec, &filter);
            let plain: Filter = filter.topic_filter().try_into().expect("a filter");
            wanted.insert((plain, source));
        }
    }
    let mut violations = Vec::new();
    for trie in &seen.tries {
        for (filter, source) in &wanted {
            if trie.get(filter, source).is_none() {
                violations.push(format!("the route of {filter} to {source:?} is missing"));
            }
        }
        if trie.len() > wanted.len() {
            let (routes, filters) = (trie.len(), wanted.len());
            violations.push(format!("{routes} routes for {filters} filters"));
        }
    }
    violations
}
